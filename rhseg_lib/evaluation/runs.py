"""The folder of a finished run: written atomically, read back, refused if its data set is not the one on disk."""

import json
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import ValidationError
from torch import nn

from rhseg_lib.dataset import voc_tree
from rhseg_lib.dataset.batches import load_tensors
from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation import weights
from rhseg_lib.evaluation.inference import abstention_bound, confusions, predict
from rhseg_lib.evaluation.metrics import mean_iou, scores
from rhseg_lib.evaluation.provenance import provenance
from rhseg_lib.files import read_json, write_atomically
from rhseg_lib.profile import Profile, Recipe
from rhseg_lib.sources.images import write_palette_png


class Run(NamedTuple):
    """A finished run, read back."""

    model: str
    seed: int
    metrics: dict
    matrices: np.ndarray  # (N, K, K) int64, in the order of ``names``
    names: tuple[str, ...]
    units: tuple[str, ...]  # original or group of each image: images of one unit are not independent


def finish_run(model: nn.Module, *, profile: Profile, model_name: str, seed: int, history: list[dict]) -> dict:
    """Evaluate a trained model on the test set and holdout and write its run folder; return its metrics.

    The kernels are rounded to half precision first, so that the stored weights are the evaluated ones.
    ``metrics.json`` is written last: it marks the run as complete.
    """
    folder = profile.run_folder(model_name, seed)
    for name in ("metrics.json", "thickness.parquet"):  # of an earlier run: one marks these weights as complete,
        (folder / name).unlink(missing_ok=True)  # the other would be taken for theirs
    weights.round_to_half(model)
    dataset = voc_tree.read_dataset(profile.voc)
    results, bound = _evaluate(model, profile, dataset, folder)
    origin = provenance(profile.root, next(model.parameters()).device)
    card = weights.Card(
        model=model_name,
        class_names=profile.data.class_names,
        image_size=profile.data.image_size,
        tile=profile.data.tile,
        profile=profile.name,
        kind=profile.kind,
        data=_origin(profile, model_name),
        dataset_hash=dataset["hash"],
        seed=seed,
        miou=results["test"]["miou"],
        abstain_below=bound,
        versions={name: origin[name] for name in ("python", "torch", "segmentation_models_pytorch")},
    )
    weights.write_weights(folder / "weights.safetensors", model, card)
    settings = _settings(profile, model_name, dataset, history)
    metrics = {"model": model_name, "seed": seed, **results, **settings, **origin}
    write_atomically(folder / "metrics.json", json.dumps(metrics, indent=1).encode())
    for checkpoint in folder.glob("last.ckpt*"):
        checkpoint.unlink()
    return metrics


def _origin(profile: Profile, model_name: str) -> str:
    """What a run learnt from, for its card."""
    start = profile.recipe_of(model_name).start_from
    return profile.data.description + (f", starting from {start}" if start else "")


def _evaluate(model: nn.Module, profile: Profile, dataset: dict, folder: Path) -> tuple[dict[str, dict], float]:
    """Scores by subset, and the abstention bound; writes ``per_image.parquet`` and the test images' predictions."""
    tables, results = [], {}
    for part in parts(profile):
        names = voc_tree.read_split(profile.voc, part)
        images, masks = load_tensors(profile.voc, names)
        predictions = predict(model, images)
        matrices = confusions(masks, predictions, len(dataset["classes"]))
        tables.append(_per_image(matrices, names, dataset).assign(part=part))
        results[part] = {**asdict(scores(matrices.sum(0))), "images": len(names)}
        if part == "test":
            bound = abstention_bound(
                model, images, masks, [dataset.get("tile_of", {}).get(name, name) for name in names]
            )
            (folder / "predictions").mkdir(exist_ok=True)
            for name, prediction in zip(names, predictions.cpu().numpy(), strict=True):
                write_palette_png(folder / "predictions" / f"{name}.png", prediction)
    write_atomically(folder / "per_image.parquet", pd.concat(tables).to_parquet())
    return results, bound


