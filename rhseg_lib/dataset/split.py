"""Assign images to train, test or holdout and choose their augmentations, from names, groups and classes alone."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from hashlib import sha256
from typing import NamedTuple, Self

import numpy as np

from rhseg_lib.errors import StudyError

GROUP = "group/"  # prefix of a group's key: no image name begins with it
OPERATIONS = ("flip", "contrast", "brightness", "blur")


class Plan(NamedTuple):
    """How each original is used."""

    operations: dict[str, list[str]]  # augmentations of each original
    subsets: dict[str, list[str]]  # names of the images in train, test, trainval and, if requested, holdout
    group_of: dict[str, str]  # group of each original, if it is in one
    holders: Counter  # how many groups show each class; without `group` every image is a group
    notes: list[str]  # what the user should know about the split, in sentences

    @property
    def copy_of(self) -> dict[str, str]:
        """Name of each augmented copy -> its original."""
        return {f"{name}_{operation}": name for name, some in self.operations.items() for operation in some}

    def without(self, skipped: Set[str]) -> Self:
        """The plan for the other originals, each of which stays where it is."""
        out = {*skipped, *(copy for copy, original in self.copy_of.items() if original in skipped)}
        return self._replace(
            operations={name: some for name, some in self.operations.items() if name not in skipped},
            subsets={subset: [name for name in names if name not in out] for subset, names in self.subsets.items()},
        )

    def of_tiles(self, tiles: Mapping[str, list[str]]) -> Self:
        """The plan for the tiles of the images: those of one image are used alike and stay in one group."""
        renamed = {name: tiles[name] for name in self.operations}
        for copy, original in self.copy_of.items():
            renamed[copy] = [tile + copy.removeprefix(original) for tile in tiles[original]]
        count = sum(len(tiles[name]) for name in self.operations)
        return self._replace(
            operations={tile: some for name, some in self.operations.items() for tile in tiles[name]},
            subsets={key: [tile for name in names for tile in renamed[name]] for key, names in self.subsets.items()},
            group_of={tile: self.group_of.get(name, GROUP + name) for name in self.operations for tile in tiles[name]},
            notes=[*self.notes, f"{len(self.operations)} images are cut into {count} tiles."],
        )


def plan(
    shown: Mapping[str, Set[str]],
    *,
    split: str,
    test_fraction: float,
    copies: int,
    seed: int,
    holdout: int,
    group: str | None = None,
    given_test: list[str] | None = None,
) -> Plan:
    """Decide how each original is used.

    `shown` maps each original, sorted by name, to the classes in it. `split` is "given", "grouped" or "as_described",
    see `build.build_voc`; for "given", `given_test` names the test originals and all others are for training.
    Each training original gets `copies` augmented copies. The last `holdout` originals are set aside: never copied, in
    neither train nor test. `group` is a regular expression, searched in each name: its first capture group, or else
    the whole match, names the group; an original that does not match is its own group. Only "as_described" can put
    images of one group into both train and test.

    StudyError for names that collide, fewer than two groups, or a given split with a group in both train and test.
    """
    names = list(shown)
    used, held = names[: len(names) - holdout], names[len(names) - holdout :]
    groups, notes = _groups(used, group)
    presence = {key: set().union(*(shown[name] for name in members)) for key, members in groups.items()}
    operations = {name: [OPERATIONS[(i + j) % 4] for j in range(copies)] for i, name in enumerate(used)}
    test: list[str] = []
    if split == "given":
        assert given_test is not None
        test = given_test
        _refuse_separated(groups, set(test))
    elif split == "grouped":
        order, sizes = _shuffled(groups, seed), {key: len(members) for key, members in groups.items()}
        keys = _fix_absence(_draw_test(order, sizes, test_fraction), order, presence, sizes)
        test = [name for key in keys for name in groups[key]]
    operations |= {name: [] for name in test}
    everything = sorted([*used, *(f"{name}_{operation}" for name in used for operation in operations[name])])
    repeated = [name for name, count in Counter(map(str.casefold, [*everything, *held])).items() if count > 1]
    if repeated:
        fix = "rename the original that has the name of a copy, or set 'augmented_copies: 0'"
        raise StudyError(f"two images would be named {repeated[0]}", where="names of the images", fix=fix)
    if split == "as_described":
        order = _shuffled(everything, seed)
        test = _draw_test(order, dict.fromkeys(order, 1), test_fraction)
    train = sorted(set(everything) - set(test))
    subsets = {"train": train, "test": sorted(test), "trainval": train} | ({"holdout": held} if held else {})
    group_of = {name: key for key, members in groups.items() if key.startswith(GROUP) for name in members}
    holders = Counter(name for classes in presence.values() for name in classes)
    return Plan(operations | {name: [] for name in held}, subsets, group_of, holders, notes)


def absence_in_words(absent: dict[str, list[str]], holders: Counter, *, grouped: bool) -> list[str]:
    """A sentence for each class that is absent from the train or test set.

    `absent` lists the classes that no image of ``train`` or of ``test`` shows, `holders` counts the groups that show
    each (see `Plan`); `grouped`: whether images are split by group or individually.
    """
    unit, sentences = "group" if grouped else "image", []
    for name in dict.fromkeys(absent["train"] + absent["test"]):
        if name in absent["train"] and name in absent["test"]:
            sentences.append(f"No image shows the class {name}: it cannot be evaluated.")
            continue
        subset, so = (
            ("train", "no model can learn it") if name in absent["train"] else ("test", "its score is meaningless")
        )
        why = f", as only one {unit} shows it" if holders[name] == 1 else ""
        sentences.append(f"The class {name} is absent from the {subset} subset{why}: {so}.")
    return sentences


def _groups(names: list[str], pattern: str | None) -> tuple[dict[str, list[str]], list[str]]:
    """The names by group, and notes on those in no group."""
    if pattern is None:
        return {name: [name] for name in names}, []
    groups, single = dict[str, list[str]](), 0
    for name in names:
        found = re.search(pattern, name)
        key = found and (found.group(1) if found.re.groups and found.group(1) is not None else found.group())
        single += not key
        groups.setdefault(f"{GROUP}{key}" if key else name, []).append(name)  # no name of a file holds a slash
    notes = [f"{len(names) - single} images are in {len(groups) - single} groups that the split keeps together."]
    if single:
        notes.append(f"'group' does not match {single} image names: each of these images is its own group.")
    return groups, notes


def _refuse_separated(groups: dict[str, list[str]], test: set[str]) -> None:
    separated = [members[0] for members in groups.values() if 0 < len(test.intersection(members)) < len(members)]
    if separated:
        what = f"the given split has {len(separated)} group(s) in both train and test, such as that of {separated[0]}"
        raise StudyError(what, where="data.group", fix="set 'split: grouped', or correct the lists or 'group'")


def _shuffled(names: Iterable[str], seed: int) -> list[str]:
    """A random order by hash, not by a generator: the same in any version, and a new image moves few others."""
    return sorted(names, key=lambda name: sha256(f"{seed}/{name}".encode()).digest())


def _draw_test(order: list[str], sizes: dict[str, int], fraction: float) -> list[str]:
    """Take groups in order, each if it brings the test set closer to its size; at least one stays for training."""
    total = sum(sizes.values())
    if len(order) < 2:
        fix = "annotate at least two images" if total == 1 else "choose a 'group' that finds more than one"
        raise StudyError(f"one {'image' if total == 1 else 'group'} cannot be split", where=order[0], fix=fix)
    missing, test = min(max(round(total * fraction), 1), total - 1), list[str]()
    for key in order:
        if sizes[key] < 2 * missing and len(test) < len(order) - 1:
            test.append(key)
            missing -= sizes[key]
    return test or [min(order, key=sizes.__getitem__)]


def _fix_absence(test: list[str], order: list[str], presence: dict[str, set[str]], sizes: dict[str, int]) -> list[str]:
    """Swap groups between train and test while that fixes the absence of a class, the swap that fixes most first.

    Among equals, take the one that changes the size of the test set least, then the one of the groups drawn last.
    """
    classes = sorted(set().union(*presence.values()))
    shows = {key: np.array([name in presence[key] for name in classes], dtype=int) for key in order}
    everywhere, test, all_images = sum(shows.values()), list(test), sum(sizes.values())
    while True:
        train = [key for key in order if key not in set(test)]
        offered, weights = np.array([shows[key] for key in train]), np.array([sizes[key] for key in train])
        held = np.sum([shows[key] for key in test], axis=0)  # (K,) groups of the test set that show each class
        least, swap = ((held == 0) | (held == everywhere)).sum(), None
        for key in reversed(test):
            then = held - shows[key] + offered  # (N, K), if each group of the training set took its place
            score = ((then == 0) | (then == everywhere)).sum(1) + abs(weights - sizes[key]) / (1 + all_images)
            if score.min() < least:
                least, swap = score.min(), (key, train[score.argmin()])
        if swap is None:
            return test
        test[test.index(swap[0])] = swap[1]
