"""VOC tree: content, split, verification; only whole trees are written, and finished images are kept."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import data_settings, files_in
from PIL import Image

from rhseg_lib.dataset import voc_tree
from rhseg_lib.dataset.build import MARKS, build_voc
from rhseg_lib.dataset.leakage import leakage
from rhseg_lib.dataset.split import OPERATIONS
from rhseg_lib.dataset.write_images import Converter
from rhseg_lib.errors import StudyError
from rhseg_lib.files import Unfinished, repair
from rhseg_lib.report import findings
from rhseg_lib.sources import images, labelme, labelme_folder
from rhseg_lib.sources.images import MARGIN_GREY, fit

TUBE = np.array([[20, 0], [39, 0], [39, 79], [20, 79]])
SLAG = np.array([[20, 60], [39, 60], [39, 69], [20, 69]])
CLASSES = ("immersion_tube", "slag_layer")
DRAWN = {"classes": CLASSES, "ignore_labels": ("__ignore__",), "class_priority": CLASSES}
SETTINGS = {"image_size": 32, "split": "grouped", "test_fraction": 0.1, "augmented_copies": 1, "seed": 3}


def write_scenes(folder: Path, count: int, width: int = 64, height: int = 80) -> Path:
    """Scenes, no two alike, each with a tube and a band of slag on it."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for index in range(count):
        cells = Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        name = f"scene_{index:04}"
        cells.resize((width, height), Image.Resampling.NEAREST).save(folder / f"{name}.png")
        shapes = [("slag_layer", SLAG), ("immersion_tube", TUBE)]
        path = folder / f"{name}.json"
        labelme.write_annotation(path, image_path=f"{name}.png", shapes=shapes, height=height, width=width)
    return folder


def build(raw: Path, tree: Path, **changes) -> dict:
    drawn = {key: changes.pop(key, value) for key, value in DRAWN.items()}
    workers = changes.pop("workers", 1)
    source = labelme_folder.LabelmeFolder(raw, **drawn)
    return build_voc(source, tree, data_settings(**{**SETTINGS, **changes}), workers=workers)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("data") / "raw", 20)


@pytest.fixture(scope="module")
def grouped(raw, tmp_path_factory):
    tree = tmp_path_factory.mktemp("grouped") / "voc"
    return tree, build(raw, tree)


@pytest.fixture
def own(grouped, tmp_path):
    """A copy of the tree that a test may damage."""
    shutil.copytree(grouped[0], tmp_path / "voc")
    return tmp_path / "voc"


def test_palette_is_that_of_voc():
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
    assert list(map(tuple, images.VOC_PALETTE[:5].tolist())) == expected
    assert images.VOC_PALETTE[255].tolist() == [224, 224, 192]


def test_palette_png_keeps_values_and_shows_colours(tmp_path):
    mask = np.array([[0, 1], [2, 255]], np.uint8)
    images.write_palette_png(tmp_path / "mask.png", mask)
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), mask)
        assert image.convert("RGB").getpixel((1, 1)) == (224, 224, 192)
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]


def test_tree_and_its_record(grouped):
    tree, dataset = grouped
    assert dataset == voc_tree.read_dataset(tree)
    assert dataset["classes"] == ["background", "immersion_tube", "slag_layer"]
    assert dataset["counts"] == {"train": 36, "test": 2, "trainval": 36}
    assert dataset["originals"] == {"train": 18, "test": 2, "trainval": 18}
    assert dataset["absent_classes"] == {"train": [], "test": [], "trainval": []}
    assert dataset["notes"] == []
    assert dataset["overwritten_pixels"] == [{"class": "immersion_tube", "by": "slag_layer", "pixels": 20 * 20 * 10}]
    assert dataset["settings"]["image_size"] == 32
    images, masks = voc_tree.load_arrays(tree, voc_tree.read_split(tree, "test"))
    assert (images.shape, images.dtype) == ((2, 32, 32, 3), np.uint8)
    assert (masks.shape, masks.dtype) == ((2, 32, 32), np.uint8)
    voc_tree.verify_voc(tree)
    assert not tree.with_name("voc.unfinished").exists()


def test_image_keeps_its_aspect_and_the_margin_is_ignored(grouped):
    tree, dataset = grouped
    names = voc_tree.read_split(tree, "test")
    images, masks = voc_tree.load_arrays(tree, names)
    assert set(np.unique(masks)) == {0, 1, 2, 255}  # 64x80 -> 26x32, three columns of margin on either side
    assert (masks[:, :, :3] == 255).all()
    assert (masks[:, :, -3:] == 255).all()
    assert (masks[:, :, 3:-3] != 255).all()
    assert np.abs(images[:, :, 0].astype(int) - MARGIN_GREY).max() < 40
    assert (masks[0, 26] == 2).sum() == 8  # 20 of 64 columns -> 8 of 26
    assert dataset["class_pixels"]["test"]["ignore"] == (masks == 255).sum()


