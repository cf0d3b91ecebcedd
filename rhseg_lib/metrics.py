"""Scores from one integer confusion matrix; bootstrap intervals over images; paired tests between models.

Rows of a matrix are the truth, columns the prediction: ``matrix[i, j]`` is the paper's P_ij. A class that neither
the truth nor the prediction contains has no score: it is NaN, left out of the mean, and listed as absent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rhseg_lib import IGNORE_INDEX


@dataclass(frozen=True)
class Scores:
    """Scores of one confusion matrix, as fractions of 1."""

    miou: float  # paper, Eq. 3
    mpa: float  # paper, Eq. 4
    pixel_accuracy: float
    iou: tuple[float, ...]  # per class
    pa: tuple[float, ...]  # per class
    absent: tuple[int, ...]  # classes in neither truth nor prediction


@dataclass(frozen=True)
class Comparison:
    """How much one model's mIoU exceeds another's on the same images."""

    difference: float
    low: float
    high: float
    p_value: float  # two-sided, from swapping the two models image by image


def confusion_matrices(truth: torch.Tensor, prediction: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Count pixels by true and predicted class, image by image, on the tensors' own device.

    Parameters
    ----------
    truth, prediction : Tensor, (B, H, W), integer
        Class ids; pixels whose truth is ``IGNORE_INDEX`` are not counted.
    num_classes : int

    Returns
    -------
    Tensor, (B, num_classes, num_classes), int64
    """
    if truth.is_cuda:  # bincount would make the host wait for the GPU
        classes = torch.arange(num_classes, device=truth.device)[:, None, None]
        found = prediction[:, None] == classes  # (B, K, H, W)
        return torch.stack([(found & (truth == i)[:, None]).sum((2, 3)) for i in range(num_classes)], dim=1)
    cells = num_classes * num_classes
    image = torch.arange(len(truth), device=truth.device)[:, None, None]  # (B, 1, 1)
    cell = image * cells + truth.long() * num_classes + prediction.long()  # (B, H, W)
    cell = torch.where(truth == IGNORE_INDEX, len(truth) * cells, cell)  # one extra bin, dropped below
    counts = torch.bincount(cell.flatten(), minlength=len(truth) * cells + 1)[:-1]
    return counts.view(len(truth), num_classes, num_classes)


def iou_per_class(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union, (..., K, K) counts -> (..., K); NaN for a class in neither truth nor prediction."""
    matrix = np.asarray(matrix, dtype=np.float64)
    intersection = np.diagonal(matrix, axis1=-2, axis2=-1)
    union = matrix.sum(-1) + matrix.sum(-2) - intersection
    return np.divide(intersection, union, out=np.full_like(union, np.nan), where=union > 0)


def mean_iou(matrix: np.ndarray) -> np.ndarray:
    """Eq. 3 over the classes that are present: (..., K, K) counts -> (...)."""
    return np.nanmean(iou_per_class(matrix), axis=-1)


def scores(matrix: np.ndarray) -> Scores:
    """All scores of one (K, K) matrix of pixel counts (paper, Eqs. 3 and 4)."""
    matrix = np.asarray(matrix)
    if matrix.sum() == 0:
        raise ValueError("an empty confusion matrix has no scores: every pixel was ignored")
    iou = iou_per_class(matrix)
    true_pixels = matrix.sum(1).astype(np.float64)
    correct = np.diagonal(matrix).astype(np.float64)
    pa = np.divide(correct, true_pixels, out=np.full(len(matrix), np.nan), where=true_pixels > 0)
    return Scores(
        miou=float(np.nanmean(iou)),
        mpa=float(np.nanmean(pa)),
        pixel_accuracy=float(correct.sum() / matrix.sum()),
        iou=tuple(iou.tolist()),
        pa=tuple(pa.tolist()),
        absent=tuple(np.flatnonzero(np.isnan(iou)).tolist()),
    )


def resampled_miou(matrices: np.ndarray, *, samples: int, seed: int = 0) -> np.ndarray:
    """Mean IoU of test sets drawn with replacement from the images of one.

    Parameters
    ----------
    matrices : (R, N, K, K) integer array
        One matrix for each of R runs (seeds) and N images. A draw takes the same images for every run, and its
        figure is the mean over the runs.
    samples : int
        Draws. The same ``seed`` and N give the same draws, so that two models' samples are paired.

    Returns
    -------
    (samples,) float64
    """
    runs, images, classes, _ = matrices.shape
    draws = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=samples)
    flat = matrices.reshape(runs, images, classes * classes).astype(np.float64)
    summed = draws.astype(np.float64) @ flat  # (R, samples, K * K); exact: counts stay far below 2**53
    return mean_iou(summed.reshape(runs, samples, classes, classes)).mean(0)


def bootstrap_interval(
    matrices: np.ndarray, *, samples: int, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean IoU over images, from (R, N, K, K) matrices."""
    tails = (100 * (1 - level) / 2, 100 * (1 + level) / 2)
    low, high = np.percentile(resampled_miou(matrices, samples=samples, seed=seed), tails)
    return float(low), float(high)


def compare(
    first: np.ndarray, second: np.ndarray, *, samples: int, permutations: int = 10_000, seed: int = 0
) -> Comparison:
    """Paired comparison of two models' mean IoU on the same images, mean over the same seeds.

    The interval is a paired bootstrap over images. The p-value is a randomisation test: were the models equal,
    swapping them on any image, in every run at once, would change nothing, so the observed difference is set against
    those of random swaps. Both condition on the trained weights: they say what the test images can tell, not what
    other training seeds would give.

    Parameters
    ----------
    first, second : (R, N, K, K) integer arrays, the same runs (seeds) and images in the same order
    samples, permutations : int
        Draws of the bootstrap and swaps of the test.
    """
    if first.shape != second.shape:
        raise ValueError(f"paired models need the same runs and images: {first.shape[:2]} and {second.shape[:2]}")
    drawn = resampled_miou(first, samples=samples, seed=seed) - resampled_miou(second, samples=samples, seed=seed)
    low, high = np.percentile(drawn, (2.5, 97.5))

    a, b = first.sum(1).astype(np.float64), second.sum(1).astype(np.float64)  # (R, K, K)
    swap = np.random.default_rng([seed, 1]).integers(0, 2, size=(permutations, first.shape[1])).astype(np.float64)
    moved = np.tensordot(swap, (second - first).astype(np.float64), axes=(1, 1))  # (permutations, R, K, K)
    difference = float((mean_iou(a) - mean_iou(b)).mean())
    swapped = (mean_iou(a + moved) - mean_iou(b - moved)).mean(1)  # (permutations,)
    # The observed labelling is one of the equally likely ones, hence the +1; the margin absorbs rounding of sums.
    p_value = (1 + np.count_nonzero(np.abs(swapped) >= abs(difference) - 1e-12)) / (permutations + 1)
    return Comparison(difference, float(low), float(high), float(p_value))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment of a family of p-values, in their order."""
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values)
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted
