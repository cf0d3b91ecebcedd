"""Run folders: written atomically and in order, read back unchanged, refused if they do not match."""

import errno
import json
import os
import pickle
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MODEL, Trap
from PIL import Image
from safetensors.torch import load_file, save

from rhseg_lib import files
from rhseg_lib.dataset import voc_tree
from rhseg_lib.dataset.batches import load_tensors
from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation import inference, provenance
from rhseg_lib.evaluation.inference import confidences, predict
from rhseg_lib.evaluation.metrics import confusion_matrices, scores
from rhseg_lib.evaluation.runs import (
    Run,
    choose_pictures,
    finish_run,
    finished_runs,
    image_scores,
    is_finished,
    load_model,
    read_predictions,
    read_run,
)
from rhseg_lib.evaluation.weights import read_card, read_weights
from rhseg_lib.profile import Profile
from rhseg_lib.training.fit import fit

OTHER = "deeplabv3plus_mobilenetv2"
TIMES = {"train_seconds"}


def finish(profile: Profile, task, seed: int = 0) -> dict:
    profile.run_folder(MODEL, seed).mkdir(parents=True, exist_ok=True)
    return finish_run(task.model, profile=profile, model_name=MODEL, seed=seed, history=task.history)


@pytest.fixture
def own_profile(profile, tmp_path) -> Profile:
    """A copy of the tiny study for one test, without runs."""
    shutil.copytree(profile.voc, tmp_path / profile.voc.relative_to(profile.root))
    return profile.model_copy(update={"root": tmp_path})


@pytest.fixture(scope="module")
def finished(profile, trained) -> tuple[Profile, dict]:
    return profile, finish(profile, trained)


def copy_run(finished: tuple[Profile, dict], target: Profile, model: str, seed: int) -> None:
    shutil.copytree(finished[0].run_folder(MODEL, 0), target.run_folder(model, seed))


