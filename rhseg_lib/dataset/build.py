"""Images with masks -> VOC2007 tree with materialised augmentation and split (paper, section 3.1).

The tree is built in a folder beside it and renamed when whole; its bytes do not depend on the number of workers. A
build that was killed resumes with what is finished there, image by image (`files.Unfinished`).
"""

from __future__ import annotations

import errno
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import yaml
from PIL import Image
from tqdm import tqdm

from rhseg_lib.dataset.augment import augment
from rhseg_lib.dataset.split import OPERATIONS, absence_in_words, plan
from rhseg_lib.dataset.voc_tree import (
    FORMAT,
    MARK,
    digests_of,
    image_file,
    image_names,
    mask_file,
    tree_hash,
    write_lists,
)
from rhseg_lib.dataset.workers import processes
from rhseg_lib.errors import StudyError
from rhseg_lib.files import Unfinished, repair, write_atomically
from rhseg_lib.profile import Profile
from rhseg_lib.scenes.write import write_scenes
from rhseg_lib.sources import checks, labelme_folder
from rhseg_lib.sources.images import IGNORE_INDEX, MARGIN_GREY, encode, fit, pad, palette_png
from rhseg_lib.sources.voc_folder import VocTree

Source = labelme_folder.LabelmeFolder | VocTree
REDUCTION = 1.5  # a JPEG may be decoded reduced, to no less than so many times the study's size


def make_dataset(profile: Profile, *, workers: int = 0) -> dict:
    """Render the profile's scenes, if it asks for synthetic ones, and build its VOC tree; see `build_voc`."""
    data = profile.data
    if data.source == "synthetic":
        total = data.num_scenes + data.holdout_scenes
        wanted = {"seed": data.seed, "size": data.scene_size, "num_scenes": total}
        note = profile.raw / "scenes.yaml"
        if profile.raw.exists() and any(profile.raw.iterdir()) and not note.exists():
            fix = "move it elsewhere: scenes are rendered there"
            raise StudyError("a folder not made here is in the way", where=profile.raw, fix=fix)
        if note.exists() and yaml.safe_load(note.read_text()) != wanted:
            print(f"{profile.raw} holds scenes of other settings: rendering anew")
            shutil.rmtree(profile.raw)  # nothing is lost: scenes follow from their settings
        profile.raw.mkdir(parents=True, exist_ok=True)
        write_atomically(note, yaml.safe_dump(wanted).encode())
        write_scenes(profile.raw, num_scenes=total, size=data.scene_size, seed=data.seed, workers=workers)
    folder = profile.raw if data.source == "synthetic" else profile.root / data.folder
    if data.source == "voc":
        if folder.resolve().is_relative_to(profile.voc.resolve()):
            fix = "name the folder of your own tree in the profile"
            raise StudyError("the folder is where the study writes", where=folder, fix=fix)
        source = VocTree(folder, data.classes, own_split=data.split == "given")
    else:
        if profile.voc.resolve().is_relative_to(folder.resolve()):
            fix = "give the pictures a folder of their own, such as data/photographs"
            raise StudyError("the data set would be written among the pictures", where=folder, fix=fix)
        source = labelme_folder.LabelmeFolder(
            folder,
            classes=data.classes,
            ignore_labels=data.ignore_labels,
            class_priority=data.class_priority,
            background_labels=data.background_labels,
            subfolders=data.source != "synthetic",  # there they hold the second annotator
            least_side=round(REDUCTION * data.image_size),
        )
    notes = _of_unannotated(source.unannotated()) if data.source == "labelme" else []
    listed = profile.tables / "faults.csv"
    try:
        dataset = build_voc(
            source,
            profile.voc,
            image_size=data.image_size,
            split=data.split,
            group=data.group,
            test_fraction=data.test_fraction,
            copies=data.augmented_copies,
            seed=data.seed,
            holdout=data.holdout_scenes,
            on_fault=data.on_fault,
            workers=workers,
            settings=data.model_dump(mode="json"),
            notes=notes,
        )
    except checks.FaultyAnnotations as error:
        checks.write_faults(listed, [asdict(fault) for fault in error.faults])
        error.fix = f"fix each as its line says ({listed} lists them all), or set on_fault: skip; then run again"
        raise
    checks.write_faults(listed, dataset["skipped"])
    return dataset


def _of_unannotated(pictures: list[str]) -> list[str]:
    """At most one sentence."""
    if not pictures:
        return []
    more = f" and {len(pictures) - 5} more" if len(pictures) > 5 else ""
    told = ", ".join(pictures[:5]) + more
    return [f"Left out, as they have no annotation of their name: {len(pictures)} picture(s), {told}."]


