"""Measurements on live models for the report: size, work, Equation 1, EMA's pooling, latency."""

from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from rhseg_lib.catalogue import SHORT
from rhseg_lib.models import build_model
from rhseg_lib.models.complexity import count_macs, count_parameters, latency_ms, model_mib, separable_ratio
from rhseg_lib.profile import Profile
from rhseg_lib.report.paper_tables import PAPER_ROWS


def complexity(models: dict[str, nn.Module], side: int) -> pd.DataFrame:
    """Parameters, MiB, GMAC and the value that the paper prints, one row per model."""
    rows = {
        name: {
            "parameters": count_parameters(model),
            "millions": count_parameters(model) / 1e6,
            "mib": model_mib(model),
            "paper “Params/M”": PAPER_ROWS[name].params if name in PAPER_ROWS else np.nan,
            "gmacs": count_macs(model, side, side) / 1e9,
        }
        for name, model in models.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def separable(layers: list[tuple[int, int, int]]) -> pd.DataFrame:
    """Equation 1 for layers (M, N, D_K): predicted ratio, and the one counted on a 32×32 map."""
    rows = [
        (m, n, k, float(Fraction(1, n) + Fraction(1, k * k)), float(separable_ratio(m, n, k, 32))) for m, n, k in layers
    ]
    return pd.DataFrame(rows, columns=["M", "N", "D_K", "predicted", "counted"])


@torch.inference_mode()
def ema_pooling(attention: Any, *, side: int) -> pd.DataFrame:
    """How much Equation 2's global means of EMA's two branches change between two different random inputs."""
    pooled: dict[str, list[torch.Tensor]] = {"norm": [], "conv3x3": []}
    hooks = [
        getattr(attention, name).register_forward_hook(lambda _, __, out, kept=kept: kept.append(out.mean((2, 3))))
        for name, kept in pooled.items()
    ]
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        shape = (1, attention.groups * attention.norm.num_channels, side, side)
        attention.attention(torch.randn(shape, generator=generator))
    for hook in hooks:
        hook.remove()
    change = [float((first - second).abs().max()) for first, second in pooled.values()]
    return pd.DataFrame({"branch": ["1×1, ends in GroupNorm", "3×3"], "change": change})


def latency(names: list[str], profile: Profile) -> pd.DataFrame:
    """Milliseconds for one image of the profile's size, measured now on the CPU: median and quartiles."""
    side, classes = profile.data.image_size, len(profile.data.class_names)
    rows = [latency_ms(build_model(name, num_classes=classes), side, side, repeats=9) for name in names]
    return pd.DataFrame(rows, index=pd.Index(names, name="model")).rename(columns={"median": "latency_ms"})


def stages_shown(frame: pd.DataFrame) -> pd.DataFrame:
    """`complexity.stages` for display: shapes as text, work in GMAC, shares in per cent."""
    return pd.DataFrame(
        {
            "stage": frame["stage"],
            "output (C × H × W)": [" × ".join(map(str, shape)) for shape in frame["output_shape"]],
            "parameters": frame["parameters"],
            "GMAC": frame["macs"] / 1e9,
            "share of the work, %": 100 * frame["share"],
        }
    )


def separable_shown(ratios: pd.DataFrame) -> pd.DataFrame:
    """`separable` for display: ratios in per cent, and the factor of work saved."""
    percent = {name: [f"{100 * value:.3f} %" for value in ratios[name]] for name in ("predicted", "counted")}
    return ratios.assign(**percent, **{"times less work": 1 / ratios["counted"]})


def speed_shown(measured: pd.DataFrame) -> pd.DataFrame:
    """A table of speeds for display: short model names, ratios in per cent."""
    shown = measured.reset_index()
    shown["model"] = [SHORT[model] for model in shown["model"]]
    if "share_of_peak" in shown:
        shown["share_of_peak"] = [f"{100 * share:.0f} %" for share in shown["share_of_peak"]]
    return shown.rename(columns=lambda name: "TFLOP/s" if name == "tflops" else name.replace("_", " "))


def realtime_shown(measured: pd.DataFrame) -> pd.DataFrame:
    """A model's rows of `realtime.side_by_side` for display."""
    changes = zip(measured["change"], measured["low"], measured["high"], strict=True)
    texts = {
        "image, threads": [f"{side}×{side}, {count}" for side, count in measured[["side", "threads"]].to_numpy()],
        "runtime": list(measured["way"]),
        "file, MB": [f"{size:.1f}" for size in measured["mb"]],
        "ms": [f"{time:.1f}" for time in measured["wall"]],
        "quartiles": [f"{low:.1f}–{high:.1f}" for low, high in measured[["lower", "upper"]].to_numpy()],
        "processor ms": [f"{time:.1f}" for time in measured["cpu"]],
        "times": list(measured["times_plain"]),
        "mIoU": list(measured["miou"]),
        "change": ["–" if np.isnan(low) else f"{by:+.2f} [{low:+.2f}, {high:+.2f}]" for by, low, high in changes],
    }
    return pd.DataFrame(texts).replace(" ", "\N{NO-BREAK SPACE}", regex=True)  # a row is a line
