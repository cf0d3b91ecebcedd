"""Fit one model with one seed (paper, Table 1); exact resume after any interruption.

From the command line, `python -m rhseg_lib.training --profile paper --model unet_vgg16 --seed 0` makes one run. On
several devices, of one machine or of many, `torchrun --nproc-per-node 4 -m rhseg_lib.training` with the same options
trains to the last epoch and leaves the checkpoint; the study then evaluates it without training again.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import Checkpoint
from segmentation_models_pytorch.losses import DiceLoss
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from tqdm import tqdm

from rhseg_lib import IGNORE_INDEX, StudyError, evaluation, voc
from rhseg_lib.datamodule import Batches, DecodedBatches, epoch_seed, load_tensors, normalize
from rhseg_lib.files import write_atomically
from rhseg_lib.metrics import confusion_matrices, scores
from rhseg_lib.models import build_model
from rhseg_lib.profile import Profile, Recipe, check_model, fingerprint, load_profile


class SlagDataModule(L.LightningDataModule):
    """Training part of a VOC tree, by default decoded once and kept on the training device.

    Parameters
    ----------
    folder : Path
        VOC tree as ``voc.build_voc`` writes it.
    recipe : Recipe
        Its batch size, and how many images make an epoch.
    seed : int
    """

    def __init__(self, folder: Path, *, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.folder, self.recipe, self.seed = folder, recipe, seed

    def setup(self, stage: str) -> None:
        self.names = voc.read_split(self.folder, "train")
        if self.recipe.dataset_on_device:
            self.images, self.masks = load_tensors(self.folder, self.names)

    def train_dataloader(self) -> Batches:
        device = self.trainer.strategy.root_device
        options = {
            "batch_size": self.recipe.batch_size,
            "epoch_images": self.recipe.epoch_images,
            "seed": self.seed,
            "rank": self.trainer.global_rank,
            "world_size": self.trainer.world_size,
        }
        if not self.recipe.dataset_on_device:
            return DecodedBatches(self.folder, self.names, device=device, **options)
        return Batches(self.images.to(device), self.masks.to(device), **options)


class SegmentationTask(L.LightningModule):
    """A model, its loss and its schedule.

    Parameters
    ----------
    model_name : str
        A key of ``rhseg_lib.models.MODELS``.
    num_classes : int
    recipe : Recipe
    seed : int
        Decides the initial weights, the order of every epoch and every dropout mask.
    """

    def __init__(self, model_name: str, *, num_classes: int, recipe: Recipe, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.model = build_model(model_name, num_classes=num_classes, pretrained=recipe.pretrained)
        if recipe.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.dice = DiceLoss("multiclass", ignore_index=IGNORE_INDEX)
        self.model_name, self.num_classes = model_name, num_classes
        self.recipe, self.seed = recipe, seed
        self.history: list[dict[str, float]] = []
        self.compiled: Callable | None = None

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        images, masks = batch  # (B, 3, H, W) uint8, (B, H, W) uint8
        if self.recipe.compile == "cuda_graphs":
            self.zero_grad()  # the last step's gradients lie in memory that the next replay takes
            torch.compiler.cudagraph_mark_step_begin()
        loss, predicted = (self.compiled or self.forward_pass)(images, masks)
        with torch.no_grad():  # summed where they are: nothing here waits for the device
            self.loss_sum += loss
            self.matrix += confusion_matrices(masks, predicted, self.num_classes).sum(0)
        return loss

    def forward_pass(self, images: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and most probable classes (B, H, W)."""
        layout = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        logits = self.model(normalize(images).contiguous(memory_format=layout)).float()  # (B, K, H, W)
        loss = F.cross_entropy(logits, masks.long(), ignore_index=IGNORE_INDEX)
        if self.recipe.dice_weight:
            loss = loss + self.recipe.dice_weight * self.dice(logits, masks.long())
        return loss, logits.detach().argmax(1)

    def on_fit_start(self) -> None:
        mode = {"default": "default", "cuda_graphs": "reduce-overhead"}.get(self.recipe.compile)
        whole = self.trainer.world_size == 1  # batch norm over several processes breaks the graph
        self.compiled = torch.compile(self.forward_pass, mode=mode, fullgraph=whole) if mode else None

    def on_fit_end(self) -> None:
        self.compiled = None  # of no use beyond the fit, and it cannot be copied

    def on_train_epoch_start(self) -> None:
        self.trainer.train_dataloader.set_epoch(self.current_epoch)
        torch.manual_seed(epoch_seed(self.seed, self.current_epoch) * 64 + self.global_rank)
        self.loss_sum = torch.zeros((), device=self.device)
        self.matrix = torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64, device=self.device)
        self.started = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        loss = self.trainer.strategy.reduce(self.loss_sum / self.trainer.num_training_batches, reduce_op="mean").item()
        matrix = self.trainer.strategy.reduce(self.matrix, reduce_op="sum").cpu().numpy()
        if not math.isfinite(loss):
            raise StudyError(
                f"the training loss of {self.model_name} is {loss} in epoch {self.current_epoch + 1}",
                where=f"learning_rate {self.recipe.learning_rate:g}, {self.recipe.optimizer}",
                mend=f"lower the learning rate for this model: recipe_for: {{{self.model_name}: {{learning_rate: …}}}}",
            )
        row = {
            "epoch": self.current_epoch + 1,
            "loss": loss,
            "train_miou": scores(matrix).miou,
            "learning_rate": self.optimizers().param_groups[0]["lr"],
            "seconds": time.perf_counter() - self.started,
        }
        self.history.append(row)

    def configure_optimizers(self) -> dict[str, Any]:
        r = self.recipe
        rate, least = r.rates
        if r.optimizer == "sgd":
            optimizer = torch.optim.SGD(self.parameters(), lr=rate, momentum=r.momentum, weight_decay=r.weight_decay)
        else:
            optimizer = torch.optim.AdamW(self.parameters(), lr=rate, weight_decay=r.weight_decay, fused=True)
        steps = self.trainer.estimated_stepping_batches
        warmup = round(r.warmup_epochs * steps / r.epochs)
        floor = least / rate

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            progress = min((step - warmup) / max(steps - warmup, 1), 1.0)
            return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]