def test_one_copy_each_by_operations_in_turn(grouped):
    tree, dataset = grouped
    for name, original in dataset["copy_of"].items():
        assert name == f"{original}_{OPERATIONS[int(original[-4:]) % 4]}"
        images, masks = voc_tree.load_arrays(tree, [original, name])
        assert not np.array_equal(images[0], images[1])
        flipped = masks[0, :, ::-1] if name.endswith("flip") else masks[0]
        assert np.array_equal(masks[1], flipped)


def test_grouped_split_keeps_an_original_on_one_side(grouped):
    tree, dataset = grouped
    train, test = voc_tree.read_split(tree, "train"), voc_tree.read_split(tree, "test")
    assert not {dataset["copy_of"].get(name, name) for name in train} & set(test)
    assert not set(test) & set(dataset["copy_of"])
    assert leakage(tree).pairs.empty


def test_as_described_leaks_and_the_report_finds_it(raw, tmp_path):
    dataset = build(raw, tmp_path / "voc", split="as_described", augmented_copies=4)
    assert dataset["counts"] == {"train": 90, "test": 10, "trainval": 90}
    pairs = leakage(tmp_path / "voc").pairs
    assert set(pairs.kind) == {"same original"}
    assert pairs.test.nunique() == 10
    voc_tree.verify_voc(tmp_path / "voc")


def test_near_duplicates_across_the_split_are_found(raw, tmp_path):
    own_raw = tmp_path / "raw"
    shutil.copytree(raw, own_raw)
    build(own_raw, tmp_path / "first", test_fraction=0.05)
    (copied,) = voc_tree.read_split(tmp_path / "first", "test")
    Image.open(own_raw / f"{copied}.png").resize((60, 75)).resize((64, 80)).save(own_raw / "again.png")
    document = json.loads((own_raw / f"{copied}.json").read_text())
    (own_raw / "again.json").write_text(json.dumps({**document, "imagePath": "again.png"}))
    build(own_raw, tmp_path / "second", test_fraction=0.05, augmented_copies=0)
    pairs = leakage(tmp_path / "second").pairs
    assert pairs[["kind", "original", "train", "test"]].values.tolist() == [["near duplicate", copied, "again", copied]]


def test_same_bytes_with_two_workers(grouped, raw, tmp_path):
    tree, dataset = grouped
    again = build(raw, tmp_path / "voc", workers=2)
    assert again["hash"] == dataset["hash"]
    assert files_in(tmp_path / "voc") == files_in(tree)


def test_hash_follows_the_seed_and_the_content(grouped, raw, tmp_path):
    assert build(raw, tmp_path / "voc", seed=4)["hash"] != grouped[1]["hash"]


def test_annotations_in_subfolders_are_input_by_default(raw, tmp_path):
    own_raw = tmp_path / "raw"
    shutil.copytree(raw, own_raw)
    (own_raw / "second").mkdir()
    (own_raw / "second" / "scene_0000.json").write_text("{}")
    source = labelme_folder.LabelmeFolder(own_raw, **DRAWN, subfolders=False)
    dataset = build_voc(source, tmp_path / "voc", data_settings(**SETTINGS), workers=1)
    assert dataset["originals"] == {"train": 18, "test": 2, "trainval": 18}
    with pytest.raises(StudyError, match=r"second/scene_0000\.json"):
        build(own_raw, tmp_path / "voc")


def test_skipped_images_leave_the_others_in_their_subset(raw, grouped, tmp_path):
    own_raw = tmp_path / "raw"
    shutil.copytree(raw, own_raw)
    (tested, _), (trained, *_) = voc_tree.read_split(grouped[0], "test"), voc_tree.read_split(grouped[0], "train")
    for name in (tested, trained):
        (own_raw / f"{name}.json").write_text("{}")
    dataset = build(own_raw, tmp_path / "voc", on_error="skip")
    assert [problem["file"] for problem in dataset["skipped"]] == sorted([f"{tested}.json", f"{trained}.json"])
    for part in ("train", "test", "trainval"):
        expected = [name for name in voc_tree.read_split(grouped[0], part) if not name.startswith((tested, trained))]
        assert voc_tree.read_split(tmp_path / "voc", part) == expected
    assert dataset["originals"] == {"train": 17, "test": 1, "trainval": 17}
    voc_tree.verify_voc(tmp_path / "voc")
    build(raw, tmp_path / "voc", split="as_described", augmented_copies=0)
    for name in voc_tree.read_split(tmp_path / "voc", "test"):
        (own_raw / f"{name}.json").write_text("{}")
    with pytest.raises(StudyError, match="every image of the subset 'test' has errors"):
        build(own_raw, tmp_path / "voc", on_error="skip", split="as_described", augmented_copies=0)
    for path in own_raw.glob("*.json"):
        path.write_text("{}")
    with pytest.raises(StudyError, match=r"20 annotation error\(s\) in 20 file\(s\)"):
        build(own_raw, tmp_path / "voc", on_error="skip")


