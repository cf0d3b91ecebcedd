"""Every command printed in the README runs; what takes long or needs a machine of its own runs smaller."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import PATH, ROOT

from rhseg_lib.predict.segment import DEFAULT_WEIGHTS

CI_MODEL = "deeplabv3plus_mobilenetv2"
# As printed -> as run here, in this order: the ci profile for the long ones. None: run by the tests of another file.
COMMANDS: dict[str, str | None] = {
    "make study": "make study PROFILE=ci",
    "make report PROFILE=reduced": "make report PROFILE=ci",
    "papermill notebooks/03_train.ipynb out.ipynb -p model unet_vgg16 -p profile quick": (
        "papermill notebooks/03_train.ipynb out.ipynb -p model unet_vgg16 -p profile ci"
    ),
    "python -m rhseg_lib.predict data/sample --output reports/predictions/sample": (
        "python -m rhseg_lib.predict data/sample --output reports/predictions/sample"
    ),
    (
        "python -m rhseg_lib.predict FOLDER_OR_VIDEO "
        "--weights reports/own/runs/<model>/seed0/weights.safetensors --output FOLDER"
    ): (
        "python -m rhseg_lib.predict data/sample "
        f"--weights reports/ci/runs/{CI_MODEL}/seed0/weights.safetensors --output predicted"
    ),
    "python -m rhseg_lib.evaluate reports/own/runs/<model>/seed0/weights.safetensors ANNOTATED_FOLDER": (
        f"python -m rhseg_lib.evaluate reports/ci/runs/{CI_MODEL}/seed0/weights.safetensors data/sample"
    ),
    "python -m rhseg_lib.calibrate WEIGHTS FOLDER_WITH_DIPS --tube-diameter-mm 1100": (
        f"cp {DEFAULT_WEIGHTS} own.safetensors && "
        "python -m rhseg_lib.calibrate own.safetensors data/sample --tube-diameter-mm 1100"
    ),
    (
        "python -m rhseg_lib.predict FOLDER_OR_VIDEO --weights WEIGHTS --output FOLDER "
        "--tube-diameter-mm 1100 --elevation 10"
    ): (
        "python -m rhseg_lib.predict data/sample --weights own.safetensors --output measured "
        "--tube-diameter-mm 1100 --elevation 10"
    ),
    "python -m rhseg_lib.predict NEW_IMAGES --weights WEIGHTS --output FOLDER --labelme data/photographs": (
        "python -m rhseg_lib.predict data/sample --output reports/predictions/sample --labelme data/photographs"
    ),
    "make study PROFILE=own": "make study PROFILE=ci",
    "python -m rhseg_lib.export WEIGHTS --output model.onnx --int8 --calibrate data/photographs": (
        f"python -m rhseg_lib.export {DEFAULT_WEIGHTS} --output model.onnx --int8 --calibrate data/sample"
    ),
    "python -m rhseg_lib.predict 0 --weights model.onnx --live": None,  # predict/test_live.py
    "snakemake --profile profiles/slurm --config profile=paper": None,  # test_slurm.py
    (
        "torchrun --nnodes 2 --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint HOST:29500 "
        "-m rhseg_lib.training --profile paper --model unet_vgg16 --seed 0"
    ): (
        "torchrun --nnodes 1 --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint localhost:29500 "
        f"-m rhseg_lib.training --profile ci --model {CI_MODEL} --seed 7"
    ),
}


def printed() -> list[str]:
    """The commands in the README's blocks, without comments."""
    blocks = re.findall(r"```\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    starts = ("make ", "python ", "papermill ", "snakemake ", "torchrun ")
    return [re.sub(r"\s+", " ", line) for line in lines if line.startswith(starts)]


def test_the_table_above_has_every_command_of_the_readme() -> None:
    assert printed() == list(COMMANDS)


@pytest.fixture(scope="module")
def tree(finished_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished study, which was made by the first of the commands."""
    return shutil.copytree(finished_study, tmp_path_factory.mktemp("readme") / "tree")


@pytest.mark.parametrize("command", [run for run in COMMANDS.values() if run])
def test_a_command_runs(tree: Path, command: str) -> None:
    environment = {**os.environ, "PATH": PATH, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, shell=True, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
