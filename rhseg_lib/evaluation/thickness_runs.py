"""Slag thickness by the finished runs: tables of their readings, errors and intervals, and the comparison of models."""

import pandas as pd

from rhseg_lib.evaluation.runs import Run, has_weights
from rhseg_lib.evaluation.thickness import (
    Scenes,
    annotated_masks,
    calibrate,
    exact_masks,
    measure_scenes,
    predicted_masks,
    read_table,
    write_table,
)
from rhseg_lib.evaluation.weights import read_weights, write_calibration
from rhseg_lib.profile import Profile

EXACT, ANNOTATORS = "exact masks", ("annotator one", "annotator two")
TABLE = "thickness.parquet"
GROSS = 0.25  # relative error above which a reading is grossly wrong
AGAINST = "synthetic scenes, exact thickness"
GROUPS = {  # name -> rows of a table of `measure_scenes`
    "all": lambda t: t["clear"] | ~t["clear"],
    "a bar in front": lambda t: t["conditions"].str.contains("bar"),
    "blurred": lambda t: t["conditions"].str.contains("blurred"),
    "dim": lambda t: t["conditions"].str.contains("dim"),
    "ragged edges": lambda t: t["conditions"].str.contains("ragged"),
    "slag in the tube's colour": lambda t: t["conditions"].str.contains("similar"),
    "under 300 mm": lambda t: t["thickness_mm"] < 300,
    "over 600 mm": lambda t: t["thickness_mm"] > 600,
}


def tables_of_masks(profile: Profile, scenes: list[Scenes]) -> dict[str, pd.DataFrame]:
    """The readings of exact masks and of both annotators' masks."""
    readers = (exact_masks, annotated_masks(profile, "first"), annotated_masks(profile, "second"))
    names = zip((EXACT, *ANNOTATORS), readers, strict=True)
    return {name: measure_scenes(profile, scenes, read, title=name) for name, read in names}


def tables_of_runs(profile: Profile, scenes: list[Scenes], runs: list[Run]) -> dict[tuple[str, int], pd.DataFrame]:
    """The readings of each run that was measured before or whose weights are here; the others are left out.

    A run that is measured now gets its table beside its scores, and the calibration in the card of its weights.
    """
    found = {}
    for run in runs:
        folder = profile.run_folder(run.model, run.seed)
        table = read_table(folder / TABLE, profile)
        if table is None and has_weights(profile, run):
            network, card = read_weights(folder / "weights.safetensors")
            table = measure_scenes(profile, scenes, predicted_masks(network, card), title=f"{run.model} {run.seed}")
            write_calibration(folder / "weights.safetensors", calibrate(table, AGAINST))
            write_table(folder / TABLE, table, profile)
        if table is not None:
            found[run.model, run.seed] = table
    return found
