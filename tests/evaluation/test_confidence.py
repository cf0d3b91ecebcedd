"""Confidence ranks images by error, whether or not they hold all classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from rhseg_lib.catalogue import FAST, LITE, PROPOSED
from rhseg_lib.evaluation.inference import confidence, confidences, confusions, predict
from rhseg_lib.evaluation.metrics import mean_iou
from rhseg_lib.evaluation.weights import read_weights
from rhseg_lib.scenes import render, tube

ROOT = Path(__file__).parents[2]
COMMITTED = [ROOT / f"reports/reduced/runs/{model}/seed0/weights.safetensors" for model in (PROPOSED, LITE, FAST)]
EACH, SEED = 24, 7_000  # scenes of each kind, of a seed that no profile has


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([[0.1, 0.2, 0.7], [0.1, 0.8, 0.1]], (0.7 + 0.8) / 2),
        ([[0.1, 0.2, 0.7], [0.2, 0.2, 0.6], [0.1, 0.0, 0.9]], (0.6 + 0.7) / 2),  # slag alone: others do not count
        ([[0.2, 0.2, 0.6], [0.9, 0.1, 0.0], [1.0, 0.0, 0.0]], (0.6 + 0.9) / 2),
        ([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], 1),  # surely empty
        ([[0.6, 0.4, 0.0], [0.7, 0.0, 0.3]], 0.6),  # doubtfully empty
        ([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.4, 0.6, 0.0]], (0.9 + 0.6) / 2),  # a false alarm of one pixel
    ],
)
def test_by_hand(probabilities, expected):
    logits = np.log(np.array(probabilities, np.float32).T[:, None] + 1e-9)  # (3, 1, pixels)
    assert confidence(logits) == confidence(logits[:, 0]) == pytest.approx(expected, abs=1e-6)
    assert confidence(logits + 50) == pytest.approx(expected, abs=1e-5)


def scenes_without(*kinds) -> tuple[torch.Tensor, torch.Tensor]:
    """`EACH` scenes of 128 pixels of every kind; a missing class is left out by the renderer or cropped away."""
    found = [scene_of(kind, index) for kind in kinds for index in range(EACH)]
    images, masks = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*found, strict=True))
    return images.permute(0, 3, 1, 2).contiguous(), masks


def scene_of(kind: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    paint, edges = render.paint_tube, tube._band_edges

    def no_band(*given):
        lower = edges(*given)[1]
        return lower, lower - 0.5, lower - 0.5

    with pytest.MonkeyPatch.context() as patch:
        if kind == "no tube":  # the mask stays until the exposure is metered
            patch.setattr(render, "paint_tube", lambda look, rng, canvas, *to: paint(look, rng, canvas.copy(), *to))
        if kind == "no slag":  # a band that ends before it begins
            patch.setattr(tube, "_band_edges", no_band)
        scene = render.render_scene(SEED, index, 384 if kind == "crop" else 128)
    if kind != "crop":
        return scene.image, scene.mask * (kind != "no tube")
    place = np.random.default_rng(index).integers(0, 384 - 128, 2)
    rows, columns = (slice(start, start + 128) for start in place)
    return scene.image[rows, columns], scene.mask[rows, columns]


@pytest.fixture(scope="module")
def scenes():
    return scenes_without("all", "no slag", "no tube", "crop")


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parents[1].name)
def test_it_ranks_scenes_with_and_without_all_classes(path, scenes):
    network, card = read_weights(path)
    images, masks = scenes
    score = confidences(network, images, masks)
    miou = mean_iou(confusions(masks, predict(network, images), 3))
    assert spearmanr(score, miou)[0] > 0.7
    assert spearmanr(score[:EACH], miou[:EACH])[0] > 0.6  # all classes there
    assert spearmanr(score[EACH:], miou[EACH:])[0] > 0.55  # a class missing, or two
    worst, doubtful = np.argsort(miou)[: len(miou) // 10], np.argsort(score)[: len(miou) // 3]
    assert np.isin(worst, doubtful).mean() > 0.5  # by chance 0.33

    junk = torch.zeros(9, 3, 128, 128, dtype=torch.uint8)
    junk[1:] = torch.randint(0, 256, (8, 3, 128, 128), generator=torch.Generator().manual_seed(0))
    black, *noise = confidences(network, junk, torch.zeros(9, 128, 128, dtype=torch.uint8))
    assert not predict(network, junk[:1]).any() and black > 0.9  # empty, and that is right
    assert np.median(noise) < np.quantile(score[:EACH], 0.1)
    assert 0 < card.abstain_below < np.quantile(score[:EACH], 0.2)
