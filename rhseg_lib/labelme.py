"""Labelme JSON: read, check and write annotations; shapes -> mask.

Masks agree with the export of the Labelme that wrote the file: an embedded picture wins over the file it names, EXIF
turns a picture read from a file, shapes are drawn by PIL with outline and fill, and paint over one another in file
order. Since version 7, line strips are round at their turns, and a mask's corner between pixels goes to the nearest.
"""

import base64
import io
import json
import math
import os
import re
import unicodedata
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from hashlib import sha256
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from rhseg_lib import IGNORE_INDEX, StudyError
from rhseg_lib.faults import Fault, refuse, told_path
from rhseg_lib.files import write_atomically

BACKGROUND_LABELS = ("_background_", "__background__", "background")
LINE_WIDTH, POINT_RADIUS = 10, 5  # pixels; Labelme's
MAX_POINTS, MAX_SHAPES = 10_000, 10_000  # per shape, per file; PIL takes seconds for as many points
PICTURE_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")  # EPS would run a program
PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # of files that are taken for pictures
UNSAFE = re.compile(r'[<>:"/\\|?*$]|^ | $')  # in a file name on Windows; in lists of names; in titles of figures
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(1, 10))}
MAX_NAME = 150  # bytes, so that a copy's name fits any file system
POINT_COUNTS = {  # least and most points that make the shape
    "polygon": (3, MAX_POINTS),
    "oriented_rectangle": (4, 4),
    "rectangle": (2, 2),
    "circle": (2, 2),
    "line": (2, 2),
    "linestrip": (2, MAX_POINTS),
    "point": (1, 1),
    "mask": (2, 2),
}
WRITTEN_SHAPE = {"shape_type": "polygon", "group_id": None, "description": "", "flags": {}, "mask": None}
REDRAW = "delete the shape in Labelme and draw it again"
Image.init()  # given formats to choose from, PIL looks no further than those it has loaded
SAVE_AGAIN = "open the picture in Labelme and save it again"
COPY_AGAIN = "copy it again from its source, or save it as PNG or JPEG"
MOVE_OUT = "save it again in Labelme, or move it out of the folder"


@dataclass(frozen=True)
class Shape:
    """One drawn shape; a group id joins shapes into one object and changes nothing in a semantic mask."""

    label: str
    points: np.ndarray  # (N, 2) float64, x and y in pixels
    shape_type: str
    group_id: int | None
    mask: np.ndarray | None  # (h, w) bool, the patch of a mask shape
    round_turns: bool = False  # of a line strip


@dataclass(frozen=True)
class Annotation:
    """A picture and what was drawn on it."""

    path: Path
    image: np.ndarray  # (H, W, 3) uint8 RGB; smaller if it may be
    shapes: tuple[Shape, ...]
    size: tuple[int, int]  # width and height of the picture in pixels, to which the shapes belong
    digest: str  # SHA-256 of the picture's bytes as stored


class Picture(NamedTuple):
    """One picture of a source with its mask."""

    image: np.ndarray  # (H, W, 3) uint8 RGB; its sides may be smaller than the mask's
    mask: np.ndarray  # (H, W) uint8
    overwritten: Counter  # pixels of a class that another took, by (class that lost, label that took)
    digest: str = ""  # of the picture's bytes; pictures without one are not looked for twice