def build_voc(
    source: Source,
    voc: Path,
    *,
    image_size: int,
    split: Literal["given", "grouped", "as_described"],
    group: str | None = None,
    test_fraction: float,
    copies: int,
    seed: int,
    holdout: int = 0,
    on_fault: Literal["stop", "skip"] = "stop",
    workers: int,
    settings: dict,
    notes: Iterable[str] = (),
) -> dict:
    """Build the tree `voc` from a source of pictures and masks.

    Parameters
    ----------
    source : LabelmeFolder or VocTree
    voc : Path
    image_size : int
        Side of the square images in pixels; pictures keep their aspect, the margin is ignored.
    split : {"given", "grouped", "as_described"}
        "grouped" splits the originals, augments the training part and tests on originals only. "as_described"
        augments first and splits all images, so that copies of one original stand on both sides. "given" is
        "grouped" with the parts that the lists of a `VocTree` name; if it has none, "grouped".
    group : str or None
        Regular expression that finds in a picture's name what the split keeps together; see `split.plan`.
    test_fraction : float
    copies : int
        Augmented copies of each original, 0 to 4. Copy j of original i is made by operation (i + j) mod 4.
    seed : int
    holdout : int
        The last so many pictures, in the order of their names, are a part of their own that is never trained on.
    on_fault : {"stop", "skip"}
        Whether pictures with faults stop the build or are left out, listed as ``skipped``; the others stay in the part
        where they would be with them, unless a part would then lack a class.
    workers : int
        Processes; 0 takes one per processor, 1 works in this one.
    settings : dict
        What the caller wants on record, as JSON types.
    notes : iterable of str
        What the reader should know of the source, in sentences; the build adds its own.

    Returns
    -------
    dict
        The content of ``dataset.json``. ``classes`` includes background: its index is the mask value.

    Raises
    ------
    StudyError
        For faults in the annotations, all at once; names that collide; too few images; a full disk. What is finished by
        then is kept beside `voc` for the next call, as after a kill.
    """
    voc = voc.resolve()  # a link to another disk stays a link
    repair(voc)
    pictures = source.names()
    if not 0 <= copies <= len(OPERATIONS):
        raise StudyError(f"{copies} copies of each original", where="copies", fix="choose 0 to 4")
    if voc.exists() and any(voc.iterdir()) and not any((voc / name).is_file() for name in ("dataset.json", MARK)):
        raise StudyError("a folder not made here is in the way", where=voc, fix="move it elsewhere")
    given_test, of_lists = source.given_split() if split == "given" else (None, [])
    split = "grouped" if split == "given" and given_test is None else split
    try:
        draft = Unfinished(voc, _digest_of_settings(source, image_size, seed))
        for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (draft.tree / folder).mkdir(parents=True, exist_ok=True)
        with processes(workers) as run:
            _go_on(draft, pictures, source, run)
            faulty = _write_originals(draft, pictures, source, image_size, run)
            found = [("" if n in faulty else draft.finished[n]["digest"], faulty.get(n, [])) for n in pictures]
            skipped = checks.sift(pictures, found, folder=source.folder, on_fault=on_fault)
            columns = ("background", *source.classes, "ignore")
            shown = {n: () if n in skipped else _shown(draft.finished[n], columns[:-1]) for n in pictures}
            planned = plan(  # with those skipped, so that the others stay in their part
                {name: frozenset(some) for name, some in shown.items()},
                split=split,
                test_fraction=test_fraction,
                copies=copies,
                seed=seed,
                holdout=holdout,
                group=group,
                given_test=given_test,
            )
            operations, parts, group_of, holders, of_groups = planned
            pictures, operations, parts = _without(set(skipped), pictures, operations, parts, source.folder)
            copy_of = {f"{name}_{operation}": name for name, some in operations.items() for operation in some}
            _write_copies(draft, pictures, operations, source, image_size, seed, run)
        records = {name: draft.finished[name] for name in image_names(parts)}
        write_lists(draft.tree, parts)
        totals = {part: np.sum([records[name]["pixels"] for name in names], axis=0) for part, names in parts.items()}
        absent = {
            part: [name for name, count in zip(columns[:-1], totals[part], strict=False) if count == 0]
            for part in parts
        }
        overwritten = Counter()
        for name in pictures:
            overwritten.update({(lost, taker): count for lost, taker, count in draft.finished[name]["overwritten"]})
        dataset = {
            "format": FORMAT,
            "classes": list(columns[:-1]),
            "ignore_index": IGNORE_INDEX,
            "image_size": image_size,
            "split": split,
            "copies": copies,
            "seed": seed,
            "settings": settings,
            "counts": {part: len(names) for part, names in parts.items()},
            "originals": {part: len(set(names) - copy_of.keys()) for part, names in parts.items()},
            "copy_of": copy_of,
            "group_of": group_of,
            "skipped": [asdict(fault) for some in skipped.values() for fault in some],
            "class_pixels": {part: dict(zip(columns, totals[part].tolist(), strict=True)) for part in parts},
            "absent_classes": absent,
            "notes": [*notes, *of_lists, *of_groups, *absence_in_words(absent, holders, grouped=group is not None)],
            "overwritten_pixels": [
                {"class": lost, "by": taker, "pixels": overwritten[lost, taker]} for lost, taker in sorted(overwritten)
            ],
            "hash": tree_hash(parts, {name: record["sha256"] for name, record in records.items()}),
            "versions": _versions(),
        }
        (draft.tree / MARK).touch()
        (draft.tree / "dataset.json").write_text(json.dumps(dataset, indent=1), encoding="utf-8", newline="\n")
        draft.publish()
    except BrokenProcessPool as error:
        fix = "run again with one worker: most often memory ran out; what is finished is kept"
        raise StudyError("a worker process died", where=source.folder, fix=fix) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        fix = "free space there, then run again: what is finished is kept"
        raise StudyError("no space left on the disk", where=voc.parent, fix=fix) from error
    return dataset


