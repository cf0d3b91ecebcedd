"""Every page at the edge of what a profile permits: nothing to copy, to hold out, to compare, to show."""

import ast
import json
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from conftest import MODEL, TINY, draw_scenes
from IPython import display

from rhseg_lib.dataset import build
from rhseg_lib.errors import StudyError
from rhseg_lib.profile import Profile, load_profile
from rhseg_lib.training.fit import run

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
PAGES = ("04_ablation", "05_comparison", "06_segmentations", "07_claims", "00_summary")
DRAWN = {"source": "labelme", "folder": "data/drawn"}


def run_page(name: str, **parameters: object) -> str:
    """Run a notebook's cells in this process; returns all it shows, as HTML and text."""
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    shown: list[object] = []
    names: dict[str, object] = {}
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), names)
        names["display"] = lambda *objects: shown.extend(objects)
        if "parameters" in cell["metadata"].get("tags", []):
            names |= parameters
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), name, "eval"), names))
    return "\n".join(_text(each) for each in shown if each is not None)


def _text(shown: object) -> str:
    if isinstance(shown, display.Markdown):
        return str(shown.data)
    html = getattr(shown, "_repr_html_", None)
    return str(html() if html else shown)


def make_study(root: Path, data: dict, *, models: list[str], seeds: list[int]) -> Profile:
    """Twelve drawn scenes as a Labelme folder, and a profile of one epoch over them with these settings."""
    draw_scenes(root / "data/drawn", 12, 64)
    content = yaml.safe_load(TINY) | {"models": models, "seeds": seeds}
    content["data"] = {"image_size": 64, "test_fraction": 0.25} | data
    content["paper"] = True  # its pages too
    content["recipe"] |= {"epochs": 1, "warmup_epochs": 0, "recompute_batchnorm": False}
    (root / "profiles").mkdir()
    (root / "profiles/edge.yaml").write_text(yaml.safe_dump(content))
    return load_profile("edge", root=root)


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    """Other processes take longer to start than twelve scenes to copy; the files do not depend on their number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "make_dataset", partial(build.make_dataset, workers=1))
        yield


@pytest.fixture(scope="module")
def counted(tmp_path_factory) -> Path:
    """The tables of the Architectures page, which no setting of the data changes much."""
    root = tmp_path_factory.mktemp("counted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        study = make_study(root, DRAWN, models=[MODEL], seeds=[0])
        run_page("01_dataset", profile="edge")
        run_page("02_architectures", profile="edge")
    return study.tables


EDGES: dict[str, tuple[dict, list[str], list[int]]] = {
    "no augmented copies": (DRAWN | {"augmented_copies": 0}, [MODEL], [0]),
    "one class": (DRAWN | {"classes": ["slag_layer"], "background_labels": ["immersion_tube"]}, [MODEL], [0]),
    "a class that no image shows": (DRAWN | {"classes": ["immersion_tube", "slag_layer", "ladle"]}, [MODEL], [0]),
    "eleven classes": (
        DRAWN | {"classes": ["immersion_tube", "slag_layer", *(f"part_{number}" for number in range(9))]},
        [MODEL, "deeplabv3plus_mobilenetv2_ds_ema"],
        [0],
    ),
    "one test image": (DRAWN | {"test_fraction": 0.01}, [MODEL], [0]),
    "one test group": (DRAWN | {"group": "scene_.", "test_fraction": 0.01}, [MODEL], [0, 1]),
    "no model of the paper's comparison": (DRAWN, ["unet_vgg16"], [0]),
    "two models, two seeds": (DRAWN, [MODEL, "deeplabv3plus_mobilenetv2_ds_ema"], [0, 1]),
    "a holdout of one scene": ({"num_scenes": 10, "scene_size": 64, "holdout_scenes": 1}, [MODEL], [0]),
    "copies on both sides": (DRAWN | {"split": "as_described"}, [MODEL], [0]),
}


@pytest.mark.parametrize("edge", EDGES)
def test_pages_at_the_edge_of_a_profile(tmp_path, monkeypatch, counted, edge):
    data, models, seeds = EDGES[edge]
    monkeypatch.chdir(tmp_path)
    study = make_study(tmp_path, data, models=models, seeds=seeds)
    text = run_page("01_dataset", profile="edge")
    for name in ("complexity.csv", "separable.csv", "ema_pooling.csv"):
        shutil.copy(counted / name, study.tables / name)
    for model in models:
        for seed in seeds:
            text += run_page("03_train", profile="edge", model=model, seed=seed)
    if study.thickness.fits(study.data.class_names):
        text += run_page("10_thickness" if study.data.source == "synthetic" else "10_own_thickness", profile="edge")
    text += "".join(run_page(page, profile="edge") for page in (*PAGES, "00_results"))
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"base64,[^\"]*", "", text)), edge


def test_pages_without_predictions_and_weights(tmp_path, monkeypatch, counted):
    """As in a clone of the repository, which has those of the first seed of small models only."""
    monkeypatch.chdir(tmp_path)
    study = make_study(tmp_path, DRAWN, models=[MODEL, "deeplabv3plus_mobilenetv2_ds_ema"], seeds=[0])
    run_page("01_dataset", profile="edge")
    for name in ("complexity.csv", "separable.csv", "ema_pooling.csv"):
        shutil.copy(counted / name, study.tables / name)
    for model in study.models:
        run(study, model, 0)
        (study.run_folder(model, 0) / "weights.safetensors").unlink()
        shutil.rmtree(study.run_folder(model, 0) / "predictions")
    for page in ("04_ablation", "05_comparison", "07_claims"):
        run_page(page, profile="edge")
    with pytest.raises(StudyError, match="no run has its predictions"):  # for Figure 5
        run_page("06_segmentations", profile="edge")
