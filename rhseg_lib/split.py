"""Which originals are augmented and which images train, test or are held out; by name alone."""

from collections import Counter
from hashlib import sha256

from rhseg_lib import StudyError

OPERATIONS = ("flip", "contrast", "brightness", "blur")


def plan(
    names: list[str], *, split: str, test_fraction: float, copies: int, seed: int, holdout: int
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Decide what becomes of each original.

    Parameters
    ----------
    names : list of str
        The originals, sorted.
    split : {"grouped", "as_described"}
        See `voc.build_voc`.
    test_fraction : float
    copies : int
        Augmented copies of each original that may train.
    seed : int
    holdout : int
        The last so many originals are set aside: never copied, never trained on, in neither train nor test.

    Returns
    -------
    operations : dict of str to list of str
        Those that copy each original, in the order of `names`.
    parts : dict of str to list of str
        Names of the images in ``train``, ``test``, ``trainval`` and, if asked for, ``holdout``.
    """
    used, held = names[: len(names) - holdout], names[len(names) - holdout :]
    operations = {name: [OPERATIONS[(i + j) % 4] for j in range(copies)] for i, name in enumerate(used)}
    if split == "grouped":
        test = _draw_test(used, test_fraction, seed)
        operations |= {name: [] for name in test}
    everything = sorted([*used, *(f"{name}_{operation}" for name in used for operation in operations[name])])
    twice = [name for name, count in Counter(map(str.casefold, [*everything, *held])).items() if count > 1]
    if twice:
        mend = "rename the original that is named like a copy"
        raise StudyError(f"two images would be named {twice[0]}", where="names of the JSON files", mend=mend)
    if split == "as_described":
        test = _draw_test(everything, test_fraction, seed)
    train = [name for name in everything if name not in test]
    parts = {"train": train, "test": sorted(test), "trainval": train}
    return operations | {name: [] for name in held}, parts | ({"holdout": held} if held else {})


def _draw_test(names: list[str], fraction: float, seed: int) -> list[str]:
    """A random part by hash, not by a generator: the same in any version, and a new picture moves few others."""
    if len(names) < 2:
        raise StudyError("one image cannot be split", where=names[0], mend="annotate at least two pictures")
    count = min(max(round(len(names) * fraction), 1), len(names) - 1)
    return sorted(names, key=lambda name: sha256(f"{seed}/{name}".encode()).digest())[:count]
