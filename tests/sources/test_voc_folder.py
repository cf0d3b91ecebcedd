"""A VOC tree as a source: every error by its file, lists as people write them, masks of every kind."""

import pickle
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rhseg_lib.dataset import build, voc_tree
from rhseg_lib.errors import StudyError
from rhseg_lib.profile import load_profile
from rhseg_lib.sources import images
from rhseg_lib.sources.voc_folder import VocTree

CLASSES = ("immersion_tube", "slag_layer")
MASK = np.zeros((24, 32), np.uint8)
MASK[4:20, 8:16], MASK[14:18, 8:16], MASK[:2] = 1, 2, 255
WITHOUT_IGNORE = np.where(MASK == 255, 0, MASK).astype(np.uint8)
PROFILE = """
title: A ready tree
kind: result
data: {{source: voc, folder: {}, image_size: 32, augmented_copies: 1{}}}
recipe: {{}}
"""


def random_image(index: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(index).integers(0, 255, (24, 32, 3), dtype=np.uint8))


def write_mask(path: Path, mask: np.ndarray = MASK) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write_palette_png(path, mask)


def write_lists(tree: Path, **lists: str | bytes) -> None:
    folder = tree / "ImageSets" / "Segmentation"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in lists.items():
        (folder / f"{name}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def tree(tmp_path):
    """Six images a to f with masks and no lists."""
    folder = tmp_path / "tree"
    (folder / "JPEGImages").mkdir(parents=True)
    for index, name in enumerate("abcdef"):
        random_image(index).save(folder / "JPEGImages" / f"{name}.jpg")
        write_mask(folder / "SegmentationClass" / f"{name}.png")
    return folder


def source(tree: Path, own_split: bool = True) -> VocTree:
    return VocTree(tree, CLASSES, own_split)


def mask_of(tree: Path) -> tuple[np.ndarray | None, list[str]]:
    """The mask of image a, and its errors as lines."""
    found, problems = source(tree).examine(tree / "JPEGImages" / "a.jpg")
    assert (found is None) == bool(problems)
    return found and found.mask, [f"{problem.file}: {problem.what} -> {problem.fix}" for problem in problems]


def test_images_with_masks(tree):
    names = source(tree).names()
    assert list(names) == list("abcdef")
    found, problems = source(tree).examine(names["b"])
    assert (problems, found.image.shape, found.image.dtype) == ([], (24, 32, 3), np.uint8)
    assert np.array_equal(found.mask, MASK)
    assert pickle.loads(pickle.dumps(source(tree))) == source(tree)


def test_a_fingerprint_depends_on_image_and_mask(tree):
    path = tree / "JPEGImages" / "a.jpg"
    first = source(tree).fingerprint(path)
    assert source(tree).fingerprint(path) == first
    cut(tree / "SegmentationClass" / "a.png", 30)
    second = source(tree).fingerprint(path)
    cut(path, 200)
    assert len({first, second, source(tree).fingerprint(path)}) == 3


def test_images_of_any_suffix_and_case(tree):
    for name, suffix in zip("abc", (".JPG", ".png", ".BMP"), strict=True):
        (tree / "JPEGImages" / f"{name}.jpg").unlink()
        random_image(0).save(tree / "JPEGImages" / f"{name}{suffix}")
    (tree / "JPEGImages" / ".DS_Store").write_bytes(b"")
    (tree / "JPEGImages" / "Thumbs.db").write_bytes(b"")
    assert [path.name for path in source(tree).names().values()][:4] == ["a.JPG", "b.png", "c.BMP", "d.jpg"]


def with_palette(mask: np.ndarray, palette: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask)
    image.putpalette(palette.astype(np.uint8).tobytes())
    return image


@pytest.mark.parametrize(
    ("image", "expected", "options"),
    [
        (Image.fromarray(MASK), MASK, {}),  # grey
        (Image.fromarray(images.VOC_PALETTE[MASK]), MASK, {}),  # VOC's colours
        (Image.fromarray(images.VOC_PALETTE[MASK]).convert("RGBA"), MASK, {}),  # opaque
        (with_palette(WITHOUT_IGNORE, images.VOC_PALETTE[:16]), WITHOUT_IGNORE, {"bits": 4}),
        (with_palette(WITHOUT_IGNORE, 255 * np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0)])), WITHOUT_IGNORE, {}),
    ],
)
def test_kinds_of_masks_that_are_accepted(tree, image, expected, options):
    image.save(tree / "SegmentationClass" / "a.png", **options)
    mask, problems = mask_of(tree)
    assert problems == []
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize("margin", [np.s_[:5], np.s_[:, 28:], np.s_[:]])
def test_a_margin_around_background_is_no_binary_mask(tree, margin):
    mask = np.zeros_like(MASK)
    mask[margin] = 255
    write_mask(tree / "SegmentationClass" / "a.png", mask)
    assert np.array_equal(mask_of(tree)[0], mask)


