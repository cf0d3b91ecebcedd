"""Intervals and tests over images and seeds: their error rates, on simulated studies of identical models."""

import math

import numpy as np
import pytest
from scipy import stats

from rhseg_lib.evaluation import statistics
from rhseg_lib.evaluation.metrics import mean_iou
from rhseg_lib.evaluation.statistics import (
    Estimate,
    difference,
    holdout_gap,
    holm,
    influence,
    mean_of,
    units_showing,
)

SEED_SPREAD = 0.045  # of the log-odds of an error; changes mIoU by 0.7 points, like the seeds of a small network
CLASS_ERROR = np.array([-3.6, -2.0, -1.2])  # log-odds of an error on background, tube, slag: mIoU about 76 %
LOST_TO = np.array([[0, 0.6, 0.4], [0.6, 0, 0.4], [0.5, 0.5, 0]])


class Scenes:
    """Simulated images: their number of pixels of each class, and their difficulty."""

    def __init__(self, count: int, random: np.random.Generator) -> None:
        self.pixels = random.dirichlet([14, 4, 2], count) * 16384  # (N, 3)
        self.difficulty = 0.4 * random.standard_normal((count, 3)) + 0.7 * random.standard_normal((count, 1))

    def trained(self, seeds: np.ndarray, random: np.random.Generator, better: float = 0.0) -> np.ndarray:
        """Matrices (R, N, 3, 3) of runs whose seeds shift the log-odds of an error; each run also has its own noise."""
        noise = 0.35 * random.standard_normal((len(seeds), *self.difficulty.shape))
        odds = CLASS_ERROR + self.difficulty + noise + seeds[:, None, None] - better
        lost = self.pixels / (1 + np.exp(-odds))  # (R, N, 3)
        matrices = lost[..., None] * LOST_TO
        matrices[..., range(3), range(3)] = self.pixels - lost
        return matrices


def draw_seeds(count: int, random: np.random.Generator) -> np.ndarray:
    return SEED_SPREAD * random.standard_normal(count)


@pytest.fixture(scope="module")
def population() -> float:
    """The mIoU over all seeds and scenes."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    random = np.random.default_rng(0)
    matrices = Scenes(40_000, random).trained(SEED_SPREAD * nodes, random)
    return float(mean_iou(matrices.sum(1)) @ weights / weights.sum())


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("images", [50, 500])
def test_identical_models_differ_significantly_at_the_nominal_rate(population: float, seeds: int, images: int) -> None:
    random = np.random.default_rng([seeds, images])
    significant, covered, contains_zero = [], [], []
    for _ in range(500):
        scenes = Scenes(images, random)
        first, second = (scenes.trained(draw_seeds(seeds, random), random) for _ in range(2))
        estimate = difference(first, second)
        significant.append(estimate.p_value < 0.05)
        contains_zero.append(estimate.interval[0] <= 0 <= estimate.interval[1])
        low, high = mean_of(first).interval
        covered.append(low <= population <= high)
    assert 0.02 <= np.mean(significant) <= 0.08
    assert np.mean(contains_zero) == 1 - np.mean(significant)  # interval and test agree
    assert 0.92 <= np.mean(covered) <= 0.99


def test_these_weights_alone_would_call_identical_models_different() -> None:
    """Why seeds count: without them, with three seeds and 500 images, half the equal pairs differ significantly."""
    random = np.random.default_rng(1)
    significant = []
    for _ in range(100):
        scenes = Scenes(500, random)
        pair = (scenes.trained(draw_seeds(3, random), random) for _ in range(2))
        significant.append(difference(*pair, these_weights=True).p_value < 0.05)
    assert np.mean(significant) > 0.4


@pytest.mark.parametrize("images", [50, 500])
def test_two_points_are_detected_with_five_seeds(images: int) -> None:
    random = np.random.default_rng(images)
    detected = []
    for _ in range(100):
        scenes = Scenes(images, random)
        better, worse = (scenes.trained(draw_seeds(5, random), random, better=b) for b in (0.137, 0.0))
        detected.append(difference(better, worse).p_value < 0.05)
    assert np.mean(detected) > 0.75


def random_matrices(runs: int, images: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return Scenes(images, random).trained(draw_seeds(runs, random), random)


def test_influence_is_the_change_by_one_image() -> None:
    matrices = random_matrices(2, 30)
    step = 1e-6
    for image in (0, 7):
        weights = np.ones(30)
        weights[image] += step
        changed = mean_iou((matrices * weights[:, None, None]).sum(1))
        change = (changed - mean_iou(matrices.sum(1))) / step
        assert influence(matrices)[:, image] == pytest.approx(change, rel=1e-4)
    assert influence(matrices).sum(1) == pytest.approx(0, abs=1e-12)


def test_standard_error_of_images_is_that_of_a_jackknife() -> None:
    matrices = random_matrices(1, 60)
    left_out = np.array([mean_iou(matrices.sum(1) - matrices[:, i])[0] for i in range(60)])
    jackknife = math.sqrt(59 / 60 * ((left_out - left_out.mean()) ** 2).sum())
    assert mean_of(matrices, these_weights=True).error_and_df()[0] == pytest.approx(jackknife, rel=0.03)


def test_variances_add_with_satterthwaites_degrees_of_freedom() -> None:
    """Worked by hand: 4e-4 + 2e-4 / 2 + 3e-4 / 3 = 6e-4; 36e-8 / (16e-8 / 10 + 1e-8 / 1 + 1e-8 / 2) = 11.61."""
    estimate = Estimate(0.08, 4e-4, 11, (2e-4, 3e-4), (0, 0), (2, 3))
    error, df = estimate.error_and_df()
    assert (error, df) == pytest.approx((math.sqrt(6e-4), 36 / 3.1))
    low, high = estimate.interval
    assert (low, high) == pytest.approx((0.08 - 2.1867 * error, 0.08 + 2.1867 * error), abs=2e-5)
    assert estimate.p_value == pytest.approx(0.0072, abs=2e-4)


@pytest.mark.parametrize(("seeds", "tests"), [(2, 1), (3, 1), (3, 28), (5, 28)])
def test_a_detectable_difference_is_detected_four_times_in_five(seeds: int, tests: int) -> None:
    """Simulated: normal means over the seeds of two models, tested at the first level of Holm's method."""
    random = np.random.default_rng([seeds, tests])
    estimate = Estimate(0, 1e-12, 10**6, (49e-6, 49e-6), (0, 0), (seeds, seeds))
    runs = 7e-3 * random.standard_normal((2, 20_000, seeds))
    runs[0] += estimate.detectable(tests=tests)
    error, df = np.sqrt(runs.var(-1, ddof=1).sum(0) / seeds), 2 * (seeds - 1)
    detected = np.abs(runs[0].mean(-1) - runs[1].mean(-1)) / error > stats.t.ppf(1 - 0.025 / tests, df)
    assert detected.mean() == pytest.approx(0.8, abs=0.01)


