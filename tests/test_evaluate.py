"""Scores of existing weights on a newly annotated folder, at the images' own size."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image

from rhseg_lib import evaluate
from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation.metrics import by_image, scores
from rhseg_lib.predict.segment import DEFAULT_WEIGHTS, predict_source

WEIGHTS = ROOT / DEFAULT_WEIGHTS


@pytest.fixture
def folder(tmp_path):
    """Three scenes with their annotations, and one image with nothing on it."""
    folder = tmp_path / "in"
    folder.mkdir()
    for path in sorted((ROOT / "data/sample").glob("scene_000[0-2].*")):
        shutil.copy(path, folder)
    Image.new("RGB", (60, 40)).save(folder / "zero.png")
    about = {"version": "5.5.0", "shapes": [], "imagePath": "zero.png", "imageData": None}
    (folder / "zero.json").write_text(json.dumps(about))
    return folder


def test_the_masks_of_predict_are_scored(folder, tmp_path):
    names, matrices, card = evaluate.evaluate(WEIGHTS, folder)
    assert names == ["scene_0000", "scene_0001", "scene_0002", "zero"]
    predict_source(folder, weights=WEIGHTS, output=tmp_path / "out", batch_size=1)
    source = evaluate.open_annotations(folder, card.class_names[1:])
    for name, path in source.names().items():
        truth = source.examine(path)[0].mask
        predicted = np.asarray(Image.open(tmp_path / f"out/masks/{name}.png"))
        by_hand = [[((truth == i) & (predicted == j)).sum() for j in range(3)] for i in range(3)]
        assert matrices[names.index(name)].tolist() == by_hand


def test_of_two_annotations_of_an_image_the_first_counts(folder, capsys):
    """The second annotator's files would make a scene count twice."""
    (folder / "second").mkdir()
    about = json.loads((folder / "scene_0001.json").read_text())
    about |= {"imagePath": "../" + about["imagePath"], "shapes": []}
    (folder / "second/scene_0001.json").write_text(json.dumps(about))
    alone, matrices = evaluate.evaluate(WEIGHTS, folder)[:2]
    assert "1 annotations such as second/scene_0001.json" in capsys.readouterr().out
    shutil.rmtree(folder / "second")
    names, expected = evaluate.evaluate(WEIGHTS, folder)[:2]
    assert alone == names and (matrices == expected).all()


def test_the_command_prints_classes_and_the_worst_images(folder, tmp_path, capsys):
    assert evaluate.main([str(WEIGHTS), str(folder), "--output", str(tmp_path / "scores.csv")]) == 0
    out = capsys.readouterr().out
    assert "too few images for an interval" in out and "slag_layer" in out
    table = pd.read_csv(tmp_path / "scores.csv")
    assert len(table) == 4 and table["mIoU"].is_monotonic_increasing
    _, matrices, _ = evaluate.evaluate(WEIGHTS, folder)
    assert f"mIoU {100 * scores(matrices.sum(0)).miou:.1f} % on 4 images" in out


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "scene_0000.json").write_text("{}"), r"1 annotation error\(s\)"),
        (shutil.rmtree, "does not exist"),
        (lambda folder: [path.unlink() for path in folder.glob("*.json")], "no Labelme JSON"),
    ],
)
def test_what_cannot_be_scored_is_an_error(folder, spoil, message):
    spoil(folder)
    with pytest.raises(StudyError, match=message):
        evaluate.evaluate(WEIGHTS, folder)


def test_scores_of_an_image_by_hand():
    """Rows are the truth. a: 6 of 8 pixels of the class found, and 2 false ones. b: nothing there, 4 false ones."""
    matrices = np.array([[[90, 2], [2, 6]], [[96, 4], [0, 0]], [[0, 0], [0, 0]]])
    table = by_image(["a", "b", "c"], matrices, ("background", "rust"))
    assert table["image"].tolist() == ["b", "a", "c"]
    assert table.loc[1].tolist()[1:] == pytest.approx([100 * (90 / 94 + 6 / 10) / 2, 60, 75, 75])
    assert table.loc[0].tolist()[1:3] == pytest.approx([48, 0])
    assert np.isnan(table.loc[0, "rust recall"]) and table.loc[0, "rust precision"] == 0
    assert table.loc[2].drop("image").isna().all()
