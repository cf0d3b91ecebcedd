"""Errors of measured slag thickness on fresh scenes whose thickness is known, neither trained nor tested on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation.full_size_inference import Network, segment_pair
from rhseg_lib.evaluation.weights import Card
from rhseg_lib.files import write_atomically
from rhseg_lib.profile import Profile, fingerprint
from rhseg_lib.scenes.write import write_scenes
from rhseg_lib.settings import ERROR_SCALE, Calibration, Thickness
from rhseg_lib.sources.images import read_picture
from rhseg_lib.sources.labelme_folder import LabelmeFolder
from rhseg_lib.thickness.measure import Measurement, measure
from rhseg_lib.thickness.reading import Reading, indices, read_tube

VERSION = 3  # of the table of a run; increased when measuring changes
THIN_MM = (50.0, 250.0)
SCALES = ("mm per pixel", "tube diameter")
CLEAR = 0.6  # share of the band that is visible on a clear tube, whose sides the frame does not cut
PARTS = ("evaluation", "calibration", "thin")
MISSING = "no tube is found there"
Masks = Callable[[Path, str], tuple[np.ndarray, np.ndarray | None]]  # folder, scene -> mask, mask of the mirror image


@dataclass(frozen=True)
class Scenes:
    """The scenes of one part: a folder of `write_scenes` and the rows of its truth.parquet."""

    part: str
    folder: Path
    truth: pd.DataFrame


def make_scenes(profile: Profile, *, workers: int = 0) -> list[Scenes]:
    """Render the scenes of a synthetic profile on which thickness is evaluated; existing ones are kept."""
    settings, folder = profile.thickness, profile.raw.parent / "thickness"
    made = []
    counts = (settings.scenes, settings.calibration_scenes, settings.thin_scenes)
    for number, (part, count) in enumerate(zip(PARTS, counts, strict=True)):
        if not count:
            continue
        write_scenes(
            folder / part,
            num_scenes=count,
            size=settings.scene_size,
            seed=settings.seed,
            workers=workers,
            first_index=number * 10_000,
            band_mm=THIN_MM if part == "thin" else None,
        )
        made.append(Scenes(part, folder / part, pd.read_parquet(folder / part / "truth.parquet")))
    return made


def digest(profile: Profile) -> str:
    """Changes with the scenes and with how they are measured."""
    t = profile.thickness
    return fingerprint(VERSION, t.scenes, t.calibration_scenes, t.thin_scenes, t.scene_size, t.seed)


def exact_masks(folder: Path, scene: str) -> tuple[np.ndarray, None]:
    """The exact mask of a scene."""
    with Image.open(folder / "truth" / f"{scene}.png") as mask:
        return np.asarray(mask), None


def annotated_masks(profile: Profile, annotator: str) -> Masks:
    """The masks of one of the two annotators of a scene: "first" or "second"."""

    def read(folder: Path, scene: str) -> tuple[np.ndarray, None]:
        data = profile.data
        source = LabelmeFolder(folder, data.classes, data.ignore_labels, data.class_priority)
        picture, problems = source.examine(folder / ("second" if annotator == "second" else "") / f"{scene}.json")
        if picture is None:
            raise StudyError(problems[0].what, where=folder / scene, fix="delete the folder: it is rendered again")
        return picture.mask, None

    return read


def predicted_masks(network: Network, card: Card) -> Masks:
    """The masks that a network predicts, at a scene's own size, for the scene and its mirror image."""

    def read(folder: Path, scene: str) -> tuple[np.ndarray, np.ndarray]:
        image, _ = read_picture(folder / f"{scene}.jpg")
        return segment_pair(image, network, card)

    return read


def measure_scenes(profile: Profile, scenes: list[Scenes], masks: Masks, *, title: str = "") -> pd.DataFrame:
    """Read every tube of the scenes by both scales.

    A row per tube: part, scene, tube, thickness_mm and drip_free_mm (true), clear, conditions; by scale: mm, drip_free,
    error_scale and problem, in columns such as "mm, tube diameter". Tubes reported where there is none are rows without
    a true thickness.
    """
    tube, slag = indices(profile.data.class_names, profile.thickness)
    rows = []
    for some in scenes:
        bar = tqdm(some.truth.groupby("scene"), f"{title} {some.part}".strip(), disable=None)
        for scene, tubes in bar:
            mask, mirrored = masks(some.folder, str(scene))
            found = measure(mask, tube=tube, slag=slag)
            others = None if mirrored is None else measure(mirrored, tube=tube, slag=slag)
            rows += [{"part": some.part, **row} for row in _compare(tubes, found, others, max(mask.shape))]
    return pd.DataFrame(rows)


