"""Images with masks -> VOC2007 tree with materialised augmentation and split (paper, section 3.1).

The tree is built in a folder beside it and renamed when whole; its bytes do not depend on the number of workers. A
build that was killed resumes with what is finished there, image by image (`files.Unfinished`).
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import yaml

from rhseg_lib.dataset.parallel import processes
from rhseg_lib.dataset.split import Plan, absence_in_words, plan
from rhseg_lib.dataset.voc_tree import FORMAT, MARK, image_names, tree_hash, write_lists
from rhseg_lib.dataset.write_images import Converter, Source, drop_stale, tiles_of, write_copies, write_originals
from rhseg_lib.errors import StudyError, show
from rhseg_lib.files import LOCK, Unfinished, sole_builder, sole_writer, write_atomically
from rhseg_lib.profile import Data, Profile
from rhseg_lib.scenes.write import write_scenes
from rhseg_lib.sources import checks
from rhseg_lib.sources.images import IGNORE_INDEX
from rhseg_lib.sources.labelme_folder import LabelmeFolder
from rhseg_lib.sources.tiles import Cutting
from rhseg_lib.sources.voc_folder import VocTree

MARKS = ("dataset.json", MARK)  # either shows that a tree was built here
REDUCTION = 1.5  # a JPEG may be decoded reduced, to no less than so many times the study's size


def make_dataset(profile: Profile, *, workers: int = 0) -> dict:
    """Render the profile's scenes, if it asks for synthetic ones, and build its VOC tree; see `build_voc`."""
    data = profile.data
    if data.source == "synthetic":
        render(profile, workers=workers)
    source = open_source(profile)
    listed = profile.tables / "errors.csv"
    try:
        left_out = source.unannotated() if data.source != "synthetic" else []
        notes = [f"Left out, as they have no annotation of their name: {_listed(left_out)}."] if left_out else []
        dataset = build_voc(source, profile.voc, data, workers=workers, notes=notes)
    except checks.InvalidAnnotations as error:
        checks.write_errors(listed, [asdict(problem) for problem in error.problems])
        skip = ", or set on_error: skip" if error.can_skip else ""
        error.fix = f"fix each as its line says ({listed} lists them all){skip}; then run again"
        raise
    checks.write_errors(listed, dataset["skipped"])
    return dataset


def render(profile: Profile, *, workers: int = 0) -> None:
    """Render the scenes of a profile into its folder `raw`; scenes of other settings there are replaced."""
    data, raw = profile.data, profile.raw
    total = data.num_scenes + data.holdout_scenes
    wanted = {"seed": data.seed, "size": data.scene_size, "num_scenes": total}
    note = raw / "scenes.yaml"
    with sole_writer(raw, marks=[note.name]):
        content = yaml.safe_dump(wanted).encode()
        if note.exists() and not (note.is_file() and note.read_bytes() == content):
            show(f"{raw} holds scenes of other settings: rendering again")
            for path in raw.iterdir():  # nothing is lost: scenes follow from their settings
                if path.name != LOCK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_atomically(note, content)
        write_scenes(raw, num_scenes=total, size=data.scene_size, seed=data.seed, workers=workers)


def open_source(profile: Profile) -> Source:
    """The folder that a profile takes its images from."""
    data = profile.data
    folder = profile.raw if data.source == "synthetic" else profile.root / str(data.folder)
    if data.source == "voc":
        if folder.resolve().is_relative_to(profile.voc.resolve()):
            fix = "name the folder of your own tree in the profile"
            raise StudyError("the folder is where the study writes", where=folder, fix=fix)
        own_split = data.split == "given"
        return VocTree(folder, data.classes, own_split, data.ignore_labels, data.background_labels)
    if profile.voc.resolve().is_relative_to(folder.resolve()):
        fix = "give the images a folder of their own, such as data/photographs"
        raise StudyError("the data set would be written among the images", where=folder, fix=fix)
    return LabelmeFolder(
        folder,
        classes=data.classes,
        ignore_labels=data.ignore_labels,
        class_priority=data.class_priority,
        background_labels=data.background_labels,
        subfolders=data.source != "synthetic",  # there they hold the second annotator
        least_side=0 if data.tile else round(REDUCTION * data.image_size),
        may_be_empty=data.without_shapes == "background",
    )


