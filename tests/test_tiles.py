"""Large images in tiles: thin lines survive, each pixel counts once, an image's tiles stay together, no seams."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MODEL, ROOT, data_settings
from PIL import Image

from rhseg_lib.dataset import build, voc_tree
from rhseg_lib.dataset.batches import normalize
from rhseg_lib.dataset.write_images import Converter
from rhseg_lib.errors import StudyError
from rhseg_lib.evaluate import evaluate
from rhseg_lib.evaluation import runs
from rhseg_lib.evaluation.inference import abstention_bound, certainty, confidence, confidence_of, confidences
from rhseg_lib.evaluation.tiled_inference import segment_tiles
from rhseg_lib.evaluation.weights import read_weights, write_weights
from rhseg_lib.models import build_model
from rhseg_lib.predict.segment import DEFAULT_WEIGHTS, predict_source
from rhseg_lib.profile import load_profile
from rhseg_lib.report import findings, tables
from rhseg_lib.sources import labelme
from rhseg_lib.sources.labelme_folder import LabelmeFolder
from rhseg_lib.sources.tiles import Cutting, starts
from rhseg_lib.sources.voc_folder import VocTree

CLASSES = ("block", "line")
PROFILE = """
title: Drawn plates
kind: demonstration
data: {source: labelme, folder: plates, classes: [block, line], image_size: 32, tile: 32, test_fraction: 0.34}
recipe: {epochs: 1, batch_size: 4, warmup_epochs: 0}
models: [deeplabv3plus_mobilenetv2_lite]
"""


def draw_plates(folder, count=6, height=70, width=110):
    """Noise with a bright block and, every seven rows, a line one pixel wide."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for index in range(count):
        name, top = f"heat{index // 2}_plate{index}", 3 + index
        Image.fromarray(random.integers(0, 200, (height, width, 3), dtype=np.uint8)).save(folder / f"{name}.png")
        block = ("block", np.array([[40, 20], [79, 20], [79, 59], [40, 59]]))
        lines = [("line", np.array([[2, y], [105, y], [105, y], [2, y]])) for y in range(top, height, 7)]
        path = folder / f"{name}.json"
        labelme.write_annotation(path, image_path=f"{name}.png", shapes=[block, *lines], height=height, width=width)
    return folder


@pytest.fixture(scope="module")
def plates(tmp_path_factory):
    return draw_plates(tmp_path_factory.mktemp("plates") / "plates")


def built(plates, tree, **changes):
    settings = {"image_size": 32, "tile": 32, "split": "grouped", "test_fraction": 0.34, "seed": 1, **changes}
    source = LabelmeFolder(plates, CLASSES, ignore_labels=("__ignore__",), class_priority=CLASSES)
    return build.build_voc(source, tree, data_settings(source="labelme", folder="", **settings), workers=1)


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "expected"),
    [
        (20, 32, 8, [0]),  # smaller than a tile
        (32, 32, 8, [0]),
        (33, 32, 0, [0, 1]),
        (64, 32, 0, [0, 32]),  # tiles side by side
        (70, 32, 0, [0, 19, 38]),
        (64, 32, 8, [0, 16, 32]),  # two would share nothing
        (80, 32, 8, [0, 24, 48]),
    ],
)
def test_where_tiles_begin(length, tile, overlap, expected):
    assert starts(length, tile, overlap) == expected


@pytest.mark.parametrize("shape", [(70, 110), (32, 64), (20, 90), (20, 20), (33, 31)])
def test_each_pixel_counts_in_one_tile_and_shows_in_it(shape):
    random = np.random.default_rng(0)
    image, mask = random.integers(0, 256, (*shape, 3), dtype=np.uint8), random.integers(0, 3, shape, dtype=np.uint8)
    pixels = np.dstack([image, mask])
    pieces = Cutting(32, 32).pieces("plate", image, mask)
    counted = np.concatenate([np.dstack([p.image, p.mask])[p.mask != 255] for p in pieces])
    assert sorted(map(bytes, counted)) == sorted(map(bytes, pixels.reshape(-1, 4)))
    assert {piece.mask.shape for piece in pieces} == {(min(shape[0], 32), min(shape[1], 32))}
    assert pieces[-1].name == f"plate_r{-(-shape[0] // 32) - 1}c{-(-shape[1] // 32) - 1}"


def test_tiles_that_are_ignored_as_a_whole_are_left_out():
    """In a batch of them alone the loss would be 0 / 0."""
    image, mask = np.zeros((64, 64, 3), np.uint8), np.full((64, 64), 255, np.uint8)
    assert [piece.name for piece in Cutting(32, 32).pieces("a", image, mask)] == ["a_r0c0"]
    mask[40, 40] = 0
    assert [piece.name for piece in Cutting(32, 32).pieces("a", image, mask)] == ["a_r1c1"]


