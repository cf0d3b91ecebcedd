"""Live mode: the latest frame wins, a line of JSON per frame, clear errors."""

import json

import cv2
import numpy as np
import pytest
from conftest import ROOT

from rhseg_lib.errors import StudyError
from rhseg_lib.predict import __main__, live
from rhseg_lib.predict.segment import DEFAULT_WEIGHTS, predict_source

WEIGHTS = ROOT / DEFAULT_WEIGHTS
RANDOM = np.random.default_rng(0)


class Camera:
    """Delivers numbered frames, of which some cannot be decoded."""

    def __init__(self, frames: int, broken: tuple[int, ...] = ()) -> None:
        self.left, self.broken, self.number = frames, broken, -1

    def grab(self) -> bool:
        self.number += 1
        return self.number < self.left

    def retrieve(self) -> tuple[bool, np.ndarray | None]:
        if self.number in self.broken:
            return False, None
        return True, np.full((48, 64, 3), self.number, np.uint8)


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 100, (96, 64))
    for _ in range(6):
        writer.write(cv2.resize(RANDOM.integers(0, 256, (8, 12, 3), dtype=np.uint8), (96, 64)))
    writer.release()
    return path


def test_of_frames_that_were_not_taken_only_the_newest_is_kept():
    latest = live.Latest(Camera(5), own_speed=False)
    latest.read()
    assert (latest.take().number, latest.take()) == (4, None)


def test_a_frame_that_cannot_be_decoded_is_skipped():
    latest = live.Latest(Camera(5, broken=(3, 4)), own_speed=False)
    latest.read()
    assert latest.take().number == 2


def test_a_reader_that_fails_ends_the_frames(monkeypatch):
    camera = Camera(5)
    monkeypatch.setattr(camera, "retrieve", lambda: 1 / 0)
    latest = live.Latest(camera, own_speed=False)
    with pytest.raises(ZeroDivisionError):
        latest.read()
    assert latest.take() is None


def test_lines_of_a_video_account_for_every_frame_and_agree_with_the_files(film, tmp_path, capsys):
    table = predict_source(film, weights=WEIGHTS, output=tmp_path / "out", write=("table",)).table
    capsys.readouterr()
    assert __main__.main([str(film), "--live", "--weights", str(WEIGHTS), "--threshold", "1"]) == 0
    lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert lines[-1]["frame"] == 5 == sum(line["skipped"] + 1 for line in lines) - 1
    for line in lines:
        row = table.iloc[line["frame"]]
        assert line["pixels"] == {name: row[f"{name}_pixels"] for name in line["pixels"]}
        assert line["percent"] == {name: row[f"{name}_percent"] for name in line["pixels"]}
        assert (line["width"], line["height"], line["abstain"]) == (96, 64, True)
        assert line["confidence"] == pytest.approx(row["confidence"], abs=2e-4)  # batches of another size
        assert line["seconds"] == pytest.approx(row["seconds"]) and line["milliseconds"] > 0


def test_a_camera_that_ends_is_an_error_and_ctrl_c_is_not(monkeypatch, capsys):
    monkeypatch.setattr(live, "open_capture", lambda source, is_file: Camera(3))
    assert __main__.main(["0", "--live", "--weights", str(WEIGHTS)]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["frame"] == 2 and "the camera or stream has ended" in err

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(live, "line", interrupted)
    assert __main__.main(["0", "--live", "--weights", str(WEIGHTS)]) == 0


@pytest.mark.parametrize(("source", "expected"), [("film.mp4", "no such video"), ("99", "cannot be opened")])
def test_a_source_that_is_not_there(source, expected):
    with pytest.raises(StudyError, match=expected):
        live.open_capture(source, is_file=source.endswith("mp4"))


def test_a_threshold_out_of_range_is_refused(film, capsys):
    assert __main__.main([str(film), "--live", "--weights", str(WEIGHTS), "--threshold", "60"]) == 1
    assert "the threshold is out of range" in capsys.readouterr().err


@pytest.mark.parametrize("options", ["--output out", "--labelme out", "--every 2", "--write masks", "--subfolders"])
def test_an_option_for_files_is_refused(options, capsys):
    with pytest.raises(SystemExit):
        __main__.main(["0", "--live", *options.split()])
    assert f"writes no files: leave out {options.split()[0]}" in capsys.readouterr().err


def test_thickness_is_measured_where_a_scale_is_given(film, capsys):
    given = [str(film), "--live", "--weights", str(WEIGHTS)]
    assert __main__.main([*given, "--mm-per-pixel", "5"]) == 0
    assert all(isinstance(json.loads(text)["tubes"], list) for text in capsys.readouterr().out.splitlines())
    assert __main__.main([*given, "--slag", "rust"]) == 1
    assert "no class 'rust'" in capsys.readouterr().err
