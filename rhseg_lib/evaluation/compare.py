"""Compare models by their finished runs: scores with intervals, differences with tests.

Every statement of the report on a model or a pair of models comes from `summarise` and `compare_models`.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from rhseg_lib.evaluation import statistics
from rhseg_lib.evaluation.metrics import mean_iou, scores
from rhseg_lib.evaluation.runs import Run, finished_runs, parts
from rhseg_lib.evaluation.statistics import Estimate
from rhseg_lib.profile import Profile, Recipe


def by_unit(matrices: np.ndarray, units: Sequence[str]) -> np.ndarray:
    """Sum the matrices of each unit, (N, K, K) -> (M, K, K): copies and images of one group are not independent."""
    unique, index = np.unique(units, return_inverse=True)
    summed = np.zeros((len(unique), *matrices.shape[1:]), matrices.dtype)
    np.add.at(summed, index, matrices)
    return summed


def points(estimate: Estimate) -> tuple[float, float]:
    """Both ends of an interval in percentage points; NaN if there is none."""
    low, high = estimate.interval
    return 100 * low, 100 * high


def stacked(runs: list[Run]) -> dict[str, np.ndarray]:
    """Matrices of each model by unit, stacked over its seeds: model -> (R, M, K, K)."""
    models = dict.fromkeys(run.model for run in runs)
    return {
        model: np.stack([by_unit(run.matrices, run.units) for run in runs if run.model == model]) for model in models
    }


def summarise(runs: list[Run]) -> pd.DataFrame:
    """One row per model: mean over its seeds of mIoU, mPA and each class's IoU, all in per cent.

    ``low`` and ``high`` bound the model's mIoU and account for images and seeds (NaN for one seed); ``weights_low`` and
    ``weights_high`` hold for these weights and account for images only. ``seed_deviation`` is the standard deviation
    between seeds.
    """
    rows = {}
    for model, matrices in stacked(runs).items():
        each = [scores(matrix) for matrix in matrices.sum(1)]
        low, high = points(statistics.mean_of(matrices))
        weights_low, weights_high = points(statistics.mean_of(matrices, these_weights=True))
        names = next(run.metrics["class_names"] for run in runs if run.model == model)
        ious = 100 * np.mean([s.iou for s in each], axis=0)
        rows[model] = {
            "seeds": len(each),
            "miou": 100 * np.mean([s.miou for s in each]),
            "low": low,
            "high": high,
            "weights_low": weights_low,
            "weights_high": weights_high,
            "mpa": 100 * np.mean([s.mpa for s in each]),
            **{f"IoU {name}": iou for name, iou in zip(names, ious, strict=True)},
            "seed_deviation": 100 * np.std([s.miou for s in each], ddof=1) if len(each) > 1 else np.nan,
            "train_minutes": np.mean([r.metrics["train_seconds"] for r in runs if r.model == model]) / 60,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def same_recipe(runs: list[Run], first: str, second: str) -> bool:
    """Whether all runs of two models have the same training recipe, except for the learning rates."""
    rates = {"learning_rate", "min_learning_rate"}
    recipes = [
        Recipe.model_validate(run.metrics["recipe"]).model_dump(exclude=rates)  # defaults for keys added later
        for run in runs
        if run.model in (first, second)
    ]
    return all(recipe == recipes[0] for recipe in recipes)


def compare_models(runs: list[Run]) -> pd.DataFrame:
    """Every pair of models with the same training recipe, in points of mIoU: the source of all statements on a pair.

    Columns: first, second, seeds (of both, "3, 5"), units, difference, low, high, p_value, p_holm (adjusted for all
    pairs); NaN if a model has one seed or there are too few units. weights_low, weights_high: interval for these
    weights, images only. detectable, detectable_holm: the smallest difference detected four times in five, tested alone
    and first of all pairs. needed: seeds needed to detect a difference of this size; NaN: more than fifty.
    """
    models = stacked(runs)
    pairs = [pair for pair in combinations(models, 2) if same_recipe(runs, *pair)]
    estimates = [statistics.difference(models[a], models[b]) for a, b in pairs]
    tests = max(sum(estimate.has_interval for estimate in estimates), 1)
    rows = []
    for (first, second), estimate in zip(pairs, estimates, strict=True):
        of_weights = statistics.difference(models[first], models[second], these_weights=True)
        row = {"first": first, "second": second, "seeds": ", ".join(map(str, estimate.seeds)), "units": estimate.units}
        row["difference"] = 100 * estimate.value
        row["low"], row["high"] = points(estimate)
        row["weights_low"], row["weights_high"] = points(of_weights)
        row["p_value"] = estimate.p_value
        row["detectable"] = 100 * estimate.detectable()
        row["detectable_holm"] = 100 * estimate.detectable(tests=tests)
        row["needed"] = estimate.seeds_needed(tests=tests) if estimate.has_interval else None
        rows.append(row)
    columns = ["first", "second", "seeds", "units", "difference", "low", "high", "weights_low", "weights_high"]
    columns += ["p_value", "p_holm", "detectable", "detectable_holm", "needed"]
    table = pd.DataFrame(rows, columns=columns).astype({"needed": float})
    return table.assign(p_holm=statistics.holm(table["p_value"]))


def pair(compared: pd.DataFrame, first: str, second: str) -> dict | None:
    """The row of two models in a table of `compare_models`, as first minus second; None if there is none."""
    for row in compared.to_dict("records"):
        if (row["first"], row["second"]) == (first, second):
            return row
        if (row["first"], row["second"]) == (second, first):
            swapped = {"first": first, "second": second, "seeds": ", ".join(reversed(row["seeds"].split(", ")))}
            for low, high in (("low", "high"), ("weights_low", "weights_high")):
                if low in row:  # not in a table of `thickness_runs`
                    swapped |= {low: -row[high], high: -row[low]}
            return row | swapped | {"difference": -row["difference"]}
    return None


def is_significant(row: dict) -> bool:
    """Whether a difference is significant: the one rule for every sentence and mark in the report."""
    return bool(row["p_holm"] < statistics.LEVEL)


def generalisation(profile: Profile) -> pd.DataFrame:
    """mIoU on the test set and on the holdout, by model, in per cent; empty if the profile has no holdout.

    Under a leaky split the difference is the gain from memorised training images. Its interval (NaN for one seed)
    accounts for the images of both sets, which are independent, and for the seeds.
    """
    rows = {}
    if len(parts(profile)) > 1:
        test, holdout = (stacked(finished_runs(profile, part=part)) for part in parts(profile))
        for model in test:
            means = [100 * mean_iou(subset[model].sum(1)).mean() for subset in (test, holdout)]
            estimate = statistics.holdout_gap(test[model], holdout[model])
            of_weights = statistics.holdout_gap(test[model], holdout[model], these_weights=True)
            rows[model] = (len(test[model]), *means, 100 * estimate.value, *points(estimate), *points(of_weights))
    columns = ["seeds", "test", "holdout", "difference", "low", "high", "weights_low", "weights_high"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("model")