def test_variance_shared_by_seeds_and_images_is_counted_once() -> None:
    """Of the runs' 1e-4, 0.4e-4 is from images that suit a seed: (1e-4 - 0.4e-4) / 2 is added, at least 0."""
    assert Estimate(0, 4e-4, 50, (1e-4,), (0.4e-4,), (2,)).error_and_df()[0] == pytest.approx(math.sqrt(4.3e-4))
    assert Estimate(0, 4e-4, 50, (1e-4,), (2e-4,), (2,)).error_and_df()[0] == pytest.approx(math.sqrt(4e-4))
    runs = random_matrices(4, 60)
    deviations = [influence(runs)[i] - influence(runs).mean(0) for i in range(4)]
    expected = sum((row**2).sum() * 60 / 59 for row in deviations) / 3
    assert mean_of(runs).interaction == pytest.approx([expected])


def test_the_interaction_of_seeds_and_images_shrinks_with_more_seeds() -> None:
    """By hand: of the images' 4e-4, 2 x 3e-4 / 3 is interaction; with six seeds 2e-4 + 2 x 3e-4 / 6 remain of both."""
    estimate = Estimate(0.01, 4e-4, 50, (2e-4, 3e-4), (3e-4, 3e-4), (3, 3))
    assert estimate.error_and_df(6)[0] == pytest.approx(math.sqrt(3e-4))


def test_degrees_of_freedom_are_at_least_those_of_the_smallest_sample() -> None:
    """Satterthwaite's formula may give less if the seeds spread less than their interaction: 16 / (16/49 + 40.5)."""
    assert Estimate(0, 4e-4, 50, (27e-4, 27e-4), (30e-4, 30e-4), (3, 3)).error_and_df()[1] == 2


def test_a_false_positive_of_a_class_in_no_image_gives_no_verdict() -> None:
    first, second = random_matrices(3, 100), random_matrices(3, 100, seed=1)
    wide = [np.pad(matrices, ((0, 0), (0, 0), (0, 1), (0, 1))) for matrices in (first, second)]
    assert difference(*wide).p_value == pytest.approx(difference(first, second).p_value)
    wide[0][:, 7, 0, 3] = 1
    assert not difference(*wide).has_interval and math.isnan(difference(*wide).p_value)


def test_a_class_in_only_one_set_gives_no_optimism() -> None:
    test, holdout = random_matrices(3, 50), random_matrices(3, 90)
    holdout[:, :, 2] = 0
    holdout[..., 2] = 0
    assert not holdout_gap(test, holdout).has_interval
    with pytest.raises(ValueError, match="3 runs"):
        holdout_gap(test, holdout[:1])


