"""Thickness of drawn tubes, whose truth is known by hand: tilt, taper, drips, bars, flakes, frames, stray slag."""

import math

import cv2
import numpy as np
import pytest

from rhseg_lib.thickness import measure as module
from rhseg_lib.thickness.measure import measure

SIZE = 512


def draw(
    *,
    x: float = 256,
    y: float = 256,
    width: float = 150,
    band: float = 80,
    roll: float = 0,
    taper: float = 0,
    above: float = 200,
    below: float = 150,
    size: int = SIZE,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """A tube with a straight slag band around (x, y): 1 bare tube, 2 slag. `taper` is of the width per pixel down."""
    rows, columns = np.indices((size, size))
    sine, cosine = math.sin(math.radians(roll)), math.cos(math.radians(roll))
    along = (columns - x) * sine + (rows - y) * cosine
    across = (columns - x) * cosine - (rows - y) * sine
    inside = (np.abs(across) <= width / 2 * (1 + taper * along)) & (along > -above) & (along < below)
    mask = np.zeros((size, size), np.uint8) if mask is None else mask
    mask[inside] = 1
    mask[inside & (np.abs(along) <= band / 2)] = 2
    return mask


def only(mask: np.ndarray):
    (one,) = measure(mask)
    return one


@pytest.mark.parametrize("roll", [-25, -11, 0, 7, 20])
@pytest.mark.parametrize("band", [12, 80])
def test_a_leaning_tube(roll: float, band: float) -> None:
    one = only(draw(roll=roll, band=band))
    assert one.problem == ""
    assert one.thickness_px == pytest.approx(band, abs=1.2)
    assert one.drip_free_px == pytest.approx(band, abs=1.2)
    assert one.diameter_px == pytest.approx(150, abs=1.5)
    assert one.roll == pytest.approx(roll, abs=0.4)
    assert (one.x, one.y) == pytest.approx((256, 256), abs=1.5)
    assert one.seen == 1


@pytest.mark.parametrize("taper", [-0.0006, 0.0006])
def test_a_tapering_tube_has_the_diameter_of_its_band(taper: float) -> None:
    one = only(draw(taper=taper, roll=6))
    assert one.diameter_px == pytest.approx(150, abs=2.5)
    assert one.thickness_px == pytest.approx(80, abs=1.2)


@pytest.mark.parametrize("size", [96, 256, 1500])
def test_the_size_of_the_mask_does_not_matter(size: int) -> None:
    scale = size / SIZE
    lengths = {"x": 256, "y": 256, "width": 150, "band": 80, "above": 200, "below": 150}
    one = only(draw(**{name: scale * value for name, value in lengths.items()}, roll=8, size=size))
    assert one.thickness_px / scale == pytest.approx(80, abs=max(2, 1.2 / scale))
    assert one.diameter_px / scale == pytest.approx(150, abs=max(2, 2 / scale))
    assert (one.x / scale, one.y / scale) == pytest.approx((256, 256), abs=max(2, 2 / scale))


def test_two_tubes_are_listed_from_left_to_right() -> None:
    mask = draw(x=370, width=120, band=40, roll=-5, mask=draw(x=140, width=140, band=90, roll=-5))
    left, right = measure(mask)
    assert left.thickness_px == pytest.approx(90, abs=1.2)
    assert right.thickness_px == pytest.approx(40, abs=1.2)
    assert left.x < right.x


def test_drips_count_and_a_figure_without_them_stands_beside() -> None:
    mask = draw()
    for x in (210, 240, 300):
        mask[290:330, x : x + 9] = 2  # 34 pixels below the band, each on 9 of 150 columns
    one = only(mask)
    assert one.thickness_px == pytest.approx(80 + 3 * 9 * 33 / 150, abs=1.5)
    assert one.drip_free_px == pytest.approx(80, abs=1.5)


def test_flakes_are_put_back() -> None:
    mask = draw()
    mask[240:260, 220:250] = 1  # inside the band
    mask[216:250, 270:300] = 1  # at its upper edge
    mask[270:297, 200:215] = 1  # at its lower edge
    assert only(mask).thickness_px == pytest.approx(80, abs=1.5)


def test_a_cable_in_front_is_seen_through() -> None:
    mask = draw(roll=5)
    cv2.line(mask, (60, 100), (450, 400), 0, 6)
    assert only(mask).thickness_px == pytest.approx(80, abs=1.5)
    assert only(mask).diameter_px == pytest.approx(150, abs=2)


@pytest.mark.parametrize("lean", [-40, 60])
def test_a_bar_that_splits_the_tube_is_seen_through(lean: int) -> None:
    mask = draw()
    cv2.line(mask, (240 - lean, 0), (240 + lean, 511), 0, 26)
    one = only(mask)
    assert one.thickness_px == pytest.approx(80, abs=2)
    assert one.diameter_px == pytest.approx(150, abs=3)
    assert one.seen < 0.9


def test_a_bar_that_leans_against_one_side_more_is_seen_through() -> None:
    mask = draw(width=240, taper=-0.00017)  # each side leans inwards by 0.02 pixels per row
    cv2.line(mask, (244, 0), (268, 511), 0, 24)  # 0.025 steeper than one side, 0.067 than the other
    one = only(mask)
    assert one.thickness_px == pytest.approx(80, abs=2)
    assert one.diameter_px == pytest.approx(240, abs=4)


@pytest.mark.parametrize("x", [40, 472], ids=["left", "right"])
def test_a_part_beside_a_bar_is_no_tube_where_the_frame_cuts_the_other(x: int) -> None:
    mask = draw(x=x, width=180)
    mask[:, x - 16 : x + 16] = 0
    parts = measure(mask)
    assert {part.problem for part in parts} == {module.SIDE_CUT, module.SIDE_OF_BAR}


def test_a_gap_with_edges_that_are_not_parallel_is_not_a_bar() -> None:
    left, right = measure(draw(x=335, width=130, taper=-0.0005, mask=draw(x=180, width=140, taper=0.0003)))
    assert left.diameter_px == pytest.approx(140, abs=2)
    assert right.diameter_px == pytest.approx(130, abs=2)


def test_two_even_parts_beside_an_upright_gap_may_be_one_tube() -> None:
    mask = draw(width=230)
    mask[:, 240:272] = 0
    assert [part.problem for part in measure(mask)] == [module.SIDE_OF_BAR] * 2


def test_a_bar_across_the_band_is_bridged() -> None:
    mask = draw(band=120)
    mask[250:275] = 0
    one = only(mask)
    assert one.thickness_px == pytest.approx(120, abs=2)


def test_the_gap_between_two_even_tubes_is_not_a_bar() -> None:
    left, right = measure(draw(x=335, width=130, mask=draw(x=180, width=140)))
    assert left.diameter_px == pytest.approx(140, abs=2)
    assert right.diameter_px == pytest.approx(130, abs=2)


def test_crust_beside_the_tube_widens_nothing() -> None:
    mask = draw()
    mask[225:285, 172:181] = 2
    mask[225:285, 332:340] = 2
    one = only(mask)
    assert one.diameter_px == pytest.approx(150, abs=2)
    assert one.thickness_px == pytest.approx(80, abs=1.5)


def test_slag_off_the_tube_is_no_tube() -> None:
    mask = draw()
    mask[440:480, 20:90] = 2
    assert only(mask).thickness_px == pytest.approx(80, abs=1.5)


def test_specks_elsewhere_on_the_tube_do_not_move_an_edge() -> None:
    mask = draw()
    mask[90:102, 240:252] = 2
    assert only(mask).thickness_px == pytest.approx(80, abs=1.5)


def test_without_slag_or_without_tube_there_is_nothing() -> None:
    assert measure(np.zeros((64, 64), np.uint8)) == []
    assert measure(np.ones((64, 64), np.uint8)) == []
    assert measure(np.where(draw() == 2, 2, 0).astype(np.uint8)) == []
    assert measure(np.full((64, 64), 255, np.uint8)) == []


def half_covered() -> np.ndarray:
    mask = draw()
    mask[60:450, 150:265] = 0
    return mask


def merged() -> np.ndarray:
    mask = draw(x=330, width=130, mask=draw(x=180, width=130))
    mask[60:200, 110:400] = 1
    mask[310:400, 110:400] = 1
    return mask


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        (draw(x=40), module.SIDE_CUT),
        (draw(x=500, roll=4), module.SIDE_CUT),
        (draw(x=525), module.SIDE_CUT),
        (draw(y=20), module.BAND_CUT),
        (draw(below=40), module.NOT_BEYOND),
        (draw(taper=0.0022), module.NOT_PARALLEL),
        (draw(above=50, below=50), module.SIDE_HIDDEN),
        (merged(), module.MERGED),
    ],
    ids=["left", "right", "outside", "top", "end", "taper", "bare", "merged"],
)
def test_what_cannot_be_measured_says_why(mask: np.ndarray, problem: str) -> None:
    for one in measure(mask):
        assert one.problem == problem
        assert math.isnan(one.thickness_px)
    assert measure(mask)


def test_other_class_numbers() -> None:
    mask = draw()
    assert measure(np.array([0, 3, 7], np.uint8)[mask], tube=3, slag=7)[0].thickness_px == pytest.approx(80, abs=1.2)
