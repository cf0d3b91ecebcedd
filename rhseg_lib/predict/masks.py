"""From an image to its mask: fitted to the network's size, segmented, enlarged to its own size, measured."""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import nn

from rhseg_lib.dataset.batches import normalize
from rhseg_lib.evaluation.inference import confidence
from rhseg_lib.sources import images

STRIP = 2**18  # pixels of the strips in which logits are resized to the image's own size: they fit the cache
Network = nn.Module | Callable[[np.ndarray], np.ndarray]  # in PyTorch, or of `runtime.open_weights`


def prepare(image: np.ndarray, size: int) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Fit an image into a grey square as in the VOC tree: (H, W, 3) -> (size, size, 3), and its place there."""
    small = images.fit_image(image, images.fitted_size(image.shape, size))
    return images.pad(small, size, images.MARGIN_GREY), images.inside_square(small.shape, size)


def network_logits(network: Network, squares: np.ndarray) -> np.ndarray:
    """(B, S, S, 3) uint8 -> (B, K, S, S) float32, on the network's device."""
    if not isinstance(network, nn.Module):
        return network(squares)
    images = torch.from_numpy(squares).permute(0, 3, 1, 2).to(next(network.parameters()).device)
    with torch.inference_mode():
        return network(normalize(images)).float().cpu().numpy()


def classes_at_size(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """Most probable class at an image's own size: (K, h, w), resized bilinearly strip by strip -> (H, W) uint8."""
    mask, rows = np.zeros((height, width), np.uint8), max(1, STRIP // width)
    for top in range(0, height, rows):
        above, below, weight = _neighbours(logits.shape[1], height, range(top, min(top + rows, height)))
        strip = logits[:, above] + (logits[:, below] - logits[:, above]) * weight[:, None]  # (K, rows, w)
        classes = mask[top : top + rows]
        highest = cv2.resize(strip[0], (width, len(classes)))  # (rows, W)
        for number, scores in enumerate(strip[1:], 1):
            here = cv2.resize(scores, (width, len(classes)))
            np.copyto(classes, number, where=here > highest)
            np.maximum(highest, here, out=highest)
    return mask


def _neighbours(length: int, enlarged: int, rows: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two values between which each row of the enlarged axis lies, and the weight of the second."""
    places = ((np.array(rows) + 0.5) * length / enlarged - 0.5).clip(0, length - 1)
    first = places.astype(int)
    return first, np.minimum(first + 1, length - 1), (places - first).astype(np.float32)


class Measured(NamedTuple):
    """What the table says of a mask."""

    pixels: list[int]  # of each class
    confidence: float


def measure(mask: np.ndarray, logits: np.ndarray) -> Measured:
    """All that is measured of one image: (H, W) uint8 at its own size, (K, h, w) at the network's, without margin."""
    pixels = [int(np.count_nonzero(mask == index)) for index in range(len(logits))]
    return Measured(pixels, round(confidence(logits), 4))
