"""Scores against hand-computed tables and torchmetrics; intervals and tests against what they promise."""

from itertools import product

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_jaccard_index

from rhseg_lib import IGNORE_INDEX
from rhseg_lib.metrics import (
    bootstrap_interval,
    compare,
    confusion_matrices,
    holm,
    iou_per_class,
    mean_iou,
    resampled_miou,
    scores,
)

NAN = float("nan")

# truth, prediction, IoU and accuracy per class, mIoU (Eq. 3), mPA (Eq. 4), absent classes; three classes throughout
TABLE = {
    "perfect": ([0, 1, 2, 2], [0, 1, 2, 2], [1, 1, 1], [1, 1, 1], 1, 1, ()),
    "all wrong": ([0, 1, 2], [1, 2, 0], [0, 0, 0], [0, 0, 0], 0, 0, ()),
    "half right": ([0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 0], [1 / 3] * 3, [1 / 2] * 3, 1 / 3, 1 / 2, ()),
    "class in neither": ([0, 0, 0, 1], [0, 0, 1, 1], [2 / 3, 1 / 2, NAN], [2 / 3, 1, NAN], 7 / 12, 5 / 6, (2,)),
    "class only predicted": ([0, 0, 1, 1], [0, 2, 1, 1], [1 / 2, 1, 0], [1 / 2, 1, NAN], 1 / 2, 3 / 4, ()),
    "class never predicted": ([0, 0, 1, 2], [0, 0, 1, 1], [1, 1 / 2, 0], [1, 1, 0], 1 / 2, 2 / 3, ()),
    "ignored pixels": ([0, 1, 255, 255], [0, 1, 2, 0], [1, 1, NAN], [1, 1, NAN], 1, 1, (2,)),
}


def matrix_of(truth: list[int], prediction: list[int]) -> np.ndarray:
    images = (torch.tensor([[row]], dtype=torch.uint8) for row in (truth, prediction))  # (1, 1, W)
    return confusion_matrices(*images, 3)[0].numpy()


def random_masks(images: int, *, ignored: bool) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth, prediction = torch.randint(0, 3, (2, images, 20, 30), generator=generator, dtype=torch.uint8)
    if ignored:
        truth[torch.rand(truth.shape, generator=generator) < 0.2] = IGNORE_INDEX
    return truth, prediction


def random_matrices(images: int, *, wrong: float, seed: int, pixels: int = 100) -> np.ndarray:
    """(1, N, 2, 2) matrices of images whose two classes lose a random share of pixels, `wrong` on average."""
    random = np.random.default_rng(seed)
    lost = random.binomial(pixels, random.beta(4, 4 / wrong - 4, size=(images, 2)))
    kept = pixels - lost
    return np.stack([[kept[:, 0], lost[:, 0]], [lost[:, 1], kept[:, 1]]]).transpose(2, 0, 1)[None]


class TestScores:
    @pytest.mark.parametrize(("truth", "prediction", "iou", "pa", "miou", "mpa", "absent"), TABLE.values(), ids=TABLE)
    def test_hand_computed(self, truth, prediction, iou, pa, miou, mpa, absent):
        found = scores(matrix_of(truth, prediction))
        assert found.iou == pytest.approx(iou, nan_ok=True)
        assert found.pa == pytest.approx(pa, nan_ok=True)
        assert (found.miou, found.mpa) == pytest.approx((miou, mpa))
        assert found.absent == absent
        counted = [t == p for t, p in zip(truth, prediction, strict=True) if t != IGNORE_INDEX]
        assert found.pixel_accuracy == pytest.approx(np.mean(counted))

    def test_rows_are_the_truth(self):
        assert matrix_of([0, 0, 0, 1], [0, 1, 1, 2]).tolist() == [[1, 2, 0], [0, 0, 1], [0, 0, 0]]

    def test_an_empty_matrix_has_no_scores(self):
        with pytest.raises(ValueError, match="every pixel was ignored"):
            scores(matrix_of([255, 255], [0, 1]))

    @pytest.mark.parametrize("ignored", [False, True])
    def test_as_torchmetrics(self, ignored):
        truth, prediction = random_masks(5, ignored=ignored)
        matrix = confusion_matrices(truth, prediction, 3).sum(0)
        settings = {"num_classes": 3, "ignore_index": IGNORE_INDEX}
        assert torch.equal(matrix, multiclass_confusion_matrix(prediction.long(), truth.long(), **settings))
        theirs = multiclass_jaccard_index(prediction.long(), truth.long(), average="none", **settings)
        assert scores(matrix.numpy()).iou == pytest.approx(theirs.tolist())

    def test_a_batch_counts_each_image_by_itself(self):
        truth, prediction = random_masks(4, ignored=True)
        truth[2] = IGNORE_INDEX
        together = confusion_matrices(truth, prediction, 3)
        assert together.shape == (4, 3, 3) and together.dtype == torch.int64
        for index in range(4):
            one = slice(index, index + 1)
            assert torch.equal(together[one], confusion_matrices(truth[one], prediction[one], 3))
        assert together.sum() == (truth != IGNORE_INDEX).sum()

    def test_stacked_matrices_score_as_single_ones(self):
        matrices = np.array([[matrix_of(*row[:2])] for row in TABLE.values()])  # (7, 1, 3, 3)
        assert iou_per_class(matrices).shape == (len(TABLE), 1, 3)
        assert mean_iou(matrices)[:, 0] == pytest.approx([row[4] for row in TABLE.values()])


