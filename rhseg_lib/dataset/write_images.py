"""Write the images of a VOC tree: originals (or their tiles) and augmented copies, one by one, over processes.

Finished images are logged in the draft's journal, so that a killed build resumes after its last image.
"""

from collections.abc import Callable, Iterable
from functools import partial
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
from rhseg_lib.sources.images import IGNORE_INDEX, MARGIN_GREY, encode, pad, palette_png
from rhseg_lib.sources.labelme_folder import LabelmeFolder
from rhseg_lib.sources.tiles import Cutting
from rhseg_lib.sources.voc_folder import VocTree

Source = LabelmeFolder | VocTree


def drop_stale(draft: Unfinished, images: dict[str, Path], source: Source, run: Callable) -> None:
    """Keep what an earlier call finished if neither its input nor its files changed since."""
    found = {name: record for name, record in draft.finished.items() if record["original"] in images}
    paths = [images[record["original"]] for record in found.values()]
    stands = list(run(partial(_still_stands, source=source, tree=draft.tree), found, paths, found.values()))
    kept = {name for name, stand in zip(found, stands, strict=True) if stand}
    broken = {record["original"] for name, record in found.items() if name not in kept and "digest" in record}
    kept -= {name for name, record in found.items() if "digest" in record and record["original"] in broken}
    draft.forget([name for name in draft.finished if name not in kept])
    if kept:
        print(f"{len(kept)} images are finished already: resuming from there")


def _still_stands(name: str, path: Path, record: dict, *, source: Source, tree: Path) -> bool:
    try:
        return source.fingerprint(path) == record["made_of"] and digests_of(tree, name) == record["sha256"]
    except FileNotFoundError:
        return False


def tiles_of(draft: Unfinished) -> dict[str, list[str]]:
    """The finished originals, each with the names of its tiles: its own name alone if it is whole."""
    tiles = dict[str, list[str]]()
    for name, record in draft.finished.items():
        if "digest" in record:  # no copy
            tiles.setdefault(record["original"], []).append(name)
    return tiles


def write_originals(
    draft: Unfinished,
    images: dict[str, Path],
    source: Source,
    cutting: Cutting,
    run: Callable,
) -> dict[str, list[checks.Problem]]:
    """Check and write the originals that are not finished; returns the errors, by image name."""
    done, invalid = tiles_of(draft), {}
    missing = [name for name in images if name not in done]
    write = partial(_write_original, source=source, tree=draft.tree, cutting=cutting)
    jobs = run(write, missing, [images[name] for name in missing])
    for name, (records, found) in zip(missing, _progress(jobs, "converting", len(images), len(missing)), strict=True):
        if found:
            invalid[name] = found
        else:
            draft.record(records)
    return invalid


def write_copies(
    draft: Unfinished,
    images: dict[str, Path],
    operations: dict[str, list[str]],
    source: Source,
    cutting: Cutting,
    seed: int,
    run: Callable,
) -> None:
    """Write the augmented copies that are not finished, of originals or of their tiles."""
    copied, missing = set[str](), dict[str, dict[str, list[str]]]()  # original -> tile of it -> operations
    for name, some in operations.items():
        of = draft.finished[name]["original"]
        copied |= {of} if some else set()
        if left := [operation for operation in some if f"{name}_{operation}" not in draft.finished]:
            missing.setdefault(of, {})[name] = left
    firsts = [next(iter(tiles)) for tiles in missing.values()]
    paths, made_of = [images[name] for name in firsts], [draft.finished[name]["made_of"] for name in firsts]
    write = partial(_write_copies_of, source=source, tree=draft.tree, cutting=cutting, seed=seed)
    jobs = run(write, missing, paths, made_of, missing.values())
    for records in _progress(jobs, "augmenting", len(copied), len(missing)):
        draft.record(records)


def _progress(jobs: Iterable, title: str, total: int, missing: int) -> Iterable:
    return tqdm(jobs, title, total=total, initial=total - missing, disable=not missing)


def _write_original(
    name: str, path: Path, *, source: Source, tree: Path, cutting: Cutting
) -> tuple[dict[str, dict], list[checks.Problem]]:
    """Write one original, whole or in tiles; their records by name, or its problems."""
    made_of = source.fingerprint(path)
    sample, found = source.examine(path)
    if sample is None:
        return {}, found
    overwritten = [[*labels, count] for labels, count in sorted(sample.overwritten.items())]
    about, records = {"original": name, "made_of": made_of, "digest": sample.digest, "remark": sample.remark}, {}
    for piece in cutting.pieces(name, sample.image, sample.mask):
        image, mask = cutting.fit(piece.image, piece.mask)
        record = _write_image(tree, piece.name, image, mask, cutting.image_size, len(source.classes))
        size_limit = _overlap(piece.mask, mask, len(source.classes))
        records[piece.name] = {**about, "overwritten": overwritten, "size_limit": size_limit, **record}
        overwritten = []  # counted once, in the first tile
    return records, []


def _overlap(mask: np.ndarray, fitted: np.ndarray, num_classes: int) -> list[list[int]]:
    """Intersection and union, in pixels, of each class in a mask and in the fitted one enlarged to its size again."""
    enlarged = cv2.resize(fitted, mask.shape[::-1], interpolation=cv2.INTER_NEAREST)
    pairs = [(mask == value, enlarged == value) for value in range(1, 1 + num_classes)]
    return [[int(np.count_nonzero(how(*pair))) for pair in pairs] for how in (np.logical_and, np.logical_or)]


def _write_copies_of(
    name: str,
    path: Path,
    made_of: str,
    operations: dict[str, list[str]],
    *,
    source: Source,
    tree: Path,
    cutting: Cutting,
    seed: int,
) -> dict[str, dict]:
    """Write augmented copies of one original, from the source's pixels, not the saved JPEG; their records by name.

    `operations` are those of each of its tiles, by the tile's name; without tiles, by its own.
    """
    if source.fingerprint(path) != made_of:
        raise StudyError("the image changed while it was converted", where=path, fix="run again")
    sample, found = source.examine(path)
    checks.refuse(found, path)
    assert sample is not None
    records = dict[str, dict]()
    for piece in cutting.pieces(name, sample.image, sample.mask):
        some = operations.get(piece.name, [])
        original = cutting.fit(piece.image, piece.mask) if some else (piece.image, piece.mask)
        for operation in some:
            copy = f"{piece.name}_{operation}"
            image, mask = augment(*original, operation, f"{seed}/{copy}")
            record = _write_image(tree, copy, image, mask, cutting.image_size, len(source.classes))
            records[copy] = {"original": name, "made_of": made_of, **record}
    return records


def _write_image(
    tree: Path, name: str, image: np.ndarray, mask: np.ndarray, image_size: int, num_classes: int
) -> dict[str, list]:
    """Write a fitted image and its mask with their margins; digests of both files, pixels of each class."""
    image, mask = pad(image, image_size, MARGIN_GREY), pad(mask, image_size, IGNORE_INDEX)
    contents = {
        image_file(tree, name): encode(Image.fromarray(image), "JPEG"),
        mask_file(tree, name): palette_png(mask),
    }
    for path, content in contents.items():
        path.write_bytes(content)  # not finished before `Unfinished.record` says so
    digests = [sha256(content).hexdigest() for content in contents.values()]
    return {"sha256": digests, "pixels": _count(mask, 1 + num_classes)}


def _count(mask: np.ndarray, num_classes: int) -> list[int]:
    """Pixels of each class, then of ignore."""
    return [int(np.count_nonzero(mask == value)) for value in (*range(num_classes), IGNORE_INDEX)]
