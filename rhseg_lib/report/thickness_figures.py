"""Figures of slag thickness: the measurement drawn on an image, estimates against truth, thickness over time."""

import math

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rhseg_lib.catalogue import SHORT
from rhseg_lib.evaluation.full_size_inference import Network
from rhseg_lib.evaluation.thickness import Scenes, read_scene
from rhseg_lib.evaluation.weights import Card
from rhseg_lib.report.figures import ACCENT, DOTTED, GREY, INK, MODEL_COLOURS, subplots
from rhseg_lib.thickness.reading import MM, Reading

EDGE, SIDE, ARROW, HALO = (255, 235, 59), (236, 240, 243), (255, 255, 255), (20, 24, 28)  # RGB


def draw_readings(image: np.ndarray, readings: list[Reading], *, scale: float = 1.0) -> np.ndarray:
    """Draw sides and band edges of every tube, the measured length and its reading: (H, W, 3) uint8 -> a drawn copy.

    `scale` is the size of the image in relation to that of the mask that was read.
    """
    drawn, thick = image.copy(), max(1, round(min(image.shape[:2]) / 360))
    for reading in readings:
        tube = reading.tube
        for line in tube.sides:
            _line(drawn, scale * (line + 0.5) - 0.5, SIDE, thick)
        for line in tube.edges:
            _line(drawn, scale * (line + 0.5) - 0.5, EDGE, thick)
        if len(tube.axis):
            _arrow(drawn, scale * (tube.axis + 0.5) - 0.5, thick)
    for reading in readings:
        edges = reading.tube.edges
        above = scale * edges[0, :, 1].min() if edges.size else scale * reading.y
        _label(drawn, scale * reading.x, above, label(reading))
    return drawn


def _line(image: np.ndarray, points: np.ndarray, colour: tuple[int, int, int], thick: int) -> None:
    """Draw a line through points (N, 2) x, y with a dark outline."""
    if len(points):
        fixed = np.round(points * 8).astype(np.int32)[:, None]
        cv2.polylines(image, [fixed], False, HALO, thick + 2, cv2.LINE_AA, 3)
        cv2.polylines(image, [fixed], False, colour, thick, cv2.LINE_AA, 3)


def _arrow(image: np.ndarray, ends: np.ndarray, thick: int) -> None:
    """Draw a dimension line with a head at both ends, (2, 2) x, y."""
    length = float(np.linalg.norm(ends[1] - ends[0]))
    down = (ends[1] - ends[0]) / max(length, 1e-6)
    head = min(6.0 * thick, 0.3 * length)
    _line(image, ends, ARROW, 2 * thick)
    for tip, way in ((ends[0], down), (ends[1], -down)):
        sides = [tip + head * (way + turn * np.array((-way[1], way[0]))) for turn in (-0.6, 0.6)]
        _line(image, np.array((sides[0], tip, sides[1])), ARROW, 2 * thick)


def examples(
    picked: dict[str, tuple[str, int]], scenes: Scenes, network: Network, card: Card, scale: str
) -> tuple[list[np.ndarray], list[str]]:
    """Scenes with the measurement drawn, and titles that name the tube picked, its reading and the truth."""
    drawn, titles = [], []
    for title, (scene, tube) in picked.items():
        image, readings = read_scene(scenes, scene, network, card, scale)
        truth = scenes.truth[(scenes.truth["scene"] == scene) & (scenes.truth["tube"] == tube)].iloc[0]
        one = min(readings, key=lambda each: math.hypot(each.x - truth["x"], each.y - truth["y"]))
        drawn.append(draw_readings(image, readings))
        titles.append(f"{title}: {label(one)}, true {truth['thickness_mm']:.0f} mm")
    return drawn, titles


def label(reading: Reading) -> str:
    """A reading in a few words: "slag 512 mm (90 %: 450 to 574)"."""
    if reading.problem:
        return "not read"
    digits, unit = (0, MM) if reading.unit == MM else (2, "diameters")
    value = f"slag {reading.thickness:.{digits}f} {unit}"
    if not math.isfinite(reading.high):
        return value
    return f"{value} ({100 * reading.level:g} %: {reading.low:.{digits}f} to {reading.high:.{digits}f})"


