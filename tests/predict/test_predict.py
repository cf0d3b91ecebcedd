"""New images and videos: masks at their own size, a table that agrees, resuming, errors, an offline gallery."""

import base64
import errno
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Event
from urllib.parse import quote

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MODEL, Trap, files_in
from PIL import Image

from rhseg_lib import files
from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation import full_size_inference, inference
from rhseg_lib.evaluation.full_size_inference import classes_at_size, prepare
from rhseg_lib.evaluation.weights import Card, read_card, read_weights, write_weights
from rhseg_lib.predict import __main__, runtime, segment
from rhseg_lib.predict.inputs import ImageFiles, Video, open_source
from rhseg_lib.predict.segment import predict_source
from rhseg_lib.settings import Thickness
from rhseg_lib.sources import images

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
RANDOM = np.random.default_rng(0)
NAMES = ("background", "immersion_tube", "slag_layer")


def card(**other) -> Card:
    origin = {"model": MODEL, "class_names": NAMES, "image_size": 64, "profile": "tiny", "kind": "demonstration"}
    stored = {"data": "drawn images", "dataset_hash": "0" * 64, "seed": 0, "miou": 0.5, "abstain_below": 0.68}
    return Card(**{**origin, **stored, "versions": {"torch": "2"}, **other})


@pytest.fixture(scope="module")
def weights(trained, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    write_weights(path, trained.model, card())
    return path


@pytest.fixture
def scenes(profile) -> list[Path]:
    return sorted((profile.voc / "JPEGImages").glob("*.jpg"))


@pytest.fixture
def source(scenes, tmp_path) -> Path:
    """Six scenes of 64 pixels in a folder."""
    folder = tmp_path / "source"
    folder.mkdir()
    for path in scenes[:6]:
        shutil.copy(path, folder)
    return folder


def save(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


def video(path: Path, frames: int, code: str = "MJPG") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 25, (96, 64))
    for _ in range(frames):
        writer.write(RANDOM.integers(0, 256, (64, 96, 3), dtype=np.uint8))
    writer.release()
    return path


def kill_after(monkeypatch, batches: int) -> None:
    """Interrupt the run after it has written the files of one more batch, but no line of progress for it."""
    left, original = iter(range(batches)), segment.segment_batches

    def killed(*arguments):
        for batch in original(*arguments):
            if next(left, None) is None:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(segment, "segment_batches", killed)


def note_batches(monkeypatch) -> list[dict]:
    """The batches that runs segment from now on."""
    noted, original = [], segment.segment_batches

    def noting(*arguments):
        for batch in original(*arguments):
            noted.append(batch)
            yield batch

    monkeypatch.setattr(segment, "segment_batches", noting)
    return noted


class TestMasks:
    @pytest.mark.parametrize(
        ("height", "width", "mode", "suffix"),
        [
            (64, 64, "RGB", "png"),
            (31, 77, "L", "png"),
            (150, 40, "RGBA", "webp"),
            (20, 30, "I;16", "png"),
            (1, 200, "RGB", "bmp"),
            (300, 260, "CMYK", "tif"),
        ],
    )
    def test_have_the_images_size(self, weights, tmp_path, height, width, mode, suffix):
        (tmp_path / "in").mkdir()
        Image.new(mode, (width, height)).save(tmp_path / f"in/image.{suffix}")
        predict_source(tmp_path / "in", weights=weights, output=tmp_path / "out")
        with Image.open(tmp_path / "out/masks/image.png") as mask:
            assert (mask.mode, mask.size) == ("P", (width, height))
            assert mask.getpalette()[:9] == images.VOC_PALETTE[:3].ravel().tolist()
        [remark] = pd.read_csv(tmp_path / "out/predictions.csv", keep_default_na=False)["remark"]
        assert bool(remark) == (mode in ("RGBA", "I;16")) and remark in (tmp_path / "out/index.html").read_text()

    def test_images_inside_labelme_files(self, weights, source, tmp_path):
        """A file that holds an image is segmented, unless the image stands beside it; other JSON is named."""
        paths = sorted(source.iterdir())
        for path in paths[:2]:
            data = base64.b64encode(path.read_bytes()).decode()
            path.with_suffix(".json").write_text(json.dumps({"shapes": [], "imagePath": "x", "imageData": data}))
        expected = images.read_picture(paths[0])[0]
        paths[0].unlink()
        (source / "other.json").write_text("{}")
        inputs = open_source(source)
        assert [path.suffix for path in inputs.files].count(".json") == 1
        assert "2 .json" in inputs.left_out
        (frame,) = [frame for frame in inputs.read(0) if frame.source.endswith(".json")]
        assert (frame.image == expected).all() and frame.name == paths[0].stem
        result = predict_source(source, weights=weights, output=tmp_path / "out")
        assert len(result.table) == len(paths) and not len(result.errors)

    def test_follow_exif(self, weights, tmp_path):
        exif = Image.Exif()
        exif[274] = 6  # rotated by 90 degrees
        Image.new("RGB", (60, 20)).save(tmp_path / "rotated.jpg", exif=exif)
        (row,) = predict_source(tmp_path, weights=weights, output=tmp_path / "out").table.itertuples()
        assert (row.width, row.height) == (20, 60)

    def test_of_training_scenes_equal_the_predictions_of_evaluation(self, weights, source, tmp_path):
        predict_source(source, weights=weights, output=tmp_path / "out")
        network, _ = read_weights(weights)
        scenes = np.stack([np.asarray(Image.open(path)) for path in sorted(source.iterdir())])
        expected = inference.predict(network, torch.from_numpy(scenes).permute(0, 3, 1, 2))
        masks = [np.asarray(Image.open(tmp_path / f"out/masks/{path.stem}.png")) for path in sorted(source.iterdir())]
        assert set(np.unique(masks)) == {0, 1, 2}
        np.testing.assert_array_equal(np.stack(masks), expected.numpy())

    @pytest.mark.parametrize(("height", "width"), [(64, 64), (90, 200), (200, 90), (10, 30)])
    def test_an_image_is_prepared_as_in_the_voc_tree(self, height, width):
        image = RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)
        mask = np.ones((height, width), np.uint8)
        square, inside = prepare(image, 64)
        small, small_mask = images.fit(image, mask, 64)
        np.testing.assert_array_equal(square, images.pad(small, 64, images.MARGIN_GREY))
        outside = np.full((64, 64), 255, np.uint8)
        outside[inside] = 1
        np.testing.assert_array_equal(outside, images.pad(small_mask, 64, 255))

    @pytest.mark.parametrize(("height", "width", "classes"), [(8, 8, 3), (40, 24, 3), (3, 5, 2), (33, 70, 7)])
    def test_strips_do_not_change_the_mask(self, monkeypatch, height, width, classes):
        logits = RANDOM.normal(size=(classes, 8, 8)).astype(np.float32)
        whole = cv2.resize(np.ascontiguousarray(logits.transpose(1, 2, 0)), (width, height)).argmax(2)
        for pixels in (1, 7 * width, 2**20):
            monkeypatch.setattr(full_size_inference, "STRIP", pixels)
            np.testing.assert_array_equal(classes_at_size(logits, height, width), whole)


