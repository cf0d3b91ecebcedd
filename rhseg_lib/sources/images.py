"""Images and masks as arrays: decoding, resizing to the study's size, padding, palettes."""

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

IGNORE_INDEX = 255  # mask value excluded from every loss and metric
PICTURE_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")  # EPS would run a program
Image.init()  # given `formats`, PIL tries only those already loaded
PICTURE_SUFFIXES = tuple(
    sorted(suffix for suffix, name in Image.registered_extensions().items() if name in PICTURE_FORMATS)
)
COPY_AGAIN = "copy it again from its source, or save it as PNG or JPEG (a mask: as PNG only)"


class Picture(NamedTuple):
    """One image of a source with its mask."""

    image: np.ndarray  # (H, W, 3) uint8 RGB; may be smaller than the mask
    mask: np.ndarray  # (H, W) uint8
    overwritten: Counter  # pixels painted over, by (class lost, label painted)
    digest: str = ""  # of the image's bytes; without one, no check for duplicates
    remark: str = ""  # see `simplified`


def read_picture(path: Path) -> tuple[np.ndarray, str]:
    """Read an image of any mode, oriented by its EXIF: (H, W, 3) uint8 RGB, and how it is `simplified`.

    Raises StudyError if the file is missing, cannot be decoded to its last pixel, or is too large.
    """
    try:
        image = decode(read_bytes(path), use_exif=True)[0]
        return to_rgb(image), simplified(image)
    except StudyError as error:
        raise StudyError(f"the image {error.what}", where=path, fix=error.fix) from error


