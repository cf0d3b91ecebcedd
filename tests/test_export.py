"""Exports: every architecture agrees with its network at any size; bounds refuse; predictions come from the file."""

import json
import shutil
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch import nn

from rhseg_lib import evaluate, export
from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation.full_size_inference import network_logits
from rhseg_lib.evaluation.weights import parse_card, read_card, read_weights
from rhseg_lib.models import build_model
from rhseg_lib.models.fused_decoder import lightened
from rhseg_lib.predict.runtime import OnnxNetwork
from rhseg_lib.predict.segment import DEFAULT_WEIGHTS, predict_source

WEIGHTS, SAMPLE = ROOT / DEFAULT_WEIGHTS, ROOT / "data/sample"
RANDOM = np.random.default_rng(0)
MODELS = ["fcn_resnet50", "unet_vgg16", "deeplabv3plus_xception"]  # and the default weights, of MobileNetV2


def busy(name: str) -> nn.Module:
    """A network whose norms and classifier do something, as after a training run."""
    torch.manual_seed(0)
    network = build_model(name, num_classes=4)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, (low, high) in {
                "running_mean": (-0.1, 0.1),
                "running_var": (0.5, 2),
                "bias": (-0.1, 0.1),
            }.items():
                nn.init.uniform_(getattr(module, value), low, high)
    nn.init.normal_(network.classifier.weight, std=0.3)
    return network.eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """The default weights in float32 and, calibrated and scored on the sample, in int8; what was printed about it."""
    folder = tmp_path_factory.mktemp("export")
    found = {name: folder / f"{name}.onnx" for name in ("float32", "int8")}
    for name, path in found.items():
        options = ["--int8"] if name == "int8" else []
        with redirect_stdout(StringIO()) as printed, pytest.MonkeyPatch.context() as patched:
            if name == "int8":  # of the same graph, whose export takes the time
                patched.setattr(export, "write_graph", lambda network, path: shutil.copy(found["float32"], path))
            assert export.main([str(WEIGHTS), "--output", str(path), "--calibrate", str(SAMPLE), *options]) == 0
    assert sorted(folder.iterdir()) == sorted(found.values())
    (folder / "printed.txt").write_text(printed.getvalue())
    return {**found, "printed": folder / "printed.txt"}


@pytest.mark.parametrize("name", MODELS)
def test_an_architecture_agrees_with_its_network_at_any_batch_and_size(name, tmp_path):
    network = busy(name)
    export.write_graph(lightened(network), tmp_path / "n.onnx")
    exported = OnnxNetwork(tmp_path / "n.onnx", 1)
    for shape in ((1, 64, 64, 3), (3, 33, 130, 3)):
        images = RANDOM.integers(0, 256, shape, dtype=np.uint8)
        expected, found = network_logits(network, images), exported(images)
        assert found.shape == expected.shape and np.abs(found - expected).max() < 3e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["deeplabv3plus_mobilenetv2_ema", "deeplabv3plus_xception"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 130), (16, 16)])
