"""Intervals and tests that account for images and seeds: one method for every verdict of the study.

A mean IoU changes with the images, and with the seed of the training run. A statement about a *model* accounts for
both. The images' share of the variance is estimated from the influence of each unit (an image, or the images of one
group) on the summed confusion matrix. The seeds' share is the variance between runs minus the interaction of seed and
image (a seed that happens to suit some images), which is already part of the images' share. A t distribution with
Satterthwaite's degrees of freedom gives interval and p. The seeds of two models are independent; their images are the
same, so shared difficulty cancels in the difference. If the seeds differ little or the units are few, the test is
conservative.

With one seed the seeds' share is unknown: intervals and tests then hold for these weights, not for the model.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from rhseg_lib.evaluation.metrics import mean_iou

FEWEST_UNITS = 6  # if fewer show the rarest class, no interval is given
FEW_UNITS = 20  # with fewer, the report warns
LEVEL = 0.05
POWER = 0.8
ROUNDING = 1e-12  # largest difference between sums of equal numbers


@dataclass(frozen=True)
class Estimate:
    """A mean IoU, or a difference between two, as a fraction of 1, with its variances."""

    value: float
    image_variance: float  # of `value`, over samples of images
    units: int  # independent images or groups that show the rarest class; 0 if a predicted class is never in the truth
    seed_variances: tuple[float, ...] = ()  # between runs, for each model; empty: these weights only
    interaction: tuple[float, ...] = ()  # of seed and image, in each; `image_variance` already contains it
    seeds: tuple[int, ...] = ()  # runs of each model

    @property
    def has_interval(self) -> bool:
        """Whether there are enough seeds and units for an interval."""
        return self.units >= FEWEST_UNITS and all(count > 1 for count in self.seeds)

    def error_and_df(self, seeds: int | None = None) -> tuple[float, float]:
        """Standard error and Satterthwaite's degrees of freedom; given `seeds`, for that many runs of each model."""
        if not self.has_interval:
            return math.nan, math.nan
        between, shared, counts = (np.array(each) for each in (self.seed_variances, self.interaction, self.seeds))
        images = self.image_variance
        if seeds is None:
            total = images + max(((between - shared) / counts).sum(), 0)
        else:
            images = max(images - (shared / counts).sum(), 0)  # the interaction shrinks with more seeds
            between, counts = np.maximum(between, shared), np.full(len(counts), seeds)
            total = images + (between / counts).sum()
        scaled = images**2 / (self.units - 1) + ((between / counts) ** 2 / (counts - 1)).sum()
        least = min(self.units, *counts) - 1 if len(counts) else self.units - 1
        return math.sqrt(total), max(float(total**2 / scaled), least) if scaled > 0 else math.inf

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the 95 % interval; NaN unless `has_interval`."""
        error, df = self.error_and_df()
        half = stats.t.ppf(1 - LEVEL / 2, df) * error
        return float(self.value - half), float(self.value + half)

    @property
    def p_value(self) -> float:
        """Two-sided p for a true value of zero; NaN unless `has_interval`."""
        error, df = self.error_and_df()
        if error < ROUNDING:
            return float(abs(self.value) < ROUNDING)
        return float(2 * stats.t.sf(abs(self.value) / error, df))

    def detectable(self, *, tests: int = 1, seeds: int | None = None) -> float:
        """Smallest true difference detected with 80 % power at significance level 0.05 / `tests`, Holm's strictest.

        A rough estimate, as it depends on the spread of a few seeds.
        """
        error, df = self.error_and_df(seeds)
        if math.isnan(error) or error < ROUNDING:
            return error
        critical = stats.t.ppf(1 - LEVEL / tests / 2, df)
        return float(error * optimize.brentq(lambda size: stats.nct.sf(critical, df, size) - POWER, 0, 10 * critical))

    def seeds_needed(self, *, tests: int = 1, most: int = 50) -> int | None:
        """Seeds of each model needed to detect a true difference of this size; None: more than `most`."""
        counts = range(2, most + 1)
        enough = bisect_left(counts, True, key=lambda n: self.detectable(tests=tests, seeds=n) <= abs(self.value))
        return counts[enough] if enough < len(counts) else None


def mean_of(matrices: np.ndarray, *, these_weights: bool = False) -> Estimate:
    """Mean IoU of a model, from the confusion matrices (R, M, K, K) of R runs (seeds) on the same M units.

    `these_weights` estimates for the trained weights only, without the variance between seeds.
    """
    return _estimate([matrices], [1], these_weights=these_weights)


def difference(first: np.ndarray, second: np.ndarray, *, these_weights: bool = False) -> Estimate:
    """Difference between the mean IoUs of two models, first minus second: matrices (R, M, K, K) and (S, M, K, K).

    The M units are the same, in the same order; the seeds may differ.
    """
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(f"the models were scored on different units: {first.shape[1:]} and {second.shape[1:]}")
    return _estimate([first, second], [1, -1], these_weights=these_weights)


def holdout_gap(test: np.ndarray, holdout: np.ndarray, *, these_weights: bool = False) -> Estimate:
    """Difference between the mean IoUs of one model on two independent sets of units: (R, M, K, K) and (R, N, K, K).

    The R runs are the same, in the same order.
    """
    if len(test) != len(holdout):
        raise ValueError(f"{len(test)} runs on one set of units and {len(holdout)} on the other")
    each = mean_iou(test.sum(1)) - mean_iou(holdout.sum(1))  # (R,)
    influences = [influence(subset) for subset in (test, holdout)]
    images = sum(_variance(of_set.mean(0)) for of_set in influences)
    # Else the two means are over different classes.
    same = np.array_equal(test.sum((0, 1, 3)) > 0, holdout.sum((0, 1, 3)) > 0)
    units = min(units_showing(test), units_showing(holdout)) if same else 0
    if these_weights:
        return Estimate(float(each.mean()), images, units)
    interaction = sum(_interaction(of_set) for of_set in influences)
    return Estimate(float(each.mean()), images, units, (_variance_between_runs(each),), (interaction,), (len(each),))


def mean_difference(first: np.ndarray, second: np.ndarray) -> Estimate:
    """Difference between the means of any score of two models, first minus second: (R, M) and (S, M) for M units."""
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"the models were scored on different units: {first.shape[1]} and {second.shape[1]}")
    models, count = (first, second), first.shape[1]
    each = [scores.mean(1) for scores in models]
    influences = [(scores - scores.mean(1, keepdims=True)) / count for scores in models]
    images = _variance(influences[0].mean(0) - influences[1].mean(0))
    spreads, interaction = tuple(map(_variance_between_runs, each)), tuple(map(_interaction, influences))
    value = float(each[0].mean() - each[1].mean())
    return Estimate(value, images, count, spreads, interaction, (len(first), len(second)))


def _estimate(models: list[np.ndarray], signs: list[int], *, these_weights: bool) -> Estimate:
    """Sum of the models' mean IoUs, each times its sign, on the same units."""
    each = [mean_iou(matrices.sum(1)) for matrices in models]  # (R,) of each model
    influences = [influence(matrices) for matrices in models]  # (R, M) of each model
    value = sum(sign * float(scores.mean()) for sign, scores in zip(signs, each, strict=True))
    images = _variance(sum(sign * of_model.mean(0) for sign, of_model in zip(signs, influences, strict=True)))
    units = min(units_showing(matrices) for matrices in models)
    if these_weights:
        return Estimate(value, images, units)
    spreads, interaction = tuple(map(_variance_between_runs, each)), tuple(map(_interaction, influences))
    return Estimate(value, images, units, spreads, interaction, tuple(map(len, each)))


