"""The ci study through a real Slurm of one node, started here: jobs submitted, cancelled, resumed, failing."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PATH, ROOT, call, copy_tree

CONF = Path("/etc/slurm/slurm.conf")  # its place does not reach jobs through the environment
OURS = "# written by a test: one node on loopback\n"
DAEMONS = ("munged", "slurmctld", "slurmd")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One node, no accounting; or the cluster that this machine belongs to."""
    if shutil.which("sinfo") and call("sinfo", cwd=ROOT).returncode == 0:
        yield
        return
    if not all(map(shutil.which, DAEMONS)) or os.geteuid() != 0:
        pytest.skip("needs Slurm: root, and Debian's packages slurm-wlm and munge")
    if CONF.exists() and not CONF.read_text().startswith(OURS):
        pytest.skip(f"{CONF} configures a cluster that does not answer")
    state, host = tmp_path_factory.mktemp("slurm"), socket.gethostname()
    settings = {
        "ClusterName": "one",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmUser": "root",
        "AuthType": "auth/munge",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SelectType": "select/cons_tres",
        "ReturnToService": 2,
        "StateSaveLocation": state / "controller",
        "SlurmdSpoolDir": state / "node",
        "SlurmctldPidFile": state / "slurmctld.pid",
        "SlurmdPidFile": state / "slurmd.pid",
        "NodeName": f"{host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory=4000",
        "PartitionName": "main Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
    }
    CONF.parent.mkdir(exist_ok=True)
    CONF.write_text(OURS + "".join(f"{name}={value}\n" for name, value in settings.items()))
    for folder in ("controller", "node"):
        (state / folder).mkdir()
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    daemons = [subprocess.Popen(["munged", "--foreground"], user="munge", group="munge", extra_groups=[])]
    daemons += [subprocess.Popen([name, "-D"], stderr=subprocess.DEVNULL) for name in DAEMONS[1:]]
    try:
        for _ in range(60):
            if "idle" in call("sinfo", "--noheader", cwd=ROOT).stdout:
                break
            time.sleep(1)
        else:
            pytest.fail("the node did not come up")
        yield
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()
        CONF.unlink()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the study; its ci profile has one model, trained long enough to be cancelled."""
    copy = copy_tree(tmp_path_factory.mktemp("slurm_study") / "tree")
    profile = copy / "profiles/ci.yaml"
    text = profile.read_text().replace("epochs: 2", "epochs: 20").split("models:")[0]
    profile.write_text(text + "models: [deeplabv3plus_mobilenetv2_ds_ema]\n")
    return copy


def command(*more: str) -> list[str]:
    """What the README prints, for a node without GPU, 16 GB and accounting."""
    adapted = ["--set-resources", "train:slurm_extra=''", "speed:slurm_extra=''"]
    adapted += ["--default-resources", "mem_mb=3500", "runtime=60", "--slurm-status-command", "squeue"]
    adapted += ["--slurm-init-seconds-before-status-checks", "3"]
    return ["snakemake", "--profile", "profiles/slurm", "--config", "profile=ci", *adapted, *more]


def test_a_cancelled_job_is_reported_and_resumed(slurm: None, tree: Path) -> None:
    with subprocess.Popen(
        command(), cwd=tree, env={**os.environ, "PATH": PATH}, stderr=subprocess.PIPE, text=True
    ) as first:
        log = ""
        for line in first.stderr:
            log += line
            if line.startswith("rule train"):
                break
        listed = ("squeue", "--noheader", "--states=R", "--format=%i %k")  # number and comment, which names the rule
        while not (training := re.search(r"(\d+) rule_train", call(*listed, cwd=tree).stdout)):
            time.sleep(0.5)
        assert call("scancel", training[1], cwd=tree).returncode == 0
        log += first.stderr.read()
    assert first.returncode != 0
    assert "CANCELLED" in log and "rule_train" in log, log[-3000:]
    assert not list(tree.glob("reports/ci/runs/*/seed0/metrics.json"))
    second = call(*command(), cwd=tree)
    assert second.returncode == 0, second.stderr[-3000:]
    assert "rule dataset" not in second.stderr  # it had ended
    assert (tree / "reports/ci/index.html").exists()


def test_a_failing_job_is_reported_with_its_log(slurm: None, tree: Path) -> None:
    path = tree / "notebooks/06_segmentations.ipynb"
    notebook = json.loads(path.read_text())
    notebook["cells"][-1]["source"] = ["1 / 0"]
    path.write_text(json.dumps(notebook))
    ran = call(*command("--until", "segmentations"), cwd=tree)
    assert ran.returncode != 0
    logs = list(tree.glob(".snakemake/slurm_logs/rule_segmentations/*.log"))
    assert logs and str(logs[0]) in ran.stderr
    assert "ZeroDivisionError" in logs[0].read_text()
