"""Where new images come from: a folder, an image, a video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from rhseg_lib.errors import StudyError
from rhseg_lib.sources import images
from rhseg_lib.sources.images import PICTURE_SUFFIXES

VIDEOS = (".avi", ".mkv", ".mov", ".mp4")
COPY_AGAIN = "copy it again from its source"


class Frame(NamedTuple):
    """One picture of a source, or why it cannot be had."""

    name: str  # of the files made from it
    source: str
    seconds: float | None  # from the start of a video
    image: np.ndarray | StudyError  # (H, W, 3) uint8 RGB


@dataclass(frozen=True)
class PictureFiles:
    """Pictures in files; their names are their paths in `folder`, without suffix where those differ without."""

    folder: Path
    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, start: int) -> Iterator[Frame]:
        """Every picture from number `start` on."""
        paths = [path.relative_to(self.folder) for path in self.files]
        bare = Counter(path.with_suffix("").as_posix().casefold() for path in paths)
        alike = max(bare.values()) > 1
        for file, path in islice(zip(self.files, paths, strict=True), start, None):
            name = path.as_posix() if alike else path.with_suffix("").as_posix()
            source = path.as_posix().encode(errors="surrogateescape").decode(errors="replace")
            try:
                if source != path.as_posix() or max(len(part.encode()) for part in path.parts) > 200:
                    raise StudyError("its name is too long or not UTF-8", where=file, fix="rename it")
                yield Frame(name, source, None, images.read_picture(file))
            except StudyError as fault:
                yield Frame(name, source, None, fault)


@dataclass(frozen=True)
class Video:
    """Every so many frames of a video, as OpenCV decodes them in order; frames it cannot decode are not numbered."""

    path: Path
    every: int

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise StudyError("not a video, or broken or cut off", where=self.path, fix=COPY_AGAIN)
        return capture

    def frames(self) -> int:
        """How many frames the file announces; 0 if it does not say."""
        return max(0, int(self.open().get(cv2.CAP_PROP_FRAME_COUNT)))

    def __len__(self) -> int:
        return -(-self.frames() // self.every)

    def read(self, start: int) -> Iterator[Frame]:
        """Every chosen frame from number `start` on; those before are passed by, as seeking is not exact."""
        capture, source, number = self.open(), self.path.name, 0
        while capture.grab():
            if number % self.every == 0 and number // self.every >= start:
                whole, image = capture.retrieve()
                fault = StudyError("the frame cannot be decoded", where=self.path, fix=COPY_AGAIN)
                seconds = round(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, 3)
                yield Frame(f"frame_{number:06}", source, seconds, image[..., ::-1] if whole else fault)
            number += 1
        if number < self.frames() and -(-number // self.every) >= start:
            what = f"the file announces {self.frames()} frames, {number} could be read"
            yield Frame("", source, None, StudyError(what, where=self.path, fix=COPY_AGAIN))


def open_source(
    source: Path, *, every: int = 1, subfolders: bool = False, leave_out: tuple[Path, ...] = ()
) -> PictureFiles | Video:
    """A picture, a folder of pictures or a video; files below the folders `leave_out` are no sources.

    Raises
    ------
    StudyError
        Nothing there, nothing that can be read, or a video that cannot be opened.
    """
    kind = source.suffix.lower()
    if source.is_file() and kind in VIDEOS:
        video = Video(source, every)
        video.open()
        return video
    if source.is_file() and kind in PICTURE_SUFFIXES:
        return PictureFiles(source.parent, (source,))
    if not source.is_dir():
        what = f"neither a picture nor a video: '{kind}'" if source.is_file() else "the source is not there"
        fix = f"give a folder of pictures, a picture ({', '.join(PICTURE_SUFFIXES)}) or a video ({', '.join(VIDEOS)})"
        raise StudyError(what, where=source, fix=fix)
    found = sorted(
        path
        for path in source.rglob("*")
        if path.suffix.lower() in PICTURE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
        and not any(path.resolve().is_relative_to(folder) for folder in leave_out)
    )
    files = tuple(path for path in found if subfolders or path.parent == source)
    left = len(found) - len(files)
    below = f"; {left} in subfolders, which the setting `subfolders` (--subfolders) takes too" if left else ""
    if not files:
        fix = f"give a folder that holds {', '.join(PICTURE_SUFFIXES)}; a video is given by its own path"
        raise StudyError(f"no pictures in the folder{below}", where=source, fix=fix)
    if below:
        print(f"{source}: {len(files)} pictures{below}")
    return PictureFiles(source, files)
