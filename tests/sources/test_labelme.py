"""Labelme JSON: what is read, what is rejected with which message, and which pixels a shape covers."""

import base64
import json
import re
import unicodedata
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import data_settings
from labelme_files import INVALID, MESSY, VERSIONS, as_png, write_messy_folder
from PIL import Image

from rhseg_lib import files
from rhseg_lib.dataset import build, voc_tree
from rhseg_lib.errors import StudyError
from rhseg_lib.sources import checks, labelme, labelme_folder, labelme_shapes

LABELS = labelme_shapes.label_ids(("immersion_tube", "slag_layer"), ("__ignore__",))
TRIANGLE = [[0, 0], [4, 0], [0, 4]]


def item(label="slag_layer", points=TRIANGLE, shape_type="polygon", **others):
    return {"label": label, "points": points, "shape_type": shape_type, **others}


def write(folder: Path, *shapes: dict, **changes) -> Path:
    """One scene of 20x10 pixels with its JSON; `changes` overwrite keys of the document."""
    Image.new("RGB", (20, 10), (10, 20, 30)).save(folder / "scene.png")
    document = {
        "shapes": list(shapes) or [item()],
        "imagePath": "scene.png",
        "imageData": None,
        "imageHeight": 10,
        "imageWidth": 20,
        **changes,
    }
    path = folder / "scene.json"
    path.write_text(json.dumps(document))
    return path


def read(path: Path) -> labelme.Annotation:
    return labelme.read_annotation(path, root=path.parent, labels=LABELS)


def errors_in(folder: Path) -> list[checks.Problem]:
    source = labelme_folder.LabelmeFolder(folder, ("immersion_tube", "slag_layer"), ("__ignore__",), None)
    return [problem for path in source.names().values() for problem in source.examine(path)[1]]


def paint(*shapes: labelme_shapes.Shape, class_priority=None, height=40, width=60):
    return labelme_shapes.rasterize(shapes, height, width, labels=LABELS, class_priority=class_priority)


def shape(label, points, shape_type="polygon", mask=None) -> labelme_shapes.Shape:
    return labelme_shapes.Shape(label, np.array(points, dtype=float), shape_type, mask)


@pytest.mark.parametrize(
    ("shape_type", "points", "pixels"),
    [
        ("polygon", [[10, 10], [19, 10], [19, 19], [10, 19]], 100),  # both borders are included
        ("polygon", TRIANGLE, 15),  # 5 + 4 + 3 + 2 + 1
        ("oriented_rectangle", [[10, 10], [19, 10], [19, 19], [10, 19]], 100),
        ("rectangle", [[10, 10], [19, 14]], 50),
        ("rectangle", [[19, 14], [10, 10]], 50),  # drawn from the lower right
        ("circle", [[20, 20], [20, 21]], 5),  # centre and its four neighbours
        ("line", [[10, 20], [30, 20]], 21 * 10),
        ("linestrip", [[10, 20], [20, 20], [30, 20]], 21 * 10),
        ("rectangle", [[-5, -5], [4, 4]], 25),  # clipped
    ],
)
def test_shape_covers_known_pixels(shape_type, points, pixels):
    mask, _ = paint(shape("slag_layer", points, shape_type))
    assert np.count_nonzero(mask == 2) == pixels
    assert set(np.unique(mask)) == {0, 2}


def test_point_is_a_disc_of_radius_five():
    mask, _ = paint(shape("slag_layer", [[20, 20]], "point"))
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (15, 25, 15, 25)
    assert abs(np.count_nonzero(mask) - np.pi * 5.5**2) < 5


@pytest.mark.parametrize(
    ("corner", "covered"), [((5, 6), [(6, 5), (7, 6)]), ((-1, -1), [(0, 0)]), ((59, 38), [(38, 59)])]
)
def test_mask_shape_lies_in_its_box_and_is_clipped(corner, covered):
    x, y = corner
    patch = np.eye(2, dtype=bool)
    mask, _ = paint(shape("slag_layer", [[x, y], [x + 1, y + 1]], "mask", patch))
    assert list(map(tuple, np.argwhere(mask == 2))) == covered