@dataclass(frozen=True)
class LabelmeFolder:
    """A folder of pictures and Labelme JSON, as a source of pictures with masks.

    Any source has these members: `folder`, `classes`, `names`, `examine` and `fingerprint`; it travels to worker
    processes.
    """

    folder: Path
    classes: tuple[str, ...]  # labels of mask values 1, 2, ...
    ignore_labels: tuple[str, ...]  # labels of regions that do not count (255)
    class_priority: tuple[str, ...] | None  # painting order; see `rasterize`
    background_labels: tuple[str, ...] = ()  # labels of things that are background, beside `BACKGROUND_LABELS`
    subfolders: bool = True  # whether annotations in them are input, too
    least_side: int = 0  # pixels; see `examine`

    @property
    def labels(self) -> dict[str, int]:
        return label_ids(self.classes, self.ignore_labels, self.background_labels)

    def names(self) -> dict[str, Path]:
        """The name each picture gets in the study -> its annotation, sorted by name; StudyError if there are none."""
        named, taken = {}, set()
        for path in annotation_files(self.folder, subfolders=self.subfolders):
            relative = path.relative_to(self.folder)
            name = picture_name(relative)
            if name.casefold() in taken:  # one file on Windows; the first keeps its name
                name = _with_digest(name, relative)
            taken.add(name.casefold())
            named[name] = path
        return dict(sorted(named.items()))

    def unannotated(self) -> list[str]:
        """Pictures without an annotation of their name, by their paths in the folder.

        It is looked for beside the picture, or anywhere if there are no annotations at all beside it.
        """
        annotations = annotation_files(self.folder, subfolders=self.subfolders)
        folders, names = {path.parent for path in annotations}, {path.stem.casefold() for path in annotations}
        beside = {(path.parent, path.stem.casefold()) for path in annotations}
        return [
            told_path(path, self.folder)
            for path in _files(self.folder, PICTURE_SUFFIXES, subfolders=self.subfolders)
            if path.stem.casefold() not in names
            or (path.parent in folders and (path.parent, path.stem.casefold()) not in beside)
        ]

    def examine(self, path: Path) -> tuple[Picture | None, list[Fault]]:
        """The picture of one annotation, or every fault of it."""
        annotation, faults = examine(path, root=self.folder, labels=self.labels, least_side=self.least_side)
        if annotation is None:
            return None, faults
        width, height = annotation.size
        mask, overwritten = rasterize(
            annotation.shapes, height, width, labels=self.labels, class_priority=self.class_priority
        )
        return Picture(annotation.image, mask, overwritten, annotation.digest), []

    def fingerprint(self, path: Path) -> str:
        """Another one when the JSON changes, or size or time of the picture that it names."""
        digest = sha256()
        with suppress(StudyError):  # `examine` tells the fault
            digest.update(_read_json(path))
            document = _read_document(path)
            if document.get("imageData") is None:
                about = _find_image(document.get("imagePath"), path, self.folder).stat()
                digest.update(f"{about.st_size} {about.st_mtime_ns}".encode())
        return digest.hexdigest()


def write_annotation(
    path: Path, *, image_path: str, shapes: list[tuple[str, np.ndarray]], height: int, width: int
) -> None:
    """Write polygons as Labelme 5 JSON that names its picture rather than embedding it.

    Parameters
    ----------
    path : Path
        The JSON file to write; replaced at once, never half-written.
    image_path : str
        The picture, relative to the folder of `path`, with forward slashes.
    shapes : list of (str, (N, 2) float array)
        Label and x, y corners in pixels, in painting order: later shapes lie on top.
    height, width : int
        Size of the picture in pixels.
    """
    document = {
        "version": "5.5.0",
        "flags": {},
        "shapes": [
            {"label": label, "points": np.asarray(points, float).round(2).tolist(), **WRITTEN_SHAPE}
            for label, points in shapes
        ],
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": int(height),
        "imageWidth": int(width),
    }
    write_atomically(Path(path), json.dumps(document, indent=1).encode())


def label_ids(
    classes: tuple[str, ...], ignore_labels: tuple[str, ...], background_labels: tuple[str, ...] = ()
) -> dict[str, int]:
    """Mask value of every known label: 1, 2, ... in the order of `classes`, 255 ignore, 0 background."""
    ids = {label: index for index, label in enumerate(classes, 1)}
    others = dict.fromkeys(ignore_labels, IGNORE_INDEX) | dict.fromkeys((*background_labels, *BACKGROUND_LABELS), 0)
    given = (*classes, *ignore_labels, *background_labels)
    if len(set(given)) < len(given) or set(BACKGROUND_LABELS) & {*classes, *ignore_labels}:
        mend = "name each label once: a class, ignored or background; 'background' is no class of its own"
        raise StudyError(f"the classes {classes} do not fit", where="classes, ignore and background labels", mend=mend)
    return ids | others


