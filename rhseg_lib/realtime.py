"""Speed and accuracy of trained weights in each runtime: PyTorch, ONNX Runtime in float32 and in int8.

Timings are interleaved: in every round each way is called once, so that load from elsewhere falls on all of them.
Processor time is given beside wall time, as it is more reliable on a machine with other load.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from rhseg_lib.evaluate import score
from rhseg_lib.evaluation import statistics
from rhseg_lib.evaluation.masks import network_logits
from rhseg_lib.evaluation.metrics import scores
from rhseg_lib.export import export
from rhseg_lib.predict.runtime import open_weights
from rhseg_lib.predict.segment import predict_source

PLAIN, FLOAT32, INT8 = "PyTorch", "ONNX Runtime float32", "ONNX Runtime int8"
WARM_UP = 2  # rounds that are not counted


class Timing(NamedTuple):
    """Milliseconds of one call."""

    wall: float  # median
    lower: float  # quartiles
    upper: float
    cpu: float  # median of the processor time of all threads


def exported(weights: Path, folder: Path, *, calibrate: Path) -> dict[str, Path]:
    """The files of each way: the weights, and their exports, written to `folder`; see `export`."""
    files = {PLAIN: weights, FLOAT32: folder / "float32.onnx", INT8: folder / "int8.onnx"}
    for way in (FLOAT32, INT8):
        export(weights, files[way], int8=way == INT8, folder=calibrate)
    return files


def interleaved(calls: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, Timing]:
    """Time each call once per round, in turn."""
    wall, cpu = ({name: list[float]() for name in calls} for _ in range(2))
    for number in range(WARM_UP + rounds):
        for name, call in calls.items():
            start, used = time.perf_counter(), time.process_time()
            call()
            if number >= WARM_UP:
                wall[name].append(1000 * (time.perf_counter() - start))
                cpu[name].append(1000 * (time.process_time() - used))
    return {name: _timing(wall[name], cpu[name]) for name in calls}


def _timing(wall: list[float], cpu: list[float]) -> Timing:
    median, lower, upper = np.percentile(wall, [50, 25, 75]).tolist()
    return Timing(median, lower, upper, float(np.median(cpu)))


def latency(files: dict[str, Path], *, side: int, threads: int, rounds: int, batch: int = 1) -> pd.DataFrame:
    """Time the network on images of noise, (batch, side, side, 3), on the CPU: a row per way.

    Indexed by `way`: `side`, `threads`, `batch`, the columns of `Timing`, `images_per_second`, and `times_plain`, how
    many times as fast as the first way.
    """
    squares = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    networks = {way: open_weights(path, threads=threads).network for way, path in files.items()}
    calls: dict[str, Callable[[], object]] = {
        way: partial(network_logits, network, squares) for way, network in networks.items()
    }
    found = interleaved(calls, rounds=rounds)
    table = pd.DataFrame(found.values(), index=pd.Index(found, name="way"))
    stated = table.assign(side=side, threads=threads, batch=batch)
    return stated.assign(
        images_per_second=1000 * batch / table["wall"], times_plain=table["wall"].iloc[0] / table["wall"]
    )


def accuracy(files: dict[str, Path], folder: Path, *, most: int) -> pd.DataFrame:
    """Score each way on at most so many annotated images, at the size that the weights were trained at.

    Indexed by `way`: `size`, `images`, `miou`, and `change` from the first way with the ends of its 95 % interval,
    `low` and `high`, all in points; NaN for the first way, and where there are too few images for an interval.
    """
    rows, first = list[dict](), None
    for way, path in files.items():
        runtime = open_weights(path)
        _, matrices = score(runtime.network, runtime.card, folder, most=most)
        row = {"way": way, "size": runtime.card.image_size, "images": len(matrices)}
        row["miou"] = 100 * scores(matrices.sum(0)).miou
        first = matrices if first is None else first
        change = statistics.difference(matrices[None], first[None], these_weights=True)
        low, high = change.interval if rows else (np.nan, np.nan)
        rows.append({**row, "change": 100 * change.value, "low": 100 * low, "high": 100 * high})
    return pd.DataFrame(rows).set_index("way")


def video_speed(video: Path, weights: Path, *, write: tuple[str, ...]) -> dict[str, float]:
    """Segment a video from end to end, files included: `frames`, `wall` and `cpu` in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        start, used = time.perf_counter(), time.process_time()
        result = predict_source(video, weights=weights, output=Path(folder) / "out", write=write)
        return {
            "frames": len(result.table),
            "wall": time.perf_counter() - start,
            "cpu": time.process_time() - used,
        }