class TestTable:
    def test_agrees_with_the_masks(self, weights, source, tmp_path):
        save(source / "other.png", 30, 50)
        out = tmp_path / "out"
        predict_source(source, weights=weights, output=out)
        table = pd.read_csv(out / "predictions.csv")
        assert len(table) == 7
        for row in table.to_dict("records"):
            mask = np.asarray(Image.open(out / f"masks/{row['name']}.png"))
            assert mask.shape == (row["height"], row["width"])
            for value, name in enumerate(NAMES):
                assert row[f"{name}_pixels"] == (mask == value).sum()
                assert row[f"{name}_percent"] == pytest.approx(100 * (mask == value).mean(), abs=1e-4)
            assert row["abstain"] == (row["confidence"] < read_card(weights).abstain_below)
            assert np.isnan(row["seconds"])

    def test_another_threshold_changes_the_marks_and_segments_nothing(self, weights, source, tmp_path, monkeypatch):
        out = tmp_path / "out"
        first = predict_source(source, weights=weights, output=out, threshold=0).table
        kill_after(monkeypatch, 0)
        second = predict_source(source, weights=weights, output=out, threshold=1).table
        assert not first["abstain"].any()
        assert second["abstain"].all()
        assert pd.read_csv(out / "predictions.csv")["abstain"].all()

    def test_shares_are_of_all_images_and_no_threshold_flags_none(self, trained, source, tmp_path, capsys):
        Image.new("RGB", (64, 64)).save(source / "black.png")
        path, out = tmp_path / "w.safetensors", tmp_path / "out"
        write_weights(path, trained.model, card(abstain_below=None))
        table = predict_source(source, weights=path, output=out).table
        page = (out / "index.html").read_text()
        assert not table["abstain"].any() and "Nothing is flagged, as these weights" in page
        assert __main__.main([str(source), "--weights", str(path), "--output", str(out)]) == 0
        assert "note: nothing is flagged, as these weights" in capsys.readouterr().out
        predict_source(source, weights=path, output=out, threshold=1)  # all are flagged
        page = (out / "index.html").read_text()
        for name in NAMES:
            spread = table[f"{name}_percent"].agg(["median", "min", "max"])
            row = page[page.index(f"</i>{name}") :].partition("</tr>")[0]
            assert re.findall(r"([\d.]+)&nbsp;%", row) == [f"{value:.1f}" for value in spread]
        assert "Below 1.00 the model abstains" in page

    def test_noise_is_less_confident_than_scenes(self, weights, source, tmp_path):
        save(source / "noise.png", 64, 64)
        table = predict_source(source, weights=weights, output=tmp_path / "out").table.set_index("name")["confidence"]
        assert table["noise"] < table.drop("noise").min()


