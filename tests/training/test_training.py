"""Training is bit-reproducible, also after SIGKILL; what cannot be resumed is reported."""

import io
import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pandas as pd
import pytest
import torch
from conftest import MODEL, Trap, disk_at

from rhseg_lib.catalogue import MODEL_NAMES
from rhseg_lib.dataset import voc_tree
from rhseg_lib.dataset.batches import load_tensors
from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation.inference import confusions, predict
from rhseg_lib.evaluation.metrics import scores
from rhseg_lib.evaluation.runs import read_run
from rhseg_lib.files import sole_writer
from rhseg_lib.profile import Profile, Recipe, load_profile
from rhseg_lib.training.__main__ import main
from rhseg_lib.training.fit import fit, run, threads_to_resume
from rhseg_lib.training.task import SegmentationTask

EPOCHS = 4
RECIPE = Recipe(
    epochs=EPOCHS,
    batch_size=4,
    epoch_images=8,  # of nine images: two steps per epoch, and a pass ends within an epoch
    dice_weight=0.5,
    learning_rate=1e-2,
    min_learning_rate=1e-4,
    warmup_epochs=1,
    recompute_batchnorm=True,
)


def train(
    profile: Profile,
    folder: Path,
    *,
    recipe: Recipe = RECIPE,
    seed: int = 0,
    dataset_hash: str = "",
    checkpoint_seconds: float = 60,
) -> SegmentationTask:
    return fit(
        MODEL,
        voc_folder=profile.voc,
        dataset_hash=dataset_hash or voc_tree.read_dataset(profile.voc)["hash"],
        num_classes=3,
        recipe=recipe,
        seed=seed,
        folder=folder,
        checkpoint_seconds=checkpoint_seconds,
    )


def changed(**values) -> Recipe:
    return Recipe.model_validate({**RECIPE.model_dump(), **values})


