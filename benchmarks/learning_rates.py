"""Choose each model's learning rate by short trials on training scenes; test set and holdout are not used.

    python benchmarks/learning_rates.py --profile reduced

Every model gets the same trial at every rate of one grid: the profile's recipe for a few epochs, on nine tenths of the
training originals with their copies, scored on the last tenth. Results are appended to
reports/<profile>/tables/learning_rates.csv; a trial already in that file is not run again.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from rhseg_lib.dataset import voc_tree
from rhseg_lib.dataset.batches import load_tensors
from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation import inference
from rhseg_lib.evaluation.metrics import scores
from rhseg_lib.files import write_atomically
from rhseg_lib.profile import Profile, Recipe, load_profile
from rhseg_lib.training import fit

GRID = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SEED = 1000  # of weights and batches; not used by any run of a study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="reduced")
    parser.add_argument("--models", nargs="+", help="default: the models of the profile")
    parser.add_argument("--epochs", type=int, default=2, help="epochs per trial")
    options = parser.parse_args()
    profile = load_profile(options.profile)
    path = profile.tables / "learning_rates.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    for model in options.models or profile.models:
        for rate in GRID:
            if any((row["model"], row["learning_rate"]) == (model, rate) for row in finished_trials(path)):
                continue
            row = trial(profile, model, rate, options.epochs)
            rows = [*finished_trials(path), row]  # read again: another process may have added rows
            write_atomically(path, pd.DataFrame(rows).to_csv(index=False).encode())
            print(row, flush=True)


def finished_trials(path: Path) -> list[dict]:
    """The trials in the table."""
    return pd.read_csv(path).to_dict("records") if path.exists() else []


def trial(profile: Profile, model: str, rate: float, epochs: int) -> dict:
    """Train one model at one rate and score it on the held-out originals."""
    with TemporaryDirectory() as folder:
        tree = Path(folder) / "voc"
        held_out = hold_out(profile.voc, tree)
        try:
            task = fit.fit(
                model,
                voc_folder=tree,
                dataset_hash="trial",
                num_classes=len(profile.data.class_names),
                recipe=shortened(profile.recipe_of(model), rate, epochs),
                seed=SEED,
                folder=Path(folder) / "run",
            )
        except StudyError as error:  # a rate too high for this model is a result
            return {"model": model, "learning_rate": rate, "miou": np.nan, "slag_iou": np.nan, "loss": str(error)}
        images, masks = load_tensors(tree, held_out)
        matrices = inference.confusions(masks, inference.predict(task.model, images), task.num_classes)
    result = scores(matrices.sum(0))
    return {
        "model": model,
        "learning_rate": rate,
        "miou": round(100 * result.miou, 2),
        "slag_iou": round(100 * result.iou[-1], 2),
        "loss": round(task.history[-1]["loss"], 4),
    }


def shortened(recipe: Recipe, rate: float, epochs: int) -> Recipe:
    """The recipe with another rate, its warm-up and decay compressed into a few epochs."""
    return Recipe.model_validate(
        {
            **recipe.model_dump(),
            "epochs": epochs,
            "warmup_epochs": recipe.warmup_epochs * epochs / recipe.epochs,
            "learning_rate": rate,
            "min_learning_rate": rate / 100,
        }
    )


def hold_out(whole: Path, tree: Path) -> list[str]:
    """Write a VOC tree of nine tenths of the training originals with their copies; return the other originals."""
    copy_of = voc_tree.read_dataset(whole)["copy_of"]
    names = voc_tree.read_split(whole, "train")
    originals = [name for name in names if name not in copy_of]
    held_out = originals[-len(originals) // 10 :]
    lists = tree / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    kept = [name for name in names if copy_of.get(name, name) not in set(held_out)]
    (lists / "train.txt").write_text("\n".join(kept))
    for entry in ("JPEGImages", "SegmentationClass", "dataset.json"):
        (tree / entry).symlink_to((whole / entry).resolve())
    return held_out


if __name__ == "__main__":
    try:
        main()
    except StudyError as error:
        sys.exit(f"error: {error}")
