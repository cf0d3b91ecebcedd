"""Figures of scores, and saving and display of all figures; one colour per model in the whole report."""

import base64
import html
import io
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import HTML
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from rhseg_lib.catalogue import SHORT
from rhseg_lib.evaluation.compare import is_significant
from rhseg_lib.files import write_atomically
from rhseg_lib.report.overlays import CLASS_COLOURS

MODEL_COLOURS = dict(zip(SHORT, sns.color_palette("deep", len(SHORT)).as_hex(), strict=True))
ACCENT, GREY = "#9a3412", "#57606a"
INK = "#1f2328"
DOTTED: dict[str, Any] = {"color": INK, "lw": 1, "ls": ":"}  # a reference line
CHINESE = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "Microsoft YaHei", "SimHei", "PingFang SC")

BOXES = "Boxes stand for characters that no font of this machine has; with Noto Sans CJK installed, they are drawn."


def subplots(
    size: tuple[float, float], *, rows: int = 1, columns: int = 1, sharey: bool = False
) -> tuple[Figure, np.ndarray]:
    """A figure of `size` inches in the report's style, with a tight layout, and its axes (rows * columns,).

    Characters that seaborn's fonts lack are taken from an installed Chinese font, if there is one.
    """
    installed = {font.name for font in font_manager.fontManager.ttflist}
    fonts = ["sans-serif", *[name for name in CHINESE if name in installed][:1]]
    rc = {"axes.titlesize": "medium", "legend.frameon": False, "font.family": fonts}
    sns.set_theme(style="whitegrid", context="notebook", font_scale=0.9, rc=rc)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=sharey, layout="tight", squeeze=False)
    return figure, axes.ravel()