def _of_remarks(remarks: dict[str, str]) -> list[str]:
    """A sentence for each thing that reading does not keep of some images."""
    alike = {remark: [name for name, its in remarks.items() if its == remark] for remark in sorted({*remarks.values()})}
    return [f"Each of these {remark}: {_listed(names)}." for remark, names in alike.items() if remark]


def _listed(images: list[str]) -> str:
    more = f" and {len(images) - 5} more" if len(images) > 5 else ""
    return f"{len(images)} image(s), {', '.join(images[:5])}{more}"


def build_voc(source: Source, voc: Path, data: Data, *, workers: int = 0, notes: Iterable[str] = ()) -> dict:
    """Build the tree `voc` from a source of images and masks.

    Parameters
    ----------
    source : LabelmeFolder or VocTree
    voc : Path
    data : Data
        What becomes of the images; all settings are kept on record. Images keep their aspect, the margin is ignored;
        the tiles of one image stay in one subset. `split` is "grouped": the originals are split, the training set is
        augmented, the test set holds originals only; "as_described": all images are split after augmentation, so that
        copies of one original stand on both sides; or "given": as "grouped", with the subsets that the lists of a
        `VocTree` name. Copy j of original i is made by operation (i + j) mod 4. The last `holdout_scenes` originals
        are never trained on.
    workers : int
        Processes; 0 takes one per processor, 1 works in this one.
    notes : iterable of str
        What the reader should know of the source, in sentences; the build adds its own.

    Returns
    -------
    dict
        The content of ``dataset.json``. ``classes`` includes background: its index is the mask value.

    Raises
    ------
    StudyError
        For errors in the annotations, all at once; names that collide; too few images; a full disk. What is finished by
        then is kept beside `voc` for the next call, as after a kill.
    """
    voc = voc.resolve()  # a link to another disk stays a link
    if voc.is_mount():
        fix = f"mount {voc.parent} instead"
        raise StudyError("a mount point cannot be replaced by the finished data set", where=voc, fix=fix)
    with sole_builder(voc, marks=MARKS):
        originals = source.names()
        given_test, of_lists = source.given_split() if isinstance(source, VocTree) else (None, [])
        split = "grouped" if data.split == "given" and given_test is None else data.split
        cutting = Cutting(data.image_size, data.tile)
        draft = Unfinished(voc, {"settings": _digest_of_settings(source, cutting, data.seed)})
        for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (draft.tree / folder).mkdir(parents=True, exist_ok=True)
        converter = Converter(source, draft.tree, cutting, data.seed)
        with processes(workers, source.folder) as run:
            drop_stale(draft, originals, converter, run)
            invalid = write_originals(draft, originals, converter, run)
            digests = {name: draft.finished[first]["digest"] for name, (first, *_) in tiles_of(draft).items()}
            skipped = checks.sift(originals, invalid, digests, folder=source.folder, on_error=data.on_error)
            planned = _plan(originals, skipped, draft, source, data, split, given_test)
            write_copies(draft, originals, planned.operations, converter, run)
        write_lists(draft.tree, planned.subsets)
        dataset = _record(planned, skipped, draft, source, data, split, [*notes, *of_lists])
        (draft.tree / MARK).touch()
        (draft.tree / "dataset.json").write_text(json.dumps(dataset, indent=1), encoding="utf-8", newline="\n")
        draft.publish()
    return dataset