@pytest.mark.parametrize(
    ("shape", "tile", "fitted"),
    [((64, 64), 64, (32, 32)), ((20, 64), 64, (10, 32)), ((20, 40), 64, (10, 20)), ((20, 20), 32, (20, 20))],
)
def test_an_image_smaller_than_a_tile_keeps_the_scale_of_one(shape, tile, fitted):
    image, mask = Cutting(32, tile).fit(np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8))
    assert mask.shape == image.shape[:2] == fitted


def test_lines_that_the_shrunk_images_lose_are_whole_in_tiles(plates, tmp_path):
    shrunk, tiled = built(plates, tmp_path / "a", tile=None), built(plates, tmp_path / "b")
    assert shrunk["size_limit"]["line"] < 0.4 and "or cut your own images into tiles" in findings.size_limit(shrunk)[1]
    assert tiled["size_limit"] == {"block": 1.0, "line": 1.0}
    (said,) = findings.size_limit(tiled)
    assert "tiles of 32×32 pixels, each a part of 32×32 pixels of an image" in said and "line 1.00" in said
    half = built(plates, tmp_path / "c", tile=64)["size_limit"]["line"]
    assert shrunk["size_limit"]["line"] < half < 1


def test_the_tree_holds_the_pixels_of_the_images(plates, tmp_path):
    """JPEG changes the image a little, the mask not at all: each annotated pixel of all images is in the tree once."""
    dataset = built(plates, tmp_path / "voc", augmented_copies=0)
    voc_tree.verify_voc(tmp_path / "voc")
    total = {
        name: sum(part[name] for key, part in dataset["class_pixels"].items() if key != "trainval") for name in CLASSES
    }
    source = LabelmeFolder(plates, CLASSES, (), CLASSES)
    masks = [source.examine(path)[0].mask for path in source.names().values()]
    assert total == {name: sum(int((mask == value).sum()) for mask in masks) for value, name in enumerate(CLASSES, 1)}
    assert tables.counts(dataset)[["tiles", "originals"]].to_dict("list") == {"tiles": [48, 24], "originals": [4, 2]}
    assert dataset["counts"]["train"] == 4 * 12 and dataset["originals"] == {"train": 4, "test": 2, "trainval": 4}


def test_tiles_and_copies_of_an_image_stay_on_one_side_of_the_split(plates, tmp_path):
    dataset = built(plates, tmp_path / "voc", augmented_copies=2)
    train, test = (voc_tree.read_split(tmp_path / "voc", subset) for subset in ("train", "test"))
    images = [{name.split("_r")[0] for name in names} for names in (train, test)]
    assert len(images[0]) == 4 and len(images[1]) == 2 and not images[0] & images[1]
    assert len(test) == 2 * 12 and len(train) == 4 * 12 * 3
    assert all(dataset["copy_of"][name].startswith(name.split("_r")[0]) for name in train if name in dataset["copy_of"])
    assert {dataset["group_of"][name] for name in test} == {f"group/{image}" for image in images[1]}
    assert "6 images are cut into 72 tiles." in dataset["notes"]
    learned, validation = voc_tree.training_split(tmp_path / "voc", 0.25)
    assert len(validation) == 12 and not {name.split("_r")[0] for name in learned} & {validation[0].split("_r")[0]}


def test_a_given_split_holds_for_the_tiles(tmp_path):
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    for index, name in enumerate("abc"):
        Image.new("RGB", (64, 32), (index, 0, 0)).save(tmp_path / f"in/JPEGImages/{name}.png")
        Image.fromarray(np.eye(32, 64, dtype=np.uint8)).save(tmp_path / f"in/SegmentationClass/{name}.png")
    (tmp_path / "in/ImageSets/Segmentation/train.txt").write_text("a\nc\n")
    (tmp_path / "in/ImageSets/Segmentation/test.txt").write_text("b\n")
    settings = data_settings(source="voc", classes=("line",), image_size=32, tile=32, split="given", seed=0)
    dataset = build.build_voc(
        VocTree(tmp_path / "in", ("line",), own_split=True), tmp_path / "voc", settings, workers=1
    )
    assert voc_tree.read_split(tmp_path / "voc", "test") == ["b_r0c0", "b_r0c1"]
    assert dataset["split"] == "given" and dataset["originals"]["train"] == 2