def show(figure: Figure, path: Path, *, alt: str, caption: str) -> HTML:
    """Save a figure as WebP at `path` and show it with its caption; `alt` describes it for screen readers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _webp(figure))
    return show_file(path, alt=alt, caption=caption)


def show_file(path: Path, *, alt: str, caption: str) -> HTML:
    """Show a figure saved by an earlier notebook."""
    return HTML(
        f'<figure><img src="{_uri(path.read_bytes())}" alt="{html.escape(alt)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def data_uri(figure: Figure) -> str:
    """Encode a figure as a WebP data URI, to embed in a page."""
    return _uri(_webp(figure))


def _webp(figure: Figure) -> bytes:
    """The figure as a file; if it holds boxes instead of characters, it says so itself."""
    missing, content = "Glyph .* missing from", io.BytesIO()
    save = partial(figure.savefig, content, format="webp", dpi=130, bbox_inches="tight", pil_kwargs={"quality": 88})
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=missing)
        try:
            save()
        except UserWarning:
            warnings.filterwarnings("ignore", message=missing)
            figure.text(0.5, -0.01, BOXES, ha="center", va="top", fontsize=8, color=ACCENT)
            save()
    plt.close(figure)
    return content.getvalue()


def _uri(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"


def colour_histograms(images: np.ndarray, masks: np.ndarray, class_names: tuple[str, ...]) -> Figure:
    """Distribution of red, green, blue and brightness in each class: how far colour alone separates the classes."""
    figure, axes = subplots((12, 2.7), columns=4, sharey=True)
    channels = {"red": images[..., 0], "green": images[..., 1], "blue": images[..., 2], "mean": images.mean(-1)}
    for axis, (title, values) in zip(axes, channels.items(), strict=True):
        for index in np.unique(masks[masks < len(class_names)]):  # of a class without pixels, there is no distribution
            axis.hist(
                values[masks == index], bins=64, range=(0, 256), density=True, histtype="step", lw=1.8,
                color=CLASS_COLOURS[index], label=class_names[index].replace("_", " "),
            )  # fmt: skip
        axis.set(title=title, xlabel="value", yticks=[])
    axes[0].set_ylabel("density")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, fontsize=8, ncols=8, loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def training_curves(history: pd.DataFrame, *, label: str) -> Figure:
    """Loss, training mIoU and learning rate, epoch by epoch."""
    figure, axes = subplots((12, 3), columns=3)
    titles = {"loss": "loss", "train_miou": "mIoU of the training batches", "learning_rate": "learning rate"}
    for axis, (column, title) in zip(axes, titles.items(), strict=True):
        axis.plot(history["epoch"], history[column], marker="o", ms=3.5, color=ACCENT)
        axis.set(title=title, xlabel="epoch", ylim=(0, None))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if "validation_miou" in history:
        axes[1].plot(history["epoch"], history["validation_miou"], marker="o", ms=3.5, color=INK, label="held out")
        axes[1].legend(fontsize=8)
    figure.suptitle(label, y=1.02)
    return figure


def forest(table: pd.DataFrame, *, value: str, xlabel: str, zero: bool = False) -> Figure:
    """One line per row of `table`, labelled by its index: the value and its interval; `zero` marks no effect.

    Solid from ``low`` to ``high``, covering images and seeds. Where these are NaN, dashed from ``weights_low`` to
    ``weights_high``, for these weights alone.
    """
    figure, (axis,) = subplots((9, 0.42 * len(table) + 1))
    for place, (_, row) in enumerate(table.iterrows()):
        known = not np.isnan(row["low"])
        ends = ("low", "high") if known else ("weights_low", "weights_high")
        axis.plot(row[[*ends]], [place, place], color=GREY, lw=2, ls="-" if known else (0, (2, 2)))
        axis.plot(row[value], place, "o", color=ACCENT, mfc=ACCENT if known else "white", ms=7)
    if zero:
        axis.axvline(0, **DOTTED)
    axis.set(yticks=range(len(table)), yticklabels=table.index, xlabel=xlabel, ylim=(len(table) - 0.4, -0.6))
    axis.grid(axis="y", visible=False)
    return figure


def model_forest(summary: pd.DataFrame, references: dict[str, float]) -> Figure:
    """Mean IoU and interval of each model (per cent); dotted lines: pixel classifiers, inter-annotator agreement."""
    table = summary.set_index([[SHORT[model] for model in summary.index]])
    figure = forest(table, value="miou", xlabel="mIoU, %")
    (axis,) = figure.axes
    for (name, value), style in zip(references.items(), (":", "-.", "--"), strict=False):
        axis.axvline(value, color=INK, lw=1.2, ls=style, label=f"{name} {value:.1f}")
    if references:
        figure.legend(loc="upper center", ncols=len(references), fontsize=8, bbox_to_anchor=(0.5, 0))
    return figure


def cost_scatter(table: pd.DataFrame, costs: dict[str, str]) -> Figure:
    """Mean IoU against each cost column (logarithmic), one labelled dot per model.

    `table` is indexed by model, with ``miou`` in per cent; `costs` maps a column to its axis label.
    """
    figure, axes = subplots((12, 4.2), columns=len(costs), sharey=True)
    for axis, (column, label) in zip(axes, costs.items(), strict=True):
        for model, row in table.iterrows():
            axis.scatter(row[column], row["miou"], s=60, color=MODEL_COLOURS[model], label=SHORT[model], zorder=3)
        axis.set(xscale="log", xlabel=label)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("mIoU, %")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper center", ncols=5, bbox_to_anchor=(0.5, 0))
    return figure


def pairwise_matrix(pairs: pd.DataFrame, *, models: list[str]) -> Figure:
    """Differences of mIoU, row minus column, in points; bold where significant; small ones pale.

    `pairs` is a table of `compare.compare_models`, with at least one pair.
    """
    grid = pd.DataFrame(np.nan, index=models, columns=models)
    bold = set()
    for row in pairs.itertuples():
        grid.loc[row.first, row.second] = row.difference
        grid.loc[row.second, row.first] = -row.difference
        if is_significant(row._asdict()):
            bold |= {(row.first, row.second), (row.second, row.first)}
    figure, (axis,) = subplots((3 + 0.75 * len(models), 1.4 + 0.5 * len(models)))
    grid = grid.round(1) + 0.0  # no -0.0
    limit = max(grid.abs().max().max(), 5)
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
    return figure


def verdict_bar(ledger: pd.DataFrame) -> Figure:
    """Number of claims per verdict."""
    colours = {
        "reproduced": "#2da44e",
        "not reproduced": "#cf222e",
        "inconsistent in the paper": "#d4a72c",
        "not testable with this data": "#8c959f",
    }
    counts = ledger["verdict"].value_counts().reindex(colours).dropna()
    figure, (axis,) = subplots((11, 1.3))
    left = 0
    for verdict, count in counts.items():
        bar = axis.barh(0, count, left=left, color=colours[verdict], edgecolor="white", label=verdict)
        axis.bar_label(bar, label_type="center", color="white", weight="bold")
        left += count
    axis.legend(loc="upper center", ncols=4, bbox_to_anchor=(0.5, 0.02))
    axis.set_axis_off()
    figure.set_layout_engine("none")
    return figure


def histogram(values: pd.Series, *, xlabel: str) -> Figure:
    """Distribution of one measured quantity."""
    figure, (axis,) = subplots((7, 2.8))
    axis.hist(values, bins=30, color=ACCENT, edgecolor="white")
    axis.set(xlabel=xlabel, ylabel="count")
    return figure


def image_spread(per_image: dict[str, np.ndarray]) -> Figure:
    """mIoU (per cent) of each test image, one row of dots per model."""
    table = pd.DataFrame({SHORT[model]: 100 * values for model, values in per_image.items()})
    figure, (axis,) = subplots((10, 0.5 * len(per_image) + 1))
    sns.boxplot(table, orient="h", ax=axis, color="#eaeef2", fliersize=0, width=0.6)
    spread = np.random.default_rng(0).uniform(-0.1, 0.1, len(table))  # the same in every run
    for row, model in enumerate(table):
        axis.scatter(table[model], row + spread, s=9, color=ACCENT, alpha=0.6, linewidths=0, zorder=3)
    axis.set(xlabel="mIoU of an image, %", ylabel="")
    return figure


def confusion_heatmaps(matrices: dict[str, np.ndarray], class_names: tuple[str, ...]) -> Figure:
    """Confusion matrices (K, K), each row as percentages of the annotated class."""
    columns = 4 if len(class_names) <= 6 else 1
    rows, height = -(-len(matrices) // columns), 3 if columns > 1 else 1.5 + 0.4 * len(class_names)
    figure, axes = subplots((12, height * rows), rows=rows, columns=columns)
    names = [name.replace("_", "\n") for name in class_names]
    for axis in axes[len(matrices) :]:
        axis.set_axis_off()
    for axis, (model, matrix) in zip(axes, matrices.items(), strict=False):
        shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        sns.heatmap(
            shares, annot=True, fmt=".0f", cmap="Blues", vmin=0, vmax=100, cbar=False, square=True, ax=axis,
            xticklabels=names, yticklabels=names,
        )  # fmt: skip
        axis.set_title(SHORT[model], fontsize=9)
        axis.tick_params(labelsize=7)
        axis.tick_params(axis="y", rotation=0)
    return figure


def speed_ladder(training: pd.DataFrame) -> Figure:
    """Training speed of every model relative to the plain loop, one bar per option added."""
    table = training["times_plain"].unstack("step", sort=False)
    figure, (axis,) = subplots((10, 0.16 * table.size + 1.4))
    table.rename(index=SHORT).plot.barh(ax=axis, width=0.8, color=sns.color_palette("crest", table.shape[1]))
    axis.axvline(1, **DOTTED)
    axis.set(xlabel="training speed, times the plain loop", ylabel="")
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.legend(bbox_to_anchor=(1.01, 1), loc="upper left")
    return figure


def shares_over_time(table: pd.DataFrame, class_names: tuple[str, ...]) -> Figure:
    """Percentage of the frame in each class over time; grey where the model abstains.

    `table` has the columns seconds, abstain and ``<class>_percent``, a row per frame; background is not drawn.
    """
    figure, (axis,) = subplots((11, 2.8))
    seconds, half = table["seconds"].to_numpy(), table["seconds"].diff().median() / 2
    edges = np.stack([seconds - half, seconds + half], axis=1).ravel()  # start and end of every frame
    everywhere, abstained = axis.get_xaxis_transform(), table["abstain"].repeat(2)
    axis.fill_between(edges, 0, 1, where=abstained, transform=everywhere, color="#d8dee4", lw=0, zorder=0)
    for colour, name in zip(CLASS_COLOURS[1:], class_names[1:], strict=False):
        shares, label = table[f"{name}_percent"].where(~table["abstain"]), name.replace("_", " ")
        axis.plot(seconds, shares, color=colour, lw=1.6, label=label)
    axis.set(xlabel="seconds", ylabel="% of the frame", ylim=(0, None), xlim=(seconds[0] - half, seconds[-1] + half))
    axis.legend(fontsize=8, ncols=min(len(class_names), 8), loc="lower right", bbox_to_anchor=(1, 1))
    return figure
