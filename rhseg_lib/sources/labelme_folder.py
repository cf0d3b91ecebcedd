"""A folder of images and Labelme JSON as a source of images with masks."""

from __future__ import annotations

import os
import re
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from rhseg_lib.errors import StudyError
from rhseg_lib.sources.checks import Fault, told_path
from rhseg_lib.sources.images import PICTURE_SUFFIXES, Picture
from rhseg_lib.sources.labelme import examine, find_image, read_document, read_json
from rhseg_lib.sources.labelme_shapes import label_ids, rasterize

UNSAFE = re.compile(r'[<>:"/\\|?*$]|^ | $')  # in a file name on Windows; in lists of names; in titles of figures
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(1, 10))}
MAX_NAME = 150  # bytes, so that a copy's name fits any file system


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
            digest.update(read_json(path))
            document = read_document(path)
            if document.get("imageData") is None:
                about = find_image(document.get("imagePath"), path, self.folder).stat()
                digest.update(f"{about.st_size} {about.st_mtime_ns}".encode())
        return digest.hexdigest()


def annotation_files(folder: Path, *, subfolders: bool = True) -> list[Path]:
    """The JSON files in `folder`, sorted; hidden files and folders are left out; StudyError if there are none.

    A link to a folder is listed as if it were a file, so that it is found faulty rather than passed over.
    """
    folder = Path(folder)
    if not folder.is_dir():
        fix = "put the pictures and their Labelme JSON there, or correct 'folder' in the profile"
        raise StudyError("the folder of annotations is not there", where=folder, fix=fix)
    files = _files(folder, (".json",), subfolders=subfolders)
    if not files:
        fix = "annotate its pictures in Labelme and save the JSON files beside them"
        raise StudyError("no Labelme JSON in the folder", where=folder, fix=fix)
    return files


def _files(folder: Path, suffixes: tuple[str, ...], *, subfolders: bool) -> list[Path]:
    """Files of some suffixes and links to folders, sorted; StudyError if a folder cannot be read."""
    files = []
    for here, inner, found in os.walk(folder, onerror=_unreadable):
        inner[:] = [name for name in inner if subfolders and name[0] != "."]
        files += [Path(here, name) for name in found if name.lower().endswith(suffixes) and name[0] != "."]
        files += [Path(here, name) for name in inner if Path(here, name).is_symlink()]
    return sorted(files)


def _unreadable(error: OSError) -> None:
    raise StudyError(f"a folder cannot be read ({error.strerror})", where=error.filename, fix="allow it to be read")


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
