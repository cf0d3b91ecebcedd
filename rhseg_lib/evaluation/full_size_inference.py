"""From an image to its mask: fitted to the network, segmented, enlarged to its own size; or tile by tile."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import nn

from rhseg_lib.dataset.batches import normalize
from rhseg_lib.evaluation.inference import confidence, confidence_of
from rhseg_lib.evaluation.tiled_inference import segment_tiles
from rhseg_lib.evaluation.weights import Card
from rhseg_lib.sources import images

STRIP = 2**18  # pixels of the strips in which logits are resized to the image's own size: they fit the cache
Network = nn.Module | Callable[[np.ndarray], np.ndarray]  # in PyTorch, or of `runtime.open_weights`


class Fitted(NamedTuple):
    """An image as the network takes it."""

    image: np.ndarray  # (S, S, 3) uint8 with its margin; of tiles, the whole image (H, W, 3)
    inside: tuple[slice, slice] | None  # the image's place in the square; None of tiles
    height: int  # of the image itself, in pixels
    width: int


class Segmented(NamedTuple):
    mask: np.ndarray  # (H, W) uint8, the most probable class of each pixel
    confidence: float


def fit(image: np.ndarray, card: Card) -> Fitted:
    """Fit an image (H, W, 3) uint8 to the network of a card."""
    if card.tile:
        return Fitted(image, None, *image.shape[:2])
    return Fitted(*prepare(image, card.image_size), *image.shape[:2])


def network_outputs(network: Network, card: Card, fitted: Sequence[np.ndarray]) -> list:
    """What the network says of fitted images: logits with the margin (K, S, S), or the `certainty` of tiles."""
    if card.tile:
        logits_of = partial(network_logits, network)
        return [segment_tiles(one, logits_of, image_size=card.image_size, tile=card.tile) for one in fitted]
    return list(network_logits(network, np.stack(fitted))) if len(fitted) else []


def segmented(output, fitted: Fitted) -> Segmented:
    """The mask of an image at its own size, and the confidence in it, from one of `network_outputs`."""
    if fitted.inside is None:
        return Segmented(output[0], confidence_of(*output))
    logits = output[:, *fitted.inside]
    return Segmented(classes_at_size(logits, fitted.height, fitted.width), confidence(logits))


def mirrored(output, fitted: Fitted) -> np.ndarray:
    """The mask (H, W) of an image from the output for its mirror image (`fitted.image` mirrored), mirrored back."""
    if fitted.inside is None:
        return output[0][:, ::-1]
    return classes_at_size(output[:, :, ::-1][:, *fitted.inside], fitted.height, fitted.width)


def segment_image(image: np.ndarray, network: Network, card: Card) -> Segmented:
    """Segment one image (H, W, 3) uint8 at its own size."""
    fitted = fit(image, card)
    return segmented(network_outputs(network, card, [fitted.image])[0], fitted)


def segment_pair(image: np.ndarray, network: Network, card: Card) -> tuple[np.ndarray, np.ndarray]:
    """Masks (H, W) of an image and, mirrored back, of its mirror image."""
    fitted = fit(image, card)
    outputs = network_outputs(network, card, [fitted.image, np.ascontiguousarray(fitted.image[:, ::-1])])
    return segmented(outputs[0], fitted).mask, mirrored(outputs[1], fitted)


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
