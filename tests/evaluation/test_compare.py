"""Comparison of models: hand-computed tables, and statements that depend on the adjusted p alone."""

import numpy as np
import pytest

from rhseg_lib.evaluation import compare, statistics
from rhseg_lib.evaluation.compare import by_unit, compare_models, is_significant, pair, stacked, summarise
from rhseg_lib.evaluation.runs import Run
from rhseg_lib.report.findings import difference_in_words

# Two classes; images p, q, r. Sums: GOOD 90 correct of 110 in the union of each class, BAD 60 of 140.
GOOD = np.array([[[40, 0], [0, 40]], [[30, 0], [10, 30]], [[20, 10], [0, 20]]])
BAD = np.array([[[40, 0], [0, 40]], [[10, 20], [20, 20]], [[10, 20], [20, 0]]])
RECIPE = {"epochs": 2, "warmup_epochs": 0.5}


def run_of(model: str, seed: int, matrices: np.ndarray, **recipe) -> Run:
    metrics = {"class_names": ["off", "on"], "train_seconds": 60.0 + seed, "recipe": RECIPE | recipe}
    names = tuple(f"image{index:03}" for index in range(len(matrices)))
    return Run(model, seed, metrics, matrices, names, names)


def runs_of(model: str, seeds: int, *, wrong: float, images: int = 40) -> list[Run]:
    """Runs that get a share of the pixels wrong, which varies a little by seed and image."""
    runs = []
    for seed in range(seeds):
        random = np.random.default_rng([seed, len(model)])
        lost = random.binomial(1000, wrong + 0.01 * random.standard_normal(), size=(images, 2))
        matrices = np.stack([[1000 - lost[:, 0], lost[:, 0]], [lost[:, 1], 1000 - lost[:, 1]]]).transpose(2, 0, 1)
        runs.append(run_of(model, seed, matrices))
    return runs


def test_copies_of_one_original_or_group_count_as_one_image() -> None:
    matrices = np.arange(12).reshape(3, 2, 2)
    assert by_unit(matrices, ["b", "a", "b"]).tolist() == [[[4, 5], [6, 7]], [[8, 10], [12, 14]]]


class TestSummary:
    runs = (run_of("careful", 0, GOOD), run_of("careful", 1, BAD), run_of("careless", 0, BAD))

    def test_stacked_by_model(self) -> None:
        by_model = stacked(list(self.runs))
        assert {model: matrices.shape for model, matrices in by_model.items()} == {
            "careful": (2, 3, 2, 2),
            "careless": (1, 3, 2, 2),
        }
        assert np.array_equal(by_model["careful"][1], BAD)

    def test_by_hand(self) -> None:
        table = summarise(list(self.runs))
        good, bad = 90 / 110, 60 / 140  # the same for both classes
        careless, careful = table.loc["careless"], table.loc["careful"]
        assert list(table.index) == ["careful", "careless"]
        assert careless[["seeds", "miou", "mpa", "IoU off", "IoU on"]].tolist() == pytest.approx(
            [1, 100 * bad, 60, 100 * bad, 100 * bad]
        )
        assert np.isnan(careless["seed_deviation"])
        assert careful[["seeds", "miou", "mpa"]].tolist() == pytest.approx([2, 50 * (good + bad), 75])
        assert careful["seed_deviation"] == pytest.approx(100 * (good - bad) / np.sqrt(2))
        assert careful["train_minutes"] == pytest.approx(60.5 / 60)

    def test_one_seed_has_an_interval_of_its_weights_alone(self) -> None:
        table = summarise([*runs_of("one", 1, wrong=0.1), *runs_of("three", 3, wrong=0.1)])
        one, three = table.loc["one"], table.loc["three"]
        assert np.isnan([one["low"], one["high"]]).all()
        assert one["weights_low"] < one["miou"] < one["weights_high"]
        assert three["low"] < three["weights_low"] < three["weights_high"] < three["high"]


