"""Overlays of classes, errors or values on images; one colour per class in the whole report."""

from typing import Any

import cv2
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import ImageColor

from rhseg_lib.sources.images import IGNORE_INDEX, VOC_PALETTE

COLOURS = {"grey": "#6e7781", "blue": "#0ea5e9", "orange": "#f59e0b"}  # background first
COLOURS |= {"green": "#10b981", "purple": "#a855f7", "red": "#ef4444"}
CLASS_COLOURS = (*COLOURS.values(), *(to_hex(rgb / 255) for rgb in VOC_PALETTE[len(COLOURS) : IGNORE_INDEX]))
COLOUR_NAMES = (*COLOURS, *CLASS_COLOURS[len(COLOURS) :])
CORRECT, WRONG = "#e6e9ed", "#d1242f"
HEAT = "magma"
HEAT_STOPS = ", ".join(to_hex(colormaps[HEAT](stop / 4)) for stop in range(5))  # for a colour bar in HTML


def blend(image: np.ndarray, mask: np.ndarray, *, opacity: float = 0.45) -> np.ndarray:
    """Blend class colours over an image, background unpainted: (H, W, 3) and (H, W) uint8 -> (H, W, 3) uint8."""
    painted, values = image.copy(), np.arange(256)[:, None, None]
    for index in set(np.flatnonzero(np.bincount(mask.ravel()))) - {0, IGNORE_INDEX}:
        mixed = (1 - opacity) * values + opacity * np.array(ImageColor.getrgb(CLASS_COLOURS[index]))  # (256, 1, 3)
        cv2.copyTo(cv2.LUT(image, mixed.round().astype(np.uint8)), (mask == index).astype(np.uint8), painted)
    return painted


def error_map(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Wrong pixels red, correct ones pale, ignored ones white: (H, W) uint8 twice -> (H, W, 3) uint8."""
    wrong = (truth != prediction) & (truth != IGNORE_INDEX)
    palette = np.array([ImageColor.getrgb(colour) for colour in (CORRECT, WRONG, "white")], np.uint8)
    return palette[np.where(truth == IGNORE_INDEX, 2, wrong)]


def heat(image: np.ndarray, values: np.ndarray, *, opacity: float) -> np.ndarray:
    """Blend values over an image, 0 dark to 1 pale: (H, W, 3) uint8 and (h, w) in [0, 1] -> (H, W, 3) uint8."""
    values = cv2.resize(values, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    colours = (colormaps[HEAT](values)[..., :3] * 255).astype(np.uint8)
    return cv2.addWeighted(colours, opacity, image, 1 - opacity, 0)


def attention_heat(image: np.ndarray, weights: np.ndarray, *, opacity: float) -> np.ndarray:
    """Blend a map of attention weights (h, w) over an image, its lowest dark, its highest pale; else as `heat`."""
    low, high = weights.min(), weights.max()
    return heat(image, (weights - low) / max(high - low, 1e-6), opacity=opacity)


def outline(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Draw a white line, dark on its outer side, around the pixels where (H, W) bool is true."""
    cross, inside = cv2.getStructuringElement(cv2.MORPH_CROSS, (5, 5)), inside.astype(np.uint8)
    drawn = image.copy()
    drawn[inside > cv2.erode(inside, cross)] = 255
    drawn[inside < cv2.dilate(inside, cross)] = 0
    return drawn


@torch.inference_mode()
def ema_weights(model: Any, image: torch.Tensor) -> np.ndarray:
    """Weight maps (G, h, w) of a DeepLabv3+ with EMA for one normalised image (1, 3, H, W)."""
    return model.attention.attention(model.encoder(image)[-1])[0].numpy()
