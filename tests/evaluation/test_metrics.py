"""Scores against hand-computed tables and torchmetrics."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_jaccard_index,
    multiclass_recall,
)

from rhseg_lib.evaluation.metrics import confusion_matrices, iou_per_class, mean_iou, scores
from rhseg_lib.sources.images import IGNORE_INDEX

NAN = float("nan")

# truth, prediction, IoU and accuracy per class, mIoU (Eq. 3), mPA (Eq. 4), absent classes; three classes throughout
TABLE = {
    "perfect": ([0, 1, 2, 2], [0, 1, 2, 2], [1, 1, 1], [1, 1, 1], 1, 1, ()),
    "all wrong": ([0, 1, 2], [1, 2, 0], [0, 0, 0], [0, 0, 0], 0, 0, ()),
    "half right": ([0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 0], [1 / 3] * 3, [1 / 2] * 3, 1 / 3, 1 / 2, ()),
    "class in neither": ([0, 0, 0, 1], [0, 0, 1, 1], [2 / 3, 1 / 2, NAN], [2 / 3, 1, NAN], 7 / 12, 5 / 6, (2,)),
    "class only predicted": ([0, 0, 1, 1], [0, 2, 1, 1], [1 / 2, 1, 0], [1 / 2, 1, 0], 1 / 2, 1 / 2, ()),
    "class never predicted": ([0, 0, 1, 2], [0, 0, 1, 1], [1, 1 / 2, 0], [1, 1, 0], 1 / 2, 2 / 3, ()),
    "ids outside": ([0, 1, 3, 254], [0, 1, 1, 0], [1, 1, NAN], [1, 1, NAN], 1, 1, (2,)),
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


class TestScores:
    @pytest.mark.parametrize(("truth", "prediction", "iou", "pa", "miou", "mpa", "absent"), TABLE.values(), ids=TABLE)
    def test_hand_computed(self, truth, prediction, iou, pa, miou, mpa, absent):
        result = scores(matrix_of(truth, prediction))
        assert result.iou == pytest.approx(iou, nan_ok=True)
        assert result.pa == pytest.approx(pa, nan_ok=True)
        assert (result.miou, result.mpa) == pytest.approx((miou, mpa))
        assert result.absent == absent
        counted = [t == p for t, p in zip(truth, prediction, strict=True) if t < 3]
        assert result.pixel_accuracy == pytest.approx(np.mean(counted))

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
        expected = multiclass_jaccard_index(prediction.long(), truth.long(), average="none", **settings)
        assert scores(matrix.numpy()).iou == pytest.approx(expected.tolist())

    def test_a_class_only_predicted_has_torchmetrics_mean_accuracy(self):
        truth, prediction = (torch.tensor(row) for row in ([0, 0, 1, 1], [0, 2, 1, 1]))
        expected = multiclass_recall(prediction, truth, num_classes=3, average="macro")
        assert scores(matrix_of(truth.tolist(), prediction.tolist())).mpa == pytest.approx(expected.item())

    @pytest.mark.parametrize("stray", [3, 9, 200])
    def test_a_stray_id_does_not_count_into_the_next_image(self, stray):
        truth, prediction = random_masks(3, ignored=False)
        truth[0, 0], prediction[1, 0] = stray, stray
        matrices = confusion_matrices(truth, prediction, 3)
        assert matrices.sum((1, 2)).tolist() == [19 * 30, 19 * 30, 20 * 30]

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
