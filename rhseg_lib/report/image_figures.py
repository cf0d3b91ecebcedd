"""Figures of images: contact sheets, Figure 5, attention maps."""

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from rhseg_lib.catalogue import SHORT
from rhseg_lib.report.figures import subplots
from rhseg_lib.report.overlays import CLASS_COLOURS, WRONG, attention_heat, blend, error_map


def contact_sheet(images: list[np.ndarray], *, columns: int, titles: list[str] | None = None) -> Figure:
    """A tight grid of at least one image (H, W, 3) uint8."""
    rows = -(-len(images) // columns)
    tallest = max(image.shape[0] / image.shape[1] for image in images)
    height = 12 / columns * (tallest + (0.08 if titles is None else 0.2))
    figure, axes = subplots((12, rows * height), rows=rows, columns=columns)
    for axis in axes:
        axis.set_axis_off()
    for axis, image, title in zip(axes, images, titles or [""] * len(images), strict=False):
        axis.imshow(image)
        axis.set_title(title, fontsize=9, pad=3, parse_math=False)  # a file name may contain $
    figure.set_layout_engine("tight", pad=0.3)
    return figure


def segmentation_grid(
    images: np.ndarray, truth: np.ndarray, predictions: dict[str, np.ndarray], *, row_titles: list[str],
    class_names: tuple[str, ...],
) -> Figure:  # fmt: skip
    """Figure 5: image, annotation, every model's segmentation and, below each, its errors.

    `images` are (N, H, W, 3) uint8, `truth` and each model's `predictions` (N, H, W) uint8.
    """
    if len(predictions) <= 2:
        return _rows(images, truth, predictions, row_titles, class_names)
    rows, columns = 2 * len(images), 2 + len(predictions)
    figure, axes = subplots((1.32 * columns, 1.36 * rows), rows=rows, columns=columns)
    axes = axes.reshape(len(images), 2, columns)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for (top, bottom), image, true, title in zip(axes, images, truth, row_titles, strict=True):
        top[0].imshow(image)
        top[0].set_ylabel(title, fontsize=8)
        top[1].imshow(blend(image, true))
        for axis in bottom[:2]:
            axis.set_visible(False)
    for column, masks in enumerate(predictions.values(), start=2):
        for (top, bottom), image, true, predicted in zip(axes[..., column], images, truth, masks, strict=True):
            top.imshow(blend(image, predicted))
            bottom.imshow(error_map(true, predicted))
    column_titles = ["image", "annotation", *(SHORT[model] for model in predictions)]
    for axis, title in zip(axes[0, 0], column_titles, strict=True):
        axis.set_title(title, fontsize=8)
    sns.despine(figure, left=True, bottom=True)
    figure.set_layout_engine("none")
    figure.subplots_adjust(left=0.03, right=1, bottom=0, top=1, wspace=0.04, hspace=0.05)
    _legend(figure, class_names, wrong="wrong pixel (lower rows)")
    return figure


def _rows(
    images: np.ndarray, truth: np.ndarray, predictions: dict[str, np.ndarray], row_titles: list[str],
    class_names: tuple[str, ...],
) -> Figure:  # fmt: skip
    """The same for few models, a row per image: the errors stand beside each segmentation."""
    panels, titles = [], []
    for index, title in enumerate(row_titles):
        panels += [images[index], blend(images[index], truth[index])]
        titles += [title, "annotation"]
        for model, masks in predictions.items():
            panels += [blend(images[index], masks[index]), error_map(truth[index], masks[index])]
            titles += [SHORT[model], f"{SHORT[model]}: wrong pixels"]
    figure = contact_sheet(panels, columns=2 + 2 * len(predictions), titles=titles)
    _legend(figure, class_names, wrong="wrong pixel")
    return figure


def _legend(figure: Figure, class_names: tuple[str, ...], *, wrong: str) -> None:
    """The colours of the classes and of wrong pixels, below the figure."""
    colours = zip(CLASS_COLOURS[1:], class_names[1:], strict=False)
    handles = [Patch(color=colour, label=name.replace("_", " ")) for colour, name in colours]
    handles += [Patch(color=WRONG, label=wrong)]
    ncols = min(len(handles), 6)
    figure.legend(handles=handles, loc="upper center", ncols=ncols, fontsize=9, bbox_to_anchor=(0.5, 0))


def attention_maps(image: np.ndarray, maps: np.ndarray) -> Figure:
    """EMA's weight maps over an image: (H, W, 3) uint8 and (G, h, w) in (0, 1), one panel per group."""
    panels, titles = [image], ["image"]
    for group, weights in enumerate(maps, 1):
        panels.append(attention_heat(image, weights, opacity=0.65))
        titles.append(f"group {group}\n{weights.min():.2f}–{weights.max():.2f}")
    return contact_sheet(panels, columns=len(panels), titles=titles)


def one_per_operation(copies: list[str], copy_of: dict[str, str]) -> list[tuple[str, str]]:
    """The first (original, copy) of each augmentation."""
    pairs: dict[str, tuple[str, str]] = {}
    for copy in copies:
        pairs.setdefault(copy.removeprefix(copy_of[copy]), (copy_of[copy], copy))
    return list(pairs.values())


def place_maps(masks: np.ndarray, class_names: tuple[str, ...]) -> Figure:
    """Frequency of each class at each pixel: how far position alone separates the classes."""
    columns = min(len(class_names), 6)
    rows = -(-len(class_names) // columns)
    figure, axes = subplots((3.2 * columns, 3 * rows), rows=rows, columns=columns)
    figure.set_layout_engine("none")  # the colour bar takes its space from the axes
    for axis in axes[len(class_names) :]:
        axis.set_axis_off()
    for index, (axis, name) in enumerate(zip(axes, class_names, strict=False)):
        shown = axis.imshow((masks == index).mean(0), vmin=0, vmax=1, cmap="viridis")
        axis.set(title=name, xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes, label="share of the images", shrink=0.8)
    return figure
