"""A folder of images and Labelme JSON as a source of images with masks."""

import os
import re
import unicodedata
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from rhseg_lib.errors import StudyError
from rhseg_lib.sources.checks import Problem, display_path
from rhseg_lib.sources.images import PICTURE_SUFFIXES, Picture
from rhseg_lib.sources.labelme import examine, find_image, parse, read_file
from rhseg_lib.sources.labelme_shapes import label_ids, rasterize

UNSAFE = re.compile(r'[<>:"/\\|?*$]|^ | $')  # in Windows file names, lists of names or figure titles
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(1, 10))}
MAX_NAME = 150  # bytes, so that a copy's name fits any file system


@dataclass(frozen=True)
class LabelmeFolder:
    """A folder of images and Labelme JSON, as a source of images with masks."""

    folder: Path
    classes: tuple[str, ...]  # labels of mask values 1, 2, ...
    ignore_labels: tuple[str, ...]  # labels of ignored regions (255)
    class_priority: tuple[str, ...] | None  # painting order; see `rasterize`
    background_labels: tuple[str, ...] = ()  # labels of background objects, besides `BACKGROUND_LABELS`
    subfolders: bool = True  # whether to include annotations in subfolders
    least_side: int = 0  # pixels; see `examine`
    may_be_empty: bool = True  # whether a file without shapes annotates background

    @property
    def labels(self) -> dict[str, int]:
        return label_ids(self.classes, self.ignore_labels, self.background_labels)

    def names(self) -> dict[str, Path]:
        """Name of each image in the study -> its annotation, sorted by name; StudyError if there are none."""
        named, taken = {}, set()
        for path in self._annotations():
            relative = path.relative_to(self.folder)
            name = image_name(relative)
            if name.casefold() in taken:  # the same file on Windows; the first keeps its name
                name = _with_digest(name, relative)
            taken.add(name.casefold())
            named[name] = path
        return dict(sorted(named.items()))

    def unannotated(self) -> list[str]:
        """Paths, in the folder, of images without an annotation of the same name.

        The annotation must be beside the image, or anywhere if the image's folder holds no annotations.
        """
        names_in = defaultdict[Path, set[str]](set)  # folder -> names of its annotations
        for path in self._annotations():
            names_in[path.parent].add(path.stem.casefold())
        anywhere = set[str]().union(*names_in.values())
        return [
            display_path(path, self.folder)
            for path in self._files(PICTURE_SUFFIXES)
            if path.stem.casefold() not in names_in.get(path.parent, anywhere)
        ]

    def examine(self, path: Path) -> tuple[Picture | None, list[Problem]]:
        """The image and mask of one annotation, or all its errors."""
        labels = self.labels
        annotation, problems = examine(path, self.folder, labels, self.least_side, self.may_be_empty)
        if annotation is None:
            return None, problems
        width, height = annotation.size
        painted = rasterize(annotation.shapes, height, width, labels=labels, class_priority=self.class_priority)
        return Picture(annotation.image, *painted, annotation.digest, annotation.remark), []

    def fingerprint(self, path: Path) -> str:
        """Changes with the JSON, and with the size or time of the image file that it names."""
        digest = sha256()
        with suppress(StudyError):  # `examine` reports the error
            content = read_file(path)
            digest.update(content)
            document = parse(content)
            if document.get("imageData") is None:
                about = find_image(document.get("imagePath"), path, self.folder).stat()
                digest.update(f"{about.st_size} {about.st_mtime_ns}".encode())
        return digest.hexdigest()

    def _annotations(self) -> list[Path]:
        """The JSON files, sorted; StudyError if there are none.

        A link to a folder is listed like a file, so that it is reported as an error rather than skipped.
        """
        if not self.folder.is_dir():
            fix = "put the images and their Labelme JSON there, or correct 'folder' in the profile"
            raise StudyError("the folder of annotations does not exist", where=self.folder, fix=fix)
        files = self._files((".json",))
        if not files:
            fix = "annotate its images in Labelme and save the JSON files beside them"
            raise StudyError("no Labelme JSON in the folder", where=self.folder, fix=fix)
        return files

    def _files(self, suffixes: tuple[str, ...]) -> list[Path]:
        """Files with these suffixes and links to folders, sorted, none hidden; StudyError for an unreadable folder."""
        files = []
        for here, inner, found in os.walk(self.folder, onerror=_unreadable):
            inner[:] = [name for name in inner if self.subfolders and name[0] != "."]
            files += [Path(here, name) for name in found if name.lower().endswith(suffixes) and name[0] != "."]
            files += [Path(here, name) for name in inner if Path(here, name).is_symlink()]
        return sorted(files)


def _unreadable(error: OSError) -> None:
    raise StudyError(f"a folder cannot be read ({error.strerror})", where=error.filename, fix="allow it to be read")


def image_name(relative: Path) -> str:
    """Name in the study of the image that ``folder/relative`` annotates; it depends on that path alone.

    Folders are joined by two underscores. Characters that some file system, list or figure cannot hold are replaced,
    and the name then ends in eight digits of a digest of the path.
    """
    plain = unicodedata.normalize("NFC", "__".join((*relative.parent.parts, relative.stem)))
    name = UNSAFE.sub("_", "".join(character if character.isprintable() else "_" for character in plain))
    if name != plain or len(name.encode()) > MAX_NAME or name.split(".")[0].lower() in DEVICES:
        return _with_digest(name, relative)
    return name


def _with_digest(name: str, relative: Path) -> str:
    short = name.encode()[: MAX_NAME - 9].decode(errors="ignore").rstrip()
    return f"{short}_{sha256(os.fsencode(relative.as_posix())).hexdigest()[:8]}"
