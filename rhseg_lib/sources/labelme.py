"""Labelme JSON: read, check and write annotations.

As in Labelme, an embedded image takes precedence over the named file, and EXIF orients only an image read from a file.
"""

import base64
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from hashlib import sha256
from pathlib import Path, PureWindowsPath

import numpy as np

from rhseg_lib.errors import StudyError
from rhseg_lib.files import write_atomically
from rhseg_lib.sources.checks import Problem, collected, display_path, refuse, shortened, unplaced
from rhseg_lib.sources.images import decode, read_bytes, simplified, to_rgb
from rhseg_lib.sources.labelme_shapes import BACKGROUND_LABELS, Shape

MAX_POINTS, MAX_SHAPES = 10_000, 10_000  # per shape, per file; PIL needs seconds for that many points
MAX_JSON, MAX_LISTS = 200_000_000, 3_000_000  # bytes of a file, most of them of an embedded image; lists in it
EMBEDDED = re.compile(rb'"imageData"\s*:\s*"')
# Minimum and maximum number of points of a shape.
POINT_COUNTS = {"polygon": (3, MAX_POINTS), "linestrip": (2, MAX_POINTS), "oriented_rectangle": (4, 4), "point": (1, 1)}
POINT_COUNTS |= dict.fromkeys(("rectangle", "circle", "line", "mask"), (2, 2))
WRITTEN_SHAPE: dict = {"shape_type": "polygon", "group_id": None, "description": "", "flags": {}, "mask": None}
REDRAW = "delete the shape in Labelme and draw it again"
SAVE_AGAIN = "open the image in Labelme and save it again"
MOVE_OUT = "save it again in Labelme, or move it out of the folder"


@dataclass(frozen=True)
class Annotation:
    """An image and the shapes drawn on it."""

    image: np.ndarray  # (H, W, 3) uint8 RGB; may be reduced, see `examine`
    shapes: tuple[Shape, ...]
    size: tuple[int, int]  # width and height of the full image in pixels, which the shapes refer to
    digest: str  # SHA-256 of the image's bytes as stored
    remark: str  # see `images.simplified`


