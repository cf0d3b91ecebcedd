"""Files of one segmented image: mask, overlay, thumbnail."""

from pathlib import Path

import cv2
import numpy as np

from rhseg_lib.files import write_atomically
from rhseg_lib.report import overlays
from rhseg_lib.report.thickness_figures import draw_readings
from rhseg_lib.sources import images
from rhseg_lib.thickness.reading import Reading

MASKS, OVERLAYS, TABLE, THICKNESS = WRITES = ("masks", "overlays", "table", "thickness")
OVERLAY_SIDE, THUMBNAIL_SIDE = 1280, 320  # pixels, the longer side
GAP = 4  # pixels between image and overlay in a thumbnail
QUALITY = 85  # of JPEG: encoded 25 times as fast as WebP, equally true, in files two thirds larger
MASK_COMPRESSION = 1  # of PNG, 0 to 9: masks have large areas of one value


def files_of(name: str, write: tuple[str, ...]) -> list[str]:
    """The files of an image in the output folder."""
    return [f"masks/{name}.png"] * (MASKS in write) + [overlay_of(name), thumbnail_of(name)] * (OVERLAYS in write)


def overlay_of(name: str) -> str:
    return f"overlays/{name}.jpg"


def thumbnail_of(name: str) -> str:
    return f"thumbnails/{name}.jpg"


def write_images(
    name: str, image: np.ndarray | None, mask: np.ndarray, readings: list[Reading], folder: Path, write: tuple[str, ...]
) -> None:
    """Write the mask at the image's own size; the overlay, and a thumbnail with image and overlay side by side.

    `image` is at the overlay's size, see `shrink`; None if no overlay is wanted. `readings` are drawn on the overlay.
    """
    contents = [images.palette_png(mask, compression=MASK_COMPRESSION)] if MASKS in write else []
    if image is not None:
        overlay = overlays.blend(image, cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST))
        overlay = draw_readings(overlay, readings, scale=image.shape[1] / mask.shape[1])
        pair = [shrink(one, THUMBNAIL_SIDE) for one in (image, overlay)]
        thumbnail = np.hstack([pair[0], np.full_like(pair[0][:, :GAP], 255), pair[1]])
        contents += [_jpeg(overlay), _jpeg(thumbnail)]
    for file, content in zip(files_of(name, write), contents, strict=True):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """Scale down so that no side is longer than `side`."""
    if max(image.shape[:2]) <= side:
        return np.ascontiguousarray(image)
    return cv2.resize(image, images.fitted_size(image.shape, side), interpolation=cv2.INTER_AREA)


def _jpeg(image: np.ndarray) -> bytes:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