def test_the_lighter_decoder_is_the_same_function(name, height, width):
    network = busy(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    images = torch.rand(2, 3, height, width)
    with torch.inference_mode():
        expected, found = network(images), lightened(network)(images)
    assert (expected - found).abs().max() < 1e-5 * expected.abs().max()
    assert all((before[key] == value).all() for key, value in network.state_dict().items())


def test_a_network_without_that_convolution_stays_as_it_is():
    network = busy("deeplabv3plus_mobilenetv2_lite")
    assert type(lightened(network).decoder) is type(network.decoder)


def test_float32_is_the_same_network(files):
    (network, card), exported = read_weights(WEIGHTS), OnnxNetwork(files["float32"], 1)
    found = export.compare(network, card, files["float32"], export.read_squares(SAMPLE, card), SAMPLE)
    assert found["logit_difference"] < 1e-4 and found["pixels_differ"] == 0 and "miou_loss" not in found
    assert parse_card(exported.metadata, files["float32"]) == read_card(WEIGHTS) == card


def test_int8_is_small_unsigned_and_keeps_miou(files):
    import onnx

    _, matrices, card = evaluate.evaluate(files["int8"], SAMPLE)
    _, expected, _ = evaluate.evaluate(WEIGHTS, SAMPLE)
    scores = [evaluate.of_classes(each, card.class_names)["IoU"].mean() for each in (expected, matrices)]
    assert abs(scores[0] - scores[1]) < 0.5 and (matrices != expected).any()
    assert files["int8"].stat().st_size < 0.32 * files["float32"].stat().st_size
    graph = onnx.load(files["int8"]).graph
    types = {value.name: value.data_type for value in graph.initializer}
    zeros = {node.input[2] for node in graph.node if node.op_type == "QuantizeLinear"}
    assert zeros and {types[name] for name in zeros} == {onnx.TensorProto.UINT8}


def test_an_export_that_is_there_is_quantised_instead_of_made_again(monkeypatch, files, tmp_path):
    monkeypatch.setattr(export, "write_graph", None)
    export.export(WEIGHTS, tmp_path / "int8.onnx", int8=True, float32=files["float32"])
    image = RANDOM.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    made, expected = (OnnxNetwork(path, 1) for path in (tmp_path / "int8.onnx", files["int8"]))
    assert made.metadata == expected.metadata and np.array_equal(made(image), expected(image))


def test_what_is_printed(files):
    printed = files["printed"].read_text()
    assert "note: 12 images to calibrate with" in printed
    assert "int8 changes mIoU by" in printed and "95 % interval" in printed


@pytest.mark.parametrize(
    ("bound", "int8", "expected"),
    [
        ("LOGIT_BOUND", False, "a logit differs"),
        ("PIXEL_BOUND", True, "get another class"),
        ("LOSS_BOUND", True, "mIoU"),
    ],
)
def test_beyond_a_bound_nothing_is_written(monkeypatch, files, tmp_path, bound, int8, expected):
    monkeypatch.setattr(export, bound, -1)
    made = files["int8" if int8 else "float32"]
    monkeypatch.setattr(export, "write_graph", lambda network, path: shutil.copy(made, path))
    monkeypatch.setattr(export, "quantise", lambda path, squares: path)
    with pytest.raises(StudyError, match=expected):
        export.export(WEIGHTS, tmp_path / "w.onnx", int8=int8, folder=SAMPLE)
    assert not list(tmp_path.iterdir())


def test_the_sample_does_not_score_classes_of_ones_own():
    card = read_card(WEIGHTS)
    assert export.is_annotated(export.SAMPLE, card) == (Path.cwd() == ROOT)
    assert not export.is_annotated(export.SAMPLE, card.model_copy(update={"class_names": ("background", "cup")}))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_another_suffix_is_refused(tmp_path, name):
    with pytest.raises(StudyError, match="not named as an ONNX file"):
        export.export(WEIGHTS, tmp_path / name)


def test_a_video_or_a_folder_without_images_does_not_calibrate(tmp_path):
    with pytest.raises(StudyError, match="no images in the folder"):
        export.read_squares(tmp_path, read_card(WEIGHTS))


def test_images_in_subfolders_of_a_tree_calibrate(tmp_path):
    (tmp_path / "JPEGImages/heat_1").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(tmp_path / "JPEGImages/heat_1/a.png")
    assert len(export.read_squares(tmp_path, read_card(WEIGHTS))) == 1


def test_calibration_images_are_spread_over_the_folder(tmp_path, monkeypatch):
    for index in range(7):
        Image.new("RGB", (64, 64), (index, 0, 0)).save(tmp_path / f"{index}.png")
    monkeypatch.setattr(export, "CALIBRATION", 3)
    assert export.read_squares(tmp_path, read_card(WEIGHTS))[:, 0, 0, 0].tolist() == [0, 3, 6]


class TestPrediction:
    def test_gives_the_same_files(self, files, tmp_path):
        for weights, name in ((WEIGHTS, "torch"), (files["float32"], "onnx")):
            predict_source(SAMPLE, weights=weights, output=tmp_path / name)
        paths = {path.relative_to(tmp_path / "torch") for path in (tmp_path / "torch").rglob("*") if path.is_file()}
        assert paths == {
            path.relative_to(tmp_path / "onnx") for path in (tmp_path / "onnx").rglob("*") if path.is_file()
        }
        for path in (path for path in paths if path.parts[0] == "masks"):
            assert (tmp_path / "onnx" / path).read_bytes() == (tmp_path / "torch" / path).read_bytes()
        pages = [(tmp_path / name / "index.html").read_text() for name in ("torch", "onnx")]
        assert "segmented with PyTorch" in pages[0] and "segmented with ONNX Runtime" in pages[1]
        assert "float32" in pages[1]

    def test_of_another_runtime_or_thread_count_start_again(self, files, tmp_path, capsys, monkeypatch):
        predict_source(SAMPLE, weights=files["float32"], output=tmp_path / "out")
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        predict_source(SAMPLE, weights=files["float32"], output=tmp_path / "out")
        assert "threads changed" in capsys.readouterr().out
        predict_source(SAMPLE, weights=WEIGHTS, output=tmp_path / "out")
        torch.set_num_threads(1)
        assert "weights, runtime changed" in capsys.readouterr().out
        settings = json.loads((tmp_path / "out/progress.jsonl").read_text().splitlines()[0])
        assert settings["runtime"].startswith("PyTorch") and settings["threads"] == 2

    def test_results_do_not_depend_on_what_is_written(self, files, tmp_path):
        predict_source(SAMPLE, weights=files["int8"], output=tmp_path / "all")
        predict_source(SAMPLE, weights=files["int8"], output=tmp_path / "table", write=("table",))
        tables = [pd.read_csv(tmp_path / name / "predictions.csv") for name in ("all", "table")]
        pd.testing.assert_frame_equal(*tables)


def test_without_the_packages_it_says_what_to_install(monkeypatch, files, tmp_path):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(StudyError, match="the export needs onnxscript") as caught:
        export.export(WEIGHTS, tmp_path / "w.onnx", folder=SAMPLE)
    assert "rhseg-lib[export]" in caught.value.fix and not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(StudyError, match="ONNX Runtime, which runs exported weights, is not installed"):
        OnnxNetwork(files["float32"], 1)


@pytest.mark.parametrize("content", [b"", b"not onnx", b"\x08\x0a" * 100])
def test_a_damaged_file_is_one_clear_error(tmp_path, content):
    (tmp_path / "w.onnx").write_bytes(content)
    with pytest.raises(StudyError, match="not an ONNX file that can be run"):
        OnnxNetwork(tmp_path / "w.onnx", 1)


def test_a_file_of_another_origin_is_refused(files, tmp_path):
    shutil.copy(files["float32"], tmp_path / "w.onnx")
    export.mark(tmp_path / "w.onnx", {"card": "{}"})
    with pytest.raises(StudyError, match="card of the weights"):
        predict_source(SAMPLE, weights=tmp_path / "w.onnx", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
