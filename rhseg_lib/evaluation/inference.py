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
    """1st percentile of the confidence of images whose mask contains a class other than background; 0 without any."""
    shown = ((masks > 0) & (masks != IGNORE_INDEX)).flatten(1).any(1)
    return float(np.quantile(confidences(model, images[shown], masks[shown]), 0.01)) if shown.any() else 0.0


def confidence(logits: np.ndarray) -> float:
    """Mean, over the classes other than background, of the mean probability on the pixels predicted as that class.

    A class with no pixel counts as 0. A heuristic, not a calibrated probability; `logits` is (K, ...), of the image's
    pixels without its margin.
    """
    exponents = np.exp(logits - logits.max(0))
    best, greatest = logits.argmax(0), 1 / exponents.sum(0)
    return float(np.mean([greatest[best == k].mean() if (best == k).any() else 0 for k in range(1, len(logits))]))
