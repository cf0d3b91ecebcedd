"""The whole study at the ci profile: run by Snakemake, run again, changed, broken, sent to a cluster, opened."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from conftest import PATH, call

from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation.runs import load_model, read_run
from rhseg_lib.profile import load_profile

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
BROKEN = "deeplabv3plus_mobilenetv2"


def snakemake(*options: str, cwd: Path) -> subprocess.CompletedProcess:
    return call("snakemake", "--cores", "2", "--config", "profile=ci", *options, cwd=cwd)


def planned(cwd: Path, *options: str) -> dict[str, int]:
    """Rule -> number of jobs that a run would execute now."""
    shown = snakemake("--dry-run", "--quiet", "host", *options, cwd=cwd)
    assert shown.returncode == 0, shown.stderr
    if "Nothing to be done" in shown.stdout + shown.stderr:
        return {}
    lines = shown.stdout.split("Job stats:")[1].strip().splitlines()[2:]
    jobs = dict(line.split()[:2] for line in lines[: next(i for i, x in enumerate(lines) if x.startswith("total"))])
    return {rule: int(count) for rule, count in jobs.items()}


def test_every_table_page_and_run_is_there(study: Path) -> None:
    reports = study / "reports/ci"
    assert (reports / "index.html").exists()
    pages = {path.stem for path in (reports / "html").glob("*.html")}
    assert {
        "01_dataset",
        "02_architectures",
        "04_ablation",
        "05_comparison",
        "06_segmentations",
        "07_claims",
        "08_speed",
        "11_realtime",
    } < pages
    assert len([page for page in pages if page.startswith("03_train")]) == 4
    for run in (reports / "runs").glob("*/seed0"):
        held = {path.name for path in run.iterdir()}
        assert {"metrics.json", "history.csv", "per_image.parquet", "weights.safetensors", "predictions"} < held
        assert "last.ckpt" not in held


def test_a_second_run_does_nothing(study: Path) -> None:
    assert planned(study) == {}


def test_what_was_only_looked_at_trains_nothing(study: Path) -> None:
    """JupyterLab saves outputs and versions, a file manager or an editor new times: code and cells are the same."""
    path = study / "notebooks/03_train.ipynb"
    before = path.read_text()
    notebook = json.loads(before)
    notebook["metadata"]["language_info"] = {"name": "python", "version": "3.11.0"}
    notebook["cells"][1]["execution_count"] = 3
    path.write_text(json.dumps(notebook, indent=2))
    for touched in ("rhseg_lib/training/fit.py", "rhseg_lib/sources/images.py", "data/ci/voc/dataset.json"):
        (study / touched).touch()
    jobs = planned(study)
    path.write_text(before)
    assert jobs == {}


def test_a_change_of_words_in_the_report_trains_nothing(study: Path) -> None:
    path = study / "rhseg_lib/report/findings.py"
    before = path.read_text()
    path.write_text(before.replace("Few independent images", "Few images"))
    jobs = planned(study)
    path.write_text(before)
    assert not {"dataset", "train"} & jobs.keys()
    assert {"ablation", "comparison", "claims", "summary"} <= jobs.keys()


def test_a_changed_network_trains_all(study: Path) -> None:
    path = study / "rhseg_lib/models/ema.py"
    before = path.read_text()
    path.write_text(before + "\n")
    jobs = planned(study)
    path.write_text(before)
    assert jobs["train"] == 4 and "dataset" not in jobs


def test_a_changed_learning_rate_retrains_one_model_and_what_reads_it(study: Path) -> None:
    path = study / "profiles/ci.yaml"
    before = path.read_text()
    path.write_text(before + f"recipe_for:\n  {BROKEN}:\n    learning_rate: 2e-3\n")
    jobs = planned(study)
    path.write_text(before)
    assert jobs["train"] == 1
    assert not {"dataset", "architectures"} & jobs.keys()
    assert {"ablation", "comparison", "segmentations", "claims", "summary"} <= jobs.keys()


def test_a_changed_scene_seed_runs_everything(study: Path) -> None:
    path = study / "profiles/ci.yaml"
    before = path.read_text()
    path.write_text(before.replace("  num_scenes: ", "  seed: 7\n  num_scenes: "))
    jobs = planned(study)
    path.write_text(before)
    assert jobs["dataset"] == 1
    assert jobs["train"] == 4


@pytest.mark.parametrize(
    ("lost", "rule"),
    [
        ("data/ci/voc", "dataset"),
        (f"reports/ci/runs/{BROKEN}/seed0", "train"),
        (f"reports/ci/html/03_train_{BROKEN}_seed0.html", "run_page"),
        ("reports/ci/html/05_comparison.html", "comparison"),
        ("reports/ci/notebooks/04_ablation.ipynb", "ablation"),
        ("reports/ci/tables/ema_pooling.csv", "architectures"),
        ("reports/ci/tables/speed_inference.csv", "speed"),
        ("reports/ci/index.html", "summary"),
    ],
)
def test_what_was_lost_is_made_again(study: Path, lost: str, rule: str) -> None:
    (study / lost).rename(study / "away")
    jobs = planned(study)
    (study / "away").rename(study / lost)
    assert jobs[rule] == 1
    assert planned(study) == {}


def flip_a_bit(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


def train(tree: Path) -> None:
    ran = call("python", "-m", "rhseg_lib.training", "--profile", "ci", "--model", BROKEN, "--seed", "8", cwd=tree)
    if ran.returncode:
        raise StudyError("", where="", fix=ran.stderr.partition("fix:")[2].strip())


def load(tree: Path) -> None:
    load_model(load_profile("ci", root=tree), BROKEN, 0)


def read(tree: Path) -> None:
    read_run(load_profile("ci", root=tree), BROKEN, 0)


RUN = f"reports/ci/runs/{BROKEN}/seed0"


@pytest.mark.parametrize(
    ("spoil", "use"),
    [
        (lambda tree: next((tree / "data/ci/voc/JPEGImages").iterdir()).unlink(), train),
        (lambda tree: (tree / "data/ci/voc/dataset.json").write_text("{"), train),
        (lambda tree: flip_a_bit(tree / RUN / "weights.safetensors"), load),
        (lambda tree: (tree / RUN / "weights.safetensors").unlink(), load),
        (lambda tree: (tree / RUN / "metrics.json").unlink(), read),
    ],
)
def test_a_fix_works_when_it_is_followed(study: Path, tmp_path: Path, spoil, use) -> None:
    """What is damaged is refused; with the fix done as it is written, the same use succeeds."""
    tree = tmp_path / "tree"
    shutil.copytree(study, tree)
    spoil(tree)
    with pytest.raises(StudyError) as caught:
        use(tree)
    folder, _, command = caught.value.fix.removeprefix("delete ").rpartition(", then: ")
    if folder:
        shutil.rmtree(folder)
    ran = call(*command.split(), cwd=tree)
    assert ran.returncode == 0, (command, ran.stderr[-2000:])
    use(tree)


def test_a_library_file_from_the_future_changes_nothing(study: Path) -> None:
    """A clock that was wrong, an archive from another time zone."""
    path = study / "rhseg_lib/report/tables.py"
    before = path.stat()
    os.utime(path, (before.st_atime, before.st_mtime + 10 * 365 * 86400))
    jobs = planned(study)
    os.utime(path, (before.st_atime, before.st_mtime))
    assert jobs == {}


def test_a_second_study_gives_the_same_tables_and_figures(study: Path, tmp_path: Path) -> None:
    """All but measured times."""
    copy = tmp_path / "tree"
    shutil.copytree(study, copy, ignore=shutil.ignore_patterns("ci", ".snakemake"))
    ran = snakemake("--until", "claims", "segmentations", "ablation", cwd=copy)
    assert ran.returncode == 0, ran.stderr[-4000:]
    first, second = (tree / "reports/ci" for tree in (study, copy))
    files = [path.relative_to(second) for path in second.rglob("*") if path.suffix in (".csv", ".webp", ".png")]
    assert len(files) > 30
    timed = {Path("figures/cost.webp"), Path("tables/latency.csv")}
    different = {file for file in files if untimed(first / file) != untimed(second / file)} - timed
    assert different == set()


def untimed(path: Path) -> bytes:
    """A file's content without the columns and rows that hold measured times."""
    if path.name == "history.csv":
        return pd.read_csv(path).drop(columns="seconds").to_csv().encode()
    if path.name == "claims.csv":
        return b"\n".join(line for line in path.read_bytes().splitlines() if b" ms" not in line)
    return path.read_bytes()


