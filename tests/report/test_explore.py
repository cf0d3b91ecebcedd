"""The controls of the notebook `explore`: what each paints, what is computed once, and their use in JupyterLab."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import cv2
import numpy as np
import pytest
from conftest import MODEL, TINY

from rhseg_lib.dataset import voc_tree
from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation import runs
from rhseg_lib.profile import Profile, load_profile
from rhseg_lib.report import overlays
from rhseg_lib.report.explore import Explorer, enlarge
from rhseg_lib.sources.images import IGNORE_INDEX

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WITHOUT_EMA = "deeplabv3plus_mobilenetv2"


@pytest.fixture(scope="module")
def study(profile, trained, tmp_path_factory) -> Profile:
    """A study with the notebook and two finished runs: one trained, with EMA, and one untrained, without."""
    from rhseg_lib.models import build_model

    root = tmp_path_factory.mktemp("explored")
    (root / "profiles").mkdir()
    (root / "profiles/tiny.yaml").write_text(TINY)
    own = load_profile("tiny", root=root)
    shutil.copytree(profile.voc, own.voc)
    (root / "notebooks").mkdir()
    notebook = (ROOT / "notebooks/explore.ipynb").read_text(encoding="utf-8")
    (root / "notebooks/explore.ipynb").write_text(notebook.replace('\\"quick\\"', '\\"tiny\\"'), encoding="utf-8")
    for model, network in ((MODEL, trained.model), (WITHOUT_EMA, build_model(WITHOUT_EMA).eval())):
        own.run_folder(model, 0).mkdir(parents=True)
        history = [{"loss": 1.0, "seconds": 1.0}]
        runs.finish_run(network, profile=own, model_name=model, seed=0, history=history)
    return own


def shown(explorer: Explorer) -> np.ndarray:
    """The image as (H, W, 3) uint8 RGB."""
    return cv2.imdecode(np.frombuffer(explorer.image.value, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_every_layer_has_its_own_image_and_note(study):
    explorer, images = Explorer(study), []
    notes = {
        "annotation": "immersion tube",
        "prediction": "mIoU of this image: ",
        "wrong pixels": " % of the annotated pixels",
        "probability of a class": "which reach 0.50",
        "EMA attention": "weight in this group",
        "slag thickness": "tube",
    }
    for layer, expected in notes.items():
        explorer.layer.value = layer
        assert expected in explorer.note.value
        assert shown(explorer).shape == (512, 512, 3)  # 64 pixels, each shown as 8 × 8
        images.append(explorer.image.value)
    assert len(set(images)) == len(notes) == len(explorer.layer.options)
    assert "a demonstration, not a result. Data: synthetic scenes" in explorer.box.children[0].value


@pytest.mark.parametrize("layer", ["annotation", "prediction", "wrong pixels", "EMA attention"])
def test_at_opacity_zero_the_image_is_unpainted(study, layer):
    explorer = Explorer(study)
    explorer.layer.value, explorer.opacity.value = layer, 0
    (image,), _ = voc_tree.load_arrays(study.voc, [explorer.scene.value])
    np.testing.assert_array_equal(shown(explorer), enlarge(image))


def test_a_model_without_ema_has_a_note_and_no_overlay(study):
    explorer = Explorer(study)
    explorer.run.value, explorer.layer.value = f"{WITHOUT_EMA}, seed 0", "EMA attention"
    (image,), _ = voc_tree.load_arrays(study.voc, [explorer.scene.value])
    assert f"{WITHOUT_EMA} has no EMA attention" in explorer.note.value
    np.testing.assert_array_equal(shown(explorer), enlarge(image))


def test_a_slider_only_repaints(study, monkeypatch):
    explorer = Explorer(study)
    explorer.layer.value = "probability of a class"
    monkeypatch.setattr(explorer, "network", None)  # any further use would fail
    before = explorer.image.value
    for control, value in ((explorer.threshold, 0.1), (explorer.opacity, 0.9), (explorer.target, 0)):
        control.value = value
        assert explorer.image.value != before
        before = explorer.image.value
    explorer.layer.value = "EMA attention"
    explorer.group.value = 3
    assert explorer.image.layout.visibility == "visible"


def test_the_line_encloses_the_share_that_reaches_the_threshold(study):
    explorer = Explorer(study)
    explorer.layer.value, explorer.target.value = "probability of a class", 1
    values = explorer.outputs(explorer.run.value, explorer.scene.value)[0]
    np.testing.assert_allclose(values.sum(0), 1, atol=1e-5)
    explorer.threshold.value = 0.7
    inside = voc_tree.load_arrays(study.voc, [explorer.scene.value])[1][0] != IGNORE_INDEX
    share = 100 * (values[1] >= 0.7)[inside].mean()
    assert f"{share:.1f} % of the annotated pixels, which reach 0.70" in explorer.note.value


def test_missing_weights_are_reported_and_hide_the_image(study):
    explorer, path = Explorer(study), study.run_folder(MODEL, 0) / "weights.safetensors"
    path.rename(path.with_suffix(".away"))
    explorer.layer.value = "probability of a class"
    path.with_suffix(".away").rename(path)
    assert "the weights are not there" in explorer.note.value and str(path) in explorer.note.value
    assert f"python -m rhseg_lib.training --profile tiny --model {MODEL} --seed 0" in explorer.note.value
    assert explorer.image.layout.visibility == "hidden"
    explorer.layer.value = "annotation"
    assert explorer.image.layout.visibility == "visible"


def test_only_runs_with_their_predictions_are_offered(study):
    """A clone of the repository has those of the first seed."""
    path = study.run_folder(MODEL, 0) / "predictions"
    path.rename(path.with_name("away"))
    offered = Explorer(study).run.options
    path.with_name("away").rename(path)
    assert offered == (f"{WITHOUT_EMA}, seed 0",)


def test_without_a_finished_run_the_error_names_the_fix(study, tmp_path):
    with pytest.raises(StudyError, match="no finished run") as caught:
        Explorer(study.model_copy(update={"root": tmp_path}))
    assert caught.value.fix == "make study PROFILE=tiny"


def test_an_outline_is_white_within_and_dark_without():
    inside = np.zeros((1, 9), bool)
    inside[0, 3:] = True  # the image border is not an outline
    row = overlays.outline(np.full((1, 9, 3), 100, np.uint8), inside)[0, :, 0]
    assert row.tolist() == [100, 0, 0, 255, 255, 100, 100, 100, 100]


def test_heat_runs_from_the_darkest_to_the_palest_colour():
    image, values = np.full((1, 2, 3), 100, np.uint8), np.array([[0.0, 1.0]], np.float32)
    assert overlays.heat(image, values, opacity=1)[0].tolist() == [[0, 0, 3], [251, 252, 191]]  # ends of magma
    assert overlays.heat(image, values, opacity=0).tolist() == image.tolist()


@contextmanager
def jupyterlab(folder: Path, settings: Path) -> Iterator[str]:
    """JupyterLab on `folder`, with default settings and no news prompt; yields its address."""
    (settings / "labconfig").mkdir(parents=True)
    page = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (settings / "labconfig/page_config.json").write_text(json.dumps(page))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {f"JUPYTER_{name}_DIR": str(settings / name.lower()) for name in ("DATA", "RUNTIME")}
    own |= {"JUPYTER_CONFIG_DIR": str(settings), "IPYTHONDIR": str(settings / "ipython"), "PYTHONPATH": str(ROOT)}
    options = ("--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0")
    options += ("--IdentityProvider.token=t", "--LabApp.extension_manager=readonly", f"--ServerApp.root_dir={folder}")
    with (settings / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env={**os.environ, **own}, stdout=log, stderr=log
        )
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while True:
            try:
                urlopen(f"{address}/api", timeout=10).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, (settings / "log").read_text()
                time.sleep(0.1)
        yield address
    finally:
        server.terminate()  # it ends its kernels
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


# The pixels of the image, as soon as they differ from `old`.
IMAGE = """old => {
    const image = document.querySelector('img.widget-image')
    if (!image?.complete || !image.naturalWidth) return null
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight]
    canvas.getContext('2d').drawImage(image, 0, 0)
    const pixels = canvas.toDataURL()
    return pixels === old ? null : pixels
}"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_controls_repaint_in_jupyterlab(study, tmp_path):
    from playwright.sync_api import sync_playwright

    elsewhere: list[str] = []
    with jupyterlab(study.root, tmp_path / "settings") as address, sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        here = (address, address.replace("http", "ws", 1), "data:", "blob:")
        page.on("request", lambda asked: None if asked.url.startswith(here) else elsewhere.append(asked.url))

        def changed(old: str | None) -> str:
            return page.wait_for_function(IMAGE, arg=old).json_value()

        page.goto(f"{address}/lab/tree/notebooks/explore.ipynb?token=t")
        page.get_by_text("| Idle").wait_for()  # sooner, the menu would ask for a kernel
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        seen = [changed(None)]
        page.get_by_role("slider").first.press("ArrowRight")  # opacity
        seen.append(changed(seen[-1]))
        for layer in ("annotation", "wrong pixels", "EMA attention", "probability of a class"):
            page.get_by_label(layer, exact=True).check()
            seen.append(changed(seen[-1]))
        threshold = page.locator(".widget-slider", has_text="threshold").get_by_role("slider")
        for _ in range(4):
            threshold.press("ArrowLeft")
        seen.append(changed(seen[-1]))
        page.get_by_text("which reach 0.30").wait_for()
        assert len(set(seen)) == len(seen)
        image = page.locator("img.widget-image").bounding_box()
        assert image["width"] == image["height"] == 512
        assert page.locator(".jp-Notebook .widget-radio").bounding_box()["x"] < image["x"] - 300  # beside, not below
        assert page.get_by_text("Would you like").count() == 0
        browser.close()
    assert elsewhere == []
