import json
import math
import shutil
from dataclasses import asdict, fields

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import files_in
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from rhseg_lib.errors import StudyError
from rhseg_lib.scenes.look import draw_look
from rhseg_lib.scenes.render import CLASSES, render_scene
from rhseg_lib.scenes.tube import Tube, _truth
from rhseg_lib.scenes.write import write_scenes

SIZE = 96


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(3, index, SIZE) for index in range(80)]


def intersection_over_union(truth, guess):
    counts = np.bincount(3 * truth.ravel().astype(int) + guess.ravel(), minlength=9).reshape(3, 3)
    hits = np.diag(counts)
    return hits / (counts.sum(0) + counts.sum(1) - hits)


def rasterize(shapes, size):
    mask = Image.new("L", (size, size))
    for label, points in shapes:
        value = CLASSES.index(label)
        ImageDraw.Draw(mask).polygon([tuple(point) for point in points], fill=value, outline=value)
    return np.asarray(mask)


def test_the_same_scene_twice():
    first, again, other = render_scene(5, 2, 64), render_scene(5, 2, 64), render_scene(5, 3, 64)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)
    assert first.tubes == again.tubes
    for drawn, redrawn in zip(first.annotations, again.annotations, strict=True):
        assert all(np.array_equal(p, q) for (_, p), (_, q) in zip(drawn, redrawn, strict=True))
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("index", range(4))
def test_geometry_does_not_depend_on_size(index):
    small, large = render_scene(1, index, 128), render_scene(1, index, 256)
    shrunk = cv2.resize(large.mask, (128, 128), interpolation=cv2.INTER_NEAREST)
    assert intersection_over_union(small.mask, shrunk).mean() > 0.9
    for one, other in zip(small.tubes, large.tubes, strict=True):
        assert one.mm_per_pixel == pytest.approx(2 * other.mm_per_pixel)
        assert one.thickness_mm == pytest.approx(other.thickness_mm)
        assert (one.x + 0.5, one.y + 0.5) == pytest.approx((other.x / 2 + 0.25, other.y / 2 + 0.25))
    difference = cv2.resize(large.image, (128, 128), interpolation=cv2.INTER_AREA).astype(float) - small.image
    assert np.abs(difference).mean() < 16  # grey levels


def test_types_and_shares(scenes):
    for scene in scenes:
        assert scene.image.shape == (SIZE, SIZE, 3)
        assert scene.image.dtype == scene.mask.dtype == np.uint8
        assert len(scene.tubes) in (1, 2)
        assert np.bincount(scene.mask.ravel(), minlength=3).min() > 0.004 * SIZE**2
        assert scene.image.std() > 8  # never blank
    shares = np.mean([np.bincount(scene.mask.ravel(), minlength=3) for scene in scenes], axis=0) / SIZE**2
    assert 0.2 < shares[1] < 0.36
    assert 0.06 < shares[2] < 0.12


def test_the_true_tube_agrees_with_the_mask():
    """Where nothing hides it: place, width, roll, and thickness as the area over the width."""
    errors = []
    for index in range(60):
        scene = render_scene(7, index, 192)
        tube = scene.tubes[0]
        if len(scene.tubes) > 1 or tube.visible < 0.999 or not tube.sides_in_frame:
            continue
        slag = scene.mask == 2
        rows, columns = np.nonzero(slag)
        down = np.array((math.sin(math.radians(tube.roll)), math.cos(math.radians(tube.roll))))
        across = (columns - tube.x) * down[1] - (rows - tube.y) * down[0]
        assert np.ptp(across) + 1 == pytest.approx(tube.diameter_px, rel=0.08)  # crust swells it
        assert abs(across.min() + across.max()) / 2 < 0.05 * tube.diameter_px
        shortened = math.cos(math.radians(tube.elevation))
        errors.append(slag.sum() / tube.diameter_px * tube.mm_per_pixel / shortened / tube.thickness_mm - 1)
    assert len(errors) >= 8
    assert np.abs(np.median(errors)) < 0.08  # flakes are missing in the area
    assert np.quantile(np.abs(errors), 0.8) < 0.16


def test_length_along_the_axis_is_shortened_by_the_cosine_of_the_elevation():
    """The same band seen from above and level: what the image shows is shorter, the true thickness is not."""
    angles, edges = np.linspace(-np.pi / 2, np.pi / 2, 64), [np.full(64, edge) for edge in (-0.2, 0.4, 0.2)]
    look = draw_look(np.random.default_rng(0), 512)
    look.diameter_mm, look.tilt = 1000, 0.3
    tube = _truth(look, (0.5, 0.5), 0.1, angles, edges)
    assert tube.thickness_mm == pytest.approx(0.6 * 500 / math.sqrt(1 - 0.09))
    assert tube.drip_free_mm == pytest.approx(0.4 * 500 / math.sqrt(1 - 0.09))
    assert tube.elevation == pytest.approx(math.degrees(math.asin(0.3)))
    assert tube.diameter_px * tube.mm_per_pixel == pytest.approx(1000)


def test_thin_bands_are_as_thin_as_asked():
    tubes = [render_scene(5, index, 64, band_mm=(50, 250)).tubes[0] for index in range(12)]
    assert all(40 < tube.drip_free_mm < 300 for tube in tubes)