class TestFinishRun:
    def test_writes_every_file(self, finished):
        profile, metrics = finished
        folder = profile.run_folder(MODEL, 0)
        names = voc_tree.read_split(profile.voc, "test")
        assert {path.name for path in folder.iterdir()} == {
            "history.csv", "metrics.json", "per_image.parquet", "predictions", "weights.safetensors"
        }  # fmt: skip
        assert {path.name for path in (folder / "predictions").iterdir()} == {f"{name}.png" for name in names}
        assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))

    def test_metrics_agree_with_the_other_files(self, finished):
        profile, metrics = finished
        names = voc_tree.read_split(profile.voc, "test")
        _, masks = load_tensors(profile.voc, names)
        assert metrics["test"]["miou"] > 0.4
        predicted = read_predictions(profile, MODEL, 0, names)
        matrices = confusion_matrices(masks, torch.from_numpy(predicted), 3).numpy()
        run = read_run(profile, MODEL, 0)
        assert run.names == tuple(names) and np.array_equal(run.matrices, matrices)
        assert {key: run.metrics["test"][key] for key in ("miou", "mpa", "pixel_accuracy")} == pytest.approx(
            {key: value for key, value in asdict(scores(matrices.sum(0))).items() if isinstance(value, float)}
        )

    def test_stored_weights_are_the_evaluated_ones(self, finished, trained):
        profile, metrics = finished
        network, card = read_weights(profile.run_folder(MODEL, 0) / "weights.safetensors")
        assert all(torch.equal(value, network.state_dict()[key]) for key, value in trained.model.state_dict().items())
        images, _ = load_tensors(profile.voc, (names := voc_tree.read_split(profile.voc, "test")))
        assert np.array_equal(predict(network, images).numpy(), read_predictions(profile, MODEL, 0, names))
        assert (card.model, card.class_names) == (MODEL, profile.data.class_names)
        confidence = confidences(network, images, load_tensors(profile.voc, names)[1])
        assert (
            (confidence >= 0).all()
            and (confidence <= 1).all()
            and card.abstain_below == pytest.approx(np.quantile(confidence, 0.01))
        )
        assert (card.dataset_hash, card.miou) == (metrics["dataset_hash"], metrics["test"]["miou"])

    def test_metrics_state_their_origin(self, finished, trained):
        profile, metrics = finished
        history = pd.read_csv(profile.run_folder(MODEL, 0) / "history.csv")
        assert metrics["dataset_hash"] == voc_tree.read_dataset(profile.voc)["hash"]
        assert metrics["recipe"] == profile.recipe_of(MODEL).model_dump()
        assert metrics["class_names"] == ["background", "immersion_tube", "slag_layer"]
        assert (metrics["model"], metrics["seed"], metrics["test"]["images"]) == (MODEL, 0, 3)
        assert metrics["final_loss"] == trained.history[-1]["loss"] == history["loss"].iloc[-1]
        assert metrics["train_seconds"] == pytest.approx(history["seconds"].sum())
        for key in ("device", "threads", "python", "torch", "lightning", "segmentation_models_pytorch", "commit"):
            assert metrics[key]
        assert metrics["lock"] == "no lock"

    def test_metrics_come_last(self, own_profile, trained, monkeypatch):
        written = []

        def note(source, target, replace=os.replace):
            written.append(Path(target).name)
            replace(source, target)

        monkeypatch.setattr(files.os, "replace", note)
        finish(own_profile, trained)
        assert written[-1] == "metrics.json" and written.count("metrics.json") == 1
        assert {"weights.safetensors", "per_image.parquet"} < set(written)

    @pytest.mark.parametrize("full", ["per_image.parquet", "weights.safetensors", "scene", "metrics.json"])
    def test_a_full_disk_leaves_no_finished_run(self, own_profile, trained, monkeypatch, full):
        finish(own_profile, trained)  # an earlier run must not mark what follows as complete
        folder = own_profile.run_folder(MODEL, 0)
        before = (folder / "weights.safetensors").read_bytes()

        def write(path, content, write_bytes=Path.write_bytes):
            if full in path.name:
                write_bytes(path, content[: len(content) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            write_bytes(path, content)

        monkeypatch.setattr(Path, "write_bytes", write)
        with pytest.raises(StudyError, match="no space left on the disk") as caught:
            finish(own_profile, trained)
        assert full in str(caught.value.where)
        assert not (folder / "metrics.json").exists()
        assert [path for path in folder.rglob("*") if path.name.startswith(".")] == []  # no drafts
        assert (folder / "weights.safetensors").read_bytes() == before  # complete: the old weights, or equal new ones
        with pytest.raises(StudyError, match="no finished run"):
            read_run(own_profile, MODEL, 0)

    def test_other_disk_errors_are_not_hidden(self, own_profile, trained, monkeypatch):
        def refuse(source, target):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(files.os, "replace", refuse)
        with pytest.raises(OSError, match="Input/output error"):
            finish(own_profile, trained)

    def test_checkpoints_are_deleted_when_the_run_is_finished(self, own_profile, trained):
        folder = own_profile.run_folder(MODEL, 0)
        folder.mkdir(parents=True)
        for name in ("last.ckpt", "last.ckpt.draft"):
            (folder / name).touch()
        finish(own_profile, trained)
        assert not list(folder.glob("last*"))

    def test_without_git(self, finished, monkeypatch):
        monkeypatch.setenv("PATH", "")
        origin = provenance.provenance(finished[0].root, torch.device("cpu"))
        assert origin["commit"] == "not in a git repository"

    def test_lock_and_commit_of_this_project(self):
        root = Path(__file__).parents[2]
        assert len(provenance.provenance(root, torch.device("cpu"))["lock"]) == 12

    def test_two_runs_of_a_profile_agree(self, finished, own_profile):
        """Trained and evaluated again in another folder: every number is the same."""
        task = fit(
            MODEL,
            voc_folder=own_profile.voc,
            dataset_hash=voc_tree.read_dataset(own_profile.voc)["hash"],
            num_classes=3,
            recipe=own_profile.recipe_of(MODEL),
            seed=0,
            folder=own_profile.run_folder(MODEL, 0),
        )
        first, second = finished[1], finish(own_profile, task)
        assert {k: first[k] for k in first.keys() - TIMES} == {k: second[k] for k in second.keys() - TIMES}


class TestReadRun:
    def test_missing(self, own_profile):
        with pytest.raises(StudyError, match=f"no finished run of {MODEL}, seed 7") as caught:
            read_run(own_profile, MODEL, 7)
        assert caught.value.where == own_profile.run_folder(MODEL, 7)
        assert caught.value.fix == f"python -m rhseg_lib.training --profile tiny --model {MODEL} --seed 7"

    def test_unfinished(self, finished, own_profile):
        copy_run(finished, own_profile, MODEL, 0)
        (own_profile.run_folder(MODEL, 0) / "metrics.json").unlink()
        with pytest.raises(StudyError, match="no finished run"):
            read_run(own_profile, MODEL, 0)

    def test_another_data_set(self, finished, own_profile):
        copy_run(finished, own_profile, MODEL, 0)
        path = own_profile.voc / "dataset.json"
        dataset = json.loads(path.read_text())
        path.write_text(json.dumps({**dataset, "hash": "f" * 64}))
        expected = "the run was trained with another data set"
        with pytest.raises(StudyError, match=expected) as caught:
            read_run(own_profile, MODEL, 0)
        assert caught.value.where == own_profile.run_folder(MODEL, 0) / "metrics.json"
        assert "train it again" in caught.value.fix
        with pytest.raises(StudyError, match=expected):
            finished_runs(own_profile)

    def test_another_recipe(self, finished, own_profile):
        """A profile edited while its study ran: runs of two recipes do not stand under one banner."""
        copy_run(finished, own_profile, MODEL, 0)
        longer = own_profile.model_copy(update={"recipe": own_profile.recipe.model_copy(update={"epochs": 99})})
        with pytest.raises(StudyError, match="trained with another recipe") as caught:
            finished_runs(longer)
        assert f"python -m rhseg_lib.training --profile tiny --model {MODEL} --seed 0 --overwrite" in caught.value.fix

    def test_no_data_set(self, finished, own_profile):
        copy_run(finished, own_profile, MODEL, 0)
        shutil.rmtree(own_profile.voc)
        with pytest.raises(StudyError, match="no finished data set"):
            read_run(own_profile, MODEL, 0)

    def test_all_runs_in_the_profiles_order(self, finished, own_profile):
        for model, seed in ((OTHER, 1), (MODEL, 0), (MODEL, 1), (OTHER, 5)):  # seed 5 is not of this profile
            copy_run(finished, own_profile, model, seed)
        assert own_profile.seeds == (1, 0)
        found = [(run.model, run.seed) for run in finished_runs(own_profile)]
        assert found == [(MODEL, 1), (MODEL, 0), (OTHER, 1)]

    def test_no_run(self, own_profile):
        with pytest.raises(StudyError, match="no finished run") as caught:
            finished_runs(own_profile)
        assert caught.value.where == own_profile.reports / "runs"


class TestModel:
    def test_loaded_model_predicts_what_was_saved(self, finished, trained):
        profile, _ = finished
        names = voc_tree.read_split(profile.voc, "test")
        images, _ = load_tensors(profile.voc, names)
        model = load_model(profile, MODEL, 0)
        assert not model.training
        predictions = predict(model, images)
        assert predictions.dtype == torch.uint8 and predictions.shape == (3, 64, 64)
        assert torch.equal(predictions, predict(trained.model, images))
        assert np.array_equal(predictions, read_predictions(profile, MODEL, 0, names))

    def test_predictions_do_not_depend_on_the_batch(self, profile, trained):
        images, _ = load_tensors(profile.voc, voc_tree.read_split(profile.voc, "train"))
        whole = predict(trained.model, images, batch_size=len(images))
        for batch_size in (1, 4):
            assert (predict(trained.model, images, batch_size=batch_size) == whole).float().mean() > 0.9999
        assert len(whole.unique()) == 3

    @pytest.mark.parametrize("write", [pickle.dump, torch.save])
    def test_pickled_weights_are_not_run(self, finished, own_profile, write):
        copy_run(finished, own_profile, MODEL, 0)
        folder = own_profile.run_folder(MODEL, 0)
        with (folder / "weights.safetensors").open("wb") as file:
            write(Trap(folder), file)
        with pytest.raises(StudyError, match="not a safetensors file"):
            load_model(own_profile, MODEL, 0)
        assert not (folder / "sprung").exists()

    def test_weights_of_another_model_do_not_load(self, finished, own_profile):
        copy_run(finished, own_profile, OTHER, 0)
        with pytest.raises(StudyError, match=f"the weights are of {MODEL}"):
            load_model(own_profile, OTHER, 0)

    @pytest.mark.parametrize(
        ("card", "message"),
        [
            (None, "without a card"),
            ({"mean": (0.5, 0.5, 0.5)}, "normalised by"),
            ({"class_names": ("background", "tube")}, "do not fit"),
            ({"format": 4}, "card of the weights is invalid: format"),
            *[({"image_size": size}, "invalid: image_size") for size in (0, -64, 10**6, 10**30, 64.5, "64", None)],
            *[({"class_names": names}, "invalid: class_names") for names in ([], ["a"], ["a"] * 300, ["a", "a"], "ab")],
            ({"class_names": ["background", "\x1b[31m", "slag"]}, "invalid: class_names.1"),
            *[({"miou": value}, "invalid: miou") for value in (-1, 2, float("nan"), "high")],
            *[({"abstain_below": value}, "invalid: abstain_below") for value in (-1, 7, float("inf"))],
            ({"seed": -1}, "invalid: seed"),
            ({"model": "segformer"}, "invalid: model"),
            ({"more": 1}, "invalid: more"),
            ({"format": 1}, "of an earlier version"),
        ],
    )
    def test_weights_whose_card_does_not_fit(self, finished, tmp_path, card, message):
        source = finished[0].run_folder(MODEL, 0) / "weights.safetensors"
        written = read_card(source).model_dump(mode="json", exclude={"digest"})
        changed = None if card is None else {"card": json.dumps(written | card)}
        (tmp_path / "w.safetensors").write_bytes(save(load_file(source), metadata=changed))
        with pytest.raises(StudyError, match=message) as caught:
            read_weights(tmp_path / "w.safetensors")
        assert caught.value.where == tmp_path / "w.safetensors"

    @pytest.mark.parametrize(
        "missing", ["model", "class_names", "image_size", "seed", "miou", "abstain_below", "versions"]
    )
    def test_weights_whose_card_lacks_a_key(self, finished, tmp_path, missing):
        source = finished[0].run_folder(MODEL, 0) / "weights.safetensors"
        content = json.loads(read_card(source).model_dump_json())
        del content[missing]
        (tmp_path / "w.safetensors").write_bytes(save(load_file(source), metadata={"card": json.dumps(content)}))
        with pytest.raises(StudyError, match=f"invalid: {missing}: Field required"):
            read_weights(tmp_path / "w.safetensors")

    @pytest.mark.parametrize("text", ["", "[]", "null", '"card"', "{", "[" * 100_000, '{"a":' * 100_000])
    def test_weights_whose_card_is_no_object(self, finished, tmp_path, text):
        source = finished[0].run_folder(MODEL, 0) / "weights.safetensors"
        (tmp_path / "w.safetensors").write_bytes(save(load_file(source), metadata={"card": text}))
        with pytest.raises(StudyError, match="without a card"):
            read_weights(tmp_path / "w.safetensors")

    @pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.touch])
    def test_weights_that_are_no_file_or_empty(self, tmp_path, make):
        make(tmp_path / "w.safetensors")
        with pytest.raises(StudyError, match=r"a folder, a pipe or a device|not a safetensors file"):
            read_weights(tmp_path / "w.safetensors")

    @pytest.mark.parametrize("content", ["{}", "[" * 100_000, '{"recipe": {"layers": 3}, "dataset_hash": ""}'])
    def test_a_damaged_record_names_the_file(self, finished, own_profile, content):
        copy_run(finished, own_profile, MODEL, 0)
        path = own_profile.run_folder(MODEL, 0) / "metrics.json"
        path.write_text(content)
        for read in (read_run, partial(is_finished, overwrite=False)):
            with pytest.raises(StudyError, match=r"incomplete or of another version|not JSON") as caught:
                read(own_profile, MODEL, 0)
            assert caught.value.where == path