def _digest_of_settings(source: Source, image_size: int, seed: int) -> str:
    """All that decides an image besides its input, the code included."""
    here = Path(__file__).parent
    code = [
        path.read_bytes().hex() for folder in (here, here.parent / "sources") for path in sorted(folder.glob("*.py"))
    ]
    made = [repr(source), image_size, seed, code, cv2.__version__, _versions()]
    return sha256(json.dumps(made).encode()).hexdigest()


def _without(
    skipped: set[str],
    pictures: dict[str, Path],
    operations: dict[str, list[str]],
    parts: dict[str, list[str]],
    folder: Path,
) -> tuple[dict[str, Path], dict[str, list[str]], dict[str, list[str]]]:
    """The plan of a build without the skipped pictures and their copies."""
    out = skipped | {f"{name}_{operation}" for name in skipped for operation in operations[name]}
    parts = {part: [name for name in names if name not in out] for part, names in parts.items()}
    for part, names in parts.items():
        if not names:
            raise StudyError(f"every picture of the part '{part}' has faults", where=folder, fix="fix some of them")
    operations = {name: some for name, some in operations.items() if name not in skipped}
    return {name: pictures[name] for name in operations}, operations, parts


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("pillow", "albumentations", "numpy")}


def _go_on(draft: Unfinished, pictures: dict[str, Path], source: Source, run: Callable) -> None:
    """Keep what an earlier call finished if neither its input nor its files changed since."""
    found = {name: record for name, record in draft.finished.items() if record["original"] in pictures}
    paths = [pictures[record["original"]] for record in found.values()]
    stands = list(run(partial(_still_stands, source=source, tree=draft.tree), found, paths, found.values()))
    kept = {name for name, stand in zip(found, stands, strict=True) if stand}
    draft.forget([name for name in draft.finished if name not in kept])
    if kept:
        print(f"{len(kept)} images are finished already: going on from there")


def _still_stands(name: str, path: Path, record: dict, *, source: Source, tree: Path) -> bool:
    try:
        return source.fingerprint(path) == record["made_of"] and digests_of(tree, name) == record["sha256"]
    except FileNotFoundError:
        return False


def _shown(record: dict, names: tuple[str, ...]) -> frozenset[str]:
    """Which classes, background among them, an image of the study's size shows."""
    return frozenset(name for name, count in zip(names, record["pixels"], strict=False) if count)


def _write_originals(
    draft: Unfinished,
    pictures: dict[str, Path],
    source: Source,
    image_size: int,
    run: Callable,
) -> dict[str, list[checks.Fault]]:
    """Check and write the originals that are not finished; the faults of those that have some, by name."""
    missing, faulty = [name for name in pictures if name not in draft.finished], {}
    write = partial(_write_original, source=source, tree=draft.tree, image_size=image_size)
    jobs = run(write, missing, [pictures[name] for name in missing])
    for name, (record, found) in zip(missing, _progress(jobs, "converting", len(pictures), len(missing)), strict=True):
        if found:
            faulty[name] = found
        else:
            draft.record({name: record})
    return faulty


def _write_copies(
    draft: Unfinished,
    pictures: dict[str, Path],
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
    paths, made_of = [pictures[name] for name in names], [draft.finished[name]["made_of"] for name in names]
    write = partial(_write_copies_of, source=source, tree=draft.tree, image_size=image_size, seed=seed)
    jobs = run(write, names, paths, made_of, [missing[name] for name in names])
    for records in _progress(jobs, "augmenting", len(copied), len(names)):
        draft.record(records)


def _progress(jobs: Iterable, title: str, total: int, missing: int) -> Iterable:
    return tqdm(jobs, title, total=total, initial=total - missing, disable=not missing)


def _write_original(
    name: str, path: Path, *, source: Source, tree: Path, image_size: int
) -> tuple[dict | None, list[checks.Fault]]:
    """Write one original; its record, or its faults."""
    made_of = source.fingerprint(path)
    picture, found = source.examine(path)
    if found:
        return None, found
    image, mask = fit(picture.image, picture.mask, image_size)
    record = _write_image(tree, name, image, mask, image_size, len(source.classes))
    overwritten = [[*labels, count] for labels, count in sorted(picture.overwritten.items())]
    about = {"original": name, "made_of": made_of, "digest": picture.digest}
    return {**about, "overwritten": overwritten, **record}, []


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
    """Write augmented copies of one original, from its pixels before they became JPEG; their records by name."""
    if source.fingerprint(path) != made_of:
        raise StudyError("the picture changed while it was converted", where=path, fix="run again")
    picture, found = source.examine(path)
    checks.refuse(found, path)
    original, records = fit(picture.image, picture.mask, image_size), {}
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