class TestWrite:
    @pytest.mark.parametrize(
        ("kinds", "folders"),
        [("table", set()), ("masks", {"masks"}), ("overlays", {"overlays", "thumbnails"})],
    )
    def test_only_what_is_chosen_and_always_the_table(self, weights, source, tmp_path, kinds, folders):
        out = tmp_path / "out"
        given = [str(source), "--weights", str(weights), "--output", str(out)]
        assert __main__.main([*given, "--write", "masks,overlays,table"]) == 0
        everything = files_in(out)
        assert __main__.main([*given, "--write", kinds]) == 0  # the other images of the earlier run are gone
        assert {path.name for path in out.iterdir() if path.is_dir()} == folders
        for name, expected in files_in(out).items():
            assert name in ("progress.jsonl", "index.html") or expected == everything[name]
        page = (out / "index.html").read_text()
        assert ("thumbnails/" in page) == ("thumbnails" in folders) and ("masks/" in page) == ("masks" in folders)
        assert len(re.findall('class="name"', page)) == 6

    def test_a_lost_file_that_was_not_chosen_is_not_missed(self, weights, source, tmp_path, monkeypatch):
        predict_source(source, weights=weights, output=tmp_path / "out", write=("masks",))
        again = note_batches(monkeypatch)
        predict_source(source, weights=weights, output=tmp_path / "out", write=("masks", "table"))
        assert again == []

    def test_the_next_batch_is_read_and_the_last_one_written_meanwhile(self, weights, source, tmp_path, monkeypatch):
        """The network waits until the next batch is being read: in series, it would wait forever."""
        reading, original, network = Event(), segment.read_batch, segment.network_outputs
        batches = iter(range(9))

        def read(*arguments):
            if next(batches) > 0:
                reading.set()
            return original(*arguments)

        def wait(*arguments):
            assert reading.wait(60)
            return network(*arguments)

        monkeypatch.setattr(segment, "read_batch", read)
        monkeypatch.setattr(segment, "network_outputs", wait)
        assert len(predict_source(source, weights=weights, output=tmp_path / "out", batch_size=2).table) == 6


def draw_tube(path: Path, band: int) -> None:
    """A grey tube with a slag band of so many pixels before a dark wall, 256 pixels."""
    image = np.full((256, 256, 3), 30, np.uint8)
    image[20:240, 80:180] = 120
    image[100 : 100 + band, 80:180] = (200, 60, 40)
    Image.fromarray(image).save(path)


class TestThickness:
    @pytest.fixture
    def tubes(self, tmp_path, monkeypatch):
        """Two images, and a network that sees the colours of `draw_tube`."""

        def outputs(network, card, fitted):
            squares = np.array(fitted, np.float32)
            colours = np.array(((30, 30, 30), (120, 120, 120), (200, 60, 40)), np.float32)
            return [-np.abs(one[..., None, :] - colours).sum(-1).transpose(2, 0, 1) for one in squares]

        monkeypatch.setattr(segment, "network_outputs", outputs)
        (tmp_path / "in").mkdir()
        draw_tube(tmp_path / "in/a.png", 40)
        draw_tube(tmp_path / "in/b.png", 80)
        return tmp_path / "in"

    def test_in_tube_diameters_or_millimetres(self, weights, tubes, tmp_path):
        out = tmp_path / "out"
        table = predict_source(tubes, weights=weights, output=out).thickness
        assert table["unit"].tolist() == ["tube diameters"] * 2
        assert table["thickness"].tolist() == pytest.approx([0.4, 0.8], abs=0.06)
        assert table["low"].isna().all()  # these weights are not calibrated
        settings = Thickness.model_validate({"tube_diameter_mm": 1000})
        predict_source(tubes, weights=weights, output=out, thickness=settings)
        table = pd.read_csv(out / "thickness.csv")
        assert table["image"].tolist() == ["a", "b"]
        assert table["thickness"].tolist() == pytest.approx([400, 800], abs=60)
        page = (out / "index.html").read_text()
        assert f"tube 1: {table['thickness'][1]:.0f} mm" in page
        assert "no calibration for this scale" in page

    def test_only_if_chosen_and_if_there_are_tube_and_slag(self, weights, trained, tubes, tmp_path):
        out = tmp_path / "out"
        predict_source(tubes, weights=weights, output=out)
        predict_source(tubes, weights=weights, output=out, write=("table",))
        assert not len(pd.read_csv(out / "thickness.csv"))  # not that of the earlier run
        path = tmp_path / "rust.safetensors"
        write_weights(path, trained.model, card(class_names=("background", "steel", "rust")))
        assert predict_source(tubes, weights=path, output=out).thickness.empty
        with pytest.raises(StudyError, match="no class 'immersion_tube'"):
            predict_source(tubes, weights=path, output=out, thickness=Thickness.model_validate({"mm_per_pixel": 2}))
        named = Thickness.model_validate({"tube": "steel", "slag": "rust"})
        assert len(predict_source(tubes, weights=path, output=out, thickness=named).thickness) == 2

    def test_an_image_without_slag_has_no_row_and_one_that_is_cut_a_reason(self, weights, tubes, tmp_path):
        save(tubes / "noise.png", 64, 64)
        draw_tube(tubes / "cut.png", 40)
        cut = np.asarray(Image.open(tubes / "cut.png"))[:, 120:]
        Image.fromarray(cut).save(tubes / "cut.png")
        table = predict_source(tubes, weights=weights, output=tmp_path / "out").thickness.set_index("image")
        assert table.loc["cut", "abstain"]
        assert table.loc["cut", "reason"] == "a side of the tube is cut by the frame"
        assert table.loc[["a", "b"], "reason"].tolist() == ["", ""]

    @pytest.mark.parametrize("option", [["--tube-diameter-mm", "0"], ["--mm-per-pixel", "x"], ["--elevation", "80"]])
    def test_an_impossible_scale_is_refused(self, weights, tubes, tmp_path, capsys, option):
        given = [str(tubes), "--weights", str(weights), "--output", str(tmp_path / "out"), *option]
        assert __main__.main(given) == 1
        assert option[0] in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


