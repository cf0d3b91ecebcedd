"""A model with its loss, optimizer and learning-rate schedule (paper, Table 1)."""

import math
import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from segmentation_models_pytorch.losses import DiceLoss
from torch.nn import functional as F

from rhseg_lib.dataset.batches import epoch_seed, flip_at_random, mean_and_std, normalize
from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation.metrics import confusion_matrices, scores
from rhseg_lib.models import build_model
from rhseg_lib.profile import Recipe
from rhseg_lib.sources.images import IGNORE_INDEX


class SegmentationTask(L.LightningModule):
    """A model, its loss and its schedule.

    `model_name` is a key of ``rhseg_lib.models.MODELS``; `seed` determines the initial weights and every dropout mask.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model_name: str, *, num_classes: int, recipe: Recipe, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        pretrained = recipe.pretrained and recipe.start_from is None
        self.model = build_model(model_name, num_classes=num_classes, pretrained=pretrained)
        if recipe.channels_last:
            self.model.to(memory_format=torch.channels_last)
        for name, values in zip(("mean", "std"), mean_and_std(), strict=True):
            self.register_buffer(name, values, persistent=False)  # a CPU tensor would rule out CUDA graphs
        self.dice = DiceLoss("multiclass", ignore_index=IGNORE_INDEX)
        self.model_name, self.num_classes = model_name, num_classes
        self.recipe, self.seed = recipe, seed
        self.history: list[dict[str, float]] = []
        self.compiled: Callable | None = None

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        images, masks = flip_at_random(*batch) if self.recipe.flip else batch  # (B, 3, H, W), (B, H, W) uint8
        if self.recipe.compile == "cuda_graphs":
            self.zero_grad()  # the next replay reuses the memory of the last step's gradients
            torch.compiler.cudagraph_mark_step_begin()
        loss, predicted = (self.compiled or self.forward_pass)(images, masks)
        with torch.no_grad():  # summed on the device, without waiting for it
            self.loss_sum += loss
            self.matrix += confusion_matrices(masks, predicted, self.num_classes).sum(0)
        return loss

    def forward_pass(self, images: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and most probable classes (B, H, W) of uint8 images (B, 3, H, W) and masks (B, H, W)."""
        layout = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        normalized = normalize(images, (self.mean, self.std)).contiguous(memory_format=layout)
        logits = self.model(normalized).float()  # (B, K, H, W)
        loss = F.cross_entropy(logits, masks.long(), ignore_index=IGNORE_INDEX)
        if self.recipe.dice_weight:
            loss = loss + self.recipe.dice_weight * self.dice(logits, masks.long())
        return loss, logits.detach().argmax(1)

    def on_fit_start(self) -> None:
        mode = {"default": "default", "cuda_graphs": "reduce-overhead"}.get(self.recipe.compile)
        one_graph = self.trainer.world_size == 1  # synchronised batch norm breaks the graph
        self.compiled = torch.compile(self.forward_pass, mode=mode, fullgraph=one_graph) if mode else None

    def on_fit_end(self) -> None:
        self.compiled = None  # not needed after the fit, and it cannot be copied

    def on_train_epoch_start(self) -> None:
        batches: Any = self.trainer.train_dataloader
        batches.set_epoch(self.current_epoch)
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
                fix=f"lower the learning rate for this model: recipe_for: {{{self.model_name}: {{learning_rate: …}}}}",
            )
        row = {
            "epoch": self.current_epoch + 1,
            "loss": loss,
            "train_miou": scores(matrix).miou,
            "learning_rate": self.trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": time.perf_counter() - self.started,
        }
        self.history.append(row)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        r = self.recipe
        rate, min_rate = r.rates
        optimizer: torch.optim.Optimizer
        if r.optimizer == "sgd":
            optimizer = torch.optim.SGD(self.parameters(), lr=rate, momentum=r.momentum, weight_decay=r.weight_decay)
        else:
            optimizer = torch.optim.AdamW(self.parameters(), lr=rate, weight_decay=r.weight_decay, fused=True)
        steps = self.trainer.estimated_stepping_batches
        warmup = round(r.warmup_epochs * steps / r.epochs)
        final_factor = min_rate / rate

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            progress = min((step - warmup) / max(steps - warmup, 1), 1.0)
            return final_factor + (1 - final_factor) * (1 + math.cos(math.pi * progress)) / 2

        # Not SequentialLR of LinearLR and CosineAnnealingLR: it rounds differently at most steps, which changes the
        # weights of a repeated run, and checkpoints written with LambdaLR would not load.
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]
