"""The default model finds tubes and slag in the sample scenes; it is the committed run of the reduced profile."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from rhseg_lib.catalogue import PROPOSED
from rhseg_lib.evaluation.metrics import scores
from rhseg_lib.evaluation.weights import read_card
from rhseg_lib.predict import segment
from rhseg_lib.profile import load_profile

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / segment.DEFAULT_WEIGHTS


def test_the_sample_is_segmented(tmp_path):
    result = segment.predict_source(ROOT / "data/sample", weights=WEIGHTS, output=tmp_path / "out")
    matrix = np.zeros((3, 3), np.int64)
    for name in result.table["name"]:
        found, true = (np.asarray(Image.open(path)) for path in (tmp_path / f"out/masks/{name}.png", truth_of(name)))
        np.add.at(matrix, (true.ravel(), found.ravel()), 1)
    assert matrix.sum() == 12 * 512 * 512
    assert scores(matrix).miou > 0.8
    assert not result.table["abstain"].any()


def truth_of(name: str) -> Path:
    return ROOT / f"data/sample/truth/{name}.png"


def test_the_card_is_that_of_the_committed_results():
    card, profile = read_card(WEIGHTS), load_profile("reduced", root=ROOT)
    assert (card.model, card.profile, card.kind, card.seed) == (PROPOSED, "reduced", "result", 0)
    assert (card.class_names, card.image_size) == (profile.data.class_names, profile.data.image_size)
    metrics = json.loads((WEIGHTS.parent / "metrics.json").read_text())
    assert card.miou == metrics["test"]["miou"] and card.dataset_hash == metrics["dataset_hash"]
    assert WEIGHTS.stat().st_size < 12e6


def test_the_notebook_of_predictions_runs_by_papermill(tmp_path):
    out = tmp_path / "gallery"
    notebook = [str(ROOT / "notebooks/09_predict.ipynb"), str(tmp_path / "out.ipynb")]
    command = [sys.executable, "-m", "papermill", *notebook, "-p", "output", str(out), "--no-progress-bar"]
    ran = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert (out / "index.html").exists() and len(list((out / "masks").iterdir())) == 12
