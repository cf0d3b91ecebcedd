"""Profiles: those in the repository load; invalid ones are refused with file and key."""

import math
import os
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from rhseg_lib.catalogue import MODEL_NAMES, PROPOSED
from rhseg_lib.errors import StudyError
from rhseg_lib.models import MODELS
from rhseg_lib.profile import Profile, fingerprint, load_profile

ROOT = Path(__file__).parents[1]
HEAD = "title: A test\nkind: demonstration\n"
WHOLE = HEAD + "data: {}\nrecipe: {}\n"

# error: content, and what the message must contain besides the file
BAD = {
    "empty": ("", ["title", "kind", "data", "recipe"]),
    "a list": ("- title\n", ["mapping"]),
    "not YAML": ("title: [open\n", ["not valid YAML", "line 1"]),
    "a tab": ("title: a\n\tkind: b\n", ["not valid YAML", "line 2"]),
    "not UTF-8": ("title: Stra\udcdfe\n", ["not text in UTF-8"]),
    "unknown key": (WHOLE + "epochs: 3\n", ["epochs"]),
    "unknown nested key": (HEAD + "data: {size: 64}\nrecipe: {}\n", ["data.size"]),
    "missing key": (HEAD + "data: {}\n", ["recipe"]),
    "nothing under a key": (HEAD + "data:\nrecipe: {}\n", ["data"]),
    "wrong type": (HEAD + "data: {}\nrecipe: {epochs: many}\n", ["recipe.epochs", "many"]),
    "whole number as text": (HEAD + "data: {num_scenes: '20'}\nrecipe: {}\n", ["data.num_scenes", "20"]),
    "fraction for a whole number": (HEAD + "data: {}\nrecipe: {epochs: 2.5}\n", ["recipe.epochs", "2.5"]),
    "yes for a number": (HEAD + "data: {}\nrecipe: {learning_rate: yes}\n", ["recipe.learning_rate"]),
    "words for a number": (HEAD + "data: {}\nrecipe: {learning_rate: 1 e-4}\n", ["recipe.learning_rate", "1 e-4"]),
    "not a number": (HEAD + "data: {}\nrecipe: {learning_rate: .nan}\n", ["recipe.learning_rate"]),
    "infinite": (HEAD + "data: {}\nrecipe: {learning_rate: .inf}\n", ["recipe.learning_rate"]),
    "infinite as text": (HEAD + "data: {}\nrecipe: {weight_decay: 'inf'}\n", ["recipe.weight_decay"]),
    "zero": (HEAD + "data: {}\nrecipe: {learning_rate: 0}\n", ["recipe.learning_rate"]),
    "batch of one": (HEAD + "data: {}\nrecipe: {batch_size: 1}\n", ["recipe.batch_size"]),
    "epoch less than a batch": (HEAD + "data: {}\nrecipe: {epoch_images: 3}\n", ["recipe", "epoch_images"]),
    "rising rate": (HEAD + "data: {}\nrecipe: {learning_rate: 1e-5}\n", ["recipe", "min_learning_rate"]),
    "unknown choice": (HEAD + "data: {split: random}\nrecipe: {}\n", ["data.split", "grouped"]),
    "labelme without folder": (HEAD + "data: {source: labelme}\nrecipe: {}\n", ["data", "folder"]),
    "folder without labelme": (HEAD + "data: {folder: here}\nrecipe: {}\n", ["data", "folder"]),
    "voc without folder": (HEAD + "data: {source: voc}\nrecipe: {}\n", ["data", "folder"]),
    "given split without a tree": (HEAD + "data: {split: given}\nrecipe: {}\n", ["data", "source 'voc'"]),
    "broken group": (HEAD + "data: {group: '(heat'}\nrecipe: {}\n", ["data.group", "not a regular expression"]),
    "group of leaky split": (HEAD + "data: {group: 'h', split: as_described}\nrecipe: {}\n", ["data", "'group'"]),
    "group of a holdout": (HEAD + "data: {group: 'h', holdout_scenes: 3}\nrecipe: {}\n", ["data", "'group'"]),
    "tiles of scenes": (HEAD + "data: {tile: 64}\nrecipe: {}\n", ["data", "'tile'", "'labelme' or 'voc'"]),
    "priority twice": (
        HEAD + "data: {classes: [a, b], class_priority: [a, a, b]}\nrecipe: {}\n",
        ["data", "must name each of 'classes' once"],
    ),
    "priority of others": (HEAD + "data: {class_priority: [slag_layer]}\nrecipe: {}\n", ["data", "class_priority"]),
    "a class that YAML reads as false": (
        HEAD + "data: {classes: [no, tube]}\nrecipe: {}\n",
        ["classes.0", "in quotes", "False"],
    ),
    "a class that YAML reads as a number": (
        HEAD + "data: {classes: [tube, 12]}\nrecipe: {}\n",
        ["classes.1", "in quotes"],
    ),
    "a label that YAML reads as true": (
        HEAD + "data: {ignore_labels: [on]}\nrecipe: {}\n",
        ["ignore_labels.0", "in quotes"],
    ),
    "a class with a space at its end": (HEAD + "data: {classes: ['tube ']}\nrecipe: {}\n", ["classes.0", "spaces"]),
    "a class of nothing": (HEAD + "data: {classes: ['']}\nrecipe: {}\n", ["classes.0"]),
    "a class with a formula": (HEAD + "data: {classes: ['$x$']}\nrecipe: {}\n", ["classes.0"]),
    "no classes": (HEAD + "data: {classes: []}\nrecipe: {}\n", ["data.classes"]),
    "more classes than mask values": (
        HEAD + f"data: {{classes: [{', '.join(f'c{index}' for index in range(255))}]}}\nrecipe: {{}}\n",
        ["data.classes", "at most 254"],
    ),
    "one label for classes": (HEAD + "data: {classes: tube}\nrecipe: {}\n", ["data.classes"]),
    "an unknown treatment of errors": (HEAD + "data: {on_error: ask}\nrecipe: {}\n", ["data.on_error", "skip"]),
    "unknown model": (WHOLE + "models: [segformer]\n", ["models.0", "segformer", "unet_vgg16"]),
    "a key twice": (HEAD + "data: {}\nrecipe:\n  epochs: 60\n  epochs: 1\n", ["'epochs' is given twice", "line 6"]),
    "a key twice at the top": (WHOLE + "kind: result\n", ["'kind' is given twice"]),
    "no models": (WHOLE + "models: []\n", ["models"]),
    "a model twice": (WHOLE + "models: [unet_vgg16, unet_vgg16]\n", ["models"]),
    "no seeds": (WHOLE + "seeds: []\n", ["seeds"]),
    "a seed twice": (WHOLE + "seeds: [0, 0]\n", ["seeds"]),
    "recipe for an unknown model": (WHOLE + "recipe_for: {segformer: {epochs: 1}}\n", ["recipe_for.segformer"]),
    "recipe for: unknown key": (WHOLE + "recipe_for: {unet_vgg16: {epoch: 1}}\n", ["epoch"]),
    "recipe for: wrong type": (WHOLE + "recipe_for: {unet_vgg16: {epochs: '1'}}\n", ["epochs"]),
    "a seed below zero": (WHOLE + "seeds: [-1]\n", ["seeds.0"]),
    "a seed of many digits": (WHOLE + f"seeds: [{'9' * 400}]\n", ["seeds.0"]),
    "an image that no memory holds": (HEAD + "data: {image_size: 1000000}\nrecipe: {}\n", ["data.image_size"]),
    "an alias of itself": (WHOLE + "models: &m [*m]\n", ["invalid", "Circular"]),
    "a mapping within itself": ("&all\ntitle: *all\n", ["invalid", "Circular"]),
    "a thousand brackets": (WHOLE + f"models: {'[' * 1000}\n", ["nested too deeply"]),
    "closed brackets": (WHOLE + f"models: {'[' * 5000}{']' * 5000}\n", ["nested too deeply"]),
    "aliases of aliases": (
        WHOLE + "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 10}]\n" for i in range(1, 10)),
        ["not valid YAML", "more than 20 aliases"],
    ),
    "a number that is none": (WHOLE + "x: !!int ''\n", ["not valid YAML", "cannot be read"]),
    "a truth that is none": (WHOLE + "x: !!bool maybe\n", ["not valid YAML", "cannot be read"]),
    "an object": (WHOLE + "x: !!python/object:os.system x\n", ["not valid YAML"]),
    "UTF-16": ("title: a".encode("utf-16").decode(errors="surrogateescape"), ["not text in UTF-8"]),
    "a terminal's colour": (WHOLE + '"\\e[31m": 1\n', [r"\x1b[31m"]),
    "a date": (WHOLE + "made: 2024-01-01\n", ["date"]),
    "another name": (WHOLE + "name: other\n", ["name"]),
    "a root": (WHOLE + "root: /elsewhere\n", ["root"]),
}