BINARY = np.where(MASK % 255 > 0, 255, 0).astype(np.uint8)
LOOKS_BINARY = "a.png: this looks like a 0/255 mask; class ids are 0, 1, 2, …; 255 means ignore"
OUTSIDE = np.where(MASK == 2, 7, MASK).astype(np.uint8)
COLOURS = np.where((MASK == 2)[..., None], np.uint8((200, 10, 30)), images.VOC_PALETTE[MASK])
ALPHA = np.dstack([images.VOC_PALETTE[MASK], np.where(MASK == 2, 10, 255).astype(np.uint8)])


def cut(path: Path, count: int) -> None:
    """Remove the last bytes of a file."""
    path.write_bytes(path.read_bytes()[:-count])


def cut_image(path: Path) -> None:
    """Damage the image of the mask at `path`."""
    cut(path.parents[1] / "JPEGImages" / "a.jpg", 200)


def as_jpeg(path: Path) -> None:
    path.unlink()
    Image.fromarray(MASK).save(path.with_suffix(".jpg"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda path: write_mask(path, OUTSIDE),
            "a.png: mask values that belong to no class: 7; the classes are 1 to 2",
        ),
        (lambda path: write_mask(path, BINARY), LOOKS_BINARY),
        (lambda path: Image.fromarray(BINARY).save(path), LOOKS_BINARY),
        (lambda path: Image.fromarray(BINARY).convert("RGB").save(path), LOOKS_BINARY),
        (
            lambda path: Image.fromarray(COLOURS).save(path),
            "a.png: an RGB mask with 1 colour(s) that VOC's palette lacks: (200, 10, 30)",
        ),
        (as_jpeg, "SegmentationClass/a.jpg: a mask in JPEG format, which changes class ids"),
        (
            lambda path: Image.fromarray(MASK).save(path, format="JPEG"),
            "a.png: a mask in JPEG format, which changes class ids",
        ),
        (
            lambda path: Image.fromarray(MASK.astype(np.uint16)).save(path),
            "a.png: a mask of mode I;16, of 16 bits or more",
        ),
        (lambda path: Image.fromarray(ALPHA).save(path), "a.png: a mask of mode RGBA"),
        (
            lambda path: with_palette(WITHOUT_IGNORE, images.VOC_PALETTE[[0, 2, 1]]).save(path),
            "a.png: the palette paints value 1 in VOC's colour of class 2",
        ),
        (lambda path: write_mask(path, MASK[:, :-1].copy()), "a.png: a mask of 31x24 pixels for an image of 32x24"),
        (lambda path: cut(path, 30), "a.png: cannot be read"),
        (cut_image, "JPEGImages/a.jpg: cannot be read"),
    ],
)
def test_errors_in_one_image(tree, spoil, message):
    spoil(tree / "SegmentationClass" / "a.png")
    (problem,) = mask_of(tree)[1]
    assert message in problem
    assert len(problem.split(" -> ")[1]) > 10