def test_the_leaky_split_separates_copies_of_whole_images(plates, tmp_path):
    built(plates, tmp_path / "voc", split="as_described")
    voc_tree.verify_voc(tmp_path / "voc")
    test = voc_tree.read_split(tmp_path / "voc", "test")
    assert len(test) == 4 * 12 and len({(name.split("_r")[0], name.split("c")[1][1:]) for name in test}) == 4


def test_a_group_of_images_is_one_unit_with_all_its_tiles(plates, tmp_path):
    dataset = built(plates, tmp_path / "voc", group="heat(.)", augmented_copies=0)
    test = voc_tree.read_split(tmp_path / "voc", "test")
    assert (
        len({dataset["group_of"][name] for name in test}) == 1 and len({dataset["tile_of"][name] for name in test}) == 2
    )


def test_an_image_that_is_left_out_moves_no_other(plates, tmp_path):
    folder = draw_plates(tmp_path / "plates")
    built(folder, tmp_path / "a")
    before = voc_tree.read_split(tmp_path / "a", "test")
    (folder / "heat1_plate2.json").write_text("{}")
    dataset = built(folder, tmp_path / "b", on_error="skip")
    assert len(dataset["skipped"]) == 1
    assert voc_tree.read_split(tmp_path / "b", "test") == [name for name in before if "plate2" not in name]