def _per_image(matrices: np.ndarray, names: list[str], dataset: dict) -> pd.DataFrame:
    """A row per image: its name, the counts of its confusion matrix, and its unit."""
    classes = range(matrices.shape[1])
    columns = [f"{i}_{j}" for i in classes for j in classes]
    originals = [dataset["copy_of"].get(name, name) for name in names]
    units = [dataset["group_of"].get(name, name) for name in originals]
    index = pd.Index(names, name="name")
    return pd.DataFrame(matrices.reshape(len(names), -1), columns=columns, index=index).assign(unit=units)


def _settings(profile: Profile, model_name: str, dataset: dict, history: list[dict]) -> dict:
    """Training data and recipe of a run, number of training images seen, duration and final loss."""
    recipe = profile.recipe_of(model_name)
    epoch = recipe.epoch_images or len(voc_tree.training_split(profile.voc, recipe.validation_fraction)[0])
    return {
        "class_names": list(profile.data.class_names),
        "final_loss": history[-1]["loss"],
        "images_seen": recipe.epochs * (epoch - epoch % recipe.batch_size),
        "train_seconds": sum(row["seconds"] for row in history),
        "profile": profile.name,
        "recipe": recipe.model_dump(),
        "image_size": profile.data.image_size,
        "dataset_hash": dataset["hash"],
    }


def is_finished(profile: Profile, model: str, seed: int, *, overwrite: bool) -> bool:
    """Whether a run with the profile's recipe and the data set on disk is finished.

    StudyError if it is of another recipe or data set, and `overwrite` is not set.
    """
    path = profile.run_folder(model, seed) / "metrics.json"
    if not path.exists():
        return False
    different = _difference(profile, model, _read_metrics(path))
    if different and not overwrite:
        raise StudyError(
            f"a finished run of another {different} exists",
            where=path,
            fix="set overwrite to replace it (-p overwrite true, or --overwrite), or train another seed",
        )
    return not different


def _read_metrics(path: Path) -> dict:
    """The content of ``metrics.json``; StudyError if it is damaged."""
    fix = "delete the folder of this run, then train it again"
    metrics = read_json(path, fix=fix)
    try:
        Recipe.model_validate(metrics["recipe"])
        return {**metrics, "dataset_hash": metrics["dataset_hash"], "class_names": metrics["class_names"]}
    except (KeyError, ValidationError) as error:
        raise StudyError("the record of a run is incomplete or of another version", where=path, fix=fix) from error


def _difference(profile: Profile, model: str, metrics: dict) -> str:
    """What a run was trained with that the profile or its data set on disk has no longer; "" if all is the same."""
    if metrics["dataset_hash"] != voc_tree.read_dataset(profile.voc)["hash"]:
        return "data set"
    return "" if Recipe.model_validate(metrics["recipe"]) == profile.recipe_of(model) else "recipe"


def read_run(profile: Profile, model: str, seed: int, *, part: str = "test") -> Run:
    """Read a run's matrices of one subset; StudyError if it is unfinished, or of another data set or recipe."""
    folder = profile.run_folder(model, seed)
    path = folder / "metrics.json"
    if not path.exists():
        raise StudyError(f"no finished run of {model}, seed {seed}", where=folder, fix=_train(profile, model, seed))
    metrics = _read_metrics(path)
    if different := _difference(profile, model, metrics):
        again = f"{_train(profile, model, seed)} --overwrite"
        raise StudyError(f"the run was trained with another {different}", where=path, fix=f"train it again: {again}")
    table = pd.read_parquet(folder / "per_image.parquet")
    table = table[table["part"] == part]
    classes = len(metrics["class_names"])
    matrices = table.drop(columns=["part", "unit"]).to_numpy().reshape(-1, classes, classes)
    return Run(model, seed, metrics, matrices, tuple(table.index), tuple(table["unit"]))