def test_what_hides_the_band_counts_as_not_visible():
    shares = [tube.visible for index in range(40) for tube in render_scene(7, index, 96).tubes]
    assert min(shares) < 0.8
    assert max(shares) == 1


def test_annotators_differ_and_agree(scenes):
    first, second = (np.stack([rasterize(scene.annotations[k], SIZE) for scene in scenes]) for k in range(2))
    truth = np.stack([scene.mask for scene in scenes])
    assert 0.86 < intersection_over_union(first, second).mean() < 0.96
    assert intersection_over_union(truth, first).mean() > 0.85
    assert (first > 0).sum() > (second > 0).sum()  # one draws outside, the other inside
    for scene in scenes:
        for shapes in scene.annotations:
            labels = [CLASSES.index(label) for label, _ in shapes]
            assert labels == sorted(labels)  # slag is painted over the tube
            assert set(labels) == {1, 2}
            assert all(3 <= len(points) <= 40 for _, points in shapes)
            assert all(points.min() >= 0 and points.max() <= SIZE for _, points in shapes)


@pytest.mark.parametrize(("columns", "bound"), [((0, 1, 2), 0.60), ((0, 1, 2, 3, 4), 0.70)])
def test_colour_and_position_alone_do_not_segment_the_slag(scenes, columns, bound):
    y, x = np.indices((SIZE, SIZE))
    table = np.stack([np.dstack((scene.image, x, y)).reshape(-1, 5) for scene in scenes])[..., columns]
    truth = np.stack([scene.mask.ravel() for scene in scenes])
    pixels = np.random.default_rng(0).choice(SIZE**2, 400, replace=False)
    classifier = HistGradientBoostingClassifier(max_iter=40, random_state=0)
    with threadpool_limits(1):
        classifier.fit(table[:60, pixels].reshape(-1, len(columns)), truth[:60, pixels].ravel())
        guess = classifier.predict(table[60:, ::3].reshape(-1, len(columns)))
    assert intersection_over_union(truth[60:, ::3], guess).mean() < bound


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, num_scenes=3, size=64, seed=4, workers=1, first_index=2)
    return folder


def test_files(folder):
    scene = render_scene(4, 2, 64)
    with Image.open(folder / "truth/scene_0002.png") as mask:
        assert mask.mode == "P"
        assert np.array_equal(np.asarray(mask), scene.mask)
    table = pd.read_parquet(folder / "truth.parquet")
    assert list(table.columns) == ["scene", "tube", *(field.name for field in fields(Tube)), "conditions"]
    assert sorted(set(table["scene"])) == ["scene_0002", "scene_0003", "scene_0004"]
    rows = table[table["scene"] == "scene_0002"].drop(columns=["scene", "tube", "conditions"]).to_dict("records")
    assert rows == [asdict(tube) for tube in scene.tubes]
    drawn = json.loads((folder / "second/scene_0002.json").read_text())
    assert drawn["imagePath"] == "../scene_0002.jpg"
    assert drawn["imageData"] is None
    assert [shape["label"] for shape in drawn["shapes"]] == [label for label, _ in scene.annotations[1]]


def test_the_number_of_workers_changes_nothing(folder, tmp_path):
    write_scenes(tmp_path, num_scenes=3, size=64, seed=4, workers=2, first_index=2)
    assert files_in(tmp_path) == files_in(folder)


def test_a_killed_run_resumes(folder, tmp_path):
    killed = shutil.copytree(folder, tmp_path / "killed")
    for name in ("truth.parquet", "truth/scene_0003.png", "scene_0004.jpg", "second/scene_0004.json"):
        (killed / name).unlink()
    written = (killed / "scene_0002.jpg").stat().st_mtime_ns
    write_scenes(killed, num_scenes=3, size=64, seed=4, workers=1, first_index=2)
    assert files_in(killed) == files_in(folder)
    assert (killed / "scene_0002.jpg").stat().st_mtime_ns == written


def test_truth_of_an_earlier_version_is_written_again(folder, tmp_path):
    old = shutil.copytree(folder, tmp_path / "old")
    mask, note = Image.open(old / "truth/scene_0003.png"), PngInfo()
    note.add_text("truth", json.dumps({"seed": 4, "size": 64, "rows": [{"scene": "scene_0003", "tube": 0}]}))
    mask.save(old / "truth/scene_0003.png", pnginfo=note)
    write_scenes(old, num_scenes=3, size=64, seed=4, workers=1, first_index=2)
    assert files_in(old) == files_in(folder)


def test_scenes_of_another_seed_are_not_mixed_in(folder):
    with pytest.raises(StudyError, match="seed 4, size 64"):
        write_scenes(folder, num_scenes=3, size=64, seed=5, workers=1, first_index=2)


@pytest.mark.parametrize(
    "change", [{"size": 63}, {"num_scenes": 0}, {"seed": -1}, {"workers": -1}, {"first_index": -1}]
)
def test_parameters_out_of_range(tmp_path, change):
    asked = {"num_scenes": 1, "size": 64, "seed": 0, "workers": 1} | change
    with pytest.raises(StudyError, match=f"{next(iter(change)).removeprefix('first_')}="):
        write_scenes(tmp_path, **asked)
    assert not files_in(tmp_path)


def test_render_rejects_a_small_size():
    with pytest.raises(StudyError, match="size=32"):
        render_scene(0, 0, 32)
