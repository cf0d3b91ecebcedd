"""Slag thickness by the finished runs: tables of their readings, errors and intervals, and the comparison of models."""

from pathlib import Path

import numpy as np
import pandas as pd

from rhseg_lib.evaluation import statistics
from rhseg_lib.evaluation.metrics import scores
from rhseg_lib.evaluation.runs import Run
from rhseg_lib.evaluation.statistics import Estimate
from rhseg_lib.evaluation.thickness import (
    SCALES,
    Scenes,
    annotated_masks,
    calibrate,
    exact_masks,
    measure_scenes,
    predicted_masks,
    read_table,
    write_table,
)
from rhseg_lib.evaluation.weights import read_card, read_weights, write_calibration
from rhseg_lib.profile import Profile
from rhseg_lib.settings import Calibration

EXACT, ANNOTATORS = "exact masks", ("annotator one", "annotator two")
TABLE = "thickness.parquet"
AGAINST = "fresh synthetic scenes, exact thickness"
GROSS = 0.25  # relative error above which a reading is grossly wrong
Tables = dict[str, list[pd.DataFrame]]  # model, or kind of mask -> a table of `measure_scenes` per run


def of_masks(profile: Profile, scenes: list[Scenes]) -> Tables:
    """The readings of exact masks and of both annotators' masks."""
    readers = (exact_masks, annotated_masks(profile, "first"), annotated_masks(profile, "second"))
    names = zip((EXACT, *ANNOTATORS), readers, strict=True)
    return {name: [measure_scenes(profile, scenes, read, title=name)] for name, read in names}


def of_runs(profile: Profile, scenes: list[Scenes], runs: list[Run]) -> Tables:
    """The readings of each run that was measured before or whose weights are here; the others are left out.

    A run that is measured now gets its table beside its scores. Weights that are here get the calibration in their
    card.
    """
    found: Tables = {}
    for run in runs:
        folder = profile.run_folder(run.model, run.seed)
        weights, table = folder / "weights.safetensors", read_table(folder / TABLE, profile)
        if table is None and weights.exists():
            network, card = read_weights(weights)
            masks = predicted_masks(network, card)
            write_table(
                folder / TABLE, measure_scenes(profile, scenes, masks, title=f"{run.model} {run.seed}"), profile
            )
            table = read_table(folder / TABLE, profile)  # in single precision, as it is read next time
        if table is None:
            continue
        if weights.exists():
            _keep_calibration(weights, calibrate(table, AGAINST))
        found.setdefault(run.model, []).append(table.assign(seed=run.seed))
    return found


def _keep_calibration(weights: Path, calibration: Calibration) -> None:
    """Store a calibration in weights, but not over one by measured dips or annotations, nor an empty one."""
    before = read_card(weights).thickness
    if calibration.by_pixel and (before is None or before.against == AGAINST):
        write_calibration(weights, calibration)


def readings(table: pd.DataFrame, scale: str, *, part: str = "evaluation", level: float = 0.9) -> pd.DataFrame:
    """The true tubes of one part with what was read by one scale: mm, low, high, error, problem; NaN if abstained.

    The interval is the calibration's of the same table.
    """
    rows = table[(table["part"] == part) & (table["tube"] >= 0)].reset_index(drop=True)
    factor = calibrate(table, AGAINST).factor(level, by_diameter=scale == SCALES[1])
    mm, half = rows[f"mm, {scale}"], factor * rows[f"error_scale, {scale}"]
    kept = ["scene", "tube", "thickness_mm", "drip_free_mm", "clear", "conditions"]
    return rows[kept].assign(
        mm=mm,
        drip_free=rows[f"drip_free, {scale}"],
        low=(mm - half).clip(lower=0),
        high=mm + half,
        half=half,
        error=mm - rows["thickness_mm"],
        problem=rows[f"problem, {scale}"],
    )