@pytest.mark.parametrize("version", ["6.3.1", "7.0.0"])
def test_linestrip_has_round_joints_since_version_7(tmp_path, version):
    path = write(tmp_path, item(points=[[2, 5], [10, 5], [10, 9]], shape_type="linestrip"), version=version)
    mask, _ = paint(*read(path).shapes)
    # beyond the joint at (10, 5) two straight lines of width 10 leave a square open, or a quarter disc fills it
    assert mask[2, 13] == (2 if version == "7.0.0" else 0)  # 4.2 px from the joint
    assert mask[0, 14] == 0  # 6.4 px from it
    assert mask[5, 10] == 2


@pytest.mark.parametrize(
    ("version", "points", "size", "covered"),
    [
        ("6.3.1", [[4, 2], [6, 3]], (2, 3), (slice(2, 4), slice(4, 7))),
        ("6.3.1", [[3.6, 2.4], [5.6, 3.4]], (2, 3), (slice(2, 4), slice(3, 6))),  # between pixels: the one above, left
        ("6.3.1", [[4, 2], [6, 3]], (3, 4), (slice(2, 4), slice(4, 7))),  # more than its box: cut to it
        ("6.3.1", [[4, 2], [6, 3]], (1, 3), (slice(2, 3), slice(4, 7))),
        ("7.9.1", [[4, 2], [6, 3]], (2, 3), (slice(2, 4), slice(4, 7))),
        ("7.9.1", [[3.6, 2.4], [6.4, 3.4]], (2, 3), (slice(2, 4), slice(4, 7))),  # between pixels: the nearest
        ("7.9.1", [[3.6, 2.4], [6.4, 3.4]], (2, 4), (slice(2, 4), slice(4, 8))),  # and the patch as it is
        ("7.9.1", [[4, 2], [6, 3]], (3, 4), (slice(2, 4), slice(4, 7))),
    ],
)
def test_mask_shape_lies_where_labelme_puts_it(tmp_path, version, points, size, covered):
    patch = as_png(np.full(size, 255, np.uint8))
    path = write(tmp_path, item(points=points, shape_type="mask", mask=patch), version=version)
    mask, _ = paint(*read(path).shapes, height=10, width=20)
    expected = np.zeros((10, 20), np.uint8)
    expected[covered] = 2
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize("version", [None, 7, "seven", "", "7", ".7", "9" * 5000 + ".1"])
def test_a_file_without_a_version_is_read_as_an_old_one(tmp_path, version):
    shapes = read(
        write(tmp_path, item(points=[[2, 5], [10, 5], [10, 9]], shape_type="linestrip"), version=version)
    ).shapes
    assert not shapes[0].round_joints


