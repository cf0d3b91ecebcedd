"""Annotation errors: tabulated, written as CSV, skipped; what a profile over a messy folder leaves behind."""

import csv

import numpy as np
import pytest
from labelme_files import INVALID, MESSY, write_messy_folder
from PIL import Image

from rhseg_lib.dataset import build, voc_tree
from rhseg_lib.errors import StudyError
from rhseg_lib.profile import Profile, load_profile
from rhseg_lib.sources import checks
from rhseg_lib.sources.checks import Problem

OWN = """
title: A messy folder
kind: result
data:
  source: labelme
  folder: photographs
  ignore_labels: [__ignore__, glare]
  background_labels: [ladle]
  image_size: 64
  test_fraction: 0.2
recipe: {}
"""


def lines_of(found: list[Problem], tmp_path) -> list[str]:
    with pytest.raises(checks.InvalidAnnotations) as raised:
        checks.refuse(found, tmp_path)
    return raised.value.what.splitlines()


def test_table_is_aligned_whatever_characters_it_holds(tmp_path):
    found = [Problem("渣层.json", 12, "a", "fix it"), Problem("b.json", None, "much longer", "fix that")]
    assert lines_of(found, tmp_path) == [
        "2 annotation error(s) in 2 file(s):",
        "  file       shape  what         fix",
        "  渣层.json  12     a            fix it",  # each Chinese character is two columns wide
        "  b.json            much longer  fix that",
    ]


def test_equal_errors_are_reported_once(tmp_path):
    found = [
        Problem(f"{number:03}.json", shape, "unknown label", "rename it") for number in range(250) for shape in (0, 3)
    ]
    assert lines_of(found, tmp_path)[0] == "500 annotation error(s) in 250 file(s):"
    assert lines_of(found, tmp_path)[2:] == ["  000.json and 249 more  0      unknown label (500 times)  rename it"]


def test_fifty_rows_at_most(tmp_path):
    found = [Problem("a.json", number, f"error {number}", "fix it") for number in range(52)]
    lines = lines_of(found, tmp_path)
    assert len(lines) == 2 + 50 + 1
    assert lines[-1] == "  and 2 more"
    assert len(lines_of(found[:50], tmp_path)) == 2 + 50


def test_no_errors_no_exception(tmp_path):
    checks.refuse([], tmp_path)


def test_an_image_annotated_twice_is_kept_once(tmp_path):
    invalid = {"a": [Problem("a.json", None, "no shapes", "draw some")]}
    annotations = {name: tmp_path / f"{name}.json" for name in "abcdef"}
    digests = {"b": "1f", "c": "2e", "d": "1f", "e": "", "f": ""}
    skipped = checks.sift(annotations, invalid, digests, folder=tmp_path, on_error="skip")
    (twice,) = skipped.pop("d")
    assert (twice.file, twice.what) == ("d.json", "annotates the same image as b.json")
    assert skipped == invalid
    with pytest.raises(checks.InvalidAnnotations, match=r"2 annotation error\(s\)"):
        checks.sift(annotations, invalid, digests, folder=tmp_path, on_error="stop")
    with pytest.raises(checks.InvalidAnnotations, match=r"1 annotation error\(s\)"):  # no image would be left
        checks.sift({"a": tmp_path / "a.json"}, invalid, {}, folder=tmp_path, on_error="skip")


@pytest.fixture
def own(tmp_path) -> Profile:
    """A profile over the messy folder, which stops at errors."""
    write_messy_folder(tmp_path / "photographs")
    return rewritten(tmp_path)


def rewritten(root, old="", new="") -> Profile:
    (root / "profiles").mkdir(exist_ok=True)
    (root / "profiles/own.yaml").write_text(OWN.replace(old, new))
    return load_profile("own", root=root)


def test_errors_stop_a_study_and_are_written_as_csv(own):
    with pytest.raises(StudyError, match=r"3 annotation error\(s\) in 3 file\(s\)") as raised:
        build.make_dataset(own, workers=1)
    kept = own.tables / "errors.csv"
    assert str(kept) in raised.value.fix
    assert "on_error: skip" in raised.value.fix
    with kept.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == INVALID.keys()
    assert [row["shape"] for row in rows] == ["", "1", ""]
    assert not own.voc.exists()


def test_errors_may_be_skipped_and_fixed(own):
    with pytest.raises(StudyError):
        build.make_dataset(own, workers=1)
    folder = own.root / "photographs"
    skipping = rewritten(own.root, "labelme\n", "labelme\n  on_error: skip\n")
    dataset = build.make_dataset(skipping, workers=1)
    assert {problem["file"] for problem in dataset["skipped"]} == INVALID.keys()
    assert (own.tables / "errors.csv").exists()
    Image.fromarray(np.zeros((72, 96, 3), np.uint8)).save(folder / "六月/gone.png")
    for file in ("wrong.json", "may 05/cut.json"):
        (folder / file).unlink()
    for index in range(7):
        (folder / f"bare {index}.jpg").touch()  # beside the two whose JSON is gone
    dataset = build.make_dataset(own, workers=1)
    assert dataset["skipped"] == []
    listed = ", ".join(f"bare {index}.jpg" for index in range(5))
    assert f"Left out, as they have no annotation of their name: 9 image(s), {listed} and 4 more." in dataset["notes"]
    assert not (own.tables / "errors.csv").exists()
    assert sum(dataset["originals"][part] for part in ("train", "test")) == len(MESSY) - 2
    assert "六月__gone" in {*voc_tree.read_split(own.voc, "train"), *voc_tree.read_split(own.voc, "test")}


@pytest.mark.parametrize(
    ("folder", "what"), [("data/own", "written among the images"), (".", "among"), ("gone", "does not exist")]
)
def test_images_must_lie_outside_what_is_built_from_them(own, folder, what):
    profile = rewritten(own.root, "folder: photographs", f"folder: {folder}")
    (own.root / "data/own").mkdir(parents=True)
    with pytest.raises(StudyError, match=what):
        build.make_dataset(profile, workers=1)


def test_scenes_are_not_rendered_over_a_folder_of_images(tmp_path):
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/some.yaml").write_text("{title: a, kind: demonstration, data: {num_scenes: 10}, recipe: {}}")
    profile = load_profile("some", root=tmp_path)
    profile.raw.mkdir(parents=True)
    (profile.raw / "photograph.jpg").write_text("years")
    with pytest.raises(StudyError, match="not made here"):
        build.make_dataset(profile, workers=1)
    assert (profile.raw / "photograph.jpg").read_text() == "years"


def test_errors_show_as_text_in_the_report():
    from rhseg_lib.report import tables  # takes seconds

    problem = {"file": "<b>.json", "shape": None, "what": "unknown label '<script>alert(1)</script>'", "fix": "a & b"}
    page = tables.left_out({"skipped": [problem, {**problem, "shape": 0}]}).data
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "<b>" not in page
    assert "1 file(s)" in page
    assert '<td class="text"></td>' in page
    assert "nan" not in page.lower()