def test_weights_that_changed_after_they_were_written(finished, tmp_path):
    """One bit anywhere: in the header, the card or a tensor."""
    whole = (finished[0].run_folder(MODEL, 0) / "weights.safetensors").read_bytes()
    path = tmp_path / "weights.safetensors"
    for place in np.linspace(0, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(StudyError) as caught:
            read_weights(path)
        assert str(path) in str(caught.value)


def test_weights_without_a_digest_load_if_they_are_finite(finished, tmp_path):
    """Earlier versions wrote none."""
    source, path = finished[0].run_folder(MODEL, 0) / "weights.safetensors", tmp_path / "weights.safetensors"
    tensors, metadata = load_file(source), {"card": read_card(source).model_dump_json(exclude={"digest"})}
    path.write_bytes(save(tensors, metadata=metadata))
    assert not read_weights(path)[1].digest
    next(tensor for tensor in tensors.values() if tensor.is_floating_point()).flatten()[0] = float("nan")
    path.write_bytes(save(tensors, metadata=metadata))
    with pytest.raises(StudyError, match="not finite"):
        read_weights(path)


def test_the_abstention_bound_excludes_only_images_that_are_ignored(monkeypatch):
    seen = []

    def confidences(_, images, masks, wholes):
        seen.append(len(images))
        return np.linspace(0.5, 1, len(images))

    monkeypatch.setattr(inference, "confidences", confidences)
    masks = torch.zeros(4, 2, 2, dtype=torch.uint8)
    masks[0, 0, 0], masks[1, 0, 0], masks[2] = 1, 2, 255  # the last is of background alone
    assert inference.abstention_bound(None, torch.zeros(4, 3, 2, 2), masks) == pytest.approx(0.505)
    assert seen == [3]
    assert inference.abstention_bound(None, torch.zeros(1, 3, 2, 2), masks[2:3]) == 0


def test_a_threshold_of_format_2_is_not_used(finished, tmp_path):
    source, path = finished[0].run_folder(MODEL, 0) / "weights.safetensors", tmp_path / "weights.safetensors"
    written = read_card(source).model_dump(mode="json", exclude={"digest"})
    path.write_bytes(save(load_file(source), metadata={"card": json.dumps(written | {"format": 2})}))
    assert read_weights(path)[1].abstain_below is None


# Two classes; images p, q, r.
GOOD = np.array([[[40, 0], [0, 40]], [[30, 0], [10, 30]], [[20, 10], [0, 20]]])
BAD = np.array([[[40, 0], [0, 40]], [[10, 20], [20, 20]], [[10, 20], [20, 0]]])


def test_images_are_chosen_by_rule():
    good, bad = (Run(name, 0, {}, of, (*"pqr",), (*"pqr",)) for name, of in (("good", GOOD), ("bad", BAD)))
    assert image_scores(good) == pytest.approx([1, 3 / 4, 2 / 3])
    assert choose_pictures(good, []) == {"best": "p", "median": "q", "worst": "r"}
    more = [
        Run(run.model, 0, {}, np.concatenate([run.matrices, run.matrices[1:2]]), (*"pqrs",), (*"pqrs",))
        for run in (good, bad)
    ]
    more[0].matrices[3] = [[45, 5], [5, 45]]
    chosen = choose_pictures(more[0], more)
    assert chosen == {"best": "p", "median": "s", "worst": "r", "models differ": "q"}


def test_an_image_that_is_ignored_as_a_whole_is_not_chosen():
    good, bad = (
        Run(name, 0, {}, np.concatenate([of, np.zeros((1, 2, 2), int)]), (*"pqrs",), (*"pqrs",))
        for name, of in (("good", GOOD), ("bad", BAD))
    )
    assert np.isnan(image_scores(good)[3])
    assert choose_pictures(good, [good, bad]) == {"best": "p", "median": "q", "worst": "r"}


def test_predictions_are_palette_images(finished):
    profile, _ = finished
    name = voc_tree.read_split(profile.voc, "test")[0]
    with Image.open(profile.run_folder(MODEL, 0) / "predictions" / f"{name}.png") as image:
        assert (image.mode, image.size) == ("P", (64, 64))
