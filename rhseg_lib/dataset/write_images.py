"""Write the images of a VOC tree: originals (or their tiles) and augmented copies, one by one, over processes.

Finished images are logged in the draft's journal, so that a killed build resumes after its last image.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from rhseg_lib.dataset.augment import augment
from rhseg_lib.dataset.voc_tree import digests_of, image_file, mask_file
from rhseg_lib.errors import StudyError
from rhseg_lib.files import Unfinished
from rhseg_lib.sources import checks
from rhseg_lib.sources.images import IGNORE_INDEX, MARGIN_GREY, class_pixels, encode, pad, palette_png
from rhseg_lib.sources.labelme_folder import LabelmeFolder
from rhseg_lib.sources.tiles import Cutting
from rhseg_lib.sources.voc_folder import VocTree

Source = LabelmeFolder | VocTree


@dataclass(frozen=True)
class Converter:
    """Writes images of a source into a tree; its methods run in the worker processes."""

    source: Source
    tree: Path
    cutting: Cutting
    seed: int  # of the augmented copies

    def is_current(self, name: str, path: Path, record: dict) -> bool:
        """Whether neither the input of a finished image nor its files changed since."""
        try:
            same_input = self.source.fingerprint(path) == record["made_of"]
            return same_input and digests_of(self.tree, name) == record["sha256"]
        except FileNotFoundError:
            return False

    def write_original(self, name: str, path: Path) -> tuple[dict[str, dict], list[checks.Problem]]:
        """Write one original, whole or in tiles; their records by name, or its errors."""
        made_of = self.source.fingerprint(path)
        picture, problems = self.source.examine(path)
        if picture is None:
            return {}, problems
        overwritten = [[*labels, count] for labels, count in sorted(picture.overwritten.items())]
        records = dict[str, dict]()
        for piece in self.cutting.pieces(name, picture.image, picture.mask):
            image, mask = self.cutting.fit(piece.image, piece.mask)
            records[piece.name] = {
                "original": name,
                "made_of": made_of,
                "digest": picture.digest,
                "remark": picture.remark,
                "overwritten": [] if records else overwritten,  # counted once, in the first tile
                "size_limit": _overlap(piece.mask, mask, len(self.source.classes)),
                **self.write_image(piece.name, image, mask),
            }
        return records, []

    def write_copies(self, name: str, path: Path, made_of: str, operations: dict[str, list[str]]) -> dict[str, dict]:
        """Write augmented copies of one original, from the source's pixels, not the saved JPEG; their records by name.

        `operations` are those of each of its tiles, by the tile's name; without tiles, by its own.
        """
        if self.source.fingerprint(path) != made_of:
            raise StudyError("the image changed while it was converted", where=path, fix="run again")
        picture, problems = self.source.examine(path)
        checks.refuse(problems, path)
        assert picture is not None
        records = dict[str, dict]()
        for piece in self.cutting.pieces(name, picture.image, picture.mask):
            if piece.name not in operations:
                continue
            original = self.cutting.fit(piece.image, piece.mask)
            for operation in operations[piece.name]:
                copy = f"{piece.name}_{operation}"
                image, mask = augment(*original, operation, f"{self.seed}/{copy}")
                records[copy] = {"original": name, "made_of": made_of, **self.write_image(copy, image, mask)}
        return records

    def write_image(self, name: str, image: np.ndarray, mask: np.ndarray) -> dict[str, list]:
        """Write a fitted image and its mask with their margins; digests of both files, pixels of each class, ignore."""
        size, num_classes = self.cutting.image_size, 1 + len(self.source.classes)
        image, mask = pad(image, size, MARGIN_GREY), pad(mask, size, IGNORE_INDEX)
        contents = encode(Image.fromarray(image), "JPEG"), palette_png(mask)
        for path, content in zip((image_file(self.tree, name), mask_file(self.tree, name)), contents, strict=True):
            path.write_bytes(content)  # not finished before `Unfinished.record` says so
        pixels = class_pixels(mask, num_classes)
        return {
            "sha256": [sha256(content).hexdigest() for content in contents],
            "pixels": [*pixels, mask.size - sum(pixels)],
        }


def _overlap(mask: np.ndarray, fitted: np.ndarray, num_classes: int) -> list[list[int]]:
    """Intersection and union, in pixels, of each class in a mask and in the fitted one enlarged to its size again."""
    enlarged = cv2.resize(fitted, mask.shape[::-1], interpolation=cv2.INTER_NEAREST)
    pairs = [(mask == value, enlarged == value) for value in range(1, 1 + num_classes)]
    return [[int(np.count_nonzero(how(*pair))) for pair in pairs] for how in (np.logical_and, np.logical_or)]


def drop_stale(draft: Unfinished, images: dict[str, Path], converter: Converter, run: Callable) -> None:
    """Keep what an earlier call finished if it is still current; an original and its tiles only together."""
    found = {name: record for name, record in draft.finished.items() if record["original"] in images}
    paths = [images[record["original"]] for record in found.values()]
    current = run(converter.is_current, found, paths, found.values())
    kept = {name for name, is_current in zip(found, current, strict=True) if is_current}
    broken = {record["original"] for name, record in found.items() if name not in kept and "digest" in record}
    kept -= {name for name, record in found.items() if "digest" in record and record["original"] in broken}
    draft.forget([name for name in draft.finished if name not in kept])
    if kept:
        print(f"{len(kept)} images are finished already: resuming from there")


def tiles_of(draft: Unfinished) -> dict[str, list[str]]:
    """The finished originals, each with the names of its tiles: its own name alone if it is whole."""
    tiles = dict[str, list[str]]()
    for name, record in draft.finished.items():
        if "digest" in record:  # no copy
            tiles.setdefault(record["original"], []).append(name)
    return tiles


def write_originals(
    draft: Unfinished, images: dict[str, Path], converter: Converter, run: Callable
) -> dict[str, list[checks.Problem]]:
    """Check and write the originals that are not finished; returns the errors, by image name."""
    done, invalid = tiles_of(draft), {}
    missing = [name for name in images if name not in done]
    jobs = run(converter.write_original, missing, [images[name] for name in missing])
    results = _progress(jobs, "converting", len(images), len(missing))
    for name, (records, problems) in zip(missing, results, strict=True):
        if problems:
            invalid[name] = problems
        else:
            draft.record(records)
    return invalid


def write_copies(
    draft: Unfinished,
    images: dict[str, Path],
    operations: dict[str, list[str]],
    converter: Converter,
    run: Callable,
) -> None:
    """Write the augmented copies that are not finished, of originals or of their tiles."""
    copied, missing = set[str](), dict[str, dict[str, list[str]]]()  # original -> tile of it -> operations
    for tile, some in operations.items():
        original = draft.finished[tile]["original"]
        if some:
            copied.add(original)
        if left := [operation for operation in some if f"{tile}_{operation}" not in draft.finished]:
            missing.setdefault(original, {})[tile] = left
    paths = [images[name] for name in missing]
    made_of = [draft.finished[next(iter(tiles))]["made_of"] for tiles in missing.values()]
    jobs = run(converter.write_copies, missing, paths, made_of, missing.values())
    for records in _progress(jobs, "augmenting", len(copied), len(missing)):
        draft.record(records)


def _progress(jobs: Iterable, title: str, total: int, missing: int) -> Iterable:
    return tqdm(jobs, title, total=total, initial=total - missing, disable=not missing)
