"""Speed of converting Labelme annotations to a VOC tree, compared with scripts that convert file by file.

    python benchmarks/conversion.py --pictures 400

draws synthetic 1920x1080 images with polygons in a temporary folder and converts them, in one run:

masks alone   one process; for each file: JSON, PIL polygons, a PNG of the mask at full size
with picture  the same, and the image decoded and saved as JPEG beside it
same files    the same, but both scaled to --image-size on a square: the files of build_voc, by the shortest script
build_voc     this project: checked, scaled to --image-size, with --workers processes, their start included

Processor time is printed beside wall time: it is more reliable on a machine with other load.
"""

import argparse
import base64
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import cv2
import numpy as np
import psutil
from PIL import Image, ImageDraw

from rhseg_lib.dataset.build import REDUCTION, build_voc
from rhseg_lib.profile import Data
from rhseg_lib.sources import images, labelme, labelme_folder

CLASSES = ("immersion_tube", "slag_layer")
USUAL, LARGE = (1920, 1080), (6000, 4000)  # width, height


def main() -> None:
    """Draw the images, convert them in each way, print time and memory."""
    options = read_options()
    ways = {"build_voc": build}
    if not options.ours_alone:
        plain = {
            "masks alone": convert_masks,
            "with picture": convert_with_images,
            "same files": convert_to_same_files,
        }
        ways = plain | ways
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        raw = Path(folder, "raw")
        draw(raw, options)
        measured = {}
        for title, way in ways.items():
            out = Path(folder, title)
            out.mkdir()
            measured[title] = measure(lambda way=way, out=out: way(raw, out, options))
    report(measured, options)


def read_options() -> argparse.Namespace:
    """Command-line options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--large", type=int, default=0, help="additional images of 6000x4000 pixels")
    parser.add_argument("--distinct", type=int, default=50, help="images drawn; the others are copies of them")
    parser.add_argument("--embedded", action="store_true", help="embed the images in the JSON")
    parser.add_argument("--image-size", type=int, default=512)
    parser.add_argument("--copies", type=int, default=0, help="augmented copies of each training image")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--ours-alone", action="store_true", help="skip the plain scripts")
    parser.add_argument("--folder", help="parent of the temporary folder")
    return parser.parse_args()


def draw(raw: Path, options: argparse.Namespace) -> None:
    """Write images and their annotations: four polygons each, of 40 to 200 points."""
    raw.mkdir()
    random = np.random.default_rng(0)
    jpegs = [random_jpeg(USUAL, random) for _ in range(min(options.distinct, options.pictures))]
    sizes = [USUAL] * options.pictures
    for index in range(options.large):
        sizes.insert(index * len(sizes) // options.large, LARGE)
    large = random_jpeg(LARGE, random) if options.large else b""
    for index, size in enumerate(sizes):
        content = numbered(jpegs[index % len(jpegs)] if size == USUAL else large, index)
        image = raw / f"picture_{index:05}.jpg"
        shapes = [(label, outline(size, random)) for label in CLASSES * 2]
        path = image.with_suffix(".json")
        labelme.write_annotation(path, image_path=image.name, shapes=shapes, height=size[1], width=size[0])
        if options.embedded:
            document = json.loads(path.read_text()) | {"imageData": base64.b64encode(content).decode()}
            path.write_text(json.dumps(document, indent=2))
        else:
            image.write_bytes(content)
    usual = np.mean([len(content) for content in jpegs])
    print(f"{len(sizes)} images; JPEGs of {usual / 1e3:.0f} kB, large ones of {len(large) / 1e3:.0f} kB")


def numbered(jpeg: bytes, number: int) -> bytes:
    """The same image with a comment, since two annotations of one image are an error."""
    comment = f"{number:06}".encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment + jpeg[2:]


def random_jpeg(size: tuple[int, int], random: np.random.Generator) -> bytes:
    """A JPEG of smooth regions with edges and sensor noise."""
    smooth = cv2.resize(random.integers(0, 255, (30, 50, 3), np.uint8), size, interpolation=cv2.INTER_CUBIC)
    noise = cv2.randn(np.empty(smooth.shape, np.int16), 0, 6)
    noisy = np.clip(smooth.astype(np.int16) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def outline(size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """A ragged ellipse, (N, 2) x and y in pixels."""
    angles = np.linspace(0, 2 * np.pi, random.integers(40, 201), endpoint=False)
    radii = random.uniform(0.1, 0.25, 2) * size * random.normal(1, 0.03, (len(angles), 1))
    centre = random.uniform(0.3, 0.7, 2) * size
    return centre + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def convert_masks(raw: Path, out: Path, _: argparse.Namespace) -> None:
    """The minimum: a mask of each file."""
    for path in sorted(raw.glob("*.json")):
        save_mask(json.loads(path.read_text()), out / f"{path.stem}.png")


def convert_with_images(raw: Path, out: Path, _: argparse.Namespace) -> None:
    """The usual script: a mask and a JPEG of each file."""
    for path in sorted(raw.glob("*.json")):
        document = json.loads(path.read_text())
        read_image(document, raw).save(out / f"{path.stem}.jpg")
        save_mask(document, out / f"{path.stem}.png")


def convert_to_same_files(raw: Path, out: Path, options: argparse.Namespace) -> None:
    """A mask and a JPEG of each file, scaled and centred in a square."""
    side = options.image_size
    for path in sorted(raw.glob("*.json")):
        document = json.loads(path.read_text())
        for image, suffix, margin in ((read_image(document, raw), ".jpg", (128,) * 3), (mask(document), ".png", 255)):
            scale = side / max(image.size)
            small = image.resize([round(length * scale) for length in image.size])
            square = Image.new(image.mode, (side, side), margin)
            if image.mode == "P":
                square.putpalette(image.getpalette())
            square.paste(small, [(side - length) // 2 for length in small.size])
            square.save(out / f"{path.stem}{suffix}", quality=95)


def read_image(document: dict, raw: Path) -> Image.Image:
    """The image in the JSON or beside it."""
    embedded = document["imageData"]
    content = base64.b64decode(embedded) if embedded else (raw / document["imagePath"]).read_bytes()
    return Image.open(io.BytesIO(content)).convert("RGB")


def save_mask(document: dict, path: Path) -> None:
    """Save the mask at the size of the image."""
    mask(document).save(path)


def mask(document: dict) -> Image.Image:
    """The polygons painted over one another, at the size of the image, in VOC's colours."""
    canvas = Image.new("P", (document["imageWidth"], document["imageHeight"]))
    canvas.putpalette(images.VOC_PALETTE.tobytes())
    brush = ImageDraw.Draw(canvas)
    for shape in document["shapes"]:
        value = 1 + CLASSES.index(shape["label"])
        brush.polygon([tuple(point) for point in shape["points"]], outline=value, fill=value)
    return canvas


