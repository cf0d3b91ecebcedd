"""The VOC tree in memory as uint8, and batches taken from it on its device (CPU or GPU)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from rhseg_lib.dataset import voc_tree
from rhseg_lib.errors import StudyError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def mean_and_std(device: torch.device | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """ImageNet's mean and deviation of pixels from 0 to 255, float32 (1, 3, 1, 1) each."""
    mean = torch.tensor(IMAGENET_MEAN, device=device).view(1, 3, 1, 1) * 255
    return mean, torch.tensor(IMAGENET_STD, device=device).view(1, 3, 1, 1) * 255


def normalize(images: torch.Tensor, by: tuple[torch.Tensor, torch.Tensor] | None = None) -> torch.Tensor:
    """uint8 RGB (B, 3, H, W) -> float32, normalized by ImageNet's mean and deviation, as the encoders expect.

    `by`: both, where they are on the device of the images already; a GPU waits for the copy.
    """
    mean, std = by or mean_and_std(images.device)
    return (images.float() - mean) / std


def flip_at_random(images: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirror images (B, 3, H, W) and their masks (B, H, W) left to right, each with probability 1/2."""
    mirrored = torch.rand(len(images), device=images.device) < 0.5  # (B,), by the seed of the epoch
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    return images, torch.where(mirrored[:, None, None], masks.flip(-1), masks)


def load_tensors(folder: Path, names: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode images once: uint8 (N, 3, H, W), and masks: uint8 (N, H, W)."""
    images, masks = voc_tree.load_arrays(folder, names)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(masks)


class Batches:
    """Shuffled batches; the order of an epoch depends on (seed, epoch) alone.

    `images` and `masks` are uint8 (N, 3, H, W) and (N, H, W), on the device that needs the batches. An epoch is one
    pass over them or, with `epoch_images`, the next n images of an endless sequence of passes. Of `world_size`
    processes, that of index `rank` takes its share of every batch of `batch_size`, so that together they see each
    sample once. The last incomplete batch is dropped: every step has the same shape.
    """

    def __init__(
        self,
        images: torch.Tensor,
        masks: torch.Tensor,
        *,
        batch_size: int,
        seed: int,
        epoch_images: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % world_size:
            what = f"a batch of {batch_size} cannot be shared by {world_size} processes"
            fix = "take a batch size that is a multiple of the number of devices"
            raise StudyError(what, where="batch_size", fix=fix)
        if len(images) < batch_size:
            what = f"{len(images)} training images do not fill one batch of {batch_size}"
            raise StudyError(what, where="the training split", fix="add images or take a smaller batch_size")
        self.images, self.masks = images, masks
        self.batch_size, self.seed = batch_size, seed
        self.epoch_images = epoch_images or len(images)
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.epoch_images // self.batch_size

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in self._shares(self._order().to(self.images.device)):
            yield self.images[batch], self.masks[batch]

    def _shares(self, order: torch.Tensor) -> Iterator[torch.Tensor]:
        """This process's indices of every batch."""
        for step in range(len(self)):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield batch[self.rank :: self.world_size]

    def _order(self) -> torch.Tensor:
        """Indices of this epoch's images, taken from the passes that it spans."""
        start, total = self.epoch * self.epoch_images, len(self.images)
        passes = range(start // total, (start + self.epoch_images - 1) // total + 1)
        seeds = (torch.Generator().manual_seed(epoch_seed(self.seed, number)) for number in passes)
        sequence = torch.cat([torch.randperm(total, generator=generator) for generator in seeds])
        return sequence[start - passes[0] * total :][: self.epoch_images]


class DecodedBatches(Batches):
    """The same batches of images of a VOC tree, decoded again every epoch: for data larger than memory.

    `device` is where the batches are needed, `workers` the number of processes that decode; `options` see `Batches`.
    """

    def __init__(
        self, folder: Path, names: list[str], *, device: torch.device, workers: int = 2, **options: Any
    ) -> None:
        counted = torch.empty(len(names), 0)  # in place of the images: only their number is used
        super().__init__(counted, counted, **options)
        self.folder, self.names, self.device, self.workers = folder, names, device, workers

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        shares = [share.tolist() for share in self._shares(self._order())]
        loader = DataLoader(
            _Decoded(self.folder, self.names),
            batch_sampler=shares,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # the workers' seed must not come from dropout's generator
        )
        for images, masks in loader:
            yield images.to(self.device, non_blocking=True), masks.to(self.device, non_blocking=True)


class _Decoded(Dataset):
    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder, self.names = folder, names

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        name = self.names[index]
        image = np.array(Image.open(voc_tree.image_file(self.folder, name)).convert("RGB"))
        mask = np.array(Image.open(voc_tree.mask_file(self.folder, name)))
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask)


def epoch_seed(seed: int, epoch: int) -> int:
    """One number per (seed, epoch), so that a resumed run draws the same numbers as an uninterrupted one."""
    return seed * 1_000_003 + epoch
