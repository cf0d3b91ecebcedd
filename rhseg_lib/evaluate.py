"""Score trained weights on newly annotated images, at the images' own size.

    python -m rhseg_lib.evaluate WEIGHTS FOLDER --output scores.csv

FOLDER holds images with Labelme JSON, or a VOC tree (JPEGImages, SegmentationClass). Printed are the scores of each
class and the worst images; the CSV has a row per image, the worst first.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from rhseg_lib.errors import StudyError, exit_code, show
from rhseg_lib.evaluation import statistics
from rhseg_lib.evaluation.full_size_inference import Network, segment_image
from rhseg_lib.evaluation.metrics import by_image, confusion_matrices, scores
from rhseg_lib.evaluation.weights import Card
from rhseg_lib.files import write_atomically
from rhseg_lib.predict.runtime import open_weights
from rhseg_lib.profile import Data
from rhseg_lib.sources.checks import Problem, display_path, refuse
from rhseg_lib.sources.labelme_folder import LabelmeFolder
from rhseg_lib.sources.voc_folder import IMAGES, VocTree

WORST = 10  # images in the printed list


def evaluate(weights: Path, folder: Path) -> tuple[list[str], np.ndarray, Card]:
    """Names and confusion matrices (N, K, K) of the annotated images of a folder, and the card of the weights.

    Labels are the weights' classes; "__ignore__" marks regions that do not count. StudyError lists all annotation
    errors, or says that there is nothing to score. Of two annotations of one image, the first counts.
    """
    network, card, *_ = open_weights(weights)
    names, matrices = score(network, card, folder)
    return names, matrices, card


def score(network: Network, card: Card, folder: Path, *, most: int | None = None) -> tuple[list[str], np.ndarray]:
    """Names and confusion matrices of the annotated images of a folder, see `evaluate`; of `most`, evenly spread."""
    source = open_annotations(folder, card.class_names[1:])
    named = list(source.names().items())
    problems, found, scored, repeated = list[Problem](), dict[str, torch.Tensor](), set[str](), list[str]()
    for name, path in tqdm([named[index] for index in spread(len(named), most)], "scoring", unit="image"):
        picture, errors = source.examine(path)
        problems += errors
        if picture is None or problems:
            continue
        if picture.digest and picture.digest in scored:  # of the image; masks of a VOC tree have images of their own
            repeated.append(display_path(path, folder))
            continue
        scored.add(picture.digest)
        predicted = segment_image(picture.image, network, card)[0]
        truth, prediction = torch.tensor(picture.mask)[None], torch.tensor(predicted)[None]
        found[name] = confusion_matrices(truth, prediction, len(card.class_names))[0]
    refuse(problems, folder)
    if repeated:
        show(f"note: left out, as their image is scored already: {len(repeated)} annotations such as {repeated[0]}")
    matrices = np.stack([matrix.numpy() for matrix in found.values()])
    if not matrices.any():
        raise StudyError("every pixel is ignored", where=folder, fix="draw smaller regions to ignore")
    return list(found), matrices


def spread(count: int, most: int | None) -> list[int]:
    """At most `most` indices below `count`, evenly spread."""
    return np.linspace(0, count - 1, min(count, most or count)).astype(int).tolist()


def open_annotations(folder: Path, classes: tuple[str, ...]) -> LabelmeFolder | VocTree:
    """A folder of annotations with these classes; later classes cover earlier ones, as in a profile by default."""
    default = Data.model_fields["ignore_labels"].default
    if (folder / IMAGES).is_dir():
        return VocTree(folder, classes, own_split=False, ignore_labels=default)
    return LabelmeFolder(folder, classes, ignore_labels=default, class_priority=classes)


def of_classes(matrices: np.ndarray, class_names: tuple[str, ...]) -> pd.DataFrame:
    """IoU, precision and recall of each class over all images, in per cent."""
    total = matrices.sum(0)
    score, predicted = scores(total), total.sum(0)
    precision = np.divide(np.diagonal(total), predicted, out=np.full(len(total), np.nan), where=predicted > 0)
    columns = {"IoU": score.iou, "precision": precision, "recall": score.pa}
    return pd.DataFrame({name: 100 * np.array(values) for name, values in columns.items()}, index=list(class_names))


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0 if the folder was scored."""
    parser = argparse.ArgumentParser(prog="python -m rhseg_lib.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, help="weights.safetensors of a run, or its export")
    parser.add_argument("folder", type=Path, help="images with Labelme JSON, or a VOC tree")
    parser.add_argument("--output", type=Path, help="CSV file for the scores of each image")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _report(options.weights, options.folder, options.output))


def _report(weights: Path, folder: Path, output: Path | None) -> None:
    names, matrices, card = evaluate(weights, folder)
    images = by_image(names, matrices, card.class_names)
    low, high = (100 * end for end in statistics.mean_of(matrices[None], these_weights=True).interval)
    interval = "too few images for an interval" if np.isnan(low) else f"95 % interval {low:.1f} to {high:.1f}"
    show(f"{card.in_words}\n")
    show(f"Here: mIoU {100 * scores(matrices.sum(0)).miou:.1f} % on {len(names)} images ({interval})\n")
    show(of_classes(matrices, card.class_names).to_string(float_format="{:.1f}".format, na_rep="-"))
    worst = images.head(WORST).to_string(index=False, float_format="{:.1f}".format, na_rep="-")
    show(f"\nThe worst images, %\n{worst}")
    if output:
        write_atomically(output, images.to_csv(index=False).encode())


if __name__ == "__main__":
    sys.exit(main())
