"""Train one model with one seed; a run interrupted at any point resumes to the same result."""

import logging
import os
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from torch.optim.swa_utils import update_bn

from rhseg_lib.dataset import voc_tree
from rhseg_lib.dataset.batches import Batches, DecodedBatches, epoch_seed, load_tensors, normalize
from rhseg_lib.errors import StudyError, show
from rhseg_lib.evaluation import runs
from rhseg_lib.files import disk_errors, sole_writer, write_atomically
from rhseg_lib.profile import Profile, Recipe, fingerprint
from rhseg_lib.training.initial_weights import start_from_earlier
from rhseg_lib.training.progress import Progress
from rhseg_lib.training.task import SegmentationTask


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
    """Train one model in the run folder; resumes from its ``last.ckpt`` if an interrupted run left one.

    The checkpoint of another model, recipe, seed or data set (`dataset_hash`) is not resumed, but kept beside the new
    one as ``last.ckpt.replaced``. A new one is written at the end of an epoch, at most every `checkpoint_seconds`.
    The last digits of a result depend on the number of CPU threads: that of OMP_NUM_THREADS, or one if it is not set.
    A resumed run keeps the number it began with. With several processes, started by torchrun, each makes this call.
    They leave the trained model as a checkpoint, and the same call in one process finishes it.

    Of the training originals, the recipe's `validation_fraction` is held out and scored after each epoch; with
    `keep_best_epoch`, the weights of the best epoch are kept. With `start_from`, the model is initialised with the
    weights of an earlier run, whose file must not change until this run has finished.

    Returns the task on the training device, in evaluation mode; its `history` has one row per epoch. StudyError if the
    loss is not finite, the checkpoint cannot be read, there are too few images, or Ctrl-C stops it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    checkpoint = folder / "last.ckpt"
    task = SegmentationTask(model_name, num_classes=num_classes, recipe=recipe, seed=seed)
    start = start_from_earlier(task, voc_folder, folder)
    signature = fingerprint(model_name, num_classes, recipe.digest, seed, dataset_hash, *start)
    names, held_out = voc_tree.training_split(voc_folder, recipe.validation_fraction)
    progress = Progress(
        checkpoint,
        signature=signature,
        every_seconds=checkpoint_seconds,
        validation=load_tensors(voc_folder, held_out) if held_out else None,
    )
    trainer = make_trainer(recipe, progress, folder)
    batches = training_batches(voc_folder, names, recipe, seed, trainer)
    threads = threads_to_resume(checkpoint, signature)
    if threads:
        torch.set_num_threads(threads)
    try:
        trainer.fit(task, train_dataloaders=batches, ckpt_path=checkpoint if threads else None, weights_only=True)
    except (KeyboardInterrupt, SystemExit):  # on Ctrl-C, Lightning exits without a message
        fix = "run the same command again: it resumes after the last saved epoch"
        raise StudyError("the run was interrupted", where=folder, fix=fix) from None
    if trainer.world_size > 1:
        progress.save(trainer)  # one process evaluates it from the checkpoint
        return task
    task.to(trainer.strategy.root_device)
    if recipe.keep_best_epoch:
        task.model.load_state_dict(progress.best["weights"])
    if recipe.recompute_batchnorm:
        recompute_batchnorm(task, batches)
    write_atomically(folder / "history.csv", pd.DataFrame(task.history).to_csv(index=False).encode())
    return task.eval()


def recompute_batchnorm(task: SegmentationTask, batches: Batches) -> None:
    """Batch-norm statistics from one pass over the training set: after a short run they still reflect early weights."""
    batches.set_epoch(0)
    torch.manual_seed(epoch_seed(task.seed, task.recipe.epochs))  # for dropout: the same after resuming here
    update_bn(((normalize(images),) for images, _ in batches), task.model)


def make_trainer(recipe: Recipe, progress: Checkpoint, folder: Path) -> L.Trainer:
    """Lightning's trainer for this process, and for the others that torchrun started."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # the progress line is enough
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # raised inside Lightning
    warnings.filterwarnings("ignore", message=".*`srun`")  # a hint that does not hold for single runs
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # torchrun sets both
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return L.Trainer(
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
        # Lightning resumes from any checkpoint that it finds in this folder: there is none.
        default_root_dir=folder / "none",
        # Not Slurm's, which Lightning would find by itself: it refuses allocations of several tasks, and its signals
        # leave checkpoints that no signature guards.
        plugins=[TorchElasticEnvironment() if processes > 1 else LightningEnvironment()],
    )


