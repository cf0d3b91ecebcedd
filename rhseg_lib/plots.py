"""Every figure; one colour per class and per model on all pages."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from IPython.display import HTML
from matplotlib import colormaps, font_manager
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter
from torch import nn

from rhseg_lib import IGNORE_INDEX
from rhseg_lib.compare import tells
from rhseg_lib.published import SHORT

CLASS_COLOURS = ("#6e7781", "#0ea5e9", "#f59e0b", "#10b981", "#a855f7", "#ef4444")  # background first
COLOUR_NAMES = ("grey", "blue", "orange", "green", "purple", "red")
MODEL_COLOURS = dict(zip(SHORT, sns.color_palette("deep", len(SHORT)).as_hex(), strict=True))
RIGHT, WRONG = "#e6e9ed", "#d1242f"
HEAT = "magma"
HEAT_STOPS = ", ".join(to_hex(colormaps[HEAT](part / 4)) for part in range(5))  # for a key in HTML

CHINESE = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "Microsoft YaHei", "SimHei", "PingFang SC")


def _fonts() -> list[str]:
    """Seaborn's, and one that draws what it lacks, if there is one."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["sans-serif", *[name for name in CHINESE if name in installed][:1]]


rc = {"axes.titlesize": "medium", "font.family": _fonts()}
sns.set_theme(style="whitegrid", context="notebook", font_scale=0.9, rc=rc)


def show(figure: Figure, path: Path, *, alt: str, caption: str) -> HTML:
    """Keep a figure as WebP at `path` and show it with its caption; `alt` says it to who cannot see it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".partial.webp")
    figure.savefig(draft, dpi=130, bbox_inches="tight", pil_kwargs={"quality": 88})
    draft.replace(path)
    plt.close(figure)
    return show_file(path, alt=alt, caption=caption)


def show_file(path: Path, *, alt: str, caption: str) -> HTML:
    """Show a figure that an earlier notebook kept."""
    data = base64.b64encode(path.read_bytes()).decode()
    source = f"data:image/{path.suffix[1:]};base64,{data}"
    return HTML(
        f'<figure><img src="{source}" alt="{html.escape(alt, quote=True)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def blend(image: np.ndarray, mask: np.ndarray, *, opacity: float = 0.45) -> np.ndarray:
    """Lay class colours over a picture, background left bare: (H, W, 3) and (H, W) uint8 -> (H, W, 3) uint8."""
    painted = image.astype(float)
    for index, colour in enumerate(CLASS_COLOURS):
        if index:
            rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
            painted[mask == index] = (1 - opacity) * painted[mask == index] + opacity * rgb
    return painted.round().astype(np.uint8)


def contact_sheet(pictures: list[np.ndarray], *, columns: int, titles: list[str] | None = None) -> Figure:
    """A grid of at least one picture (H, W, 3) uint8, without gaps wider than a hair."""
    rows = -(-len(pictures) // columns)
    tallest = max(picture.shape[0] / picture.shape[1] for picture in pictures)
    height = 12 / columns * (tallest + (0.08 if titles is None else 0.2))
    figure, axes = plt.subplots(rows, columns, figsize=(12, rows * height), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for number, (axis, picture) in enumerate(zip(axes.flat, pictures, strict=False)):
        axis.imshow(picture)
        if titles is not None:
            axis.set_title(titles[number], fontsize=9, pad=3, parse_math=False)  # a name may hold $
    figure.tight_layout(pad=0.3)
    return figure


def colour_histograms(images: np.ndarray, masks: np.ndarray, class_names: tuple[str, ...]) -> Figure:
    """Distribution of red, green, blue and brightness in each class: what colour alone can tell."""
    figure, axes = plt.subplots(1, 4, figsize=(12, 2.7), sharey=True)
    channels = {
        "red": images[..., 0],
        "green": images[..., 1],
        "blue": images[..., 2],
        "mean": images.mean(-1),
    }
    for axis, (title, values) in zip(axes, channels.items(), strict=True):
        for index, name in enumerate(class_names):
            axis.hist(
                values[masks == index], bins=64, range=(0, 256), density=True, histtype="step", lw=1.8,
                color=CLASS_COLOURS[index], label=name,
            )  # fmt: skip
        axis.set(title=title, xlabel="value", yticks=[])
    axes[0].set_ylabel("density")
    axes[-1].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def place_maps(masks: np.ndarray, class_names: tuple[str, ...]) -> Figure:
    """How often each pixel of the frame belongs to each class: what place alone can tell."""
    figure, axes = plt.subplots(1, len(class_names), figsize=(3.2 * len(class_names), 3), squeeze=False)
    for index, (axis, name) in enumerate(zip(axes.flat, class_names, strict=True)):
        shown = axis.imshow((masks == index).mean(0), vmin=0, vmax=1, cmap="viridis")
        axis.set(title=name, xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes, label="share of the images", shrink=0.8)
    return figure


def training_curves(history: pd.DataFrame, *, label: str) -> Figure:
    """Loss, training mIoU and learning rate, epoch by epoch."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3))
    columns = {
        "loss": "loss",
        "train_miou": "mIoU of the training batches",
        "learning_rate": "learning rate",
    }
    for axis, (column, title) in zip(axes, columns.items(), strict=True):
        axis.plot(history["epoch"], history[column], marker="o", ms=3.5, color="#9a3412")
        axis.set(title=title, xlabel="epoch", ylim=(0, None))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(label, y=1.02)
    figure.tight_layout()
    return figure


