"""The data set: a VOC2007 tree (voc_tree) built from a source (build), split, checked for leakage, in batches."""