def _variance_between_runs(scores: np.ndarray) -> float:
    """Variance between runs (R,); NaN for one run."""
    return float(scores.var(ddof=1)) if len(scores) > 1 else math.nan


def _variance(influences: np.ndarray) -> float:
    """Variance of a score, from the influence (M,) of each unit on it; they sum to zero."""
    count = len(influences)
    return float((influences**2).sum() * count / (count - 1)) if count > 1 else math.nan


def _interaction(influences: np.ndarray) -> float:
    """Seed × unit part of the variance of one run, from (R, M) influences; NaN for one run."""
    runs = len(influences)
    deviations = influences - influences.mean(0)
    return sum(map(_variance, deviations)) / (runs - 1) if runs > 1 else math.nan


def influence(matrices: np.ndarray) -> np.ndarray:
    """Derivative of each run's mean IoU with respect to the weight of each unit: (R, M, K, K) -> (R, M)."""
    matrices = np.asarray(matrices, dtype=np.float64)
    hits = np.diagonal(matrices, axis1=-2, axis2=-1)  # (R, M, K)
    unions = matrices.sum(-1) + matrices.sum(-2) - hits  # (R, M, K)
    hit, union = hits.sum(1, keepdims=True), unions.sum(1, keepdims=True)  # (R, 1, K)
    union = np.where(union > 0, union, np.nan)  # a class in neither truth nor prediction has no IoU
    return np.nanmean((hits - hit / union * unions) / union, axis=-1)


def units_showing(matrices: np.ndarray) -> int:
    """Number of units whose truth contains the rarest class, of (R, M, K, K) matrices.

    A class that is predicted but in no unit's truth gives 0: a single pixel sets its score to 0.
    """
    matrices = np.asarray(matrices)
    shown = (matrices[0].sum(-1) > 0).sum(0)  # (K,): units whose truth contains the class
    counted = (matrices.sum((0, 1, 2)) > 0) | (shown > 0)  # (K,): classes in the mean
    return int(shown[counted].min()) if counted.any() else 0


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment of a family of p-values, in their order; NaN is no test and stays NaN."""
    p_values = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    adjusted = np.full_like(p_values, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted
