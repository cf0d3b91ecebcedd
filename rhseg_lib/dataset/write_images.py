"""Write the images of a VOC tree: originals and their augmented copies, one by one, over processes.

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
from rhseg_lib.sources.images import IGNORE_INDEX, MARGIN_GREY, encode, fit, pad, palette_png
from rhseg_lib.sources.labelme_folder import LabelmeFolder
from rhseg_lib.sources.voc_folder import VocTree

Source = LabelmeFolder | VocTree


def drop_stale(draft: Unfinished, images: dict[str, Path], source: Source, run: Callable) -> None:
    """Keep what an earlier call finished if neither its input nor its files changed since."""
    found = {name: record for name, record in draft.finished.items() if record["original"] in images}
    paths = [images[record["original"]] for record in found.values()]
    stands = list(run(partial(_still_stands, source=source, tree=draft.tree), found, paths, found.values()))
    kept = {name for name, stand in zip(found, stands, strict=True) if stand}
    draft.forget([name for name in draft.finished if name not in kept])
    if kept:
        print(f"{len(kept)} images are finished already: resuming from there")


def _still_stands(name: str, path: Path, record: dict, *, source: Source, tree: Path) -> bool:
    try:
        return source.fingerprint(path) == record["made_of"] and digests_of(tree, name) == record["sha256"]
    except FileNotFoundError:
        return False


def write_originals(
    draft: Unfinished,
    images: dict[str, Path],
    source: Source,
    image_size: int,
    run: Callable,
) -> dict[str, list[checks.Problem]]:
    """Check and write the originals that are not finished; returns the errors, by image name."""
    missing, invalid = [name for name in images if name not in draft.finished], {}
    write = partial(_write_original, source=source, tree=draft.tree, image_size=image_size)
    jobs = run(write, missing, [images[name] for name in missing])
    for name, (record, found) in zip(missing, _progress(jobs, "converting", len(images), len(missing)), strict=True):
        if found:
            invalid[name] = found
        else:
            draft.record({name: record})
    return invalid


def write_copies(
    draft: Unfinished,
    images: dict[str, Path],
    operations: dict[str, list[str]],
    source: Source,
    image_size: int,
    seed: int,
    run: Callable,
) -> None:
    """Write the augmented copies that are not finished."""
    copied = {name: some for name, some in operations.items() if some}
    missing = {name: [o for o in some if f"{name}_{o}" not in draft.finished] for name, some in copied.items()}
    names = [name for name, some in missing.items() if some]
    paths, made_of = [images[name] for name in names], [draft.finished[name]["made_of"] for name in names]
    write = partial(_write_copies_of, source=source, tree=draft.tree, image_size=image_size, seed=seed)
    jobs = run(write, names, paths, made_of, [missing[name] for name in names])
    for records in _progress(jobs, "augmenting", len(copied), len(names)):
        draft.record(records)


def _progress(jobs: Iterable, title: str, total: int, missing: int) -> Iterable:
    return tqdm(jobs, title, total=total, initial=total - missing, disable=not missing)


def _write_original(
    name: str, path: Path, *, source: Source, tree: Path, image_size: int
) -> tuple[dict | None, list[checks.Problem]]:
    """Write one original; its record, or its problems."""
    made_of = source.fingerprint(path)
    sample, found = source.examine(path)
    if sample is None:
        return None, found
    image, mask = fit(sample.image, sample.mask, image_size)
    record = _write_image(tree, name, image, mask, image_size, len(source.classes))
    overwritten = [[*labels, count] for labels, count in sorted(sample.overwritten.items())]
    about = {"original": name, "made_of": made_of, "digest": sample.digest, "remark": sample.remark}
    size_limit = _overlap(sample.mask, mask, len(source.classes))
    return {**about, "overwritten": overwritten, "size_limit": size_limit, **record}, []


def _overlap(mask: np.ndarray, fitted: np.ndarray, num_classes: int) -> list[list[int]]:
    """Intersection and union, in pixels, of each class in a mask and in the fitted one enlarged to its size again."""
    enlarged = cv2.resize(fitted, mask.shape[::-1], interpolation=cv2.INTER_NEAREST)
    pairs = [(mask == value, enlarged == value) for value in range(1, 1 + num_classes)]
    return [[int(np.count_nonzero(how(*pair))) for pair in pairs] for how in (np.logical_and, np.logical_or)]


def _write_copies_of(
    name: str,
    path: Path,
    made_of: str,
    operations: list[str],
    *,
    source: Source,
    tree: Path,
    image_size: int,
    seed: int,
) -> dict[str, dict]:
    """Write augmented copies of one original, from the source's pixels, not the saved JPEG; their records by name."""
    if source.fingerprint(path) != made_of:
        raise StudyError("the image changed while it was converted", where=path, fix="run again")
    sample, found = source.examine(path)
    checks.refuse(found, path)
    assert sample is not None
    original, records = fit(sample.image, sample.mask, image_size), {}
    for operation in operations:
        copy = f"{name}_{operation}"
        image, mask = augment(*original, operation, f"{seed}/{copy}")
        record = _write_image(tree, copy, image, mask, image_size, len(source.classes))
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
