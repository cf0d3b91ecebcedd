"""Images and masks as arrays: decoding, fitting to the study's size, padding, palettes."""

from __future__ import annotations

import io
import math
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rhseg_lib.errors import StudyError
from rhseg_lib.files import write_atomically
from rhseg_lib.sources.checks import shortened, unplaced

IGNORE_INDEX = 255  # mask value that no loss and no metric counts
PICTURE_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")  # EPS would run a program
PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # of files that are taken for pictures
Image.init()  # given formats to choose from, PIL looks no further than those it has loaded
COPY_AGAIN = "copy it again from its source, or save it as PNG or JPEG"


class Picture(NamedTuple):
    """One picture of a source with its mask."""

    image: np.ndarray  # (H, W, 3) uint8 RGB; its sides may be smaller than the mask's
    mask: np.ndarray  # (H, W) uint8
    overwritten: Counter  # pixels of a class that another took, by (class that lost, label that took)
    digest: str = ""  # of the picture's bytes; pictures without one are not looked for twice


def read_picture(path: Path) -> np.ndarray:
    """A picture of any mode, turned as its EXIF says: (H, W, 3) uint8 RGB.

    Raises
    ------
    StudyError
        It is not there, cannot be decoded to its last pixel, or is too large.
    """
    try:
        return to_rgb(decode(path.read_bytes(), turn=True)[0])
    except StudyError as error:
        raise StudyError(error.what, where=path, fix=error.fix) from error
    except OSError as error:
        raise StudyError(f"the picture cannot be read ({error.strerror})", where=path, fix="check it") from error


def decode(content: bytes, *, turn: bool, least_side: int = 0) -> tuple[Image.Image, tuple[int, int]]:
    """Decode a picture to its last pixel, so that a truncated one is found; `turn` it as its EXIF says.

    A JPEG may come reduced, see `examine`; the width and height it has in full.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=PICTURE_FORMATS)
            size = image.size
            if least_side:
                image.draft(None, tuple(math.ceil(side * least_side / max(size)) for side in size))
            stored = image.size
            image.load()
            if turn:
                ImageOps.exif_transpose(image, in_place=True)
            return image, size if image.size == stored else size[::-1]
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        what = f"more than {Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels"
        raise unplaced(what, "make the picture smaller, then annotate it") from error
    except UnidentifiedImageError as error:
        raise unplaced("no picture, or of a kind that is not read here", COPY_AGAIN) from error
    except Exception as error:  # on broken files PIL's decoders raise many kinds
        raise unplaced(f"the picture cannot be read ({shortened(str(error))})", COPY_AGAIN) from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """Any mode -> (H, W, 3) uint8; grey deeper than 8 bits is stretched from its least to its greatest value."""
    if image.mode.startswith(("I", "F")):
        grey = np.nan_to_num(np.asarray(image, dtype=np.float64))
        grey = (grey - grey.min()) / max(np.ptp(grey), 1e-9)
        image = Image.fromarray((255 * grey).round().astype(np.uint8))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # a palette may hold transparency, which RGB alone warns of
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


MARGIN_GREY = 128
CHUNK = 2**18  # pixels of a mask that are counted at a time when it shrinks


def _voc_palette() -> np.ndarray:
    """VOC's colour of every mask value, (256, 3) uint8: the bits of the value dealt to R, G, B, highest first."""
    bits = np.arange(256)[:, None] >> np.arange(8) & 1  # (256, 8), lowest bit first
    weights = 128 >> np.arange(8) // 3
    return np.stack([(bits * weights)[:, channel::3].sum(1) for channel in range(3)], axis=1).astype(np.uint8)


VOC_PALETTE = _voc_palette()


def palette_png(mask: np.ndarray) -> bytes:
    """Encode a (H, W) uint8 mask as a palette-mode PNG in VOC's colours."""
    image = Image.fromarray(mask)
    image.putpalette(VOC_PALETTE.tobytes())
    return encode(image, "PNG")


def write_palette_png(path: Path, mask: np.ndarray) -> None:
    """Write a (H, W) uint8 mask as a palette-mode PNG; never half-written."""
    write_atomically(path, palette_png(mask))