def write_annotation(
    path: Path, *, image_path: str, shapes: list[tuple[str, np.ndarray]], height: int, width: int
) -> None:
    """Write polygons as Labelme 5 JSON that names its image rather than embedding it; `path` is replaced atomically.

    `image_path` is relative to the folder of `path`, with forward slashes; `shapes` are label and (N, 2) x, y corners
    in pixels, in painting order: later shapes lie on top.
    """
    document: dict[str, object] = {
        "version": "5.5.0",
        "flags": {},
        "shapes": [
            {"label": label, "points": np.asarray(points, float).round(2).tolist(), **WRITTEN_SHAPE}
            for label, points in shapes
        ],
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    write_atomically(path, json.dumps(document, indent=1).encode())


def read_annotation(path: Path, *, root: Path, labels: dict[str, int]) -> Annotation:
    """Read one annotation with its image; StudyError lists all errors in the file, each with its fix.

    An image outside `root`, the folder the user gave, is rejected; `labels` are the known ones, see `label_ids`.
    """
    annotation, problems = examine(path, root, labels)
    refuse(problems, path)
    assert annotation is not None
    return annotation


def examine(
    path: Path, root: Path, labels: dict[str, int], least_side: int = 0, may_be_empty: bool = True
) -> tuple[Annotation | None, list[Problem]]:
    """Like `read_annotation`, but return the errors; the annotation is None if there are any.

    A file without a shape annotates an image that shows background only, unless `may_be_empty` is false.

    With a `least_side`, a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as its longer
    side has that many pixels: twice as fast, in a fraction of the memory, and truncation is still detected.
    """
    file, problems, shapes = display_path(path, root), list[Problem](), list[Shape]()
    document: dict = {"shapes": []}
    image, size, digest, remark = None, None, "", ""
    with collected(problems, file):
        document = parse(read_file(path))
        image, size, digest, remark = _read_image(document, path, root, least_side)
    if not document["shapes"] and not problems:
        remark = "; ".join(filter(None, (remark, "has no shape: all of it is background")))
        if not may_be_empty:
            fix = "annotate it, or set 'without_shapes: background' if nothing is on it"
            problems.append(Problem(file, None, "no shapes", fix))
    for index, item in enumerate(document["shapes"]):
        with collected(problems, file, index):
            shapes.append(_read_shape(item, labels, size, _major_version(document)))
    if problems or image is None or size is None:
        return None, problems
    return Annotation(image, tuple(shapes), size, digest, remark), []


def _each_once(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object; StudyError for a duplicate key, as one of its values would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        [(most_frequent, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise unplaced(f"the key {shortened(most_frequent)} is given twice", SAVE_AGAIN)
    return found


def read_file(path: Path) -> bytes:
    if path.is_dir():
        raise unplaced("a link to another folder, which is not followed", "put the folder itself there")
    if not path.is_file():
        raise unplaced("not a file, or a broken link", MOVE_OUT)
    return read_bytes(path)


@lru_cache(maxsize=1)  # a file is read twice: for its fingerprint and for its content
def parse(content: bytes) -> dict:
    """A document with a list of shapes; StudyError for anything else."""
    if len(content) > MAX_JSON or content.count(b"[") > MAX_LISTS:  # before it is parsed, for minutes and gigabytes
        raise unplaced(f"{len(content) / 1e6:.0f} MB of JSON or over {MAX_LISTS:,} points", MOVE_OUT)
    if not content.strip():
        raise unplaced("an empty file", "annotate the image again, or move the file out of the folder")
    try:
        document = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_each_once)
    except UnicodeDecodeError as error:
        raise unplaced("not text in UTF-8", "save it as UTF-8 in a text editor, or again in Labelme") from error
    except (ValueError, RecursionError) as error:
        raise unplaced(f"not JSON ({error})", MOVE_OUT) from error
    if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
        raise unplaced("no list 'shapes', so not a Labelme file", MOVE_OUT)
    if len(document["shapes"]) > MAX_SHAPES:
        raise unplaced(f"{len(document['shapes'])} shapes, more than {MAX_SHAPES}", MOVE_OUT)
    return document


def _major_version(document: dict) -> int:
    """Version of the Labelme that wrote the file; 0 if not stated."""
    found = re.match(r"(\d{1,3})\.", str(document.get("version")))
    return int(found[1]) if found else 0


def _read_image(
    document: dict, path: Path, root: Path, least_side: int
) -> tuple[np.ndarray, tuple[int, int], str, str]:
    """The image the shapes were drawn on, (H, W, 3) uint8 RGB, possibly reduced; its full size, digest and remark."""
    embedded = document.get("imageData")
    file = find_image(document.get("imagePath"), path, root) if embedded is None else None
    with _errors_about("the image"):
        content = read_bytes(file) if file else _from_base64(embedded)
        image, size = decode(content, use_exif=embedded is None, least_side=least_side)  # embedded ones are oriented
    stated = document.get("imageWidth"), document.get("imageHeight")
    if any(side not in (None, found) for side, found in zip(stated, size, strict=True)):
        stated_size = "x".join("?" if side is None else shortened(side) for side in stated)
        what = "the JSON says {} pixels, the image has {}x{}".format(stated_size, *size)
        raise unplaced(what, "restore the image that was annotated, or annotate this one again")
    return to_rgb(image), size, sha256(content).hexdigest(), simplified(image)


def embeds_image(path: Path) -> bool:
    """Whether a file is Labelme JSON that holds its image."""
    return path.suffix.lower() == ".json" and path.is_file() and EMBEDDED.search(path.read_bytes()) is not None


def read_embedded(path: Path) -> tuple[np.ndarray, str]:
    """The image that a Labelme file holds, (H, W, 3) uint8 RGB, and how it is simplified; see `images.read_picture`."""
    try:
        image, _, _, remark = _read_image(parse(read_file(path)), path, path.parent, 0)
    except StudyError as error:
        raise StudyError(error.what, where=path, fix=error.fix) from error
    return image, remark


def find_image(named: object, path: Path, root: Path) -> Path:
    """The file that ``imagePath`` names: relative to the JSON, with either kind of slash, inside `root`."""
    if not isinstance(named, str) or not named:
        raise unplaced("neither 'imageData' nor 'imagePath'", SAVE_AGAIN)
    relative = PureWindowsPath(named)
    if relative.anchor:
        raise unplaced(f"'imagePath' is absolute: {shortened(named)}", "put the image beside the JSON; give its name")
    # A Mac stores accents as characters of their own, and writes them so into the JSON.
    forms = (relative.as_posix(), *(unicodedata.normalize(form, relative.as_posix()) for form in ("NFC", "NFD")))
    for form in forms:
        with suppress(OSError, RuntimeError, ValueError):  # too long, a link to itself, a character that no path has
            place = Path(os.path.abspath(path.parent / form))
            target = place.resolve()
            if not place.is_relative_to(os.path.abspath(root)):
                what = f"'imagePath' points outside the folder: {shortened(named)}"
                raise unplaced(what, "put the image beside the JSON")
            # A cache of DVC or git-annex, which put the link there, is followed.
            if not target.is_relative_to(root.resolve()) and not {".dvc", "annex"} & {*target.parts}:
                raise unplaced(f"a link out of the folder: {shortened(named)}", "put the image itself beside the JSON")
            if target.is_file():
                return target
    raise unplaced(f"image not found: {shortened(named)}", "put it there, or correct 'imagePath'")


@contextmanager
def _errors_about(subject: str) -> Iterator[None]:
    """Put the subject before the text of a StudyError that `decode`, `read_bytes` or `_from_base64` raises."""
    try:
        yield
    except StudyError as error:
        raise unplaced(f"{subject} {error.what}", error.fix) from error


def _from_base64(text: object) -> bytes:
    if not isinstance(text, str):
        raise unplaced("has embedded data that is not text", SAVE_AGAIN)
    try:
        return base64.b64decode(text)
    except ValueError as error:
        raise unplaced(f"has broken base64 ({error})", SAVE_AGAIN) from error


def _read_shape(item: object, labels: dict[str, int], size: tuple[int, int] | None, version: int) -> Shape:
    """One checked entry of ``shapes``; `size` is (width, height) of the image if it could be read."""
    if not isinstance(item, dict) or not {"label", "points"} <= item.keys():
        raise unplaced("no 'label' or no 'points'", REDRAW)
    label, kind, mask = item["label"], item.get("shape_type") or "polygon", None
    if not isinstance(label, str) or label not in labels:
        raise unplaced(f"unknown label {shortened(label)}", _fix_label(label, labels))
    if not isinstance(kind, str) or kind not in POINT_COUNTS:
        raise unplaced(f"unknown shape type {shortened(kind)}", "draw it as a polygon")
    points = _read_points(item["points"], kind)
    if size is not None:
        reach = max(size) / 2  # a little outside is imprecise drawing; this far is another image
        if (points < -reach).any() or (points > np.add(size, reach)).any():
            what = "points far outside the image of {}x{} pixels".format(*size)
            raise unplaced(what, "check that the JSON belongs to this image, or draw the shape again")
    if kind == "mask":
        points = points if version >= 7 else np.trunc(points)
        mask = _read_patch(item.get("mask"), points)
    return Shape(label, points, kind, mask, round_joints=version >= 7)


def _read_points(points: object, kind: str) -> np.ndarray:
    """(N, 2) float64 of checked x, y pairs."""
    if not isinstance(points, list) or not all(map(_is_pair, points)):
        raise unplaced("'points' is not a list of x, y pairs", REDRAW)
    least, most = POINT_COUNTS[kind]
    if not least <= len(points) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise unplaced(f"a {kind} of {len(points)} point(s) instead of {wanted}", REDRAW)
    try:
        found = np.array(points, dtype=np.float64)
    except OverflowError:  # an integer of hundreds of digits
        found = np.full((1, 2), np.inf)
    if not np.isfinite(found).all():
        raise unplaced("a coordinate that is not a finite number", REDRAW)
    return found


def _is_pair(point: object) -> bool:
    return isinstance(point, list) and len(point) == 2 and {*map(type, point)} <= {int, float}


def _read_patch(text: object, corners: np.ndarray) -> np.ndarray:
    """The patch of a mask shape, (h, w) bool, cut to the box that its two corners span."""
    with _errors_about("the mask"):
        mask = np.asarray(decode(_from_base64(text), use_exif=False)[0]) > 0
    box = np.ptp(corners.round(), axis=0).astype(int)[::-1] + 1  # both corners are included
    if mask.ndim != 2 or np.abs(box - mask.shape).max() > 1:
        raise unplaced(f"a mask of {mask.shape[::-1]} pixels in a box of {(*box[::-1].tolist(),)}", REDRAW)
    between_pixels = (corners != corners.round()).any()  # there, Labelme uses the mask's own size
    return mask if between_pixels else mask[: box[0], : box[1]]


def _fix_label(label: object, labels: dict[str, int]) -> str:
    known = [name for name in labels if name not in BACKGROUND_LABELS]
    spelling = {name.casefold(): name for name in known}
    text = label[:60].strip().casefold() if isinstance(label, str) else ""
    near = get_close_matches(text, spelling, n=1, cutoff=0.55) if len(text) > 3 else []  # "43" is no misspelt "44"
    use = f"did you mean {spelling[near[0]]!r}? rename it" if near else f"use one of {', '.join(known)}"
    return f"{use}, or add it to a list of labels in the profile"