SQUARE = [[2, 1], [9, 1], [9, 6], [2, 6]]  # 8 x 6 pixels


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_of_labelme_is_read(tmp_path, version):
    pixels = np.full((10, 20, 3), version, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    embedded = (tmp_path / "scene.png").read_bytes()
    shapes = [{"label": "slag_layer", "points": SQUARE}]
    if version > 3:
        shapes += [{"label": "immersion_tube", "points": [[12, 1], [14, 3]], "shape_type": "rectangle"}]
    if version > 4:
        mask = as_png(np.ones((2, 2), np.uint8))
        shapes += [{"label": "immersion_tube", "points": [[12, 5], [13, 6]], "shape_type": "mask", "mask": mask}]
    if version > 5:
        turned = [[17, 1], [18, 2], [17, 3], [16, 2]]
        shapes += [{"label": "immersion_tube", "points": turned, "shape_type": "oriented_rectangle"}]
    for content in (embedded, None)[: 1 + (version > 3)]:
        path = tmp_path / "scene.json"
        path.write_text(json.dumps(VERSIONS[version](shapes, tmp_path / "scene.png", (20, 10), content)))
        annotation = read(path)
        assert np.array_equal(annotation.image, pixels)
        counts = np.bincount(paint(*annotation.shapes, height=10, width=20)[0].ravel(), minlength=3)
        assert counts[2] == 8 * 6
        assert counts[1] == [0, 3 * 3, 3 * 3 + 4, 3 * 3 + 4 + 5][min(version, 6) - 3]


def test_images_without_an_annotation_of_their_name_are_listed(tmp_path):
    annotations = ("a.json", "may/c.json", "of/d.json")
    for path in (*annotations, "a.jpg", "b.PNG", "may/a.jpg", "may/c.tif", "x/d.bmp", "x/e.webp"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    for hidden in (".f.jpg", "notes.txt"):
        (tmp_path / hidden).touch()
    source = labelme_folder.LabelmeFolder(tmp_path, ("slag_layer",), (), None)
    assert source.unannotated() == ["b.PNG", "may/a.jpg", "x/e.webp"]
    assert replace(source, subfolders=False).unannotated() == ["b.PNG"]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a BOM"])
def test_utf_8_text_may_begin_with_a_byte_order_mark(tmp_path, bom):
    path = write(tmp_path)
    path.write_bytes(bom + path.read_bytes())
    assert read(path).image.shape == (10, 20, 3)


NAMES = {
    # JSON in the folder: name in the study, or its beginning before a digest of the path
    "IMG_001.json": "IMG_001",
    "may_05/IMG_001.JSON": "may_05__IMG_001",
    "heats/may 05/IMG 1.json": "heats__may 05__IMG 1",
    "渣层/三.json": "渣层__三",
    "a.b.c..json": "a.b.c.",
    "cafe\u0301.json": "caf\u00e9",
    "a:b?.json": "a_b__",
    " a.json": "_a_",
    "a\u2028b.json": "a_b_",
    "cost $5.json": "cost _5_",
    "may/$x^$.json": "may___x^__",
    "NUL.1.json": "NUL.1_",
    "渣" * 80 + ".json": "渣" * 47 + "_",
}


@pytest.mark.parametrize("path", NAMES)
def test_name_of_an_image_depends_on_its_path(path):
    name = labelme_folder.image_name(Path(path))
    if NAMES[path].endswith("_"):
        assert re.fullmatch(re.escape(NAMES[path]) + "_?[0-9a-f]{8}", name)
    else:
        assert name == NAMES[path]
    assert len(f"{name}_brightness.jpg".encode()) < 255
    assert not set(name) & set('<>:"/\\|?*$\n')


def test_names_never_collide_and_stay(tmp_path):
    def names(*paths: str) -> dict[str, str]:
        for path in paths:
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).touch()
        source = labelme_folder.LabelmeFolder(tmp_path, ("slag_layer",), (), None)
        return {path.relative_to(tmp_path).as_posix(): name for name, path in source.names().items()}

    first = names("A.json", "may/A.json", "may/b?.json")
    assert list(first.values()) == sorted(first.values())
    later = names("a.json", "may__A.json", "june/A.json", "may/b*.json", "x.json/c.json", ".git/d.json", "n.txt")
    assert first.items() <= later.items()
    assert len({name.casefold() for name in later.values()}) == len(later) == 8
    assert later["june/A.json"] == "june__A"


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "gif", "ppm", "jp2"])
def test_any_image_format(tmp_path, suffix):
    Image.new("RGB", (20, 10), (200, 100, 50)).save(tmp_path / f"other.{suffix}")
    image = read(write(tmp_path, imagePath=f"other.{suffix}")).image
    assert np.abs(image.astype(int) - (200, 100, 50)).max() <= 12