def forest(table: pd.DataFrame, *, value: str, xlabel: str, zero: bool = False) -> Figure:
    """One line per row of `table` (its index names them): the value and its interval; `zero` marks no effect.

    Solid from ``low`` to ``high``, images and seeds counted; where these are NaN, dashed from ``weights_low`` to
    ``weights_high``: these weights alone.
    """
    figure, axis = plt.subplots(figsize=(9, 0.42 * len(table) + 1))
    for place, (_, row) in enumerate(table.iterrows()):
        known = not np.isnan(row["low"])
        ends = ("low", "high") if known else ("weights_low", "weights_high")
        axis.plot(row[[*ends]], [place, place], color="#57606a", lw=2, ls="-" if known else (0, (2, 2)))
        axis.plot(row[value], place, "o", color="#9a3412", mfc="#9a3412" if known else "white", ms=7)
    if zero:
        axis.axvline(0, color="#1f2328", lw=1, ls=":")
    axis.set(yticks=range(len(table)), yticklabels=table.index, xlabel=xlabel, ylim=(len(table) - 0.4, -0.6))
    axis.grid(axis="y", visible=False)
    figure.tight_layout()
    return figure


def cost_scatter(table: pd.DataFrame, costs: dict[str, str]) -> Figure:
    """Mean IoU against each cost column (logarithmic), one dot per model, the dots named.

    `table` is indexed by model, with ``miou`` in per cent; `costs` maps a column to its axis label.
    """
    figure, axes = plt.subplots(1, len(costs), figsize=(12, 4.2), sharey=True)
    for axis, (column, label) in zip(axes, costs.items(), strict=True):
        for model, row in table.iterrows():
            axis.scatter(row[column], row["miou"], s=60, color=MODEL_COLOURS[model], label=SHORT[model], zorder=3)
        axis.set(xscale="log", xlabel=label)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("mIoU, %")
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="lower center",
        ncols=4,
        frameon=False,
        bbox_to_anchor=(0.5, -0.13),
    )
    figure.tight_layout()
    return figure


