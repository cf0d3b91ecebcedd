"""Which images count as duplicates across train and test, and which do not."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from rhseg_lib.dataset import voc_tree
from rhseg_lib.dataset.leakage import in_words, leakage
from rhseg_lib.scenes import render
from rhseg_lib.sources import images

COUNT = 24


@pytest.fixture(scope="module")
def rendered():
    return [Image.fromarray(render.render_scene(2024, index, 64).image) for index in range(COUNT)]


def saved_again(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(buffer)


def halved(image):
    return image.resize((32, 32)).resize((64, 64))


def brighter(image):
    return ImageEnhance.Brightness(image).enhance(1.15)


def cropped(image):
    return image.crop((2, 2, 62, 62)).resize((64, 64))


def mirrored(image):
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def mirrored_and_brighter(image):
    return brighter(mirrored(image))


def write_tree(folder: Path, copy_of: dict | None = None, margin: int = 0, **subsets: list[Image.Image]) -> Path:
    """A tree of these images, named by subset and number; `margin` rows of each are padding."""
    for inner in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / inner).mkdir(parents=True)
    for subset, contents in subsets.items():
        names = [f"{subset}{index:02}" for index in range(len(contents))]
        (folder / "ImageSets" / "Segmentation" / f"{subset}.txt").write_text("\n".join(names))
        for name, image in zip(names, contents, strict=True):
            pixels, mask = np.array(image.convert("RGB")), np.ones((64, 64), np.uint8)
            for rows in (slice(margin), slice(64 - margin, 64)):
                pixels[rows], mask[rows] = images.MARGIN_GREY, 255
            Image.fromarray(pixels).save(voc_tree.image_file(folder, name), quality=95)
            images.write_palette_png(voc_tree.mask_file(folder, name), mask)
    (folder / "dataset.json").write_text(json.dumps({"format": voc_tree.FORMAT, "copy_of": copy_of or {}}))
    return folder


def test_different_scenes_are_no_leak(tmp_path, rendered):
    found = leakage(write_tree(tmp_path, train=rendered[:12], test=rendered[12:]))
    assert found.pairs.empty
    assert found.within == {"train": 0, "test": 0}
    assert in_words(found, train=12, test=12) == [
        "No test image matches a training image (12 training and 12 test images were compared)."
    ]


@pytest.mark.parametrize("change", [saved_again, halved, brighter, cropped, mirrored, mirrored_and_brighter])
@pytest.mark.parametrize("margin", [0, 14])
def test_near_duplicates_are_found(tmp_path, rendered, change, margin):
    found = leakage(write_tree(tmp_path, margin=margin, train=rendered[:12], test=[change(i) for i in rendered[:12]]))
    assert set(found.pairs.kind) == {"near duplicate"}
    assert {(row.train[-2:], row.test[-2:]) for row in found.pairs.itertuples()} == {
        (f"{i:02}",) * 2 for i in range(12)
    }
    assert found.pairs.mirrored.all() == found.pairs.mirrored.any() == change.__name__.startswith("mirrored")
    assert (found.pairs.bits <= 12).all() and (found.pairs.correlation >= 0.9).all()


def test_equal_pixels_come_first(tmp_path, rendered):
    found = leakage(write_tree(tmp_path, train=rendered[:12], test=[brighter(rendered[3]), rendered[5], rendered[20]]))
    assert found.pairs[["kind", "train", "test", "bits", "mirrored"]].values.tolist() == [
        ["same pixels", "train05", "test01", 0, False],
        ["near duplicate", "train03", "test00", found.pairs.bits[1], False],
    ]
    assert in_words(found, train=12, test=3) == [
        "2 test images match a training image (12 training and 3 test images were compared): "
        "1 “same pixels”, 1 “near duplicate”."
    ]


def test_dark_images_of_different_content_are_no_leak(tmp_path):
    random = np.random.default_rng(0)
    dark = [Image.fromarray(random.integers(0, 3, (64, 64, 3), dtype=np.uint8)) for _ in range(20)]
    black = [Image.fromarray(np.full((64, 64, 3), value, np.uint8)) for value in (0, 9)]
    found = leakage(write_tree(tmp_path, train=[*dark[:10], black[0]], test=[*dark[10:], black[1]]))
    assert found.pairs.empty
    again = leakage(write_tree(tmp_path / "again", train=[*dark[:10], black[0]], test=[black[0]]))
    assert again.pairs.kind.tolist() == ["same pixels"]


def test_the_same_margin_does_not_make_images_match(tmp_path, rendered):
    found = leakage(write_tree(tmp_path, margin=24, train=rendered[:12], test=rendered[12:]))
    assert found.pairs.empty


def test_duplicates_within_a_subset_are_counted(tmp_path, rendered):
    train = [*rendered[:5], brighter(rendered[0]), rendered[1], mirrored(rendered[1])]
    found = leakage(write_tree(tmp_path, train=train, test=[rendered[20], rendered[20], rendered[21]]))
    assert found.within == {"train": 5, "test": 2}
    assert in_words(found, train=8, test=3)[1:] == [
        "Within the train subset, 5 images match another one of it.",
        "Within the test subset, 2 images match another one of it.",
    ]


def test_copies_are_reported_as_such_and_not_as_duplicates(tmp_path, rendered):
    """train00 is an original, train01 its copy; test00 is also a copy of it."""
    copy_of = {"train01": "train00", "test00": "train00"}
    train = [rendered[0], brighter(rendered[0]), rendered[1]]
    found = leakage(write_tree(tmp_path, copy_of=copy_of, train=train, test=[mirrored(rendered[0])]))
    assert found.pairs[["kind", "original", "train", "test"]].values.tolist() == [
        ["same original", "train00", "train00", "test00"],
        ["same original", "train00", "train01", "test00"],
    ]
    assert found.within == {"train": 0, "test": 0}


def test_the_block_size_does_not_change_the_result(tmp_path, rendered, monkeypatch):
    tree = write_tree(tmp_path, train=[*rendered, mirrored(rendered[2])], test=[brighter(i) for i in rendered[:9]])
    whole = leakage(tree)
    monkeypatch.setattr("rhseg_lib.dataset.leakage.BLOCK", 4)
    blocks = leakage(tree)
    assert blocks.pairs.equals(whole.pairs) and len(whole.pairs) == 9
    assert blocks.within == whole.within == {"train": 2, "test": 0}