def same_weights(one: SegmentationTask, other: SegmentationTask) -> bool:
    """Whether all weights and running statistics are equal bit for bit."""
    first, second = one.model.state_dict(), other.model.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def untimed(history: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def copy_study(profile: Profile, folder: Path) -> Path:
    return shutil.copytree(profile.root, folder / "study", ignore=shutil.ignore_patterns("runs"))


@pytest.fixture
def own_profile(profile, tmp_path) -> Profile:
    """A copy of the study that a test may write to."""
    return load_profile("tiny", root=copy_study(profile, tmp_path))


@pytest.fixture(scope="module")
def uninterrupted(profile, tmp_path_factory) -> tuple[SegmentationTask, Path]:
    """An uninterrupted run that wrote no checkpoint."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return train(profile, folder), folder


@pytest.fixture(scope="module")
def checkpointed(profile, tmp_path_factory) -> tuple[SegmentationTask, Path]:
    """The same run with a checkpoint after every epoch, kept because the run was not evaluated."""
    folder = tmp_path_factory.mktemp("checkpointed")
    return train(profile, folder, checkpoint_seconds=0), folder


class TestRepeats:
    def test_same_seed_same_weights(self, uninterrupted, checkpointed):
        assert same_weights(uninterrupted[0], checkpointed[0])
        assert untimed(uninterrupted[0].history) == untimed(checkpointed[0].history)

    def test_another_seed_other_weights(self, profile, uninterrupted, tmp_path):
        other = train(profile, tmp_path, seed=1)
        assert not same_weights(uninterrupted[0], other)
        assert untimed(uninterrupted[0].history) != untimed(other.history)

    def test_history(self, uninterrupted):
        task, folder = uninterrupted
        table = pd.read_csv(folder / "history.csv")
        assert list(table.columns) == ["epoch", "loss", "train_miou", "learning_rate", "seconds"]
        assert table["epoch"].tolist() == [1, 2, 3, 4]
        assert table["loss"].tolist() == [row["loss"] for row in task.history]
        assert table["loss"].iloc[-1] < table["loss"].iloc[0]
        assert table["train_miou"].between(0, 1).all()
        assert table["learning_rate"].iloc[-1] == pytest.approx(RECIPE.min_learning_rate)

    def test_ready_for_evaluation_and_nothing_left_over(self, uninterrupted):
        task, folder = uninterrupted
        assert not task.model.training
        assert [path.name for path in folder.iterdir()] == ["history.csv"]

    def test_half_precision(self, profile, tmp_path):
        task = train(profile, tmp_path, recipe=changed(epochs=1, warmup_epochs=0.0, precision="bf16"))
        assert math.isfinite(task.history[0]["loss"])
        assert {parameter.dtype for parameter in task.parameters()} == {torch.float32}


# Runs in its own process and stalls in the middle of its third epoch, where it is killed.
STALLED = """
import sys, time
from pathlib import Path
sys.path[:0] = {paths!r}
from test_training import SegmentationTask, train
from rhseg_lib.profile import load_profile

root, folder = map(Path, sys.argv[1:])
step = SegmentationTask.training_step

def stall(task, batch, index):
    loss = step(task, batch, index)
    if (task.current_epoch, index) == (2, 1):
        (folder / "stalled").touch()
        time.sleep(600)
    return loss

SegmentationTask.training_step = stall
train(load_profile("tiny", root=root), folder, checkpoint_seconds=0)
"""


class TestResume:
    def test_killed_run_resumes_to_the_same_weights(self, profile, uninterrupted, tmp_path):
        here = Path(__file__).parent
        script = STALLED.format(paths=list(map(str, (here, here.parent, here.parents[1]))))
        process = subprocess.Popen(
            [sys.executable, "-c", script, profile.root, tmp_path], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        try:
            deadline = time.monotonic() + 240
            while not (tmp_path / "stalled").exists():
                assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1].decode()
                time.sleep(0.02)
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert process.returncode == -signal.SIGKILL
        kept = torch.load(tmp_path / "last.ckpt", weights_only=True)["history"]
        assert len(kept) == 2 and not (tmp_path / "history.csv").exists()

        resumed = train(profile, tmp_path)
        assert resumed.history[:2] == kept  # including seconds: they were not trained again
        assert len(resumed.history) == EPOCHS
        assert untimed(resumed.history) == untimed(uninterrupted[0].history)
        assert same_weights(resumed, uninterrupted[0])

    def test_killed_after_the_last_epoch(self, profile, checkpointed):
        """Between the last checkpoint and the evaluation: nothing is trained again, and the result is the same."""
        task, folder = checkpointed
        resumed = train(profile, folder)
        assert resumed.history == task.history
        assert same_weights(resumed, task)

    def test_killed_while_saving(self, profile, tmp_path, monkeypatch):
        """A half-written checkpoint leaves the previous one intact."""
        save, saved = L.Trainer.save_checkpoint, []

        def killed_at_the_second(trainer, filepath, *arguments, **settings):
            if saved:
                Path(filepath).write_bytes(saved[0][: len(saved[0]) // 2])
                raise RuntimeError("killed")
            save(trainer, filepath, *arguments, **settings)
            saved.append(Path(filepath).read_bytes())

        monkeypatch.setattr(L.Trainer, "save_checkpoint", killed_at_the_second)
        with pytest.raises(RuntimeError, match="killed"):
            train(profile, tmp_path, checkpoint_seconds=0)
        assert (tmp_path / "last.ckpt").read_bytes() == saved[0]

    @pytest.mark.parametrize(
        ("dataset_hash", "recipe", "seed"),
        [
            ("other", changed(epochs=1, warmup_epochs=0.0), 0),
            ("", changed(epochs=1, warmup_epochs=0.0), 0),
            ("", changed(epochs=1, warmup_epochs=0.0), 5),
        ],
    )
    def test_checkpoint_of_another_run_is_not_resumed(
        self, profile, checkpointed, tmp_path, capsys, dataset_hash, recipe, seed
    ):
        (tmp_path / "last.ckpt").write_bytes((checkpointed[1] / "last.ckpt").read_bytes())
        task = train(profile, tmp_path, dataset_hash=dataset_hash, recipe=recipe, seed=seed)
        assert [row["epoch"] for row in task.history] == [1]
        assert "starting from the first epoch" in capsys.readouterr().out

    def test_the_signature_decides(self, checkpointed, tmp_path):
        path = tmp_path / "last.ckpt"
        path.write_bytes((checkpointed[1] / "last.ckpt").read_bytes())
        assert threads_to_resume(path, torch.load(path, weights_only=True)["signature"]) == torch.get_num_threads()
        assert not threads_to_resume(path.with_name("absent.ckpt"), "0123456789abcdef")
        whole = path.read_bytes()
        assert not threads_to_resume(path, "0123456789abcdef")
        assert path.with_name("last.ckpt.replaced").read_bytes() == whole  # nothing is lost

    def test_resumes_with_as_many_threads_as_it_began_with(self, profile, checkpointed, tmp_path, capsys):
        """Two threads add in another order: continued with another number, the result would be a third one."""
        began = torch.get_num_threads()
        shutil.copytree(checkpointed[1], tmp_path, dirs_exist_ok=True)
        try:
            torch.set_num_threads(began + 1)
            resumed = train(profile, tmp_path)
            assert torch.get_num_threads() == began
        finally:
            torch.set_num_threads(began)
        assert f"began with {began} CPU thread" in capsys.readouterr().out
        assert same_weights(resumed, checkpointed[0])

    def test_one_thread_unless_told_otherwise(self, profile, tmp_path, monkeypatch):
        began = torch.get_num_threads()
        monkeypatch.delenv("OMP_NUM_THREADS")
        try:
            torch.set_num_threads(began + 1)
            train(profile, tmp_path, recipe=changed(epochs=1, warmup_epochs=0.0))
            assert torch.get_num_threads() == 1
        finally:
            torch.set_num_threads(began)


def flipped(whole: bytes, place: int) -> bytes:
    return whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]


def zipped(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


DAMAGE = {
    "empty": lambda whole, folder: b"",
    "first half": lambda whole, folder: whole[: len(whole) // 2],
    "last bytes missing": lambda whole, folder: whole[:-100],
    "one bit": lambda whole, folder: flipped(whole, len(whole) // 2),
    "garbage": lambda whole, folder: bytes(range(256)) * 40,
    "text": lambda whole, folder: b"version https://git-lfs.github.com/spec/v1\n",
    "pickled code": lambda whole, folder: pickle.dumps(Trap(folder)),
    "torch file with code": lambda whole, folder: zipped({"signature": Trap(folder)}),
    "torch file of something else": lambda whole, folder: zipped({"weights": torch.zeros(3)}),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_checkpoint_is_reported_and_runs_no_code(profile, checkpointed, tmp_path, damage):
    path = tmp_path / "last.ckpt"
    path.write_bytes(damage((checkpointed[1] / "last.ckpt").read_bytes(), tmp_path))
    with pytest.raises(StudyError, match="checkpoint cannot be read") as caught:
        train(profile, tmp_path)
    assert str(path) in str(caught.value) and "delete it" in caught.value.fix
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path)))
    assert (tmp_path / "sprung").exists()


def test_a_non_finite_loss_stops_the_run(profile, tmp_path):
    with pytest.raises(StudyError) as caught:
        train(profile, tmp_path, recipe=changed(learning_rate=1e30, warmup_epochs=0.0), checkpoint_seconds=0)
    for words in (MODEL, "is nan in epoch 1", "learning_rate 1e+30, sgd", f"recipe_for: {{{MODEL}: {{learning_rate"):
        assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []  # no checkpoint to resume from it


def test_too_few_images(profile, tmp_path):
    with pytest.raises(StudyError, match="9 training images do not fill one batch of 10"):
        train(profile, tmp_path, recipe=changed(batch_size=10, epoch_images=None))


@pytest.mark.parametrize("dice_weight", [0, 0.5])
def test_loss_by_hand(dice_weight):
    """Three equally likely classes; truth 0, 0, 1 and an ignored pixel."""
    task = SegmentationTask(MODEL, num_classes=3, recipe=changed(dice_weight=dice_weight), seed=0)
    task.model = torch.nn.Conv2d(3, 3, 1).requires_grad_(False)
    torch.nn.init.zeros_(task.model.weight)
    torch.nn.init.zeros_(task.model.bias)
    task.loss_sum, task.matrix = torch.zeros(()), torch.zeros(3, 3, dtype=torch.int64)
    masks = torch.tensor([[[0, 0], [1, 255]]], dtype=torch.uint8)
    loss = task.training_step((torch.zeros(1, 3, 2, 2, dtype=torch.uint8), masks), 0)
    # 1 - 2 x intersection / (predicted + true): class 0 has 2/3 of 1 + 2 pixels, class 1 has 1/3 of 1 + 1, class 2 none
    dice = ((1 - 4 / 3 / 3) + (1 - 2 / 3 / 2) + 0) / 3
    assert loss.item() == pytest.approx(math.log(3) + dice_weight * dice, rel=1e-5)
    assert task.matrix.tolist() == [[2, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_flips_by_hand(monkeypatch):
    """Image and mask are mirrored together, about every second time."""
    task = SegmentationTask(MODEL, num_classes=3, recipe=changed(flip=True), seed=0)
    task.loss_sum, task.matrix, seen = torch.zeros(()), torch.zeros(3, 3, dtype=torch.int64), []

    def forward_pass(images, masks):
        seen.extend(zip(images, masks, strict=True))
        return torch.zeros(()), masks

    monkeypatch.setattr(task, "forward_pass", forward_pass)
    images = torch.arange(24, dtype=torch.uint8).view(1, 3, 2, 4)
    masks = torch.tensor([[[0, 1, 2, 255], [0, 0, 1, 2]]], dtype=torch.uint8)
    for _ in range(50):
        task.training_step((images.expand(2, -1, -1, -1), masks.expand(2, -1, -1)), 0)
    kept = [torch.equal(image, images[0]) and torch.equal(mask, masks[0]) for image, mask in seen]
    mirrored = [torch.equal(image, images[0].flip(-1)) and torch.equal(mask, masks[0].flip(-1)) for image, mask in seen]
    assert sum(kept) + sum(mirrored) == 100 and 30 < sum(mirrored) < 70


def test_memory_layout_changes_only_rounding(profile, tmp_path):
    short = {"epochs": 1, "warmup_epochs": 0.0, "recompute_batchnorm": False}
    plain = train(profile, tmp_path / "plain", recipe=changed(**short))
    last = train(profile, tmp_path / "last", recipe=changed(channels_last=True, **short))
    assert last.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], rel=3e-3)


class TestSchedule:
    def rates(self, recipe: Recipe, steps: int) -> list[float]:
        """Learning rate of each step and after the last."""
        task = SegmentationTask(MODEL, num_classes=3, recipe=recipe, seed=0)
        task.trainer = SimpleNamespace(estimated_stepping_batches=steps)
        configured = task.configure_optimizers()
        optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
        rates = [optimizer.param_groups[0]["lr"]]
        for _ in range(steps):
            optimizer.step()
            schedule.step()
            rates.append(optimizer.param_groups[0]["lr"])
        return rates

    @pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
    def test_warm_up_then_cosine(self, optimizer):
        recipe = Recipe(epochs=10, learning_rate=0.5, min_learning_rate=0.1, warmup_epochs=2, optimizer=optimizer)
        rates = self.rates(recipe, steps=20)
        assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])  # linear over the first 4 of 20 steps
        quarter = 0.1 + 0.4 * (1 + math.cos(math.pi / 4)) / 2
        assert rates[8] == pytest.approx(quarter)
        assert rates[12] == pytest.approx(0.3)
        assert rates[20] == pytest.approx(0.1)
        assert all(a > b for a, b in pairwise(rates[4:]))

    def test_without_warm_up_it_starts_at_the_maximum(self):
        recipe = Recipe(epochs=2, learning_rate=7e-3, min_learning_rate=0, warmup_epochs=0)
        rates = self.rates(recipe, steps=4)
        assert rates == pytest.approx([7e-3 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(5)])

    @pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
    def test_both_rates_may_be_scaled_by_the_batch(self, optimizer):
        recipe = Recipe(epochs=150, batch_size=4, scale_rate_by_batch=True, warmup_epochs=0, optimizer=optimizer)
        rates = self.rates(recipe, steps=150)
        assert (rates[0], rates[-1]) == pytest.approx((1.75e-3, 1.75e-5))  # of 7e-3 and 7e-5

    def test_training_follows_the_schedule(self, uninterrupted):
        expected = self.rates(RECIPE, steps=2 * EPOCHS)
        assert [row["learning_rate"] for row in uninterrupted[0].history] == pytest.approx(expected[2::2])

    def test_recipe_reaches_the_optimizer(self):
        task = SegmentationTask(MODEL, num_classes=3, recipe=changed(momentum=0.8, weight_decay=0.02), seed=0)
        task.trainer = SimpleNamespace(estimated_stepping_batches=8)
        optimizer = task.configure_optimizers()["optimizer"]
        assert isinstance(optimizer, torch.optim.SGD)
        assert (optimizer.defaults["momentum"], optimizer.defaults["weight_decay"]) == (0.8, 0.02)
        counted = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
        assert counted == sum(p.numel() for p in task.model.parameters())


def test_recomputed_statistics_change_and_weights_do_not(profile, tmp_path):
    short = {"epochs": 1, "warmup_epochs": 0.0}
    kept = train(profile, tmp_path / "kept", recipe=changed(recompute_batchnorm=False, **short))
    fresh = train(profile, tmp_path / "fresh", recipe=changed(recompute_batchnorm=True, **short))
    pairs = zip(kept.model.named_parameters(), fresh.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for (_, one), other in pairs)
    layers = [
        pair
        for pair in zip(kept.model.modules(), fresh.model.modules(), strict=True)
        if isinstance(pair[0], torch.nn.BatchNorm2d)
    ]
    assert layers and all(not torch.equal(one.running_var, other.running_var) for one, other in layers)
    assert {other.num_batches_tracked.item() for _, other in layers} == {2}  # one pass over the two batches
    assert {other.momentum for _, other in layers} == {one.momentum for one, _ in layers}


class TestSwitches:
    def test_batches_decoded_every_epoch_give_the_same_weights(self, profile, uninterrupted, tmp_path):
        run = train(profile, tmp_path / "run", recipe=changed(dataset_on_device=False))
        assert same_weights(run, uninterrupted[0])

    def test_compiled_steps_give_the_same_weights(self, profile, uninterrupted, tmp_path, monkeypatch):
        compiled = []

        def trace(function, *, mode, fullgraph, compile=torch.compile):  # the C++ compiler would take a minute
            compiled.append(mode)
            return compile(function, backend="eager", fullgraph=fullgraph)

        monkeypatch.setattr(torch, "compile", trace)
        run = train(profile, tmp_path / "run", recipe=changed(compile="cuda_graphs"))
        assert compiled == ["reduce-overhead"]
        assert same_weights(run, uninterrupted[0])


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_step_is_one_graph_that_reaches_every_parameter(name):
    """Required for CUDA graphs and several processes: no graph break, no parameter without a gradient."""
    task = SegmentationTask(name, num_classes=3, recipe=changed(precision="bf16", dice_weight=0), seed=0).train()
    torch._dynamo.reset()  # it stops compiling after eight models in one process
    step = torch.compile(task.forward_pass, backend="eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss, predicted = step(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.zeros(2, 64, 64, dtype=torch.uint8))
    loss.backward()
    assert predicted.shape == (2, 64, 64)
    assert [key for key, value in task.named_parameters() if value.grad is None] == []


def test_the_command_line_writes_a_finished_run(own_profile, monkeypatch):
    monkeypatch.chdir(own_profile.root)
    main(["--profile", "tiny", "--model", MODEL, "--seed", "5"])
    assert read_run(own_profile, MODEL, 5).metrics["test"]["images"] == 3


def test_a_data_set_replaced_during_training_finishes_no_run(own_profile, monkeypatch):
    """Else the run would stand for data that it was not trained on, and be tested on images that it was."""
    path, train = own_profile.voc / "dataset.json", L.Trainer.fit

    def replace(trainer, *arguments, **options):
        train(trainer, *arguments, **options)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"hash": "f" * 64}))

    monkeypatch.setattr(L.Trainer, "fit", replace)
    with pytest.raises(StudyError, match="replaced during the training"):
        run(own_profile, MODEL, 0)
    assert not (own_profile.run_folder(MODEL, 0) / "metrics.json").exists()


def test_one_training_of_a_run_at_a_time(own_profile):
    folder = own_profile.run_folder(MODEL, 0)
    with sole_writer(folder), pytest.raises(StudyError, match="another run is writing here"):
        run(own_profile, MODEL, 0)
    assert not folder.exists()


def test_an_allocation_of_slurm_changes_nothing(profile, uninterrupted, tmp_path, monkeypatch):
    """Not the number of its tasks, and no checkpoint that its signals made Lightning leave."""
    variables = {"JOB_ID": "1", "JOB_NAME": "study", "NTASKS": "4", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in {**variables, "NODELIST": "localhost", "NNODES": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"left by another recipe")
    assert same_weights(train(profile, tmp_path), uninterrupted[0])


def test_a_full_disk_and_an_impossible_seed_are_reported(own_profile):
    folder = own_profile.run_folder(MODEL, 7)
    command = [sys.executable, "-m", "rhseg_lib.training", "--profile", "tiny", "--model", MODEL, "--seed"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    options = {"cwd": own_profile.root, "env": environment, "capture_output": True, "text": True}
    with disk_at(folder, "size=1m"):
        full, impossible = (subprocess.run([*command, seed], check=False, **options) for seed in ("7", "9" * 30))
    for ran, words in ((full, "error: no space left on the disk"), (impossible, "error: the seed is out of range")):
        assert ran.returncode == 1 and words in ran.stderr and "fix:" in ran.stderr and "Traceback" not in ran.stderr
    assert str(folder.relative_to(own_profile.root)) in full.stderr


def test_a_full_disk_at_a_checkpoint_names_the_run(own_profile, monkeypatch):
    folder = own_profile.run_folder(MODEL, 8)
    monkeypatch.setattr("rhseg_lib.training.fit.fit", partial(fit, checkpoint_seconds=0))
    with disk_at(folder, "size=1m"), pytest.raises(StudyError, match="no space left on the disk") as caught:
        run(own_profile, MODEL, 8)
    assert "last.ckpt" in str(caught.value.where)


def test_a_finished_run_is_kept_unless_overwritten_with_another_recipe(own_profile, monkeypatch):
    monkeypatch.chdir(own_profile.root)
    command = ["--profile", "tiny", "--model", MODEL, "--seed", "6"]
    main(command)
    path = own_profile.run_folder(MODEL, 6) / "metrics.json"
    before = path.read_text()
    main(command)
    assert path.read_text() == before  # the seconds of another run would differ
    settings = own_profile.root / "profiles/tiny.yaml"
    settings.write_text(settings.read_text().replace("epochs: 8", "epochs: 2"))
    with pytest.raises(StudyError, match="a finished run of another recipe exists") as caught:
        main(command)
    assert "--overwrite" in caught.value.fix and path.read_text() == before
    main([*command, "--overwrite"])
    assert json.loads(path.read_text())["recipe"]["epochs"] == 2
    dataset = own_profile.voc / "dataset.json"
    dataset.write_text(dataset.read_text().replace(voc_tree.read_dataset(own_profile.voc)["hash"], "0" * 64))
    with pytest.raises(StudyError, match="of another data set"):
        main(command)


def test_two_processes_train_as_one(profile, tmp_path):
    """U-Net has no batch norm: each process's share of a batch gives its share of the same gradient."""
    study = copy_study(profile, tmp_path)
    recipe = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "min_learning_rate": 1e-3, "warmup_epochs": 0}
    (study / "profiles/two.yaml").write_text(
        "title: two\nkind: demonstration\ndata: {num_scenes: 12, scene_size: 64, image_size: 64}\n"
        f"recipe: {json.dumps(recipe)}\nmodels: [unet_vgg16]\n"
    )
    (study / "data/tiny").rename(study / "data/two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    arguments = ["rhseg_lib.training", "--profile", "two", "--model", "unet_vgg16"]
    ran = subprocess.run(command + arguments, check=False, cwd=study, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]

    def finish(folder: Path) -> SegmentationTask:
        return fit(
            "unet_vgg16",
            voc_folder=profile.voc,
            dataset_hash=voc_tree.read_dataset(profile.voc)["hash"],
            num_classes=3,
            recipe=Recipe(**recipe),
            seed=0,
            folder=folder,
        )

    two = finish(study / "reports/two/runs/unet_vgg16/seed0")  # from the checkpoint: no epoch is left to train
    one = finish(tmp_path / "one")
    for there, here in zip(two.history, one.history, strict=True):
        assert there["loss"] == pytest.approx(here["loss"], rel=1e-4)
        assert there["train_miou"] == pytest.approx(here["train_miou"], abs=2e-3)
    for key, value in one.model.state_dict().items():
        torch.testing.assert_close(two.model.state_dict()[key], value, rtol=1e-3, atol=1e-4)


class TestHeldOut:
    KEPT = changed(validation_fraction=0.25, keep_best_epoch=True, recompute_batchnorm=False, flip=True)

    def test_the_best_epoch_on_them_is_kept_and_ctrl_c_resumes_to_it(self, profile, tmp_path, monkeypatch):
        whole = train(profile, tmp_path / "whole", recipe=self.KEPT)
        curve = [row["validation_miou"] for row in whole.history]
        _, held_out = voc_tree.training_split(profile.voc, 0.25)
        images, masks = load_tensors(profile.voc, held_out)
        kept = scores(confusions(masks, predict(whole.model, images), 3).sum(0)).miou
        assert kept == max(curve) and len(curve) == EPOCHS

        step = SegmentationTask.training_step
        with monkeypatch.context() as patched:

            def stopped(task, batch, index):
                if task.current_epoch == 3:
                    raise KeyboardInterrupt
                return step(task, batch, index)

            patched.setattr(SegmentationTask, "training_step", stopped)
            with pytest.raises(StudyError, match="the run was interrupted") as caught:
                train(profile, tmp_path / "stopped", recipe=self.KEPT, checkpoint_seconds=0)
        assert "resumes" in caught.value.fix
        resumed = train(profile, tmp_path / "stopped", recipe=self.KEPT)
        assert untimed(resumed.history) == untimed(whole.history)
        assert same_weights(resumed, whole)

    def test_they_share_no_original_and_no_group_with_the_others(self, tmp_path):
        copies = {f"{name}_flip": name for name in "abcdefgh"}
        groups = {"a": "1", "b": "1", "c": "2", "d": "2", "e": "3", "f": "3", "g": "4", "h": "4"}
        lists = tmp_path / "ImageSets/Segmentation"
        lists.mkdir(parents=True)
        (lists / "train.txt").write_text("\n".join([*"abcdefgh", *copies]))
        for group_of, count in (({}, 2), (groups, 2)):
            about = {"format": voc_tree.FORMAT, "copy_of": copies, "group_of": group_of}
            (tmp_path / "dataset.json").write_text(json.dumps(about))
            rest, held_out = voc_tree.training_split(tmp_path, 0.25)
            assert len(held_out) == count and len(rest) == 16 - 2 * count
            assert not {copies.get(name, name) for name in rest} & {*held_out}
            assert len({group_of.get(name, name) for name in held_out}) == (1 if group_of else 2)
        assert voc_tree.training_split(tmp_path, 0)[1] == []
