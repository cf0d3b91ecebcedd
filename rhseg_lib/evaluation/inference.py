"""Predictions of a trained model, and their confidence."""

from collections.abc import Sequence
from itertools import compress, groupby
from operator import itemgetter

import numpy as np
import torch
from torch import nn

from rhseg_lib.dataset.batches import normalize
from rhseg_lib.evaluation.metrics import confusion_matrices
from rhseg_lib.sources.images import IGNORE_INDEX


@torch.inference_mode()
def predict(model: nn.Module, images: torch.Tensor, *, batch_size: int = 8) -> torch.Tensor:
    """Most probable class of every pixel: uint8 (N, 3, H, W) -> uint8 (N, H, W), on the model's device."""
    device = next(model.parameters()).device
    predictions = [model(normalize(batch.to(device))).argmax(1).to(torch.uint8) for batch in images.split(batch_size)]
    return torch.cat(predictions)


def confusions(masks: torch.Tensor, predictions: torch.Tensor, num_classes: int) -> np.ndarray:
    """Confusion matrix of each image, (N, K, K) int64, counted on the device of the predictions."""
    pairs = zip(masks.split(8), predictions.split(8), strict=True)
    matrices = [confusion_matrices(truth.to(prediction.device), prediction, num_classes) for truth, prediction in pairs]
    return torch.cat(matrices).cpu().numpy()


@torch.inference_mode()
def confidences(model: nn.Module, images: torch.Tensor, masks: torch.Tensor, wholes: Sequence[str] = ()) -> np.ndarray:
    """The `confidence` of each image on the pixels that its mask does not ignore, (N,) float64.

    `wholes` names the image that each is a tile of: tiles of one that follow each other count as one image.
    """
    device = next(model.parameters()).device
    logits = (image for batch in images.split(8) for image in model(normalize(batch.to(device))).cpu().numpy())
    inside = (certainty(image[:, of != IGNORE_INDEX]) for image, of in zip(logits, masks.numpy(), strict=True))
    numbered = zip(wholes or range(len(images)), inside, strict=True)
    groups = ([tile for _, tile in some] for _, some in groupby(numbered, key=itemgetter(0)))
    return np.array([confidence_of(*map(np.concatenate, zip(*tiles, strict=True))) for tiles in groups])


def abstention_bound(model: nn.Module, images: torch.Tensor, masks: torch.Tensor, wholes: Sequence[str] = ()) -> float:
    """1st percentile of the confidence of the images that are not wholly ignored; 0 without any.

    Images of background alone count: that nothing is there is an answer like any other. `wholes`: see `confidences`.
    """
    shown = (masks != IGNORE_INDEX).flatten(1).any(1)
    some = list(compress(wholes, shown.tolist()))
    return float(np.quantile(confidences(model, images[shown], masks[shown], some), 0.01)) if shown.any() else 0.0


def certainty(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class predicted for each pixel, and its probability: (K, ...) -> (...) int64 and (...) float32."""
    return logits.argmax(0), 1 / np.exp(logits - logits.max(0)).sum(0)


def confidence(logits: np.ndarray) -> float:
    """Score from 0 to 1 to sort images by, the least confident first: a ranking, not a calibrated probability.

    It is the mean probability of the predicted class on the less sure half of its pixels, averaged over the classes
    that are predicted, background included. The less sure half, since the inside of an object says little: errors are
    at outlines, and in regions that are doubtful as a whole. Averaged over classes, since background would outweigh
    the others. Classes that are not predicted do not count: an image that surely shows none is near 1.
    `logits` is (K, ...), of the image's pixels without its margin.
    """
    return confidence_of(*certainty(logits))


def confidence_of(mask: np.ndarray, probability: np.ndarray) -> float:
    """The same from the `certainty` of each pixel, whose logits need not all be in memory at once."""
    pixels = [np.sort(probability[mask == k]) for k in np.unique(mask)]
    return float(np.mean([values[: (len(values) + 1) // 2].mean() for values in pixels]))
