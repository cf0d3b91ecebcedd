"""What happens beside the steps of a training run: a progress bar, scores on held-out images, checkpoints."""

import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from tqdm import tqdm

from rhseg_lib.evaluation.inference import confusions, predict
from rhseg_lib.evaluation.metrics import scores


class Progress(Checkpoint):
    """Progress bar over the steps; at the end of an epoch the held-out images, and at times a checkpoint.

    Parameters
    ----------
    path : Path
        The checkpoint, written at most every `every_seconds`.
    signature : str
        Kept in it; see `fit.threads_to_resume`.
    validation : tuple of Tensor or None
        Held-out images (N, 3, H, W) uint8 and masks (N, H, W) uint8.

    Attributes
    ----------
    best : dict
        mIoU on the held-out images and weights of the best epoch so far; empty without such images.
    """

    def __init__(
        self,
        path: Path,
        *,
        signature: str,
        every_seconds: float,
        validation: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        self.path, self.signature, self.every_seconds = path, signature, every_seconds
        self.validation, self.best = validation, dict[str, Any]()
        self.saved = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        steps = int(trainer.num_training_batches)
        self.bar = tqdm(
            total=(trainer.max_epochs or 0) * steps,
            initial=trainer.current_epoch * steps,
            unit="step",
            mininterval=1,
            disable=not trainer.is_global_zero,
        )

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        epoch = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        self.bar.set_description(f"{pl_module.model_name}, {epoch}", refresh=False)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *batch: Any) -> None:
        self.bar.update()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        last = pl_module.history[-1]
        if self.validation is not None:
            last["validation_miou"] = self._validate(pl_module, *self.validation)
        shown = {name: f"{last[name]:.3f}" for name in ("loss", "train_miou", "validation_miou") if name in last}
        self.bar.set_postfix(shown, refresh=False)
        due = time.monotonic() - self.saved >= self.every_seconds
        if trainer.strategy.broadcast(due):  # all processes save, or none
            self.save(trainer)

    def _validate(self, task: Any, images: torch.Tensor, masks: torch.Tensor) -> float:
        """mIoU on the held-out images; the weights are kept if no earlier epoch's were better."""
        predicted = predict(task.model.eval(), images)
        task.model.train()
        miou = scores(confusions(masks, predicted, task.num_classes).sum(0)).miou
        if miou > self.best.get("miou", -1):
            self.best = {"miou": miou, "weights": {n: v.cpu().clone() for n, v in task.model.state_dict().items()}}
        return miou

    def save(self, trainer: L.Trainer) -> None:
        draft = self.path.with_name(f"{self.path.name}.draft")
        trainer.save_checkpoint(draft, weights_only=False)
        if trainer.is_global_zero:
            os.replace(draft, self.path)  # atomic: Lightning's own temporary file may be on another disk
        self.saved = time.monotonic()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"signature": self.signature, "threads": torch.get_num_threads(), "best": self.best}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.best = checkpoint["best"]

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.bar.close()