def test_an_annotation_without_a_shape_is_background(tmp_path):
    raw = write_scenes(tmp_path / "raw", 10)
    empty = sorted(raw.glob("*.json"))[:4]
    for path in empty:
        labelme.write_annotation(path, image_path=f"{path.stem}.png", shapes=[], height=80, width=64)
    dataset = build(raw, tmp_path / "voc")
    assert f"Each of these has no shape: all of it is background: 4 image(s), {empty[0].stem}, " in dataset["notes"][0]
    assert sum(dataset["originals"][part] for part in ("train", "test")) == 10
    mask = np.asarray(Image.open(voc_tree.mask_file(tmp_path / "voc", empty[0].stem)))
    assert {*np.unique(mask)} == {0, 255}
    folder = labelme_folder.LabelmeFolder(raw, **DRAWN, may_be_empty=False)
    assert [problem.what for path in folder.names().values() for problem in folder.examine(path)[1]] == [
        "no shapes"
    ] * 4


def test_what_the_size_takes_away_is_measured(tmp_path):
    """Lines of one pixel do not survive a quarter of the size; a large block does."""
    raw = write_scenes(tmp_path / "raw", 4)
    for path in raw.glob("*.json"):
        lines = [("slag_layer", np.array([[2, y], [60, y], [60, y], [2, y]])) for y in range(3, 20, 5)]
        block = ("immersion_tube", np.array([[8, 40], [55, 40], [55, 71], [8, 71]]))
        labelme.write_annotation(path, image_path=f"{path.stem}.png", shapes=[block, *lines], height=80, width=64)
    limits = build(raw, tmp_path / "voc", image_size=20)["size_limit"]
    assert limits["immersion_tube"] == 1  # its edges lie between pixels
    assert limits["slag_layer"] < 0.3
    said, warning = findings.size_limit({"size_limit": limits, "image_size": 20})
    assert "immersion_tube 1.00" in said and "20 pixels are too few for slag_layer" in warning
    assert set(build(raw, tmp_path / "voc", image_size=80)["size_limit"].values()) == {1.0}


def test_a_subset_of_which_every_pixel_is_ignored_is_one_error(tmp_path):
    raw = write_scenes(tmp_path / "raw", 3)
    for path in raw.glob("*.json"):
        everything = np.array([[-1, -1], [64, -1], [64, 80], [-1, 80]])
        labelme.write_annotation(
            path, image_path=f"{path.stem}.png", shapes=[("__ignore__", everything)], height=80, width=64
        )
    with pytest.raises(StudyError, match=r"every pixel of the subset '.*' is ignored"):
        build(raw, tmp_path / "voc", ignore_labels=("__ignore__",))


def test_a_missing_image_names_the_command_that_makes_it_again(own):
    next((own / "JPEGImages").iterdir()).unlink()
    with pytest.raises(StudyError, match="missing or damaged") as raised:
        voc_tree.load_arrays(own, voc_tree.read_split(own, "train") + voc_tree.read_split(own, "test"))
    assert f"01_dataset.ipynb out.ipynb -p profile {own.parent.name}" in raised.value.fix


def test_images_that_are_not_kept_whole_are_noted(tmp_path):
    raw = write_scenes(tmp_path / "raw", 8)
    for path in sorted(raw.glob("*.png"))[:6]:
        with Image.open(path) as image:
            image.putalpha(100)
            image.save(path)
    dataset = build(raw, tmp_path / "voc")
    [note] = [note for note in dataset["notes"] if "transparent" in note]
    first = sorted(raw.glob("*.png"))[0].stem
    assert note.startswith(f"Each of these has transparent pixels: read as opaque: 6 image(s), {first}, ")
    assert note.endswith(" and 1 more.")