def test_grey_of_16_bits_with_holes(tmp_path):
    grey = np.full((10, 20), 5.0, np.float32)
    grey[0, 0], grey[0, 1] = np.nan, 10
    Image.fromarray(grey).save(tmp_path / "scene.tif")
    image = read(write(tmp_path, imagePath="scene.tif")).image
    assert (image[0, 0, 0], image[0, 1, 0], image[5, 5, 0]) == (0, 255, 128)


def test_background_objects_lie_under_the_classes():
    labels = labelme_shapes.label_ids(("slag_layer",), (), ("ladle",))
    drawn = [shape("slag_layer", [[0, 0], [9, 9]], "rectangle"), shape("ladle", [[0, 0], [9, 4]], "rectangle")]
    for priority, pixels in ((("slag_layer",), 100), (None, 50)):
        mask, _ = labelme_shapes.rasterize(drawn, 10, 10, labels=labels, class_priority=priority)
        assert np.count_nonzero(mask == 1) == pixels


def test_mask_shape_is_read_from_base64(tmp_path):
    patch = np.array([[255, 0, 255], [0, 255, 0]], np.uint8)
    path = write(tmp_path, item(points=[[4, 2], [6, 3]], shape_type="mask", mask=as_png(patch)))
    mask, _ = paint(*read(path).shapes, height=10, width=20)
    assert list(map(tuple, np.argwhere(mask))) == [(2, 4), (2, 6), (3, 5)]


SQUARES = {
    "tube": shape("immersion_tube", [[0, 0], [9, 9]], "rectangle"),
    "slag": shape("slag_layer", [[5, 0], [14, 9]], "rectangle"),
    "ignore": shape("__ignore__", [[0, 0], [0, 9]], "rectangle"),
    "hole": shape("_background_", [[2, 0], [2, 9]], "rectangle"),
}


@pytest.mark.parametrize(
    ("order", "priority", "row", "overwritten"),
    [
        (["tube", "slag"], None, "111112222222222", {("immersion_tube", "slag_layer"): 50}),
        (["slag", "tube"], None, "111111111122222", {("slag_layer", "immersion_tube"): 50}),
        (["slag", "tube"], ("immersion_tube", "slag_layer"), "111112222222222", {("immersion_tube", "slag_layer"): 50}),
        (["tube", "slag"], ("slag_layer", "immersion_tube"), "111111111122222", {("slag_layer", "immersion_tube"): 50}),
        (["tube", "tube"], None, "111111111100000", {}),
        (["ignore", "tube"], None, "111111111100000", {}),
        (["ignore", "tube"], ("immersion_tube", "slag_layer"), "i11111111100000", {("immersion_tube", "__ignore__"): 10}),  # noqa: E501
        (["hole", "tube"], ("immersion_tube", "slag_layer"), "110111111100000", {("immersion_tube", "_background_"): 10}),  # noqa: E501
    ],
)  # fmt: skip
def test_painting_order(order, priority, row, overwritten):
    mask, counted = paint(*(SQUARES[name] for name in order), class_priority=priority, height=10, width=15)
    assert mask[4].tolist() == [255 if value == "i" else int(value) for value in row]
    assert counted == Counter(overwritten)


def test_group_ids_do_not_change_the_mask(tmp_path):
    one = read(write(tmp_path, item(group_id=1), item("immersion_tube", group_id=1)))
    other = read(write(tmp_path, item(group_id=7), item("immersion_tube", group_id=None)))
    assert np.array_equal(paint(*one.shapes)[0], paint(*other.shapes)[0])


def test_ids_follow_the_class_list_and_not_first_use():
    labels = labelme_shapes.label_ids(("slag_layer", "immersion_tube"), ("skip", "glare"), ("ladle",))
    expected = {"slag_layer": 1, "immersion_tube": 2, "skip": 255, "glare": 255, "ladle": 0, "_background_": 0}
    assert {label: labels[label] for label in expected} == expected
    for classes in (("background", "slag_layer"), ("slag_layer", "slag_layer"), ("skip",), ("ladle",)):
        with pytest.raises(StudyError, match="do not fit"):
            labelme_shapes.label_ids(classes, ("skip",), ("ladle",))


