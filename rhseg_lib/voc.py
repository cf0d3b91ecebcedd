"""Pictures with masks -> VOC2007 tree with materialised augmentation and split (paper, section 3.1).

    JPEGImages/*.jpg                    quality 95, image_size x image_size
    SegmentationClass/*.png             palette mode: 0 background, 1... classes, 255 ignore
    ImageSets/Segmentation/train.txt    trainval.txt holds the same names: no part is set aside for validation,
    ImageSets/Segmentation/test.txt     and in VOC2007, too, trainval and test have no image in common
    ImageSets/Segmentation/holdout.txt  if asked for: fresh pictures beside the paper-sized test part
    dataset.json                        classes, counts, pixels, settings, and one hash over all files

The tree is built in a folder beside it and renamed when whole; its bytes do not depend on the number of workers. A
build that was killed goes on with what is finished there (`unfinished`), picture by picture.
"""

import errno
import io
import json
import math
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import yaml
from PIL import Image
from tqdm import tqdm

from rhseg_lib import IGNORE_INDEX, StudyError, faults, labelme
from rhseg_lib.files import write_atomically
from rhseg_lib.split import OPERATIONS, absence_in_words, plan
from rhseg_lib.unfinished import Unfinished, repair

if TYPE_CHECKING:
    from rhseg_lib.profile import Profile
    from rhseg_lib.voc_source import VocTree

    Source = labelme.LabelmeFolder | VocTree

FORMAT = 1  # of dataset.json; raised when its meaning changes
MARGIN_GREY = 128
REDUCTION = 1.5  # a JPEG may be decoded reduced, to no less than so many times the study's size
CHUNK = 2**18  # pixels of a mask that are counted at a time when it shrinks
REBUILD = "run notebook 01 again"
MARK = ".made-here"  # in a tree of ours, also where dataset.json was removed so that it is built again


def _voc_palette() -> np.ndarray:
    """VOC's colour of every mask value, (256, 3) uint8: the bits of the value dealt to R, G, B, highest first."""
    bits = np.arange(256)[:, None] >> np.arange(8) & 1  # (256, 8), lowest bit first
    weights = 128 >> np.arange(8) // 3
    return np.stack([(bits * weights)[:, channel::3].sum(1) for channel in range(3)], axis=1).astype(np.uint8)


VOC_PALETTE = _voc_palette()