def test_class_absent_from_the_test_set_is_noted(tmp_path):
    raw = write_scenes(tmp_path / "raw", 3)
    for path in raw.glob("*.json"):
        labelme.write_annotation(
            path, image_path=f"{path.stem}.png", shapes=[("immersion_tube", TUBE)], height=80, width=64
        )
    dataset = build(raw, tmp_path / "voc")
    assert dataset["absent_classes"]["test"] == dataset["absent_classes"]["train"] == ["slag_layer"]
    assert dataset["notes"] == ["No image shows the class slag_layer: it cannot be evaluated."]


def test_a_holdout_is_set_aside_and_never_copied(tmp_path):
    raw, tree = write_scenes(tmp_path / "raw", 14), tmp_path / "voc"
    dataset = build(raw, tree, holdout_scenes=4)
    held = [f"scene_{index:04}" for index in range(10, 14)]
    assert voc_tree.read_split(tree, "holdout") == held
    assert dataset["counts"] == {"train": 18, "test": 1, "trainval": 18, "holdout": 4}
    others = set(voc_tree.read_split(tree, "train") + voc_tree.read_split(tree, "test"))
    assert not others & {*held, *(f"{name}_{operation}" for name in held for operation in OPERATIONS)}
    assert sum(dataset["class_pixels"]["holdout"].values()) == 4 * 32 * 32
    voc_tree.verify_voc(tree)


def test_a_holdout_does_not_change_the_other_subsets(tmp_path):
    raw = write_scenes(tmp_path / "raw", 14)
    build(raw, tmp_path / "with", holdout_scenes=4)
    for path in sorted(raw.glob("scene_001[0-3].*")):
        path.unlink()
    build(raw, tmp_path / "without")
    for part in ("train", "test"):
        assert voc_tree.read_split(tmp_path / "with", part) == voc_tree.read_split(tmp_path / "without", part)


@pytest.mark.parametrize("offset", [0, 1])
def test_smaller_mask_takes_the_class_with_most_area(offset):
    mask = np.zeros((120, 120), np.uint8)
    mask[30 + offset : 33 + offset] = 2  # three rows thick, at a third of the size one row
    _, small = images.fit(np.zeros((120, 120, 3), np.uint8), mask, 40)
    assert (small == 2).sum() == 40


def test_halving_neither_thins_nor_thickens_a_band():
    covered = 0
    for top in range(20, 28):
        mask = np.zeros((64, 64), np.uint8)
        mask[top : top + 9] = 2
        covered += (images.fit(np.zeros((64, 64, 3), np.uint8), mask, 32)[1] == 2).sum() / 32
    assert covered / 8 == 4.5


def smooth_jpeg(folder: Path, orientation: int = 1) -> Path:
    """A smooth JPEG of 512x384 stored pixels with one annotation; rotated by its EXIF if requested."""
    cells = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    folder.mkdir()
    Image.fromarray(cells).resize((512, 384), Image.Resampling.BICUBIC).save(folder / "a.jpg", quality=95, exif=exif)
    width, height = (512, 384) if orientation == 1 else (384, 512)
    shapes = [("immersion_tube", 4 * TUBE)]
    labelme.write_annotation(folder / "a.json", image_path="a.jpg", shapes=shapes, height=height, width=width)
    return folder / "a.json"


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("least_side", "decoded"), [(0, 512), (257, 512), (256, 256), (100, 128), (10, 64)])
def test_a_jpeg_decoded_reduced_gives_the_same_image(tmp_path, orientation, least_side, decoded):
    path = smooth_jpeg(tmp_path / "raw", orientation=orientation)
    full, reduced = (
        labelme_folder.LabelmeFolder(path.parent, **DRAWN, least_side=side).examine(path)[0] for side in (0, least_side)
    )
    assert max(reduced.image.shape) == decoded
    assert np.array_equal(reduced.mask, full.mask)
    images, masks = zip(*(fit(sample.image, sample.mask, 40) for sample in (full, reduced)), strict=True)
    assert images[0].shape == images[1].shape == ((30, 40, 3) if orientation == 1 else (40, 30, 3))
    assert np.abs(images[0].astype(int) - images[1]).max() <= 4
    assert np.array_equal(*masks)