class TestRuntime:
    def test_threads_are_those_of_the_environment_or_the_cores_that_may_be_used(self, weights, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
        assert runtime.open_weights(weights).threads == 3 == torch.get_num_threads()
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setattr(runtime, "usable_cores", lambda: 5)
        assert runtime.open_weights(weights).threads == 5
        assert runtime.open_weights(weights, threads=1).threads == 1 == torch.get_num_threads()

    @pytest.mark.parametrize(("quota", "cores"), [("max 100000", 4), ("150000 100000", 2), ("50000 100000", 1)])
    def test_a_containers_quota_limits_the_cores(self, monkeypatch, quota, cores):
        monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda process: {*range(4)}, raising=False)
        monkeypatch.setattr(runtime.Path, "read_text", lambda path: quota)
        assert runtime.usable_cores() == cores


class TestNames:
    def test_are_unique_paths(self, weights, tmp_path):
        names = ["a.png", "a.jpg", "炉次 7/渣 层.png", "b/a.png", "<b>&amp;.png", "50 % #1?.jpg"]
        for number, name in enumerate(names):
            save(tmp_path / "in" / name, 20 + number, 30)
        out = tmp_path / "out"
        table = predict_source(tmp_path / "in", weights=weights, output=out, subfolders=True).table
        assert sorted(table["name"]) == sorted(names)  # a.png and a.jpg differ by suffix only, so all keep it
        for row in table.itertuples():
            assert Image.open(out / f"masks/{row.name}.png").size == (row.width, row.height)
        assert table.set_index("name")["height"][names].tolist() == [20, 21, 22, 23, 24, 25]
        links = re.findall(r'src="([^"]+)" loading', (out / "index.html").read_text())
        assert sorted(links) == sorted(quote(f"thumbnails/{name}.jpg") for name in names)

    def test_without_suffix_if_unique(self, tmp_path):
        for name in ("a.png", "b/a.png", ".hidden.png", ".cache/c.png", "out/masks/a.png", "notes.txt"):
            save(tmp_path / name, 4, 4) if name.endswith("png") else (tmp_path / name).write_text("")
        files = open_source(tmp_path, subfolders=True, leave_out=(tmp_path / "out").resolve())
        assert [frame.name for frame in files.read(0)] == ["a", "b/a"]
        assert [frame.name for frame in files.read(1)] == ["b/a"]

    def test_too_long_or_not_utf8_is_an_error(self, tmp_path):
        long, strange = tmp_path / f"{'渣' * 80}.png", tmp_path / "a\udcff.png"
        save(long, 4, 4)
        strange.write_bytes(long.read_bytes())
        frames = list(ImageFiles(tmp_path, (long, strange)).read(0))
        assert all("rename" in frame.image.fix for frame in frames)
        json.dumps([frame.source for frame in frames]).encode()


