"""Tables and HTML page of a prediction run, least confident images first."""

import os
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from rhseg_lib.errors import printable
from rhseg_lib.evaluation.weights import Card
from rhseg_lib.files import write_atomically
from rhseg_lib.predict.inputs import ImageFiles, Video
from rhseg_lib.predict.runtime import Runtime
from rhseg_lib.predict.write import overlay_of, thumbnail_of
from rhseg_lib.report import figures, overlays
from rhseg_lib.report.thickness_figures import thickness_over_time
from rhseg_lib.thickness.reading import MM

SHOWN = 500  # images in the gallery
TUBE_COLUMNS = ["image", "seconds", "tube", "unit", "thickness", "drip_free", "low", "high", "level"]
TUBE_COLUMNS += ["abstain", "reason", "x", "y"]
TUBE_NUMBERS = ("seconds", "thickness", "drip_free", "low", "high", "level")
NO_THRESHOLD = "as these weights, of an earlier version, store no threshold for this confidence: set one"


class Prediction(NamedTuple):
    """Results of a prediction run, as written to its output folder."""

    table: pd.DataFrame  # predictions.csv
    errors: pd.DataFrame  # errors.csv: images that could not be read
    card: Card
    inputs: ImageFiles | Video
    thickness: pd.DataFrame  # thickness.csv; without rows if it was not measured or nothing was there


def write_tables(
    folder: Path,
    batches: list[dict],
    *,
    runtime: Runtime,
    source: Path,
    inputs: ImageFiles | Video,
    threshold: float | None,
    write: tuple[str, ...],
) -> Prediction:
    """Write the two tables and the gallery from the finished batches of progress.jsonl."""
    card = runtime.card
    rows = [row for batch in batches for row in batch["rows"]]
    tubes = [
        {"image": row["name"], "seconds": row["seconds"], "tube": number, **tube}
        for row in rows
        for number, tube in enumerate(row["tubes"], 1)
    ]
    thickness = pd.DataFrame(tubes, columns=TUBE_COLUMNS).astype(dict.fromkeys(TUBE_NUMBERS, float))  # None: NaN
    table = pd.DataFrame(rows, columns=["name", "source", "seconds", "width", "height"]).astype({"seconds": float})
    for index, name in enumerate(card.class_names):
        pixels = np.array([row["pixels"][index] for row in rows], int)
        table[f"{name}_pixels"] = pixels
        table[f"{name}_percent"] = (100 * pixels / (table["width"] * table["height"])).round(4)
    table["confidence"] = [row["confidence"] for row in rows]
    table["abstain"] = table["confidence"] < (threshold or 0)
    table["remark"] = [row["remark"] for row in rows]
    errors = pd.DataFrame([error for batch in batches for error in batch["errors"]], columns=["file", "what", "fix"])
    for name, content in (("predictions", table), ("errors", errors), ("thickness", thickness)):
        write_atomically(folder / f"{name}.csv", content.to_csv(index=False).encode())
    result = Prediction(table, errors, card, inputs, thickness)
    title = printable(Path(os.path.realpath(source)).name)
    page = gallery(result, title=title, runtime=runtime.name, threshold=threshold, written=write)
    write_atomically(folder / "index.html", page.encode())
    return result


def gallery(result: Prediction, *, title: str, runtime: str, threshold: float | None, written: tuple[str, ...]) -> str:
    """HTML page of a run: the least confident images first, at most `SHOWN`; it loads only its own files."""
    table, errors, card, inputs, thickness = result
    classes = [
        {
            "name": name,
            "colour": overlays.CLASS_COLOURS[index],
            "spread": table[f"{name}_percent"].agg(["median", "min", "max"]).to_dict(),
        }
        for index, name in enumerate(card.class_names)
    ]
    texts = defaultdict[str, list[str]](list)  # of the tubes of each image
    for tube in thickness.itertuples():
        texts[tube.image].append(tube_text(tube))
    shown = table.sort_values(["confidence", "name"]).head(SHOWN).to_dict("records")
    for row in shown:
        row["overlay"], row["thumbnail"] = quote(overlay_of(row["name"])), quote(thumbnail_of(row["name"]))
        row["shares"] = [{**kind, "percent": row[f"{kind['name']}_percent"]} for kind in classes[1:]]
        row["tubes"] = texts[row["name"]]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1] / "report" / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    is_video = table["seconds"].count() > 1
    unit = thickness["unit"].iloc[0] if len(thickness) else ""
    thickness_chart = None
    if is_video and thickness["thickness"].notna().any():
        span = float(table["seconds"].min()), float(table["seconds"].max())
        thickness_chart = figures.data_uri(thickness_over_time(thickness, unit, span=span))
    return environment.get_template("gallery/index.html.j2").render(
        title=title,
        runtime=runtime,
        written=written,
        left_out=inputs.left_out,
        card=card,
        classes=classes,
        shown=shown,
        images=len(table),
        abstained=int(table["abstain"].sum()),
        errors=errors.head(SHOWN).to_dict("records"),
        unread=len(errors),
        threshold=threshold,
        no_threshold=NO_THRESHOLD,
        chart=figures.data_uri(figures.shares_over_time(table, card.class_names)) if is_video else None,
        tubes=tubes_summary(thickness),
        unit=unit,
        calibration=card.thickness.against if card.thickness and thickness["high"].notna().any() else "",
        thickness_chart=thickness_chart,
    )


def tube_text(tube) -> str:
    """What was read of a tube, a row of thickness.csv: why nothing, or the thickness with its interval, if any."""
    if tube.abstain:
        return f"tube {tube.tube}: not read, {tube.reason}"
    digits = 0 if tube.unit == MM else 2
    text = f"tube {tube.tube}: {tube.thickness:.{digits}f} {tube.unit}"
    if pd.isna(tube.high):
        return text
    return f"{text} ({100 * tube.level:g} %: {tube.low:.{digits}f} to {tube.high:.{digits}f})"


def tubes_summary(thickness: pd.DataFrame) -> list[dict]:
    """For each tube, counted from the left: in how many images it was read, and the median thickness there."""
    rows = []
    for number, tubes in thickness.groupby("tube"):
        read = tubes[~tubes["abstain"].astype(bool)]
        rows.append({"tube": number, "read": len(read), "images": len(tubes), "median": read["thickness"].median()})
    return rows


def least_confident(table: pd.DataFrame, folder: Path, count: int) -> tuple[list[np.ndarray], list[str]]:
    """Thumbnails and titles of the least confident images; each thumbnail shows an image and its overlay."""
    rows = table.sort_values(["confidence", "name"]).head(count)
    thumbnails = [np.asarray(Image.open(folder / thumbnail_of(name)).convert("RGB")) for name in rows["name"]]
    return thumbnails, [f"{row.name[-40:]}: {row.confidence:.2f}" for row in rows.itertuples(index=False)]
