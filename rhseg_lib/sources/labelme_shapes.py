"""Labelme's shapes -> mask.

Masks agree with the export of the Labelme version that wrote the file: PIL draws shapes with outline and fill, in file
order, later ones on top. Since version 7, line strips have round joints, and a mask's corner between pixels is rounded
to the nearest.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from rhseg_lib.errors import StudyError
from rhseg_lib.sources.images import IGNORE_INDEX

BACKGROUND_LABELS = ("_background_", "__background__", "background")
LINE_WIDTH, POINT_RADIUS = 10, 5  # pixels, as in Labelme


@dataclass(frozen=True)
class Shape:
    """One drawn shape; which shapes form one object (Labelme's group ids) does not affect a semantic mask."""

    label: str
    points: np.ndarray  # (N, 2) float64, x and y in pixels
    shape_type: str
    mask: np.ndarray | None = None  # (h, w) bool, the patch of a mask shape
    round_joints: bool = False  # of a line strip


def label_ids(
    classes: tuple[str, ...], ignore_labels: tuple[str, ...], background_labels: tuple[str, ...] = ()
) -> dict[str, int]:
    """Mask value of every known label: 1, 2, ... in the order of `classes`, 255 ignore, 0 background."""
    ids = {label: index for index, label in enumerate(classes, 1)}
    others = dict.fromkeys(ignore_labels, IGNORE_INDEX) | dict.fromkeys((*background_labels, *BACKGROUND_LABELS), 0)
    given = (*classes, *ignore_labels, *background_labels)
    if len(set(given)) < len(given) or set(BACKGROUND_LABELS) & {*classes, *ignore_labels}:
        fix = "list each label once: as class, ignored or background; 'background' cannot be a class"
        raise StudyError(f"the classes {classes} do not fit", where="classes, ignore and background labels", fix=fix)
    return ids | others


def rasterize(
    shapes: Sequence[Shape], height: int, width: int, *, labels: dict[str, int], class_priority: tuple[str, ...] | None
) -> tuple[np.ndarray, Counter]:
    """Paint shapes into a mask, (H, W) uint8 with the values of `labels` (see `label_ids`).

    With `class_priority` None, shapes are painted in file order, as Labelme does. Otherwise classes are painted in
    that order, later ones on top, above background objects. Ignored regions and holes (shapes labelled
    ``_background_``) come last, as they remove pixels from the classes.

    Also counts the pixels of a class that a later shape painted over, by (class lost, label painted).
    """
    if class_priority is not None:
        rank = {label: index for index, label in enumerate(class_priority)}
        objects = {label for label, index in labels.items() if index == 0 and label not in BACKGROUND_LABELS}
        shapes = sorted(shapes, key=lambda shape: -1 if shape.label in objects else rank.get(shape.label, len(rank)))
    canvas, overwritten, painted = Image.new("L", (width, height)), Counter[tuple[str, str]](), set[str]()
    for shape in shapes:
        value, others = labels[shape.label], painted - {shape.label}
        box = _bounds(shape, width, height)
        before = np.asarray(canvas.crop(box)) if others else None
        _draw(shape, canvas, value)
        if before is not None and before.any():
            changed = before != np.asarray(canvas.crop(box))
            for label in others:
                if lost := np.count_nonzero(changed & (before == labels[label])):
                    overwritten[label, shape.label] += int(lost)
        if value not in (0, IGNORE_INDEX):
            painted.add(shape.label)
    return np.asarray(canvas), overwritten


def _draw(shape: Shape, canvas: Image.Image, value: int) -> None:
    """Draw one shape as Labelme does."""
    draw = ImageDraw.Draw(canvas)
    points = [tuple(point) for point in shape.points.tolist()]
    match shape.shape_type:
        case "polygon" | "oriented_rectangle":
            draw.polygon(points, outline=value, fill=value)
        case "rectangle":
            draw.rectangle([*shape.points.min(0), *shape.points.max(0)], outline=value, fill=value)
        case "line" | "linestrip":
            draw.line(points, fill=value, width=LINE_WIDTH, joint="curve" if shape.round_joints else None)
        case "circle" | "point":
            (x, y), radius = points[0], _radius(shape)
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=value, fill=value)
        case "mask" if shape.mask is not None:
            canvas.paste(value, _corner(shape), Image.fromarray(shape.mask))


def _bounds(shape: Shape, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a box outside which the shape draws nothing."""
    if shape.mask is not None:
        corner = _corner(shape)
        box = [*corner, *np.add(corner, shape.mask.shape[::-1])]
    else:
        reach = _radius(shape) if shape.shape_type in ("circle", "point") else LINE_WIDTH
        box = [*np.floor(shape.points.min(0) - reach - 1), *np.ceil(shape.points.max(0) + reach + 2)]
    return tuple(np.clip(box, 0, [width, height] * 2).astype(int).tolist())


def _radius(shape: Shape) -> float:
    """Radius of a circle, whose second point lies on its edge, or of a point."""
    return math.dist(*shape.points) if shape.shape_type == "circle" else POINT_RADIUS


def _corner(shape: Shape) -> tuple[int, int]:
    """x and y of the patch of a mask shape."""
    return tuple(shape.points.min(0).round().astype(int).tolist())