def pairwise_matrix(pairs: pd.DataFrame, *, models: list[str]) -> Figure:
    """Differences of mIoU, row minus column, in points; bold where significant; small ones pale.

    `pairs` is a table of `compare.compare_models`.
    """
    grid = pd.DataFrame(np.nan, index=models, columns=models)
    bold = set()
    for row in pairs.itertuples():
        grid.loc[row.first, row.second] = row.difference
        grid.loc[row.second, row.first] = -row.difference
        if tells(row._asdict()):
            bold |= {(row.first, row.second), (row.second, row.first)}
    figure, axis = plt.subplots(figsize=(9, 5.4))
    grid = grid.round(1) + 0.0  # no -0.0
    limit = max(float(grid.abs().max().max(skipna=True)), 5.0) if len(pairs) else 5.0
    sns.heatmap(
        grid, cmap="RdBu_r", vmin=-limit, vmax=limit, annot=True, fmt="+.1f", ax=axis,
        linewidths=1, cbar_kws={"label": "points of mIoU, row − column"},
    )  # fmt: skip
    cells = [(r, c) for r in models for c in models if not np.isnan(grid.loc[r, c])]
    axis.grid(visible=False)
    for text, cell in zip(axis.texts, cells, strict=True):
        text.set_fontweight("bold" if cell in bold else "normal")
    names = [SHORT[model] for model in models]
    axis.set_xticklabels(names, rotation=30, ha="right")
    axis.set_yticklabels(names, rotation=0)
    figure.tight_layout()
    return figure


def segmentation_grid(
    images: np.ndarray, truth: np.ndarray, predictions: dict[str, np.ndarray], *, row_titles: list[str],
    class_names: tuple[str, ...],
) -> Figure:  # fmt: skip
    """Figure 5: picture, truth, every model's segmentation and, below each, where it errs.

    Parameters
    ----------
    images : (N, H, W, 3) uint8
    truth : (N, H, W) uint8
    predictions : dict
        Model -> (N, H, W) uint8.
    row_titles : list of str
        One per image.
    class_names : tuple of str
    """
    columns = 2 + len(predictions)
    figure, axes = plt.subplots(
        2 * len(images), columns, figsize=(1.32 * columns, 2.72 * len(images)), squeeze=False,
        gridspec_kw={"wspace": 0.04, "hspace": 0.05},
    )  # fmt: skip
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(visible=False)
        for spine in axis.spines.values():
            spine.set_visible(False)
    for number, (image, true) in enumerate(zip(images, truth, strict=True)):
        top, bottom = axes[2 * number], axes[2 * number + 1]
        top[0].imshow(image)
        top[0].set_ylabel(row_titles[number], fontsize=8)
        top[1].imshow(blend(image, true))
        bottom[0].set_visible(False)
        bottom[1].set_visible(False)
        for place, (model, masks) in enumerate(predictions.items(), start=2):
            top[place].imshow(blend(image, masks[number]))
            bottom[place].imshow(error_map(true, masks[number]))
            if number == 0:
                top[place].set_title(SHORT[model], fontsize=8)
    axes[0, 0].set_title("picture", fontsize=8)
    axes[0, 1].set_title("annotation", fontsize=8)
    figure.subplots_adjust(left=0.03, right=1, bottom=0, top=1)
    handles = [Patch(color=CLASS_COLOURS[i], label=name.replace("_", " ")) for i, name in enumerate(class_names) if i]
    handles += [Patch(color=WRONG, label="wrong pixel (lower rows)")]
    figure.legend(
        handles=handles, loc="upper center", ncols=len(handles), frameon=False, fontsize=9, bbox_to_anchor=(0.5, 0)
    )
    return figure


def examples(images: np.ndarray, truth: np.ndarray, found: np.ndarray, titles: list[str]) -> Figure:
    """One model's pictures, a row each: picture, annotation, prediction, wrong pixels."""
    panels, names = [], []
    for title, image, true, predicted in zip(titles, images, truth, found, strict=True):
        panels += [image, blend(image, true), blend(image, predicted), error_map(true, predicted)]
        names += [f"{title}: picture", "annotation", "prediction", "wrong pixels"]
    return contact_sheet(panels, columns=4, titles=names)


