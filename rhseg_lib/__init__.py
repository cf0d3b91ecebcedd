"""A reproducible study of slag-layer segmentation in RH vacuum degassing.

In the order the data flows; each imports only from those above it:

errors        the one error that a user sees
files         atomic writes; resumable folder builds
catalogue     the nine models, once
settings      checked kinds of values; how thickness is measured
profile       what to run: data, recipe, models, seeds; every path derives from it
sources       images with masks from Labelme folders and VOC trees, checked
scenes        synthetic RH scenes with exact truth
thickness     slag thickness of every tube in a mask, in millimetres, with an interval
models        the networks; what they cost
dataset       VOC2007 tree: split, augmentation, leakage check, batches
evaluation    scores, statistics, weights, runs, comparisons
training      one model, one seed; exact resume; speed
report        the paper's tables and claims, figures, tables, findings, HTML pages
predict       new images and videos, with a gallery
evaluate      scores of trained weights on newly annotated images
calibrate     intervals of slag thickness, from images whose thickness is known
export        trained weights as ONNX, in float32 or int8
realtime      speed and accuracy of weights in each runtime
"""