def make_dataset(profile: "Profile", *, workers: int = 0) -> dict:
    """Render the profile's scenes, if it asks for synthetic ones, and build its VOC tree; see `build_voc`."""
    from rhseg_lib.voc_source import VocTree

    data = profile.data
    if data.source == "synthetic":
        from rhseg_lib.scenes import write_scenes

        total = data.num_scenes + data.holdout_scenes
        wanted = {"seed": data.seed, "size": data.scene_size, "num_scenes": total}
        note = profile.raw / "scenes.yaml"
        if profile.raw.exists() and any(profile.raw.iterdir()) and not note.exists():
            mend = "move it elsewhere: scenes are rendered there"
            raise StudyError("a folder not made here is in the way", where=profile.raw, mend=mend)
        if note.exists() and yaml.safe_load(note.read_text()) != wanted:
            print(f"{profile.raw} holds scenes of other settings: rendering anew")
            shutil.rmtree(profile.raw)  # nothing is lost: scenes follow from their settings
        profile.raw.mkdir(parents=True, exist_ok=True)
        write_atomically(note, yaml.safe_dump(wanted).encode())
        write_scenes(profile.raw, num_scenes=total, size=data.scene_size, seed=data.seed, workers=workers)
    folder = profile.raw if data.source == "synthetic" else profile.root / data.folder
    if data.source == "voc":
        if folder.resolve().is_relative_to(profile.voc.resolve()):
            mend = "name the folder of your own tree in the profile"
            raise StudyError("the folder is where the study writes", where=folder, mend=mend)
        source = VocTree(folder, data.classes, own_split=data.split == "given")
    else:
        if profile.voc.resolve().is_relative_to(folder.resolve()):
            mend = "give the pictures a folder of their own, such as data/photographs"
            raise StudyError("the data set would be written among the pictures", where=folder, mend=mend)
        source = labelme.LabelmeFolder(
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
    except faults.FaultyAnnotations as error:
        faults.write_faults(listed, [asdict(fault) for fault in error.faults])
        error.mend = f"mend each as its line says ({listed} lists them all), or set on_fault: skip; then run again"
        raise
    faults.write_faults(listed, dataset["skipped"])
    return dataset


def _of_unannotated(pictures: list[str]) -> list[str]:
    """At most one sentence."""
    if not pictures:
        return []
    more = f" and {len(pictures) - 5} more" if len(pictures) > 5 else ""
    told = ", ".join(pictures[:5]) + more
    return [f"Left out, as they have no annotation of their name: {len(pictures)} picture(s), {told}."]


def build_voc(
    source: "Source",
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
        raise StudyError(f"{copies} copies of each original", where="copies", mend="choose 0 to 4")
    if voc.exists() and any(voc.iterdir()) and not any((voc / name).is_file() for name in ("dataset.json", MARK)):
        raise StudyError("a folder not made here is in the way", where=voc, mend="move it elsewhere")
    given_test, of_lists = source.given_split() if split == "given" else (None, [])
    split = "grouped" if split == "given" and given_test is None else split
    try:
        draft = Unfinished(voc, _digest_of_settings(source, image_size, seed))
        for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (draft.tree / folder).mkdir(parents=True, exist_ok=True)
        with _processes(workers) as run:
            _go_on(draft, pictures, source, run)
            faulty = _write_originals(draft, pictures, source, image_size, run)
            found = [("" if n in faulty else draft.finished[n]["digest"], faulty.get(n, [])) for n in pictures]
            skipped = faults.sift(pictures, found, folder=source.folder, on_fault=on_fault)
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
        _write_lists(draft.tree, parts)
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
            "hash": _tree_hash(parts, {name: record["sha256"] for name, record in records.items()}),
            "versions": _versions(),
        }
        (draft.tree / MARK).touch()
        (draft.tree / "dataset.json").write_text(json.dumps(dataset, indent=1), encoding="utf-8", newline="\n")
        draft.publish()
    except BrokenProcessPool as error:
        mend = "run again with one worker: most often memory ran out; what is finished is kept"
        raise StudyError("a worker process died", where=source.folder, mend=mend) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        mend = "free space there, then run again: what is finished is kept"
        raise StudyError("no space left on the disk", where=voc.parent, mend=mend) from error
    return dataset


def read_dataset(voc: Path) -> dict:
    """The content of ``dataset.json``; StudyError if the tree is not there or of another format."""
    path = voc / "dataset.json"
    if not path.is_file():
        raise StudyError("no finished data set", where=voc, mend="run notebook 01 first")
    try:
        dataset = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StudyError(f"not JSON ({error})", where=path, mend=REBUILD) from error
    if dataset.get("format") != FORMAT:
        raise StudyError("a data set of another format", where=path, mend=REBUILD)
    return dataset


def read_split(voc: Path, part: str) -> list[str]:
    """Names of the images in part "train", "test" or "trainval"; any line ends."""
    path = _split_file(voc, part)
    if not path.is_file():
        raise StudyError(f"no list of the part '{part}'", where=path, mend=REBUILD)
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def load_arrays(voc: Path, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W, 3) uint8 RGB and masks (N, H, W) uint8."""
    size = read_dataset(voc)["image_size"]
    images, masks = np.empty((len(names), size, size, 3), np.uint8), np.empty((len(names), size, size), np.uint8)
    for index, name in enumerate(names):  # straight to their place: a list of them first would take twice the memory
        images[index] = Image.open(image_file(voc, name)).convert("RGB")
        masks[index] = Image.open(mask_file(voc, name))
    return images, masks


def verify_voc(voc: Path) -> None:
    """Check lists, pairs, sizes, modes, mask values and the hash; StudyError names the first that is wrong."""

    def check(fits: bool, what: str, where: Path = voc) -> None:
        if not fits:
            raise StudyError(what, where=where, mend=REBUILD)

    dataset = read_dataset(voc)
    parts = {part: read_split(voc, part) for part in dataset["counts"]}
    counts, names = {part: len(listed) for part, listed in parts.items()}, image_names(parts)
    check(len(set(names)) == len(names), "an image is listed twice", voc / "ImageSets")
    check(parts["trainval"] == parts["train"], "trainval differs from train", voc / "ImageSets")
    check(counts == dataset["counts"], f"{counts} images instead of {dataset['counts']}", voc / "ImageSets")
    for folder, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
        odd = {path.name for path in (voc / folder).glob("[!.]*")} ^ {name + suffix for name in names}
        check(not odd, f"files missing or not listed: {', '.join(sorted(odd)[:5])}", voc / folder)
    size, known, seen = (dataset["image_size"],) * 2, {*range(len(dataset["classes"])), IGNORE_INDEX}, set()
    for name in names:
        picture, drawn = image_file(voc, name), mask_file(voc, name)
        try:
            with Image.open(picture) as image, Image.open(drawn) as mask:
                values = set(np.unique(mask).tolist())
        except (OSError, SyntaxError) as error:  # SyntaxError is what PIL raises on a broken PNG
            raise StudyError(f"cannot be read ({error})", where=drawn, mend=REBUILD) from error
        check(image.size == size, f"{image.size} pixels instead of {size}", picture)
        check(mask.size == size, f"{mask.size} pixels instead of {size}", drawn)
        kind = (mask.format, mask.mode)
        check(kind == ("PNG", "P"), f"a mask of kind {kind}, not a palette PNG", drawn)
        check(values <= known, f"mask values {sorted(values - known)[:8]} belong to no class", drawn)
        seen |= values
    check(not seen <= {0, IGNORE_INDEX}, f"the masks hold no class, only {sorted(seen)}")
    check(
        _tree_hash(parts, {name: _digests(voc, name) for name in names}) == dataset["hash"],
        "files changed since the build",
    )


def palette_png(mask: np.ndarray) -> bytes:
    """Encode a (H, W) uint8 mask as a palette-mode PNG in VOC's colours."""
    image = Image.fromarray(mask)
    image.putpalette(VOC_PALETTE.tobytes())
    return _encode(image, "PNG")


def write_palette_png(path: Path, mask: np.ndarray) -> None:
    """Write a (H, W) uint8 mask as a palette-mode PNG; never half-written."""
    write_atomically(path, palette_png(mask))


@contextmanager
def _processes(workers: int) -> Iterator[Callable]:
    """`map`, here or over processes. They are spawned: forking a notebook's threads may lock up."""
    if workers == 1:
        yield map
        return
    pool = ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context("spawn"), initializer=_start_worker)
    try:
        yield partial(pool.map, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """One thread per process, and no torch: albumentations would load it, for seconds and not for pictures."""
    Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    sys.modules.setdefault("torch", None)


def _end_with_parent() -> None:
    """A worker whose parent was killed would otherwise wait for work for ever."""
    parent_process().join()
    os._exit(1)


def _digest_of_settings(source: "Source", image_size: int, seed: int) -> str:
    """All that decides an image besides its input, the code included."""
    code = [Path(sys.modules[name].__file__).read_bytes().hex() for name in (__name__, type(source).__module__)]
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
            raise StudyError(f"every picture of the part '{part}' has faults", where=folder, mend="mend some of them")
    operations = {name: some for name, some in operations.items() if name not in skipped}
    return {name: pictures[name] for name in operations}, operations, parts


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("pillow", "albumentations", "numpy")}