def read_bytes(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # reading a pipe would never end
        raise unplaced("is a folder, a pipe or a device", "put a file there, or remove it")
    try:
        return path.read_bytes()
    except OSError as error:
        raise unplaced(f"cannot be opened ({error.strerror})", "allow the file to be read, or copy it again") from error


def decode(content: bytes, *, use_exif: bool, least_side: int = 0) -> tuple[Image.Image, tuple[int, int]]:
    """Decode an image or mask to its last pixel, so that truncation is detected; orient it by EXIF if `use_exif`.

    With `least_side`, a JPEG may be decoded at reduced size, see `labelme.examine`. Also returns the full width and
    height. The text of a StudyError begins with a verb: its subject is the caller's file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=PICTURE_FORMATS)
            size = image.size
            if least_side:
                width, height = (math.ceil(side * least_side / max(size)) for side in size)
                image.draft(None, (width, height))
            stored = image.size
            image.load()
            if use_exif:
                ImageOps.exif_transpose(image, in_place=True)
            return image, size if image.size == stored else size[::-1]
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        what = f"has more than {(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels"
        raise unplaced(what, "make the image smaller, then annotate it at that size") from error
    except UnidentifiedImageError as error:
        raise unplaced("is no picture, or of a kind that is not read here", COPY_AGAIN) from error
    except Exception as error:  # PIL's decoders raise many types on broken files
        raise unplaced(f"cannot be read ({shortened(str(error))})", COPY_AGAIN) from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """Any mode -> (H, W, 3) uint8; grey of more than 8 bits is stretched from its minimum to its maximum."""
    if image.mode.startswith(("I", "F")):
        grey = np.nan_to_num(np.asarray(image, dtype=np.float64))
        grey = (grey - grey.min()) / max(np.ptp(grey), 1e-9)
        image = Image.fromarray((255 * grey).round().astype(np.uint8))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # a palette may hold transparency: straight to RGB, PIL warns
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def simplified(image: Image.Image) -> str:
    """What of a decoded image `to_rgb` does not keep, as a predicate for the user; "" if nothing that shows."""
    if image.mode.startswith(("I", "F")):
        return "has more than 8 bits per value: stretched from its darkest to its brightest"
    if image.has_transparency_data and np.asarray(image.convert("RGBA").getchannel("A")).min() < 255:
        return "has transparent pixels: read as opaque"
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a phone's JPEG with its preview
        return "has several frames or pages: only the first is read"
    return ""


MARGIN_GREY = 128
CHUNK = 2**18  # mask pixels processed at a time when downscaling


# VOC's colour of every mask value, (256, 3) uint8: its bits, lowest first, become the highest bits of R, G, B in turn.
_BITS = (np.arange(256)[:, None] >> np.arange(8) & 1) * (128 >> np.arange(8) // 3)  # (256, 8)
VOC_PALETTE = np.stack([_BITS[:, channel::3].sum(1) for channel in range(3)], axis=1).astype(np.uint8)


def palette_png(mask: np.ndarray, *, compression: int = -1) -> bytes:
    """Encode a (H, W) uint8 mask as a palette-mode PNG in VOC's colours; `compression` is zlib's level."""
    image = Image.fromarray(mask)
    image.putpalette(VOC_PALETTE.tobytes())
    return encode(image, "PNG", compression=compression)


def write_palette_png(path: Path, mask: np.ndarray) -> None:
    """Write a (H, W) uint8 mask as a palette-mode PNG; never half-written."""
    write_atomically(path, palette_png(mask))


def encode(image: Image.Image, file_format: str, *, compression: int = -1) -> bytes:
    """Encode in memory: PIL does not report a full disk when it writes a file itself."""
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, quality=95, compress_level=compression)  # of JPEG, and of PNG
    return buffer.getvalue()


def fit(image: np.ndarray, mask: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale both so that the longer side is `size` pixels.

    A pixel of the smaller mask takes the value that covers most of its area; at a tie, that of the nearest pixel.
    Nearest neighbour alone would break thin bands of slag; polygons rasterised at the smaller size would be too thick,
    as their outline stays a pixel wide.
    """
    target = fitted_size(mask.shape, size)
    return fit_image(image, target), fit_mask(mask, target)


def fitted_size(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Width and height at which the longer side of an array (H, W, ...) is `size` pixels."""
    scale = size / max(shape[:2])
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


def fit_image(image: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """Scale an image to a width and height: bilinear down to half size, where no pixel is skipped; below, by area."""
    far = image.shape[1] > 2 * target[0] or image.shape[0] > 2 * target[1]
    return cv2.resize(image, target, interpolation=cv2.INTER_AREA if far else cv2.INTER_LINEAR)


def fit_mask(mask: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """Scale a mask to a width and height; see `fit`."""
    fitted = cv2.resize(mask, target, interpolation=cv2.INTER_NEAREST)  # the first row and column covered
    ratios = mask.shape[0] / target[1], mask.shape[1] / target[0]
    reach = 1 + math.ceil(max(ratios))  # most rows and columns that a pixel covers
    if reach <= 2:
        return fitted
    lowest, highest = [_extremes(extreme, mask, target, ratios, reach) for extreme in (cv2.erode, cv2.dilate)]
    mixed = np.stack(np.divmod(np.flatnonzero(lowest != highest), target[0]))  # few pixels cover more than one value
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
    """Minimum or maximum of the values that each pixel of a smaller mask covers, or of a few more."""
    for axis, shape in enumerate(((reach, 1), (1, reach))):
        mask = extreme(mask, np.ones(shape, np.uint8), anchor=(0, 0))
        mask = mask.take((np.arange(target[1 - axis]) * ratios[axis]).astype(int), axis=axis)
    return mask


def _covered(places: np.ndarray, ratio: float, length: int, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (or columns) that those of a smaller mask cover, and the share of each: (N, reach) int and float."""
    first, last = places[:, None] * ratio, (places[:, None] + 1) * ratio
    index = first.astype(int) + np.arange(reach)
    overlap = np.minimum(index + 1, last) - np.maximum(index, first)
    return np.minimum(index, length - 1), np.maximum(overlap, 0) / ratio


def class_pixels(mask: np.ndarray, num_classes: int) -> list[int]:
    """Pixels of each class in a mask."""
    return [int(np.count_nonzero(mask == value)) for value in range(num_classes)]


def pad(array: np.ndarray, size: int, value: int) -> np.ndarray:
    """Centre (h, w, ...) in a square of `size`, filled with `value`."""
    square = np.full((size, size, *array.shape[2:]), value, np.uint8)
    square[inside_square(array.shape, size)] = array
    return square


def inside_square(shape: tuple[int, ...], size: int) -> tuple[slice, slice]:
    """Slices that an array (h, w, ...) takes in its padded square of `size`."""
    top, left = (size - shape[0]) // 2, (size - shape[1]) // 2
    return slice(top, top + shape[0]), slice(left, left + shape[1])
