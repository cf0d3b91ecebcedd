"""Cost of a network: parameters, bytes, multiply-accumulates, milliseconds."""

import copy
import time
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rhseg_lib.models.blocks import SeparableConv2d

WARM_UP_PASSES = 5


def count_parameters(model: nn.Module) -> int:
    """Number of learned parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def model_mib(model: nn.Module) -> float:
    """Size of the parameters as float32, in MiB (2^20 bytes): "Params/M" in the paper's tables."""
    return count_parameters(model) * 4 / 2**20


def count_macs(model: nn.Module, height: int, width: int) -> int:
    """Multiply-accumulates of one forward pass of one image; `macs_by_module` lists what is counted."""
    return macs_by_module(model, height, width)[""]


def macs_by_module(model: nn.Module, height: int, width: int) -> dict[str, int]:
    """Multiply-accumulates of one image, for the model and each of its modules.

    Convolutions, linear layers and matrix products are counted exactly; biases, norms, activations, pooling and
    resizing are not. Nothing is computed: the pass runs on tensors without storage.

    Parameters
    ----------
    model : nn.Module
        Takes `(1, 3, height, width)`; left unchanged.
    height, width : int
        Input size in pixels.

    Returns
    -------
    dict of str to int
        Multiply-accumulates by module path, as in `model.named_modules()` (`""` is the model itself); modules without
        any are absent.
    """
    return _dry_run(model, (1, 3, height, width))[0]


def stages(model: nn.Module, height: int, width: int) -> pd.DataFrame:
    """List the stages of a network in data-flow order.

    Returns
    -------
    DataFrame
        One row per stage: `stage`, `output_shape` (C, H, W; the deepest map of an encoder), `parameters`, `macs` of
        one image, `share` of the model's macs (0 to 1).
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

    Parameters
    ----------
    in_channels, out_channels, kernel_size : int
        M, N and D_K of Equation 1.
    side : int
        D_F of Equation 1, the side of the square map in pixels; the ratio should not depend on it.
    """
    shape = (1, in_channels, side, side)
    separable = SeparableConv2d(in_channels, out_channels, kernel_size)
    standard = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    return Fraction(_dry_run(separable, shape)[0][""], _dry_run(standard, shape)[0][""])


class Latency(NamedTuple):
    """Milliseconds per forward pass: median and quartiles."""

    median: float
    lower_quartile: float
    upper_quartile: float


def latency_ms(
    model: nn.Module, height: int, width: int, *, batch: int = 1, repeats: int = 30, device: str = "cpu"
) -> Latency:
    """Time the forward pass in evaluation mode, in float32, after a warm-up.

    Parameters
    ----------
    model : nn.Module
        Left unchanged on its device; a copy is timed.
    height, width, batch : int
        Shape of the input, `(batch, 3, height, width)`.
    repeats : int
        Timed passes.
    device : str
        Such as `cpu` or `cuda`; on the latter each pass is timed until its result is ready.
    """
    model = copy.deepcopy(model).to(device).eval()
    images = torch.rand((batch, 3, height, width), generator=torch.Generator().manual_seed(0)).to(device)
    times = []
    with torch.inference_mode():
        for _ in range(WARM_UP_PASSES + repeats):
            start = time.perf_counter()
            model(images)
            if images.is_cuda:
                torch.cuda.synchronize(images.device)
            times.append(1000 * (time.perf_counter() - start))
    median, lower, upper = np.percentile(times[WARM_UP_PASSES:], [50, 25, 75]).tolist()
    return Latency(median, lower, upper)


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
