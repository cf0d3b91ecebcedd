"""Errors of measured thickness: on fresh scenes, between models, against one's own annotation or measured dips."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rhseg_lib import calibrate as command
from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation import statistics, thickness, thickness_own, thickness_runs
from rhseg_lib.evaluation.weights import Card, read_card, read_weights, write_calibration
from rhseg_lib.profile import Profile
from rhseg_lib.settings import Calibration, Thickness

NAMES = ("background", "immersion_tube", "slag_layer")
BY_PIXEL, BY_DIAMETER = thickness.SCALES


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory, profile: Profile) -> Profile:
    wanted = {"scenes": 16, "calibration_scenes": 12, "thin_scenes": 4, "scene_size": 256, "seed": 5}
    settings = Thickness.model_validate(wanted)
    return profile.model_copy(update={"thickness": settings, "root": tmp_path_factory.mktemp("thickness")})


@pytest.fixture(scope="module")
def scenes(synthetic: Profile) -> list[thickness.Scenes]:
    return thickness.make_scenes(synthetic, workers=1)


@pytest.fixture(scope="module")
def exact(synthetic: Profile, scenes: list[thickness.Scenes]) -> pd.DataFrame:
    return thickness.measure_scenes(synthetic, scenes, thickness.exact_masks)


def test_exact_masks_give_the_true_thickness(exact: pd.DataFrame) -> None:
    for scale in thickness.SCALES:
        rows = thickness_runs.readings(exact, scale)
        read = rows[rows["problem"] == ""]
        assert len(read) >= 0.6 * len(rows)
        assert (rows[rows["clear"]]["problem"] == "").mean() > 0.9
        assert read["error"].abs().mean() < 25
        assert read["error"].abs().max() < 120
    assert (exact["tube"] >= 0).all()  # no tube where there is none


def test_parts_are_different_scenes(scenes: list[thickness.Scenes]) -> None:
    assert [some.part for some in scenes] == list(thickness.PARTS)
    names = [set(some.truth["scene"]) for some in scenes]
    assert not names[0] & names[1]
    thin = scenes[2].truth
    assert thin["drip_free_mm"].max() < 300


def test_one_tube_of_each_scene_calibrates(exact: pd.DataFrame) -> None:
    calibration = thickness.calibrate(exact, "exact")
    rows = exact[(exact["part"] == "calibration") & (exact[f"problem, {BY_PIXEL}"] == "")]
    assert len(calibration.by_pixel) == rows["scene"].nunique() < len(rows)
    assert list(calibration.by_pixel) == sorted(calibration.by_pixel)


def test_annotators_differ_in_the_direction_they_draw(synthetic: Profile, scenes: list[thickness.Scenes]) -> None:
    first, second = (
        thickness.measure_scenes(synthetic, scenes[:1], thickness.annotated_masks(synthetic, name))
        for name in ("first", "second")
    )
    means = [some[f"mm, {BY_PIXEL}"].mean() for some in (first, second)]
    assert means[0] > means[1]  # one draws outside the edges, the other inside


def test_tables_are_kept_for_the_same_scenes_only(synthetic: Profile, exact: pd.DataFrame, tmp_path) -> None:
    path = tmp_path / "thickness.parquet"
    assert thickness.read_table(path, synthetic) is None
    thickness.write_table(path, exact, synthetic)
    kept = thickness.read_table(path, synthetic)
    assert kept is not None
    np.testing.assert_allclose(kept[f"mm, {BY_PIXEL}"], exact[f"mm, {BY_PIXEL}"], rtol=1e-6)
    other = synthetic.model_copy(update={"thickness": synthetic.thickness.model_copy(update={"seed": 6})})
    assert thickness.read_table(path, other) is None


def shifted(table: pd.DataFrame, by: float, noise: float, seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    column = f"mm, {BY_PIXEL}"
    return table.assign(
        **{column: table["thickness_mm"] + by + noise * random.standard_normal(len(table)), "seed": seed}
    )


def test_models_are_compared_on_images_and_seeds(exact: pd.DataFrame) -> None:
    tables = {
        "near": [shifted(exact, 10, 1, seed) for seed in range(3)],
        "far": [shifted(exact, 40, 1, seed) for seed in range(3, 6)],
        "once": [shifted(exact, 10, 1, 7)],
    }
    compared = thickness_runs.compare_errors(tables, BY_PIXEL).set_index(["first", "second"])
    assert compared.loc[("near", "far"), "difference"] == pytest.approx(-30, abs=1)
    assert compared.loc[("near", "far"), "p_holm"] < 0.01
    assert np.isnan(compared.loc[("near", "once"), "p_holm"])  # one seed cannot tell
    summary = thickness_runs.summarise(tables, BY_PIXEL)
    assert summary.loc["far", "bias"] == pytest.approx(40, abs=1)
    assert summary.loc["near", "seeds"] == 3


def test_identical_models_are_rarely_told_apart() -> None:
    """Nominal 5 %: scores of scenes with a spread between seeds, 3 seeds, 300 scenes, 400 times."""
    random = np.random.default_rng(0)
    found = 0
    for _ in range(400):
        hard = random.exponential(30, 300)
        first, second = (hard + random.normal(0, 3, (3, 1)) + random.normal(0, 15, (3, 300)) for _ in range(2))
        found += statistics.mean_difference(first, second).p_value < 0.05
    assert 0.01 < found / 400 < 0.08


def network(squares: np.ndarray) -> np.ndarray:
    """A network that sees grey levels: 0 background, 100 tube, 200 slag."""
    return np.stack([-np.abs(squares[..., 0].astype(np.float32) - level) for level in (0, 100, 200)], axis=1)


def card(**other) -> Card:
    return Card.model_validate({
        "model": "deeplabv3plus_mobilenetv2_lite", "class_names": NAMES, "image_size": 256, "profile": "tiny",
        "kind": "demonstration", "data": "drawn", "dataset_hash": "0", "seed": 0, "miou": 1.0, "abstain_below": 0.1,
        "versions": {}, **other,
    })  # fmt: skip


def tube_image(band: int) -> np.ndarray:
    image = np.zeros((256, 256, 3), np.uint8)
    image[20:240, 80:180] = 100
    image[100 : 100 + band, 80:180] = 200
    return image


@pytest.fixture
def dips(tmp_path):
    rows = ["image,tube,mm"]
    for number in range(10):
        Image.fromarray(tube_image(40 + 4 * number)).save(tmp_path / f"dip{number}.png")
        rows.append(f"dip{number},1,{10 * (40 + 4 * number) + number}")
    (tmp_path / "thickness.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_measured_dips_calibrate(dips) -> None:
    settings = Thickness.model_validate({"tube_diameter_mm": 1000})
    pairs = list(thickness_own.against_dips(dips, network, card(), settings))
    assert [pair.known for pair in pairs] == [400 + 41 * number for number in range(10)]
    for pair in pairs:
        assert pair.reading is not None
        assert pair.reading.thickness == pytest.approx(pair.known, abs=25)
    calibration = thickness_own.calibrate(pairs, "measured dips", settings)
    assert (len(calibration.by_diameter), calibration.by_pixel) == (10, ())
    assert calibration.scale == (1000, 0)  # for this scale only
    assert "10 images" in calibration.against
    with pytest.raises(StudyError, match="needs 9"):
        thickness_own.calibrate(pairs[:8], "measured dips", settings)
    with pytest.raises(StudyError, match="no scale"):
        list(thickness_own.against_dips(dips, network, card(), Thickness.model_validate({})))


def test_images_of_one_group_count_once_and_unclear_tubes_not_at_all(dips) -> None:
    lines = (dips / "thickness.csv").read_text().splitlines()
    settings = Thickness.model_validate({"tube_diameter_mm": 1000})
    (dips / "thickness.csv").write_text("\n".join([lines[0] + ",group", *(line + ",heat 1" for line in lines[1:])]))
    pairs = list(thickness_own.against_dips(dips, network, card(), settings))
    with pytest.raises(StudyError, match="1 images"):
        thickness_own.calibrate(pairs, "measured dips", settings)
    (dips / "thickness.csv").write_text("\n".join([*lines, "dip0,2,"]))  # a second tube that the model does not see
    pairs = list(thickness_own.against_dips(dips, network, card(), settings))
    assert [pair.reading is None for pair in pairs] == [True, *[False] * 9]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("image,mm\na,5\n", "cannot be read"),
        ("image,tube,mm\n", "no measured tube"),
        ("image,tube,mm\ndip0,1,\n", "no measured tube"),
        ("image,tube,mm\ndip0,0,5\n", "row 2"),
        ("image,tube,mm\ndip0,1,-5\n", "row 2"),
        ("image,tube,mm\ndip0,1,5\ndip1,one,5\n", "cannot be read"),
        ("image,tube,mm\ndip0,1,inf\n", "row 2"),
        ("image,tube,mm\ndip0,1,5\ndip0.png,1,6\n", "the tubes of dip0.png are 1, 1"),
        ("image,tube,mm\ndip0,2,5\n", "the tubes of dip0.png are 2"),
        ("image,tube,mm\n../../etc/passwd,1,5\n", "no images of the name"),
        ("image,tube,mm\nmissing,1,5\n", "no images of the name"),
    ],
)
def test_invalid_dips_name_the_row(dips, text: str, problem: str) -> None:
    (dips / "thickness.csv").write_text(text)
    settings = Thickness.model_validate({"tube_diameter_mm": 1000})
    with pytest.raises(StudyError, match=problem):
        list(thickness_own.against_dips(dips, network, card(), settings))


def test_weights_keep_a_calibration(trained, tmp_path, profile: Profile) -> None:
    from rhseg_lib.evaluation.weights import write_weights

    path = tmp_path / "weights.safetensors"
    write_weights(path, trained.model, card(class_names=profile.data.class_names, image_size=64))
    calibration = Calibration(error_scale=2, against="dips", by_pixel=(0.5, 1.0))
    before = read_weights(path)[0].state_dict()
    write_calibration(path, calibration)
    model, read = read_weights(path)  # its digest is right
    assert read.thickness == calibration == read_card(path).thickness
    assert all((before[name] == value).all() for name, value in model.state_dict().items())
    written = path.stat().st_mtime_ns
    write_calibration(path, calibration)
    assert path.stat().st_mtime_ns == written


def test_a_page_does_not_replace_a_calibration_by_dips(trained, tmp_path, profile: Profile) -> None:
    from rhseg_lib.evaluation.weights import write_weights

    path = tmp_path / "weights.safetensors"
    ours = Calibration(error_scale=2, against=thickness_runs.AGAINST, by_pixel=(1.0,))
    write_weights(path, trained.model, card(class_names=profile.data.class_names, image_size=64))
    for new, kept in (
        (Calibration(error_scale=2, against=thickness_runs.AGAINST), None),
        (ours, ours),
    ):  # an empty one is not kept
        thickness_runs._keep_calibration(path, new)
        assert read_card(path).thickness == kept
    write_calibration(path, Calibration(error_scale=2, against="measured dips, 9 images", by_diameter=(1.0,)))
    thickness_runs._keep_calibration(path, ours)
    assert read_card(path).thickness.against == "measured dips, 9 images"


def test_the_command_says_what_is_missing(tmp_path, capsys) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert command.main([str(tmp_path / "none.safetensors"), str(tmp_path)]) == 1
    assert "the weights are not there" in capsys.readouterr().err
    assert command.main([str(tmp_path / "model.onnx"), str(tmp_path)]) == 1
    assert "calibrate, then export again" in capsys.readouterr().err
    assert command.main([str(tmp_path / "w.safetensors"), str(tmp_path), "--elevation", "91"]) == 1
    assert "--elevation" in capsys.readouterr().err