class TestErrors:
    def test_do_not_stop_the_others(self, weights, source, tmp_path, capsys):
        (source / "a_broken.jpg").write_bytes((source / sorted(source.iterdir())[0]).read_bytes()[:400])
        (source / "text.png").write_text("not an image")
        given = [str(source), "--weights", str(weights), "--output", str(tmp_path / "out"), "--batch-size", "2"]
        assert __main__.main(given) == 1
        errors = pd.read_csv(tmp_path / "out/errors.csv")
        assert errors["file"].tolist() == ["a_broken.jpg", "text.png"]
        assert len(pd.read_csv(tmp_path / "out/predictions.csv")) == 6
        stderr = capsys.readouterr().err
        assert "2 could not be read" in stderr
        assert f"text.png: {errors['what'][1]}" in stderr
        assert "0x" not in stderr  # no memory address
        assert "a_broken.jpg" in (tmp_path / "out/index.html").read_text()

    def test_pipes_devices_and_broken_links_are_listed(self, weights, source, tmp_path, capsys):
        os.mkfifo(source / "a.png")
        (source / "b.png").symlink_to("/dev/zero")
        (source / "c\x1b[31m.png").symlink_to("nowhere")
        os.mkfifo(source / "d.json")
        given = [str(source), "--weights", str(weights), "--output", str(tmp_path / "o\x1bt")]
        assert __main__.main(given) == 1
        shown = capsys.readouterr()
        assert "6 segmented" in shown.out and "3 could not be read" in shown.err and "1 .json (d.json)" in shown.out
        assert r"c\x1b[31m.png: the image cannot be opened" in shown.err and r"o\x1bt" in shown.out
        assert "\x1b" not in shown.out + shown.err.replace("\x1b[A", "")  # tqdm moves its bar

    def test_names_that_are_not_utf8_are_escaped(self, weights, source, tmp_path, capsys):
        folder = source.rename(tmp_path / "f\udcff")
        (folder / "n\x1b\udcff.txt").touch()
        predict_source(folder, weights=weights, output=tmp_path / "out")
        assert r"n\x1b\udcff.txt" in capsys.readouterr().out
        assert r"f\udcff" in (tmp_path / "out/index.html").read_text()

    def test_nothing_but_errors_replaces_an_earlier_run(self, weights, source, tmp_path):
        predict_source(source, weights=weights, output=tmp_path / "out")
        for path in source.iterdir():
            path.write_text("not an image")
        predict_source(source, weights=weights, output=tmp_path / "out")
        assert len(pd.read_csv(tmp_path / "out/errors.csv")) == 6
        assert not (tmp_path / "out/masks").exists()

    def test_nothing_but_errors(self, weights, tmp_path):
        (tmp_path / "text.png").write_text("not an image")
        assert __main__.main([str(tmp_path), "--weights", str(weights), "--output", str(tmp_path / "out")]) == 1
        assert len(pd.read_csv(tmp_path / "out/predictions.csv")) == 0
        assert len(pd.read_csv(tmp_path / "out/errors.csv")) == 1

    @pytest.mark.parametrize(
        ("make", "options", "expected"),
        [
            (lambda folder: None, [], "no images in the folder"),
            (lambda folder: save(folder / "below/a.png", 4, 4), [], "1 in subfolders, which the setting"),
            (lambda folder: folder.rmdir(), [], "the source does not exist"),
            (lambda folder: save(folder / "a.png", 4, 4), ["--batch-size", "0"], "out of range"),
            (lambda folder: save(folder / "a.png", 4, 4), ["--batch-size", "9" * 30], "out of range"),
            (lambda folder: [folder.rmdir(), os.mkfifo(folder)], [], "neither an image nor a video"),
            (lambda folder: save(folder / "a.png", 4, 4), ["--weights", "w" * 300], "File name too long"),
            (lambda folder: save(folder / "a.png", 4, 4), ["--output", "o" * 300], "File name too long"),
            (lambda folder: save(folder / "a.png", 4, 4), ["--output", "/dev/null"], "that `predict` did not write"),
            (lambda folder: save(folder / "a.png", 4, 4), ["--threshold", "1.5"], "out of range"),
            (lambda folder: save(folder / "a.png", 4, 4), ["--weights", "nowhere"], "the weights are not there"),
        ],
    )
    def test_of_the_call_are_one_clear_error(self, weights, tmp_path, capsys, make, options, expected):
        (tmp_path / "in").mkdir()
        make(tmp_path / "in")
        given = [str(tmp_path / "in"), "--weights", str(weights), "--output", str(tmp_path / "out"), *options]
        assert __main__.main(given) == 1
        assert expected in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("write", [pickle.dump, torch.save])
    def test_pickled_weights_are_not_opened(self, tmp_path, source, capsys, write):
        with (tmp_path / "model.pth").open("wb") as file:
            write(Trap(tmp_path), file)
        given = [str(source), "--weights", str(tmp_path / "model.pth"), "--output", str(tmp_path / "out")]
        assert __main__.main(given) == 1
        assert "not a safetensors file" in capsys.readouterr().err
        assert not (tmp_path / "sprung").exists()

    def test_other_files_are_not_replaced(self, weights, source, tmp_path):
        out = tmp_path / "out"
        save(out / "masks/mine.png", 4, 4)
        before = files_in(out)
        with pytest.raises(StudyError, match="that `predict` did not write"):
            predict_source(source, weights=weights, output=out)
        assert files_in(out) == before

    def test_a_folder_named_like_the_draft_is_not_removed(self, weights, source, tmp_path):
        own = tmp_path / "out/unfinished"
        own.mkdir(parents=True)
        (own / "thesis.tex").write_text("years")
        with pytest.raises(StudyError, match="not made here"):
            predict_source(source, weights=weights, output=tmp_path / "out")
        assert files_in(tmp_path / "out") == {"unfinished/thesis.tex": b"years"}

    def test_every_file_of_a_folder_is_used_or_named(self, weights, tmp_path, capsys):
        picture = Image.fromarray(RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8))
        (tmp_path / "in/below").mkdir(parents=True)
        for suffix in ("jpg", "PNG", "jfif", "jpe", "jp2", "gif", "ppm", "bmp", "dib", "tiff", "webp", "pgm"):
            picture.save(tmp_path / f"in/p_{suffix}.{suffix}")
        for name in ("photo.heic", "a.json", "b.json", "c.json", "d.json", "<b>notes", "Thumbs.db", "below/x.png"):
            (tmp_path / "in" / name).write_bytes(b"")
        table = predict_source(tmp_path / "in", weights=weights, output=tmp_path / "out").table
        assert len(table) == 12
        kinds = "1 without suffix (<b>notes), 4 .json (a.json, b.json, c.json, …), 1 .heic (photo.heic)"
        said = f"left out: {kinds}; 1 in subfolders"
        assert said in capsys.readouterr().out
        assert said.replace("<", "&lt;").replace(">", "&gt;") in (tmp_path / "out/index.html").read_text()

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="mounting takes root on Linux")
    def test_the_output_may_be_a_mount_point(self, weights, source, tmp_path):
        predict_source(source, weights=weights, output=tmp_path / "plain")
        (tmp_path / "disk").mkdir()
        script = (
            f"mount -t tmpfs tmpfs '{tmp_path}/disk' && '{sys.executable}' -m rhseg_lib.predict '{source}' "
            f"--weights '{weights}' --output '{tmp_path}/disk' && cp -r '{tmp_path}/disk' '{tmp_path}/copied'"
        )
        ran = subprocess.run(["unshare", "-m", "bash", "-c", script], capture_output=True, text=True, check=False)
        if "unshare" in ran.stderr or "mount:" in ran.stderr:
            pytest.skip("no mount can be made here")
        assert ran.returncode == 0, ran.stderr
        assert files_in(tmp_path / "copied") == files_in(tmp_path / "plain")

    def test_the_same_command_twice_at_once_loses_nothing(self, weights, source, tmp_path):
        for index in range(30):
            save(source / f"more_{index:02}.png", 64, 64)
        predict_source(source, weights=weights, output=tmp_path / "alone")
        command = [sys.executable, "-m", "rhseg_lib.predict", source, "--weights", weights]
        command += ["--output", tmp_path / "out"]
        runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        errors = [run.communicate()[1] for run in runs]
        codes = sorted(run.returncode for run in runs)
        assert codes == [0, 1] or codes == [0, 0]  # the second may start after the first has ended
        assert codes == [0, 0] or any("another run is writing here" in error for error in errors)
        assert files_in(tmp_path / "out") == files_in(tmp_path / "alone")
        assert not (tmp_path / "out/unfinished").exists()

    def test_notes_beside_the_results_are_kept(self, weights, source, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        (out / "notes.txt").write_text("mine")
        for every in (1, 2):
            predict_source(source, weights=weights, output=out, every=every)
        assert (out / "notes.txt").read_text() == "mine"

    def test_a_full_disk_keeps_the_earlier_results_and_the_run_resumes(self, weights, source, tmp_path, monkeypatch):
        out = tmp_path / "out"
        predict_source(source, weights=weights, output=out)
        before = files_in(out)
        save(source / "new.png", 20, 20)
        write = Path.write_bytes

        def full(path, data):
            if "new.png" in path.name:
                raise OSError(errno.ENOSPC, "full")
            return write(path, data)

        with monkeypatch.context() as patched:
            patched.setattr(files.Path, "write_bytes", full)
            with pytest.raises(StudyError, match="no space left"):
                predict_source(source, weights=weights, output=out, batch_size=2)
        assert {name: bytes_ for name, bytes_ in files_in(out).items() if "unfinished" not in name} == before
        assert len(predict_source(source, weights=weights, output=out, batch_size=2).table) == 7
        assert not (out / "unfinished").exists()


class TestResume:
    @pytest.mark.parametrize("batches", [0, 1, 3, 4])
    def test_an_interrupted_run_ends_as_an_uninterrupted_one(self, weights, tmp_path, monkeypatch, batches):
        film = video(tmp_path / "film.avi", 18)
        settings = {"weights": weights, "batch_size": 2, "every": 2}
        predict_source(film, output=tmp_path / "uninterrupted", **settings)
        out, draft = tmp_path / "killed", tmp_path / "killed/unfinished"
        with monkeypatch.context() as patched:
            kill_after(patched, batches)
            with pytest.raises(KeyboardInterrupt):
                predict_source(film, output=out, **settings)
        with (draft / "progress.jsonl").open("ab") as file:
            file.write(b'{"rows": [{"na')  # interrupted while writing a line
        (draft / "masks/.frame_000002.png.4711").write_bytes(b"half a mask")
        again = note_batches(monkeypatch)
        predict_source(film, output=out, **settings)
        assert len(again) == 5 - batches
        assert files_in(out) == files_in(tmp_path / "uninterrupted")
        assert not draft.exists()

    @pytest.mark.parametrize("name", ["masks", "index.html", "progress.jsonl"])
    def test_an_interrupted_move_resumes(self, weights, source, tmp_path, monkeypatch, name):
        predict_source(source, weights=weights, output=tmp_path / "uninterrupted", batch_size=3)
        out, original = tmp_path / "out", Path.replace
        predict_source(source, weights=weights, output=out)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", lambda path, to: original(path, to if path.name != name else path / "no"))
            with pytest.raises((OSError, StudyError)):
                predict_source(source, weights=weights, output=out, batch_size=3)
        predict_source(source, weights=weights, output=out, batch_size=3)
        assert files_in(out) == files_in(tmp_path / "uninterrupted")

    @pytest.mark.parametrize("changed", ["weights", "source", "batch size"])
    def test_a_changed_setting_starts_again(self, weights, source, tmp_path, monkeypatch, capsys, changed):
        own = tmp_path / "own.safetensors"
        shutil.copy(weights, own)
        size = 2
        with monkeypatch.context() as patched:
            kill_after(patched, 1)
            with pytest.raises(KeyboardInterrupt):
                predict_source(source, weights=own, output=tmp_path / "out", batch_size=size)
        if changed == "weights":
            network, _ = read_weights(weights)
            write_weights(own, network, card(miou=0.75))
        elif changed == "source":
            save(sorted(source.iterdir())[0], 32, 48)
        else:
            size = 3
        predict_source(source, weights=own, output=tmp_path / "out", batch_size=size)
        assert f"{changed} changed" in capsys.readouterr().out
        predict_source(source, weights=own, output=tmp_path / "fresh", batch_size=size)
        assert files_in(tmp_path / "out") == files_in(tmp_path / "fresh")

    @pytest.mark.parametrize("change", [lambda path: save(path, 32, 48), Path.unlink])
    def test_images_that_change_meanwhile_are_not_vouched_for(self, weights, source, tmp_path, monkeypatch, change):
        out, original = tmp_path / "out", segment.segment_batches

        def changing(*arguments):
            yield from original(*arguments)
            change(last)

        with monkeypatch.context() as patched:
            patched.setattr(segment, "segment_batches", changing)
            last = sorted(source.iterdir())[-1]
            with pytest.raises(StudyError, match="changed while they were segmented"):
                predict_source(source, weights=weights, output=out)
        assert not (out / "predictions.csv").exists()
        result = predict_source(source, weights=weights, output=out)
        assert len(result.table) == len(list(source.iterdir()))

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda out: next((out / "masks").iterdir()).unlink(),
            lambda out: next((out / "masks").iterdir()).write_bytes(b""),
            lambda out: next((out / "overlays").iterdir()).unlink(),
            lambda out: shutil.rmtree(out / "thumbnails"),
            lambda out: [(out / "progress.jsonl").unlink(), os.mkfifo(out / "progress.jsonl")],
            lambda out: (out / "progress.jsonl").write_bytes(b"[" * 100_000 + b"\n"),
            lambda out: (out / "progress.jsonl").write_bytes(b"[]\n"),
            lambda out: (out / "progress.jsonl").write_bytes(b"not a line of progress\n"),
        ],
    )
    def test_lost_files_are_written_again(self, weights, source, tmp_path, spoil):
        out = tmp_path / "out"
        predict_source(source, weights=weights, output=out)
        before = files_in(out)
        spoil(out)
        predict_source(source, weights=weights, output=out)
        assert files_in(out) == before

    def test_only_the_batch_of_a_lost_file_is_segmented_again(self, weights, source, tmp_path, monkeypatch):
        out = tmp_path / "out"
        predict_source(source, weights=weights, output=out, batch_size=2)
        before = files_in(out)
        names = sorted(path.stem for path in source.iterdir())
        (out / f"overlays/{names[2]}.jpg").unlink()
        again = note_batches(monkeypatch)
        predict_source(source, weights=weights, output=out, batch_size=2)
        assert [[row["name"] for row in batch["rows"]] for batch in again] == [names[2:4]]
        assert files_in(out) == before

    def test_a_file_emptied_before_the_run_resumes_is_written_again(self, weights, source, tmp_path, monkeypatch):
        out = tmp_path / "out"
        with monkeypatch.context() as patched:
            kill_after(patched, 2)
            with pytest.raises(KeyboardInterrupt):
                predict_source(source, weights=weights, output=out, batch_size=2)
        next((out / "unfinished/masks").iterdir()).write_bytes(b"")
        predict_source(source, weights=weights, output=out, batch_size=2)
        predict_source(source, weights=weights, output=tmp_path / "fresh", batch_size=2)
        assert files_in(out) == files_in(tmp_path / "fresh")