class TestPairs:
    def test_every_pair_is_compared_once_and_adjusted_together(self) -> None:
        runs = [*runs_of("good", 3, wrong=0.05), *runs_of("middling", 4, wrong=0.2), *runs_of("bad", 3, wrong=0.4)]
        table = compare_models(runs)
        assert list(zip(table["first"], table["second"], table["seeds"], strict=True)) == [
            ("good", "middling", "3, 4"), ("good", "bad", "3, 3"), ("middling", "bad", "4, 3")
        ]  # fmt: skip
        assert table["p_holm"].tolist() == pytest.approx(statistics.holm(table["p_value"]))
        assert (table["low"] < table["difference"]).all() and (table["difference"] < table["high"]).all()
        assert (table["detectable"] < table["detectable_holm"]).all()
        means = summarise(runs)["miou"]
        assert table["difference"].tolist() == pytest.approx(
            [means[row.first] - means[row.second] for row in table.itertuples()]
        )

    def test_a_pair_with_one_seed_is_shown_and_not_tested(self) -> None:
        runs = [*runs_of("one", 1, wrong=0.05), *runs_of("b", 3, wrong=0.2), *runs_of("third", 3, wrong=0.4)]
        table = compare_models(runs)
        untested = table[table["first"] == "one"]
        assert untested[["low", "high", "p_value", "p_holm", "detectable", "needed"]].isna().all(axis=None)
        assert (untested["weights_low"] < untested["difference"]).all()
        (tested,) = table[table["first"] == "b"].itertuples()
        assert tested.p_holm == tested.p_value  # a family of one

    def test_recipes_may_differ_only_in_the_rate(self) -> None:
        one = run_of("one", 0, GOOD)
        assert len(compare_models([one, run_of("other", 0, BAD, learning_rate=1e-2, min_learning_rate=1e-4)])) == 1
        assert len(compare_models([one, run_of("other", 0, BAD, momentum=0.9)])) == 1  # the default, given explicitly
        assert compare_models([one, run_of("longer", 0, BAD, epochs=3)]).empty

    def test_one_model_has_no_pair(self) -> None:
        assert compare_models([run_of("one", 0, GOOD), run_of("one", 1, BAD)]).empty

    def test_a_pair_is_found_in_either_order(self) -> None:
        table = compare_models([*runs_of("good", 3, wrong=0.05), *runs_of("middling", 4, wrong=0.2)])
        there, back = pair(table, "good", "middling"), pair(table, "middling", "good")
        assert there["difference"] == -back["difference"] > 0
        assert (back["low"], back["weights_high"]) == (-there["high"], -there["weights_low"])
        assert (there["seeds"], back["seeds"], there["p_holm"]) == ("3, 4", "4, 3", back["p_holm"])
        assert pair(table, "good", "absent") is None


class TestStatements:
    @pytest.mark.parametrize(
        ("changes", "significant", "statement"),
        [
            ({}, True, "is significant: +0.9 points"),
            ({"low": -0.1}, True, "is significant"),
            ({"p_holm": 0.05}, False, "is not significant"),  # although the interval excludes zero
            ({"p_holm": 0.4, "needed": 12.0}, False, "would take about 12 seeds of each"),
            ({"p_holm": np.nan}, False, "cannot be judged from one seed"),
            (
                {"p_holm": np.nan, "units": 1, "low": 0.9, "high": 0.9},
                False,
                "1 images or groups show the rarest class",
            ),
        ],
    )
    def test_follow_the_adjusted_p(self, changes: dict, significant: bool, statement: str) -> None:
        row = {"difference": 0.9, "low": 0.2, "high": 1.6, "units": 50, "p_holm": 0.03, "needed": 4.0} | changes
        assert is_significant(row) == significant
        assert statement in difference_in_words(row)

    def test_one_group_of_many_images_gives_no_verdict(self) -> None:
        runs = [*runs_of("good", 3, wrong=0.05, images=60), *runs_of("middling", 3, wrong=0.2, images=60)]
        heat = [run._replace(units=("heat",) * 60) for run in runs]
        (row,) = compare_models(heat).to_dict("records")
        assert row["units"] == 1 and not is_significant(row)
        assert "cannot be judged" in difference_in_words(row)


def test_generalisation_from_test_set_to_holdout(profile, monkeypatch) -> None:
    """By hand: the test images of GOOD against the holdout of BAD, 90/110 against 60/140."""
    test, holdout = np.tile(GOOD, (10, 1, 1)), np.tile(BAD, (10, 1, 1))
    monkeypatch.setattr(compare, "parts", lambda _: ["test", "holdout"])
    monkeypatch.setattr(
        compare, "finished_runs", lambda _, part: [run_of("careful", 0, test if part == "test" else holdout)]
    )
    (row,) = compare.generalisation(profile).itertuples()
    assert (row.Index, row.seeds) == ("careful", 1)
    assert (row.test, row.holdout) == pytest.approx((100 * 90 / 110, 100 * 60 / 140))
    assert row.difference == pytest.approx(row.test - row.holdout)
    assert np.isnan(row.low) and row.weights_low < row.difference < row.weights_high


def test_without_a_holdout_there_is_no_generalisation(profile) -> None:
    assert compare.generalisation(profile).empty
