"""Slag thickness of one's own images, against one's own annotation or measured dips; and calibration by either."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from rhseg_lib.dataset import voc_tree
from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation.masks import Network, segment_pair
from rhseg_lib.evaluation.weights import Card
from rhseg_lib.profile import Profile
from rhseg_lib.settings import Calibration, Thickness
from rhseg_lib.sources.checks import Problem, refuse
from rhseg_lib.sources.images import PICTURE_SUFFIXES, read_picture
from rhseg_lib.sources.labelme_folder import LabelmeFolder
from rhseg_lib.sources.voc_folder import VocTree
from rhseg_lib.thickness.reading import Reading, read_mask

DIPS = "thickness.csv"  # in a folder of images: image, tube (1 is the leftmost), mm
AGAINST_DIPS, AGAINST_ANNOTATION = "measured dips", "annotations"
FEWEST = 9  # images that an interval of 90 % needs


class Pair(NamedTuple):
    """A tube of an image: the thickness that is known of it, and what the model read."""

    image: str
    tube: int  # 1 is the leftmost
    known: float  # in the unit of the reading
    reading: Reading | None  # None: the model shows no such tube


def test_images(profile: Profile, source: LabelmeFolder | VocTree) -> list[str]:
    """Names of the images of the test set in their source, without augmented copies; of tiles, the whole images."""
    dataset = voc_tree.read_dataset(profile.voc)
    tiles = dataset.get("tile_of", {})
    shown = [name for name in voc_tree.read_split(profile.voc, "test") if name not in dataset["copy_of"]]
    return [name for name in dict.fromkeys(tiles.get(name, name) for name in shown) if name in source.names()]


def against_annotations(
    source: LabelmeFolder | VocTree, names: list[str], network: Network, card: Card, settings: Thickness
) -> Iterator[Pair]:
    """The tubes that can be measured in the annotated masks of some images of a source, beside the model's reading.

    An image that is there twice, such as one annotated by two persons, counts once.
    """
    paths, problems, seen = source.names(), list[Problem](), set[str]()
    for name in tqdm(names, "thickness", disable=None):
        picture, errors = source.examine(paths[name])
        problems += errors
        if picture is None or (digest := sha256(picture.image.tobytes()).hexdigest()) in seen:
            continue
        seen.add(digest)
        known = read_mask(picture.mask, card.class_names, settings)
        read = read_image(picture.image, network, card, settings)
        for number, tube in enumerate(known, 1):
            if not tube.problem:
                yield Pair(name, number, tube.thickness, _nearest(tube, read))
    refuse(problems, source.folder)


def against_dips(folder: Path, network: Network, card: Card, settings: Thickness) -> Iterator[Pair]:
    """The tubes of ``thickness.csv`` in a folder of images, beside the model's reading."""
    if settings.mm_per_pixel is None and settings.tube_diameter_mm is None:
        fix = "give the tube's diameter in mm, or the mm per pixel"
        raise StudyError("measured dips are in mm, and there is no scale", where=folder / DIPS, fix=fix)
    for image, dips in tqdm(read_dips(folder).groupby("image"), "thickness", disable=None):
        picture, _ = read_picture(_image_of(folder, str(image)))
        read = read_image(picture, network, card, settings)
        for tube, mm in zip(dips["tube"], dips["mm"], strict=True):
            yield Pair(str(image), int(tube), float(mm), read[tube - 1] if tube <= len(read) else None)