@pytest.mark.parametrize("least_side", [0, 64])
def test_a_truncated_jpeg_is_detected_reduced_or_not(tmp_path, least_side):
    path = smooth_jpeg(tmp_path / "raw")
    jpeg = path.with_suffix(".jpg")
    jpeg.write_bytes(jpeg.read_bytes()[: jpeg.stat().st_size * 9 // 10])
    (problem,) = labelme_folder.LabelmeFolder(path.parent, **DRAWN, least_side=least_side).examine(path)[1]
    assert "truncated" in problem.what


def covered_areas(mask, row, column, target):
    """Area of each value under one pixel of a mask scaled to a width and height, as a fraction."""
    spans, areas = [], Counter()
    for place, side, length in ((row, target[1], mask.shape[0]), (column, target[0], mask.shape[1])):
        first, last = Fraction(place * length, side), Fraction((place + 1) * length, side)
        spans.append([(at, min(at + 1, last) - max(at, first)) for at in range(int(first), math.ceil(last))])
    for (y, height), (x, width) in product(*spans):
        areas[int(mask[y, x])] += height * width
    return areas


@pytest.mark.parametrize("chunk", [100, 2**18])
@pytest.mark.parametrize(
    ("shape", "target"), [((40, 30), (12, 16)), ((7, 90), (64, 5)), ((32, 32), (4, 4)), ((9, 64), (8, 1))]
)
def test_a_pixel_of_a_smaller_mask_takes_the_value_with_most_area(monkeypatch, shape, target, chunk):
    monkeypatch.setattr(images, "CHUNK", chunk)
    random = np.random.default_rng(0)
    smooth = cv2.blur(random.integers(0, 256, shape, np.uint8), (5, 5)) // 90
    for mask in (random.choice(np.array([0, 1, 2, 255], np.uint8), shape), smooth):
        fitted = images.fit_mask(mask, target)
        for (row, column), value in np.ndenumerate(fitted):
            areas = covered_areas(mask, row, column, target)
            assert areas[int(value)] > max(areas.values()) - 0.0011 * sum(areas.values()), (row, column, areas)


@pytest.mark.parametrize("value", [0, 3, 255])
def test_a_mask_of_one_value_keeps_it(value):
    assert (images.fit_mask(np.full((50, 70), value, np.uint8), (14, 10)) == value).all()


def test_at_a_tie_the_nearest_value_is_taken():
    for left, right in ((1, 2), (2, 1)):
        mask = np.array([[left, left, right, right]] * 2, np.uint8)  # the second of three columns holds half of each
        assert images.fit_mask(mask, (3, 1)).tolist() == [[left, left, right]]


def test_enlarged_image(raw, tmp_path):
    build(raw, tmp_path / "voc", image_size=100)
    voc_tree.verify_voc(tmp_path / "voc")


def a_mask(tree: Path) -> Path:
    return next((tree / "SegmentationClass").glob("*.png"))


def paint(tree: Path, mask: np.ndarray) -> None:
    images.write_palette_png(a_mask(tree), mask.astype(np.uint8))


def make_binary(tree: Path) -> None:
    for path in (tree / "SegmentationClass").glob("*.png"):
        images.write_palette_png(path, np.where(np.asarray(Image.open(path)) > 0, 255, 0).astype(np.uint8))


def list_in_test(tree: Path, subset: str, count: int) -> None:
    """Let the test list name the first images of a subset."""
    names = voc_tree.read_split(tree, subset)[:count]
    voc_tree.split_file(tree, "test").write_text("\n".join(names))


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda tree: paint(tree, np.full((32, 32), 7)), r"mask values \[7\] belong to no class"),
        (lambda tree: paint(tree, np.zeros((32, 31))), r"\(31, 32\) pixels instead of \(32, 32\)"),
        (lambda tree: Image.new("L", (32, 32)).save(a_mask(tree)), r"a mask of kind \('PNG', 'L'\)"),
        (lambda tree: a_mask(tree).unlink(), r"files missing or not listed: scene_\d+"),
        (lambda tree: (tree / "SegmentationClass/mask.jpg").touch(), r"files missing or not listed: mask.jpg"),
        (make_binary, r"the masks hold no class, only \[0, 255\]"),
        (lambda tree: paint(tree, np.ones((32, 32))), "files changed since the build"),
        (lambda tree: list_in_test(tree, "test", 1), "images instead of"),
        (lambda tree: list_in_test(tree, "train", 2), "an image is listed twice"),
        (lambda tree: voc_tree.split_file(tree, "test").unlink(), "no list of the subset 'test'"),
        (lambda tree: (tree / "dataset.json").unlink(), "no finished data set"),
        (lambda tree: (tree / "dataset.json").write_text('{"format": 0}'), "another format"),
        (lambda tree: (tree / "dataset.json").write_text("{"), "not JSON"),
        (lambda tree: shutil.rmtree(tree / "JPEGImages"), "files missing"),
        (lambda tree: a_mask(tree).write_bytes(a_mask(tree).read_bytes()[:-40]), "cannot be read"),
    ],
)
def test_verification_finds(own, spoil, what):
    spoil(own)
    with pytest.raises(StudyError, match=what) as raised:
        voc_tree.verify_voc(own)
    assert "01_dataset.ipynb" in raised.value.fix