def _go_on(draft: Unfinished, pictures: dict[str, Path], source: "Source", run: Callable) -> None:
    """Keep what an earlier call finished if neither its input nor its files changed since."""
    found = {name: record for name, record in draft.finished.items() if record["original"] in pictures}
    paths = [pictures[record["original"]] for record in found.values()]
    stands = list(run(partial(_still_stands, source=source, tree=draft.tree), found, paths, found.values()))
    kept = {name for name, stand in zip(found, stands, strict=True) if stand}
    draft.forget([name for name in draft.finished if name not in kept])
    if kept:
        print(f"{len(kept)} images are finished already: going on from there")


def _still_stands(name: str, path: Path, record: dict, *, source: "Source", tree: Path) -> bool:
    try:
        return source.fingerprint(path) == record["made_of"] and _digests(tree, name) == record["sha256"]
    except FileNotFoundError:
        return False


def _shown(record: dict, names: tuple[str, ...]) -> frozenset[str]:
    """Which classes, background among them, an image of the study's size shows."""
    return frozenset(name for name, count in zip(names, record["pixels"], strict=False) if count)


def _write_originals(
    draft: Unfinished,
    pictures: dict[str, Path],
    source: "Source",
    image_size: int,
    run: Callable,
) -> dict[str, list[faults.Fault]]:
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
    source: "Source",
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
    name: str, path: Path, *, source: "Source", tree: Path, image_size: int
) -> tuple[dict | None, list[faults.Fault]]:
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
    source: "Source",
    tree: Path,
    image_size: int,
    seed: int,
) -> dict[str, dict]:
    """Write augmented copies of one original, from its pixels before they became JPEG; their records by name."""
    if source.fingerprint(path) != made_of:
        raise StudyError("the picture changed while it was converted", where=path, mend="run again")
    picture, found = source.examine(path)
    faults.refuse(found, path)
    original, records = fit(picture.image, picture.mask, image_size), {}
    for operation in operations:
        copy = f"{name}_{operation}"
        image, mask = _augment(*original, operation, f"{seed}/{copy}")
        record = _write_image(tree, copy, image, mask, image_size, len(source.classes))
        records[copy] = {"original": name, "made_of": made_of, **record}
    return records


