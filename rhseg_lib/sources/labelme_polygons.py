"""Mask -> Labelme's polygons, so that a person can correct what a model has drawn."""

from collections.abc import Iterator

import cv2
import numpy as np

SPECK = 9  # pixels: smaller regions and holes are left out


def polygons_of(mask: np.ndarray, classes: tuple[str, ...], tolerance: float) -> list[tuple[str, np.ndarray]]:
    """Label and (N, 2) x, y corners of every region of a (H, W) uint8 mask with values 1, 2, ... for `classes`.

    Outlines are simplified by at most `tolerance` pixels. Polygons have no holes: a region with a hole is cut in two
    there. Rasterised as Labelme does it, the polygons give the mask again, but for `tolerance` and `SPECK`.
    """
    return [
        (label, corners)
        for value, label in enumerate(classes, 1)
        for corners in _outlines((mask == value).astype(np.uint8), tolerance, (0, 0))
    ]


def _outlines(region: np.ndarray, tolerance: float, corner: tuple[int, int]) -> Iterator[np.ndarray]:
    """Outlines of the connected parts of a (h, w) uint8 region, whose upper left pixel is at x, y `corner`."""
    found, tree = cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    holes = dict[int, list[np.ndarray]]()  # outlines of holes, by the contour that they are in
    for contour, (*_, parent) in zip(found, tree[0] if tree is not None else (), strict=True):
        if parent >= 0 and cv2.contourArea(contour) - len(contour) / 2 + 1 >= SPECK:  # pixels inside it, as Pick counts
            holes.setdefault(parent, []).append(contour)
    for index, contour in enumerate(found):
        if tree[0][index][3] >= 0:
            continue
        left, top, width, height = cv2.boundingRect(contour)
        x, y = corner[0] + left, corner[1] + top
        if index in holes:
            part = np.zeros((height, width), np.uint8)
            cv2.drawContours(part, [contour], -1, 1, cv2.FILLED, offset=(-left, -top))
            part &= region[top : top + height, left : left + width]
            middle = min(_middle(hole) for hole in holes[index]) - left + 1
            yield from _outlines(part[:, :middle], tolerance, (x, y))
            yield from _outlines(part[:, middle:], tolerance, (x + middle, y))
        elif cv2.contourArea(contour) + len(contour) / 2 + 1 >= SPECK:  # pixels inside it and on it
            corners = cv2.approxPolyDP(contour, tolerance, True)[:, 0] + corner  # (N, 2)
            if len(corners) > 2:
                yield corners


def _middle(hole: np.ndarray) -> int:
    """Column through the middle of a hole's outline."""
    left, _, width, _ = cv2.boundingRect(hole)
    return left + width // 2