def read_dips(folder: Path) -> pd.DataFrame:
    """The measured dips of a folder; StudyError for a table that is none."""
    path, fix = folder / DIPS, "write the columns image, tube (1 is the leftmost) and mm, a row per measured tube"
    try:
        table = pd.read_csv(path, dtype={"image": str})[["image", "tube", "mm"]]
    except (OSError, KeyError, ValueError) as error:
        raise StudyError(f"the measured dips cannot be read ({error})", where=path, fix=fix) from error
    numbers = table[["tube", "mm"]].apply(pd.to_numeric, errors="coerce").astype(float)
    bad = table[
        ~((numbers["tube"] >= 1) & (numbers["tube"] % 1 == 0) & (numbers["mm"] > 0) & np.isfinite(numbers["mm"]))
    ]
    if len(bad) or table["image"].isna().any() or not len(table):
        row = f"row {bad.index[0] + 2}" if len(bad) else "no rows, or one without an image"
        raise StudyError(
            f"the measured dips are invalid: {row}", where=path, fix=f"{fix}; tube is 1 or more, mm above 0"
        )
    if table.duplicated(["image", "tube"]).any():
        twice = table[table.duplicated(["image", "tube"])].iloc[0]
        raise StudyError(f"a tube is listed twice: {twice['image']}, {twice['tube']}", where=path, fix="keep one")
    return table.assign(tube=numbers["tube"].astype(int), mm=numbers["mm"])


def read_image(image: np.ndarray, network: Network, card: Card, settings: Thickness) -> list[Reading]:
    """What a network reads of every tube in an image (H, W, 3) uint8, from left to right."""
    mask, mirrored = segment_pair(image, network, card)
    return read_mask(mask, card.class_names, settings, mirrored=mirrored, calibration=card.thickness)


def calibrate(
    pairs: list[Pair], against: str, settings: Thickness, *, before: Calibration | None = None
) -> Calibration:
    """The calibration of a model by images with known thickness, one tube of each image.

    That of the other kind of scale, if `before` has one against the same, is kept.

    Raises
    ------
    StudyError
        Fewer than `FEWEST` images with a tube that the model reads.
    """
    scores: dict[str, float] = {}
    for pair in pairs:
        if pair.reading is not None and not pair.reading.problem:
            error = abs(pair.reading.thickness - pair.known)
            scores.setdefault(pair.image, round(error / pair.reading.error_scale, 4))
    if len(scores) < FEWEST:
        what = f"{len(scores)} images with a tube that is known and read: an interval of 90 % needs {FEWEST}"
        raise StudyError(what, where=against, fix="add images; 19 allow an interval of 95 %, 50 a steady one")
    ascending = tuple(sorted(scores.values()))
    by_pixel = settings.mm_per_pixel is not None
    told = f"{against}, {len(scores)} images"
    kept = before if before is not None and before.against == told else None
    return Calibration(
        against=told,
        by_pixel=ascending if by_pixel else kept.by_pixel if kept else (),
        by_diameter=ascending if not by_pixel else kept.by_diameter if kept else (),
    )


def table(pairs: list[Pair]) -> pd.DataFrame:
    """A row per tube: image, tube, known, measured, low, high, unit, problem."""
    rows = []
    for pair in pairs:
        one = pair.reading
        rows.append({
            "image": pair.image,
            "tube": pair.tube,
            "known": pair.known,
            "measured": np.nan if one is None else one.thickness,
            "low": np.nan if one is None else one.low,
            "high": np.nan if one is None else one.high,
            "unit": "" if one is None else one.unit,
            "problem": "the model shows no such tube" if one is None else one.problem,
        })  # fmt: skip
    return pd.DataFrame(rows, columns=["image", "tube", "known", "measured", "low", "high", "unit", "problem"])


def _nearest(known: Reading, read: list[Reading]) -> Reading | None:
    """The tube that a model read where the annotation has one."""
    near = [one for one in read if abs(one.x - known.x) < known.tube.diameter_px / 2]
    return min(near, key=lambda one: abs(one.x - known.x), default=None)


def _image_of(folder: Path, name: str) -> Path:
    """The image file of a name in ``thickness.csv``, with or without its suffix, inside the folder."""
    found = [
        path for path in folder.iterdir() if name in (path.name, path.stem) and path.suffix.lower() in PICTURE_SUFFIXES
    ]
    if len(found) != 1:
        what = f"{len(found) or 'no'} images of the name '{name}'"
        raise StudyError(what, where=folder / DIPS, fix="write the names of image files in this folder")
    return found[0]
