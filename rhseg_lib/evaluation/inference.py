"""What a trained model predicts, and how sure it is."""

from __future__ import annotations

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
    parts = [model(normalize(part.to(device))).argmax(1).to(torch.uint8) for part in images.split(batch_size)]
    return torch.cat(parts)


def confusions(masks: torch.Tensor, predictions: torch.Tensor, num_classes: int) -> np.ndarray:
    """Confusion matrix of every image, counted on the device of the predictions: (N, K, K) int64."""
    pairs = zip(masks.split(8), predictions.split(8), strict=True)
    parts = [confusion_matrices(true.to(found.device), found, num_classes) for true, found in pairs]
    return torch.cat(parts).cpu().numpy()


@torch.inference_mode()
def confidences(model: nn.Module, images: torch.Tensor, masks: torch.Tensor) -> np.ndarray:
    """The `confidence` of every image outside what its mask ignores, margins above all: (N,) float64."""
    device = next(model.parameters()).device
    logits = (part for images in images.split(8) for part in model(normalize(images.to(device))).cpu().numpy())
    pairs = zip(logits, masks.numpy() != IGNORE_INDEX, strict=True)
    return np.array([confidence(part[:, inside]) for part, inside in pairs])


def abstention_bound(model: nn.Module, images: torch.Tensor, masks: torch.Tensor) -> float:
    """The confidence that 99 of 100 pictures exceed, of those in which a class besides background is drawn."""
    shown = ((masks > 0) & (masks != IGNORE_INDEX)).flatten(1).any(1)
    return float(np.quantile(confidences(model, images[shown], masks[shown]), 0.01)) if shown.any() else 0.0


def confidence(logits: np.ndarray) -> float:
    """Mean over the classes but background of the mean probability where the class was given; 0 where nowhere.

    A heuristic, not a calibrated probability; `logits` is (K, ...), of the pixels of the picture without its margin.
    """
    exponents = np.exp(logits - logits.max(0))
    best, greatest = logits.argmax(0), 1 / exponents.sum(0)
    return float(np.mean([greatest[best == k].mean() if (best == k).any() else 0 for k in range(1, len(logits))]))