def load(root: Path, content: str, name: str = "mine") -> Profile:
    (root / "profiles").mkdir(exist_ok=True)
    (root / "profiles" / f"{name}.yaml").write_text(content, encoding="utf-8", errors="surrogateescape")
    return load_profile(name, root=root)


@pytest.mark.parametrize(("content", "expected"), BAD.values(), ids=BAD)
def test_refused_with_file_and_key(tmp_path, content, expected):
    with pytest.raises(StudyError) as caught:
        load(tmp_path, content)
    for words in (str(tmp_path / "profiles" / "mine.yaml"), *expected):
        assert words in str(caught.value)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_folder_pipe_or_device_is_no_profile(tmp_path, make):
    (tmp_path / "profiles").mkdir()
    make(tmp_path / "profiles/mine.yaml")
    with pytest.raises(StudyError, match="not a file, but a folder, a pipe or a device"):
        load_profile("mine", root=tmp_path)


@pytest.mark.parametrize("name", ["absent", "../profiles/mine", "mine.yaml", ""])
def test_unknown_profile_names_the_known(tmp_path, name):
    load(tmp_path, WHOLE)
    with pytest.raises(StudyError, match=r"unknown profile .*(?s:.*)take one of: mine$"):
        load_profile(name, root=tmp_path)