def training_batches(voc_folder: Path, names: list[str], recipe: Recipe, seed: int, trainer: L.Trainer) -> Batches:
    """Batches of the named images, by default decoded once and kept on the training device."""
    device = trainer.strategy.root_device
    options: dict[str, Any] = {
        "batch_size": recipe.batch_size,
        "epoch_images": recipe.epoch_images,
        "seed": seed,
        "rank": trainer.global_rank,
        "world_size": trainer.world_size,
    }
    if not recipe.dataset_on_device:
        return DecodedBatches(voc_folder, names, device=device, **options)
    images, masks = load_tensors(voc_folder, names)
    return Batches(images.to(device), masks.to(device), **options)


def threads_to_resume(checkpoint: Path, signature: str) -> int:
    """Number of CPU threads to resume the checkpoint with; 0 if there is none. One of another signature is set aside.

    The signature covers model, recipe, seed and data. StudyError if the checkpoint cannot be read.
    """
    if not checkpoint.is_file():
        return 0
    try:
        with ZipFile(checkpoint) as archive:
            if damaged := archive.testzip():  # compares checksums, which torch.load does not
                raise BadZipFile(f"{damaged} has changed since it was written")
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        found, threads = saved["signature"], saved["threads"]
    except Exception as error:  # torch raises many types for a damaged file
        raise StudyError(
            f"the checkpoint cannot be read ({type(error).__name__}: {error})"[:300],
            where=checkpoint,
            fix="delete it: the run then starts from the first epoch",
        ) from error
    if found != signature:
        kept = checkpoint.with_name("last.ckpt.replaced")
        os.replace(checkpoint, kept)
        show(f"{checkpoint} is of another recipe or data set: kept as {kept.name}, starting from the first epoch")
        return 0
    if threads != torch.get_num_threads():
        show(f"{checkpoint} began with {threads} CPU thread(s): resuming with as many, for the same result")
    return threads


def run(profile: Profile, model_name: str, seed: int, *, overwrite: bool = False) -> None:
    """Train and evaluate one model with one seed; a finished run is left unchanged.

    Several processes, started by torchrun, only train: the same call in one process then evaluates. StudyError if a
    finished run of another recipe or data set exists, and `overwrite` is not set.
    """
    if not 0 <= seed < 2**32:
        raise StudyError("the seed is out of range", where=f"seed {seed}", fix="give a seed from 0 to 4294967295")
    if runs.is_finished(profile, model_name, seed, overwrite=overwrite):
        show(f"{profile.run_folder(model_name, seed)}: finished, left unchanged")
        return
    folder, dataset_hash = profile.run_folder(model_name, seed), voc_tree.read_dataset(profile.voc)["hash"]
    is_first = os.environ.get("RANK", "0") == "0"  # of those that torchrun started
    with disk_errors(folder), sole_writer(folder) if is_first else nullcontext():
        task = fit(
            model_name,
            voc_folder=profile.voc,
            dataset_hash=dataset_hash,
            num_classes=len(profile.data.class_names),
            recipe=profile.recipe_of(model_name),
            seed=seed,
            folder=folder,
        )
        if voc_tree.read_dataset(profile.voc)["hash"] != dataset_hash:
            fix = "run again: the training starts from the first epoch"
            raise StudyError("the data set was replaced during the training", where=profile.voc, fix=fix)
        if task.trainer.world_size == 1:
            runs.finish_run(task.model, profile=profile, model_name=model_name, seed=seed, history=task.history)