def test_a_broken_notebook_stops_with_its_name_cell_and_error(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(study, copy, ignore=shutil.ignore_patterns("raw"))
    path = copy / "notebooks/06_segmentations.ipynb"
    notebook = json.loads(path.read_text())
    notebook["cells"][-1]["source"] = ["1 / 0"]
    path.write_text(json.dumps(notebook))
    ran = snakemake("--until", "segmentations", cwd=copy)
    assert ran.returncode != 0
    assert "06_segmentations.ipynb failed in cell" in ran.stderr
    assert "ZeroDivisionError" in ran.stderr
    assert (copy / "reports/ci/notebooks/06_segmentations.failed.ipynb").exists()
    assert not (copy / "reports/ci/html/06_segmentations.html").exists()
    assert "segmentations" in planned(copy, "--until", "segmentations")


def test_pages_are_built_from_the_runs_that_are_there(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(study, copy, ignore=shutil.ignore_patterns("index.html", "weights.safetensors", ".snakemake"))
    for model in (BROKEN, "fcn_resnet50", "unet_vgg16"):  # the one of Table 2, and two that take long to show
        shutil.rmtree(copy / f"reports/ci/runs/{model}")
    again = ("--config", "profile=ci", "runs=finished", "--forcerun", "architectures", "segmentations")
    ran = call("snakemake", "--cores", "2", *again, cwd=copy)
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert "rule train" not in ran.stderr and "rule speed" not in ran.stderr
    before, after = ((tree / "reports/ci/tables/table2.csv").read_text() for tree in (study, copy))
    assert after.count("not trained") == 1 + before.count("not trained")
    assert (copy / "reports/ci/index.html").exists()
    shutil.rmtree(copy / "reports/ci/runs")
    ran = call("snakemake", "--cores", "1", "--config", "profile=ci", "runs=finished", cwd=copy)
    assert ran.returncode != 0 and "no finished run" in ran.stderr and "make study PROFILE=ci" in ran.stderr


def test_a_study_after_a_report_trains_nothing(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(study, copy)
    ran = snakemake("runs=finished", "--forcerun", "run_page", "--until", "run_page", cwd=copy)
    assert ran.returncode == 0 and "rule run_page" in ran.stderr, ran.stderr[-4000:]
    assert planned(copy) == {}


def test_an_unknown_profile_is_one_clear_error(study: Path) -> None:
    ran = call("snakemake", "--cores", "1", "--config", "profile=fast", cwd=study)
    assert ran.returncode != 0
    assert "unknown profile 'fast'" in ran.stderr
    assert "take one of: ci, own, paper, paper_as_described, quick" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_killed_study_goes_on_and_two_at_once_do_not(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(study, copy, ignore=shutil.ignore_patterns("raw"))
    path = copy / "notebooks/06_segmentations.ipynb"
    notebook = json.loads(path.read_text())
    wait = 'import time, pathlib\nwhile pathlib.Path("hold").exists():\n    time.sleep(0.2)'
    notebook["cells"][-1]["source"] = [wait]
    path.write_text(json.dumps(notebook))
    (copy / "hold").touch()
    command = ["snakemake", "--cores", "1", "--config", "profile=ci", "--until", "segmentations"]
    started = subprocess.Popen(
        command, cwd=copy, env={**os.environ, "PATH": PATH}, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with started as first:
        assert any("rule segmentations" in line for line in first.stderr)
        second = snakemake("--until", "segmentations", cwd=copy)
        os.killpg(first.pid, signal.SIGKILL)
    assert second.returncode != 0
    assert "another run of the profile 'ci' is going on here" in second.stderr and "Traceback" not in second.stderr
    (copy / "hold").unlink()
    third = snakemake("--until", "segmentations", cwd=copy)
    assert third.returncode == 0, third.stderr[-2000:]
    assert planned(copy, "--until", "segmentations") == {}


@pytest.mark.parametrize("name", ["$(shell touch spy)", "`touch spy`", "$(touch spy)", "'; touch spy; '", "a b"])
def test_nothing_in_the_name_of_a_profile_is_run(study: Path, name: str) -> None:
    for command in (("make", "study", f"PROFILE={name}"), ("make", "report", f"PROFILE={name}")):
        ran = call(*command, cwd=study)
        assert ran.returncode != 0 and "unknown profile" in ran.stderr, ran.stderr
    spy = study / "spy"
    sprung = spy.exists()
    spy.unlink(missing_ok=True)
    assert not sprung


@pytest.mark.parametrize("notebook", ["06_segmentations", "explore"])
def test_papermill_by_hand(study: Path, tmp_path: Path, notebook: str) -> None:
    out = tmp_path / "out.ipynb"
    ran = call("papermill", f"notebooks/{notebook}.ipynb", str(out), "-p", "profile", "ci", cwd=study)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert out.exists()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_every_page_opens_without_a_network(study: Path) -> None:
    from playwright.sync_api import sync_playwright

    pages = [study / "reports/ci/index.html", *sorted((study / "reports/ci/html").glob("*.html"))]
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(offline=True)
        for path in pages:
            problems: list[str] = []
            page = context.new_page()
            page.on("console", lambda message, found=problems: found.append(message.text))
            page.on("pageerror", lambda problem, found=problems: found.append(str(problem)))
            page.on("requestfailed", lambda request, found=problems: found.append(f"failed: {request.url[:80]}"))
            page.on("request", lambda request, found=problems: (
                None if request.url.startswith(("file:", "data:")) else found.append(f"asked for {request.url}")
            ))  # fmt: skip
            page.goto(path.as_uri())
            images = page.eval_on_selector_all("img", "all => all.map(i => [i.alt, i.complete && i.naturalWidth > 0])")
            assert all(alt and loaded for alt, loaded in images), path.name
            assert page.title()
            assert (
                page.locator(".banner")
                .inner_text()
                .startswith("A few tiny scenes, two epochs. Profile ci: a demonstration")
            )
            for width in (1280, 390):  # a laptop and a phone: nothing wider than the screen
                page.set_viewport_size({"width": width, "height": 800})
                assert page.evaluate("document.documentElement.scrollWidth") <= width, (path.name, width)
            links = page.eval_on_selector_all(
                "a[href]", "all => all.map(a => a.href).filter(h => h.startsWith('file:'))"
            )
            missing = [link for link in links if not Path(link.removeprefix("file://").split("#")[0]).exists()]
            assert not missing, (path.name, missing)
            assert problems == [], path.name
            page.close()
        browser.close()
