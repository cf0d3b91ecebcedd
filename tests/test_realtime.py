"""Timings take turns and count all rounds but the first; accuracy is that of the run; a video is counted."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MODEL, ROOT

from rhseg_lib import evaluate, realtime
from rhseg_lib.catalogue import LITE, PROPOSED
from rhseg_lib.dataset import voc_tree
from rhseg_lib.evaluation.runs import finish_run, finished_runs, read_run
from rhseg_lib.models import build_model
from rhseg_lib.predict.segment import DEFAULT_WEIGHTS
from rhseg_lib.profile import Profile
from rhseg_lib.report import findings, model_costs

WEIGHTS = ROOT / DEFAULT_WEIGHTS
HISTORY = {"loss": 1.0, "seconds": 1.0}


@pytest.fixture(scope="module")
def trained(profile) -> Profile:
    """The tiny study with one finished run; its network has learnt nothing."""
    torch.manual_seed(0)
    profile.run_folder(MODEL, 0).mkdir(parents=True, exist_ok=True)
    finish_run(build_model(MODEL, num_classes=3).eval(), profile=profile, model_name=MODEL, seed=0, history=[HISTORY])
    return profile


def test_calls_take_turns_and_warm_up_is_not_counted(monkeypatch):
    clock, called = iter(range(1000)), []
    monkeypatch.setattr(realtime.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(realtime.time, "process_time", lambda: 0)
    calls = {"a": lambda: called.append("a"), "b": lambda: [called.append("b"), next(clock)]}
    found = realtime.interleaved(calls, rounds=3)
    assert called == ["a", "b"] * (3 + realtime.WARM_UP)
    assert found["a"] == (1000, 1000, 1000, 0) and found["b"] == (2000, 2000, 2000, 0)


def test_latency_has_a_row_per_way():
    table = realtime.latency({"one": WEIGHTS, "two": WEIGHTS}, side=32, threads=1, rounds=2, batch=3)
    assert list(table.index) == ["one", "two"] and table["times_plain"]["one"] == 1
    assert (table["lower"] <= table["wall"]).all() and (table["wall"] <= table["upper"]).all()
    np.testing.assert_allclose(table["images_per_second"], 3000 / table["wall"])


def test_a_network_on_a_gpu_is_timed_on_the_cpu(monkeypatch):
    """The page compares runtimes on a plain CPU, also where the study has trained on a GPU."""
    opened, moved = realtime.open_weights(WEIGHTS), []
    monkeypatch.setattr(opened.network, "cpu", lambda: moved.append(True) or opened.network)
    monkeypatch.setattr(realtime, "open_weights", lambda path, *, threads: opened)
    realtime.latency({"one": WEIGHTS}, side=32, threads=1, rounds=1)
    assert moved == [True]


def test_accuracy_is_that_of_the_run_with_the_change_from_the_first_way(trained):
    folder, names = trained.run_folder(MODEL, 0), voc_tree.read_split(trained.voc, "test")
    weights = folder / "weights.safetensors"
    table = realtime.accuracy({"one": weights, "two": weights}, *voc_tree.load_arrays(trained.voc, names))
    found = read_run(trained, MODEL, 0).metrics["test"]
    assert table["miou"].tolist() == [pytest.approx(100 * found["miou"])] * 2
    assert table["images"].tolist() == [found["images"]] * 2 and table["change"].tolist() == [0, 0]


def test_int8_is_calibrated_with_training_originals_alone(trained, tmp_path):
    found = {path.stem for path in realtime.training_images(trained, tmp_path / "images").iterdir()}
    copies = voc_tree.read_dataset(trained.voc)["copy_of"]
    assert found == set(voc_tree.read_split(trained.voc, "train")) - set(copies)


def test_each_size_has_its_time_and_the_trained_one_its_accuracy(trained, monkeypatch):
    monkeypatch.setattr(realtime, "LARGE", 96)
    monkeypatch.setattr(realtime, "usable_cores", lambda: 1)
    files = {realtime.PLAIN: trained.run_folder(MODEL, 0) / "weights.safetensors"}
    monkeypatch.setattr(realtime, "exported", lambda *_: files)
    (run,) = realtime.measured_runs(trained, finished_runs(trained))
    table = realtime.side_by_side(trained, run, rounds=1)
    assert table["side"].tolist() == [trained.data.image_size, 96]
    assert table["miou"].notna().tolist() == [True, False]
    shown = model_costs.realtime_shown(table)
    assert shown["image, threads"].tolist()[1] == "96×96,\N{NO-BREAK SPACE}1" and shown["change"].tolist() == ["–", "–"]


def test_the_summary_names_what_keeps_up_with_a_camera():
    row = {"way": "int8", "threads": 1, "images_per_second": 40.0}
    table = pd.DataFrame(
        [
            {**row, "model": LITE, "side": 128, "wall": 25.0, "miou": 85.0},
            {**row, "model": LITE, "side": 128, "wall": 90.0, "miou": 85.0},
            {**row, "model": PROPOSED, "side": 128, "wall": 50.0, "miou": 84.0},
            {**row, "model": LITE, "side": 512, "wall": 70.0, "miou": np.nan},
        ]
    )
    small, large, untrained, *_ = findings.realtime_summary(table)
    assert small.startswith("At 128×128 px, 1 of 2 models")
    assert "25 ms" in small and "50 ms" in small and "90 ms" not in small and "mIoU 85.0 %" in small
    assert large.startswith("At 512×512 px, 0 of 1 models") and "mIoU" not in large
    assert untrained.startswith("At 512×512 px, only the times are valid")
    assert findings.realtime_summary(pd.DataFrame()) == []


def test_a_part_of_the_images_is_spread_over_the_folder():
    assert evaluate.spread(10, 4) == [0, 3, 6, 9]
    assert evaluate.spread(3, 5) == evaluate.spread(3, None) == [0, 1, 2]


def test_a_video_is_counted(tmp_path: Path):
    writer = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 64))
    for _ in range(3):
        writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.release()
    found = realtime.video_speed(tmp_path / "film.avi", WEIGHTS, write=("table",))
    assert found["frames"] == 3 and found["wall"] > 0 and found["cpu"] > 0