def annotation_files(folder: Path, *, subfolders: bool = True) -> list[Path]:
    """The JSON files in `folder`, sorted; hidden files and folders are left out; StudyError if there are none.

    A link to a folder is listed as if it were a file, so that it is found faulty rather than passed over.
    """
    folder = Path(folder)
    if not folder.is_dir():
        mend = "put the pictures and their Labelme JSON there, or correct 'folder' in the profile"
        raise StudyError("the folder of annotations is not there", where=folder, mend=mend)
    files = _files(folder, (".json",), subfolders=subfolders)
    if not files:
        mend = "annotate its pictures in Labelme and save the JSON files beside them"
        raise StudyError("no Labelme JSON in the folder", where=folder, mend=mend)
    return files


def _files(folder: Path, suffixes: tuple[str, ...], *, subfolders: bool) -> list[Path]:
    """Files of some suffixes and links to folders, sorted; StudyError if a folder cannot be read."""
    files = []
    for here, inner, found in os.walk(folder, onerror=_unreadable):
        inner[:] = [name for name in inner if subfolders and name[0] != "."]
        files += [Path(here, name) for name in found if name.lower().endswith(suffixes) and name[0] != "."]
        files += [Path(here, name) for name in inner if Path(here, name).is_symlink()]
    return sorted(files)


def picture_name(relative: Path) -> str:
    """Name in the study of the picture that ``folder/relative`` annotates: it follows from that path alone.

    Folders are joined by two underscores. What some file system, list or figure does not bear is replaced, and the
    name then ends in eight digits of a digest of the path.
    """
    plain = unicodedata.normalize("NFC", "__".join((*relative.parent.parts, relative.stem)))
    name = UNSAFE.sub("_", "".join(sign if sign.isprintable() else "_" for sign in plain))
    if name != plain or len(name.encode()) > MAX_NAME or name.split(".")[0].lower() in DEVICES:
        return _with_digest(name, relative)
    return name


def _with_digest(name: str, relative: Path) -> str:
    short = name.encode()[: MAX_NAME - 9].decode(errors="ignore").rstrip()
    return f"{short}_{sha256(os.fsencode(relative.as_posix())).hexdigest()[:8]}"


def read_annotation(path: Path, *, root: Path, labels: dict[str, int]) -> Annotation:
    """Read one annotation with its picture.

    Parameters
    ----------
    path : Path
        The JSON file.
    root : Path
        The folder the user gave; a picture outside it is refused.
    labels : dict of str to int
        The known labels, as `label_ids` gives them.

    Raises
    ------
    StudyError
        With every fault of the file and how to mend it.
    """
    annotation, faults = examine(path, root=root, labels=labels)
    refuse(faults, path)
    return annotation


def examine(
    path: Path, *, root: Path, labels: dict[str, int], least_side: int = 0
) -> tuple[Annotation | None, list[Fault]]:
    """`read_annotation` that returns the faults; the annotation is None if there are any.

    With a `least_side`, a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as its longer
    side has that many pixels: twice as fast, in a fraction of the memory, and truncation is found all the same.
    """
    file, faults, shapes, image, size, digest = told_path(path, root), [], [], None, None, ""
    try:
        document = _read_document(path)
    except StudyError as error:
        return None, [Fault(file, None, error.what, error.mend)]
    try:
        image, size, digest = _read_image(document, path, root, least_side)
    except StudyError as error:
        faults.append(Fault(file, None, error.what, error.mend))
    for index, item in enumerate(document["shapes"]):
        try:
            shapes.append(_read_shape(item, labels, size, _major_version(document)))
        except StudyError as error:
            faults.append(Fault(file, index, error.what, error.mend))
    return (None if faults else Annotation(path, image, tuple(shapes), size, digest)), faults


def read_picture(path: Path) -> np.ndarray:
    """A picture of any mode, turned as its EXIF says: (H, W, 3) uint8 RGB.

    Raises
    ------
    StudyError
        It is not there, cannot be decoded to its last pixel, or is too large.
    """
    try:
        return to_rgb(_decode(path.read_bytes(), turn=True)[0])
    except StudyError as error:
        raise StudyError(error.what, where=path, mend=error.mend) from error
    except OSError as error:
        raise StudyError(f"the picture cannot be read ({error.strerror})", where=path, mend="check it") from error