def summarise(tables: Tables, scale: str, *, part: str = "evaluation", level: float = 0.9) -> pd.DataFrame:
    """A row per model or kind of mask, means over its seeds; errors in mm over the tubes that were read.

    Columns: seeds, read (share of all tubes), clear_left_out (share of the clear tubes that were not read), mean_error,
    percent (of the true thickness), bias, p95, gross (share of errors over 25 %), half (median half-width of the
    interval), coverage (share of intervals that hold the true thickness), false (tubes reported where there is none).
    """
    rows = {}
    for name, runs in tables.items():
        each = [_summary(table, readings(table, scale, part=part, level=level), part) for table in runs]
        rows[name] = {"seeds": len(runs), **pd.DataFrame(each).mean().to_dict()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("masks")


def most_accurate(summary: pd.DataFrame) -> str | None:
    """The row of a table of `summarise` with the smallest mean error; None if nothing was read."""
    errors = summary["mean_error"].dropna()
    return str(errors.idxmin()) if len(errors) else None


def _summary(table: pd.DataFrame, rows: pd.DataFrame, part: str) -> dict[str, float]:
    ok = rows["problem"] == ""
    error, relative = rows["error"][ok].abs(), rows["error"][ok].abs() / rows["thickness_mm"][ok]
    return {
        "tubes": len(rows),
        "read": ok.mean(),
        "clear_left_out": (~ok & rows["clear"]).sum() / max(rows["clear"].sum(), 1),
        "mean_error": error.mean(),
        "percent": 100 * relative.mean(),
        "bias": rows["error"][ok].mean(),
        "p95": error.quantile(0.95),
        "gross": (relative > GROSS).mean(),
        "half": rows["half"][ok].median(),
        "coverage": covered(rows).mean(),
        "false": int(((table["part"] == part) & (table["tube"] < 0)).sum()),
    }


def covered(rows: pd.DataFrame) -> pd.Series:
    """Whether the interval of each tube that was read holds its true thickness; NaN without an interval."""
    ok = rows[rows["problem"] == ""]
    inside = (ok["error"].abs() <= ok["half"]).astype(float)
    return inside.where(ok["half"].notna())


def by_group(tables: list[pd.DataFrame], scale: str, *, level: float = 0.9) -> pd.DataFrame:
    """Mean error and coverage of a model's runs by kind of scene, and on the thin bands."""
    rows = pd.concat([readings(table, scale, level=level) for table in tables])
    thin = pd.concat([readings(table, scale, part="thin", level=level) for table in tables])
    conditions = rows["conditions"]
    groups = {
        "all": rows,
        "a bar in front": rows[conditions.str.contains("bar")],
        "blurred": rows[conditions.str.contains("blurred")],
        "dim": rows[conditions.str.contains("dim")],
        "ragged edges": rows[conditions.str.contains("ragged")],
        "slag in the tube's colours": rows[conditions.str.contains("similar")],
        "under 300 mm": rows[rows["thickness_mm"] < 300],
        "over 600 mm": rows[rows["thickness_mm"] > 600],
        "thin bands, 50 to 250 mm": thin,
    }
    table = {}
    for name, group in groups.items():
        ok = group[group["problem"] == ""]
        table[name] = {
            "tubes": len(ok) / len(tables),
            "read": len(ok) / max(len(group), 1),
            "mean_error": ok["error"].abs().mean(),
            "percent": 100 * (ok["error"].abs() / ok["thickness_mm"]).mean(),
            "bias": ok["error"].mean(),
            "coverage": covered(group).mean(),
        }
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("scenes")


def chosen(rows: pd.DataFrame) -> dict[str, tuple[str, int]]:
    """The tubes read with the smallest, the median and the largest error: title -> scene, tube."""
    read = rows[rows["problem"] == ""]
    ordered = read.loc[read["error"].abs().sort_values(kind="stable").index]
    places = {"best": 0, "median": len(ordered) // 2, "worst": len(ordered) - 1} if len(ordered) else {}
    return {title: (ordered.iloc[at]["scene"], int(ordered.iloc[at]["tube"])) for title, at in places.items()}


def problems(tables: Tables, scale: str) -> pd.DataFrame:
    """Why tubes were not read, share of all tubes in the mean over seeds: a row per reason, a column per model."""
    shares = {
        name: pd.concat([readings(table, scale)["problem"] for table in runs]).value_counts(normalize=True)
        for name, runs in tables.items()
    }
    return pd.DataFrame(shares).drop(index="", errors="ignore").fillna(0.0).rename_axis("reason")


def error_points(tables: Tables, runs: list[Run], scale: str) -> pd.DataFrame:
    """A row per run that read a tube: model, seed, miou (%) and mean_error (mm)."""
    errors = {
        (model, int(table["seed"].iloc[0])): readings(table, scale)["error"].abs().mean()
        for model, each in tables.items()
        for table in each
    }
    rows = [
        {"model": run.model, "seed": run.seed, "miou": 100 * scores(run.matrices.sum(0)).miou, "mean_error": error}
        for run in runs
        if (error := errors.get((run.model, run.seed))) is not None
    ]
    return pd.DataFrame(rows, columns=["model", "seed", "miou", "mean_error"]).dropna()


def compare_errors(tables: Tables, scale: str) -> pd.DataFrame:
    """Mean absolute error of every two models on the scenes that all their runs read, first minus second, in mm.

    Columns, as of `compare.compare_models`: first, second, seeds, units (scenes), difference, low, high, p_value,
    needed, p_holm.
    """
    errors = {name: [_scene_errors(table, scale) for table in runs] for name, runs in tables.items()}
    names = list(errors)
    pairs = [(a, b) for number, a in enumerate(names) for b in names[number + 1 :]]
    rows = []
    for first, second in pairs:
        scenes = pd.concat(errors[first] + errors[second], axis=1, join="inner").dropna()
        count = len(errors[first])
        estimate = statistics.mean_difference(scenes.to_numpy().T[:count], scenes.to_numpy().T[count:])
        rows.append({"first": first, "second": second, **_row(estimate)})
    columns = ["first", "second", "seeds", "units", "difference", "low", "high", "p_value", "needed"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_holm=statistics.holm(table["p_value"].to_numpy(float)))


def _row(estimate: Estimate) -> dict:
    low, high = estimate.interval
    needed = estimate.seeds_needed() if estimate.has_interval else None
    return {
        "seeds": ", ".join(map(str, estimate.seeds)),
        "units": estimate.units,
        "difference": estimate.value,
        "low": low,
        "high": high,
        "p_value": estimate.p_value,
        "needed": np.nan if needed is None else float(needed),
    }


def _scene_errors(table: pd.DataFrame, scale: str) -> pd.Series:
    """Mean absolute error of each scene whose tubes were all read."""
    rows = readings(table, scale)
    return rows.assign(error=rows["error"].abs()).groupby("scene")["error"].agg(lambda some: some.mean(skipna=False))
