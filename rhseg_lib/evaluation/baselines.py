"""Reference scores for the networks: pixel classifiers (lower), agreement of simulated annotators (upper)."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.ensemble import HistGradientBoostingClassifier

from rhseg_lib.dataset import voc_tree
from rhseg_lib.evaluation.inference import confusions
from rhseg_lib.evaluation.metrics import Scores, scores
from rhseg_lib.profile import Profile
from rhseg_lib.sources import images
from rhseg_lib.sources.images import IGNORE_INDEX
from rhseg_lib.sources.labelme import read_annotation
from rhseg_lib.sources.labelme_shapes import label_ids, rasterize

PIXEL_CLASSIFIERS = {"colour": False, "colour + place": True}  # name -> whether x and y are features
PIXELS_PER_IMAGE = 400  # training pixels drawn from each original
MOST_TRAINED, MOST_SCORED = 600_000, 3_000_000  # pixels times classes, which the time is proportional to


def pixel_features(images: np.ndarray, *, place: bool) -> np.ndarray:
    """One row per pixel of uint8 images (N, H, W, 3): R, G, B and, with ``place``, x and y as fractions of 1."""
    count, height, width, _ = images.shape
    rows = images.reshape(-1, 3).astype(np.float32)
    if not place:
        return rows
    y, x = np.mgrid[:height, :width].reshape(2, -1) / np.array([[height], [width]])
    return np.column_stack([rows, np.tile(x, count), np.tile(y, count)]).astype(np.float32)


def pixel_classifier(profile: Profile, *, place: bool) -> Scores:
    """Score boosted trees that see one pixel at a time: its colour and, with `place`, its position in the frame.

    Trained and scored on pixels drawn uniformly, as many from each image: from the training originals and from the test
    set. Their number is bounded by the number of classes, so that both take less than a minute.
    """
    dataset = voc_tree.read_dataset(profile.voc)
    originals = [name for name in voc_tree.read_split(profile.voc, "train") if name not in dataset["copy_of"]]
    classes, rng = len(dataset["classes"]), np.random.default_rng(0)
    count = min(PIXELS_PER_IMAGE, MOST_TRAINED // classes // len(originals) + 1)
    features, labels = _drawn(profile, originals, count, place, rng)
    print(f"Pixel classifier, colour{' and place' if place else ''}: learning from {len(labels):,} pixels", flush=True)
    known = labels != IGNORE_INDEX
    model = HistGradientBoostingClassifier(random_state=0).fit(features[known], labels[known])
    test = voc_tree.read_split(profile.voc, "test")
    features, truth = _drawn(profile, test, MOST_SCORED // classes // len(test) + 1, place, rng)
    return _scores(truth[:, None, None], model.predict(features)[:, None, None], profile)


def _drawn(
    profile: Profile, names: list[str], count: int, place: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of at most `count` pixels of each image."""
    features, labels = [], []
    for image, mask in zip(*voc_tree.load_arrays(profile.voc, names), strict=True):
        rows = rng.choice(mask.size, min(count, mask.size), replace=False)
        features.append(pixel_features(image[None], place=place)[rows])
        labels.append(mask.ravel()[rows])
    return np.concatenate(features), np.concatenate(labels)


def annotator_agreement(profile: Profile, names: list[str]) -> dict[str, Scores]:
    """Agreement of two simulated annotators, and of each with the exact mask, at the study's image size.

    A model at this level makes no more errors than a second annotator. Habits that both annotators share, such as
    omitting thin cables, can also be learned by a model.
    """
    first = np.stack([drawn_mask(profile, profile.raw / f"{name}.json") for name in names])
    second = np.stack([drawn_mask(profile, profile.raw / "second" / f"{name}.json") for name in names])
    exact = np.stack([_to_size(profile, Image.open(profile.raw / "truth" / f"{name}.png")) for name in names])
    return {
        "two simulated annotators": _scores(first, second, profile),
        "annotator one and exact mask": _scores(exact, first, profile),
        "annotator two and exact mask": _scores(exact, second, profile),
    }


def drawn_mask(profile: Profile, path: Path) -> np.ndarray:
    """The mask of a Labelme file of the raw folder, (S, S) uint8 at the study's image size."""
    labels = label_ids(profile.data.classes, profile.data.ignore_labels, profile.data.background_labels)
    annotation = read_annotation(path, root=profile.raw, labels=labels)
    height, width, _ = annotation.image.shape
    priority = profile.data.class_priority
    return _to_size(profile, rasterize(annotation.shapes, height, width, labels=labels, class_priority=priority)[0])


def _to_size(profile: Profile, mask: Image.Image | np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    image = np.zeros((*mask.shape, 3), np.uint8)  # the mask is resized with an image, as the training masks were
    return images.fit(image, mask, profile.data.image_size)[1]


def _scores(truth: np.ndarray, prediction: np.ndarray, profile: Profile) -> Scores:
    masks = torch.from_numpy(truth), torch.from_numpy(prediction)
    return scores(confusions(*masks, len(profile.data.class_names)).sum(0))