def finished_runs(profile: Profile, *, part: str | None = None) -> list[Run]:
    """Every finished run of the profile's models and seeds, in the profile's order; at least one.

    `part` is "test" or "holdout"; by default the holdout if there is one, as it has more images.
    """
    finished = [
        read_run(profile, model, seed, part=part or parts(profile)[-1])
        for model, seed in product(profile.models, profile.seeds)
        if (profile.run_folder(model, seed) / "metrics.json").exists()
    ]
    if not finished:
        raise StudyError("no finished run", where=profile.reports / "runs", fix=f"make study PROFILE={profile.name}")
    if any(run.names != finished[0].names for run in finished):
        fix = "delete the folder of the run that differs, and run the study again"
        raise StudyError("runs were evaluated on different images", where=profile.reports / "runs", fix=fix)
    return finished


def parts(profile: Profile) -> list[str]:
    """The subsets that runs are evaluated on; the last has the most images."""
    return ["test", "holdout"] if profile.data.holdout_scenes else ["test"]


def image_scores(run: Run) -> np.ndarray:
    """mIoU of each image over the classes in its annotation or prediction: (N,), 0 to 1."""
    return mean_iou(run.matrices)


def choose_pictures(reference: Run, others: list[Run]) -> dict[str, str]:
    """The reference's best, median and worst image, and the one on which the others differ most: title -> name."""
    scored = image_scores(reference)
    order = np.argsort(scored, kind="stable")[: np.isfinite(scored).sum()]  # without images that are ignored as a whole
    chosen = {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}
    if len(others) > 1:
        spread = np.nan_to_num(np.ptp([image_scores(run) for run in others], axis=0), nan=-1)
        spread[list(chosen.values())] = -1
        if spread.max() >= 0:
            chosen["models differ"] = int(np.argmax(spread))
    return {title: reference.names[index] for title, index in chosen.items()}


def read_predictions(profile: Profile, model: str, seed: int, names: list[str]) -> np.ndarray:
    """Masks that a finished run predicted for images of the test set, (N, H, W) uint8."""
    folder = profile.run_folder(model, seed) / "predictions"
    return np.stack([np.asarray(Image.open(folder / f"{name}.png")) for name in names])


def runs_with_predictions(profile: Profile) -> list[Run]:
    """The finished runs, scored on the test set, whose predictions for it are on disk; at least one."""
    runs = [run for run in finished_runs(profile, part="test") if has_predictions(profile, run)]
    if not runs:
        fix = f"delete one of these folders, then: make study PROFILE={profile.name}"
        raise StudyError("no run has its predictions", where=profile.reports / "runs", fix=fix)
    return runs


def has_predictions(profile: Profile, run: Run) -> bool:
    """Whether a run's predictions are on disk; a clone of the repository has only those of the first seed."""
    return (profile.run_folder(run.model, run.seed) / "predictions").is_dir()


def has_weights(profile: Profile, run: Run) -> bool:
    """Whether a run's weights are on disk; a clone of the repository has only those of small models."""
    return (profile.run_folder(run.model, run.seed) / "weights.safetensors").exists()


def load_model(profile: Profile, model: str, seed: int) -> nn.Module:
    """The trained network of a finished run, in evaluation mode on the CPU."""
    path = profile.run_folder(model, seed) / "weights.safetensors"
    try:
        network, card = weights.read_weights(path)
    except StudyError as error:
        error.fix = retrain(profile, model, seed)
        raise
    if (card.model, card.class_names) != (model, profile.data.class_names):
        what = f"the weights are of {card.model} for {', '.join(card.class_names)}"
        raise StudyError(what, where=path, fix=retrain(profile, model, seed))
    return network


def retrain(profile: Profile, model: str, seed: int) -> str:
    """How to make the weights of a finished run again."""
    return f"delete {profile.run_folder(model, seed)}, then: {_train(profile, model, seed)}"


def _train(profile: Profile, model: str, seed: int) -> str:
    """The command that trains a run."""
    return f"python -m rhseg_lib.training --profile {profile.name} --model {model} --seed {seed}"