def test_rounding_is_not_a_difference() -> None:
    one = random_matrices(1, 30)
    assert difference(np.tile(one, (3, 1, 1, 1)), np.tile(one, (7, 1, 1, 1))).p_value == 1


def test_more_tests_require_larger_differences() -> None:
    estimate = Estimate(0.08, 4e-4, 11, (2e-4, 3e-4), (0, 0), (2, 3))
    assert estimate.detectable(tests=28) > estimate.detectable()


def test_one_seed_gives_no_estimate_for_a_model() -> None:
    one, three = random_matrices(1, 100), random_matrices(3, 100)
    for estimate in (
        mean_of(one),
        difference(one, three),
        difference(three, one),
        holdout_gap(one, random_matrices(1, 90)),
    ):
        assert not estimate.has_interval
        assert np.isnan([*estimate.interval, estimate.p_value, estimate.detectable()]).all()
        assert math.isfinite(estimate.value)
    assert mean_of(one, these_weights=True).has_interval


@pytest.mark.parametrize(("images", "has_interval"), [(1, False), (5, False), (6, True)])
def test_few_units_give_no_interval(images: int, has_interval: bool) -> None:
    estimate = difference(random_matrices(3, images), random_matrices(3, images, seed=1))
    assert estimate.units == images and estimate.has_interval is has_interval
    assert math.isnan(estimate.p_value) is not has_interval


def test_a_rare_class_counts_by_the_units_that_show_it() -> None:
    matrices = random_matrices(2, 50)
    matrices[:, 3:, 2] = 0  # three images show slag
    assert units_showing(matrices) == 3 and not mean_of(matrices).has_interval
    matrices[:, :, 2], matrices[..., 2] = 0, 0  # neither in truth nor predicted: no class of these images
    assert units_showing(matrices) == 50 and mean_of(matrices).has_interval


def test_equal_runs_and_images_have_no_variance() -> None:
    same = np.tile([[30.0, 10], [0, 60]], (3, 20, 1, 1))
    assert mean_of(same).interval == pytest.approx([(30 / 40 + 60 / 70) / 2] * 2)
    assert difference(same, same).p_value == 1
    assert difference(same, same + np.diag([10.0, 0])).p_value < 1e-30


def test_swapping_the_models_changes_only_the_sign() -> None:
    first, second = random_matrices(3, 80), random_matrices(5, 80, seed=1)
    there, back = difference(first, second), difference(second, first)
    assert there.value == -back.value and there.p_value == back.p_value
    assert there.interval == pytest.approx([-end for end in reversed(back.interval)])


def test_seeds_needed_are_the_fewest_that_detect_it() -> None:
    estimate = difference(random_matrices(3, 500), random_matrices(3, 500, seed=1))
    wide = Estimate(0.01, 1e-6, 500, (49e-6, 49e-6), (0, 0), (3, 3))
    needed = wide.seeds_needed()
    assert wide.detectable(seeds=needed) <= 0.01 < wide.detectable(seeds=needed - 1)
    assert Estimate(1e-5, 1e-4, 50, (49e-6, 49e-6), (0, 0), (3, 3)).seeds_needed() is None
    assert estimate.seeds_needed(tests=28) is None or estimate.seeds_needed(tests=28) >= estimate.seeds_needed()


def test_optimism_compares_two_independent_sets_of_images() -> None:
    test, holdout = random_matrices(3, 50), random_matrices(3, 400, seed=1)
    estimate = holdout_gap(test, holdout)
    each = mean_iou(test.sum(1)) - mean_iou(holdout.sum(1))
    variances = [mean_of(matrices, these_weights=True).image_variance for matrices in (test, holdout)]
    assert estimate.value == pytest.approx(each.mean())
    assert estimate.image_variance == pytest.approx(sum(variances))
    assert estimate.seed_variances == pytest.approx([each.var(ddof=1)])
    assert estimate.seeds == (3,) and estimate.units == 50


def test_different_images_are_refused() -> None:
    with pytest.raises(ValueError, match="different units"):
        difference(random_matrices(2, 10), random_matrices(2, 11))


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.02], [0.02]),
        ([0.5, 0.6], [1, 1]),
        ([math.nan, 0.02, 0.01], [math.nan, 0.02, 0.02]),
        ([0.01, 0.01, 0.01], [0.03, 0.03, 0.03]),
        ([0.001, 0.9, 0.02], [0.003, 0.9, 0.04]),
        ([], []),
    ],
)
def test_holm(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(np.array(p_values)) == pytest.approx(adjusted, nan_ok=True)


def test_level_is_five_per_cent() -> None:
    assert (statistics.LEVEL, statistics.POWER) == (0.05, 0.8)
