"""Cost of a network: parameters, multiply-accumulates, latency."""

import copy
import time
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rhseg_lib.models.blocks import SeparableConv2d

WARM_UP_CALLS = 5


def count_parameters(model: nn.Module) -> int:
    """Number of learned parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def model_mib(model: nn.Module) -> float:
    """Size of the parameters as float32, in MiB (2^20 bytes): "Params/M" in the paper's tables."""
    return count_parameters(model) * 4 / 2**20


def count_macs(model: nn.Module, height: int, width: int) -> int:
    """Multiply-accumulates of one image; `macs_by_module` describes what is counted."""
    return macs_by_module(model, height, width)[""]


def macs_by_module(model: nn.Module, height: int, width: int) -> dict[str, int]:
    """Multiply-accumulates of one image, for the model and each of its modules.

    Convolutions, linear layers and matrix products are counted exactly; biases, norms, activations, pooling and
    resizing are not. The pass runs on tensors without storage; the model is left unchanged. The keys are module paths
    as in `model.named_modules()` (`""` is the model itself); modules without any are absent.
    """
    return _dry_run(model, (1, 3, height, width))[0]


def stages(model: nn.Module, height: int, width: int) -> pd.DataFrame:
    """A row per stage of a network, in data-flow order.

    Columns: `stage`, `output_shape` (C, H, W; the deepest map of an encoder), `parameters`, `macs` of one image,
    `share` of the model's macs (0 to 1).
    """
    macs, shapes = _dry_run(model, (1, 3, height, width))
    rows = [
        (name, shapes[name], count_parameters(module), macs.get(name, 0), macs.get(name, 0) / macs[""])
        for name, module in model.named_children()
        if not isinstance(module, nn.Identity)
    ]
    return pd.DataFrame(rows, columns=["stage", "output_shape", "parameters", "macs", "share"])


def separable_ratio(in_channels: int, out_channels: int, kernel_size: int, side: int) -> Fraction:
    """Cost of a separable relative to a standard convolution (Equation 1), counted on real layers.

    The arguments are M, N, D_K and D_F of Equation 1. `side` is that of the square map in pixels; the ratio should not
    depend on it.
    """
    shape = (1, in_channels, side, side)
    separable = SeparableConv2d(in_channels, out_channels, kernel_size)
    standard = nn.Conv2d(in_channels, out_channels, kernel_size, padding="same")
    return Fraction(_dry_run(separable, shape)[0][""], _dry_run(standard, shape)[0][""])


class Latency(NamedTuple):
    """Milliseconds per forward pass: median and quartiles."""

    median: float
    lower_quartile: float
    upper_quartile: float


def latency_ms(
    model: nn.Module, height: int, width: int, *, batch: int = 1, repeats: int = 30, device: str = "cpu"
) -> Latency:
    """Time the forward pass of images `(batch, 3, height, width)` in evaluation mode, in float32, after a warm-up.

    A copy of the model is timed, on a device such as "cpu" or "cuda"; the model is left unchanged.
    """
    model = copy.deepcopy(model).to(device).eval()
    images = torch.rand((batch, 3, height, width), generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode():
        times = seconds_per_call(lambda: model(images), repeats=repeats, device=device)
    return Latency(*np.percentile(1000 * np.array(times), [50, 25, 75]).tolist())


def seconds_per_call(call: Callable[[], object], *, repeats: int, device: str) -> list[float]:
    """Seconds of each call, until its result is ready on the device; warm-up calls are not counted."""
    times = []
    for _ in range(WARM_UP_CALLS + repeats):
        start = time.perf_counter()
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return times[WARM_UP_CALLS:]


def _dry_run(model: nn.Module, shape: tuple[int, ...]) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Multiply-accumulates by module path, and output shapes (without the batch) of the model's direct children."""
    model = copy.deepcopy(model).to("meta").eval()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_children():
        module.register_forward_hook(
            lambda _, inputs, output, name=name: shapes.update({name: tuple(_deepest(output).shape[1:])})
        )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(shape, device="meta"))

    # The counter prefixes each path with the model's class, and counts a multiply-accumulate as two operations.
    macs = {
        path.partition(".")[2]: sum(operations.values()) // 2
        for path, operations in counter.get_flop_counts().items()
        if path != "Global"
    }
    return macs, shapes


def _deepest(output: Tensor | list[Tensor] | dict[str, Tensor]) -> Tensor:
    """The last, coarsest feature map of an encoder; the only map of any other module."""
    if isinstance(output, dict):
        output = list(output.values())
    return output if isinstance(output, Tensor) else output[-1]
