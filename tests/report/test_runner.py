"""Notebooks: parameters are checked, only complete results are written, and pages work offline."""

import base64
import os
import re
from pathlib import Path

import nbformat
import papermill
import pytest
from bs4 import BeautifulSoup
from conftest import ROOT, call, disk_at
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from rhseg_lib.errors import StudyError
from rhseg_lib.profile import Profile
from rhseg_lib.report.notebook_parameters import TYPES
from rhseg_lib.report.runner import check_parameters, main, pages_of, run_notebook, write_page

PARAMETERS = """
profile: str = "tiny"  # a profile
seed: int = 0  # decides everything
rate: float = 1e-3  # learning rate
clean: bool = False
untyped = 3
items: list = []
"""
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()


def notebook(folder: Path, *cells: str, name: str = "04_ablation") -> Path:
    """A notebook with a title, the parameters above and the given code cells."""
    parameters = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    content = new_notebook(
        cells=[new_markdown_cell("# A small page\n\nSome prose."), parameters, *map(new_code_cell, cells)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    path = folder / f"{name}.ipynb"
    nbformat.write(content, path)
    return path


class TestCheckParameters:
    @pytest.mark.parametrize(
        "parameters",
        [
            {},
            {"profile": "paper"},
            {"seed": 3, "rate": 0.5, "clean": True},
            {"rate": 1},  # a whole number is a number
            {"seed": -1, "profile": ""},
        ],
    )
    def test_accepts(self, tmp_path, parameters):
        check_parameters(notebook(tmp_path), parameters)

    @pytest.mark.parametrize(
        ("parameters", "expected"),
        [
            ({"sede": 3}, ["unknown parameter 'sede'", "profile, seed, rate, clean"]),
            ({"Seed": 3}, ["unknown parameter 'Seed'"]),
            ({"seed": "3"}, ["'seed' is '3'", "type int"]),
            ({"seed": 3.0}, ["'seed' is 3.0", "type int"]),
            ({"seed": True}, ["'seed' is True", "type int"]),
            ({"seed": None}, ["'seed' is None", "type int"]),
            ({"rate": True}, ["'rate' is True", "type float"]),
            ({"rate": "fast"}, ["'rate' is 'fast'", "type float"]),
            ({"clean": 1}, ["'clean' is 1", "type bool"]),
            ({"clean": "yes"}, ["'clean' is 'yes'", "type bool"]),
            ({"profile": 3}, ["'profile' is 3", "type str"]),
            ({"profile": False}, ["'profile' is False", "type str"]),
            ({"untyped": 4}, ["'untyped' has no type", "str, int, float, bool"]),
            ({"items": [1]}, ["'items' has no type", "str, int, float, bool"]),
            ({"seed": 3, "other": 1}, ["unknown parameter 'other'"]),
        ],
    )
    def test_rejects(self, tmp_path, parameters, expected):
        path = notebook(tmp_path)
        with pytest.raises(StudyError) as caught:
            check_parameters(path, parameters)
        for text in (*expected, str(path)):
            assert text in str(caught.value)

    def test_missing_notebook_names_the_others(self, tmp_path):
        notebook(tmp_path, name="01_dataset")
        with pytest.raises(StudyError, match=r"no such notebook(?s:.*)take one of: 01_dataset.ipynb"):
            check_parameters(tmp_path / "1_dataset.ipynb", {})
        with pytest.raises(StudyError, match="take one of: none"):
            check_parameters(tmp_path / "absent" / "01_dataset.ipynb", {})

    @pytest.mark.parametrize(
        "path", sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem
    )
    def test_the_studys_notebooks_can_be_checked(self, path):
        check_parameters(path, {"source": "data/sample"} if path.stem == "09_predict" else {"profile": "quick"})
        declared = nbformat.read(path, as_version=4).cells
        tagged = [cell for cell in declared if "parameters" in cell.metadata.get("tags", [])]
        assert len(tagged) == 1
        for line in tagged[0].source.splitlines():
            assert not line.strip() or line.split(":")[1].split("=")[0].strip() in TYPES


class TestRunNotebook:
    def test_failure_names_notebook_cell_and_error(self, tmp_path):
        path = notebook(
            tmp_path,
            "before = seed",
            "import os\nraise ValueError(f'seed {seed} in {os.getcwd()} \\x1b[31mred\\x1b[0m')",
            "after = 1",
        )
        output = tmp_path / "out" / "page.ipynb"
        with pytest.raises(StudyError) as caught:
            run_notebook(path, output, {"seed": 7}, root=tmp_path)
        assert caught.value.what == f"04_ablation.ipynb failed in cell 4: ValueError: seed 7 in {tmp_path} red"
        assert str(output.with_name("page.failed.ipynb")) in caught.value.where
        assert [entry.name for entry in output.parent.iterdir()] == ["page.failed.ipynb"]
        kept = nbformat.read(output.with_name("page.failed.ipynb"), as_version=4)
        assert any("ValueError" in str(cell.get("outputs")) for cell in kept.cells)

    def test_a_killed_kernel_is_a_failure(self, tmp_path):
        path = notebook(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
        output = tmp_path / "out" / "page.ipynb"
        with pytest.raises(StudyError, match=r"04_ablation.ipynb lost its kernel(?s:.*)memory"):
            run_notebook(path, output, {})
        assert [entry.name for entry in output.parent.iterdir()] == ["page.failed.ipynb"]

    def test_kernels_started_together_share_no_port(self, tmp_path):
        code = (
            "import json, ipykernel\nconnection = json.load(open(ipykernel.get_connection_file()))\n"
            "print(connection['transport'], bool(connection.get('curve_publickey')))"
        )
        output = tmp_path / "out" / "page.ipynb"
        run_notebook(notebook(tmp_path, code), output, {})
        assert "ipc True" in str(nbformat.read(output, as_version=4).cells[-1].outputs)

    @pytest.mark.parametrize(("failing", "started"), [(2, True), (3, False)])
    def test_a_kernel_that_does_not_start_is_started_again(self, tmp_path, monkeypatch, capsys, failing, started):
        execute, starts = papermill.execute_notebook, []

        def fail_first(*arguments, **options):
            starts.append(1)
            if len(starts) <= failing:
                raise RuntimeError("Kernel died before replying to kernel_info")
            return execute(*arguments, **options)

        monkeypatch.setattr(papermill, "execute_notebook", fail_first)
        output = tmp_path / "out" / "page.ipynb"
        if started:
            run_notebook(notebook(tmp_path, "print(1)"), output, {})
        else:
            with pytest.raises(StudyError, match="no kernel started"):
                run_notebook(notebook(tmp_path, "print(1)"), output, {})
        assert capsys.readouterr().err.count("trying again") == 2 and len(starts) == 3
        assert [entry.name for entry in output.parent.iterdir()] == (["page.ipynb"] if started else [])

    def test_invalid_parameters_start_nothing(self, tmp_path):
        output = tmp_path / "out" / "page.ipynb"
        with pytest.raises(StudyError, match="unknown parameter"):
            run_notebook(notebook(tmp_path), output, {"sede": 1})
        assert not output.parent.exists()


class TestMain:
    def test_notebook_to_page(self, profile, tmp_path, monkeypatch):
        monkeypatch.chdir(profile.root)
        path = notebook(
            tmp_path,
            "import os, sys\nprint('seed', seed, type(rate).__name__, 'in', os.getcwd())",
            "print('noise', file=sys.stderr)",
        )
        output, html = tmp_path / "out" / "page.ipynb", tmp_path / "out" / "page.html"
        output.parent.mkdir()
        output.with_name("page.failed.ipynb").touch()  # from an earlier attempt
        arguments = ["-p", "profile", "tiny", "-p", "seed", "5", "-p", "rate", "2"]
        assert main([str(path), "--output", str(output), "--html", str(html), *arguments]) == 0
        assert {entry.name for entry in output.parent.iterdir()} == {"page.ipynb", "page.html"}
        page = html.read_text(encoding="utf-8")
        assert f"seed 5 int in {profile.root}" in page
        assert "noise" in str(nbformat.read(output, as_version=4).cells[-1].outputs)
        assert ">noise" not in page and "noise\n" not in page

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["-p", "profile", "absent"], "unknown profile 'absent'"),
            (["-p", "profile", "tiny", "-p", "sede", "5"], "unknown parameter 'sede'"),
            (["-p", "profile", "tiny", "-p", "seed", "five"], "parameter 'seed' is 'five'"),
            (["-p", "profile", "tiny", "-p", "seed", "yes"], "parameter 'seed' is True"),
            (["-p", "profile", "tiny", "-p", "seed", "[5"], "not valid YAML"),
            (["-p", "profile", "tiny", "-p", "seed", "[" * 5000], "not valid YAML: nested too deeply"),
            (["-p", "profile", "ti\x1bny"], "not valid YAML"),
        ],
    )
    def test_an_error_is_reported_without_traceback(self, profile, tmp_path, monkeypatch, capsys, arguments, expected):
        monkeypatch.chdir(profile.root)
        path, output = notebook(tmp_path), tmp_path / "out" / "page.ipynb"
        assert main([str(path), "--output", str(output), "--html", str(tmp_path / "page.html"), *arguments]) == 1
        stderr = capsys.readouterr().err
        assert f"error: {expected}" in stderr and "fix:" in stderr and "Traceback" not in stderr
        assert not output.exists() and not (tmp_path / "page.html").exists()

    @pytest.mark.parametrize(
        "content",
        ["{", "{}", "[]", "[" * 100_000, '{"nbformat": 99}', '{"nbformat": 4, "nbformat_minor": 5, "cells": 3}', None],
    )
    def test_a_damaged_notebook_is_reported(self, tmp_path, content):
        path = tmp_path / "page.ipynb"
        path.write_text(content) if content else os.mkfifo(path)
        with pytest.raises(StudyError, match=r"not a|not JSON") as caught:
            check_parameters(path, {})
        assert caught.value.where == path

    @pytest.mark.parametrize(("options", "expected"), [("size=64k", "no space left"), ("ro", "a read-only disk")])
    def test_a_full_or_read_only_disk_is_reported(self, profile, tmp_path, monkeypatch, capsys, options, expected):
        monkeypatch.chdir(profile.root)
        path, disk = notebook(tmp_path, "print('x' * 100_000)"), tmp_path / "disk"
        arguments = ["--output", str(disk / "page.ipynb"), "--html", str(tmp_path / "page.html")]
        with disk_at(disk, options):
            assert main([str(path), *arguments, "-p", "profile", "tiny"]) == 1
        stderr = capsys.readouterr().err
        assert f"error: {expected}" in stderr and str(disk) in stderr and "fix:" in stderr