def test_windows_line_ends_are_read(own):
    for path in (own / "ImageSets" / "Segmentation").iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    voc_tree.verify_voc(own)


def test_all_errors_are_reported_and_no_tree_is_written(tmp_path):
    raw = write_scenes(tmp_path / "raw", 4)
    (raw / "scene_0001.json").write_text("{")
    (raw / "scene_0002.json").write_text("{}")
    with pytest.raises(StudyError, match=r"2 annotation error\(s\)") as raised:
        build(raw, tmp_path / "voc")
    assert "scene_0001.json" in raised.value.what
    assert "scene_0002.json" in raised.value.what
    assert not (tmp_path / "voc").exists()
    assert not list(tmp_path.rglob("dataset.json"))


class FullDisk:
    """Stands for `Path.write_bytes` on a disk that fills up at the fifth file."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.files, self.write = error, 0, Path.write_bytes

    def __get__(self, path, _):
        self.files += 1
        if self.files > 4:
            raise self.error
        return lambda content: self.write(path, content)


@pytest.mark.parametrize(
    ("error", "expected", "what"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StudyError, "no space left on the disk"),
        (PermissionError(errno.EACCES, "denied"), StudyError, "no permission"),
        (KeyboardInterrupt("stopped"), KeyboardInterrupt, "stopped"),
    ],
)
def test_failed_build_leaves_the_old_tree_alone(own, raw, monkeypatch, error, expected, what):
    before = files_in(own)
    with monkeypatch.context() as patch, pytest.raises(expected, match=what):
        patch.setattr(Path, "write_bytes", FullDisk(error))
        build(raw, own, seed=5)
    assert files_in(own) == before
    assert list(finished(own)) == ["scene_0000"]  # the journal and three files fitted on the disk
    assert not (own.with_name("voc.unfinished") / "dataset.json").exists()
    build(raw, own, seed=5)
    voc_tree.verify_voc(own)
    assert [path.name for path in own.parent.iterdir()] == ["voc"]


class Stopped(Exception):
    """Stands for a kill."""


def stop_after(monkeypatch, count: int, raw: Path, tree: Path, **changes) -> None:
    """Build until `count` times something was noted as finished."""
    noted, record = [], Unfinished.record

    def limited(self, records):
        if len(noted) == count:
            raise Stopped
        record(self, records)
        noted.append(records)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Unfinished, "record", limited)
        build(raw, tree, **changes)


def finished(tree: Path) -> dict[str, str]:
    """Images that the unfinished folder's journal names, with the time each image file was written."""
    draft = tree.with_name(f"{tree.name}.unfinished")
    lines = (draft / "finished.jsonl").read_text().splitlines()[1:]
    return {
        name: voc_tree.image_file(draft / "tree", name).stat().st_mtime_ns
        for name in (json.loads(line)["name"] for line in lines)
    }


@pytest.fixture
def written(monkeypatch):
    """Names of the images that are written from here on."""
    names, write = [], Converter.write_image

    def noted(self, name, *others):
        names.append(name)
        return write(self, name, *others)

    monkeypatch.setattr(Converter, "write_image", noted)
    return names


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
import test_build
from rhseg_lib.files import Unfinished

count, record = 0, Unfinished.record

