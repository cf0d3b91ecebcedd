"""Speed and accuracy of trained weights in each runtime: PyTorch, ONNX Runtime in float32 and in int8.

Timings are interleaved: in every round each way is called once, so that load from elsewhere falls on all of them.
Processor time is given beside wall time, as it is more reliable on a machine with other load.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from rhseg_lib.catalogue import FAST, LITE, PROPOSED
from rhseg_lib.dataset import voc_tree
from rhseg_lib.errors import StudyError, show
from rhseg_lib.evaluation import statistics
from rhseg_lib.evaluation.full_size_inference import network_logits
from rhseg_lib.evaluation.inference import confusions
from rhseg_lib.evaluation.metrics import scores
from rhseg_lib.evaluation.runs import Run, has_weights, parts
from rhseg_lib.export import export
from rhseg_lib.predict.runtime import open_weights, usable_cores
from rhseg_lib.predict.segment import predict_source
from rhseg_lib.profile import Profile

PLAIN, FLOAT32, INT8 = "PyTorch", "ONNX Runtime float32", "ONNX Runtime int8"
WARM_UP = 2  # rounds that are not counted
LARGE = 512  # pixels: the paper's image size, at which every model is timed besides its own


def measured_runs(profile: Profile, runs: list[Run]) -> list[Run]:
    """A run with weights of the proposed model and of our lighter ones; of another model if none of them has any."""
    here = [run for run in runs if has_weights(profile, run)]
    first = {run.model: run for run in reversed(here)}
    return [first[model] for model in (PROPOSED, LITE, FAST) if model in first] or here[:1]


def side_by_side(profile: Profile, run: Run, *, rounds: int = 9) -> pd.DataFrame:
    """Every runtime of a trained model on this CPU, with accuracy where it is known: a row per way, size and threads.

    The columns are model, way, mb (size of the file, 10^6 bytes), those of `latency`, and those of `accuracy` at the
    size that the model was trained at; at another, mIoU is not known: NaN. Files and ranges of int8 come from training
    images; mIoU is that of the test set or, if there is one, the holdout.
    """
    side = profile.data.image_size
    images, masks = voc_tree.load_arrays(profile.voc, voc_tree.read_split(profile.voc, parts(profile)[-1]))
    with tempfile.TemporaryDirectory() as folder:
        files = exported(profile, run, Path(folder))
        known = accuracy(files, images, masks).assign(side=side)
        sizes = pd.Series({way: path.stat().st_size / 1e6 for way, path in files.items()}, name="mb")
        tables = [
            latency(files, side=size, threads=threads, rounds=rounds)
            for size in sorted({side, LARGE})
            for threads in range(1, min(2, usable_cores()) + 1)
        ]
    table = pd.concat(tables).join(sizes).reset_index()
    return table.merge(known.reset_index(), how="left", on=["way", "side"]).assign(model=run.model)


def training_images(profile: Profile, folder: Path) -> Path:
    """Copy the training originals into a folder: to calibrate int8, test set and holdout must not be used."""
    folder.mkdir()
    copies = voc_tree.read_dataset(profile.voc)["copy_of"]
    for name in voc_tree.read_split(profile.voc, "train"):
        if name not in copies:
            path = voc_tree.image_file(profile.voc, name)
            shutil.copyfile(path, folder / path.name)
    return folder


class Timing(NamedTuple):
    """Milliseconds of one call."""

    wall: float  # median
    lower: float  # quartiles
    upper: float
    cpu: float  # median of the processor time of all threads


def exported(profile: Profile, run: Run, folder: Path) -> dict[str, Path]:
    """The files of each way: the weights of a run, and their exports, written to an empty `folder`.

    An export that `export` refuses is left out, and why is shown.
    """
    weights = profile.run_folder(run.model, run.seed) / "weights.safetensors"
    calibrate, files = training_images(profile, folder / "images"), {PLAIN: weights}
    for way, path in {FLOAT32: folder / "float32.onnx", INT8: folder / "int8.onnx"}.items():
        try:
            export(weights, path, int8=way == INT8, folder=calibrate, float32=files.get(FLOAT32))
            files[way] = path
        except StudyError as error:
            show(f"{way} is left out: {error}")
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
    networks = {way: each.cpu() if isinstance(each, nn.Module) else each for way, each in networks.items()}
    calls: dict[str, Callable[[], object]] = {
        way: partial(network_logits, network, squares) for way, network in networks.items()
    }
    found = interleaved(calls, rounds=rounds)
    table = pd.DataFrame(found.values(), index=pd.Index(found, name="way"))
    stated = table.assign(side=side, threads=threads, batch=batch)
    return stated.assign(
        images_per_second=1000 * batch / table["wall"], times_plain=table["wall"].iloc[0] / table["wall"]
    )


def accuracy(files: dict[str, Path], images: np.ndarray, masks: np.ndarray) -> pd.DataFrame:
    """Score each way on images (N, S, S, 3) uint8 with masks (N, S, S), at the size that the model was trained at.

    Indexed by `way`: `images`, `miou`, and `change` from the first way with the ends of its 95 % interval, `low` and
    `high`, all in points; NaN for the first way, and where there are too few images for an interval.
    """
    rows, first = list[dict](), None
    for way, path in files.items():
        runtime = open_weights(path)
        batches = (images[start : start + 8] for start in range(0, len(images), 8))
        predicted = np.concatenate([network_logits(runtime.network, batch).argmax(1) for batch in batches])
        matrices = confusions(torch.from_numpy(masks), torch.from_numpy(predicted), len(runtime.card.class_names))
        first = matrices if first is None else first
        change = statistics.difference(matrices[None], first[None], these_weights=True)
        low, high = change.interval if rows else (np.nan, np.nan)
        row = {"way": way, "images": len(matrices), "miou": 100 * scores(matrices.sum(0)).miou}
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