class TestVideo:
    @pytest.mark.parametrize(("kind", "code"), [("mp4", "mp4v"), ("avi", "MJPG"), ("mov", "mp4v"), ("mkv", "MJPG")])
    def test_every_third_frame_with_its_time(self, tmp_path, kind, code):
        frames = list(Video(video(tmp_path / f"film.{kind}", 8, code), every=3).read(1))
        assert [(frame.name, frame.seconds) for frame in frames] == [("frame_000003", 0.12), ("frame_000006", 0.24)]
        assert frames[0].image.shape == (64, 96, 3)

    def test_colours_are_in_order(self, tmp_path):
        writer = cv2.VideoWriter(str(tmp_path / "red.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 64))
        writer.write(np.full((64, 64, 3), (0, 0, 255), np.uint8))  # OpenCV's order
        writer.release()
        (frame,) = Video(tmp_path / "red.avi", every=1).read(0)
        assert frame.image[0, 0, 0] > 240 > 20 > frame.image[0, 0, 2]

    def test_a_truncated_video_yields_the_readable_frames(self, weights, tmp_path):
        film = video(tmp_path / "film.avi", 12)
        film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
        given = [str(film), "--weights", str(weights), "--output", str(tmp_path / "out"), "--batch-size", "4"]
        assert __main__.main(given) == 1
        read = len(pd.read_csv(tmp_path / "out/predictions.csv"))
        (error,) = pd.read_csv(tmp_path / "out/errors.csv").itertuples()
        assert 0 < read < 12
        assert (error.file, error.what) == ("film.avi", f"the file states 12 frames, {read} could be read")

    def test_a_frame_that_cannot_be_decoded_is_reported(self, weights, tmp_path, monkeypatch):
        film, opened = video(tmp_path / "film.avi", 3), Video.open

        class Flawed:
            def __init__(self, capture):
                self.capture, self.number = capture, 0
                self.grab, self.get = capture.grab, capture.get

            def retrieve(self):
                self.number += 1
                return self.capture.retrieve() if self.number != 2 else (False, None)

        monkeypatch.setattr(Video, "open", lambda self: Flawed(opened(self)))
        result = predict_source(film, weights=weights, output=tmp_path / "out")
        assert result.table["name"].tolist() == ["frame_000000", "frame_000002"]
        assert result.errors["file"].tolist() == ["film.avi frame_000001"]

    def test_not_a_video(self, tmp_path):
        (tmp_path / "film.mp4").write_bytes(b"text")
        with pytest.raises(StudyError, match="not a video"):
            open_source(tmp_path / "film.mp4")


def test_read_picture_names_the_file(tmp_path):
    with pytest.raises(StudyError) as caught:
        images.read_picture(tmp_path / "missing.png")
    assert caught.value.where == tmp_path / "missing.png"


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_gallery_works_offline(weights, source, tmp_path):
    from playwright.sync_api import sync_playwright

    save(source / "<img src=x onerror=alert(1)>.png", 40, 70)
    save(source / f"{'long' * 30}.png", 300, 20)
    (source / "<i>broken.png").write_text("not an image")
    film = video(tmp_path / "film.avi", 5)
    for given, output in ((source, tmp_path / "images"), (film, tmp_path / "film")):
        predict_source(given, weights=weights, output=output)
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page, asked = browser.new_context(offline=True).new_page(), []
        page.on("console", lambda message: asked.append(message.text))
        page.on("request", lambda request: asked.append(request.url) if request.url.startswith("http") else None)
        for folder, count in ((tmp_path / "film", 5), (tmp_path / "images", 8)):
            page.goto((folder / "index.html").as_uri())
            for width in (1280, 390):
                page.set_viewport_size({"width": width, "height": 800})
                assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.locator(".gallery li").count() == count
            for image in page.locator("img").all():
                image.scroll_into_view_if_needed()
                page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image.element_handle())
            confidences = page.locator(".meter").evaluate_all("all => all.map(meter => meter.title)")
            assert confidences == sorted(confidences)
            links = page.eval_on_selector_all("a", "all => all.map(a => decodeURIComponent(new URL(a.href).pathname))")
            assert all(Path(link).exists() for link in links)
        assert page.locator(".gallery img[src=x]").count() == 0
        assert "<img src=x onerror=alert(1)>" in page.locator(".gallery").inner_text()
        assert "<i>broken.png" in page.locator(".errors").inner_text()
        assert page.locator(".banner").inner_text().startswith(f"Segmented by {MODEL}, trained on drawn images")
        assert "a demonstration, not a result" in page.locator(".banner").inner_text()
        assert asked == []
        browser.close()
