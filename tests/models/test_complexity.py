"""Costs: against the paper's tables, Equation 1 and hand calculation."""

from fractions import Fraction
from functools import cache

import pytest
import torch
from torch import nn

from rhseg_lib.models import MODELS, build_model
from rhseg_lib.models.complexity import (
    count_macs,
    count_parameters,
    latency_ms,
    macs_by_module,
    model_mib,
    separable_ratio,
    stages,
)
from rhseg_lib.models.ema import EMA


@cache
def weightless(name: str) -> nn.Module:
    with torch.device("meta"):
        return build_model(name)


@pytest.mark.parametrize(
    ("name", "published", "agrees"),
    [
        ("deeplabv3plus_xception", 208.70, True),
        ("deeplabv3plus_mobilenetv2", 22.18, True),
        ("deeplabv3plus_mobilenetv2_ema", 22.24, True),
        ("unet_vgg16", 94.95, True),
        ("fcn_resnet50", 25.86, False),
    ],
)
def test_published_parameters_are_mebibytes_except_for_fcn(name: str, published: float, agrees: bool) -> None:
    model = weightless(name)
    assert (round(model_mib(model), 2) == published) is agrees
    assert round(count_parameters(model) / 1e6, 2) != published


@pytest.mark.parametrize(("name", "mib"), [("fcn_resnet50", 125.69), ("deeplabv3plus_mobilenetv2_ds_ema", 14.77)])
def test_mebibytes_that_the_paper_does_not_state(name: str, mib: float) -> None:
    assert round(model_mib(weightless(name)), 2) == mib


@pytest.mark.parametrize(
    ("layer", "channels", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), 3, 10 * 12 * 8 * 3 * 9),
        (nn.Conv2d(3, 8, 3, stride=2), 3, 4 * 5 * 8 * 3 * 9),
        (nn.Conv2d(6, 6, 5, padding=4, dilation=2, groups=6), 6, 10 * 12 * 6 * 25),
        (nn.Conv2d(6, 4, 1, groups=2), 6, 10 * 12 * 4 * 3),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 7)), 3, 21),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 1)), 3, 10 * 12 * 3),
        # 1x1 on 10 + 12 row and column means, 3x3 on the map, two products of 2 weights with it; in 2 groups
        (EMA(4, groups=2), 4, 2 * (22 * 4 + 120 * 9 * 4 + 2 * 120 * 2)),
    ],
)
def test_macs_by_hand(layer: nn.Module, channels: int, macs: int) -> None:
    stem = nn.Conv2d(3, channels, 1)  # the counter's input has three channels
    assert count_macs(nn.Sequential(stem, layer), 10, 12) == macs + 10 * 12 * 3 * channels


@pytest.mark.parametrize(("channels", "filters", "kernel", "side"), [(320, 256, 3, 32), (5, 7, 5, 9), (1, 1, 1, 4)])
def test_separable_cost_is_equation_1(channels: int, filters: int, kernel: int, side: int) -> None:
    assert separable_ratio(channels, filters, kernel, side) == Fraction(1, filters) + Fraction(1, kernel**2)


@pytest.mark.parametrize("name", MODELS)
def test_stages_add_up(name: str) -> None:
    model = weightless(name)
    table = stages(model, 96, 64)
    assert table["stage"].tolist()[0] == "encoder" and table["stage"].tolist()[-2:] == [
        "decoder",
        "classifier",
    ]
    assert table["macs"].sum() == count_macs(model, 96, 64)
    assert table["parameters"].sum() == count_parameters(model)
    assert table["share"].sum() == pytest.approx(1)


def test_stage_shapes_and_where_the_compute_is() -> None:
    model = weightless("deeplabv3plus_mobilenetv2_ema")
    assert dict(stages(model, 512, 512)[["stage", "output_shape"]].itertuples(index=False)) == {
        "encoder": (320, 32, 32),
        "attention": (320, 32, 32),
        "aspp": (256, 32, 32),
        "decoder": (256, 128, 128),
        "classifier": (3, 128, 128),
    }
    macs = macs_by_module(model, 512, 512)
    assert macs["decoder.fuse"] == 128**2 * 9 * (304 + 256) * 256
    assert sum(macs[f"aspp.dilated.{i}"] for i in range(3)) == 3 * 32**2 * 9 * 320 * 256


@pytest.mark.parametrize(
    ("name", "giga"),
    [
        ("deeplabv3plus_mobilenetv2", 26.2),
        ("deeplabv3plus_mobilenetv2_ds", 24.2),
        ("deeplabv3plus_mobilenetv2_lite", 5.6),
        ("deeplabv3plus_mobilenetv2_fast", 3.0),
    ],
)
def test_macs_at_the_papers_size(name: str, giga: float) -> None:
    assert round(count_macs(weightless(name), 512, 512) / 1e9, 1) == giga


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = build_model("deeplabv3plus_mobilenetv2_lite")
    before = {path: tensor.clone() for path, tensor in model.state_dict().items()}
    latency = latency_ms(model, 32, 32, batch=2, repeats=3)
    stages(model, 32, 32)
    assert 0 < latency.lower_quartile <= latency.median <= latency.upper_quartile
    assert model.training and not model.encoder._forward_hooks
    for path, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[path]), path


def test_resnet50_alone_is_larger_than_the_papers_value_for_all_of_fcn() -> None:
    assert round(model_mib(build_model("fcn_resnet50").encoder), 2) == 89.68
