"""Batches: each sample at most once an epoch, in an order that depends on (seed, epoch), shared among processes."""

from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from rhseg_lib.dataset import voc_tree
from rhseg_lib.dataset.batches import Batches, epoch_seed, load_tensors, normalize
from rhseg_lib.errors import StudyError


def numbered(count: int, **options) -> Batches:
    """Images and masks of a single pixel that hold their own number."""
    numbers = torch.arange(count, dtype=torch.uint8)
    images = numbers.view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    masks = numbers.view(-1, 1, 1)
    return Batches(images, masks, **{"seed": 0, **options})


def epoch_of(batches: Batches, epoch: int) -> list[list[int]]:
    """The samples' numbers, batch by batch."""
    batches.set_epoch(epoch)
    found = []
    for images, masks in batches:
        assert torch.equal(images[:, 0, 0, 0], masks[:, 0, 0])
        found.append(masks.flatten().tolist())
    return found


@pytest.mark.parametrize(("count", "batch_size", "steps"), [(8, 4, 2), (11, 4, 2), (4, 4, 1), (7, 2, 3)])
def test_an_epoch_holds_each_sample_at_most_once(count, batch_size, steps):
    batches = numbered(count, batch_size=batch_size)
    found = epoch_of(batches, 0)
    assert len(batches) == len(found) == steps
    assert {len(batch) for batch in found} == {batch_size}  # the incomplete last one is dropped
    samples = list(chain(*found))
    assert len(set(samples)) == len(samples) == steps * batch_size
    assert set(samples) <= set(range(count))


def test_what_one_epoch_drops_another_uses():
    batches = numbered(7, batch_size=4)
    samples = {sample for epoch in range(20) for sample in chain(*epoch_of(batches, epoch))}
    assert samples == set(range(7))


@pytest.mark.parametrize(("epoch_images", "epochs"), [(4, 5), (10, 2), (20, 1), (6, 10), (30, 2)])
def test_epochs_of_chosen_length_are_cut_from_whole_passes(epoch_images, epochs):
    batches = numbered(10, batch_size=2, epoch_images=epoch_images)
    assert len(batches) == epoch_images // 2
    forwards = [list(chain(*epoch_of(batches, epoch))) for epoch in range(epochs)]
    assert forwards == [list(chain(*epoch_of(batches, epoch))) for epoch in reversed(range(epochs))][::-1]
    assert {len(one) for one in forwards} == {epoch_images}
    sequence = list(chain(*forwards))
    passes = [sequence[start : start + 10] for start in range(0, len(sequence), 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == len(passes)


def test_an_epoch_is_a_pass_by_default():
    for epoch in range(3):
        explicit = epoch_of(numbered(10, batch_size=2, epoch_images=10), epoch)
        assert epoch_of(numbered(10, batch_size=2), epoch) == explicit


def test_order_depends_on_seed_and_epoch():
    batches = numbered(40, batch_size=4)
    torch.manual_seed(1)
    first = epoch_of(batches, 3)
    torch.manual_seed(2)  # the global generator has no effect
    assert epoch_of(batches, 3) == first == epoch_of(numbered(40, batch_size=4), 3)
    assert epoch_of(batches, 4) != first
    assert epoch_of(numbered(40, batch_size=4, seed=1), 3) != first


def test_no_two_seeds_share_an_epoch():
    pairs = [(seed, epoch) for seed in range(50) for epoch in range(200)]
    assert len({epoch_seed(*pair) for pair in pairs}) == len(pairs)


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_every_batch(world_size):
    whole = epoch_of(numbered(19, batch_size=8), 5)
    shares = [epoch_of(numbered(19, batch_size=8, rank=rank, world_size=world_size), 5) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        portions = [share[step] for share in shares]
        assert {len(portion) for portion in portions} == {8 // world_size}
        assert sorted(chain(*portions)) == sorted(batch)


@pytest.mark.parametrize(
    ("count", "batch_size", "world_size", "message"),
    [(3, 4, 1, "3 training images do not fill one batch of 4"), (9, 4, 3, "4 cannot be shared by 3 processes")],
)
def test_invalid_batch_sizes_are_rejected(count, batch_size, world_size, message):
    with pytest.raises(StudyError, match=message):
        numbered(count, batch_size=batch_size, world_size=world_size)


def test_normalize_by_hand():
    image = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    found = normalize(image)
    assert found.dtype == torch.float32 and found.shape == (1, 3, 1, 1)
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-5)


def test_tensors_are_the_files(profile):
    names = voc_tree.read_split(profile.voc, "test")
    images, masks = load_tensors(profile.voc, names)
    assert images.shape == (3, 3, 64, 64) and masks.shape == (3, 64, 64)
    assert images.dtype == masks.dtype == torch.uint8
    for name, image, mask in zip(names, images, masks, strict=True):
        decoded = np.asarray(Image.open(profile.voc / "JPEGImages" / f"{name}.jpg"))
        assert np.array_equal(image.permute(1, 2, 0), decoded)
        assert np.array_equal(mask, np.asarray(Image.open(profile.voc / "SegmentationClass" / f"{name}.png")))
        assert set(mask.unique().tolist()) == {0, 1, 2}