def test_both_files_of_an_image_may_have_errors(tree):
    cut_image(tree / "SegmentationClass" / "a.png")
    write_mask(tree / "SegmentationClass" / "a.png", OUTSIDE)
    assert [line.split(":")[0] for line in mask_of(tree)[1]] == ["JPEGImages/a.jpg", "SegmentationClass/a.png"]


@pytest.mark.parametrize(
    ("lists", "test", "notes"),
    [
        ({}, None, ["The tree has no train and test lists"]),
        ({"train": "", "val": "\n"}, None, ["The tree has no train and test lists"]),
        ({"train": "a\nb\nc\nd\n", "test": "e\nf\n"}, "ef", []),
        ({"train": "a\nb\nc\nd", "test": "e\nf"}, "ef", []),
        ({"train": "a\r\nb\r\nc\r\nd\r\n", "test": "e\r\nf"}, "ef", []),
        ({"train": "\ufeffa\nb\nc\nd", "test": "\ufeffe\nf"}, "ef", []),
        ({"train": "a  \n\n\tb\nc\nd\n\n", "test": " e\nf\n  \n"}, "ef", []),
        ({"train": "a\na\nb\nc\nd", "test": "f\ne\nf"}, "fe", []),
        ({"train": "a\nb\nc\nd", "val": "e\nf"}, "ef", ["test.txt is missing"]),
        ({"train": "a\nb\nc\nd", "val": "e\nf", "test": ""}, "ef", ["test.txt is missing"]),
        ({"train": "a\nb\nc", "val": "d", "test": "e\nf", "trainval": "a\nb\nc\nd"}, "ef", ["1 images"]),
        ({"trainval": "a\nb\nc\nd", "test": "e\nf"}, "ef", ["train.txt is missing"]),
        ({"trainval": "a\nb\nc\nd\ne\nf", "val": "e\nf"}, "ef", ["train.txt is missing", "test.txt is missing"]),
        ({"train": "a\nb", "test": "c"}, "c", ["3 images in JPEGImages are in neither list"]),
    ],
)
def test_lists_as_people_write_them(tree, lists, test, notes):
    write_lists(tree, **lists)
    found, given_notes = source(tree).given_split()
    assert found == (None if test is None else list(test))
    assert [line[: len(note)] for line, note in zip(given_notes, notes, strict=True)] == notes
    assert source(tree, own_split=False).given_split() == (None, [])
    assert len(source(tree, own_split=False).names()) == 6


LIST = "ImageSets/Segmentation/"


@pytest.mark.parametrize(
    ("lists", "removed", "message"),
    [
        ({}, "JPEGImages/a.jpg", "SegmentationClass/a.png: no image for this mask -> add it to JPEGImages"),
        (
            {"train": "a", "test": "b"},
            "SegmentationClass/b.png",
            "JPEGImages/b.jpg: no mask for this image -> add SegmentationClass/b.png",
        ),
        ({"train": "a", "test": "b"}, "JPEGImages/b.jpg", f"{LIST}test.txt: no image is named 'b' -> add it"),
        ({"train": "a", "test": "b.jpg"}, None, f"{LIST}test.txt: 'b.jpg' has a suffix -> list names"),
        ({"train": "a\n../x", "test": "b"}, None, f"{LIST}train.txt: '../x' is a path -> list names without folders"),
        ({"train": "a\nx\\b", "test": "b"}, None, f"{LIST}train.txt: 'x\\b' is a path -> list names without folders"),
        ({"train": "/etc/passwd\na", "test": "b"}, None, f"{LIST}train.txt: '/etc/passwd' is a path"),
        ({"train": "a\nb", "test": "b"}, None, f"{LIST}test.txt: 'b' is also in train.txt -> an image is in either"),
        ({"train": "a\nb", "val": "b"}, None, f"{LIST}val.txt: 'b' is also in train.txt"),
        ({"train": "a"}, None, f"{LIST}test.txt: missing or empty"),
        ({"test": "a"}, None, f"{LIST}train.txt: missing or empty"),
        ({"train": "a\nb".encode("utf-16"), "test": "b", "trainval": "a"}, None, f"{LIST}train.txt: not text in UTF-8"),
    ],
)
def test_errors_in_the_tree(tree, lists, removed, message):
    write_lists(tree, **lists)
    if removed:
        (tree / removed).unlink()
    with pytest.raises(StudyError, match=r"1 annotation error\(s\)") as raised:
        source(tree).names()
    (problem,) = raised.value.problems
    assert message in f"{problem.file}: {problem.what} -> {problem.fix}"