def record_and_die(self, records):
    global count
    record(self, records)
    count += 1
    if count == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    Unfinished.record = record_and_die
    test_build.build(Path(sys.argv[2]), Path(sys.argv[3]), workers=int(sys.argv[5]))
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.parametrize(("count", "workers"), [(7, 1), (7, 2), (25, 1)])  # among the originals; among the copies
def test_killed_build_resumes_and_ends_as_an_uninterrupted_one(grouped, raw, tmp_path, written, capsys, count, workers):
    script, tree = tmp_path / "killed.py", tmp_path / "voc"
    script.write_text(KILLED)
    arguments = [script, Path(__file__).parent, raw, tree, count, workers]
    done = subprocess.run([sys.executable, *map(str, arguments)], stderr=subprocess.DEVNULL, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not tree.exists()
    assert len(finished(tree)) == count
    with pytest.raises(StudyError, match="no finished data set"):
        voc_tree.read_dataset(tree)
    build(raw, tree)
    assert f"{count} images are finished already" in capsys.readouterr().out
    assert len(written) == 38 - count
    assert files_in(tree) == files_in(grouped[0])
    assert [path.name for path in tmp_path.iterdir() if path != script] == ["voc"]


def change_label(raw, tree):
    path = raw / "scene_0001.json"
    path.write_text(path.read_text().replace("slag_layer", "immersion_tube"))


def change_time(raw, tree):
    os.utime(raw / "scene_0001.png", (1, 1))


def tear_image(raw, tree):
    path = voc_tree.image_file(tree.with_name("voc.unfinished") / "tree", "scene_0001")
    path.write_bytes(path.read_bytes()[:-9])


def lose_mask(raw, tree):
    voc_tree.mask_file(tree.with_name("voc.unfinished") / "tree", "scene_0001").unlink()


def nothing(raw, tree):
    pass


@pytest.mark.parametrize(
    ("change", "again"),
    [(nothing, 0), (change_label, 1), (change_time, 1), (tear_image, 1), (lose_mask, 1)],
)
def test_stale_images_are_rebuilt(raw, tmp_path, monkeypatch, written, change, again):
    own_raw, tree = tmp_path / "raw", tmp_path / "voc"
    shutil.copytree(raw, own_raw)
    stop_after(monkeypatch, 6, own_raw, tree, augmented_copies=0)
    change(own_raw, tree)
    written.clear()
    build(own_raw, tree, augmented_copies=0)
    assert len(written) == 14 + again
    assert ("scene_0001" in written) == bool(again)
    build(own_raw, tmp_path / "unbroken", augmented_copies=0)
    assert files_in(tree) == files_in(tmp_path / "unbroken")


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"image_size": 48}, 0),
        ({"seed": 4}, 0),
        ({"classes": CLASSES[::-1]}, 0),
        ({"augmented_copies": 2}, 25),
        ({"augmented_copies": 0}, 20),
        ({"test_fraction": 0.5}, None),
    ],
)
def test_other_settings(raw, tmp_path, monkeypatch, written, changes, kept):
    tree = tmp_path / "voc"
    stop_after(monkeypatch, 25, raw, tree)
    written.clear()
    dataset = build(raw, tree, **changes)
    if kept is not None:
        assert len(written) == 20 + len(dataset["copy_of"]) - kept
    build(raw, tmp_path / "unbroken", **changes)
    assert files_in(tree) == files_in(tmp_path / "unbroken")


def test_a_fixed_error_costs_one_image(raw, tmp_path, written):
    own_raw, tree = tmp_path / "raw", tmp_path / "voc"
    shutil.copytree(raw, own_raw)
    path = own_raw / "scene_0003.json"
    content = path.read_text()
    path.write_text("{")
    with pytest.raises(StudyError, match="1 annotation error"):
        build(own_raw, tree, augmented_copies=0)
    assert len(written) == 19
    written.clear()
    path.write_text(content)
    build(own_raw, tree, augmented_copies=0)
    assert written == ["scene_0003"]


def test_an_image_that_was_removed_is_no_longer_in_the_tree(raw, tmp_path, monkeypatch):
    own_raw, tree = tmp_path / "raw", tmp_path / "voc"
    shutil.copytree(raw, own_raw)
    stop_after(monkeypatch, 6, own_raw, tree)
    (own_raw / "scene_0002.json").unlink()
    build(own_raw, tree)
    voc_tree.verify_voc(tree)
    assert not voc_tree.image_file(tree, "scene_0002").exists()


@pytest.mark.parametrize("torn", ['{"name": "scene_00', '{"name": "sc\xc3', "\n"])
def test_torn_journal(raw, tmp_path, monkeypatch, written, torn):
    tree = tmp_path / "voc"
    stop_after(monkeypatch, 6, raw, tree, augmented_copies=0)
    with (tmp_path / "voc.unfinished" / "finished.jsonl").open("ab") as journal:
        journal.write(torn.encode("latin-1"))
    written.clear()
    build(raw, tree, augmented_copies=0)
    assert len(written) == 14
    voc_tree.verify_voc(tree)


def stop_in_publish(patch, moment: str) -> None:
    """Stop before the first rename of a folder, before the second, or before what was replaced is removed."""
    folders, rename_path, rmtree = [], Path.rename, shutil.rmtree

    def rename(self, target):
        folders.append(target)
        if len(folders) == {"before": 1, "between": 2, "after": None}[moment]:
            raise Stopped
        return rename_path(self, target)

    def remove(path, **options):
        if len(folders) == 2:
            raise Stopped
        rmtree(path, **options)

    patch.setattr(Path, "rename", rename)
    patch.setattr(shutil, "rmtree", remove)


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_killed_while_the_tree_takes_its_place(own, raw, monkeypatch, tmp_path, written, moment):
    """Before the first rename, between the two, and after the second: always one whole tree, old or new."""
    old = files_in(own)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_in_publish(patch, moment)
        build(raw, own, seed=5)
    present = voc_tree.read_dataset(own)["seed"] if own.exists() else None
    assert present == {"before": 3, "between": None, "after": 5}[moment]
    repair(own)
    voc_tree.verify_voc(own)
    assert (files_in(own) == old) == (moment != "after")
    written.clear()
    build(raw, own, seed=5)
    assert len(written) == (38 if moment == "after" else 0)
    voc_tree.verify_voc(own)
    assert [path.name for path in own.parent.iterdir()] == ["voc"]