def test_no_profiles_at_all(tmp_path):
    with pytest.raises(StudyError, match="take one of: none"):
        load_profile("quick", root=tmp_path)


@pytest.mark.parametrize("path", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_profiles_load(path):
    profile = load_profile(path.stem, root=ROOT)
    assert profile.name == path.stem and profile.title
    assert set(profile.models) <= set(MODELS)
    for model in profile.models:
        recipe = profile.recipe_of(model)
        assert 0 <= recipe.min_learning_rate < recipe.learning_rate
        assert recipe.warmup_epochs < recipe.epochs
    originals = profile.data.num_scenes * (1 - profile.data.test_fraction)
    assert originals >= profile.recipe.batch_size


def test_classes_of_any_script_and_their_priority(tmp_path):
    data = load(tmp_path, HEAD + "data: {classes: [渣层, tube wall, 'no', 'on']}\nrecipe: {}\n").data
    assert data.classes == data.class_priority == ("渣层", "tube wall", "no", "on")
    assert data.class_names == ("background", *data.classes)
    data = load(tmp_path, HEAD + "data: {classes: [a, b], class_priority: [b, a]}\nrecipe: {}\n").data
    assert data.class_priority == ("b", "a")
    assert load(tmp_path, HEAD + "data: {class_priority: null}\nrecipe: {}\n").data.class_priority is None


def test_the_paper_profile_is_table_1():
    recipe = load_profile("paper", root=ROOT).recipe
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.min_learning_rate) == (150, 4, 7e-3, 7e-5)
    assert (recipe.optimizer, recipe.momentum, recipe.weight_decay) == ("sgd", 0.9, 1e-4)


def test_model_names_are_those_of_the_models():
    assert set(MODEL_NAMES) == set(MODELS)
    assert PROPOSED in MODEL_NAMES


@pytest.mark.parametrize("text", ["1e-4", "'1e-4'", "1.0e-4", "0.0001", '"0.0001"'])
def test_numbers_as_people_write_them(tmp_path, text):
    content = f"data: {{}}\nrecipe: {{learning_rate: 7e-3, weight_decay: {text}}}\n"
    assert load(tmp_path, HEAD + content).recipe.weight_decay == 1e-4


def test_explicit_defaults_change_nothing(tmp_path):
    implied = load(tmp_path, WHOLE)
    sections = {key: getattr(implied, key).model_dump(mode="json") for key in ("data", "recipe")}
    written = load(tmp_path, HEAD + yaml.safe_dump(sections), name="written")
    for key in sections:
        one, other = getattr(implied, key), getattr(written, key)
        assert one == other
        assert fingerprint(one.model_dump()) == fingerprint(other.model_dump())


def test_recipe_for_changes_only_one_model(tmp_path):
    content = "recipe_for: {unet_vgg16: {learning_rate: 1e-3, optimizer: adamw}}\n"
    profile = load(tmp_path, HEAD + "data: {}\nrecipe: {epochs: 9}\n" + content)
    recipe = profile.recipe_of("unet_vgg16")
    assert (recipe.learning_rate, recipe.optimizer, recipe.epochs) == (1e-3, "adamw", 9)
    assert profile.recipe_of("fcn_resnet50") == profile.recipe


def test_paths_are_below_the_root(tmp_path):
    profile = load(tmp_path, WHOLE)
    reports = tmp_path / "reports" / "mine"
    assert profile.raw == tmp_path / "data" / "mine" / "raw"
    assert profile.voc == tmp_path / "data" / "mine" / "voc"
    assert (profile.reports, profile.tables, profile.figures) == (reports, reports / "tables", reports / "figures")
    assert profile.run_folder("unet_vgg16", 3) == reports / "runs" / "unet_vgg16" / "seed3"