def test_written_annotation_is_read_back(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg")
    points = np.array([[1.234, 2], [15, 2], [15, 8.5]])
    path = tmp_path / "a.json"
    labelme.write_annotation(path, image_path="a.jpg", shapes=[("slag_layer", points)], height=10, width=20)
    (read_back,) = read(path).shapes
    assert read_back.label == "slag_layer"
    assert read_back.points == pytest.approx(points, abs=0.005)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jpg", "a.json"]


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("old")
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("stopped")))
    with pytest.raises(OSError, match="stopped"):
        labelme.write_annotation(path, image_path="a.jpg", shapes=[], height=1, width=1)
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "old"


def test_embedded_image_takes_precedence_over_the_named_file(tmp_path):
    embedded = np.full((10, 20, 3), 77, np.uint8)
    annotation = read(write(tmp_path, imageData=as_png(embedded)))
    assert np.array_equal(annotation.image, embedded)


def test_exif_orients_a_file_but_not_an_embedded_image(tmp_path):
    stored = np.zeros((20, 10, 3), np.uint8)
    stored[:10] = 255  # the upper half becomes the right half
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    path = write(tmp_path, imagePath="turned.png")
    image = read(path).image
    assert image.shape == (10, 20, 3)
    assert image[:, 10:].min() == 255
    assert image[:, :10].max() == 0
    embedded = base64.b64encode((tmp_path / "turned.png").read_bytes()).decode()
    path = write(tmp_path, imageData=embedded, imageHeight=20, imageWidth=10)
    assert np.array_equal(read(path).image, stored)


@pytest.mark.parametrize("named", ["../scene.png", "..\\scene.png", "..\\second\\..\\scene.png"])
def test_path_inside_the_root_with_either_slash(tmp_path, named):
    (tmp_path / "second").mkdir()
    path = write(tmp_path, imagePath=named).rename(tmp_path / "second" / "scene.json")
    assert labelme.read_annotation(path, root=tmp_path, labels=LABELS).image.shape == (10, 20, 3)
    with pytest.raises(StudyError, match="points outside the folder"):
        labelme.read_annotation(path, root=tmp_path / "second", labels=LABELS)


@pytest.mark.parametrize("cache", [".dvc/cache/files/md5/1f", ".git/annex/objects/1f"])
def test_links_of_data_managers_are_followed(tmp_path, cache):
    """DVC, git-annex and DataLad keep the files elsewhere and leave links to them."""
    root, kept = tmp_path / "root", tmp_path / cache
    kept.mkdir(parents=True)
    root.mkdir()
    Image.new("RGB", (20, 10)).save(kept / "image.png")
    (root / "scene.png").symlink_to(kept / "image.png")
    path = write(root, imagePath="scene.png")
    path.rename(kept / "annotation")
    path.symlink_to(kept / "annotation")
    assert read(path).image.shape == (10, 20, 3)


def test_accents_stored_in_two_ways_name_the_same_image(tmp_path):
    whole, parts = (unicodedata.normalize(form, "슬래그é") for form in ("NFC", "NFD"))
    for stored, named in ((whole, parts), (parts, whole), ("Å", "Å"), (whole + parts, whole + parts)):
        (tmp_path / "scene.png").unlink(missing_ok=True)
        path = write(tmp_path, imagePath=f"{named}.png")
        Image.new("RGB", (20, 10)).save(tmp_path / f"{stored}.png")
        assert read(path).image.shape == (10, 20, 3)
        (tmp_path / f"{stored}.png").unlink()


@pytest.mark.parametrize(
    "content", ['{"shapes": [' + "[]," * 3_000_000 + "[]]}", '{"imageData": "' + "A" * 200_000_001 + '"}']
)
def test_a_huge_file_is_refused_before_it_is_parsed(tmp_path, monkeypatch, content):
    monkeypatch.setattr(labelme.json, "loads", None)
    (tmp_path / "huge.json").write_text(content)
    with pytest.raises(StudyError, match="MB of JSON"):
        read(tmp_path / "huge.json")


