"""A VOC2007 tree on disk: read and verify its files, lists and record.

JPEGImages/*.jpg                    quality 95, image_size x image_size
SegmentationClass/*.png             palette mode: 0 background, 1... classes, 255 ignore
ImageSets/Segmentation/train.txt    trainval.txt holds the same names: no subset is set aside for validation,
ImageSets/Segmentation/test.txt     and in VOC2007, too, trainval and test have no image in common
ImageSets/Segmentation/holdout.txt  if requested: fresh images besides the paper-sized test set
dataset.json                        classes, counts, pixels, settings, and one hash over all files
"""

import json
import math
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image

from rhseg_lib.errors import StudyError
from rhseg_lib.files import read_json
from rhseg_lib.sources.images import IGNORE_INDEX

FORMAT = 1  # of dataset.json; raised when its meaning changes
MARK = ".made-here"  # marks a tree built here, even after dataset.json was removed to rebuild it


def read_dataset(voc: Path) -> dict:
    """The content of ``dataset.json``; StudyError if there is no tree or its format differs."""
    path = voc / "dataset.json"
    if not path.is_file():
        raise StudyError("no finished data set", where=voc, fix=_rebuild(voc))
    dataset = read_json(path, fix=_rebuild(voc))
    if dataset.get("format") != FORMAT:
        raise StudyError("a data set of another format", where=path, fix=_rebuild(voc))
    return dataset


def read_split(voc: Path, subset: str) -> list[str]:
    """Names of the images in the subset "train", "test", "trainval" or "holdout"; any line ends."""
    path = split_file(voc, subset)
    if not path.is_file():
        raise StudyError(f"no list of the subset '{subset}'", where=path, fix=_rebuild(voc))
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def training_split(voc: Path, fraction: float) -> tuple[list[str], list[str]]:
    """Training images, and the originals held out of them: `fraction` of the units, with none of their copies.

    A unit is an original, or the originals of one group. The choice depends on the data set alone.
    """
    dataset, names = read_dataset(voc), read_split(voc, "train")
    unit_of = {name: dataset["copy_of"].get(name, name) for name in names}
    unit_of = {name: dataset["group_of"].get(original, original) for name, original in unit_of.items()}
    units = sorted({*unit_of.values()})
    held_out = {units[i] for i in np.random.default_rng(0).permutation(len(units))[: math.ceil(fraction * len(units))]}
    validation = [name for name in names if unit_of[name] in held_out and name not in dataset["copy_of"]]
    return [name for name in names if unit_of[name] not in held_out], validation


def load_arrays(voc: Path, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W, 3) uint8 RGB and masks (N, H, W) uint8."""
    size = read_dataset(voc)["image_size"]
    images, masks = np.empty((len(names), size, size, 3), np.uint8), np.empty((len(names), size, size), np.uint8)
    for index, name in enumerate(names):  # filled in place: a list first would take twice the memory
        try:
            images[index] = Image.open(image_file(voc, name)).convert("RGB")
            masks[index] = Image.open(mask_file(voc, name))
        except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: a broken PNG; ValueError: another size
            what = f"an image or its mask is missing or damaged ({error})"
            raise StudyError(what, where=image_file(voc, name), fix=_rebuild(voc)) from error
    return images, masks


def verify_voc(voc: Path) -> None:
    """Check lists, pairs, sizes, modes, mask values and the hash; StudyError names the first mismatch."""

    def check(valid: bool, what: str, where: Path = voc) -> None:
        if not valid:
            raise StudyError(what, where=where, fix=_rebuild(voc))

    dataset = read_dataset(voc)
    subsets = {subset: read_split(voc, subset) for subset in dataset["counts"]}
    counts, names = {subset: len(listed) for subset, listed in subsets.items()}, image_names(subsets)
    check(len(set(names)) == len(names), "an image is listed twice", voc / "ImageSets")
    check(subsets["trainval"] == subsets["train"], "trainval differs from train", voc / "ImageSets")
    check(counts == dataset["counts"], f"{counts} images instead of {dataset['counts']}", voc / "ImageSets")
    for folder, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
        odd = {path.name for path in (voc / folder).glob("[!.]*")} ^ {name + suffix for name in names}
        check(not odd, f"files missing or not listed: {', '.join(sorted(odd)[:5])}", voc / folder)
    size, known, seen = (dataset["image_size"],) * 2, {*range(len(dataset["classes"])), IGNORE_INDEX}, set()
    for name in names:
        image_path, mask_path = image_file(voc, name), mask_file(voc, name)
        try:
            with Image.open(image_path) as image, Image.open(mask_path) as mask:
                values = set(np.unique(np.asarray(mask)).tolist())
        except (OSError, SyntaxError) as error:  # SyntaxError is what PIL raises on a broken PNG
            raise StudyError(f"cannot be read ({error})", where=mask_path, fix=_rebuild(voc)) from error
        check(image.size == size, f"{image.size} pixels instead of {size}", image_path)
        check(mask.size == size, f"{mask.size} pixels instead of {size}", mask_path)
        kind = (mask.format, mask.mode)
        check(kind == ("PNG", "P"), f"a mask of kind {kind}, not a palette PNG", mask_path)
        check(values <= known, f"mask values {sorted(values - known)[:8]} belong to no class", mask_path)
        seen |= values
    check(not seen <= {0, IGNORE_INDEX}, f"the masks hold no class, only {sorted(seen)}")
    check(
        tree_hash(subsets, {name: digests_of(voc, name) for name in names}) == dataset["hash"],
        "files changed since the build",
    )


def _rebuild(voc: Path) -> str:
    """What makes a profile's tree again; built of the same images, it has the same hash, and finished runs stay."""
    return f"papermill notebooks/01_dataset.ipynb out.ipynb -p profile {voc.parent.name}"


def write_lists(tree: Path, subsets: dict[str, list[str]]) -> None:
    """Write the lists of the subsets, and remove the files that they do not name."""
    for subset, names in subsets.items():
        split_file(tree, subset).write_text("".join(f"{name}\n" for name in names), "utf-8", newline="\n")
    wanted = {file(tree, name) for name in image_names(subsets) for file in (image_file, mask_file)}
    wanted |= {split_file(tree, subset) for subset in subsets}
    for path in tree.rglob("*"):
        if path.is_file() and path not in wanted:
            path.unlink()


def image_file(voc: Path, name: str) -> Path:
    """Path of an image in a tree."""
    return voc / "JPEGImages" / f"{name}.jpg"


def mask_file(voc: Path, name: str) -> Path:
    """Path of its mask."""
    return voc / "SegmentationClass" / f"{name}.png"


def split_file(voc: Path, subset: str) -> Path:
    return voc / "ImageSets" / "Segmentation" / f"{subset}.txt"


def image_names(subsets: dict[str, list[str]]) -> list[str]:
    """Every image of a tree once: trainval repeats train."""
    return [name for subset, names in subsets.items() if subset != "trainval" for name in names]


def digests_of(voc: Path, name: str) -> list[str]:
    """SHA-256 of an image and of its mask."""
    return [sha256(path.read_bytes()).hexdigest() for path in (image_file(voc, name), mask_file(voc, name))]


def tree_hash(subsets: dict[str, list[str]], digests: dict[str, list[str]]) -> str:
    """SHA-256 over the lists and the digests of every image and mask they name; line ends do not matter."""
    digest = sha256(json.dumps(subsets, sort_keys=True).encode())
    for name in sorted(digests):
        digest.update(bytes.fromhex("".join(digests[name])))
    return digest.hexdigest()