def test_link_to_another_disk_stays_a_link(own, raw):
    link = own.parent / "link"
    link.symlink_to(own)
    build(raw, link, seed=5)
    assert link.is_symlink()
    assert voc_tree.read_dataset(link)["seed"] == 5
    assert sorted(path.name for path in own.parent.iterdir()) == ["link", "voc"]


def test_folder_not_made_here_is_not_replaced(raw, tmp_path):
    (tmp_path / "voc").mkdir()
    (tmp_path / "voc" / "thesis.tex").write_text("years")
    with pytest.raises(StudyError, match="not made here"):
        build(raw, tmp_path / "voc")
    assert (tmp_path / "voc" / "thesis.tex").read_text() == "years"


def test_killed_while_the_old_tree_is_deleted(own, raw, monkeypatch):
    """What is left of the old tree may bear no mark of ours; the next build goes on all the same."""

    def half(path, **_):
        if path.name == "replaced" and path.exists():
            for mark in MARKS:
                (path / mark).unlink()
            raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(shutil, "rmtree", half)
        build(raw, own, seed=5)
    build(raw, own, seed=6)
    voc_tree.verify_voc(own)
    assert [path.name for path in own.parent.iterdir()] == ["voc"]


def test_no_folder_of_the_user_is_removed(raw, tmp_path):
    """Only folders that hold a file of ours are replaced or emptied, whatever their names."""
    own = tmp_path / "voc.unfinished"
    own.mkdir()
    (own / "thesis.tex").write_text("years")
    with pytest.raises(StudyError, match="not made here"):
        build(raw, tmp_path / "voc")
    assert (own / "thesis.tex").read_text() == "years"
    assert [path.name for path in tmp_path.iterdir()] == [own.name]


def test_one_build_at_a_time(raw, tmp_path):
    """While a process writes the tree, another says so and leaves everything alone; a killed one holds nothing."""
    tree, script = tmp_path / "voc", tmp_path / "held.py"
    script.write_text(HELD)
    with subprocess.Popen([sys.executable, script, tree], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "writing\n"
        with pytest.raises(StudyError, match="another run is writing here"):
            build(raw, tree)
        other.kill()
    assert not tree.exists()
    build(raw, tree)
    voc_tree.verify_voc(tree)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held.py", "voc"]


HELD = """
import sys, time
from pathlib import Path
from rhseg_lib.files import sole_builder

with sole_builder(Path(sys.argv[1]), marks=[]):
    print("writing", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("scenes", "renamed", "changes", "what"),
    [
        (0, None, {}, "no Labelme JSON"),
        (1, None, {}, "one image cannot be split"),
        (2, "scene_0000_flip", {"augmented_copies": 4, "split": "as_described"}, "two images would be named"),
        (2, None, {"classes": ("background", "slag_layer")}, "do not fit"),
    ],
)
def test_what_cannot_be_built(tmp_path, scenes, renamed, changes, what):
    raw = write_scenes(tmp_path / "raw", scenes)
    if renamed:
        (raw / "scene_0001.json").rename(raw / f"{renamed}.json")
    with pytest.raises(StudyError, match=what):
        build(raw, tmp_path / "voc", **changes)
    assert not (tmp_path / "voc").exists()


def test_unfinished_tree_is_no_data_set(tmp_path):
    (tmp_path / "voc" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(StudyError, match="no finished data set") as raised:
        voc_tree.read_dataset(tmp_path / "voc")
    assert "01_dataset.ipynb" in raised.value.fix


def test_a_tree_whose_record_was_removed_is_built_again(own, raw):
    (own / "dataset.json").unlink()  # as a workflow does before it runs the step again
    build(raw, own)
    voc_tree.verify_voc(own)


def test_images_of_one_group_are_one_unit(raw, tmp_path):
    dataset = build(raw, tmp_path / "voc", group=r"scene_00(\d)")
    assert dataset["group_of"] == {f"scene_{i:04}": f"group/{i // 10}" for i in range(20)}
