"""The speed ladder: each step adds one option; the numbers are consistent. Speed itself is not tested."""

from itertools import pairwise

import pandas as pd
import pytest
import torch

from rhseg_lib.models import build_model
from rhseg_lib.profile import Recipe
from rhseg_lib.training import speed


def test_each_step_adds_one_option(monkeypatch):
    monkeypatch.setattr(speed, "device", lambda: torch.device("cuda"))
    steps = list(speed.ladder(Recipe(optimizer="adamw", dice_weight=1, channels_last=True)))
    names = [name for name, _ in steps]
    assert names == [speed.PLAIN, *speed.SWITCHES]
    plain = steps[0][1]
    assert (plain.optimizer, plain.precision, plain.compile) == ("sgd", "32", "off")
    assert not plain.channels_last and not plain.dataset_on_device and not plain.dice_weight
    for (_, before), (name, after) in pairwise(steps):
        changed = {key for key, value in after.model_dump().items() if value != getattr(before, key)}
        assert changed == set(speed.SWITCHES[name])


def test_a_cpu_skips_options_it_would_emulate():
    assert [name for name, _ in speed.ladder(Recipe())] == [speed.PLAIN, *speed.ON_CPU]


def test_every_step_trains_and_is_compared_with_the_plain_loop(profile):
    model = profile.models[0]
    table = speed.training_speed(profile, [model], steps=1, repeats=2)
    assert list(table.index) == [(model, name) for name in (speed.PLAIN, *speed.ON_CPU)]
    assert (table["lowest"] <= table["samples_per_second"]).all()
    assert (table["samples_per_second"] <= table["highest"]).all()
    plain = table.loc[(model, speed.PLAIN), "samples_per_second"]
    assert table["times_plain"].tolist() == pytest.approx((table["samples_per_second"] / plain).tolist())


def test_work_grows_with_the_pixels():
    rows = pd.MultiIndex.from_tuples([("light", "plain loop")], names=["model", "step"])
    measured = pd.DataFrame({"samples_per_second": [100.0]}, index=rows)
    result = speed.with_work(measured, pd.Series({"light": 20.0}), image_size=256, peak=1e13)
    assert result["tflops"].tolist() == pytest.approx([3.0])  # 100/s x 20 GMAC / 4 x 2 x 3
    assert result["share_of_peak"].tolist() == pytest.approx([0.3])


def test_the_fast_model_predicts_the_same(profile):
    network = build_model(profile.models[0]).eval()
    images = torch.rand(2, 3, 64, 64)
    ways = speed.inference_ways(network)
    with torch.inference_mode():
        plain, fast = (way(images) for way in ways.values())
    torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-4)
