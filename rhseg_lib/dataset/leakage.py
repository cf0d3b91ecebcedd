"""Pairs of a training and a test image that show the same: there, a test cannot tell learning from memorizing.

Two images match if the difference hashes of their brightness (64 bits) differ by at most 12 bits, as they are or with
one mirrored, and thumbnails of 16x16 pixels correlate by at least 0.9. Of 200 synthetic scenes of 64 pixels no two
match, though the hashes alone would pair 32. Saved again as JPEG of quality 60, at half the size, 15 % brighter or
mirrored, all are detected; cropped by 3 % at each side, all but one. Finer thumbnails would miss more of the cropped.
"""

import io
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from rhseg_lib.dataset import voc_tree
from rhseg_lib.sources.images import IGNORE_INDEX

NEAR_BITS, NEAR_CORRELATION = 12, 0.9
THUMBNAIL = 16  # pixels
BLOCK = 256  # images compared with all others at a time: 5,000 others take about 30 MB
EXACT = 2.0  # similarity of equal pixels, above any correlation


class Leakage(NamedTuple):
    """Duplicates between train and test, and within each."""

    pairs: pd.DataFrame  # see `leakage`
    within: dict[str, int]  # images of each subset that match another one in it; copies do not count


class _Features(NamedTuple):
    """Compared features of N images; the second axis holds each as it is and mirrored."""

    names: np.ndarray  # (N,) str
    origins: np.ndarray  # (N,) str, the original of each
    digests: np.ndarray  # (N,) of the pixels
    hashes: np.ndarray  # (N, 2) uint64
    thumbnails: np.ndarray  # (N, 2, 256) float32, of mean 0 and norm 1; 0 for an image of one colour


def leakage(folder: Path) -> Leakage:
    """Find duplicates in and between the train and test sets of a VOC tree.

    Returns
    -------
    Leakage
        ``pairs`` has the columns kind, original (of the test image), train, test, bits (that differ in the hashes),
        correlation and mirrored. Kinds: "same original", every such pair, not compared; "same pixels" and "near
        duplicate", for a test image its most similar training image, which represents the copies made of it.
    """
    copy_of = voc_tree.read_dataset(folder)["copy_of"]
    train, test = voc_tree.read_split(folder, "train"), voc_tree.read_split(folder, "test")
    trained: dict[str, list[str]] = {}
    for name in train:
        trained.setdefault(copy_of.get(name, name), []).append(name)
    origins = {name: copy_of.get(name, name) for name in test}
    rows = [
        ("same original", origins[b], a, b, np.nan, np.nan, False) for b in test for a in trained.get(origins[b], ())
    ]
    firsts = [names[0] for names in trained.values()]  # the lists are sorted: an original comes before its copies
    features = {key: _read_features(folder, names, copy_of) for key, names in (("train", firsts), ("test", test))}
    found = [pair for block in _blocks(features["test"]) for pair in _most_similar(block, features["train"])]
    for similarity, *row in sorted(found, key=lambda pair: -pair[0]):
        rows.append(("same pixels" if similarity == EXACT else "near duplicate", *row))
    columns = ["kind", "original", "train", "test", "bits", "correlation", "mirrored"]
    pairs = pd.DataFrame(rows, columns=columns)
    within = {
        subset: sum(int((_similarity(block, some)[0].max(1) > 0).sum()) for block in _blocks(some))
        for subset, some in features.items()
    }
    return Leakage(pairs, within)


def in_words(found: Leakage, *, train: int, test: int) -> list[str]:
    """Summary in sentences; `train` and `test` are the numbers of images in these sets."""
    count = found.pairs.test.nunique()
    compared = f"{train} training and {test} test images were compared"
    if count == 0:
        lines = [f"No test image matches a training image ({compared})."]
    else:
        kinds = found.pairs.groupby("kind", sort=False).test.nunique()
        named = ", ".join(f"{number} “{kind}”" for kind, number in kinds.items())
        lines = [f"{count} test images match a training image ({compared}): {named}."]
    for subset, number in found.within.items():
        if number:
            lines.append(f"Within the {subset} subset, {number} images match another one of it.")
    return lines