class TestBootstrap:
    def test_contains_the_point_and_is_deterministic(self):
        matrices = random_matrices(50, wrong=0.1, seed=0)
        low, high = bootstrap_interval(matrices, samples=500)
        assert low < mean_iou(matrices.sum(1)) < high
        assert bootstrap_interval(matrices, samples=500) == (low, high)
        assert bootstrap_interval(matrices, samples=500, seed=1) != (low, high)

    def test_equal_images_leave_no_doubt(self):
        matrices = np.tile([[30, 10], [0, 60]], (1, 20, 1, 1))
        low, high = bootstrap_interval(matrices, samples=100)
        assert low == high == pytest.approx((30 / 40 + 60 / 70) / 2)

    def test_draws_sum_whole_images(self):
        """With two images of three possible sums, every draw must be one of the three."""
        matrices = random_matrices(2, wrong=0.3, seed=1)
        first, second = matrices[0]
        possible = mean_iou(np.stack([2 * first, first + second, 2 * second]))
        drawn = resampled_miou(matrices, samples=200)
        assert set(drawn.round(12)) == set(possible.round(12))
        assert np.isclose(drawn, possible[1]).mean() == pytest.approx(1 / 2, abs=0.1)

    def test_runs_are_averaged_over_the_same_images(self):
        one, other = random_matrices(30, wrong=0.1, seed=2), random_matrices(30, wrong=0.3, seed=3)
        each = [resampled_miou(matrices, samples=50) for matrices in (one, other)]
        assert resampled_miou(np.concatenate([one, other]), samples=50) == pytest.approx(np.mean(each, axis=0))

    def test_covers_as_often_as_it_says(self):
        """150 test sets of 40 images: an interval must hold the whole population's mIoU about as often as its level."""
        population = mean_iou(random_matrices(20_000, wrong=0.2, seed=4)[0].sum(0))
        held = {0.5: 0, 0.95: 0}
        for seed, level in product(range(150), held):
            matrices = random_matrices(40, wrong=0.2, seed=100 + seed)
            low, high = bootstrap_interval(matrices, samples=150, level=level)
            held[level] += low <= population <= high
        assert 0.38 < held[0.5] / 150 < 0.62
        assert 0.88 < held[0.95] / 150 <= 0.99


class TestCompare:
    good, bad = random_matrices(30, wrong=0.1, seed=5), random_matrices(30, wrong=0.3, seed=6)

    def test_a_model_does_not_differ_from_itself(self):
        same = compare(self.good, self.good, samples=200)
        assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)

    def test_a_clear_difference_is_seen(self):
        found = compare(self.good, self.bad, samples=999)
        expected = mean_iou(self.good[0].sum(0)) - mean_iou(self.bad[0].sum(0))
        assert found.difference == pytest.approx(expected) and expected > 0.1
        assert 0 < found.low < found.difference < found.high
        assert found.p_value == 1 / 10_001  # no random swap reaches it

    def test_exchanging_the_models_changes_the_sign_alone(self):
        there, back = compare(self.good, self.bad, samples=300), compare(self.bad, self.good, samples=300)
        assert (back.difference, back.low, back.high) == pytest.approx((-there.difference, -there.high, -there.low))
        assert back.p_value == there.p_value

    def test_p_value_is_that_of_all_swaps(self):
        """Four images have sixteen swaps: the random ones must come near to counting them all."""
        first, second = random_matrices(4, wrong=0.2, seed=7), random_matrices(4, wrong=0.25, seed=8)
        a, b = first[0], second[0]
        observed = abs(mean_iou(a.sum(0)) - mean_iou(b.sum(0)))
        swaps = [np.array(swap)[:, None, None] for swap in product((False, True), repeat=4)]
        differences = [
            abs(mean_iou(np.where(swap, b, a).sum(0)) - mean_iou(np.where(swap, a, b).sum(0))) for swap in swaps
        ]
        exact = np.mean(np.array(differences) >= observed - 1e-12)
        assert 1 / 8 <= exact < 1
        assert compare(first, second, samples=4000).p_value == pytest.approx(exact, abs=0.03)

    def test_equal_models_are_seldom_told_apart(self):
        pairs = [
            (random_matrices(20, wrong=0.2, seed=s), random_matrices(20, wrong=0.2, seed=999 + s)) for s in range(200)
        ]
        p_values = np.array([compare(*pair, samples=99).p_value for pair in pairs])
        assert np.mean(p_values <= 0.05) < 0.1
        assert np.mean(p_values <= 0.5) == pytest.approx(0.5, abs=0.12)

    def test_runs_are_paired_and_averaged(self):
        twice = np.concatenate([self.good, self.good])
        other = np.concatenate([self.bad, self.bad])
        assert compare(twice, other, samples=100) == compare(self.good, self.bad, samples=100)
        mixed = np.concatenate([self.good, self.bad])
        assert compare(mixed, other, samples=100).difference == pytest.approx(
            compare(self.good, self.bad, samples=100).difference / 2
        )

    @pytest.mark.parametrize("other", ["images", "runs"])
    def test_other_images_or_runs_are_refused(self, other: str):
        second = self.bad[:, 1:] if other == "images" else np.concatenate([self.bad, self.bad])
        with pytest.raises(ValueError, match="the same runs and images"):
            compare(self.good, second, samples=10)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.02], [0.02]),
        ([0.5, 0.6], [1, 1]),
        ([0.01, 0.01, 0.01], [0.03, 0.03, 0.03]),
        ([0.001, 0.9, 0.02], [0.003, 0.9, 0.04]),
        ([], []),
    ],
)
def test_holm(p_values, adjusted):
    assert holm(np.array(p_values)) == pytest.approx(adjusted)