def _write_image(
    tree: Path, name: str, image: np.ndarray, mask: np.ndarray, image_size: int, num_classes: int
) -> dict[str, list]:
    """Write a fitted image and its mask with their margins; digests of both files, pixels of each class."""
    image, mask = pad(image, image_size, MARGIN_GREY), pad(mask, image_size, IGNORE_INDEX)
    contents = {
        image_file(tree, name): _encode(Image.fromarray(image), "JPEG"),
        mask_file(tree, name): palette_png(mask),
    }
    for path, content in contents.items():
        path.write_bytes(content)  # not finished before `Unfinished.record` says so
    digests = [sha256(content).hexdigest() for content in contents.values()]
    return {"sha256": digests, "pixels": _count(mask, 1 + num_classes)}


def _write_lists(tree: Path, parts: dict[str, list[str]]) -> None:
    """Write the lists of the parts, and clear away what they do not name."""
    for part, names in parts.items():
        _split_file(tree, part).write_text("".join(f"{name}\n" for name in names), newline="\n")
    wanted = {file(tree, name) for name in image_names(parts) for file in (image_file, mask_file)}
    wanted |= {_split_file(tree, part) for part in parts}
    for path in tree.rglob("*"):
        if path.is_file() and path not in wanted:
            path.unlink()


