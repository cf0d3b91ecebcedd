"""Malformed input of every kind: each is reported with its fix and leaves the finished tree byte for byte unchanged."""

import base64
import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import data_settings, files_in
from labelme_files import as_png
from PIL import Image

from rhseg_lib.dataset import voc_tree
from rhseg_lib.dataset.build import build_voc
from rhseg_lib.errors import StudyError
from rhseg_lib.sources import checks, labelme_folder
from rhseg_lib.sources.labelme import REDRAW, SAVE_AGAIN

CLASSES = ("immersion_tube", "slag_layer")
TRIANGLE = [[0, 0], [9, 0], [0, 9]]
SETTINGS = {"image_size": 32, "split": "grouped", "test_fraction": 0.3, "augmented_copies": 0, "seed": 0}
DEEP = "[" * 400 + "]" * 400
NOISE = as_png(np.random.default_rng(0).integers(0, 255, (10, 20, 3), dtype=np.uint8))


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, (10, 20, 3), dtype=np.uint8)


def shape(label="slag_layer", points=TRIANGLE, **others) -> dict:
    return {"label": label, "points": points, **others}


def document(*shapes: dict, **changes) -> dict:
    """A valid document for ``odd.png``; `changes` overwrite its keys."""
    size = {"imageHeight": 10, "imageWidth": 20}
    return {"shapes": [*shapes] or [shape()], "imagePath": "odd.png", "imageData": None, **size, **changes}


def with_points(text: str) -> bytes:
    """A document whose polygon has these points, as text that `json.dumps` would not write."""
    return json.dumps(document(shape(points="POINTS"))).replace('"POINTS"', text).encode()


