"""Images with masks, from a Labelme folder or a VOC tree.

images            decoding, fitting, padding, palettes
checks            all errors in a folder, reported together
tiles             large images in tiles
labelme           read, check and write one annotation
labelme_shapes    its shapes -> mask
labelme_polygons  mask -> polygons
labelme_folder    a folder of annotations as a source
voc_folder        a VOC tree as a source

A source has `folder`, `classes`, `names()`, `examine(path)` and `fingerprint(path)`, and can be pickled.
"""
