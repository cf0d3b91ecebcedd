"""Tables and sentences on slag thickness."""

import pandas as pd

from rhseg_lib.catalogue import LABELS, SHORT
from rhseg_lib.evaluation.compare import is_significant
from rhseg_lib.evaluation.statistics import FEWEST_UNITS
from rhseg_lib.evaluation.thickness_own import Pair
from rhseg_lib.evaluation.thickness_own import table as own_table
from rhseg_lib.evaluation.thickness_runs import EXACT, most_accurate
from rhseg_lib.settings import Thickness
from rhseg_lib.thickness.reading import DIAMETERS


def named(masks: str) -> str:
    """The label of a model; a kind of mask as it is."""
    return LABELS.get(masks, masks)


def signed(value: float) -> str:
    """A difference in mm with its sign."""
    return "–" if pd.isna(value) else f"{value:+.1f}"


def errors(summary: pd.DataFrame) -> pd.DataFrame:
    """A table of `thickness_runs.summarise` as it is shown."""
    rows = summary
    return pd.DataFrame({
        "masks": [named(name) for name in rows.index],
        "seeds": rows["seeds"].to_numpy(int),
        "tubes read, %": (100 * rows["read"]).round(0).to_numpy(),
        "clear tubes left out, %": (100 * rows["clear_left_out"]).round(1).to_numpy(),
        "mean error, mm": rows["mean_error"].round(1).to_numpy(),
        "mean error, %": rows["percent"].round(1).to_numpy(),
        "bias, mm": [signed(value) for value in rows["bias"]],
        "95 % within, mm": rows["p95"].round(0).to_numpy(),
        "errors over 25 %, %": (100 * rows["gross"]).round(1).to_numpy(),
        "90 % interval, ± mm (median)": rows["half"].round(0).to_numpy(),
        "its coverage, %": (100 * rows["coverage"]).round(1).to_numpy(),
        "false tubes": rows["false"].round(1).to_numpy(),
    })  # fmt: skip


