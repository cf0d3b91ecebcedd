"""Predictions as Labelme annotations: the mask comes back, holes included; what a person drew is never replaced."""

import base64
import json
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image

from rhseg_lib.errors import StudyError
from rhseg_lib.predict import __main__, pre_annotation
from rhseg_lib.predict.pre_annotation import draw, write_drafts
from rhseg_lib.predict.segment import DEFAULT_WEIGHTS, predict_source
from rhseg_lib.sources.labelme_folder import LabelmeFolder
from rhseg_lib.sources.labelme_polygons import SPECK, polygons_of
from rhseg_lib.sources.labelme_shapes import Shape, label_ids, rasterize

WEIGHTS, SAMPLE = ROOT / DEFAULT_WEIGHTS, ROOT / "data/sample"
CLASSES = ("immersion_tube", "slag_layer")
RANDOM = np.random.default_rng(0)


def back(polygons, shape, priority=CLASSES) -> np.ndarray:
    """The mask that Labelme makes of polygons; without a priority, in their order."""
    shapes = [Shape(label, corners.astype(float), "polygon") for label, corners in polygons]
    return rasterize(shapes, *shape, labels=label_ids(CLASSES, ()), class_priority=priority)[0]


def rings() -> np.ndarray:
    """Both classes in one another, with holes in them and beside them."""
    mask = np.zeros((100, 120), np.uint8)
    for centre, radius, value in (((60, 50), 45, 1), ((60, 50), 30, 2), ((60, 50), 20, 1), ((60, 50), 8, 0)):
        cv2.circle(mask, centre, radius, value, -1)
    cv2.circle(mask, (30, 40), 4, 0, -1)
    cv2.circle(mask, (85, 62), 3, 0, -1)
    return mask


def blocks() -> np.ndarray:
    """Regions of 5x5 pixels that touch in every way."""
    return np.kron(RANDOM.integers(0, 3, (30, 40)), np.ones((5, 5))).astype(np.uint8)


class TestPolygons:
    @pytest.mark.parametrize("make", [rings, blocks, lambda: np.full((7, 9), 2, np.uint8)])
    @pytest.mark.parametrize("priority", [CLASSES, None])
    def test_without_tolerance_give_the_mask_again(self, make, priority):
        mask = make()
        np.testing.assert_array_equal(back(polygons_of(mask, CLASSES, 0), mask.shape, priority), mask)

    def test_lines_of_one_pixel_are_drawn_and_specks_are_not(self):
        mask = np.zeros((30, 30), np.uint8)
        mask[5, 3:20] = mask[5:25, 3] = 1  # an angle
        mask[20:22, 20:24] = 2  # of 8 pixels
        drawn = back(polygons_of(mask, CLASSES, 0), mask.shape)
        np.testing.assert_array_equal(drawn == 1, mask == 1)
        assert np.count_nonzero(mask == 2) < SPECK and not (drawn == 2).any()

    def test_small_holes_are_filled(self):
        mask = np.ones((30, 30), np.uint8)
        mask[10:12, 10:14] = 0
        mask[20:23, 20:23] = 0
        drawn = back(polygons_of(mask, CLASSES, 0), mask.shape)
        assert np.count_nonzero(drawn == 0) == 9

    def test_keep_within_the_tolerance(self):
        mask = np.zeros((200, 200), np.uint8)
        cv2.ellipse(mask, (100, 100), (80, 50), 30, 0, 360, 1, -1)
        [(_, fine)], [(_, coarse)] = polygons_of(mask, CLASSES, 0), polygons_of(mask, CLASSES, 2)
        assert len(coarse) < len(fine) / 4
        outline = np.ascontiguousarray(coarse[:, None], np.float32)
        assert max(abs(cv2.pointPolygonTest(outline, point, True)) for point in fine.astype(float).tolist()) <= 2

    def test_an_empty_mask_has_none(self):
        assert polygons_of(np.zeros((5, 5), np.uint8), CLASSES, 0) == []