def test_a_killed_build_resumes_with_whole_images(plates, tmp_path, monkeypatch):
    """A tile that is gone is written again with the others of its image; the tree is that of an unbroken build."""
    whole = built(plates, tmp_path / "a")
    write = Converter.write_copies
    monkeypatch.setattr(Converter, "write_copies", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        built(plates, tmp_path / "b")
    tile = next((tmp_path / "b.unfinished/tree/SegmentationClass").glob("heat0_plate0_r1c1.png"))
    tile.unlink()
    examined = []
    examine = LabelmeFolder.examine
    monkeypatch.setattr(Converter, "write_copies", write)
    monkeypatch.setattr(
        LabelmeFolder, "examine", lambda self, path: (examined.append(path.stem), examine(self, path))[1]
    )
    assert built(plates, tmp_path / "b")["hash"] == whole["hash"]
    assert sorted(examined)[:2] == ["heat0_plate0"] * 2 and len(examined) == 1 + 4  # the broken one, and the copied


def by_colour(squares):
    """Logits of a network without context: three classes by red, green and blue."""
    return squares.transpose(0, 3, 1, 2).astype(np.float32) / 16


@pytest.mark.parametrize("shape", [(70, 110), (33, 100), (20, 20), (20, 90), (32, 32), (64, 128)])
def test_without_context_tiles_change_nothing(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    mask, probability = segment_tiles(image, by_colour, image_size=32, tile=32)
    expected = certainty(by_colour(image[None])[0])
    assert (mask == image.argmax(2)).mean() > 0.999  # equal values aside
    assert probability == pytest.approx(expected[1], abs=1e-5)


def test_tiles_of_twice_the_size_are_those_of_an_image_of_half_the_size():
    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    mask, _ = segment_tiles(image, by_colour, image_size=32, tile=64)
    assert (mask == image.argmax(2)).mean() > 0.9 and mask.shape == (192, 320)


def test_an_error_at_the_edges_of_tiles_is_outvoted():
    """Within four pixels of an edge the network below is wrong; what remains are the edges of the image itself."""
    inside = np.zeros((32, 32), bool)
    inside[4:-4, 4:-4] = True

    def logits_of(squares):
        right = np.broadcast_to(np.where(inside, 2.0, -0.5), (len(squares), 32, 32))
        return np.stack([np.zeros_like(right), right], 1).astype(np.float32)

    mask, _ = segment_tiles(np.zeros((100, 150, 3), np.uint8), logits_of, image_size=32, tile=32)
    assert mask[4:-4, 4:-4].all() and not mask[0].any() and not mask[:, 0].any()


def test_no_seams():
    """Logits that rise from left to right and from top to bottom of each tile: side by side they would jump by 4."""
    ramp = np.add.outer(*[np.linspace(-2, 2, 32)] * 2)

    def logits_of(squares):
        return np.broadcast_to(np.stack([0 * ramp, ramp]), (len(squares), 2, 32, 32)).astype(np.float32)

    mask, probability = segment_tiles(np.zeros((100, 150, 3), np.uint8), logits_of, image_size=32, tile=32)
    odds = np.log(probability / (1 - probability)) * np.where(mask, 1, -1)  # the difference of the logits again
    assert max(abs(np.diff(odds, axis=axis)).max() for axis in (0, 1)) < 0.6


def test_the_margin_of_an_image_smaller_than_a_tile_is_not_in_its_mask():
    seen = []

    def logits_of(squares):
        seen.append(squares)
        return by_colour(squares)

    image = np.full((10, 20, 3), (250, 0, 0), np.uint8)
    mask, _ = segment_tiles(image, logits_of, image_size=32, tile=32)
    assert mask.shape == (10, 20) and not mask.any()
    assert (seen[0][0, 11:21, 6:26] == image).all() and (seen[0][0, :11] == 128).all()


def test_memory_of_twelve_megapixels_is_bounded():
    """The logits of its eight classes alone would take 384 MB."""
    image = np.zeros((3000, 4000, 3), np.uint8)
    tracemalloc.start()
    mask, _ = segment_tiles(
        image, lambda squares: np.ones((len(squares), 8, 512, 512), np.float32), image_size=512, tile=512
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert mask.shape == (3000, 4000) and peak < 320e6


def test_an_image_is_as_confident_as_its_tiles_together():
    torch.manual_seed(0)
    images, masks = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8), torch.zeros(5, 32, 32, dtype=torch.uint8)
    masks[1, :, 20:] = 255
    network = torch.nn.Conv2d(3, 3, 1).eval()
    names = ["a", "a", "b", "c", "c"]
    score = confidences(network, images, masks, names)
    assert len(score) == 3 and score[1] == confidences(network, images, masks)[2]
    certain = [certainty(_logits(network, images[i])[:, masks[i].numpy() != 255]) for i in (0, 1)]
    assert score[0] == pytest.approx(confidence_of(*map(np.concatenate, zip(*certain, strict=True))))
    assert abstention_bound(network, images, masks, names) == pytest.approx(np.quantile(score, 0.01))
    assert confidence(_logits(network, images[2])) == pytest.approx(score[1])


def _logits(network, image):
    return network(normalize(image[None]))[0].detach().numpy()


@pytest.fixture(scope="module")
def tiled_run(tmp_path_factory):
    """The folder of a run on tiles, with the weights that the network began with."""
    root = tmp_path_factory.mktemp("study")
    (root / "profiles").mkdir()
    (root / "profiles/plates.yaml").write_text(PROFILE)
    draw_plates(root / "plates")
    profile = load_profile("plates", root=root)
    build.make_dataset(profile, workers=1)
    profile.run_folder(MODEL, 0).mkdir(parents=True)
    model = build_model(MODEL, num_classes=3).eval()
    runs.finish_run(model, profile=profile, model_name=MODEL, seed=0, history=[{"loss": 1.0, "seconds": 1.0}])
    return profile


def test_the_unit_of_a_tested_tile_is_its_image(tiled_run):
    run = runs.read_run(tiled_run, MODEL, 0, part="test")
    assert len(run.names) == 24 and len(set(run.units)) == 2
    table = pd.read_parquet(tiled_run.run_folder(MODEL, 0) / "per_image.parquet")
    assert table.drop(columns=["unit", "part"]).to_numpy().sum() == 2 * 70 * 110  # each pixel is scored once
    assert "32×32 px per tile of 32×32 px" in tiled_run.banner and tiled_run.data.unit == "tiles"


def test_weights_of_tiles_segment_and_score_tile_by_tile(tiled_run, tmp_path):
    path = tiled_run.run_folder(MODEL, 0) / "weights.safetensors"
    card = read_weights(path)[1]
    assert card.tile == 32 and "32×32 px per tile of 32×32 px" in card.in_words
    folder = tiled_run.root / "plates"
    table, errors, *_ = predict_source(folder, weights=path, output=tmp_path / "out", batch_size=4)
    assert len(table) == 6 and not len(errors) and set(table["width"]) == {110}
    names, matrices, _ = evaluate(path, folder)
    assert matrices.sum(axis=(1, 2)).tolist() == [70 * 110] * 6
    truth = LabelmeFolder(folder, CLASSES, (), CLASSES).examine(folder / f"{names[0]}.json")[0].mask
    mask = np.asarray(Image.open(tmp_path / f"out/masks/{names[0]}.png"))
    assert matrices[0].tolist() == [[((truth == i) & (mask == j)).sum() for j in range(3)] for i in range(3)]


def test_weights_without_tiles_are_read_as_before():
    card = read_weights(ROOT / DEFAULT_WEIGHTS)[1]
    assert card.tile is None


def test_a_changed_tile_of_a_card_is_noticed(tiled_run, tmp_path):
    network, card = read_weights(tiled_run.run_folder(MODEL, 0) / "weights.safetensors")
    write_weights(tmp_path / "a", network, card)
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "b").write_bytes(content.replace(b'\\"tile\\":32', b'\\"tile\\":64'))
    assert (tmp_path / "b").read_bytes() != content
    with pytest.raises(StudyError, match="have changed"):
        read_weights(tmp_path / "b")
