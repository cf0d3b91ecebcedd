"""Sources of new images: a folder, an image, a video."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypedDict

import cv2
import numpy as np

from rhseg_lib.errors import StudyError, printable, show
from rhseg_lib.files import LEFT_BEHIND
from rhseg_lib.sources import images, labelme
from rhseg_lib.sources.images import PICTURE_SUFFIXES

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
COPY_AGAIN = "copy it again from its source"


class Selection(TypedDict, total=False):
    """Which images of a source are used; see `open_source`."""

    every: int
    subfolders: bool


class Frame(NamedTuple):
    """One image of a source, or the error that prevented reading it."""

    name: str  # of the files written for it; empty for an error of the whole video
    source: str
    seconds: float | None  # from the start of a video
    image: np.ndarray | StudyError  # (H, W, 3) uint8 RGB
    remark: str = ""  # see `images.simplified`


@dataclass(frozen=True)
class ImageFiles:
    """Image files, named by their path in `folder`; suffixes are dropped if all names stay unique without them."""

    folder: Path
    files: tuple[Path, ...]
    left_out: str = ""  # files of the folder that are not segmented, and why

    def __len__(self) -> int:
        return len(self.files)

    def read(self, start: int) -> Iterator[Frame]:
        """Yield every image from number `start` on."""
        paths = [path.relative_to(self.folder) for path in self.files]
        stems = Counter(path.with_suffix("").as_posix().casefold() for path in paths)
        ambiguous = max(stems.values()) > 1
        for file, path in islice(zip(self.files, paths, strict=True), start, None):
            name = path.as_posix() if ambiguous else path.with_suffix("").as_posix()
            source = path.as_posix().encode(errors="surrogateescape").decode(errors="replace")
            try:
                if source != path.as_posix() or max(len(part.encode()) for part in path.parts) > 200:
                    raise StudyError("the file name is too long or not UTF-8", where=file, fix="rename it")
                read = labelme.read_embedded if file.suffix.lower() == ".json" else images.read_picture
                yield Frame(name, source, None, *read(file))
            except StudyError as error:
                yield Frame(name, source, None, error)


@dataclass(frozen=True)
class Video:
    """Every n-th frame of a video, decoded in order; a frame that fails to decode keeps its number and is reported."""

    path: Path
    every: int
    left_out = ""

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise StudyError("not a video, or damaged or truncated", where=self.path, fix=COPY_AGAIN)
        return capture

    def frames(self) -> int:
        """Number of frames that the file header states; 0 if it states none."""
        return max(0, int(self.open().get(cv2.CAP_PROP_FRAME_COUNT)))

    def __len__(self) -> int:
        return -(-self.frames() // self.every)

    def read(self, start: int) -> Iterator[Frame]:
        """Yield every selected frame from number `start` on; earlier ones are discarded, as seeking is not exact."""
        capture, source, number = self.open(), self.path.name, 0
        while capture.grab():
            if number % self.every == 0 and number // self.every >= start:
                decoded, image = capture.retrieve()
                error = StudyError("the frame cannot be decoded", where=self.path, fix=COPY_AGAIN)
                seconds = round(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, 3)
                rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if decoded else error
                yield Frame(f"frame_{number:06}", source, seconds, rgb)
            number += 1
        if number < self.frames() and -(-number // self.every) >= start:
            what = f"the file states {self.frames()} frames, {number} could be read"
            yield Frame("", source, None, StudyError(what, where=self.path, fix=COPY_AGAIN))


def open_source(
    source: Path, *, every: int = 1, subfolders: bool = False, leave_out: Path | None = None
) -> ImageFiles | Video:
    """Open an image, a folder of images or a video; files below the folder `leave_out` are ignored.

    Every other file of a folder is used or, if it is no image by its suffix and no Labelme file that holds one, counted
    and named. StudyError if the source does not exist, holds no image, or is a video that cannot be opened.
    """
    kind = source.suffix.lower()
    if source.is_file() and kind in VIDEOS:
        video = Video(source, every)
        video.open()
        return video
    if source.is_file() and kind in PICTURE_SUFFIXES:
        return ImageFiles(source.parent, (source,))
    if not source.is_dir():
        what = f"neither an image nor a video: '{kind}'" if source.exists() else "the source does not exist"
        fix = f"give a folder of images, an image ({', '.join(PICTURE_SUFFIXES)}) or a video ({', '.join(VIDEOS)})"
        raise StudyError(what, where=source, fix=fix)
    present = sorted(
        path
        for path in source.rglob("*")
        if not path.is_dir()  # a pipe or a broken link is reported when it is read
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
        and path.name.lower() not in LEFT_BEHIND
        and not (leave_out and path.resolve().is_relative_to(leave_out))
    )
    wanted = [path for path in present if subfolders or path.parent == source]
    files = tuple(path for path in wanted if path.suffix.lower() in PICTURE_SUFFIXES)
    beside = {path.with_suffix("") for path in files}
    files += tuple(path for path in wanted if path.with_suffix("") not in beside and labelme.embeds_image(path))
    others = sorted({*wanted} - {*files})
    left_out = [_listed(others)] if others else []
    if below := len(present) - len(wanted):
        left_out.append(f"{below} in subfolders, which the setting `subfolders` (--subfolders) includes")
    summary = f"left out: {'; '.join(left_out)}" if left_out else ""
    if not files:
        fix = f"give a folder with files {', '.join(PICTURE_SUFFIXES)}; give a video by its own path"
        what = f"no images in the folder; {summary}" if summary else "no images in the folder"
        raise StudyError(what, where=source, fix=fix)
    if summary:
        show(f"{source}: {len(files)} images; {summary}")
    return ImageFiles(source, files, summary)


def _listed(paths: list[Path]) -> str:
    """How many files of each kind, with up to three names: "1 .heic (a.heic), 12 .json (a.json, b.json, c.json, …)"."""
    kinds = dict[str, list[str]]()
    for path in paths:
        kinds.setdefault(path.suffix.lower() or "without suffix", []).append(printable(path.name))
    return ", ".join(
        f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for kind, names in kinds.items()
    )