def groups(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `thickness_runs.by_group` as it is shown."""
    return pd.DataFrame({
        "scenes": list(table.index),
        "tubes read": table["tubes"].round(0).to_numpy(),
        "of all, %": (100 * table["read"]).round(0).to_numpy(),
        "mean error, mm": table["mean_error"].round(1).to_numpy(),
        "mean error, %": table["percent"].round(1).to_numpy(),
        "bias, mm": [signed(value) for value in table["bias"]],
        "coverage of the 90 % interval, %": (100 * table["coverage"]).round(1).to_numpy(),
    })  # fmt: skip


def reasons(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `thickness_runs.problems` as it is shown: share of all tubes, %."""
    shown = (100 * table).round(1)
    shown.columns = [SHORT.get(name, name) for name in shown]
    return shown.reset_index()


def pairs(compared: pd.DataFrame) -> pd.DataFrame:
    """A table of `thickness_runs.compare_errors` as it is shown."""
    interval = [
        signed(row.difference) + ("" if pd.isna(row.low) else f" [{row.low:+.1f}, {row.high:+.1f}]")
        for row in compared.itertuples()
    ]
    return pd.DataFrame({
        "models": [f"{SHORT[row.first]} against {SHORT[row.second]}" for row in compared.itertuples()],
        "seeds": compared["seeds"],
        "scenes": compared["units"],
        "difference of the mean error, mm": interval,
        "adjusted p": compared["p_holm"].round(3),
        "significant": [_verdict(row) for row in compared.to_dict("records")],
    })  # fmt: skip


def _verdict(row: dict) -> str:
    if row["units"] < FEWEST_UNITS:
        return "too few scenes"
    if pd.isna(row["p_holm"]):
        return "one seed cannot tell"
    return "yes" if is_significant(row) else "no"


def scale_in_words(settings: Thickness) -> list[str]:
    """What turns pixels into a length."""
    if settings.mm_per_pixel:
        scale = f"The scale is {settings.mm_per_pixel:g} mm per pixel at the tubes, in the images at their own size."
    elif settings.tube_diameter_mm:
        scale = (
            f"The scale is the tube's diameter of {settings.tube_diameter_mm:g} mm, with a standard uncertainty of "
            f"{100 * settings.diameter_uncertainty:g} % for wear and gunning."
        )
    else:
        scale = (
            "There is no scale: thickness is in tube diameters. Set `thickness: {tube_diameter_mm: 1100}` or "
            "`mm_per_pixel` in the profile for millimetres."
        )
    return [f"{scale} The line of sight is taken to be {settings.elevation:g}° above the horizontal."]


def of_pairs(pairs: dict[tuple[str, int], list[Pair]]) -> pd.DataFrame:
    """Errors of each run against the known thickness of one's own images."""
    rows = []
    for (model, seed), found in pairs.items():
        table = own_table(found)
        read = table[table["problem"] == ""]
        error = read["measured"] - read["known"]
        digits = 3 if (read["unit"] == DIAMETERS).any() else 1
        rows.append({
            "model": named(model),
            "seed": seed,
            "tubes": len(table),
            "read": len(read),
            "unit": read["unit"].iloc[0] if len(read) else "",
            "mean error": round(error.abs().mean(), digits),
            "mean error, %": round(100 * (error.abs() / read["known"]).mean(), 1),
            "bias": round(error.mean(), digits),
        })  # fmt: skip
    columns = ["model", "seed", "tubes", "read", "unit", "mean error", "mean error, %", "bias"]
    return pd.DataFrame(rows, columns=columns)


def own(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `thickness_own.table` as it is shown."""
    digits = 3 if (table["unit"] == DIAMETERS).any() else 0
    columns = {
        "image": "image",
        "tube": "tube",
        "known": "annotated",
        "measured": "measured",
        "low": "from",
        "high": "to",
    }
    shown = table.rename(columns={**columns, "problem": "why not"})
    return shown.round(dict.fromkeys(["annotated", "measured", "from", "to"], digits))


def summary(table: pd.DataFrame, compared: pd.DataFrame, points: pd.DataFrame) -> list[str]:
    """What the page shows, in sentences."""
    lines = list[str]()
    if pd.notna(table.loc[EXACT, "mean_error"]):
        lines.append(
            f"From exact masks, thickness is measured with a mean error of {table.loc[EXACT, 'mean_error']:.0f} mm "
            f"({table.loc[EXACT, 'percent']:.1f} %): what the measuring itself costs."
        )
    if best := most_accurate(table[table.index.isin(LABELS)]):
        row = table.loc[best]
        text = (
            f"Of the models, {LABELS[best]} has the smallest error on these scenes: it is wrong by "
            f"{row['mean_error']:.0f} mm ({row['percent']:.1f} %) on the tubes it reads, "
            f"{100 * row['read']:.0f} % of all"
        )
        if pd.notna(row["half"]):
            text += (
                f"; its 90 % interval is ±{row['half']:.0f} mm in the median and holds the true thickness for "
                f"{100 * row['coverage']:.0f} %"
            )
        lines.append(f"{text}.")
    tested = compared[compared["p_holm"].notna()]
    if len(tested):
        significant = sum(is_significant(row) for row in tested.to_dict("records"))
        lines.append(
            f"{significant or 'None'} of {len(tested)} differences between models is significant (p < 0.05, Holm; "
            "images and seeds)."
        )
    if points["model"].nunique() > 1 and len(points) > 5:
        correlation = points["miou"].corr(points["mean_error"], method="spearman")
        lines.append(
            f"Over {len(points)} runs of {points['model'].nunique()} models, mIoU and thickness error have a rank "
            f"correlation of {correlation:+.2f}. This is no test: runs of one model are alike, and share the scenes."
        )
    return lines
