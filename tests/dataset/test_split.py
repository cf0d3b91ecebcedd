"""The split: pinned for the names of scenes, properties over random names and groups, classes in both sets."""

import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from rhseg_lib.dataset import split
from rhseg_lib.errors import StudyError

ALL = frozenset({"background", "immersion_tube", "slag_layer"})
SETTINGS = {"split": "grouped", "test_fraction": 0.2, "copies": 1, "seed": 2024, "holdout": 0}


def plan(shown, **changes):
    shown = shown if isinstance(shown, dict) else dict.fromkeys(shown, ALL)
    return split.plan(shown, **{**SETTINGS, **changes})


def parts_of(shown, **changes):
    subsets = plan(shown, copies=0, **changes).subsets
    return subsets["train"], subsets["test"]


def test_the_split_of_scenes_is_pinned():
    """By the smallest SHA-256 of "seed/name": a change would alter the results of every committed profile."""
    scenes = [f"scene_{index:04}" for index in range(20)]  # those of the profile `ci`
    assert plan(scenes).subsets["test"] == ["scene_0012", "scene_0014", "scene_0017", "scene_0018"]
    assert parts_of(scenes, seed=3, test_fraction=0.1)[1] == ["scene_0006", "scene_0007"]


def test_copies_are_for_training_and_originals_for_test():
    operations, parts, *_ = plan(["a", "b", "c", "d", "e"], copies=2)
    (tested,) = parts["test"]
    assert operations[tested] == []
    assert len(parts["train"]) == 4 * 3
    assert parts["trainval"] == parts["train"]
    assert operations["c"] in ([], ["brightness", "blur"])


def random_cases(count):
    """Names in groups of unequal sizes; some names that match no pattern; a class in some groups only."""
    for case in range(count):
        random = np.random.default_rng(case)
        names = [f"heat{random.integers(8)}_{i:03}" for i in range(random.integers(2, 40))]
        names += [f"odd{i}" for i in range(random.integers(0, 5))]
        rare = {f"heat{i}" for i in range(8) if random.random() < 0.3}
        shown = {name: ALL if name[:5] in rare else ALL - {"slag_layer"} for name in sorted(names)}
        if len({re.sub(r"^(heat\d)_.*", r"\1", name) for name in names}) > 1:
            yield shown, float(random.uniform(0.05, 0.95))


def group_of(name):
    return name[:5] if name.startswith("heat") else name


def test_groups_stay_whole_and_nothing_is_lost():
    for shown, fraction in random_cases(300):
        train, test = parts_of(shown, test_fraction=fraction, group=r"(heat\d)_")
        assert train and test
        assert sorted(train + test) == list(shown)
        assert not {group_of(name) for name in train} & {group_of(name) for name in test}


def test_a_class_of_two_groups_is_in_both_sets():
    """There is only one rare class here, so that one swap is always enough."""
    for shown, fraction in random_cases(300):
        parts = parts_of(shown, test_fraction=fraction, group=r"heat\d")
        holders = {group_of(name) for name, classes in shown.items() if "slag_layer" in classes}
        with_slag = ["slag_layer" in set().union(*(shown[name] for name in part)) for part in parts]
        assert sum(with_slag) == min(len(holders), 2)


def test_the_size_is_the_requested_one():
    for count in range(2, 60):
        for fraction in (0.01, 0.1, 0.5, 0.99):
            _, test = parts_of([f"n{i:03}" for i in range(count)], test_fraction=fraction)
            assert len(test) == min(max(round(count * fraction), 1), count - 1)


def test_a_new_image_moves_few():
    for seed in range(100):
        names = [f"{seed}_{i}" for i in range(50)]
        before, after = (set(parts_of(some, seed=seed)[1]) for some in (sorted(names), sorted([*names, "new"])))
        assert len((before ^ after) - {"new"}) <= 1


def test_the_order_of_names_does_not_matter():
    for shown, fraction in random_cases(50):
        backwards = dict(reversed(shown.items()))
        assert parts_of(shown, test_fraction=fraction) == parts_of(backwards, test_fraction=fraction)


@pytest.mark.parametrize(
    ("presence", "test", "swaps"),
    [
        (["a", "a", "a", "a"], 2, 0),
        (["", "", "a", "a"], 2, 1),  # absent from the test set
        (["a", "a", "", ""], 2, 1),  # absent from the training set
        (["", "", "a", "b", "ab"], 2, 1),  # one swap fixes two
        (["a", "", "", ""], 1, 0),  # one group only: nothing to fix
        (["", "", "a", "b", "a", "b"], 2, 2),
        (["", "", "", ""], 2, 0),
    ],
)
def test_fewest_swaps(presence, test, swaps):
    order = [f"g{i}" for i in range(len(presence))]
    shows = dict(zip(order, map(set, presence), strict=True))
    fixed = split._fix_absence(order[:test], order, shows, dict.fromkeys(order, 1))
    assert len(set(order[:test]) - set(fixed)) == swaps
    assert len(fixed) == test
    for name, count in Counter("".join(presence)).items():
        assert len({key in fixed for key in order if name in shows[key]}) == min(count, 2)


