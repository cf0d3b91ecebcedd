"""Predictions of a trained model, and their confidence."""

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
def confidences(model: nn.Module, images: torch.Tensor, masks: torch.Tensor) -> np.ndarray:
    """The `confidence` of each image on the pixels that its mask does not ignore, (N,) float64."""
    device = next(model.parameters()).device
    logits = (image for batch in images.split(8) for image in model(normalize(batch.to(device))).cpu().numpy())
    pairs = zip(logits, masks.numpy() != IGNORE_INDEX, strict=True)
    return np.array([confidence(image[:, inside]) for image, inside in pairs])


def abstention_bound(model: nn.Module, images: torch.Tensor, masks: torch.Tensor) -> float:
    """1st percentile of the confidence of the images that are not wholly ignored; 0 without any.

    Images of background alone count: that nothing is there is an answer like any other.
    """
    shown = (masks != IGNORE_INDEX).flatten(1).any(1)
    return float(np.quantile(confidences(model, images[shown], masks[shown]), 0.01)) if shown.any() else 0.0


def confidence(logits: np.ndarray) -> float:
    """Score from 0 to 1 to sort images by, the least confident first: a ranking, not a calibrated probability.

    It is the mean probability of the predicted class on the less sure half of its pixels, averaged over the classes
    that are predicted, background included. The less sure half, since the inside of an object says little: errors are
    at outlines, and in regions that are doubtful as a whole. Averaged over classes, since background would outweigh
    the others. Classes that are not predicted do not count: an image that surely shows none is near 1.
    `logits` is (K, ...), of the image's pixels without its margin.
    """
    mask, highest = logits.argmax(0), 1 / np.exp(logits - logits.max(0)).sum(0)
    pixels = [np.sort(highest[mask == k]) for k in np.unique(mask)]
    return float(np.mean([values[: (len(values) + 1) // 2].mean() for values in pixels]))
