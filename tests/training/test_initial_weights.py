"""A run that begins with earlier weights: they are loaded and checked, and part of what the run is resumed by."""

import shutil

import pytest
import torch
from conftest import MODEL

from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation.weights import Card, read_card, write_weights
from rhseg_lib.models import build_model
from rhseg_lib.profile import Recipe, fingerprint, load_profile
from rhseg_lib.training.fit import fit, run
from rhseg_lib.training.initial_weights import start_from_earlier
from rhseg_lib.training.task import SegmentationTask

CLASSES = ("background", "immersion_tube", "slag_layer")


def weights(path, model: str = MODEL, classes: tuple[str, ...] = CLASSES, seed: int = 7):
    torch.manual_seed(seed)
    stated = {"profile": "tiny", "kind": "demonstration", "data": "drawn images", "dataset_hash": "", "seed": 0}
    card = Card(model=model, class_names=classes, image_size=64, miou=0.5, abstain_below=None, versions={}, **stated)
    write_weights(path, build_model(model, num_classes=len(classes)), card)
    return path


def task(path, **options) -> SegmentationTask:
    return SegmentationTask(MODEL, num_classes=3, recipe=Recipe(start_from=str(path), **options), seed=0)


def test_a_run_begins_with_the_weights_and_ends_with_others(profile, tmp_path):
    path = weights(tmp_path / "start.safetensors")
    begun = task(path, pretrained=True)  # its ImageNet weights are not asked for
    assert len(start_from_earlier(begun, profile.voc, tmp_path / "run")) == 1
    torch.manual_seed(7)
    expected = build_model(MODEL).state_dict()
    for name, value in begun.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)  # kernels were halved


def test_without_it_nothing_changes(profile, tmp_path):
    other = SegmentationTask(MODEL, num_classes=3, recipe=Recipe(), seed=0)
    assert start_from_earlier(other, profile.voc, tmp_path) == ()
    assert Recipe(epochs=7).digest == fingerprint({"epochs": 7})  # of runs that finished before there was the key


def test_other_weights_in_the_file_begin_another_run(profile, tmp_path, capsys):
    path, recipe = weights(tmp_path / "start.safetensors"), {"epochs": 1, "epoch_images": 4, "warmup_epochs": 0}
    options = {"voc_folder": profile.voc, "dataset_hash": "", "num_classes": 3, "seed": 0, "folder": tmp_path / "run"}
    for seed in (7, 7, 8):
        weights(path, seed=seed)
        trained = fit(MODEL, recipe=Recipe(start_from=str(path), **recipe), checkpoint_seconds=0, **options)
        assert len(trained.history) == 1
        assert ("starting from the first epoch" in capsys.readouterr().out) == (seed == 8)


@pytest.mark.parametrize(
    ("model", "classes"),
    [("deeplabv3plus_mobilenetv2", CLASSES), (MODEL, ("background", "slag_layer", "immersion_tube"))],
)
def test_another_model_or_other_classes_are_refused(profile, tmp_path, model, classes):
    path = weights(tmp_path / "start.safetensors", model, classes)
    with pytest.raises(StudyError, match=f"weights of {model} for {', '.join(classes)}") as caught:
        start_from_earlier(task(path), profile.voc, tmp_path / "run")
    assert f"name weights of {MODEL} for {', '.join(CLASSES)}" in caught.value.fix


def test_the_weights_that_the_run_replaces_are_refused(profile, tmp_path):
    (tmp_path / "run").mkdir()
    path = weights(tmp_path / "run/weights.safetensors")
    with pytest.raises(StudyError, match="will replace"):
        start_from_earlier(task(path), profile.voc, tmp_path / "run")


def test_a_file_that_is_not_there_is_named(profile, tmp_path):
    with pytest.raises(StudyError, match="the weights are not there"):
        start_from_earlier(task(tmp_path / "none.safetensors"), profile.voc, tmp_path)


def test_the_card_of_a_finished_run_says_so(profile, tmp_path):
    shutil.copytree(profile.root, tmp_path / "study")
    own_profile = load_profile("tiny", root=tmp_path / "study")
    path = weights(tmp_path / "start.safetensors")
    recipe = own_profile.recipe.model_copy(update={"start_from": str(path), "epochs": 2, "warmup_epochs": 0})
    changed = own_profile.model_copy(update={"recipe": recipe})
    run(changed, MODEL, 3)
    card = read_card(changed.run_folder(MODEL, 3) / "weights.safetensors")
    assert card.data == f"synthetic scenes, starting from {path}"