def _compare(
    truth: pd.DataFrame, found: list[Measurement], others: list[Measurement] | None, longer: int
) -> Iterator[dict]:
    """The rows of one scene."""
    matched = match(truth, found)
    for tube, one in zip(truth.itertuples(), matched, strict=True):
        row = {"scene": tube.scene, "tube": tube.tube, "thickness_mm": tube.thickness_mm}
        row |= {"drip_free_mm": tube.drip_free_mm, "conditions": tube.conditions}
        row["clear"] = tube.visible > CLEAR and tube.sides_in_frame
        for scale in SCALES:
            reading = read_tube(one, others, longer, true_scale(tube, scale)) if one else None
            row[f"mm, {scale}"] = reading.thickness if reading else np.nan
            row[f"drip_free, {scale}"] = reading.drip_free if reading else np.nan
            row[f"error_scale, {scale}"] = reading.error_scale if reading else np.nan
            row[f"problem, {scale}"] = reading.problem if reading else MISSING
        yield row
    for one in found:
        if not one.problem and not any(one is other for other in matched):
            yield {"scene": truth["scene"].iloc[0], "tube": -1, "clear": False, "conditions": ""}


def match(truth: pd.DataFrame, found: list[Measurement]) -> list[Measurement | None]:
    """The measured tube of each true one of a scene; None if the middle of no band is on it."""
    free, matched = list(found), list[Measurement | None]()
    for tube in truth.itertuples():
        one = min(free, key=lambda each: _distance(each, tube), default=None)
        if one is not None and _distance(one, tube) > 1:
            one = None
        if one is not None:
            free.remove(one)
        matched.append(one)
    return matched


def true_scale(tube, scale: str) -> Thickness:
    """Settings with the true scale of a tube, a row of truth.parquet, in one of `SCALES`."""
    if scale == SCALES[0]:
        return Thickness.model_validate({"mm_per_pixel": tube.mm_per_pixel, "elevation": tube.elevation})
    diameter = {"tube_diameter_mm": tube.mm_per_pixel * tube.diameter_px, "diameter_uncertainty": 0.0}
    return Thickness.model_validate({**diameter, "elevation": tube.elevation})


def read_scene(
    scenes: Scenes, scene: str, network: Network, card: Card, scale: str
) -> tuple[np.ndarray, list[Reading]]:
    """The image of a scene and what a network reads of its tubes by a true scale, with intervals."""
    image, _ = read_picture(scenes.folder / f"{scene}.jpg")
    mask, mirrored = segment_pair(image, network, card)
    tube, slag = indices(card.class_names, Thickness.model_validate({}))
    truth = scenes.truth[scenes.truth["scene"] == scene]
    found, others = (measure(one, tube=tube, slag=slag) for one in (mask, mirrored))
    pairs = zip(truth.itertuples(), match(truth, found), strict=True)
    return image, [
        read_tube(one, others, max(mask.shape), true_scale(row, scale), card.thickness) for row, one in pairs if one
    ]


def _distance(one: Measurement, tube) -> float:
    """How far a measured tube is from a true one: at most 1 if the middle of its band is on the true tube's."""
    roll = np.radians(tube.roll)
    away = np.array((one.x - tube.x, one.y - tube.y))
    across, along = away @ (np.cos(roll), -np.sin(roll)), away @ (np.sin(roll), np.cos(roll))
    half_band = 0.75 * tube.thickness_mm / tube.mm_per_pixel + 0.02 * tube.diameter_px
    return float(max(abs(across) / (tube.diameter_px / 2), abs(along) / half_band))


def calibrate(table: pd.DataFrame, against: str) -> Calibration:
    """The scores of the calibration scenes in a table of `measure_scenes`, one tube of each scene."""
    scores = []
    for scale in SCALES:
        rows = table[(table["part"] == "calibration") & (table[f"problem, {scale}"] == "")].copy()
        rows["score"] = (rows[f"mm, {scale}"] - rows["thickness_mm"]).abs() / rows[f"error_scale, {scale}"]
        one_each = rows.sample(frac=1, random_state=0).groupby("scene")["score"].first()
        scores.append(tuple(round(float(score), 4) for score in sorted(one_each)))
    return Calibration(against=against, by_pixel=scores[0], by_diameter=scores[1], error_scale=ERROR_SCALE)


def read_table(path: Path, profile: Profile) -> pd.DataFrame | None:
    """The table that `write_table` wrote for these scenes; None if there is none."""
    if not path.exists():
        return None
    table = pd.read_parquet(path)
    return table if table.attrs.get("digest") == digest(profile) else None


def write_table(path: Path, table: pd.DataFrame, profile: Profile) -> None:
    """Keep a table of `measure_scenes`, with single precision."""
    numbers = table.select_dtypes("float").columns
    table = table.astype(dict.fromkeys(numbers, "float32"))
    table.attrs["digest"] = digest(profile)
    write_atomically(path, table.to_parquet(index=False))
