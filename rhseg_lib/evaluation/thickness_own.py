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
from rhseg_lib.evaluation.full_size_inference import Network, segment_pair
from rhseg_lib.evaluation.weights import Card
from rhseg_lib.profile import Profile
from rhseg_lib.settings import ERROR_SCALE, Calibration, Thickness
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

    image: str  # or its group
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
    for path, dips in tqdm(read_dips(folder).groupby("path"), "thickness", disable=None):
        read = read_image(read_picture(folder / str(path))[0], network, card, settings)
        for row in dips[dips["mm"].notna()].itertuples():
            # With another number of tubes it is not known which is which.
            yield Pair(row.group, row.tube, row.mm, read[row.tube - 1] if len(read) == len(dips) else None)


def read_dips(folder: Path) -> pd.DataFrame:
    """The measured dips of a folder: path, group, tube, mm (NaN: not measured); StudyError for a table that is none."""
    path, fix = (
        folder / DIPS,
        "write the columns image, tube (1 is the leftmost) and mm, a row per tube that shows slag",
    )
    try:
        table = pd.read_csv(path, dtype={"image": str, "group": str})
        tube, mm = table["tube"].astype(float), table["mm"].astype(float)
        names = table["image"].astype("string")
    except (OSError, KeyError, ValueError) as error:
        raise StudyError(f"the measured dips cannot be read ({error})", where=path, fix=fix) from error
    bad = table[~((tube >= 1) & (tube % 1 == 0)) | (mm <= 0) | np.isinf(mm) | names.isna()]
    if len(bad) or mm.isna().all():
        row = f"row {bad.index[0] + 2}" if len(bad) else "no measured tube"
        raise StudyError(f"the measured dips are invalid: {row}", where=path, fix=f"{fix}; mm above 0, or empty")
    files = [_image_of(folder, str(name)) for name in names]
    dips = pd.DataFrame({"path": files, "tube": tube.astype(int), "mm": mm})
    dips["group"] = table["group"].fillna(dips["path"]) if "group" in table else dips["path"]
    for name, tubes in dips.groupby("path")["tube"]:
        if sorted(tubes) != list(range(1, len(tubes) + 1)):
            what = f"the tubes of {name} are {', '.join(map(str, sorted(tubes)))}"
            raise StudyError(what, where=path, fix="list every tube that shows slag once, from 1 for the leftmost")
    return dips


def read_image(image: np.ndarray, network: Network, card: Card, settings: Thickness) -> list[Reading]:
    """What a network reads of every tube in an image (H, W, 3) uint8, from left to right."""
    mask, mirrored = segment_pair(image, network, card)
    return read_mask(mask, card.class_names, settings, mirrored=mirrored, calibration=card.thickness)


def calibrate(pairs: list[Pair], against: str, settings: Thickness) -> Calibration:
    """The calibration of a model by images with known thickness, one tube of each image or group, drawn at random.

    Raises
    ------
    StudyError
        Fewer than `FEWEST` images or groups with a tube that the model reads.
    """
    scores: dict[str, float] = {}
    for number in np.random.default_rng(0).permutation(len(pairs)):  # the same draw in every call
        pair = pairs[number]
        if pair.reading is not None and not pair.reading.problem:
            error = abs(pair.reading.thickness - pair.known)
            scores.setdefault(pair.image, round(error / pair.reading.error_scale, 4))
    if len(scores) < FEWEST:
        what = f"{len(scores)} images with a tube that is known and read: an interval of 90 % needs {FEWEST}"
        raise StudyError(what, where=against, fix="add images; 19 allow an interval of 95 %, 50 a steady one")
    ascending = tuple(sorted(scores.values()))
    by_pixel = settings.mm_per_pixel is not None
    return Calibration(
        against=f"{against}, {len(scores)} images",
        by_pixel=ascending if by_pixel else (),
        by_diameter=() if by_pixel else ascending,
        scale=settings.scale if against == AGAINST_DIPS else None,
        error_scale=ERROR_SCALE,
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


def _image_of(folder: Path, name: str) -> str:
    """The image file of a name in ``thickness.csv``, with or without its suffix, inside the folder."""
    images = (path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    found = [path.name for path in images if name in (path.name, path.stem)]
    if len(found) != 1:
        what = f"{len(found) or 'no'} images of the name '{name}'"
        raise StudyError(what, where=folder / DIPS, fix="write the names of image files in this folder")
    return found[0]