def test_a_profile_is_immutable(tmp_path):
    profile = load(tmp_path, WHOLE)
    with pytest.raises(ValidationError):
        profile.recipe.epochs = 1


@pytest.mark.parametrize(
    ("content", "included", "excluded"),
    [
        (WHOLE, ["a demonstration, not a result", "synthetic scenes", "512×512", "0.007 → 7e-05"], ["images of"]),
        (WHOLE.replace("demonstration", "result"), ["a result on synthetic data"], ["demonstration"]),
        (
            "title: A test\nkind: result\ndata: {source: labelme, folder: plant}\nrecipe: {}\n",
            [": a result.", "images of plant"],
            ["synthetic"],
        ),
    ],
)
def test_banner_states_data_and_kind(tmp_path, content, included, excluded):
    banner = load(tmp_path, content).banner
    assert all(words in banner for words in included) and not any(words in banner for words in excluded)


@pytest.mark.parametrize(
    ("data", "split"),
    [
        ("{source: voc, folder: here, classes: [one, two, three]}", "given"),
        ("{source: voc, folder: here, split: grouped}", "grouped"),
        ("{source: voc, folder: here, split: as_described}", "as_described"),
        ("{source: labelme, folder: here}", "grouped"),
        ("{}", "grouped"),
    ],
)
def test_the_default_split_of_each_source(tmp_path, data, split):
    assert load(tmp_path, HEAD + f"data: {data}\nrecipe: {{}}\n").data.split == split


def test_class_names_start_with_background(tmp_path):
    assert load(tmp_path, WHOLE).data.class_names == ("background", "immersion_tube", "slag_layer")


class TestFingerprint:
    def test_stable(self):
        """A constant: it must not differ between machines, or every checkpoint would be discarded."""
        assert fingerprint("unet_vgg16", {"epochs": 2, "rate": 1e-3}, 0) == "66edb7c6e7c22cba"

    def test_order_of_keys_does_not_matter(self):
        assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})

    def test_values_and_order_of_parts_matter(self):
        digests = {
            fingerprint(*parts) for parts in [(1, 2), (2, 1), (1,), ({"a": 1},), ({"a": 2},), (math.pi,), ("1",)]
        }
        assert len(digests) == 7


@pytest.mark.parametrize("name", ["paper", "reduced"])
def test_a_leaky_profile_differs_only_in_split_models_and_seeds(name):
    grouped = load_profile(name, root=ROOT)
    leaky = load_profile(grouped.leaky, root=ROOT)
    one, other = grouped.model_dump(), leaky.model_dump()
    differs = {key for key in one if one[key] != other[key]}
    assert differs - {"seeds", "recipe_for"} == {"name", "title", "data", "models", "leaky"}
    assert {key for key in one["data"] if one["data"][key] != other["data"][key]} == {"split"}
    assert all(leaky.recipe_of(model) == grouped.recipe_of(model) for model in leaky.models)


@pytest.mark.parametrize("key", ["classes: [a, a.b, 3]", "source: video"])
def test_an_error_is_reported_once(tmp_path, key):
    """Keys whose defaults follow from an invalid one are no errors of the user."""
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/own.yaml").write_text(HEAD + f"data: {{{key}}}\nrecipe: {{}}\n")
    with pytest.raises(StudyError) as caught:
        load_profile("own", root=tmp_path)
    assert caught.value.fix.count("data.") == 1 and "default factory" not in caught.value.fix


NUMBERS = ["2024_05", "2024", "007", "1e3", "nan", "2024-05-01"]
OTHERS = ["on", "No", "null", "own photos", "$(x)", "a'b", "../ci", "-x", ""]


@pytest.mark.parametrize("name", NUMBERS + OTHERS)
def test_a_name_that_tools_read_as_something_else_is_refused(tmp_path, name):
    (tmp_path / "profiles").mkdir()
    if "/" not in name:
        (tmp_path / f"profiles/{name}.yaml").write_text(WHOLE)
    with pytest.raises(StudyError, match="unknown profile") as caught:
        load_profile(name, root=tmp_path)
    assert name in ("", "../ci") or f"rename {name}: letters" in caught.value.fix


@pytest.mark.parametrize("name", ["own", "own_2024", "heat-7", "高炉", "onset", "_a"])
def test_a_name_that_all_tools_read_alike_is_taken(tmp_path, name):
    (tmp_path / "profiles").mkdir()
    (tmp_path / f"profiles/{name}.yaml").write_text(WHOLE)
    assert load_profile(name, root=tmp_path).name == name