def rasterize(
    shapes: tuple[Shape, ...],
    height: int,
    width: int,
    *,
    labels: dict[str, int],
    class_priority: tuple[str, ...] | None,
) -> tuple[np.ndarray, Counter]:
    """Paint shapes into a mask.

    Parameters
    ----------
    shapes : tuple of Shape
    height, width : int
        Pixels.
    labels : dict of str to int
        Mask value of each label, as `label_ids` gives them.
    class_priority : tuple of str or None
        None paints in file order, as Labelme does. Otherwise classes are painted in this order, so that later
        ones lie on top, above things that are background. Ignored regions and holes (shapes labelled
        ``_background_``) come last, as they take away from the classes.

    Returns
    -------
    mask : (H, W) uint8 array
    overwritten : Counter
        Pixels of a class that a later shape took, by (class that lost, label that took).
    """
    if class_priority is not None:
        rank = {label: index for index, label in enumerate(class_priority)}
        things = {label for label, index in labels.items() if index == 0 and label not in BACKGROUND_LABELS}
        shapes = sorted(shapes, key=lambda shape: -1 if shape.label in things else rank.get(shape.label, len(rank)))
    canvas, overwritten, painted = Image.new("L", (width, height)), Counter(), set()
    for shape in shapes:
        value, others = labels[shape.label], painted - {shape.label}
        box = _bounds(shape, width, height)
        before = np.asarray(canvas.crop(box)) if others else None
        _draw(shape, canvas, value)
        if before is not None and before.any():
            taken = before != np.asarray(canvas.crop(box))
            for label in others:
                if lost := np.count_nonzero(taken & (before == labels[label])):
                    overwritten[label, shape.label] += int(lost)
        if value not in (0, IGNORE_INDEX):
            painted.add(shape.label)
    return np.asarray(canvas), overwritten


def _draw(shape: Shape, canvas: Image.Image, value: int) -> None:
    """Draw one shape as Labelme does."""
    draw = ImageDraw.Draw(canvas)
    points = [tuple(point) for point in shape.points.tolist()]
    match shape.shape_type:
        case "polygon" | "oriented_rectangle":
            draw.polygon(points, outline=value, fill=value)
        case "rectangle":
            draw.rectangle([*shape.points.min(0), *shape.points.max(0)], outline=value, fill=value)
        case "line":
            draw.line(points, fill=value, width=LINE_WIDTH)
        case "linestrip":
            draw.line(points, fill=value, width=LINE_WIDTH, joint="curve" if shape.round_turns else None)
        case "circle" | "point":
            (x, y), radius = points[0], _radius(shape)
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=value, fill=value)
        case "mask":
            canvas.paste(value, _corner(shape), Image.fromarray(shape.mask))


