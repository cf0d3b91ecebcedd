"""Predictions as Labelme annotations, for a person to correct.

Beside each image stands a JSON file with the polygons of its mask; `review.csv` lists them, the least confident first.
The folder is complete: images of another folder, and frames of a video, are copied into it. An annotation that is there
already is kept, whoever drew it.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from rhseg_lib.errors import StudyError
from rhseg_lib.files import disk_errors, write_atomically
from rhseg_lib.predict.gallery import Prediction
from rhseg_lib.predict.inputs import Frame, Video
from rhseg_lib.sources import images
from rhseg_lib.sources.labelme import write_annotation
from rhseg_lib.sources.labelme_polygons import polygons_of
from rhseg_lib.sources.labelme_shapes import Shape, label_ids, rasterize

REVIEW = "review.csv"
TOLERANCES = (2.0, 1.5, 1.0, 0.75, 0.5, 0.25)  # pixels
LEAST_IOU = 0.99  # of each class, of the polygons with the mask


def write_drafts(result: Prediction, output: Path, folder: Path, *, tolerance: float | None = None) -> pd.DataFrame:
    """Write annotations of the images of a run whose masks are in `output`; return the content of review.csv.

    `tolerance`, in pixels, is how far a polygon may be from the outline of the mask; None: as far as the IoU of each
    class of the image stays at 0.99. StudyError if it is out of range, if two images would have the same annotation, or
    if another image of the same name is in the folder.
    """
    if tolerance is not None and not 0 <= tolerance < np.inf:
        raise StudyError("the tolerance is out of range", where=f"{tolerance} pixels", fix="give 0 or more")
    rows = result.table.set_index("name")
    sources = rows.index if isinstance(result.inputs, Video) else rows["source"]  # files of the images
    targets = {name: (folder / file).with_suffix(".json") for name, file in zip(rows.index, sources, strict=True)}
    if len({str(path).casefold() for path in targets.values()}) < len(targets):
        fix = "rename one of each pair, or give them in separate folders"
        raise StudyError("images whose names differ only by suffix share an annotation", where=folder, fix=fix)
    drawn = dict.fromkeys(targets, False)
    with disk_errors(folder):
        for frame in tqdm(result.inputs.read(0), "drawing", total=len(result.inputs), unit="image"):
            path = targets.get(frame.name)
            if path is None or path.exists():  # unread, or annotated
                continue
            if frame.source.lower().endswith(".json"):  # holds the image and what is annotated on it
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, (result.inputs.folder / frame.source).read_bytes())
                continue
            mask = np.asarray(Image.open(output / f"masks/{frame.name}.png"))
            image = _image_beside(path, frame, result)
            shapes = draw(mask, result.card.class_names[1:], tolerance)
            write_annotation(path, image_path=image.name, shapes=shapes, height=mask.shape[0], width=mask.shape[1])
            drawn[frame.name] = True
        review = pd.DataFrame({
            "annotation": [path.relative_to(folder).as_posix() for path in targets.values()],
            "confidence": rows["confidence"].to_numpy(),
            "abstain": rows["abstain"].to_numpy(),
            "drawn": list(drawn.values()),
        }).sort_values(["confidence", "annotation"], ignore_index=True)  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / REVIEW, review.to_csv(index=False).encode())
    return review


def draw(mask: np.ndarray, classes: tuple[str, ...], tolerance: float | None) -> list[tuple[str, np.ndarray]]:
    """Polygons of a (H, W) uint8 mask, each a label and (N, 2) corners; see `write_drafts`."""
    for allowed in TOLERANCES if tolerance is None else (tolerance,):
        polygons = polygons_of(mask, classes, allowed)
        if tolerance is None and _least_iou(mask, polygons, classes) >= LEAST_IOU:
            break
    return polygons


def _least_iou(mask: np.ndarray, polygons: list[tuple[str, np.ndarray]], classes: tuple[str, ...]) -> float:
    """IoU of polygons with the mask, of the class that is worst."""
    shapes = [Shape(label, corners.astype(float), "polygon") for label, corners in polygons]
    drawn, _ = rasterize(shapes, *mask.shape, labels=label_ids(classes, ()), class_priority=classes)
    pairs = [(mask == value, drawn == value) for value in np.unique(mask)]
    return min(np.count_nonzero(true & found) / np.count_nonzero(true | found) for true, found in pairs)


def _image_beside(annotation: Path, frame: Frame, result: Prediction) -> Path:
    """The image beside its annotation, copied there if it is not."""
    assert not isinstance(frame.image, StudyError)
    if isinstance(result.inputs, Video):
        path, content = annotation.with_suffix(".jpg"), images.encode(Image.fromarray(frame.image), "JPEG")
    else:
        original = result.inputs.folder / frame.source
        path, content = annotation.with_suffix(original.suffix), original.read_bytes()
    if path.exists() and path.read_bytes() != content:
        fix = "choose an empty folder, or the folder of the images"
        raise StudyError("another image of that name is there", where=path, fix=fix)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    return path