def test_no_other_choice_of_as_many_groups_is_better():
    worse = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        order = [f"g{i}" for i in range(random.integers(3, 9))]
        shows = {key: {name for name in "abc" if random.random() < 0.4} for key in order}
        count = int(random.integers(1, len(order)))

        def absent(test, order=order, shows=shows):
            sides = [set().union(*(shows[key] for key in order if (key in test) == side)) for side in (True, False)]
            return len(sides[0] ^ sides[1])

        fixed = split._fix_absence(order[:count], order, shows, dict.fromkeys(order, 1))
        worse += absent(fixed) > min(map(absent, combinations(order, count)))
    assert worse <= 2  # swaps are made one by one; rarely, two together would do what neither does alone


def test_a_swap_of_similar_size_is_preferred():
    sizes = {"t": 5, "u": 1, "big": 20, "like": 5}
    shows = {"t": set(), "u": set(), "big": {"a"}, "like": {"a"}}
    assert split._fix_absence(["t"], list(sizes), shows, sizes) == ["like"]


@pytest.mark.parametrize(
    ("pattern", "groups", "notes"),
    [
        (None, {"k1_a": ["k1_a"], "k1_b": ["k1_b"], "k2_a": ["k2_a"], "x": ["x"]}, 0),
        (r"k\d", {"group/k1": ["k1_a", "k1_b"], "group/k2": ["k2_a"], "x": ["x"]}, 2),
        (r"_(.)", {"group/a": ["k1_a", "k2_a"], "group/b": ["k1_b"], "x": ["x"]}, 2),
        (r"k1|(x)", {"group/k1": ["k1_a", "k1_b"], "k2_a": ["k2_a"], "group/x": ["x"]}, 2),
        (
            r"\d*$",
            {"k1_a": ["k1_a"], "k1_b": ["k1_b"], "k2_a": ["k2_a"], "x": ["x"]},
            2,
        ),  # matches only the empty string
        (r"^.", {"group/k": ["k1_a", "k1_b", "k2_a"], "group/x": ["x"]}, 1),
    ],
)
def test_groups(pattern, groups, notes):
    found, given_notes = split._groups(["k1_a", "k1_b", "k2_a", "x"], pattern)
    assert (found, len(given_notes)) == (groups, notes)


def test_unmatched_names_are_counted():
    assert plan(["h1_a", "h1_b", "h2_a", "x", "y"], group=r"h\d").notes == [
        "3 images are in 2 groups that the split keeps together.",
        "'group' does not match 2 image names: each of these images is its own group.",
    ]


def test_a_large_group_is_taken_only_if_it_brings_the_size_closer():
    names = [f"a_{i}" for i in range(50)] + [f"b{i}_0" for i in range(10)]
    assert len(parts_of(names, test_fraction=0.1, group="^([a-z0-9]+)_")[1]) == 6
    both = [f"a_{i}" for i in range(30)] + [f"b_{i}" for i in range(20)]
    assert parts_of(both, test_fraction=0.1, group="^(.)_")[1] == sorted(both[30:])  # too large either: the smaller


def test_a_given_split_is_kept():
    names = ["h1_a", "h1_b", "h2_a", "h3_a"]
    _, parts, *_ = plan(names, split="given", given_test=["h3_a", "h2_a"], group=r"h\d")
    assert parts["test"] == ["h2_a", "h3_a"]
    assert parts["train"] == ["h1_a", "h1_a_flip", "h1_b", "h1_b_contrast"]
    with pytest.raises(StudyError, match=r"has 1 group\(s\) in both train and test, such as that of h1_a") as raised:
        plan(names, split="given", given_test=["h1_b"], group=r"h\d")
    assert raised.value.where == "data.group"


@pytest.mark.parametrize(
    ("names", "changes", "what"),
    [
        (["a"], {}, "one image cannot be split"),
        (["h1_a", "h1_b"], {"group": "h1"}, "one group cannot be split"),
        (["a", "a_flip"], {"split": "as_described"}, "two images would be named a_flip"),
        (["a", "A"], {}, "two images would be named a"),
    ],
)
def test_what_cannot_be_split(names, changes, what):
    with pytest.raises(StudyError, match=what):
        plan(names, **changes)


def test_absence_in_words():
    absent = {"train": ["a", "b"], "test": ["b", "c", "d"]}
    assert split.absence_in_words(absent, Counter(a=1, c=2, d=1), grouped=True) == [
        "The class a is absent from the train subset, as only one group shows it: no model can learn it.",
        "No image shows the class b: it cannot be evaluated.",
        "The class c is absent from the test subset: its score is meaningless.",
        "The class d is absent from the test subset, as only one group shows it: its score is meaningless.",
    ]
    assert "only one image" in split.absence_in_words({"train": ["a"], "test": []}, Counter(a=1), grouped=False)[0]