class SaveProgress(Checkpoint):
    """After an epoch: one progress line, and, at most every ``every_seconds``, what a resumed run needs."""

    def __init__(self, path: Path, *, signature: str, every_seconds: float) -> None:
        self.path, self.signature, self.every_seconds = path, signature, every_seconds
        self.saved = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.bar = tqdm(
            total=trainer.max_epochs,
            initial=trainer.current_epoch,
            desc=pl_module.model_name,
            unit="epoch",
            disable=not trainer.is_global_zero,
        )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        last = pl_module.history[-1]
        self.bar.set_postfix(loss=f"{last['loss']:.3f}", train_miou=f"{last['train_miou']:.3f}", refresh=False)
        self.bar.update()
        due = time.monotonic() - self.saved >= self.every_seconds
        if trainer.strategy.broadcast(due):  # all processes save together, or none
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        draft = self.path.with_name(f"{self.path.name}.draft")
        trainer.save_checkpoint(draft, weights_only=False)
        if trainer.is_global_zero:
            os.replace(draft, self.path)  # Lightning drafts in the system's temporary folder: maybe on another disk
        self.saved = time.monotonic()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["signature"] = self.signature

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.bar.close()


def fit(
    model_name: str,
    *,
    voc_folder: Path,
    dataset_hash: str,
    num_classes: int,
    recipe: Recipe,
    seed: int,
    folder: Path,
    checkpoint_seconds: float = 60.0,
) -> SegmentationTask:
    """Train one model, going on from ``folder/last.ckpt`` where an interrupted run left one.

    Of several processes, started by torchrun, each makes this call; the trained model is then the checkpoint that they
    leave, and the same call in one process finishes it.

    Parameters
    ----------
    model_name : str
    voc_folder, dataset_hash : Path, str
        The VOC tree and its hash: a checkpoint made from other data is not continued.
    num_classes : int
    recipe : Recipe
    seed : int
    folder : Path
        The run's folder; ``last.ckpt`` and ``history.csv`` are written there.
    checkpoint_seconds : float
        Shortest time between two checkpoints, seconds; they are written at the end of an epoch.

    Returns
    -------
    SegmentationTask
        Trained, on the training device, in evaluation mode; ``history`` holds one row per epoch.

    Raises
    ------
    StudyError
        Non-finite loss, unreadable checkpoint, too few images.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # a run's own line says what matters
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # of Lightning's own doing
    folder.mkdir(parents=True, exist_ok=True)
    signature = fingerprint(model_name, num_classes, recipe.digest, seed, dataset_hash)
    checkpoint = folder / "last.ckpt"
    task = SegmentationTask(model_name, num_classes=num_classes, recipe=recipe, seed=seed)
    data = SlagDataModule(voc_folder, recipe=recipe, seed=seed)
    progress = SaveProgress(checkpoint, signature=signature, every_seconds=checkpoint_seconds)
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # torchrun sets both
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    trainer = L.Trainer(
        max_epochs=recipe.epochs,
        devices=per_node,
        num_nodes=processes // per_node,
        strategy="ddp" if processes > 1 else "auto",
        # PyTorch has it for GPUs alone: on CPUs each process normalises by its own share of the batch.
        sync_batchnorm=processes > 1 and torch.cuda.is_available(),
        benchmark=torch.cuda.is_available(),  # every step has the same shape
        precision="bf16-mixed" if recipe.precision == "bf16" else "32-true",
        callbacks=[progress],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    resume = checkpoint if continues(checkpoint, signature) else None
    trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
    if processes > 1:
        progress.save(trainer)  # one process evaluates it, from there
        return task
    task.to(trainer.strategy.root_device)
    if recipe.recompute_batchnorm:
        # After a short training the running statistics still remember the first weights.
        batches = data.train_dataloader()
        torch.manual_seed(epoch_seed(seed, recipe.epochs))  # for dropout: a run resumed here draws the same
        update_bn(((normalize(images),) for images, _ in batches), task.model)
    write_atomically(folder / "history.csv", pd.DataFrame(task.history).to_csv(index=False).encode())
    return task.eval()


def continues(checkpoint: Path, signature: str) -> bool:
    """Whether a checkpoint is there and is of this very run: same model, recipe, seed and data."""
    if not checkpoint.exists():
        return False
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["signature"]
    except Exception as fault:  # torch raises a dozen types for a damaged file
        raise StudyError(
            f"the checkpoint cannot be read ({type(fault).__name__}: {fault})"[:300],
            where=checkpoint,
            mend="delete it: the run then starts from its first epoch",
        ) from fault
    if saved != signature:
        print(f"{checkpoint} is of another recipe or data set: starting from the first epoch")
    return saved == signature


def run(profile: Profile, model_name: str, seed: int, *, overwrite: bool = False) -> None:
    """Make the run folder of one model and seed; a run that is finished is left as it is.

    Of several processes, started by torchrun, none finishes the run: the same call in one process does.

    Raises
    ------
    StudyError
        A finished run of another recipe or data set is there, and `overwrite` is not set.
    """
    recipe, dataset = profile.recipe_of(model_name), voc.read_dataset(profile.voc)
    if evaluation.is_finished(profile, model_name, seed, recipe=recipe, overwrite=overwrite):
        print(f"{profile.run_folder(model_name, seed)}: finished, left as it is")
        return
    task = fit(
        model_name,
        voc_folder=profile.voc,
        dataset_hash=dataset["hash"],
        num_classes=len(profile.data.class_names),
        recipe=recipe,
        seed=seed,
        folder=profile.run_folder(model_name, seed),
    )
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        evaluation.finish_run(task.model, profile=profile, model_name=model_name, seed=seed, history=task.history)


def main(arguments: list[str] | None = None) -> None:
    """Train one run to its last epoch. One process writes the finished run; several leave their checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m rhseg_lib.training", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace a finished run of another recipe or data set")
    given = parser.parse_args(arguments)
    check_model(given.model)
    run(load_profile(given.profile), given.model, given.seed, overwrite=given.overwrite)


if __name__ == "__main__":
    try:
        main()
    except StudyError as fault:
        sys.exit(f"error: {fault}")
