"""Labelme folders as people leave them: the JSON of each version, and a messy folder of sixteen images."""

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image


def labelme_3(shapes: list[dict], image: Path, size: tuple[int, int], embedded: bytes) -> dict:
    """Before version 3.6: polygons without a type, colours, the image always embedded, its size not stated."""
    return {
        "version": "3.5.0",
        "flags": {},
        "shapes": [
            {"label": s["label"], "line_color": None, "fill_color": None, "points": s["points"]} for s in shapes
        ],
        "lineColor": [0, 255, 0, 128],
        "fillColor": [255, 0, 0, 128],
        "imagePath": f"..\\Pictures\\{image.name}",
        "imageData": base64.b64encode(embedded).decode(),
    }


def labelme_4(shapes: list[dict], image: Path, size: tuple[int, int], embedded: bytes | None) -> dict:
    """Types, groups and flags of each shape; the image embedded or named, its size stated."""
    return {
        "version": "4.5.13",
        "flags": {},
        "shapes": [{"group_id": None, "shape_type": "polygon", "flags": {}, **s} for s in shapes],
        "imagePath": image.name,
        "imageData": embedded and base64.b64encode(embedded).decode(),
        "imageHeight": size[1],
        "imageWidth": size[0],
    }


def labelme_5(shapes: list[dict], image: Path, size: tuple[int, int], embedded: bytes | None) -> dict:
    """Also descriptions and masks."""
    document = labelme_4([{"description": "", "mask": None, **s} for s in shapes], image, size, embedded)
    return {**document, "version": "5.5.0"}


def labelme_6(shapes: list[dict], image: Path, size: tuple[int, int], embedded: bytes | None) -> dict:
    """Also rotated rectangles; keys unknown to this study."""
    document = labelme_5(shapes, image, size, embedded)
    return {**document, "version": "6.1.0", "reviewed": True}


def labelme_7(shapes: list[dict], image: Path, size: tuple[int, int], embedded: bytes | None) -> dict:
    """Shapes may be locked."""
    document = labelme_6([{**s, "locked": True} for s in shapes], image, size, embedded)
    return {**document, "version": "7.9.1"}


VERSIONS = {3: labelme_3, 4: labelme_4, 5: labelme_5, 6: labelme_6, 7: labelme_7}


def as_png(pixels: np.ndarray) -> str:
    """An array as Labelme embeds it: a PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


MESSY = [  # JSON in the folder, image suffix, mode, size, version, embedded, EXIF orientation
    ("IMG_001", "jpg", "RGB", (120, 90), 5, False, 1),
    ("IMG 002", "png", "RGB", (90, 120), 6, False, 1),
    ("渣层.三", "bmp", "RGB", (100, 100), 4, False, 1),
    ("last.", "JPG", "RGB", (240, 180), 3, True, 1),
    ("wrong", "png", "RGB", (96, 72), 5, False, 1),
    ("may 05/IMG_001", "tif", "RGB", (80, 64), 5, False, 1),
    ("may 05/IMG_002", "webp", "RGB", (128, 96), 6, False, 1),
    ("may 05/IMG_003", "png", "I;16", (96, 72), 5, False, 1),
    ("may 05/IMG_004", "jpg", "RGB", (96, 72), 5, False, 6),
    ("may 05/IMG_005", "jpg", "CMYK", (96, 72), 4, False, 1),
    ("may 05/cut", "jpg", "RGB", (96, 72), 5, False, 1),
    ("六月/IMG_001", "png", "L", (96, 72), 5, False, 1),
    ("六月/IMG_002", "png", "RGBA", (96, 72), 6, True, 1),
    ("六月/IMG_003", "png", "LA", (96, 72), 5, False, 1),
    ("六月/IMG_004", "png", "P", (96, 72), 5, False, 1),
    ("六月/gone", "png", "RGB", (96, 72), 5, False, 1),
]
INVALID = {
    "wrong.json": "unknown label 'Slag Layer'",
    "may 05/cut.json": "cannot be read",
    "六月/gone.json": "not found",
}


def write_messy_folder(folder: Path) -> None:
    """Sixteen images in a folder and two subfolders, no two of the same kind; three are invalid (`INVALID`).

    All show a tube with a band of slag, in shapes of several types.
    """
    for number, (stem, suffix, mode, size, version, embedded, orientation) in enumerate(MESSY):
        width, height = size[::-1] if orientation == 6 else size  # as displayed
        pixels = np.random.default_rng(number).integers(0, 90, (height, width, 3), dtype=np.uint8)
        left, right, top, bottom = width // 4, width // 2, height // 2, 3 * height // 4
        pixels[:bottom, left:right] += 90
        pixels[top:bottom, left:right, 0] += 70
        path = folder / f"{stem}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(Image.fromarray(pixels), path, mode, orientation)
        tube = [[left, 0], [right - 1, 0], [right - 1, bottom - 1], [left, bottom - 1]]
        slag = {"label": "slag_layer", "points": [[left, top], [right - 1, bottom - 1]], "shape_type": "rectangle"}
        if version == 3:
            slag = {"label": "slag_layer", "points": [[left, top], [right - 1, top], *tube[2:]]}
        if version == 5:
            patch = np.ones((bottom - top, right - left), np.uint8)
            slag |= {"shape_type": "mask", "mask": as_png(patch)}
        shapes = [{"label": "immersion_tube", "points": tube}, slag]
        if version == 6:
            glare = {"label": "glare", "points": [[2, 2], [4, 2]], "shape_type": "circle"}
            shapes += [glare, {"label": "ladle", "points": [[0, 0], [9, 9]], "shape_type": "line"}]
        content = path.read_bytes() if embedded else None
        document = VERSIONS[version](shapes, path, (width, height), content)
        if stem == "wrong":
            document["shapes"][1]["label"] = "Slag Layer"
        (folder / f"{stem}.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    cut = folder / "may 05/cut.jpg"
    cut.write_bytes(cut.read_bytes()[:-300])
    (folder / "六月/gone.png").unlink()
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "IMG_001-checkpoint.json").write_text("{}")


def _save(image: Image.Image, path: Path, mode: str, orientation: int) -> None:
    if orientation == 6:  # stored a quarter turn to the left of how it is displayed
        image = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[274] = orientation
    if mode == "I;16":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 16).save(path)
    elif mode == "P":
        image.quantize(64).save(path, transparency=0)
    else:
        image.convert(mode).save(path, **({} if orientation == 1 else {"exif": exif}))