def encode(image: Image.Image, file_format: str) -> bytes:
    """In memory first: PIL, writing to a full disk itself, does not say that it is full."""
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, quality=95)  # PNG knows no quality
    return buffer.getvalue()


def fit(image: np.ndarray, mask: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale both so that the longer side is `size` pixels.

    A pixel of the smaller mask takes the value with most area in it, and the nearest one's at a tie. Nearest
    alone would tear thin bands of slag; scaled polygons would thicken, as their outline stays a pixel wide.
    """
    target = fitted_size(mask.shape, size)
    return fit_image(image, target), fit_mask(mask, target)


def fitted_size(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Width and height at which the longer side of an array (H, W, ...) is `size` pixels."""
    scale = size / max(shape[:2])
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


def fit_image(image: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """Scale a picture to a width and height: between pixels while that misses none, averaging areas beyond."""
    far = image.shape[1] > 2 * target[0] or image.shape[0] > 2 * target[1]
    return cv2.resize(image, target, interpolation=cv2.INTER_AREA if far else cv2.INTER_LINEAR)


def fit_mask(mask: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """Scale a mask to a width and height; see `fit`."""
    fitted = cv2.resize(mask, target, interpolation=cv2.INTER_NEAREST)  # the first row and column that a pixel covers
    ratios = mask.shape[0] / target[1], mask.shape[1] / target[0]
    reach = 1 + math.ceil(max(ratios))  # at most so many rows and columns
    if reach <= 2:
        return fitted
    least, greatest = [_extremes(extreme, mask, target, ratios, reach) for extreme in (cv2.erode, cv2.dilate)]
    mixed = np.stack(np.divmod(np.flatnonzero(least != greatest), target[0]))  # few pixels cover more than one value
    chunk = max(1, CHUNK // reach**2)
    for begin in range(0, mixed.shape[1], chunk):
        places = mixed[:, begin : begin + chunk]
        (rows, heights), (columns, widths) = map(_covered, places, ratios, mask.shape, (reach, reach))
        covered = mask[rows[:, :, None], columns[:, None, :]]
        areas = heights[:, :, None] * widths[:, None, :]
        values = np.unique(covered)
        shares = np.stack([np.einsum("nij,nij->n", areas, covered == value) for value in values])
        votes = shares + 1e-3 * (fitted[*places] == values[:, None])
        fitted[*places] = values[votes.argmax(axis=0)]
    return fitted


def _extremes(
    extreme: Callable, mask: np.ndarray, target: tuple[int, int], ratios: tuple[float, float], reach: int
) -> np.ndarray:
    """Least or greatest of the values that each pixel of a smaller mask covers, or of a few more."""
    for axis, shape in enumerate(((reach, 1), (1, reach))):
        mask = extreme(mask, np.ones(shape, np.uint8), anchor=(0, 0))
        mask = mask.take((np.arange(target[1 - axis]) * ratios[axis]).astype(int), axis=axis)
    return mask


def _covered(places: np.ndarray, ratio: float, length: int, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (or columns) that those of a smaller mask cover, and the part of each in them: (N, reach) int and float."""
    first, last = places[:, None] * ratio, (places[:, None] + 1) * ratio
    index = first.astype(int) + np.arange(reach)
    part = np.minimum(index + 1, last) - np.maximum(index, first)
    return np.minimum(index, length - 1), np.maximum(part, 0) / ratio


def pad(array: np.ndarray, size: int, value: int) -> np.ndarray:
    """Centre (h, w, ...) in a square of `size`, filled with `value`."""
    square = np.full((size, size, *array.shape[2:]), value, np.uint8)
    square[inside_square(array.shape, size)] = array
    return square


def inside_square(shape: tuple[int, ...], size: int) -> tuple[slice, slice]:
    """Where an array (h, w, ...) lies in the square of `size` that pads it."""
    top, left = (size - shape[0]) // 2, (size - shape[1]) // 2
    return slice(top, top + shape[0]), slice(left, left + shape[1])
