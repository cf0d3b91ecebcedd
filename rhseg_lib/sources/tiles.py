"""Large images in tiles, so that thin structures keep their pixels: where tiles begin, and how an image is cut."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from rhseg_lib.sources.images import IGNORE_INDEX, fit


class Piece(NamedTuple):
    """What one image of the study shows: a whole image, or a tile of it."""

    name: str
    image: np.ndarray  # (h, w, 3) uint8 at its own size
    mask: np.ndarray  # (h, w) uint8


class Cutting(NamedTuple):
    """How the images of a source become images of the study."""

    image_size: int  # of the study's images, pixels
    tile: int | None = None  # side in pixels of the tiles that images are cut into; None: images stay whole

    def pieces(self, name: str, image: np.ndarray, mask: np.ndarray) -> list[Piece]:
        """The image, or its tiles ``<name>_r<row>c<column>``, without those that are wholly ignored unless all are.

        Tiles overlap no more than it takes to cover the image with whole ones; each pixel counts in one tile, and is
        ignored in the others.
        """
        if self.tile is None:
            return [Piece(name, image, mask)]
        pieces = []
        rows, columns = (list(_spans(length, self.tile)) for length in mask.shape)
        for row, (above, core_rows) in enumerate(rows):
            for column, (across, core_columns) in enumerate(columns):
                counted = np.full_like(mask[above, across], IGNORE_INDEX)
                counted[core_rows, core_columns] = mask[above, across][core_rows, core_columns]
                pieces.append(Piece(f"{name}_r{row}c{column}", image[above, across], counted))
        return [piece for piece in pieces if (piece.mask != IGNORE_INDEX).any()] or pieces[:1]

    def fit(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A piece at the study's scale: `image_size` is the longer side of a whole image, or that of a whole tile."""
        return fit(image, mask, fitted_side(mask.shape, self.image_size, self.tile))


def fitted_side(shape: tuple[int, ...], image_size: int, tile: int | None) -> int:
    """Longer side of a fitted image or tile (H, W, ...); an image smaller than a tile keeps the scale of one."""
    return image_size if tile is None else max(1, round(image_size * max(shape[:2]) / tile))


def starts(length: int, tile: int, overlap: int = 0) -> list[int]:
    """Where the fewest tiles begin that cover a length, evenly spread, and share `overlap` pixels or more."""
    if length <= tile:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(index * (length - tile) / (count - 1)) for index in range(count)]


def _spans(length: int, tile: int) -> Iterator[tuple[slice, slice]]:
    """Each tile along an axis, and the part of it, relative to the tile, that no other tile counts."""
    begins = starts(length, tile)
    middles = [(begin + tile + following) // 2 for begin, following in pairwise(begins)]
    for begin, first, last in zip(begins, [0, *middles], [*middles, length], strict=True):
        yield slice(begin, min(begin + tile, length)), slice(first - begin, last - begin)
