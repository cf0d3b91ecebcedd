"""Figures of slag thickness: the measurement drawn on an image, estimates against truth, thickness over time."""

import math

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rhseg_lib.catalogue import SHORT
from rhseg_lib.evaluation.masks import Network
from rhseg_lib.evaluation.thickness import Scenes, read_scene
from rhseg_lib.evaluation.weights import Card
from rhseg_lib.report.figures import ACCENT, DOTTED, GREY, INK, MODEL_COLOURS, subplots
from rhseg_lib.thickness.reading import MM, Reading

EDGE, SIDE, HALO = (255, 235, 59), (236, 240, 243), (20, 24, 28)  # RGB: band edges, sides and axis, outlines


def draw_readings(image: np.ndarray, readings: list[Reading], *, scale: float = 1.0) -> np.ndarray:
    """Draw sides, axis and band edges of every tube and what was read: (H, W, 3) uint8 -> a drawn copy.

    `scale` is the size of the image in relation to that of the mask that was read.
    """
    drawn, thick = image.copy(), max(1, round(min(image.shape[:2]) / 360))
    for reading in readings:
        tube = reading.tube
        for lines, colour in (
            (tube.sides, SIDE),
            (tube.axis[None] if len(tube.axis) else (), SIDE),
            (tube.edges, EDGE),
        ):
            for line in lines:
                if len(line):
                    points = np.round((scale * (line + 0.5) - 0.5) * 8).astype(np.int32)[:, None]
                    cv2.polylines(drawn, [points], False, HALO, thick + 2, cv2.LINE_AA, 3)
                    cv2.polylines(drawn, [points], False, colour, thick, cv2.LINE_AA, 3)
    for reading in readings:
        _label(drawn, scale * reading.x, scale * reading.y, label(reading))
    return drawn


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
        titles.append(f"{title}: read {label(one)}, true {truth['thickness_mm']:.0f} mm")
    return drawn, titles


def label(reading: Reading) -> str:
    """A reading in a few words: "512 mm (450 to 574)"."""
    if reading.problem:
        return "not read"
    if reading.unit == MM:
        value, interval = f"{reading.thickness:.0f} mm", f" ({reading.low:.0f} to {reading.high:.0f})"
    else:
        value, interval = f"{reading.thickness:.2f} diameters", f" ({reading.low:.2f} to {reading.high:.2f})"
    return value + (interval if math.isfinite(reading.high) else "")


def _label(image: np.ndarray, centre: float, middle: float, text: str) -> None:
    """Write a text in the middle of the band, in two lines if it has an interval, inside the image."""
    size, font = max(0.4, min(image.shape[:2]) / 900), cv2.FONT_HERSHEY_SIMPLEX
    lines = text.replace(" (", "\n(").split("\n")
    width, height = max(cv2.getTextSize(line, font, size, 1)[0][0] for line in lines), round(34 * size)
    left = round(min(max(centre - width / 2, 2), max(image.shape[1] - width - 2, 2)))
    stroke = max(1, round(1.6 * size))
    around = [(dx, dy) for dx in (-stroke, 0, stroke) for dy in (-stroke, 0, stroke) if dx or dy]
    for number, line in enumerate(lines):
        x, y = left, round(middle + height * (number + 0.5 - len(lines) / 2) + 0.3 * height)
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
