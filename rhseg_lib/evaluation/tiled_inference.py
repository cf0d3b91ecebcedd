"""A large image segmented tile by tile: as many logits in memory at a time as a row of tiles has."""

from collections.abc import Callable, Iterator

import cv2
import numpy as np

from rhseg_lib.evaluation.inference import certainty
from rhseg_lib.sources.images import MARGIN_GREY, fit_image, fitted_size, inside_square, pad
from rhseg_lib.sources.tiles import fitted_side, starts

OVERLAP = 4  # neighbouring tiles share at least a fourth of their side
BATCH = 8  # tiles per forward pass


def segment_tiles(
    image: np.ndarray, logits_of: Callable[[np.ndarray], np.ndarray], *, image_size: int, tile: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `certainty` of each pixel of an image (H, W, 3): its class, (H, W) uint8, and the probability, float32.

    `logits_of` maps squares (B, S, S, 3) uint8 to logits (B, K, S, S), S being `image_size`; each square shows a tile
    of `tile` pixels. Where tiles overlap, the mean of their logits is taken, weighted by the distance to the tile's
    edge, so that no seam shows. An image smaller than a tile is one tile with a margin, as in training.
    """
    mask, probability = np.empty(image.shape[:2], np.uint8), np.empty(image.shape[:2], np.float32)
    for rows, logits in _strips(image, logits_of, image_size, tile):
        mask[rows], probability[rows] = certainty(logits)
    return mask, probability


def _strips(
    image: np.ndarray, logits_of: Callable[[np.ndarray], np.ndarray], image_size: int, tile: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of the image from top to bottom, each with its final logits (K, rows, W)."""
    height, width = (min(length, tile) for length in image.shape[:2])  # of a tile: an image may be smaller
    tops, lefts = (starts(length, tile, tile // OVERLAP) for length in image.shape[:2])
    down, across = _weights(tops, height, image.shape[0]), _weights(lefts, width, image.shape[1])
    waiting: np.ndarray | None = None  # (K, height, W): sums to which the next row of tiles adds
    for top, below, weights in zip(tops, [*tops[1:], image.shape[0]], down, strict=True):
        tiles = [image[top : top + height, left : left + width] for left in lefts]
        row = _blended(_tile_logits(tiles, logits_of, image_size, tile), lefts, across, image.shape[1])
        row *= weights[:, None]
        if waiting is not None:
            row[:, : waiting.shape[1]] += waiting
        yield slice(top, below), row[:, : below - top]
        waiting = row[:, below - top :].copy()  # not a view, which would hold the whole row


def _blended(logits: Iterator[np.ndarray], lefts: list[int], weights: list[np.ndarray], width: int) -> np.ndarray:
    """Weighted sum of a row of tiles, (K, h, w) each -> (K, h, W)."""
    row: np.ndarray | None = None
    for scores, left, weight in zip(logits, lefts, weights, strict=True):
        if row is None:
            row = np.zeros((*scores.shape[:2], width), np.float32)
        row[:, :, left : left + len(weight)] += scores * weight
    assert row is not None
    return row


def _tile_logits(
    tiles: list[np.ndarray], logits_of: Callable[[np.ndarray], np.ndarray], image_size: int, tile: int
) -> Iterator[np.ndarray]:
    """Logits of each tile (h, w, 3) at its own size, (K, h, w), resized bilinearly."""
    target = fitted_size(tiles[0].shape, fitted_side(tiles[0].shape, image_size, tile))
    for start in range(0, len(tiles), BATCH):
        fitted = [fit_image(some, target) for some in tiles[start : start + BATCH]]
        squares = np.stack([pad(some, image_size, MARGIN_GREY) for some in fitted])
        for logits in logits_of(squares)[:, :, *inside_square(fitted[0].shape, image_size)]:
            yield np.stack([cv2.resize(scores, tiles[0].shape[1::-1]) for scores in logits])


def _weights(begins: list[int], length: int, total: int) -> list[np.ndarray]:
    """Weight of each place of each tile along an axis: from its middle to its edges it falls; they sum to 1."""
    places = np.arange(length, dtype=np.float32)
    falling = np.minimum(places + 1, length - places)
    sums = np.zeros(total, np.float32)
    for begin in begins:
        sums[begin : begin + length] += falling
    return [falling / sums[begin : begin + length] for begin in begins]