def fit(image: np.ndarray, mask: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale both so that the longer side is `size` pixels.

    A pixel of the smaller mask takes the value with most area in it, and the nearest one's at a tie. Nearest
    alone would tear thin bands of slag; scaled polygons would thicken, as their outline stays a pixel wide.
    """
    target = fitted_size(mask.shape, size)
    return fit_image(image, target), fit_mask(mask, target)


def fitted_size(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Width and height at which the longer side of an array (H, W, ...) is `size` pixels."""
    scale = size / max(shape[:2])
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


def fit_image(image: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """Scale a picture to a width and height: between pixels while that misses none, averaging areas beyond."""
    far = image.shape[1] > 2 * target[0] or image.shape[0] > 2 * target[1]
    return cv2.resize(image, target, interpolation=cv2.INTER_AREA if far else cv2.INTER_LINEAR)


def fit_mask(mask: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """Scale a mask to a width and height; see `fit`."""
    fitted = cv2.resize(mask, target, interpolation=cv2.INTER_NEAREST)  # the first row and column that a pixel covers
    ratios = mask.shape[0] / target[1], mask.shape[1] / target[0]
    reach = 1 + math.ceil(max(ratios))  # at most so many rows and columns
    if reach <= 2:
        return fitted
    least, greatest = [_extremes(extreme, mask, target, ratios, reach) for extreme in (cv2.erode, cv2.dilate)]
    mixed = np.stack(np.divmod(np.flatnonzero(least != greatest), target[0]))  # few pixels cover more than one value
    chunk = max(1, CHUNK // reach**2)
    for begin in range(0, mixed.shape[1], chunk):
        places = mixed[:, begin : begin + chunk]
        (rows, heights), (columns, widths) = map(_covered, places, ratios, mask.shape, (reach, reach))
        covered = mask[rows[:, :, None], columns[:, None, :]]
        areas = heights[:, :, None] * widths[:, None, :]
        values = np.unique(covered)
        shares = np.stack([np.einsum("nij,nij->n", areas, covered == value) for value in values])
        votes = shares + 1e-3 * (fitted[*places] == values[:, None])
        fitted[*places] = values[votes.argmax(axis=0)]
    return fitted


def _extremes(
    extreme: Callable, mask: np.ndarray, target: tuple[int, int], ratios: tuple[float, float], reach: int
) -> np.ndarray:
    """Least or greatest of the values that each pixel of a smaller mask covers, or of a few more."""
    for axis, shape in enumerate(((reach, 1), (1, reach))):
        mask = extreme(mask, np.ones(shape, np.uint8), anchor=(0, 0))
        mask = mask.take((np.arange(target[1 - axis]) * ratios[axis]).astype(int), axis=axis)
    return mask


def _covered(places: np.ndarray, ratio: float, length: int, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (or columns) that those of a smaller mask cover, and the part of each in them: (N, reach) int and float."""
    first, last = places[:, None] * ratio, (places[:, None] + 1) * ratio
    index = first.astype(int) + np.arange(reach)
    part = np.minimum(index + 1, last) - np.maximum(index, first)
    return np.minimum(index, length - 1), np.maximum(part, 0) / ratio


def _augment(image: np.ndarray, mask: np.ndarray, operation: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """One operation of the paper's section 3.1, whose strength follows from `key` alone."""
    import albumentations as A  # seconds to import, and reading a finished tree needs none of it

    none, spans = (0, 0), ((-0.3, -0.1), (0.1, 0.3))  # less than 0.1 would make a copy that is none
    transform = {
        "flip": A.HorizontalFlip(p=1),
        "contrast": A.OneOf([A.RandomBrightnessContrast(none, span, p=1) for span in spans], p=1),
        "brightness": A.OneOf([A.RandomBrightnessContrast(span, none, p=1) for span in spans], p=1),
        "blur": A.GaussianBlur(sigma_limit=(0.5, 2.0), p=1),
    }[operation]
    seed = int.from_bytes(sha256(key.encode()).digest()[:4])
    done = A.Compose([transform], seed=seed)(image=image, mask=mask)
    return done["image"], done["mask"]


def pad(array: np.ndarray, size: int, value: int) -> np.ndarray:
    """Centre (h, w, ...) in a square of `size`, filled with `value`."""
    square = np.full((size, size, *array.shape[2:]), value, np.uint8)
    square[inside_square(array.shape, size)] = array
    return square


def inside_square(shape: tuple[int, ...], size: int) -> tuple[slice, slice]:
    """Where an array (h, w, ...) lies in the square of `size` that pads it."""
    top, left = (size - shape[0]) // 2, (size - shape[1]) // 2
    return slice(top, top + shape[0]), slice(left, left + shape[1])


def _encode(image: Image.Image, file_format: str) -> bytes:
    """In memory first: PIL, writing to a full disk itself, does not say that it is full."""
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, quality=95)  # PNG knows no quality
    return buffer.getvalue()


def image_file(voc: Path, name: str) -> Path:
    """Where the picture of that name lies in a tree."""
    return voc / "JPEGImages" / f"{name}.jpg"


def mask_file(voc: Path, name: str) -> Path:
    """Where its mask lies."""
    return voc / "SegmentationClass" / f"{name}.png"


def _split_file(voc: Path, part: str) -> Path:
    return voc / "ImageSets" / "Segmentation" / f"{part}.txt"


def _count(mask: np.ndarray, num_classes: int) -> list[int]:
    """Pixels of each class, then of ignore."""
    return [int(np.count_nonzero(mask == value)) for value in (*range(num_classes), IGNORE_INDEX)]


def image_names(parts: dict[str, list[str]]) -> list[str]:
    """Every image of a tree once: trainval lists what train lists."""
    return [name for part, names in parts.items() if part != "trainval" for name in names]


def _digests(voc: Path, name: str) -> list[str]:
    """SHA-256 of an image and of its mask."""
    return [sha256(path.read_bytes()).hexdigest() for path in (image_file(voc, name), mask_file(voc, name))]


def _tree_hash(parts: dict[str, list[str]], digests: dict[str, list[str]]) -> str:
    """SHA-256 over the lists and the digests of every image and mask they name; line ends do not matter."""
    digest = sha256(json.dumps(parts, sort_keys=True).encode())
    for name in sorted(digests):
        digest.update(bytes.fromhex("".join(digests[name])))
    return digest.hexdigest()