def _bounds(shape: Shape, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a part of the picture outside which the shape draws nothing."""
    if shape.mask is not None:
        corner = _corner(shape)
        box = [*corner, *np.add(corner, shape.mask.shape[::-1])]
    else:
        reach = _radius(shape) if shape.shape_type in ("circle", "point") else LINE_WIDTH
        box = [*np.floor(shape.points.min(0) - reach - 1), *np.ceil(shape.points.max(0) + reach + 2)]
    return tuple(np.clip(box, 0, [width, height] * 2).astype(int).tolist())


def _radius(shape: Shape) -> float:
    """Of a circle, whose second point lies on its edge, or of a point."""
    return math.dist(*shape.points) if shape.shape_type == "circle" else POINT_RADIUS


def _corner(shape: Shape) -> tuple[int, int]:
    """x and y of the patch of a mask shape."""
    return tuple(shape.points.min(0).round().astype(int).tolist())


def _told(value: object) -> str:
    """A value from a file, short: text in quotes, a number, of anything else its kind."""
    return f"{value!r:.60}" if isinstance(value, str | int | float) else f"of type {type(value).__name__}"


def _unreadable(error: OSError) -> None:
    raise StudyError(f"a folder cannot be read ({error.strerror})", where=error.filename, mend="allow it to be read")


def _fault(what: str, mend: str) -> StudyError:
    """A fault whose place `examine` knows."""
    return StudyError(what, where=None, mend=mend)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _fault(f"cannot be opened ({error.strerror})", "allow the file to be read, or copy it again") from error


def _each_once(pairs: list[tuple[str, object]]) -> dict:
    """An object of JSON; of a key given twice, one value would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise _fault(f"the key {_told(twice)} is given twice", SAVE_AGAIN)
    return found


def _read_json(path: Path) -> bytes:
    if path.is_dir():
        raise _fault("a link to another folder, which is not followed", "put the folder itself there")
    if not path.is_file():
        raise _fault("not a file, or a link to nothing", MOVE_OUT)
    return _read_bytes(path)


def _read_document(path: Path) -> dict:
    return _parse(_read_json(path))


@lru_cache(maxsize=1)  # a file is looked at twice: whether it changed, and what it says
def _parse(content: bytes) -> dict:
    if not content.strip():
        raise _fault("an empty file", "annotate the picture anew, or move the file out of the folder")
    try:
        document = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_each_once)
    except UnicodeDecodeError as error:
        raise _fault("not text in UTF-8", "save it as UTF-8 in a text editor, or again in Labelme") from error
    except (ValueError, RecursionError) as error:
        raise _fault(f"not JSON ({error})", MOVE_OUT) from error
    if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
        raise _fault("no list 'shapes', so not Labelme's", MOVE_OUT)
    if not document["shapes"]:
        raise _fault("no shapes", f"annotate it, or draw one '{BACKGROUND_LABELS[0]}' shape if all is background")
    if len(document["shapes"]) > MAX_SHAPES:
        raise _fault(f"{len(document['shapes'])} shapes, more than {MAX_SHAPES}", MOVE_OUT)
    return document


def _major_version(document: dict) -> int:
    """Of the Labelme that wrote the file; 0 if it does not say."""
    found = re.match(r"(\d{1,3})\.", str(document.get("version")))
    return int(found[1]) if found else 0


def _read_image(document: dict, path: Path, root: Path, least_side: int) -> tuple[np.ndarray, tuple[int, int], str]:
    """The picture the shapes were drawn on, (H, W, 3) uint8 RGB, perhaps reduced; its full size; its digest."""
    embedded = document.get("imageData")
    if embedded is None:
        content = _read_bytes(_find_image(document.get("imagePath"), path, root))
    else:
        content = _from_base64(embedded)
    image, size = _decode(content, turn=embedded is None, least_side=least_side)  # Labelme embeds turned pictures
    stated = document.get("imageWidth"), document.get("imageHeight")
    if any(side not in (None, found) for side, found in zip(stated, size, strict=True)):
        said = "x".join("?" if side is None else _told(side) for side in stated)
        what = "the JSON says {} pixels, the picture has {}x{}".format(said, *size)
        raise _fault(what, "bring back the picture that was annotated, or annotate this one anew")
    return to_rgb(image), size, sha256(content).hexdigest()


def _find_image(named: object, path: Path, root: Path) -> Path:
    """The file that ``imagePath`` names, relative to the JSON, with either kind of slash, inside `root`."""
    if not isinstance(named, str) or not named:
        raise _fault("neither 'imageData' nor 'imagePath'", SAVE_AGAIN)
    relative = PureWindowsPath(named)
    if relative.anchor:
        raise _fault(f"'imagePath' is absolute: {_told(named)}", "put the picture beside the JSON; name it alone")
    try:
        found = (path.parent / relative.as_posix()).resolve()
        if not found.is_relative_to(root.resolve()):
            raise _fault(f"'imagePath' leads out of the folder: {_told(named)}", "put the picture beside the JSON")
        there = found.is_file()
    except (OSError, RuntimeError, ValueError):  # too long, a link to itself, a sign that no path has
        there = False
    if not there:
        raise _fault(f"the picture is not there: {_told(named)}", "put it there, or correct 'imagePath'")
    return found


def _from_base64(text: object) -> bytes:
    if not isinstance(text, str):
        raise _fault("embedded data that is not text", SAVE_AGAIN)
    try:
        return base64.b64decode(text)
    except ValueError as error:
        raise _fault(f"broken base64 ({error})", SAVE_AGAIN) from error