def test_errors_in_the_tree_are_reported_together(tree):
    (tree / "JPEGImages/a.jpg").unlink()
    random_image(9).save(tree / "JPEGImages" / "c.png")
    write_mask(tree / "SegmentationClass" / " d.png")
    random_image(9).save(tree / "JPEGImages" / " d.png")
    with pytest.raises(StudyError, match=r"3 annotation error\(s\)") as raised:
        source(tree).names()
    for message in ("c.png: c.jpg has the same name", "' d': a name that no list can hold"):
        assert any(message in f"{problem.file}: {problem.what}" for problem in raised.value.problems)


def test_more_names_than_images_are_counted(tree):
    write_lists(tree, train="\n".join(f"x_{index}" for index in range(300_000)), test="a")
    with pytest.raises(StudyError, match=r"300000 names without an image, such as 'x_0'"):
        source(tree).names()


def test_subfolders_and_what_file_managers_leave(tree):
    """Images and masks of a shift in a subfolder are used; previews and settings of file managers are no images."""
    for inner, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (tree / inner / "night").mkdir()
        for name in "def":
            (tree / inner / f"{name}.{suffix}").rename(tree / inner / f"night/{name}.{suffix}")
        for name in ("Thumbs.db", "desktop.ini"):
            (tree / inner / name).write_bytes(b"preview")
    names = source(tree).names()
    assert list(names) == list("abcdef")
    assert [source(tree).examine(path)[1] for path in names.values()] == [[]] * 6
    random_image(9).save(tree / "JPEGImages/night/a.jpg")
    with pytest.raises(StudyError, match=r"JPEGImages/night/a.jpg +a.jpg has the same name|same name"):
        source(tree).names()


def test_images_without_a_mask_are_left_out_and_named(tree, tmp_path):
    for name in "ab":
        (tree / f"SegmentationClass/{name}.png").unlink()
    dataset = make(tmp_path)
    assert sum(dataset["originals"][subset] for subset in ("train", "test")) == 4
    said = "Left out, as they have no annotation of their name: 2 image(s), JPEGImages/a.jpg, JPEGImages/b.jpg."
    assert said in dataset["notes"]


def test_no_advice_that_is_followed_already(tree, tmp_path):
    """`on_error: skip` leaves out images with errors; it is offered only where it would."""
    (tree / "SegmentationClass/a.png").write_bytes(b"broken")
    with pytest.raises(StudyError) as stopped:
        make(tmp_path)
    assert "or set on_error: skip" in stopped.value.fix
    (tree / "JPEGImages/b.jpg").unlink()
    for setting in ("", ", on_error: skip"):
        with pytest.raises(StudyError, match="no image for this mask") as stopped:
            make(tmp_path, setting)
        assert "on_error" not in stopped.value.fix


def test_arrays_instead_of_masks(tree):
    """What older versions of labelme2voc left: arrays here, the masks in a folder beside it."""
    for path in (tree / "SegmentationClass").glob("*.png"):
        np.save(path.with_suffix(".npy"), MASK)
        path.unlink()
    with pytest.raises(StudyError, match="NumPy arrays") as raised:
        source(tree).names()
    assert "single-channel PNG" in raised.value.fix
    (tree / "SegmentationClassPNG").mkdir()
    with pytest.raises(StudyError, match="NumPy arrays") as raised:
        source(tree).names()
    assert "rename SegmentationClassPNG to SegmentationClass" in raised.value.fix


