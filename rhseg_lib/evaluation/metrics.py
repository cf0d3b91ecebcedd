"""Scores from one integer confusion matrix (paper, Eqs. 3 and 4).

Rows of a matrix are the truth, columns the prediction: ``matrix[i, j]`` is the paper's P_ij. A class in neither truth
nor prediction has no score: it is NaN, excluded from both means, and listed as absent. A class that is predicted but
not in the truth scores 0 in both means: Eq. 4 is then 0/0, and excluding the class would hide a false positive.
torchmetrics and scikit-learn also use 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch


@dataclass(frozen=True)
class Scores:
    """Scores of one confusion matrix, as fractions of 1."""

    miou: float  # paper, Eq. 3
    mpa: float  # paper, Eq. 4
    pixel_accuracy: float
    iou: tuple[float, ...]  # per class
    pa: tuple[float, ...]  # per class
    absent: tuple[int, ...]  # classes in neither truth nor prediction


def confusion_matrices(truth: torch.Tensor, prediction: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Count pixels by true and predicted class, per image: integer ids (B, H, W), twice -> (B, K, K) int64.

    Only pixels whose truth and prediction are both one of the K classes are counted; any other value, such as
    ``IGNORE_INDEX``, is skipped (a data set is checked for stray values when it is built).
    """
    # Comparisons, not bincount, which would make the host wait for the GPU at every training step.
    classes = torch.arange(num_classes, device=truth.device)[:, None, None]
    predicted = prediction[:, None] == classes  # (B, K, H, W)
    return torch.stack([(predicted & (truth == i)[:, None]).sum((2, 3)) for i in range(num_classes)], dim=1)


def iou_per_class(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union, (..., K, K) counts -> (..., K); NaN for a class in neither truth nor prediction."""
    matrix = np.asarray(matrix, dtype=np.float64)
    intersection = np.diagonal(matrix, axis1=-2, axis2=-1)
    union = matrix.sum(-1) + matrix.sum(-2) - intersection
    return np.divide(intersection, union, out=np.full_like(union, np.nan), where=union > 0)


def mean_iou(matrix: np.ndarray) -> np.ndarray:
    """Mean IoU (Eq. 3) over the classes that are present, (..., K, K) counts -> (...); NaN if all is ignored."""
    iou = iou_per_class(matrix)
    present = np.count_nonzero(~np.isnan(iou), axis=-1)
    return np.divide(np.nansum(iou, axis=-1), present, out=np.full(present.shape, np.nan), where=present > 0)


def by_image(names: Sequence[str], matrices: np.ndarray, class_names: Sequence[str]) -> pd.DataFrame:
    """Scores of each image in per cent, the worst first: mIoU, and each class's IoU, precision and recall.

    `matrices` is (N, K, K). A score is NaN where it has nothing to count: recall without annotated pixels, precision
    without predicted ones.
    """
    matrices = np.asarray(matrices, dtype=np.float64)
    hits, total = np.diagonal(matrices, axis1=1, axis2=2), {"precision": matrices.sum(1), "recall": matrices.sum(2)}
    of_class = {"IoU": iou_per_class(matrices)}
    for name, pixels in total.items():
        of_class[name] = np.divide(hits, pixels, out=np.full_like(hits, np.nan), where=pixels > 0)
    table = pd.DataFrame({"image": names, "mIoU": 100 * mean_iou(matrices)})
    for index, class_name in enumerate(class_names[1:], start=1):
        for name, values in of_class.items():
            table[f"{class_name} {name}"] = 100 * values[:, index]
    return table.sort_values(["mIoU", "image"], ignore_index=True)


def scores(matrix: np.ndarray) -> Scores:
    """All scores of one (K, K) matrix of pixel counts (paper, Eqs. 3 and 4)."""
    if matrix.sum() == 0:
        raise ValueError("an empty confusion matrix has no scores: every pixel was ignored")
    iou = iou_per_class(matrix)
    true_pixels = matrix.sum(1).astype(np.float64)
    correct = np.diagonal(matrix).astype(np.float64)
    pa = np.divide(correct, true_pixels, out=np.where(np.isnan(iou), np.nan, 0.0), where=true_pixels > 0)
    return Scores(
        miou=float(np.nanmean(iou)),
        mpa=float(np.nanmean(pa)),
        pixel_accuracy=float(correct.sum() / matrix.sum()),
        iou=tuple(iou.tolist()),
        pa=tuple(pa.tolist()),
        absent=tuple(np.flatnonzero(np.isnan(iou)).tolist()),
    )