def _decode(content: bytes, *, turn: bool, least_side: int = 0) -> tuple[Image.Image, tuple[int, int]]:
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
        raise _fault(what, "make the picture smaller, then annotate it") from error
    except UnidentifiedImageError as error:
        raise _fault("no picture, or of a kind that is not read here", COPY_AGAIN) from error
    except Exception as error:  # on broken files PIL's decoders raise many kinds
        raise _fault(f"the picture cannot be read ({_told(str(error))})", COPY_AGAIN) from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """Any mode -> (H, W, 3) uint8; grey deeper than 8 bits is stretched from its least to its greatest value."""
    if image.mode.startswith(("I", "F")):
        grey = np.nan_to_num(np.asarray(image, dtype=np.float64))
        grey = (grey - grey.min()) / max(np.ptp(grey), 1e-9)
        image = Image.fromarray((255 * grey).round().astype(np.uint8))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # a palette may hold transparency, which RGB alone warns of
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _read_shape(item: object, labels: dict[str, int], size: tuple[int, int] | None, version: int) -> Shape:
    """One checked entry of ``shapes``; `size` is (width, height) of the picture if that could be read."""
    if not isinstance(item, dict) or not {"label", "points"} <= item.keys():
        raise _fault("no 'label' or no 'points'", REDRAW)
    label, kind, mask = item["label"], item.get("shape_type") or "polygon", None
    if not isinstance(label, str) or label not in labels:
        raise _fault(f"unknown label {_told(label)}", _mend_label(label, labels))
    if not isinstance(kind, str) or kind not in POINT_COUNTS:
        raise _fault(f"unknown shape type {_told(kind)}", "draw it as a polygon")
    points = item["points"]
    if not isinstance(points, list):
        raise _fault("'points' is not a list of x, y pairs", REDRAW)
    least, most = POINT_COUNTS[kind]
    if not least <= len(points) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise _fault(f"a {kind} of {len(points)} point(s) instead of {wanted}", REDRAW)
    points = _read_points(points)
    if size is not None:
        reach = max(size) / 2  # a little outside is a slip of the hand; this far is another picture
        if (points < -reach).any() or (points > np.add(size, reach)).any():
            what = "points far outside the picture of {}x{} pixels".format(*size)
            raise _fault(what, "check that the JSON belongs to this picture, or draw the shape again")
    if kind == "mask":
        points = points if version >= 7 else np.trunc(points)
        mask = np.asarray(_decode(_from_base64(item.get("mask")), turn=False)[0]) > 0
        box = np.ptp(points.round(), axis=0).astype(int)[::-1] + 1  # both corners belong to it
        if mask.ndim != 2 or np.abs(box - mask.shape).max() > 1:
            raise _fault(f"a mask of {mask.shape[::-1]} pixels in a box of {(*box[::-1].tolist(),)}", REDRAW)
        if (points == points.round()).all():  # between pixels, Labelme goes by the mask's own size
            mask = mask[: box[0], : box[1]]
    return Shape(label, points, kind, item.get("group_id"), mask, round_turns=version >= 7)


def _read_points(points: list) -> np.ndarray:
    """(N, 2) float64 of checked x, y pairs."""
    for point in points:
        if not isinstance(point, list) or len(point) != 2 or not {*map(type, point)} <= {int, float}:
            raise _fault("'points' is not a list of x, y pairs", REDRAW)
    try:
        found = np.array(points, dtype=np.float64)
    except OverflowError:  # an integer of hundreds of digits
        found = np.full((1, 2), np.inf)
    if not np.isfinite(found).all():
        raise _fault("a coordinate that is not a finite number", REDRAW)
    return found


def _mend_label(label: object, labels: dict[str, int]) -> str:
    own = [known for known in labels if known not in BACKGROUND_LABELS]
    known = {name.casefold(): name for name in own}
    near = get_close_matches(label[:60].strip().casefold(), known, n=1, cutoff=0.55) if isinstance(label, str) else []
    use = f"did you mean {known[near[0]]!r}? rename it" if near else f"use one of {', '.join(own)}"
    return f"{use}, or add it to a list of labels in the profile"
