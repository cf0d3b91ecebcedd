"""Fit one model with one seed; exact resume after any interruption."""

import logging
import os
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch.optim.swa_utils import update_bn
from tqdm import tqdm

from rhseg_lib.dataset import voc_tree
from rhseg_lib.dataset.batches import epoch_seed, normalize
from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation import runs
from rhseg_lib.files import write_atomically
from rhseg_lib.profile import Profile, Recipe, fingerprint
from rhseg_lib.training.task import SegmentationTask, SlagDataModule


class SaveProgress(Checkpoint):
    """After each epoch: one progress line and, at most every ``every_seconds``, a checkpoint to resume from."""

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

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        last = pl_module.history[-1]
        self.bar.set_postfix(loss=f"{last['loss']:.3f}", train_miou=f"{last['train_miou']:.3f}", refresh=False)
        self.bar.update()
        due = time.monotonic() - self.saved >= self.every_seconds
        if trainer.strategy.broadcast(due):  # all processes save, or none
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        draft = self.path.with_name(f"{self.path.name}.draft")
        trainer.save_checkpoint(draft, weights_only=False)
        if trainer.is_global_zero:
            os.replace(draft, self.path)  # Lightning's own draft may be on another disk
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
    """Train one model; resumes from ``folder/last.ckpt`` if an interrupted run left one.

    With several processes, started by torchrun, each makes this call. They leave the trained model as a checkpoint,
    and the same call in one process finishes it.

    Parameters
    ----------
    model_name : str
    voc_folder, dataset_hash : Path, str
        The VOC tree and its hash: a checkpoint from other data is not resumed.
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
        Trained, on the training device, in evaluation mode; ``history`` has one row per epoch.

    Raises
    ------
    StudyError
        Non-finite loss, unreadable checkpoint, too few images.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # the progress line is enough
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # raised inside Lightning
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
        # Only for GPUs in PyTorch: on CPUs each process normalises by its own share of the batch.
        sync_batchnorm=processes > 1 and torch.cuda.is_available(),
        benchmark=torch.cuda.is_available(),  # every step has the same shape
        precision="bf16-mixed" if recipe.precision == "bf16" else "32-true",
        callbacks=[progress],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    resume = checkpoint if can_resume(checkpoint, signature) else None
    trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
    if processes > 1:
        progress.save(trainer)  # one process evaluates it from the checkpoint
        return task
    task.to(trainer.strategy.root_device)
    if recipe.recompute_batchnorm:
        # After a short run the running statistics still reflect the first weights.
        batches = data.train_dataloader()
        torch.manual_seed(epoch_seed(seed, recipe.epochs))  # for dropout: the same after resuming here
        update_bn(((normalize(images),) for images, _ in batches), task.model)
    write_atomically(folder / "history.csv", pd.DataFrame(task.history).to_csv(index=False).encode())
    return task.eval()


def can_resume(checkpoint: Path, signature: str) -> bool:
    """Whether there is a checkpoint of this run: same model, recipe, seed and data."""
    if not checkpoint.exists():
        return False
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["signature"]
    except Exception as error:  # torch raises a dozen types for a damaged file
        raise StudyError(
            f"the checkpoint cannot be read ({type(error).__name__}: {error})"[:300],
            where=checkpoint,
            fix="delete it: the run then starts from its first epoch",
        ) from error
    if saved != signature:
        print(f"{checkpoint} is of another recipe or data set: starting from the first epoch")
    return saved == signature


def run(profile: Profile, model_name: str, seed: int, *, overwrite: bool = False) -> None:
    """Train and evaluate one model with one seed; a finished run is left unchanged.

    With several processes, started by torchrun, none finishes the run: the same call in one process does.

    Raises
    ------
    StudyError
        A finished run of another recipe or data set exists, and `overwrite` is not set.
    """
    recipe, dataset = profile.recipe_of(model_name), voc_tree.read_dataset(profile.voc)
    if runs.is_finished(profile, model_name, seed, recipe=recipe, overwrite=overwrite):
        print(f"{profile.run_folder(model_name, seed)}: finished, left unchanged")
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
        runs.finish_run(task.model, profile=profile, model_name=model_name, seed=seed, history=task.history)