def test_class_names_in_another_order_are_refused(tree):
    """labelme2voc's class_names.txt gives the order of the mask values."""
    path = tree / "class_names.txt"
    path.write_text("__ignore__\n_background_\nimmersion_tube\nslag_layer\n")
    assert len(source(tree).names()) == 6
    path.write_text("__ignore__\n_background_\nslag_layer\nimmersion_tube\n")
    with pytest.raises(StudyError, match="their order differ") as raised:
        source(tree).names()
    assert raised.value.fix == "write `classes: [slag_layer, immersion_tube]` in the profile"


@pytest.mark.parametrize(
    ("tube", "slag"),
    [((51, 221, 255), (250, 50, 83)), ((0, 128, 0), (128, 0, 0))],  # CVAT's colours; VOC's, swapped
)
@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_masks_in_the_colours_of_a_labelmap(tree, tube, slag, mode):
    """CVAT's export "Segmentation mask": the labels of labelmap.txt say what a colour means, whatever its number."""
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::", f"slag_layer:{','.join(map(str, slag))}::"]
    lines += [f"immersion_tube:{','.join(map(str, tube))}::", "__ignore__:255,255,255::"]
    (tree / "labelmap.txt").write_text("\n".join(lines))
    colours = np.array([(0, 0, 0), tube, slag], np.uint8)
    painted = np.where(MASK[..., None] == 255, 255, colours[MASK % 255])
    image = Image.fromarray(painted.astype(np.uint8))
    (image if mode == "RGB" else image.quantize(8)).save(tree / "SegmentationClass/a.png")
    tree_source = VocTree(tree, CLASSES, False, ignore_labels=("__ignore__",))
    found, problems = tree_source.examine(tree / "JPEGImages/a.jpg")
    assert problems == []
    np.testing.assert_array_equal(found.mask, MASK)
    before = tree_source.fingerprint(tree / "JPEGImages/a.jpg")
    (tree / "labelmap.txt").write_text("\n".join([*lines, "ladle:1,2,3::"]))
    assert tree_source.fingerprint(tree / "JPEGImages/a.jpg") != before
    (problem,) = tree_source.examine(tree / "JPEGImages/a.jpg")[1]
    assert "names the label 'ladle', which the profile lacks" in problem.what
    (tree / "labelmap.txt").write_text("\n".join([*lines, "slag_layer:0,0,0::"]))
    (problem,) = tree_source.examine(tree / "JPEGImages/a.jpg")[1]
    assert "gives the label 'slag_layer' the colour of another one" in problem.what
    (tree / "labelmap.txt").write_bytes(b"\xff\xfe")
    (problem,) = tree_source.examine(tree / "JPEGImages/a.jpg")[1]
    assert problem.what.startswith("not text in UTF-8")


def test_a_palette_mask_beside_a_labelmap_keeps_what_is_ignored(tree):
    """Value 255 is ignored with a labelmap.txt as without one, though its colour stands in no line of it."""
    lines = ["background:0,0,0::", "immersion_tube:128,0,0::", "slag_layer:0,128,0::"]
    (tree / "labelmap.txt").write_text("\n".join(lines))
    mask, errors = mask_of(tree)
    assert errors == []
    np.testing.assert_array_equal(mask, MASK)


def test_errors_in_the_tree_are_listed_in_a_file(tree, tmp_path):
    (tree / "JPEGImages/b.jpg").unlink()
    with pytest.raises(StudyError, match="no image for this mask") as raised:
        make(tmp_path)
    listed = tmp_path / "reports/own/tables/errors.csv"
    assert "SegmentationClass/b.png" in listed.read_text("utf-8-sig") and str(listed) in raised.value.fix


