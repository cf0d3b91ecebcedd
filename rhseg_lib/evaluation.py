"""Predict the test part; write and read the folder that says everything about a run."""

from __future__ import annotations

import json
import platform
import subprocess
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save
from torch import nn

from rhseg_lib import StudyError, voc
from rhseg_lib.files import write_atomically
from rhseg_lib.datamodule import load_tensors, normalize
from rhseg_lib.metrics import bootstrap_interval, confusion_matrices, scores
from rhseg_lib.models import build_model
from rhseg_lib.profile import Profile


class Run(NamedTuple):
    """A finished run, read back."""

    model: str
    seed: int
    metrics: dict
    matrices: np.ndarray  # (N, K, K) int64, in the order of ``names``
    names: tuple[str, ...]


@torch.inference_mode()
def predict(model: nn.Module, images: torch.Tensor, *, batch_size: int = 8) -> torch.Tensor:
    """Most probable class of every pixel: uint8 (N, 3, H, W) -> uint8 (N, H, W), on the model's device."""
    device = next(model.parameters()).device
    parts = [model(normalize(part.to(device))).argmax(1).to(torch.uint8) for part in images.split(batch_size)]
    return torch.cat(parts)


def finish_run(
    model: nn.Module, *, profile: Profile, model_name: str, seed: int, history: list[dict]
) -> dict:
    """Evaluate a trained model on the test part and write its run folder; ``metrics.json`` comes last.

    Returns
    -------
    dict
        The content of ``metrics.json``.
    """
    dataset = voc.read_dataset(profile.voc)
    folder = profile.run_folder(model_name, seed)
    names = voc.read_split(profile.voc, "test")
    images, masks = load_tensors(profile.voc, names)
    predictions = predict(model, images)
    num_classes = len(profile.data.class_names)
    matrices = confusion_matrices(masks, predictions.cpu(), num_classes).numpy()

    columns = [f"{i}{j}" for i in range(num_classes) for j in range(num_classes)]
    table = pd.DataFrame(
        matrices.reshape(len(names), -1), columns=columns, index=pd.Index(names, name="name")
    )
    write_atomically(folder / "per_image.parquet", table.to_parquet())
    weights = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    write_atomically(folder / "weights.safetensors", save(weights))
    (folder / "predictions").mkdir(exist_ok=True)
    for name, prediction in zip(names, predictions.cpu().numpy(), strict=True):
        voc.write_palette_png(folder / "predictions" / f"{name}.png", prediction)

    low, high = bootstrap_interval(matrices[None], samples=profile.bootstrap_samples)
    metrics = {
        "model": model_name,
        "seed": seed,
        **asdict(scores(matrices.sum(0))),
        "miou_interval": [low, high],
        "test_images": len(names),
        "class_names": list(profile.data.class_names),
        "final_loss": history[-1]["loss"],
        "train_seconds": sum(row["seconds"] for row in history),
        "profile": profile.name,
        "recipe": profile.recipe_of(model_name).model_dump(),
        "image_size": profile.data.image_size,
        "dataset_hash": dataset["hash"],
        **provenance(profile.root, next(model.parameters()).device),
    }
    write_atomically(folder / "metrics.json", json.dumps(metrics, indent=1).encode())
    (folder / "last.ckpt").unlink(missing_ok=True)
    return metrics


def provenance(root: Path, device: torch.device) -> dict[str, str]:
    """What made a result: device, versions, commit and the digest of the lock."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    git = ["git", "-C", root, "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, check=False, capture_output=True, text=True)
    lock = root / "requirements.lock"
    return {
        "device": name,
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": version("torch"),
        "lightning": version("lightning"),
        "segmentation_models_pytorch": version("segmentation-models-pytorch"),
        "commit": commit.stdout.strip() or "not in a git repository",
        "lock": sha256(lock.read_bytes()).hexdigest()[:12] if lock.exists() else "no lock",
    }


def read_run(profile: Profile, model: str, seed: int) -> Run:
    """Read a finished run and check that it was evaluated on the data set on disk.

    Raises
    ------
    StudyError
        The run is missing, unfinished, or of another data set.
    """
    folder = profile.run_folder(model, seed)
    path = folder / "metrics.json"
    again = f"make study PROFILE={profile.name}"
    if not path.exists():
        raise StudyError(f"no finished run of {model}, seed {seed}", where=folder, mend=again)
    metrics = json.loads(path.read_text(encoding="utf-8"))
    on_disk = voc.read_dataset(profile.voc)["hash"]
    if metrics["dataset_hash"] != on_disk:
        raise StudyError(
            f"the run was made with data set {metrics['dataset_hash'][:12]}, on disk is {on_disk[:12]}",
            where=path,
            mend=f"train it again: {again}",
        )
    table = pd.read_parquet(folder / "per_image.parquet")
    classes = len(metrics["class_names"])
    return Run(model, seed, metrics, table.to_numpy().reshape(-1, classes, classes), tuple(table.index))


def finished_runs(profile: Profile) -> list[Run]:
    """Every finished run of the profile's models and seeds, in the profile's order; at least one."""
    pairs = [(m, s) for m in profile.models for s in profile.seeds]
    done = [read_run(profile, m, s) for m, s in pairs if (profile.run_folder(m, s) / "metrics.json").exists()]
    if not done:
        mend = f"make study PROFILE={profile.name}"
        raise StudyError("no finished run", where=profile.reports / "runs", mend=mend)
    return done


def load_model(profile: Profile, model: str, seed: int) -> nn.Module:
    """A finished run's network with its weights, in evaluation mode on the CPU."""
    network = build_model(model, num_classes=len(profile.data.class_names))
    network.load_state_dict(load_file(profile.run_folder(model, seed) / "weights.safetensors"))
    return network.eval()