def build(raw: Path, out: Path, options: argparse.Namespace) -> None:
    """The library's conversion, as `make_dataset` calls it."""
    least_side = round(REDUCTION * options.image_size)
    data = Data(image_size=options.image_size, augmented_copies=options.copies, seed=0)
    source = labelme_folder.LabelmeFolder(raw, CLASSES, ("__ignore__",), None, least_side=least_side)
    build_voc(source, out / "voc", data, workers=options.workers)


def measure(work: Callable) -> tuple[float, float, float, float]:
    """Wall time and processor time in seconds; peak memory in MB of all processes and of the largest worker."""
    stop, peaks = Event(), [0, 0]
    watch = Thread(target=watch_memory, args=(stop, peaks))
    watch.start()
    start, used = time.perf_counter(), sum(os.times()[:4])
    try:
        work()
        return time.perf_counter() - start, sum(os.times()[:4]) - used, peaks[0] / 1e6, peaks[1] / 1e6
    finally:
        stop.set()
        watch.join()


def watch_memory(stop: Event, peaks: list[int]) -> None:
    """Record, ten times a second, resident bytes of all processes (shared pages count in each) and largest worker."""
    this = psutil.Process()
    while not stop.wait(0.1):
        workers = [memory_of(process) for process in this.children(recursive=True)]
        peaks[:] = max(peaks[0], memory_of(this) + sum(workers)), max([peaks[1], *workers])


def memory_of(process: psutil.Process) -> int:
    """Resident bytes; 0 if the process has ended."""
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def report(measured: dict[str, tuple[float, float, float, float]], options: argparse.Namespace) -> None:
    """Print a line for each way; at its end, how many times as fast `build_voc` is."""
    count = options.pictures + options.large
    print(f"{'':14}images/s   ms of processor an image   peak MB, of a worker   times as fast: clock, processor")
    ours = measured["build_voc"]
    for title, (clock, processor, peak, worker) in measured.items():
        rates = f"{count / clock:8.1f}   {1e3 * processor / count:25.1f}   {peak:7.0f} {worker:13.0f}"
        print(f"{title:14}{rates}   {clock / ours[0]:20.2f} {processor / ours[1]:10.2f}")
    print(f"build_voc, images/s of each of {options.workers} workers: {count / ours[0] / options.workers:.1f}")


if __name__ == "__main__":
    main()
