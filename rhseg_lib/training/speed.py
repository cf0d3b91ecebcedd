"""Speed of training and prediction, option by option, relative to a plain PyTorch loop; all in one process."""

import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from rhseg_lib.catalogue import PROPOSED
from rhseg_lib.dataset import voc_tree
from rhseg_lib.dataset.batches import DecodedBatches, normalize
from rhseg_lib.evaluation.provenance import cpu_name
from rhseg_lib.models import build_model
from rhseg_lib.models.complexity import latency_ms, seconds_per_call
from rhseg_lib.profile import Profile, Recipe
from rhseg_lib.sources.images import IGNORE_INDEX
from rhseg_lib.training.fit import fit

PLAIN = "plain loop"
SWITCHES: dict[str, dict[str, Any]] = {  # each is added to those above it
    "+ data on the device": {"dataset_on_device": True},
    "+ channels_last": {"channels_last": True},
    "+ bf16": {"precision": "bf16"},
    "+ torch.compile": {"compile": "default"},
    "+ CUDA graphs": {"compile": "cuda_graphs"},
}
ON_CPU = ("+ data on the device", "+ channels_last")  # a CPU would emulate bf16 and compile for minutes
SMALL = (PROPOSED, "fcn_resnet50")  # the models measured on a CPU


def device() -> torch.device:
    """The device this machine trains on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """Name of the measured device; for a CPU, also the number of threads."""
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    return f"{cpu_name()}, {torch.get_num_threads()} thread(s)"


def steps() -> int:
    """Training steps per timing on this machine."""
    return 50 if device().type == "cuda" else 2


def measured_models(profile: Profile) -> list[str]:
    """All models of the profile on a GPU, two of them on a CPU."""
    return [m for m in profile.models if device().type == "cuda" or m in SMALL] or list(profile.models[:1])


def ladder(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """The plain loop's recipe, then with one more option at each step; only options useful on this machine."""
    off = {"dataset_on_device": False, "channels_last": False, "precision": "32", "compile": "off"}
    off |= {"dice_weight": 0.0, "recompute_batchnorm": False}
    same = {"optimizer": "sgd", "learning_rate": 1e-4, "min_learning_rate": 1e-4}  # as in `plain_rates`
    recipe = recipe.model_copy(update=off | same)
    yield PLAIN, recipe
    for name, change in SWITCHES.items():
        if device().type == "cuda" or name in ON_CPU:
            recipe = recipe.model_copy(update=change)
            yield name, recipe


def training_speed(profile: Profile, models: list[str], *, steps: int, repeats: int) -> pd.DataFrame:
    """Measure training on the study's images: `repeats` timings of `steps` steps each, after one warm-up timing.

    Indexed by model and step of the ladder: `batch`, `samples_per_second` (median), `lowest`, `highest`, `times_plain`,
    and on a GPU `peak_gb`, the most memory that PyTorch reserved (10^9 bytes).
    """
    rows = []
    for model in models:
        for name, recipe in ladder(profile.recipe_of(model)):
            torch._dynamo.reset()
            if device().type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            measure = plain_rates if name == PLAIN else study_rates
            rates = measure(model, recipe, profile, steps=steps, repeats=repeats)
            row = {
                "model": model,
                "step": name,
                "batch": recipe.batch_size,
                "samples_per_second": np.median(rates),
                "lowest": min(rates),
                "highest": max(rates),
            }
            if device().type == "cuda":
                row["peak_gb"] = torch.cuda.max_memory_reserved() / 1e9
            rows.append(row)
    table = pd.DataFrame(rows).set_index(["model", "step"])
    plain = table["samples_per_second"].xs(PLAIN, level="step")
    return table.assign(times_plain=table["samples_per_second"] / plain.reindex(table.index, level="model"))