def _plan(
    originals: dict[str, Path],
    skipped: dict[str, list[checks.Problem]],
    draft: Unfinished,
    source: Source,
    data: Data,
    split: str,
    given_test: list[str] | None,
) -> Plan:
    """How each original, or each of its tiles, is used; StudyError if a subset would show nothing."""
    tiles, classes = tiles_of(draft), ("background", *source.classes)
    shown = {
        name: {
            label
            for tile in (() if name in skipped else tiles[name])
            for label, count in zip(classes, draft.finished[tile]["pixels"], strict=False)  # the last one: ignored
            if count
        }
        for name in originals
    }
    planned = plan(  # with those skipped, so that the others stay in their subset
        shown,
        split=split,
        test_fraction=data.test_fraction,
        copies=data.augmented_copies,
        seed=data.seed,
        holdout=data.holdout_scenes,
        group=data.group,
        given_test=given_test,
    ).without(skipped.keys())
    for subset, names in planned.subsets.items():
        if not names:
            fix = "fix some of them"
            raise StudyError(f"every image of the subset '{subset}' has errors", where=source.folder, fix=fix)
        if not any(shown.get(name) for name in names):
            fix = "draw smaller regions to ignore in them, or add images"
            raise StudyError(f"every pixel of the subset '{subset}' is ignored", where=source.folder, fix=fix)
    return planned.of_tiles(tiles) if data.tile else planned


def _record(
    planned: Plan,
    skipped: dict[str, list[checks.Problem]],
    draft: Unfinished,
    source: Source,
    data: Data,
    split: str,
    notes: list[str],
) -> dict:
    """The content of ``dataset.json``."""
    columns, subsets, copy_of = ("background", *source.classes, "ignore"), planned.subsets, planned.copy_of
    records = {name: draft.finished[name] for name in image_names(subsets)}
    originals = {name: draft.finished[name] for name in planned.operations}
    totals = {subset: np.sum([records[name]["pixels"] for name in names], axis=0) for subset, names in subsets.items()}
    pixels = {subset: dict(zip(columns, total.tolist(), strict=True)) for subset, total in totals.items()}
    absent = {subset: [name for name in columns[:-1] if not counts[name]] for subset, counts in pixels.items()}
    overwritten = Counter[tuple[str, str]]()
    for record in originals.values():
        overwritten.update({(lost, taker): count for lost, taker, count in record["overwritten"]})
    hits, unions = np.sum([record["size_limit"] for record in originals.values()], axis=0)
    of_classes = absence_in_words(absent, planned.holders, grouped=data.group is not None)
    of_files = _of_remarks({record["original"]: record["remark"] for record in originals.values()})
    return {
        "format": FORMAT,
        "classes": list(columns[:-1]),
        "ignore_index": IGNORE_INDEX,
        "image_size": data.image_size,
        "tile": data.tile,
        "split": split,
        "copies": data.augmented_copies,
        "seed": data.seed,
        "settings": data.model_dump(mode="json"),
        "counts": {subset: len(names) for subset, names in subsets.items()},
        "originals": {
            subset: len({records[name]["original"] for name in names if name not in copy_of})
            for subset, names in subsets.items()
        },
        "copy_of": copy_of,
        "tile_of": {name: record["original"] for name, record in originals.items()} if data.tile else {},
        "group_of": planned.group_of,
        "skipped": [asdict(problem) for problems in skipped.values() for problem in problems],
        "class_pixels": pixels,
        "absent_classes": absent,
        "notes": [*notes, *of_files, *planned.notes, *of_classes],
        "size_limit": {  # IoU that a perfect model at this size keeps at the images' own size
            name: hit / union for name, hit, union in zip(source.classes, hits, unions, strict=True) if union
        },
        "overwritten_pixels": [
            {"class": lost, "by": taker, "pixels": overwritten[lost, taker]} for lost, taker in sorted(overwritten)
        ],
        "hash": tree_hash(subsets, {name: record["sha256"] for name, record in records.items()}),
        "versions": _versions(),
    }


def _digest_of_settings(source: Source, cutting: Cutting, seed: int) -> str:
    """All that decides an image besides its input, the code included."""
    library = Path(__file__).parents[1]
    files = [*sorted(library.glob("dataset/*.py")), *sorted(library.glob("sources/*.py"))]
    code = [path.read_bytes().hex() for path in files]
    made = [repr(source), cutting, seed, code, cv2.__version__, _versions()]
    return sha256(json.dumps(made).encode()).hexdigest()


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("pillow", "albumentations", "numpy")}