def _blocks(features: _Features) -> list[_Features]:
    starts = range(0, len(features.names), BLOCK)
    return [_Features(*(values[start : start + BLOCK] for values in features)) for start in starts]


def _similarity(block: _Features, others: _Features) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Similarity, 0 if no match or of one original; bits that differ; whether mirrored: (B, N) each."""
    similarity, bits = [], []
    for way in (0, 1):
        apart = np.bitwise_count(block.hashes[:, :1] ^ others.hashes[:, way])
        correlation = block.thumbnails[:, 0] @ others.thumbnails[:, way].T
        similarity.append(
            np.where((apart <= NEAR_BITS) & (correlation >= NEAR_CORRELATION), correlation.clip(max=1), 0)
        )
        bits.append(apart)
    mirrored = similarity[1] > similarity[0]
    highest = np.maximum(*similarity)
    exact = block.digests[:, None] == others.digests
    highest[exact] = EXACT
    highest[block.origins[:, None] == others.origins] = 0
    mirrored &= ~exact
    return highest, np.where(mirrored, bits[1], bits[0]), mirrored


def _most_similar(tested: _Features, trained: _Features) -> list[tuple]:
    similarity, bits, mirrored = _similarity(tested, trained)
    rows = np.flatnonzero(similarity.max(1) > 0)
    return [
        (
            float(similarity[row, best]), str(tested.origins[row]), str(trained.names[best]), str(tested.names[row]),
            int(bits[row, best]), round(min(float(similarity[row, best]), 1.0), 3), bool(mirrored[row, best]),
        )
        for row, best in zip(rows, similarity[rows].argmax(1), strict=True)
    ]  # fmt: skip


def _read_features(folder: Path, names: list[str], copy_of: dict[str, str]) -> _Features:
    digests, hashes, thumbnails = zip(*(_features_of(folder, name) for name in names), strict=True)
    origins = np.array([copy_of.get(name, name) for name in names])
    return _Features(np.array(names), origins, np.array(digests), np.array(hashes), np.array(thumbnails))


def _features_of(folder: Path, name: str) -> tuple[str, np.ndarray, np.ndarray]:
    """Digest, hashes (2,) and thumbnails (2, 256) of one image, without the margin that pads it to a square."""
    content = voc_tree.image_file(folder, name).read_bytes()
    with Image.open(voc_tree.mask_file(folder, name)) as mask:
        counted = np.asarray(mask) != IGNORE_INDEX
    with Image.open(io.BytesIO(content)) as image:
        image.draft("L", (4 * THUMBNAIL, 4 * THUMBNAIL))  # a JPEG may be decoded smaller, which is faster
        scale = image.width / counted.shape[1]
        grey = image.convert("L")
    spans = [np.flatnonzero(counted.any(axis)) for axis in (0, 1)] if counted.any() else [np.arange(len(counted))] * 2
    left, top, right, bottom = (scale * span[end] + scale * (end < 0) for end in (0, -1) for span in spans)
    box = (left, top, min(right, grey.width), min(bottom, grey.height))
    cells = np.asarray(grey.resize((9, 8), Image.Resampling.BOX, box=box), dtype=np.int16)
    small = np.asarray(grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX, box=box), dtype=np.float32)
    hashes = [np.packbits(np.diff(some, axis=1) > 0).view(np.uint64)[0] for some in (cells, cells[:, ::-1])]
    small = small - small.mean()
    small /= np.linalg.norm(small) or 1
    # One encoder wrote the tree: equal files mean equal pixels.
    return sha256(content).hexdigest(), np.array(hashes), np.stack([small.ravel(), small[:, ::-1].ravel()])