DEEP = np.linspace(1000, 3000, 200).reshape(10, 20)
GREY = np.round((DEEP - 1000) * 255 / 2000)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (20, 10), 90), (90, 90, 90)),
        (Image.new("1", (20, 10), 1), (255, 255, 255)),
        (Image.new("LA", (20, 10), (90, 10)), (90, 90, 90)),
        (Image.new("RGBA", (20, 10), (1, 2, 3, 0)), (1, 2, 3)),
        (Image.new("RGB", (20, 10), (1, 2, 3)).quantize(4), (1, 2, 3)),
        (Image.new("CMYK", (20, 10), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.fromarray(DEEP.astype(np.uint16)), GREY[..., None]),
        (Image.fromarray(DEEP.astype(np.float32)), GREY[..., None]),
    ],
    ids=lambda value: getattr(value, "mode", ""),
)
def test_any_mode_becomes_rgb(tmp_path, image, expected):
    image.save(tmp_path / "scene.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_back = read(write(tmp_path, imagePath="scene.tif")).image
    assert read_back.dtype == np.uint8
    assert read_back.shape == (10, 20, 3)
    assert np.abs(read_back.astype(float) - expected).max() <= 1


def test_all_errors_in_all_files_at_once(tmp_path):
    write(tmp_path, item("slag"), item(), item("tube"), imagePath="gone.png").rename(tmp_path / "b.json")
    (tmp_path / "a.json").write_text("no JSON")
    (tmp_path / "._b.json").write_text("what a Mac leaves beside a file")
    for folder in ("second", ".ipynb_checkpoints"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "c.json").write_text("{}")
    found = errors_in(tmp_path)
    assert [(error.file, error.shape) for error in found] == [
        ("a.json", None),
        ("b.json", None),
        ("b.json", 0),
        ("b.json", 2),
        ("second/c.json", None),
    ]
    with pytest.raises(checks.InvalidAnnotations) as raised:
        checks.refuse(found, tmp_path)
    assert raised.value.problems == tuple(found)
    assert raised.value.what.startswith("5 annotation error(s) in 3 file(s)")
    assert "b.json         2      unknown label 'tube'  " in raised.value.what


def test_messy_folder_is_converted(tmp_path):
    write_messy_folder(tmp_path / "own")
    source = labelme_folder.LabelmeFolder(
        tmp_path / "own", ("immersion_tube", "slag_layer"), ("__ignore__", "glare"), None, ("ladle",)
    )
    settings = {"image_size": 64, "split": "grouped", "test_fraction": 0.2, "augmented_copies": 0, "seed": 0}
    with pytest.raises(checks.InvalidAnnotations) as raised:
        build.build_voc(source, tmp_path / "voc", data_settings(**settings), workers=1)
    assert {problem.file for problem in raised.value.problems} == INVALID.keys()
    for file, what in INVALID.items():
        assert any(problem.file == file and what in problem.what for problem in raised.value.problems)
    skipping = data_settings(**settings, on_error="skip")
    dataset = build.build_voc(source, tmp_path / "voc", skipping, workers=1)
    assert sum(dataset["originals"][part] for part in ("train", "test")) == len(MESSY) - len(INVALID)
    voc_tree.verify_voc(tmp_path / "voc")
    for name, path in source.names().items():
        sample, found = source.examine(path)
        if found:
            continue
        height, width = sample.mask.shape
        counts = np.bincount(sample.mask.ravel(), minlength=256)
        tube, slag = counts[1] / (height * width), counts[2] / (height * width)
        assert (tube, slag) == (pytest.approx(1 / 8, abs=0.03), pytest.approx(1 / 16, abs=0.02)), name
        bright = sample.image[sample.mask == 1].mean() - sample.image[sample.mask == 0].mean()
        assert bright > 50, name  # the image is oriented like its shapes
