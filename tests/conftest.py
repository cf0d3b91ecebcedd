"""A study in miniature, made once: twelve drawn pictures, a profile over them, one trained model."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from rhseg_lib.dataset import build, voc_tree
from rhseg_lib.profile import Data, Profile, load_profile
from rhseg_lib.sources import labelme, labelme_folder

# Before torch is imported, here or in a process that a test starts: sums depend on the number of threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a thread that waits leaves its core to the other processes

ROOT = Path(__file__).parent.parent
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
MODEL = "deeplabv3plus_mobilenetv2_lite"
TINY = f"""
title: Twelve drawn pictures, eight epochs
kind: demonstration
data: {{num_scenes: 12, scene_size: 64, image_size: 64, augmented_copies: 0, test_fraction: 0.25}}
recipe:
  epochs: 8
  batch_size: 4
  optimizer: adamw
  learning_rate: 1e-2
  min_learning_rate: 1e-5
  warmup_epochs: 1
  recompute_batchnorm: true
models: [{MODEL}, deeplabv3plus_mobilenetv2]
seeds: [1, 0]
thickness: {{scenes: 4, calibration_scenes: 2, thin_scenes: 2, scene_size: 96}}
"""


LONGEST = ("test_study.py", "test_slurm.py", "test_training.py", "test_readme.py", "test_pages.py", "test_predict.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: the processes that share the files out then end at about the same time."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def call(*command: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run a command of the environment in a copy of the study."""
    return subprocess.run(
        command, cwd=cwd, check=False, capture_output=True, text=True, env={**os.environ, "PATH": PATH}
    )


def files_in(folder: Path) -> dict[str, bytes]:
    """Bytes of all files in a folder, by their path in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def copy_tree(folder: Path) -> Path:
    """The study's sources, with an environment that counts as installed."""
    left_out = shutil.ignore_patterns(".venv", ".git", "data", "reports", ".snakemake", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=left_out)
    shutil.copytree(ROOT / "data/sample", folder / "data/sample")
    proposed = "reports/reduced/runs/deeplabv3plus_mobilenetv2_ds_ema/seed0"  # its weights are the default
    shutil.copytree(ROOT / proposed, folder / proposed)
    (folder / ".venv").mkdir()
    (folder / ".venv/installed").touch()
    return folder


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """What `make` leaves in a folder: made by one of the processes that share the tests out, and read by all."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # each process has its own below it
    with FileLock(folder / f"{name}.lock"):
        if not (folder / name).exists():
            draft = factory.mktemp(name) / "tree"
            make(draft)
            draft.rename(folder / name)
    return folder / name


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the study in which the ci profile has run. Tests read it; those that write take `study`."""

    def make(tree: Path) -> None:
        speed = copy_tree(tree) / "notebooks/08_speed.ipynb"
        parameter = "repeats: int = {}  # timings"
        assert parameter.format(3) in speed.read_text(encoding="utf-8")
        once = speed.read_text(encoding="utf-8").replace(parameter.format(3), parameter.format(1))
        speed.write_text(once, encoding="utf-8")  # no test reads the other timings
        ran = call("make", "study", "PROFILE=ci", "CORES=2", cwd=tree)
        assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]

    return made_once(tmp_path_factory, "finished_study", make)


@pytest.fixture(scope="session")
def study(finished_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `finished_study`. A test that changes a file in it changes it back."""
    return shutil.copytree(finished_study, tmp_path_factory.mktemp("study") / "tree")


@contextmanager
def disk_at(folder: Path, options: str) -> Iterator[None]:
    """A small disk in memory, with options of `mount`, in a new folder; skips the test where none can be mounted."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk takes root and Linux")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class Trap:
    """Unpickled, it creates the file ``sprung``."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "sprung"

    def __reduce__(self):
        return Path.touch, (self.path,)


def data_settings(**settings) -> Data:
    """Settings of a data set, unchecked: a test may have smaller and fewer images than a profile."""
    return Data.model_construct(**settings)


def draw_scenes(folder: Path, count: int, size: int) -> None:
    """A bright tube with a red band of slag at its lower end, at a random place before a noisy dark wall."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(count):
        left, bottom = random.integers(size // 8, size // 3), random.integers(size // 2, size)
        right, top = left + size // 2, bottom - size // 5
        image = random.integers(0, 80, (size, size, 3), dtype=np.uint8)
        image[:bottom, left:right] += 90
        image[top:bottom, left:right, 0] += 80
        Image.fromarray(image).save(folder / f"scene_{index:02}.png")
        shapes = [
            (label, np.array([[left, y], [right - 1, y], [right - 1, bottom - 1], [left, bottom - 1]]))
            for label, y in (("immersion_tube", 0), ("slag_layer", top))
        ]
        path = folder / f"scene_{index:02}.json"
        labelme.write_annotation(path, image_path=f"scene_{index:02}.png", shapes=shapes, height=size, width=size)


@pytest.fixture(scope="session")
def profile(tmp_path_factory) -> Profile:
    """The profile ``tiny``, with its VOC tree on disk. Tests read it; one that writes takes ``own_profile``."""
    root = tmp_path_factory.mktemp("study")
    (root / "profiles").mkdir()
    (root / "profiles" / "tiny.yaml").write_text(TINY)
    profile = load_profile("tiny", root=root)
    data = profile.data
    draw_scenes(profile.raw, data.num_scenes, data.image_size)
    source = labelme_folder.LabelmeFolder(profile.raw, data.classes, data.ignore_labels, data.class_priority)
    build.build_voc(source, profile.voc, data, workers=1)
    return profile


@pytest.fixture(scope="session")
def trained(profile):
    """``MODEL`` with seed 0, not evaluated yet; trained just long enough to predict every class."""
    from rhseg_lib.training.fit import fit  # takes seconds, which the tests of other modules need not wait for

    return fit(
        MODEL,
        voc_folder=profile.voc,
        dataset_hash=voc_tree.read_dataset(profile.voc)["hash"],
        num_classes=len(profile.data.class_names),
        recipe=profile.recipe_of(MODEL),
        seed=0,
        folder=profile.run_folder(MODEL, 0),
    )