def png(*, size: tuple[int, int] = (20, 10), kind: bytes = b"IHDR") -> str:
    """In base64, a PNG of a few bytes that states `size`."""
    chunks = [(kind, struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def folder_link(raw: Path) -> None:
    (raw / "loop").symlink_to(raw)


def link_to_itself(raw: Path) -> None:
    (raw / "odd.json").symlink_to("odd.json")


def link_to_nothing(raw: Path) -> None:
    (raw / "odd.json").symlink_to("gone.json")


def pipe(raw: Path) -> None:
    os.mkfifo(raw / "odd.json")


def image_pipe(raw: Path) -> None:
    os.mkfifo(raw / "pipe.png")
    write(raw, document(imagePath="pipe.png"))


def image_link_out(raw: Path) -> None:
    (raw / "out.png").symlink_to("/etc/hostname")
    write(raw, document(imagePath="out.png"))


def image_link_to_itself(raw: Path) -> None:
    (raw / "ring.png").symlink_to("ring.png")
    write(raw, document(imagePath="ring.png"))


def image_behind_folder_link(raw: Path) -> None:
    (raw / ".hidden").symlink_to("/etc")
    write(raw, document(imagePath=".hidden/hostname"))


def postscript(raw: Path) -> None:
    Image.fromarray(pixels(9)).save(raw / "odd.eps")
    write(raw, document(imagePath="odd.eps"))


def second_annotation(raw: Path) -> None:
    write(raw, document(imagePath="a.png"))


def second_annotation_embedded(raw: Path) -> None:
    write(raw, document(imageData=base64.b64encode((raw / "a.png").read_bytes()).decode()))


def in_a_subfolder(raw: Path) -> None:
    (raw / "may" / "x.json").mkdir(parents=True)
    (raw / "may" / "x.json" / "odd.json").write_text("{")


def unreadable(raw: Path) -> None:
    write(raw, document())
    (raw / "odd.json").chmod(0)


def unreadable_image(raw: Path) -> None:
    write(raw, document())
    (raw / "odd.png").chmod(0)


def unreadable_folder(raw: Path) -> None:
    (raw / "locked").mkdir(mode=0)


DOUBLE = '{"shapes": [{"label": "slag_layer", "label": "immersion_tube", "points": []}]}'
COCO = {"images": [], "annotations": [], "categories": []}
CASES = {
    # name: (content of odd.json as bytes, document or function; excerpt of the message)
    # the file
    "empty": (b"", "an empty file"),
    "white space": (b" \r\n\t", "an empty file"),
    "cut": (b'{"shapes": [', "not JSON (Expecting value"),
    "UTF-16": (json.dumps(document()).encode("utf-16"), "not text in UTF-8"),
    "UTF-16 without a BOM": (json.dumps(document()).encode("utf-16-le"), "not JSON"),
    "UTF-32": (json.dumps(document()).encode("utf-32"), "not text in UTF-8"),
    "GBK": ('{"label": "渣层"}'.encode("gbk"), "save it as UTF-8 in a text editor"),
    "Latin-1": (b'{"label": "caf\xe9"}', "not text in UTF-8"),
    "an image": (base64.b64decode(NOISE), "not text in UTF-8"),
    "a web page": (b"<html></html>", "move it out of the folder"),
    "NUL": (b"\0" * 100, "not JSON"),
    "comma at the end": (b'{"shapes": [],}', "not JSON"),
    "single quotes": (b"{'shapes': []}", "not JSON"),
    "two documents": (b"{}{}", "not JSON (Extra data"),
    "deep lists": (b"[" * 100_000, "not JSON"),
    "deep objects": (b'{"a":' * 100_000, "not JSON"),
    "integer of 5000 digits": (with_points(f"[[{'9' * 5000}, 0], [1, 1], [2, 2]]"), "not JSON (Exceeds the limit"),
    "key twice": (b'{"shapes": [], "shapes": []}', "the key 'shapes' is given twice"),
    "key of a shape twice": (DOUBLE.encode(), "the key 'label' is given twice"),
    "list": (b"[]", "no list 'shapes', so not a Labelme file"),
    "text": (b'"shapes"', "no list 'shapes'"),
    "number": (b"7", "no list 'shapes'"),
    "null": (b"null", "no list 'shapes'"),
    "COCO": (COCO, "no list 'shapes'"),
    "shapes an object": (document(shapes={"0": shape()}), "no list 'shapes'"),
    "too many shapes": (document(shapes=[0] * 10_001), "10001 shapes, more than 10000"),
    "a folder linked": (folder_link, "a link to another folder, which is not followed"),
    "a link to itself": (link_to_itself, "a broken link"),
    "a broken link": (link_to_nothing, "a broken link"),
    "a pipe": (pipe, "not a file"),
    "in a subfolder": (in_a_subfolder, "may/x.json/odd.json  "),
    # its image
    "no image named": (document(imagePath=None), f"nor 'imagePath'  {SAVE_AGAIN}"),
    "path a number": (document(imagePath=7), "neither 'imageData' nor 'imagePath'"),
    "path empty": (document(imagePath=""), "neither 'imageData' nor 'imagePath'"),
    "absolute": (document(imagePath="/etc/hostname"), "is absolute: '/etc/hostname'  put the image beside the JSON"),
    "absolute on Windows": (document(imagePath="C:\\data\\odd.png"), "'imagePath' is absolute"),
    "of a drive": (document(imagePath="C:odd.png"), "'imagePath' is absolute"),
    "network share": (document(imagePath="\\\\host\\share\\odd.png"), "'imagePath' is absolute"),
    "out of the folder": (document(imagePath="../../etc/hostname"), "../etc/hostname'  put the image beside the JSON"),
    "out, in Windows' way": (document(imagePath="x\\..\\..\\odd.png"), "points outside the folder"),
    "out by a link": (image_link_out, "a link out of the folder"),
    "out by a folder's link": (image_behind_folder_link, "a link out of the folder"),
    "image a link to itself": (image_link_to_itself, "image not found"),
    "image a pipe": (image_pipe, "image not found"),
    "image gone": (document(imagePath="gone.png"), "put it there, or correct 'imagePath'"),
    "path of other case": (document(imagePath="ODD.PNG.png"), "image not found"),
    "path a folder": (document(imagePath="."), "image not found"),
    "path with NUL": (document(imagePath="odd\0.png"), r"not found: 'odd\x00.png'"),
    "path too long": (document(imagePath="a" * 5000), "not found: 'aaa"),
    "path of a lone surrogate": (document(imagePath="\ud800.png"), r"not found: '\ud800.png'"),
    "path with a terminal's control sequence": (document(imagePath="\x1b[2J.png"), r"not found: '\x1b[2J.png'"),
    "image a text": (document(imagePath="a.json"), "no picture, or of a kind that is not read here"),
    "PostScript": (postscript, "no picture, or of a kind that is not read here"),
    "same image twice": (second_annotation, "annotates the same image as a.json"),
    "same image embedded": (second_annotation_embedded, "keep one of the two"),
    "embedded a number": (document(imageData=7), "embedded data that is not text"),
    "embedded a list": (document(imageData=[]), f"data that is not text  {SAVE_AGAIN}"),
    "embedded nothing": (document(imageData=""), "no picture"),
    "base64 broken": (document(imageData="a"), "broken base64"),
    "base64 of Chinese": (document(imageData="渣层"), SAVE_AGAIN),
    "embedded text": (document(imageData="dGV4dA=="), "save it as PNG or JPEG"),
    "embedded, cut": (document(imageData=NOISE[:400]), "the image cannot be read"),
    "embedded, without a head": (document(imageData=png(kind=b"tEXt")), "read"),
    "embedded, without pixels": (document(imageData=png()), "the image cannot be read"),
    "decompression bomb": (document(imageData=png(size=(60_000, 60_000))), "89 million pixels  make the image smaller"),
    "no width": (document(imageData=png(size=(0, 10))), "read"),
    "other size": (document(imageHeight=20, imageWidth=10), "10x20 pixels, the image has 20x10  restore the image"),
    "other width alone": (document(imageHeight=None, imageWidth=21), "the JSON says 21x? pixels"),
    "size of 300 digits": (document(imageWidth=10**300), "the JSON says 1000"),
    "size a list": (document(imageWidth=[20]), "the JSON says of type listx10"),
    "size a text": (document(imageHeight="\x1b[0m"), r"the JSON says 20x'\x1b[0m' pixels"),
    # its shapes
    "shape a number": (document(7), "no 'label' or no 'points'"),
    "shape null": (document(None), f"no 'label' or no 'points'  {REDRAW}"),
    "no label": (document({"points": TRIANGLE}), "no 'label' or no 'points'"),
    "no points": (document({"label": "slag_layer"}), "no 'label' or no 'points'"),
    "unknown label": (document(shape("Slag layer")), "did you mean 'slag_layer'? rename it"),
    "label far from all": (document(shape("xyz")), "use one of immersion_tube, slag_layer, __ignore__, or add it"),
    "label with a space": (document(shape("slag_layer ")), "unknown label 'slag_layer '  did you mean 'slag_layer'?"),
    "label empty": (document(shape("")), "unknown label ''"),
    "label null": (document(shape(None)), "unknown label of type NoneType"),
    "label nested deeply": (json.dumps(document(shape("DEEP"))).replace('"DEEP"', DEEP).encode(), "of type list"),
    "label with HTML": (document(shape("<script>alert(1)</script>")), "unknown label '<script>alert(1)</script>'"),
    "label of a million characters": (document(shape("slag" * 250_000)), "unknown label 'slagslag"),
    "label of a lone surrogate": (document(shape("\udfff")), r"unknown label '\udfff'"),
    "label with a terminal's control sequence": (document(shape("\x1b[31m")), r"unknown label '\x1b[31m'"),
    "type unknown": (document(shape(shape_type="spline")), "unknown shape type 'spline'  draw it as a polygon"),
    "type a list": (document(shape(shape_type=["polygon"])), "unknown shape type of type list"),
    "type of prompts": (document(shape(shape_type="points")), "unknown shape type 'points'"),
    "points an object": (document(shape(points={})), "'points' is not a list of x, y pairs"),
    "points text": (document(shape(points="0,0 9,0 0,9")), "'points' is not a list of x, y pairs"),
    "points null": (document(shape(points=None)), "'points' is not a list of x, y pairs"),
    "points flat": (document(shape(points=[0, 0, 9, 0, 0, 9])), "'points' is not a list of x, y pairs"),
    "points of three": (document(shape(points=[[0, 0, 0]] * 3)), f"'points' is not a list of x, y pairs  {REDRAW}"),
    "points ragged": (document(shape(points=[[0, 0], [1], [2, 2]])), "'points' is not a list of x, y pairs"),
    "points of text": (document(shape(points=[["0", "0"], ["9", "0"], ["0", "9"]])), "not a list of x, y pairs"),
    "points of booleans": (document(shape(points=[[True, False]] * 3)), "not a list of x, y pairs"),
    "points of null": (document(shape(points=[[None, 0]] * 3)), "not a list of x, y pairs"),
    "points nested deeply": (with_points(f"[[{DEEP}, 0], [0, 0], [1, 1]]"), "not a list of x, y pairs"),
    "a million points": (document(shape(points=[[1, 1]] * 1_000_000)), "a polygon of 1000000 point(s) instead of 3"),
    "no point": (document(shape(points=[])), "a polygon of 0 point(s)"),
    "two points": (document(shape(points=TRIANGLE[:2])), f"of 2 point(s) instead of 3 to 10000  {REDRAW}"),
    "rectangle of three": (document(shape(shape_type="rectangle")), "a rectangle of 3 point(s) instead of 2"),
    "circle of three": (document(shape(shape_type="circle")), "a circle of 3 point(s) instead of 2"),
    "rotated rectangle of three": (document(shape(shape_type="oriented_rectangle")), "of 3 point(s) instead of 4"),
    "line of one": (document(shape(points=[[1, 1]], shape_type="linestrip")), "a linestrip of 1 point(s)"),
    "NaN": (with_points("[[NaN, 0], [9, 0], [0, 9]]"), "a coordinate that is not a finite number"),
    "infinite": (with_points("[[-Infinity, 0], [9, 0], [0, 9]]"), f"not a finite number  {REDRAW}"),
    "1e400": (with_points("[[1e400, 0], [9, 0], [0, 9]]"), "a coordinate that is not a finite number"),
    "integer of 400 digits": (with_points(f"[[{'9' * 400}, 0], [9, 0], [0, 9]]"), "not a finite number"),
    "far by a pixel": (document(shape(points=[[0, 0], [31, 0], [5, 5]])), "points far outside the image of 20x10"),
    "1e9": (document(shape(points=[[0, 0], [1e9, 0], [0, 9]])), "points far outside the image of 20x10 pixels"),
    "-1e9": (document(shape(points=[[0, 0], [-1e9, 0]], shape_type="circle")), "20x10 pixels  check that the JSON"),
    "1e308": (document(shape(points=[[0, 0], [1e308, -1e308]], shape_type="line")), "points far outside the image"),
    "no mask": (document(shape(points=TRIANGLE[:2], shape_type="mask")), "embedded data that is not text"),
    "mask not an image": (document(shape(points=TRIANGLE[:2], shape_type="mask", mask="dGV4dA==")), "no picture"),
    "mask a bomb": (
        document(shape(points=TRIANGLE[:2], shape_type="mask", mask=png(size=(60_000, 60_000)))), "million pixels",
    ),
    "mask of other size": (
        document(shape(points=[[0, 0], [9, 3]], shape_type="mask", mask=as_png(np.ones((4, 4), np.uint8)))),
        f"a mask of (4, 4) pixels in a box of (10, 4)  {REDRAW}",
    ),
    "mask in colour": (document(shape(points=[[0, 0], [19, 9]], shape_type="mask", mask=NOISE)), "a mask of"),
}  # fmt: skip
LOCKED = {
    "unreadable": (unreadable, "cannot be opened (Permission denied)"),
    "unreadable image": (unreadable_image, "cannot be opened (Permission denied)"),
    "unreadable folder": (unreadable_folder, "a folder cannot be read (Permission denied)"),
}


def write(raw: Path, content: bytes | dict, name: str = "odd") -> None:
    Image.fromarray(pixels(9)).save(raw / "odd.png")
    (raw / f"{name}.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def build(raw: Path, tree: Path, **changes) -> dict:
    source = labelme_folder.LabelmeFolder(raw, CLASSES, ("__ignore__",), None)
    return build_voc(source, tree, data_settings(**{**SETTINGS, **changes}), workers=1)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """Three valid annotations."""
    raw = tmp_path_factory.mktemp("good") / "raw"
    raw.mkdir()
    for number, name in enumerate("abc"):
        Image.fromarray(pixels(number)).save(raw / f"{name}.png")
        (raw / f"{name}.json").write_text(json.dumps(document(imagePath=f"{name}.png")))
    return raw


@pytest.fixture(scope="module")
def tree(good, tmp_path_factory) -> Path:
    """The tree built from them, alone in a folder."""
    tree = tmp_path_factory.mktemp("made") / "voc"
    build(good, tree)
    return tree


@pytest.mark.parametrize("name", [*CASES, *LOCKED])
def test_malformed_input_is_reported_and_changes_nothing(good, tree, tmp_path, name):
    made, message = (CASES | LOCKED)[name]
    if name in LOCKED and os.geteuid() == 0:
        pytest.skip("root may read everything")
    raw = tmp_path / "raw"
    shutil.copytree(good, raw)
    if callable(made):
        made(raw)
    else:
        write(raw, made)
    before = files_in(tree)
    with pytest.raises(StudyError) as raised:
        build(raw, tree)
    assert message in str(raised.value)
    assert str(raised.value).replace("\n", "").isprintable()
    assert len(str(raised.value)) < 1500
    assert files_in(tree) == before
    assert {path.name for path in tree.parent.iterdir()} <= {"voc", "voc.unfinished"}  # what is valid is kept


def test_all_of_them_at_once_may_be_skipped(good, tree, tmp_path):
    raw = tmp_path / "raw"
    shutil.copytree(good, raw)
    written = {name: content for name, (content, _) in CASES.items() if not callable(content)}
    for number, content in enumerate(written.values()):
        write(raw, content, name=f"z_{number:03}")
    with pytest.raises(checks.InvalidAnnotations, match=f"error.s. in {len(written)} file") as raised:
        build(raw, tmp_path / "voc")
    message = str(raised.value)
    assert len(message.splitlines()) == 50 + 5  # two lines of heading, the rows, how many more, where, fix
    assert " more\n" in message
    dataset = build(raw, tmp_path / "voc", on_error="skip", test_fraction=0.6)
    assert {problem["file"] for problem in dataset["skipped"]} == {
        f"z_{number:03}.json" for number in range(len(written))
    }
    assert sum(dataset["originals"][part] for part in ("train", "test")) == 3
    voc_tree.verify_voc(tmp_path / "voc")