def test_names_with_accents_stored_in_two_ways(tree):
    """A Mac's zip stores accents as characters of their own: image, mask and list still name the same image."""
    whole, parts = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    (tree / "JPEGImages/a.jpg").rename(tree / f"JPEGImages/{parts}.jpg")
    (tree / "SegmentationClass/a.png").rename(tree / f"SegmentationClass/{whole}.png")
    write_lists(tree, train="b\nc", test=parts)
    names = source(tree).names()
    assert list(names) == ["b", "c", whole]
    assert source(tree).examine(names[whole])[1] == []


def test_folders_missing_or_empty(tmp_path):
    with pytest.raises(StudyError, match="no folder 'JPEGImages'") as raised:
        source(tmp_path).names()
    assert raised.value.where == tmp_path
    for inner in ("JPEGImages", "SegmentationClass"):
        (tmp_path / inner).mkdir()
    with pytest.raises(StudyError, match="no images in the tree"):
        source(tmp_path).names()


def make(root: Path, more: str = "", folder: str = "tree") -> dict:
    (root / "profiles").mkdir(exist_ok=True)
    (root / "profiles" / "own.yaml").write_text(PROFILE.format(folder, more))
    profile = load_profile("own", root=root)
    dataset = build.make_dataset(profile, workers=1)
    voc_tree.verify_voc(profile.voc)
    return dataset


def test_a_study_on_the_split_of_the_tree(tree, tmp_path):
    write_lists(tree, train="a\nb\nc\n", val="d\ne\n")
    dataset = make(tmp_path)
    own = tmp_path / "data" / "own" / "voc"
    assert voc_tree.read_split(own, "test") == ["d", "e"]
    assert voc_tree.read_split(own, "train") == ["a", "a_flip", "b", "b_contrast", "c", "c_brightness"]
    assert dataset["split"] == "given"
    assert dataset["notes"] == [
        "test.txt is missing or empty: val.txt is the test list.",
        "1 images in JPEGImages are in neither list and were left out.",
    ]
    assert len(voc_tree.read_split(own, "train")) == 6
    dataset = make(tmp_path, ", split: grouped")
    assert (dataset["split"], dataset["originals"]["train"], dataset["notes"]) == ("grouped", 5, [])


def test_a_study_on_a_tree_without_lists(tree, tmp_path):
    write_mask(tree / "SegmentationClass" / "c.png", np.where(MASK == 2, 1, MASK).astype(np.uint8))
    dataset = make(tmp_path, ', group: "[ab]"')
    assert (dataset["split"], dataset["originals"]) == ("grouped", {"train": 5, "test": 1, "trainval": 5})
    assert dataset["notes"] == [
        "The tree has no train and test lists: the study split it.",
        "2 images are in 2 groups that the split keeps together.",
        "'group' does not match 4 image names: each of these images is its own group.",
    ]
    assert dataset["absent_classes"] == {"train": [], "test": [], "trainval": []}


def test_a_class_that_one_image_shows_is_noted(tree, tmp_path):
    for name in "abcde":
        write_mask(tree / "SegmentationClass" / f"{name}.png", np.where(MASK == 2, 1, MASK).astype(np.uint8))
    dataset = make(tmp_path, ", split: grouped")
    (subset,) = (name for name in ("train", "test") if "slag_layer" in dataset["absent_classes"][name])
    assert f"slag_layer is absent from the {subset} subset, as only one image shows it" in dataset["notes"][0]


def test_errors_in_all_images_stop_the_study(tree, tmp_path):
    for name in "ab":
        write_mask(tree / "SegmentationClass" / f"{name}.png", BINARY)
    with pytest.raises(StudyError, match=r"2 annotation error\(s\)"):
        make(tmp_path)
    assert not list(tmp_path.rglob("dataset.json"))


def test_the_study_does_not_read_what_it_wrote(tree, tmp_path):
    make(tmp_path)
    with pytest.raises(StudyError, match="where the study writes"):
        make(tmp_path, folder="data/own/voc")
    assert (tmp_path / "data" / "own" / "voc" / "dataset.json").is_file()
