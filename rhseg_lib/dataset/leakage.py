"""Pairs of a training and a test image that show the same: what the test cannot tell from memory.

Two images look alike if the difference hashes of their brightness (64 bits) are at most 12 bits apart, as they are or
one of them mirrored, and thumbnails of 16x16 pixels correlate by at least 0.9. Of 200 synthetic scenes of 64 pixels no
two are said to look alike, though the hashes alone would pair 32; saved again as JPEG of quality 60, at half the size,
15 % brighter or mirrored, all are found again, and cropped by 3 % at each side all but one. Finer thumbnails would miss
more of the cropped.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
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
BLOCK = 256  # images compared with all others at a time: 5,000 others take some 30 MB
EXACT = 2.0  # likeness of equal pixels, above any correlation


class Leakage(NamedTuple):
    """What two parts, and what one part, hold twice."""

    pairs: pd.DataFrame  # see `leakage`
    within: dict[str, int]  # images of each part that look like another one of that part; copies do not count


@dataclass(frozen=True)
class _Looks:
    """What is compared of N images; the second axis holds each as it is and mirrored."""

    names: np.ndarray  # (N,) str
    origins: np.ndarray  # (N,) str, the originals they are copies of
    digests: np.ndarray  # (N,) of the pixels
    hashes: np.ndarray  # (N, 2) uint64
    thumbnails: np.ndarray  # (N, 2, 256) float32, of mean 0 and norm 1; 0 for an image of one colour

    def __getitem__(self, rows: slice) -> _Looks:
        return _Looks(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def leakage(folder: Path) -> Leakage:
    """Find what the parts of a VOC tree hold twice.

    Returns
    -------
    Leakage
        ``pairs`` has the columns kind, original (of the test image), train, test, bits (of the hashes, that differ),
        correlation and mirrored. Kinds: "same original", every such pair, which is not compared; "same pixels" and
        "near duplicate", for a test image its most alike training image, which stands for the copies made of it.
    """
    copy_of = voc_tree.read_dataset(folder)["copy_of"]
    train, test = voc_tree.read_split(folder, "train"), voc_tree.read_split(folder, "test")
    trained = {}
    for name in train:
        trained.setdefault(copy_of.get(name, name), []).append(name)
    origins = {name: copy_of.get(name, name) for name in test}
    rows = [
        ("same original", origins[b], a, b, np.nan, np.nan, False) for b in test for a in trained.get(origins[b], ())
    ]
    standing = [some[0] for some in trained.values()]  # the lists are sorted: an original comes before its copies
    looks = {part: _look_at(folder, names, copy_of) for part, names in (("train", standing), ("test", test))}
    found = [pair for block in _blocks(looks["test"]) for pair in _most_alike(block, looks["train"])]
    for likeness, *row in sorted(found, key=lambda pair: -pair[0]):
        rows.append(("same pixels" if likeness == EXACT else "near duplicate", *row))
    columns = ["kind", "original", "train", "test", "bits", "correlation", "mirrored"]
    pairs = pd.DataFrame(rows, columns=columns)
    within = {
        part: sum(int((_likeness(block, some)[0].max(1) > 0).sum()) for block in _blocks(some))
        for part, some in looks.items()
    }
    return Leakage(pairs, within)


def in_words(found: Leakage, *, train: int, test: int) -> list[str]:
    """What was found, in sentences; `train` and `test` are the numbers of images in the parts."""
    count = found.pairs.test.nunique()
    compared = f"{train} training and {test} test images were compared"
    if count == 0:
        lines = [f"No training image shows what a test image shows ({compared})."]
    else:
        kinds = found.pairs.groupby("kind", sort=False).test.nunique()
        named = ", ".join(f"{number} of kind “{kind}”" for kind, number in kinds.items())
        lines = [f"{count} of the test images show what a training image shows ({compared}): {named}."]
    for part, number in found.within.items():
        if number:
            lines.append(f"In the {part} part alone, {number} images look like another one of it.")
    return lines


def _blocks(looks: _Looks) -> list[_Looks]:
    return [looks[start : start + BLOCK] for start in range(0, len(looks.names), BLOCK)]


def _likeness(block: _Looks, others: _Looks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How alike images are, 0 if not or of one original, and the bits that differ: (B, N) each; where mirrored."""
    likeness, bits = [], []
    for way in (0, 1):
        apart = np.bitwise_count(block.hashes[:, :1] ^ others.hashes[:, way])
        alike = block.thumbnails[:, 0] @ others.thumbnails[:, way].T
        likeness.append(np.where((apart <= NEAR_BITS) & (alike >= NEAR_CORRELATION), alike.clip(max=1), 0))
        bits.append(apart)
    mirrored = likeness[1] > likeness[0]
    highest = np.maximum(*likeness)
    exact = block.digests[:, None] == others.digests
    highest[exact] = EXACT
    highest[block.origins[:, None] == others.origins] = 0
    mirrored &= ~exact
    return highest, np.where(mirrored, bits[1], bits[0]), mirrored


def _most_alike(tested: _Looks, trained: _Looks) -> list[tuple]:
    likeness, bits, mirrored = _likeness(tested, trained)
    rows = np.flatnonzero(likeness.max(1) > 0)
    return [
        (
            float(likeness[row, best]), str(tested.origins[row]), str(trained.names[best]), str(tested.names[row]),
            int(bits[row, best]), round(min(float(likeness[row, best]), 1.0), 3), bool(mirrored[row, best]),
        )
        for row, best in zip(rows, likeness[rows].argmax(1), strict=True)
    ]  # fmt: skip


def _look_at(folder: Path, names: list[str], copy_of: dict[str, str]) -> _Looks:
    digests, hashes, thumbnails = zip(*(_look(folder, name) for name in names), strict=True)
    origins = np.array([copy_of.get(name, name) for name in names])
    return _Looks(np.array(names), origins, np.array(digests), np.array(hashes), np.array(thumbnails))


def _look(folder: Path, name: str) -> tuple[str, np.ndarray, np.ndarray]:
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
    # One encoder wrote the tree: equal files are equal pixels.
    return sha256(content).hexdigest(), np.array(hashes), np.stack([small.ravel(), small[:, ::-1].ravel()])
