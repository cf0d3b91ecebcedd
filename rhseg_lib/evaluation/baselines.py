"""References for the networks: pixel-classifier baselines (lower), agreement of simulated annotators (upper)."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.ensemble import HistGradientBoostingClassifier

from rhseg_lib.dataset import voc_tree
from rhseg_lib.evaluation.metrics import Scores, confusion_matrices, scores
from rhseg_lib.profile import Profile
from rhseg_lib.sources import images
from rhseg_lib.sources.images import IGNORE_INDEX
from rhseg_lib.sources.labelme import read_annotation
from rhseg_lib.sources.labelme_shapes import label_ids, rasterize

PIXEL_CLASSIFIERS = {"colour": False, "colour + place": True}  # name -> whether x and y are features


def pixel_features(images: np.ndarray, *, place: bool) -> np.ndarray:
    """One row per pixel of uint8 images (N, H, W, 3): R, G, B and, with ``place``, x and y as fractions of 1."""
    count, height, width, _ = images.shape
    rows = images.reshape(-1, 3).astype(np.float32)
    if not place:
        return rows
    y, x = np.mgrid[:height, :width].reshape(2, -1) / np.array([[height], [width]])
    return np.column_stack([rows, np.tile(x, count), np.tile(y, count)]).astype(np.float32)


def pixel_classifier(profile: Profile, *, place: bool, pixels_per_image: int = 400, seed: int = 0) -> Scores:
    """Score boosted trees that see one pixel at a time: its colour alone, or its colour and position.

    Trained on pixels drawn uniformly from the training originals, scored on every pixel of the test set.

    Parameters
    ----------
    profile : Profile
        Its VOC tree must be on disk.
    place : bool
        Whether the classifier also sees the pixel's position in the frame.
    pixels_per_image : int
        Training pixels drawn from each original.
    """
    copies = voc_tree.read_dataset(profile.voc)["copy_of"]
    originals = [name for name in voc_tree.read_split(profile.voc, "train") if name not in copies]
    images, masks = voc_tree.load_arrays(profile.voc, originals)
    features, labels = pixel_features(images, place=place), masks.ravel()
    pixels = masks[0].size
    rng = np.random.default_rng(seed)
    drawn = [i * pixels + rng.choice(pixels, min(pixels_per_image, pixels), replace=False) for i in range(len(images))]
    rows = np.concatenate(drawn)
    rows = rows[labels[rows] != IGNORE_INDEX]
    model = HistGradientBoostingClassifier(random_state=seed).fit(features[rows], labels[rows])

    images, truth = voc_tree.load_arrays(profile.voc, voc_tree.read_split(profile.voc, "test"))
    prediction = model.predict(pixel_features(images, place=place)).reshape(truth.shape)
    return _scores(truth, prediction, profile)


def annotator_agreement(profile: Profile, names: list[str]) -> dict[str, Scores]:
    """Agreement of two simulated annotators, and of each with the exact mask, at the study's image size.

    A model at this level errs no more than a second person would. What both annotators have in common, such as
    passing over thin cables, a model can also learn.

    Parameters
    ----------
    profile : Profile
        Its synthetic data must be on disk.
    names : list of str
        Scenes to compare.
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
    """The mask described by a Labelme file of the raw folder, (S, S) uint8 at the study's image size."""
    labels = label_ids(profile.data.classes, profile.data.ignore_labels, profile.data.background_labels)
    annotation = read_annotation(path, root=profile.raw, labels=labels)
    height, width, _ = annotation.image.shape
    priority = profile.data.class_priority
    return _to_size(profile, rasterize(annotation.shapes, height, width, labels=labels, class_priority=priority)[0])


def _to_size(profile: Profile, mask: Image.Image | np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    image = np.zeros((*mask.shape, 3), np.uint8)  # resized with an image, as the training masks were
    return images.fit(image, mask, profile.data.image_size)[1]


def _scores(truth: np.ndarray, prediction: np.ndarray, profile: Profile) -> Scores:
    import torch

    classes = len(profile.data.class_names)
    return scores(confusion_matrices(torch.from_numpy(truth), torch.from_numpy(prediction), classes).sum(0).numpy())
