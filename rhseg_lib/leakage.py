"""Pairs of a training and a test image that show the same: what the test cannot tell from memory."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from rhseg_lib import voc


def leakage(folder: Path) -> pd.DataFrame:
    """Find such pairs in a VOC tree.

    Pairs are of kind "same original" or, by a 64-bit difference hash, "near duplicate" (at most 2 bits differ).

    Returns
    -------
    pandas.DataFrame
        Columns kind, original (of the test image), train, test, distance in bits.
    """
    copy_of = voc.read_dataset(folder)["copy_of"]
    train, test = voc.read_split(folder, "train"), voc.read_split(folder, "test")
    sides = pd.MultiIndex.from_product([train, test], names=["train", "test"]).to_frame(index=False)
    origin = {name: copy_of.get(name, name) for name in train + test}
    same = sides.train.map(origin) == sides.test.map(origin)
    signs = [np.stack([_difference_hash(voc.image_file(folder, name)) for name in part]) for part in (train, test)]
    pairs = sides.assign(
        kind=np.where(same, "same original", "near duplicate"),
        original=sides.test.map(origin),
        distance=((64 - signs[0] @ signs[1].T) / 2).astype(int).ravel(),  # signs are -1 or 1
    )
    columns = ["kind", "original", "train", "test", "distance"]
    return pairs.loc[same | (pairs.distance <= 2), columns].reset_index(drop=True)


def _difference_hash(path: Path) -> np.ndarray:
    """(64,) float32 of -1 and 1: whether brightness rises from each cell of a 9x8 thumbnail to its right one."""
    thumbnail = np.asarray(Image.open(path).convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return np.where(np.diff(thumbnail, axis=1) > 0, 1, -1).astype(np.float32).ravel()