@pytest.mark.parametrize("path", sorted((SAMPLE / "truth").glob("*.png")), ids=lambda path: path.stem)
def test_the_default_tolerance_keeps_iou_at_99_of_100(path):
    mask = np.asarray(Image.open(path))
    drawn = back(draw(mask, CLASSES, None), mask.shape)
    for value in np.unique(mask):
        true, found = mask == value, drawn == value
        assert (true & found).sum() >= 0.99 * (true | found).sum()


@pytest.fixture
def predicted(tmp_path):
    """A run over six images of the sample, in a folder without annotations."""
    (tmp_path / "in").mkdir()
    for path in sorted(SAMPLE.glob("*.jpg"))[:6]:
        shutil.copy(path, tmp_path / "in")
    return predict_source(tmp_path / "in", weights=WEIGHTS, output=tmp_path / "out")


class TestDrafts:
    @pytest.mark.parametrize("beside", [True, False])
    def test_come_back_as_the_masks(self, predicted, tmp_path, beside):
        folder = tmp_path / ("in" if beside else "drawn")
        review = write_drafts(predicted, tmp_path / "out", folder)
        source = LabelmeFolder(folder, CLASSES, ("__ignore__",), CLASSES)
        assert len(source.names()) == len(review) == 6 and review["drawn"].all() and not source.unannotated()
        for name, path in source.names().items():
            picture, problems = source.examine(path)
            mask = np.asarray(Image.open(tmp_path / f"out/masks/{name}.png"))
            assert problems == [] and picture.mask.shape == mask.shape
            for value in np.unique(mask):
                true, found = mask == value, picture.mask == value
                assert (true & found).sum() >= 0.99 * (true | found).sum()
            document = json.loads(path.read_text())
            assert document["imageData"] is None and document["imagePath"] == f"{name}.jpg"
            assert (folder / f"{name}.jpg").read_bytes() == (tmp_path / f"in/{name}.jpg").read_bytes()

    def test_the_least_confident_come_first(self, predicted, tmp_path):
        write_drafts(predicted, tmp_path / "out", tmp_path / "drawn")
        review = pd.read_csv(tmp_path / "drawn/review.csv")
        assert review["confidence"].is_monotonic_increasing
        confidences = predicted.table.set_index("name")["confidence"]
        assert review.set_index("annotation")["confidence"].to_dict() == {
            f"{n}.json": c for n, c in confidences.items()
        }

    def test_an_annotation_is_never_overwritten(self, predicted, tmp_path):
        names = sorted(predicted.table["name"])
        (tmp_path / f"in/{names[0]}.json").write_text("drawn by hand")
        review = write_drafts(predicted, tmp_path / "out", tmp_path / "in").set_index("annotation")["drawn"]
        assert (tmp_path / f"in/{names[0]}.json").read_text() == "drawn by hand"
        assert not review[f"{names[0]}.json"] and review.sum() == 5
        before = {path: path.read_bytes() for path in (tmp_path / "in").glob("*.json")}
        assert not write_drafts(predicted, tmp_path / "out", tmp_path / "in", tolerance=2)["drawn"].any()
        assert before == {path: path.read_bytes() for path in (tmp_path / "in").glob("*.json")}

    def test_another_image_of_the_same_name_is_not_annotated(self, predicted, tmp_path):
        (tmp_path / "drawn").mkdir()
        name = sorted(predicted.table["name"])[2]
        (tmp_path / f"drawn/{name}.jpg").write_bytes(b"another")
        with pytest.raises(StudyError, match="another image of that name"):
            write_drafts(predicted, tmp_path / "out", tmp_path / "drawn")
        assert not (tmp_path / f"drawn/{name}.json").exists()
        assert (tmp_path / f"drawn/{name}.jpg").read_bytes() == b"another"

    @pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf")])
    def test_a_tolerance_out_of_range_is_refused(self, predicted, tmp_path, tolerance):
        with pytest.raises(StudyError, match="out of range"):
            write_drafts(predicted, tmp_path / "out", tmp_path / "drawn", tolerance=tolerance)
        assert not (tmp_path / "drawn").exists()

    def test_of_names_that_differ_by_suffix_only(self, predicted, tmp_path):
        first = sorted((tmp_path / "in").glob("*.jpg"))[0]
        Image.open(first).save(first.with_suffix(".png"))
        result = predict_source(tmp_path / "in", weights=WEIGHTS, output=tmp_path / "out")
        with pytest.raises(StudyError, match="differ only by suffix"):
            write_drafts(result, tmp_path / "out", tmp_path / "in")

    def test_of_a_video_and_of_subfolders(self, tmp_path):
        writer = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (128, 96))
        image = cv2.resize(cv2.imread(str(sorted(SAMPLE.glob("*.jpg"))[0])), (128, 96))
        for _ in range(3):
            writer.write(image)
        writer.release()
        (tmp_path / "in/heat 1").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "in/heat 1/a.png"), image)
        for source, options, expected in (
            ("film.avi", {"every": 2}, ["frame_000000.json", "frame_000002.json"]),
            ("in", {"subfolders": True}, ["heat 1/a.json"]),
        ):
            result = predict_source(tmp_path / source, weights=WEIGHTS, output=tmp_path / "out", **options)
            folder = tmp_path / f"drawn {source}"
            assert sorted(write_drafts(result, tmp_path / "out", folder)["annotation"]) == expected
            found = LabelmeFolder(folder, CLASSES, (), CLASSES)
            assert [found.examine(path)[1] for path in found.names().values()] == [[]] * len(expected)

    def test_an_image_inside_a_labelme_file_is_copied_with_its_annotation(self, tmp_path):
        embedded = base64.b64encode(sorted(SAMPLE.glob("*.jpg"))[0].read_bytes()).decode()
        (tmp_path / "in").mkdir()
        path = tmp_path / "in/a.json"
        path.write_text(json.dumps({"shapes": [], "imagePath": "a.jpg", "imageData": embedded}))
        result = predict_source(tmp_path / "in", weights=WEIGHTS, output=tmp_path / "out")
        review = write_drafts(result, tmp_path / "out", tmp_path / "drawn")
        assert review["annotation"].tolist() == ["a.json"] and not review["drawn"].any()
        assert (tmp_path / "drawn/a.json").read_bytes() == path.read_bytes()

    def test_from_the_command_line(self, predicted, tmp_path, capsys):
        (tmp_path / "in/broken.jpg").write_bytes(b"no image")
        given = [str(tmp_path / "in"), "--weights", str(WEIGHTS), "--output", str(tmp_path / "out")]
        assert __main__.main([*given, "--labelme", str(tmp_path / "drawn"), "--tolerance", "1.5"]) == 1
        assert "6 drawn, 0 annotated before and kept" in capsys.readouterr().out
        assert __main__.main([*given, "--labelme", str(tmp_path / "drawn"), "--write", "table"]) == 1
        assert "drawn from masks" in capsys.readouterr().err
        assert __main__.main([*given, "--write", "pictures"]) == 1
        assert "unknown kind of file: pictures" in capsys.readouterr().err


def test_the_coarsest_tolerance_that_is_true_enough_is_taken(monkeypatch):
    tried, original = [], pre_annotation.polygons_of
    monkeypatch.setattr(pre_annotation, "polygons_of", lambda *given: tried.append(given[2]) or original(*given))
    large = np.zeros((800, 800), np.uint8)
    cv2.circle(large, (400, 400), 300, 1, -1)
    draw(large, CLASSES, None)
    assert tried == [2.0]
    draw(cv2.resize(large, (40, 40), interpolation=cv2.INTER_NEAREST), CLASSES, None)
    assert tried[-1] < 1
