"""Weights ready to segment: a file of this study in PyTorch, or its export in ONNX Runtime."""

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation.full_size_inference import Network
from rhseg_lib.evaluation.weights import Card, parse_card, read_weights

INPUT, OUTPUT, PRECISION = "images", "logits", "precision"  # names in an exported file
INSTALL = "pip install 'rhseg-lib[export]', or the pinned versions of requirements.lock"


class Runtime(NamedTuple):
    """A network ready to segment, and what its results depend on."""

    network: Network
    card: Card
    name: str  # "PyTorch 2.15.0, float32" or "ONNX Runtime 1.32.0, int8"
    device: str
    threads: int  # of the network on the CPU

    def threshold(self, given: float | None) -> float | None:
        """Images with lower confidence are flagged: the given one, else that of the weights, if they store one."""
        if given is not None and not 0 <= given <= 1:
            raise StudyError("the threshold is out of range", where=f"threshold={given}", fix="give one from 0 to 1")
        return self.card.abstain_below if given is None else given


class OnnxNetwork:
    """An exported network on the CPU: (B, S, S, 3) uint8 RGB -> (B, K, S, S) float32 logits."""

    def __init__(self, path: Path, threads: int) -> None:
        if not path.is_file():
            raise StudyError("the weights are not there", where=path, fix="correct the path, or export them first")
        try:
            import onnxruntime
        except ImportError as error:
            what = "ONNX Runtime, which runs exported weights, is not installed"
            raise StudyError(what, where=path, fix=INSTALL) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a waiting thread leaves its core
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises many types for a damaged file
            what = f"not an ONNX file that can be run ({type(error).__name__}: {error})"[:300]
            raise StudyError(what, where=path, fix="export the weights again") from error
        self.metadata: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        self.name = f"ONNX Runtime {onnxruntime.__version__}, {self.metadata.get(PRECISION)}"

    def __call__(self, squares: np.ndarray) -> np.ndarray:
        return self.session.run([OUTPUT], {INPUT: squares})[0]


def open_weights(path: Path, *, threads: int = 0) -> Runtime:
    """Open weights.safetensors in PyTorch, on a GPU if there is one, or an exported .onnx file in ONNX Runtime.

    `threads` is the number of CPU threads of the network; 0: OMP_NUM_THREADS, or all `usable_cores`. PyTorch has one
    number for the whole process: it is set. StudyError as `read_weights` raises it, and for an .onnx file that is no
    export of this study, or without ONNX Runtime.
    """
    threads = threads or int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or 0) or usable_cores()
    if path.suffix == ".onnx":
        network = OnnxNetwork(path, threads)
        return Runtime(network, parse_card(network.metadata, path), network.name, "cpu", threads)
    module, card = read_weights(path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(threads)
    return Runtime(module.to(device), card, f"PyTorch {torch.__version__}, float32", device, threads)


def usable_cores() -> int:
    """Cores that this process may use: those of its affinity, within the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no cgroup, or no quota: "max"
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    return cores
