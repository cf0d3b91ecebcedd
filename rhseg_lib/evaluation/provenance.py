"""Origin of a result."""

import platform
import subprocess
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from shutil import which

import torch


def provenance(root: Path, device: torch.device) -> dict[str, str]:
    """Device, threads, versions of Python and libraries, commit, digest of ``requirements.lock``."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    git, commit = which("git"), ""
    if git:  # a container may have none
        command = [git, "-C", str(root), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()
    lock = root / "requirements.lock"
    return {
        "device": name,
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": version("torch"),
        "lightning": version("lightning"),
        "segmentation_models_pytorch": version("segmentation-models-pytorch"),
        "commit": commit or "not in a git repository",
        "lock": sha256(lock.read_bytes()).hexdigest()[:12] if lock.exists() else "no lock",
    }


def cpu_name() -> str:
    """The processor's name on Linux, elsewhere its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{named[0]}, {len(named)} cores" if named else f"{platform.machine()} CPU"
