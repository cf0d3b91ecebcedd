"""From pixels to millimetres: scales, elevation, the mirror image, conformal intervals; by hand and by simulation."""

import math
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from test_measure import draw

from rhseg_lib.errors import StudyError
from rhseg_lib.settings import Calibration, Thickness
from rhseg_lib.thickness import reading as module
from rhseg_lib.thickness.measure import Measurement
from rhseg_lib.thickness.reading import Reading, indices, read_mask, read_tube

NAMES = ("background", "immersion_tube", "slag_layer")
TUBE = Measurement(100, 120, diameter_px=200, thickness_px=80, drip_free_px=70, seen=1)
SCORES = tuple(float(number) for number in range(1, 20))  # 19 scores: 1, 2, ..., 19


def settings(**given: float) -> Thickness:
    return Thickness.model_validate(given)


def read(one: Measurement = TUBE, again: Measurement | None = TUBE, *, calibration=None, **given: float) -> Reading:
    return read_tube(one, [again] if again else [], 512, settings(**given), calibration)


def test_scales() -> None:
    assert read(mm_per_pixel=5).thickness == pytest.approx(400)
    assert read(mm_per_pixel=5).drip_free == pytest.approx(350)
    assert read(tube_diameter_mm=1000).thickness == pytest.approx(400)
    assert read().thickness == pytest.approx(0.4)
    assert [read(**scale).unit for scale in ({"mm_per_pixel": 5}, {"tube_diameter_mm": 9}, {})] == [
        "mm",
        "mm",
        module.DIAMETERS,
    ]


@pytest.mark.parametrize("elevation", [-18, 18])
def test_a_view_from_above_or_below_shortens(elevation: float) -> None:
    expected = 400 / math.cos(math.radians(18))
    assert read(mm_per_pixel=5, elevation=elevation).thickness == pytest.approx(expected)


def test_the_reading_is_the_mean_of_both_and_their_difference_is_doubt() -> None:
    other = replace(TUBE, thickness_px=90)
    one = read(again=other, mm_per_pixel=5)
    assert one.thickness == pytest.approx(425)
    pixel = 0.006 * 512 * 5
    assert one.error_scale == pytest.approx(math.sqrt(pixel**2 + (0.03 * 425) ** 2 + (2 * 50) ** 2))
    assert read(mm_per_pixel=5).error_scale < one.error_scale


@pytest.mark.parametrize(
    ("one", "again", "problem"),
    [
        (replace(TUBE, problem="covered"), TUBE, "covered"),
        (TUBE, None, module.NO_MIRROR),
        (TUBE, replace(TUBE, problem="covered"), module.NO_MIRROR),
        (TUBE, replace(TUBE, x=300), module.NO_MIRROR),
        (TUBE, replace(TUBE, thickness_px=120), module.DISAGREES),
    ],
)
def test_no_number_where_there_is_doubt(one: Measurement, again: Measurement | None, problem: str) -> None:
    result = read(one, again, mm_per_pixel=5)
    assert result.problem == problem
    assert math.isnan(result.thickness)
    assert result.row["thickness"] is result.row["low"] is None
    assert result.row["abstain"]


def test_an_interval_is_the_order_statistic_times_the_error_scale() -> None:
    calibration = Calibration(error_scale=2, against="dips", by_pixel=SCORES)
    one = read(mm_per_pixel=5, calibration=calibration)
    assert (one.high - one.thickness) / one.error_scale == pytest.approx(18)  # ceil(20 · 0.9)
    wide = Calibration(error_scale=2, against="dips", by_pixel=tuple(2 * score for score in SCORES))
    assert read(mm_per_pixel=5, calibration=wide).low == 0  # no thickness is negative
    assert math.isnan(read(tube_diameter_mm=1000, calibration=calibration).high)  # not calibrated for that scale


def test_errors_divided_by_an_older_error_scale_give_no_interval() -> None:
    assert math.isnan(Calibration(against="dips", by_pixel=SCORES).factor(0.9, by_diameter=False))


@pytest.mark.parametrize(("count", "level", "rank"), [(9, 0.9, 9), (8, 0.9, None), (19, 0.95, 19), (18, 0.95, None)])
def test_too_few_scores_give_no_interval(count: int, level: float, rank: int | None) -> None:
    factor = Calibration(error_scale=2, against="dips", by_pixel=SCORES[:count]).factor(level, by_diameter=False)
    assert math.isnan(factor) if rank is None else factor == rank


def test_what_is_not_known_of_the_diameter_widens_the_interval() -> None:
    calibration = Calibration(error_scale=2, against="dips", by_diameter=tuple(0.1 * score for score in SCORES))
    sure, unsure = (
        read(tube_diameter_mm=1000, diameter_uncertainty=share, calibration=calibration) for share in (0, 0.05)
    )
    half, wider = (one.high - one.thickness for one in (sure, unsure))
    assert wider == pytest.approx(math.hypot(half, 1.6449 * 0.05 * 400), rel=1e-3)


def test_dips_hold_for_their_own_scale_and_contain_its_uncertainty() -> None:
    calibration = Calibration(
        error_scale=2, against="dips", by_diameter=tuple(0.1 * score for score in SCORES), scale=(1000, 0)
    )
    same = read(tube_diameter_mm=1000, diameter_uncertainty=0.05, calibration=calibration)
    assert (same.high - same.thickness) / same.error_scale == pytest.approx(1.8)
    assert math.isnan(read(tube_diameter_mm=900, calibration=calibration).high)
    assert math.isnan(read(tube_diameter_mm=1000, elevation=20, calibration=calibration).high)


def test_intervals_cover_as_often_as_they_say() -> None:
    """Split-conformal, over 2000 calibrations with errors that are not normal: 90 % within a percent."""
    generator = np.random.default_rng(3)
    hits = []
    for _ in range(2000):
        scores = np.sort(generator.exponential(1, 31) ** 1.5)
        calibration = Calibration(
            error_scale=2, against="simulated", by_pixel=tuple(scores[generator.permutation(31)[:30]].tolist())
        )
        ordered = calibration.model_copy(update={"by_pixel": tuple(sorted(calibration.by_pixel))})
        new = generator.exponential(1) ** 1.5
        hits.append(new <= ordered.factor(0.9, by_diameter=False))
    assert np.mean(hits) == pytest.approx(0.9, abs=0.02)


def test_a_mask_and_its_mirror_image() -> None:
    one, other = read_mask(
        draw(x=370, width=120, band=40, mask=draw(x=140, width=140, band=90)),
        NAMES,
        settings(mm_per_pixel=2),
        mirrored=draw(x=370, width=120, band=40, mask=draw(x=140, width=140, band=60)),
    )
    assert one.problem == module.DISAGREES
    assert other.thickness == pytest.approx(80, abs=3)
    assert read_mask(np.zeros((64, 64), np.uint8), NAMES, settings()) == []


def test_classes_without_tube_and_slag_are_refused() -> None:
    with pytest.raises(StudyError, match="no class 'slag_layer'"):
        indices(("background", "immersion_tube", "rust"), settings())


@pytest.mark.parametrize(
    "given",
    [
        {"tube_diameter_mm": 0},
        {"mm_per_pixel": -1},
        {"tube_diameter_mm": float("nan")},
        {"tube_diameter_mm": 900, "mm_per_pixel": 2},
        {"elevation": 90},
        {"level": 1},
        {"slag": "immersion_tube"},
    ],
)
def test_impossible_settings(given: dict) -> None:
    with pytest.raises(ValidationError):
        settings(**given)
