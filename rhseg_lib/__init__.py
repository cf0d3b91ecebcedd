"""A reproducible study of slag-layer segmentation in RH vacuum degassing.

The modules, in the order the data flows:

profile       what to run: data, recipe, models, seeds; every path derives from it
scenes        procedural RH scenes: image, annotators' polygons, exact mask, millimetres
faults        what is wrong with a source's files: one table, each fault with its mend
labelme       Labelme JSON: read, check, write, rasterise
voc_source    a ready VOC tree: read, check
split         which originals are augmented; which images train, test or are held out
voc           VOC2007 tree: build, verify, read
leakage       pairs across the split that show the same
datamodule    VOC tree -> uint8 tensors in memory -> batches
models        the eight networks
weights       a trained network in one file, with the card that says what it is for
training      fit one model with one seed; exact resume
evaluation    per-image confusion matrices and the files of a run
metrics       IoU, mIoU, PA, mPA
statistics    intervals and tests that count both images and seeds
compare       what the runs say of each model and of each pair of models
baselines     classifiers of single pixels; agreement of two annotators
complexity    parameters, MiB, MACs, latency
speed         training and prediction, switch by switch, against the plain loop
published     what the paper states, as data; the claim ledger
tables        every table, and what it says in words
plots         every figure
predict       new pictures and videos segmented; the gallery
explore       the controls of the notebook of that name
runner        strict papermill call, HTML pages
unfinished    a folder in the making outlives a kill
files         a file is written whole or not at all
"""

import os
from functools import partial

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for its newest version on import

IGNORE_INDEX = 255  # mask value that no loss and no metric counts


class StudyError(Exception):
    """A fault the user can mend: what is wrong, where, and what to do about it.

    Parameters
    ----------
    what : str
        The fault in one sentence.
    where : object
        File, cell, parameter or place.
    mend : str
        What the user can do.
    """

    def __init__(self, what: str, *, where: object, mend: str) -> None:
        super().__init__(what, where, mend)
        self.what, self.where, self.mend = what, where, mend

    def __reduce__(self) -> tuple:  # so that it survives the way back from a worker process
        return partial(StudyError, where=self.where, mend=self.mend), (self.what,)

    def __str__(self) -> str:
        return f"{self.what}\n  where: {self.where}\n  mend:  {self.mend}"