def _label(image: np.ndarray, centre: float, above: float, text: str) -> None:
    """Write a text above a place, in two lines if it has an interval, inside the image."""
    size, font = max(0.4, min(image.shape[:2]) / 900), cv2.FONT_HERSHEY_SIMPLEX
    lines = text.replace(" (", "\n(").split("\n")
    width, height = max(cv2.getTextSize(line, font, size, 1)[0][0] for line in lines), round(34 * size)
    left = round(min(max(centre - width / 2, 2), max(image.shape[1] - width - 2, 2)))
    top = max(above - height * (len(lines) + 0.2), 0)
    stroke = max(1, round(1.6 * size))
    around = [(dx, dy) for dx in (-stroke, 0, stroke) for dy in (-stroke, 0, stroke) if dx or dy]
    for number, line in enumerate(lines):
        x, y = left, round(top + height * (number + 0.75))
        for dx, dy in around:
            cv2.putText(image, line, (x + dx, y + dy), font, size, HALO, stroke, cv2.LINE_AA)
        cv2.putText(image, line, (x, y), font, size, (255, 255, 255), stroke, cv2.LINE_AA)


def estimated_against_true(rows: dict[str, pd.DataFrame]) -> Figure:
    """Thickness read against the true one, mm; a panel per title, with bars for the intervals."""
    figure, axes = subplots((4 * len(rows), 4.2), columns=len(rows), sharey=True)
    most = 1.05 * float(np.nanmax([some[["thickness_mm", "mm"]].max().max() for some in rows.values()]))
    for axis, (title, some) in zip(axes, rows.items(), strict=True):
        read = some[some["problem"] == ""]
        axis.plot([0, most], [0, most], **DOTTED)
        axis.vlines(read["thickness_mm"], read["low"], read["high"], color=GREY, lw=0.5, alpha=0.35)
        axis.scatter(read["thickness_mm"], read["mm"], s=8, color=ACCENT, linewidths=0, zorder=3)
        axis.set(title=title, xlabel="true thickness, mm", xlim=(0, most), ylim=(0, most))
    axes[0].set_ylabel("measured thickness, mm")
    return figure


def error_against_miou(points: pd.DataFrame, reference: float) -> Figure:
    """Mean error of thickness of every run against its mIoU; `points` has model, miou (%) and mean_error (mm).

    `reference` is the error with exact masks.
    """
    figure, (axis,) = subplots((7, 3.8))
    for model, some in points.groupby("model", sort=False):
        axis.scatter(some["miou"], some["mean_error"], s=42, color=MODEL_COLOURS[model], label=SHORT[model], zorder=3)
    if math.isfinite(reference):
        axis.axhline(reference, **DOTTED)
        axis.text(points["miou"].min(), reference, "exact masks", fontsize=8, color=INK, va="bottom")
    axis.set(xlabel="mIoU on the holdout, %", ylabel="mean error, mm", ylim=(0, None))
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def thickness_over_time(table: pd.DataFrame, unit: str, *, span: tuple[float, float]) -> Figure:
    """Thickness of each tube in the frames of a video with its interval; no line where it was not read.

    `table` has the columns seconds, tube, thickness, low, high (NaN where it abstained); `span` is from the first
    to the last frame, in seconds.
    """
    figure, (axis,) = subplots((11, 2.8))
    colours = ("#0f766e", "#7c3aed", "#b45309", "#be123c")
    read = table[table["thickness"].notna()]["tube"].unique()
    for number, tube in enumerate(sorted(read)):
        rows = table[table["tube"] == tube].sort_values("seconds")
        colour = colours[number % len(colours)]
        axis.fill_between(rows["seconds"], rows["low"], rows["high"], color=colour, alpha=0.2, lw=0)
        axis.plot(rows["seconds"], rows["thickness"], color=colour, lw=1.6, marker=".", ms=3, label=f"tube {tube}")
        axis.axhline(rows["thickness"].median(), color=colour, lw=1, ls="--")
    axis.set(xlabel="seconds", ylabel=f"thickness, {unit}", ylim=(0, None), xlim=span)
    axis.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=4)
    return figure