def executed(folder: Path, name: str = "04_ablation") -> Path:
    """A notebook as if executed: a stream of each kind, a table, and an image with a description."""
    content = nbformat.read(notebook(folder, "make()", name=name), as_version=4)
    injected = new_code_cell("seed = 12345", metadata={"tags": ["injected-parameters"]})
    content.cells.insert(2, injected)
    image = {"image/png": PIXEL, "text/plain": "<Figure>"}
    content.cells[-1].outputs = [
        new_output("stream", name="stdout", text="a line that is shown"),
        new_output("stream", name="stderr", text="a progress bar"),
        new_output("display_data", data=image, metadata={"image/png": {"alt": "Curves of the loss"}}),
        new_output("display_data", data={"text/html": "<table><tr><td>90.46</td></tr></table>"}),
    ]
    nbformat.write(content, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def parsed(html: Path) -> BeautifulSoup:
    return BeautifulSoup(html.read_text(encoding="utf-8"), "html.parser")


@pytest.fixture(scope="module")
def page(profile, tmp_path_factory) -> BeautifulSoup:
    folder = tmp_path_factory.mktemp("page")
    html = folder / "html" / "04_ablation.html"
    write_page(executed(folder), html, profile=profile, notebook="04_ablation")
    return parsed(html)


class TestPage:
    def test_title_and_banner(self, page: BeautifulSoup, profile: Profile):
        assert page.title.text == f"A small page · {profile.title}"
        assert "A small page" in page.h1.text
        assert page.select_one("p.banner.demonstration").text == profile.banner
        assert page.html["lang"] == "en"

    def test_code_is_folded(self, page: BeautifulSoup):
        folds = page.find_all("details")
        assert [fold.summary.text for fold in folds] == ["code", "parameters of this page", "code"]
        assert all(fold.select(".highlight") and not fold.has_attr("open") for fold in folds)
        for code in ("make", "12345"):
            places = page.main.find_all(string=re.compile(code))
            assert places and all(place.find_parent("details") for place in places)

    def test_output_is_shown_and_messages_are_not(self, page: BeautifulSoup):
        assert "a line that is shown" in page.main.text and "90.46" in page.main.text
        assert "a progress bar" not in str(page)

    def test_the_page_is_self_contained(self, page: BeautifulSoup):
        assert page.script is None
        for element in page.find_all(True):
            loaded = ["src", "srcset", "data", "poster", "action"] + ["href"] * (element.name == "link")
            assert all(element.get(key, "data:").startswith("data:") for key in loaded), element
        assert "@import" not in page.style.text and "url(" not in page.style.text
        policy = page.find("meta", {"http-equiv": "Content-Security-Policy"})
        assert policy["content"].startswith("default-src 'none'")

    def test_images_are_embedded_and_described(self, page: BeautifulSoup):
        (image,) = page.find_all("img")
        assert image["src"].startswith("data:image/png;base64,")
        assert image["alt"] == "Curves of the loss"

    def test_links_reach_the_other_pages(self, page: BeautifulSoup, profile: Profile):
        links = page.find_all("a")
        targets = {link["href"] for link in links if not link["href"].startswith("#")}
        others = {f"{name}.html" for name in pages_of(profile) if name != "00_summary"}
        assert targets == {"../index.html", *others}
        assert [link["href"] for link in links if link.get("aria-current") == "page"] == ["04_ablation.html"]

    def test_front_page_links_downwards(self, profile, tmp_path):
        own = profile.model_copy(update={"root": tmp_path})
        html = own.reports / "index.html"
        write_page(executed(tmp_path, "00_summary"), html, profile=own, notebook="00_summary")
        assert {"index.html", "html/01_dataset.html"} <= {link["href"] for link in parsed(html).find_all("a")}

    def test_no_link_leads_to_a_page_that_the_report_lacks(self, profile, tmp_path):
        own = profile.model_copy(update={"root": tmp_path})
        path = executed(tmp_path, "00_summary")
        content = nbformat.read(path, as_version=4)
        listed = "- [Speed](html/08_speed.html): times\n- [Real time](html/11_realtime.html): more"
        content.cells.append(new_markdown_cell(listed))
        nbformat.write(content, path)
        html = own.reports / "index.html"
        write_page(path, html, profile=own, notebook="00_summary", without=("08_speed",))
        links = [link["href"] for link in parsed(html).find_all("a")]
        assert "html/08_speed.html" not in links and links.count("html/11_realtime.html") == 2

    def test_page_of_a_training_run_is_titled_with_its_model(self, profile, tmp_path):
        html = tmp_path / "page.html"
        write_page(executed(tmp_path, "03_train_unet_vgg16_seed2"), html, profile=profile, notebook="03_train")
        assert parsed(html).title.text.startswith("unet_vgg16, seed 2 · ")


@pytest.mark.parametrize("arguments", [["-p", "sede", "5"], ["-p", "seed", "five"]])
def test_plain_papermill_refuses_them_too(profile, tmp_path, arguments):
    """A misspelt parameter would train the default, and end as if all were right."""
    path = notebook(tmp_path, "from rhseg_lib.report.notebook_parameters import check_injected\n\ncheck_injected()")
    command = ("papermill", str(path), str(tmp_path / "out.ipynb"), "-p", "profile", "tiny")
    valid = call(*command, "-p", "seed", "5", cwd=profile.root)
    assert valid.returncode == 0, valid.stderr[-2000:]
    ran = call(*command, *arguments, cwd=profile.root)
    assert ran.returncode != 0 and f"parameter '{arguments[1]}'" in ran.stderr


def test_every_notebook_checks_its_parameters_first():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        assert "\ncheck_injected()\n" in code[1], path