def error_map(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Wrong pixels red, right ones pale, ignored ones white: (H, W) uint8 twice -> (H, W, 3) uint8."""
    wrong = (truth != prediction) & (truth != IGNORE_INDEX)
    index = np.where(truth == IGNORE_INDEX, 2, wrong.astype(int))
    return (ListedColormap([RIGHT, WRONG, "#ffffff"])(index)[..., :3] * 255).astype(np.uint8)


def block_diagram(
    boxes: list[tuple[str, str]],
    *,
    places: list[tuple[int, int]] | None = None,
    arrows: list[tuple[int, int]] | None = None,
    skips: dict[tuple[int, int], str] | None = None,
    highlight: set[int] = frozenset(),
) -> Figure:
    """Boxes with arrows between them.

    Parameters
    ----------
    boxes : list of (str, str)
        A name over a detail, such as a shape.
    places : list of (int, int), optional
        Column and row of each box; without it, one row.
    arrows : list of (int, int), optional
        From which box to which; without it, from each to the next.
    skips : dict of (int, int) to str, optional
        Arrows that pass over boxes, and what they carry.
    highlight : set of int
        Boxes in orange.
    """
    places = places or [(number, 0) for number in range(len(boxes))]
    arrows = arrows or [(number, number + 1) for number in range(len(boxes) - 1)]
    columns, rows = (1 + max(place[axis] for place in places) for axis in (0, 1))
    above = 0.5 if skips else 0
    figure, axis = plt.subplots(figsize=(1.75 * columns, 1.35 * rows + 0.9 * above))
    corners = [(2 * column, -1.5 * row) for column, row in places]
    for number, ((name, detail), (x, y)) in enumerate(zip(boxes, corners, strict=True)):
        face = "#fff1e6" if number in highlight else "#f6f8fa"
        edge = "#9a3412" if number in highlight else "#57606a"
        axis.add_patch(FancyBboxPatch((x, y), 1.6, 1, boxstyle="round,pad=0.04", fc=face, ec=edge, lw=1.2))
        axis.text(x + 0.8, y + 0.82, name, ha="center", va="center", fontsize=9, weight="bold")
        axis.text(x + 0.8, y + 0.34, detail, ha="center", va="center", fontsize=8, linespacing=1.3)
    style = {"arrowstyle": "->", "color": "#57606a", "shrinkA": 0, "shrinkB": 0}
    for source, target in arrows:
        (x, y), (to_x, to_y) = corners[source], corners[target]
        bend = "arc3"
        if y == to_y and x < to_x:
            begin, end = (x + 1.64, y + 0.5), (to_x - 0.05, y + 0.5)
        elif y == to_y:
            begin, end = (x - 0.04, y + 0.5), (to_x + 1.65, y + 0.5)
        elif x == to_x:
            begin, end = (x + 0.8, y - 0.04), (x + 0.8, to_y + 1.05)
        else:
            begin, end, bend = (x + 0.8, y - 0.04), (to_x - 0.05, to_y + 0.5), "angle,angleA=-90,angleB=180"
        axis.annotate("", end, begin, arrowprops=style | {"connectionstyle": bend})
    for (source, target), carried in (skips or {}).items():
        (x, y), (to_x, _) = corners[source], corners[target]
        left, right, high = x + 0.8, to_x + 0.8, y + 1.3
        axis.plot([left, left, right], [y + 1.04, high, high], color="#57606a", lw=1)
        axis.annotate("", (right, y + 1.05), (right, high), arrowprops=style)
        axis.text((left + right) / 2, high + 0.04, carried, ha="center", va="bottom", fontsize=8)
    axis.set(xlim=(-0.1, 2 * columns - 0.3), ylim=(-1.5 * (rows - 1) - 0.1, 1.1 + above))
    axis.set_axis_off()
    figure.tight_layout(pad=0.2)
    return figure


def verdict_bar(ledger: pd.DataFrame) -> Figure:
    """How many claims got which verdict."""
    colours = {"reproduced": "#2da44e", "not reproduced": "#cf222e", "inconsistent in the paper": "#d4a72c"}
    counts = ledger["verdict"].value_counts()
    order = [*(v for v in colours if v in counts), *(v for v in counts.index if v not in colours)]
    figure, axis = plt.subplots(figsize=(11, 1.3))
    left = 0
    for verdict in order:
        axis.barh(0, counts[verdict], left=left, color=colours.get(verdict, "#8c959f"), edgecolor="white")
        axis.text(
            left + counts[verdict] / 2,
            0,
            counts[verdict],
            ha="center",
            va="center",
            color="white",
            weight="bold",
        )
        left += counts[verdict]
    axis.legend([Patch(color=colours.get(v, "#8c959f")) for v in order], order, loc="upper center", ncols=4,
                frameon=False, bbox_to_anchor=(0.5, 0.02))  # fmt: skip
    axis.set_axis_off()
    return figure


def attention_maps(image: np.ndarray, maps: np.ndarray) -> Figure:
    """EMA's weight maps over a picture: (H, W, 3) uint8 and (G, h, w) in (0, 1), one panel per group."""
    groups = len(maps)
    figure, axes = plt.subplots(1, groups + 1, figsize=(12, 12 / (groups + 1) + 0.35))
    height, width, _ = image.shape
    axes[0].imshow(image)
    axes[0].set_title("picture", fontsize=8)
    for group, (axis, weights) in enumerate(zip(axes[1:], maps, strict=True)):
        axis.imshow(image)
        axis.imshow(weights, extent=(0, width, height, 0), cmap=HEAT, alpha=0.65, interpolation="bilinear")
        axis.set_title(f"group {group + 1}\n{weights.min():.2f}–{weights.max():.2f}", fontsize=7)
    for axis in axes:
        axis.set_axis_off()
    figure.tight_layout(pad=0.3)
    return figure


def one_per_operation(copies: list[str], copy_of: dict[str, str]) -> list[tuple[str, str]]:
    """The first (original, copy) of each augmentation."""
    found = {}
    for copy in copies:
        found.setdefault(copy.removeprefix(copy_of[copy]), (copy_of[copy], copy))
    return list(found.values())


def histogram(values: pd.Series, *, xlabel: str) -> Figure:
    """Distribution of one measured quantity."""
    figure, axis = plt.subplots(figsize=(7, 2.8))
    axis.hist(values, bins=30, color="#9a3412", edgecolor="white")
    axis.set(xlabel=xlabel, ylabel="count")
    figure.tight_layout()
    return figure


def stage_diagram(stages: pd.DataFrame, *, changed: set[str]) -> Figure:
    """Figure 1: the parts of a network with what they put out, hold and compute."""
    boxes = [("picture", "3 × 512 × 512")]
    for row in stages.itertuples():
        shape = " × ".join(map(str, row.output_shape))
        boxes.append((row.stage, f"{shape}\n{row.parameters:,} parameters\n{row.macs / 1e9:.2f} GMAC"))
    number_of = {name: number for number, (name, _) in enumerate(boxes)}
    skips = {(number_of["encoder"], number_of["decoder"]): "fine features of an early stage"}
    return block_diagram(boxes, skips=skips, highlight={number_of[name] for name in changed})


def work_bars(work: dict[str, dict[str, int]]) -> Figure:
    """Multiply-accumulates of each part, stacked, one bar per model; `work` maps module path -> count."""
    parts = ("encoder", "attention", "aspp", "decoder", "classifier")
    table = pd.DataFrame(
        {SHORT[model]: [counts.get(part, 0) / 1e9 for part in parts] for model, counts in work.items()}, index=parts
    )
    figure, axis = plt.subplots(figsize=(10, 0.55 * len(work) + 1.3))
    table.T.plot.barh(stacked=True, ax=axis, color=sns.color_palette("colorblind", len(parts)), width=0.7)
    axis.grid(visible=False)
    for place, total in enumerate(table.sum()):
        axis.text(total, place, f" {total:.1f}", va="center", fontsize=9)
    axis.invert_yaxis()
    axis.set(xlabel="GMAC at 512×512", xlim=(0, 1.1 * table.sum().max()))
    axis.legend(ncols=len(parts), frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.tight_layout()
    return figure


def residual_diagram(encoder: nn.Module, side: int) -> Figure:
    """Figure 2: the steps of the encoder's first inverted residual that keeps its shape, read off the live block."""
    block = next(m for m in encoder.modules() if type(m).__name__ == "InvertedResidual" and m.has_skip)
    channels = block.conv_pw.in_channels
    steps = {"1×1 widens": block.conv_pw, "3×3 depthwise": block.conv_dw, "1×1 narrows": block.conv_pwl}
    boxes = [("input", f"{channels} × {side} × {side}")]
    for (name, conv), activation in zip(steps.items(), ("BN, ReLU6", "BN, ReLU6", "BN, linear"), strict=True):
        count = sum(p.numel() for p in conv.parameters())
        boxes.append((name, f"{conv.out_channels} × {side} × {side}\n{count:,} weights\n{activation}"))
    boxes.append(("+ input", f"{channels} × {side} × {side}\nresidual"))
    return block_diagram(boxes, skips={(0, 4): "the input as it is"}, highlight={2})


def separable_bars(ratios: pd.DataFrame) -> Figure:
    """Figure 3: the share of a standard convolution's work that the two steps of a separable one need."""
    figure, axis = plt.subplots(figsize=(9, 2.8))
    names = [f"{row.M} → {row.N}, {row.D_K}×{row.D_K}" for row in ratios.itertuples()]
    depthwise = 100 / ratios["N"]
    axis.barh(names, depthwise, color="#0ea5e9", label="depthwise, 1/N")
    axis.barh(names, 100 * ratios["counted"] - depthwise, left=depthwise, color="#f59e0b", label="pointwise, 1/D_K²")
    axis.set(xlabel="% of the standard convolution’s multiply-accumulates")
    axis.invert_yaxis()
    axis.legend(frameon=False, loc="lower center", ncols=2, bbox_to_anchor=(0.5, 1))
    figure.tight_layout()
    return figure


def ema_diagram(channels: int, groups: int, side: int) -> Figure:
    """Figure 4: the two branches of EMA, their steps and shapes, for (channels, side, side) features."""
    width, area = channels // groups, f"{side} × {side}"
    steps = {  # name -> detail, column and row
        "features": (f"{channels} × {area}", (0, 0)),
        "split": (f"{groups} groups of\n{width} × {area}", (1, 0)),
        "row, column means": (f"{width} × ({side} + {side})", (2, 0)),
        "1×1, sigmoid": (f"two gates\n{width} × {side}", (3, 0)),
        "gate, GroupNorm": (f"1×1 branch\n{width} × {area}", (4, 0)),
        "3×3": (f"3×3 branch\n{width} × {area}", (2, 1)),
        "global means": (f"Eq. 2, softmax\n{width} per branch", (4, 1)),
        "cross-spatial": (f"each weighs the other\n1 × {area}", (4, 2)),
        "sum, sigmoid": (f"{groups} maps\n1 × {area}", (3, 2)),
        "× features": (f"{channels} × {area}", (2, 2)),
    }
    return block_diagram(
        [(name, detail) for name, (detail, _) in steps.items()],
        places=[place for _, place in steps.values()],
        arrows=[(0, 1), (1, 2), (2, 3), (3, 4), (1, 5), (4, 6), (5, 6), (6, 7), (7, 8), (8, 9)],
        highlight={6},
    )


@torch.inference_mode()
def ema_weights(model: nn.Module, image: torch.Tensor) -> np.ndarray:
    """Weight maps (G, h, w) of a DeepLabv3+ with EMA for one normalised picture (1, 3, H, W)."""
    return model.attention.attention(model.encoder(image)[-1])[0].numpy()


def model_forest(summary: pd.DataFrame, levels: dict[str, float]) -> Figure:
    """Mean IoU and interval of each model (per cent), with floors and ceilings as dotted lines."""
    table = summary.set_index([[SHORT[model] for model in summary.index]])
    figure = forest(table, value="miou", xlabel="mIoU, %")
    (axis,) = figure.axes
    for name, value in levels.items():
        axis.axvline(value, color="#1f2328", lw=1, ls=":")
        axis.annotate(
            name, (value, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
            rotation=20, fontsize=8, va="bottom",
        )  # fmt: skip
    return figure


def image_spread(per_image: dict[str, np.ndarray]) -> Figure:
    """mIoU (per cent) of each test picture, one row of dots per model."""
    table = pd.DataFrame({SHORT[model]: 100 * values for model, values in per_image.items()})
    figure, axis = plt.subplots(figsize=(10, 0.5 * len(per_image) + 1))
    sns.boxplot(table, orient="h", ax=axis, color="#eaeef2", fliersize=0, width=0.6)
    sns.stripplot(table, orient="h", ax=axis, size=3, color="#9a3412", alpha=0.6)
    axis.set(xlabel="mIoU of a picture, %", ylabel="")
    figure.tight_layout()
    return figure


def confusion_heatmaps(matrices: dict[str, np.ndarray], class_names: tuple[str, ...]) -> Figure:
    """Confusion matrices (K, K), each row as shares of the annotated class."""
    columns = 4
    rows = -(-len(matrices) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(12, 3 * rows), squeeze=False)
    names = [name.replace("_", "\n") for name in class_names]
    for axis in axes.flat[len(matrices) :]:
        axis.set_axis_off()
    for axis, (model, matrix) in zip(axes.flat, matrices.items(), strict=False):
        shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        sns.heatmap(
            shares, annot=True, fmt=".0f", cmap="Blues", vmin=0, vmax=100, cbar=False, square=True, ax=axis,
            xticklabels=names, yticklabels=names,
        )  # fmt: skip
        axis.set_title(SHORT[model], fontsize=9)
        axis.tick_params(labelsize=7)
        axis.tick_params(axis="y", rotation=0)
    figure.tight_layout()
    return figure


def speed_ladder(training: pd.DataFrame) -> Figure:
    """Samples per second of every model over those of the plain loop, one bar per switch added."""
    table = training["times_plain"].unstack("step")[training.index.unique("step")].loc[training.index.unique("model")]
    figure, axis = plt.subplots(figsize=(10, 0.16 * table.size + 1.4))
    table.rename(index=SHORT).plot.barh(ax=axis, width=0.8, color=sns.color_palette("crest", table.shape[1]))
    axis.axvline(1, color="#1f2328", lw=1, ls=":")
    axis.set(xlabel="training speed, times the plain loop", ylabel="")
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.legend(frameon=False, bbox_to_anchor=(1.01, 1), loc="upper left")
    figure.tight_layout()
    return figure


def heat(image: np.ndarray, values: np.ndarray, *, opacity: float) -> np.ndarray:
    """Lay values over a picture, dark 0 to pale 1: (H, W, 3) uint8 and (h, w) in [0, 1] -> (H, W, 3) uint8."""
    values = cv2.resize(values, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    colours = (colormaps[HEAT](values)[..., :3] * 255).astype(np.uint8)
    return cv2.addWeighted(colours, opacity, image, 1 - opacity, 0)


def outline(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Draw a white line, dark on its outer side, around the pixels where (H, W) bool is true."""
    cross, inside = cv2.getStructuringElement(cv2.MORPH_CROSS, (5, 5)), inside.astype(np.uint8)
    drawn = image.copy()
    drawn[inside > cv2.erode(inside, cross)] = 255
    drawn[inside < cv2.dilate(inside, cross)] = 0
    return drawn


def shares_over_time(table: pd.DataFrame, class_names: tuple[str, ...]) -> Figure:
    """What share of the frame each class takes, frame by frame; grey where the model abstains.

    `table` holds, for every frame, seconds, abstain and ``<class>_percent``; background is not drawn.
    """
    figure, axis = plt.subplots(figsize=(11, 2.8))
    seconds, half = table["seconds"].to_numpy(), table["seconds"].diff().median() / 2
    edges = np.stack([seconds - half, seconds + half], axis=1).ravel()  # of every frame's time
    everywhere, abstained = axis.get_xaxis_transform(), table["abstain"].repeat(2)
    axis.fill_between(edges, 0, 1, where=abstained, transform=everywhere, color="#d8dee4", lw=0, zorder=0)
    for colour, name in zip(CLASS_COLOURS[1:], class_names[1:], strict=False):
        axis.plot(seconds, table[f"{name}_percent"].where(~table["abstain"]), color=colour, lw=1.6, label=name)
    axis.set(xlabel="seconds", ylabel="% of the frame", ylim=(0, None), xlim=(seconds[0] - half, seconds[-1] + half))
    axis.legend(frameon=False, fontsize=8, ncols=len(class_names), loc="lower right", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    return figure


def data_uri(figure: Figure) -> str:
    """A figure as WebP that a page can hold in itself."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", dpi=130, pil_kwargs={"quality": 88})
    plt.close(figure)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
