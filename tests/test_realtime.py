"""Timings take turns and count all rounds but the first; accuracy is that of `evaluate`; a video is counted."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT

from rhseg_lib import evaluate, realtime
from rhseg_lib.evaluation.metrics import scores
from rhseg_lib.predict.segment import DEFAULT_WEIGHTS

WEIGHTS, SAMPLE = ROOT / DEFAULT_WEIGHTS, ROOT / "data/sample"


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


def test_accuracy_is_that_of_evaluate_with_the_change_from_the_first_way():
    table = realtime.accuracy({"one": WEIGHTS, "two": WEIGHTS}, SAMPLE, most=100)
    _, matrices, _ = evaluate.evaluate(WEIGHTS, SAMPLE)
    assert table["miou"].tolist() == [pytest.approx(100 * scores(matrices.sum(0)).miou)] * 2
    assert table["change"].tolist() == [0, 0] and table["size"].tolist() == [128, 128]
    assert np.isnan(table["low"]["one"]) and table["low"]["two"] == table["high"]["two"] == 0


def test_a_part_of_the_images_is_spread_over_the_folder():
    assert evaluate.spread(10, 4) == [0, 3, 6, 9]
    assert evaluate.spread(3, 5) == evaluate.spread(3, None) == [0, 1, 2]
    table = realtime.accuracy({"one": WEIGHTS}, SAMPLE, most=2)
    assert table["images"].tolist() == [2]


def test_a_video_is_counted(tmp_path: Path):
    writer = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 64))
    for _ in range(3):
        writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.release()
    found = realtime.video_speed(tmp_path / "film.avi", WEIGHTS, write=("table",))
    assert found["frames"] == 3 and found["wall"] > 0 and found["cpu"] > 0