def study_rates(model: str, recipe: Recipe, profile: Profile, *, steps: int, repeats: int) -> list[float]:
    """Samples per second of this study's training, one value per timing, from a short run in a temporary folder."""
    short = {"epochs": repeats + 1, "epoch_images": steps * recipe.batch_size, "warmup_epochs": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        task = fit(
            model,
            voc_folder=profile.voc,
            dataset_hash="",
            num_classes=len(profile.data.class_names),
            recipe=recipe.model_copy(update=short),
            seed=0,
            folder=Path(folder),
            checkpoint_seconds=float("inf"),
        )
    return [steps * recipe.batch_size / row["seconds"] for row in task.history[1:]]


def plain_rates(model: str, recipe: Recipe, profile: Profile, *, steps: int, repeats: int) -> list[float]:
    """Samples per second of a plain loop: a DataLoader that decodes, float32, the loss read at every step."""
    torch.backends.cudnn.benchmark = False  # PyTorch's default; this study's training sets True
    network = build_model(model, num_classes=len(profile.data.class_names)).to(device()).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    names, epoch_images = voc_tree.read_split(profile.voc, "train"), steps * recipe.batch_size * (repeats + 1)
    options = {"batch_size": recipe.batch_size, "epoch_images": epoch_images, "seed": 0}
    batches = iter(DecodedBatches(profile.voc, names, device=device(), **options))
    rates = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        for images, masks in islice(batches, steps):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(normalize(images)), masks.long(), ignore_index=IGNORE_INDEX)
            loss.backward()
            optimizer.step()
            loss.item()
        rates.append(steps * recipe.batch_size / (time.perf_counter() - start))
    return rates[1:]


def inference_speed(profile: Profile, models: list[str], *, repeats: int) -> pd.DataFrame:
    """Latency of one image and throughput of a batch of sixteen, plain and with the options.

    Indexed by model and way: `latency_ms` and its quartiles, `pictures_per_second`.
    """
    side, rows = profile.data.image_size, []
    for model in models:
        network = build_model(model, num_classes=len(profile.data.class_names)).to(device()).eval()
        for name, way in inference_ways(network).items():
            single = latency_ms(way, side, side, repeats=repeats, device=str(device()))
            many = latency_ms(way, side, side, batch=16, repeats=max(repeats // 4, 2), device=str(device()))
            speeds = {**single._asdict(), "pictures_per_second": 16_000 / many.median}
            rows.append({"model": model, "way": name, **speeds})
    return pd.DataFrame(rows).set_index(["model", "way"]).rename(columns={"median": "latency_ms"})


class Fast(nn.Module):
    """A network for prediction, with the options that are useful on its device."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).to(memory_format=torch.channels_last)
        self.compiled: Callable | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> logits (B, K, H, W)."""
        images = images.contiguous(memory_format=torch.channels_last)
        if not images.is_cuda:
            return self.network(images)
        if self.compiled is None:  # only at the first call: `latency_ms` copies the network before it
            self.compiled = torch.compile(self.network, mode="reduce-overhead")
        with torch.autocast("cuda", torch.bfloat16):
            return self.compiled(images)


def inference_ways(network: nn.Module) -> dict[str, nn.Module]:
    """The plain network, and the network with the options."""
    options = "channels_last, bf16, CUDA graphs" if device().type == "cuda" else "channels_last"
    return {"plain": network, options: Fast(network)}


def matrix_rate() -> float:
    """Floating-point operations per second of a large matrix product: bf16 on a GPU, float32 on a CPU."""
    side, dtype = (8192, torch.bfloat16) if device().type == "cuda" else (2048, torch.float32)
    one = torch.randn(side, side, device=device(), dtype=dtype)
    return 2 * side**3 / min(seconds_per_call(lambda: one @ one, repeats=10, device=str(device())))


def with_work(speed: pd.DataFrame, gmacs: pd.Series, *, image_size: int, peak: float) -> pd.DataFrame:
    """Add operations per second, `tflops`, and their `share_of_peak` to a table of `training_speed`.

    A backward pass counts as two forward passes. `gmacs` of one image of 512x512, by model, are scaled with the number
    of pixels; `peak` is the `matrix_rate` of this device.
    """
    per_sample = 6e9 * gmacs.reindex(speed.index, level="model") * (image_size / 512) ** 2
    rate = speed["samples_per_second"] * per_sample
    return speed.assign(tflops=rate / 1e12, share_of_peak=rate / peak)
