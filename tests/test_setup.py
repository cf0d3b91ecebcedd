"""The lock, the project file, conda's door and the notebooks agree with one another."""

import json
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rhseg_lib.sources.labelme_folder import LabelmeFolder

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LOCKED = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines() if line]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
DECLARED = [Requirement(line) for line in PROJECT["dependencies"] + EXTRAS]


@pytest.mark.parametrize("declared", DECLARED, ids=lambda requirement: requirement.name)
def test_every_declared_package_is_locked_to_a_version_it_admits(declared: Requirement) -> None:
    name = canonicalize_name(declared.name)
    pins = [pin for pin in LOCKED if canonicalize_name(pin.name) == name and (not pin.marker or pin.marker.evaluate())]
    assert len(pins) == 1
    (pin,) = pins[0].specifier
    assert pin.operator == "=="
    assert declared.specifier.contains(pin.version)


def test_the_lock_holds_plain_pins_and_no_address() -> None:
    assert all(len(pin.specifier) == 1 and pin.url is None for pin in LOCKED)
    assert not (ROOT / "uv.lock").exists()


def test_the_installed_packages_are_the_locked_ones() -> None:
    for pin in LOCKED:
        if not pin.marker or pin.marker.evaluate():
            assert pin.specifier.contains(version(pin.name)), pin.name


def test_conda_takes_the_same_lock_and_a_python_the_project_admits() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == ["-r requirements.lock", "--no-deps -e ."]
    (python,) = [entry.removeprefix("python=") for entry in plain if entry.startswith("python=")]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(f"{python}.0")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_short_cells_one_parameters_cell_and_no_output(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in cells) == 1
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    for cell in code:
        source = "".join(cell["source"])
        assert len(source.splitlines()) <= 15, source
        assert not re.search(r"^\s*class ", source, re.MULTILINE)
    assert len(cells) - len(code) >= 0.5 * len(code)  # prose leads through it


def test_there_are_the_notebooks_of_the_study() -> None:
    names = ["00_results", "00_summary", "01_dataset", "02_architectures", "03_train", "04_ablation", "05_comparison"]
    names += ["06_segmentations", "07_claims", "08_speed", "09_predict"]
    names += ["10_own_thickness", "10_thickness", "11_realtime", "explore"]
    assert [path.stem for path in NOTEBOOKS] == names


def test_the_committed_sample_is_small_and_without_errors() -> None:
    sample = ROOT / "data/sample"
    source = LabelmeFolder(sample, ("immersion_tube", "slag_layer"), ("__ignore__",), None, subfolders=False)
    assert len(list(sample.glob("*.json"))) == 12
    assert [problem for path in source.names().values() for problem in source.examine(path)[1]] == []
    assert sum(path.stat().st_size for path in sample.rglob("*") if path.is_file()) < 2e6
