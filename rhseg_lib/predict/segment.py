"""Segment new images or a video with trained weights: masks, overlays, a table, a gallery sorted by confidence.

    python -m rhseg_lib.predict data/sample --weights FILE --output reports/predictions/sample

Files in the output folder:

    masks/<name>.png       palette PNG in VOC's colours at the image's own size; values are the weights' class indices
    overlays/<name>.webp   the classes over the image, at most 1280 pixels wide and high
    predictions.csv        a row per image or frame: size, pixels and percentage of every class, confidence, abstain,
                           and what of the image was not read, such as its transparency or further pages
    errors.csv             images that could not be read, and how to fix them
    index.html             the gallery, least confident first, with thumbnails/
    progress.jsonl         settings, then a line per finished batch

All files are written to its folder `unfinished` and moved when complete. An interrupted run resumes there after its
last complete batch and ends with the same files as an uninterrupted one. Batches always start at multiples of their
size, since sums differ in their last digits between batch sizes. Weights of tiles segment tile by tile (`tiles`).

Confidence (`evaluation.inference.confidence`) sorts images; it is not a calibrated probability. Images whose confidence
is below the 1st percentile of the model's own test images are marked `abstain`; the weights store that threshold. A
wrong mask may be confident, and a black image is: background alone, an empty mask, is an answer too.
"""

import json
import os
import shutil
from collections.abc import Iterable
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from rhseg_lib.dataset.batches import normalize
from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation.inference import confidence, confidence_of
from rhseg_lib.evaluation.weights import Card, read_weights
from rhseg_lib.files import Journal, disk_errors, sole_writer, write_atomically
from rhseg_lib.predict.gallery import Prediction, write_tables
from rhseg_lib.predict.inputs import Frame, ImageFiles, Video, open_source
from rhseg_lib.predict.tiles import segment_tiles
from rhseg_lib.report import overlays
from rhseg_lib.sources import images

FORMAT = 2  # of progress.jsonl; raised when the meaning of a row changes
DEFAULT_WEIGHTS = "reports/reduced/runs/deeplabv3plus_mobilenetv2_ds_ema/seed0/weights.safetensors"
PROGRESS, DRAFT = "progress.jsonl", "unfinished"
OUTPUTS = ("masks", "overlays", "thumbnails", "predictions.csv", "errors.csv", "index.html", PROGRESS)  # the last: done
OVERLAY_SIDE, THUMBNAIL_SIDE = 1280, 320  # pixels, the longer side
MOST = 1_000_000  # images per batch, and frames from one to the next
GAP = 4  # pixels between image and overlay in a thumbnail
BLOCK = 512  # pixels, side of the blocks in which logits are resized to the image's own size


def predict_source(
    source: Path,
    *,
    weights: Path,
    output: Path,
    batch_size: int = 8,
    threshold: float | None = None,
    every: int = 1,
    subfolders: bool = False,
) -> Prediction:
    """Segment every image of a source and write the files described in the module docstring.

    Parameters
    ----------
    source : Path
        A folder of images, an image, or a video.
    weights : Path
        A safetensors file that this study wrote.
    output : Path
        Those of an earlier run there are replaced when the new ones are complete.
    batch_size : int
        Images per forward pass.
    threshold : float or None
        Images with lower confidence are marked `abstain`; None: the threshold stored in the weights, or none if they
        store none. It may change without segmenting again.
    every, subfolders
        Use every n-th frame of a video; include images in subfolders.

    Raises
    ------
    StudyError
        No source, no weights, foreign files in the output folder, another run that writes it, images that changed
        while they were segmented, a full disk. Images that cannot be read are listed in `errors`.
    """
    if not (1 <= batch_size <= MOST and 1 <= every <= MOST) or not 0 <= (threshold or 0) <= 1:
        fix = f"batch_size and every: from 1 to {MOST:,}; threshold: from 0 to 1"
        where = f"batch_size={batch_size}, every={every}, threshold={threshold}"
        raise StudyError("a setting is out of range", where=where, fix=fix)
    network, card = read_weights(weights)
    threshold = card.abstain_below if threshold is None else threshold
    output = Path(os.path.realpath(output))  # a link to another disk stays a link
    inputs = open_source(source, every=every, subfolders=subfolders, leave_out=output)
    settings = run_settings(inputs, weights=weights, batch_size=batch_size, every=every)
    is_other = any((output / name).exists() for name in OUTPUTS) and not (output / PROGRESS).exists()
    if is_other or (output.exists() and not output.is_dir()):
        fix = "move them, or choose another folder"
        raise StudyError("the output folder holds other files", where=output, fix=fix)
    draft = output / DRAFT
    tables = partial(write_tables, card=card, source=source, left_out=inputs.left_out, threshold=threshold)
    with sole_writer(draft, marks=[PROGRESS]), disk_errors(draft):
        batches = Journal(output / PROGRESS).read(settings)
        network = network.to(settings["device"])
        if batches:
            _restore(batches, inputs, network, card, output, batch_size)
            return tables(output, batches)
        batches = _segment(inputs, network, card, draft, settings)
        result = tables(draft, batches)
        _move(draft, output)
    return result


def run_settings(inputs: ImageFiles | Video, *, weights: Path, batch_size: int, every: int) -> dict:
    """Settings that must be unchanged for a run to resume: weights, files and their times, numbers, device."""
    return {
        "format": FORMAT,
        "weights": sha256(weights.read_bytes()).hexdigest(),
        "source": _files_digest(inputs),
        "batch size": batch_size,
        "every": every,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "torch": version("torch"),
    }


def _files_digest(inputs: ImageFiles | Video) -> str:
    """Changes with the name, size or time of any file; a file that is gone counts as changed."""
    states = [(path, path.stat() if path.exists() else None) for path in inputs.files]
    files = [(str(path.relative_to(inputs.folder)), of and (of.st_size, of.st_mtime_ns)) for path, of in states]
    return sha256(json.dumps(files).encode()).hexdigest()


def _segment(inputs: ImageFiles | Video, network: nn.Module, card: Card, draft: Path, settings: dict) -> list[dict]:
    """Resume after the finished batches; add a line of progress per batch once its files are written."""
    journal = Journal(draft / PROGRESS)
    batches = journal.read(settings)
    if batches is None:
        for name in OUTPUTS[:3]:
            shutil.rmtree(draft / name, ignore_errors=True)
            (draft / name).mkdir()  # without an image, it replaces an earlier run's all the same
        journal.start(settings)
        batches = []
    _restore(batches, inputs, network, card, draft, settings["batch size"])
    for half_written in draft.rglob(".*.[0-9]*"):  # by an interrupted run
        half_written.unlink()
    done = sum(len(batch["rows"]) + len(batch["errors"]) for batch in batches)
    frames = inputs.read(done)
    with tqdm(total=len(inputs) or None, initial=done, desc="segmenting") as bar:
        while batch := segment_batch(islice(frames, settings["batch size"]), network, card, draft):
            journal.add(batch)
            batches.append(batch)
            bar.update(len(batch["rows"]) + len(batch["errors"]))
    if _files_digest(inputs) != settings["source"]:
        fix = "run again when nothing writes there; all images are then segmented again"
        raise StudyError("files were changed while they were segmented", where=inputs.folder, fix=fix)
    return batches


def _restore(
    batches: list[dict], inputs: ImageFiles | Video, network: nn.Module, card: Card, folder: Path, size: int
) -> None:
    """Segment again the finished batches of which a file in `folder` was deleted or emptied since."""
    for number, batch in enumerate(batches):
        paths = [folder / file for row in batch["rows"] for file in _files_of(row["name"])]
        if not all(path.is_file() and path.stat().st_size for path in paths):
            segment_batch(islice(inputs.read(number * size), size), network, card, folder)


def _files_of(name: str) -> tuple[str, str, str]:
    """Mask, overlay and thumbnail of an image, in the output folder."""
    return f"masks/{name}.png", f"overlays/{name}.webp", f"thumbnails/{name}.webp"


def segment_batch(frames: Iterable[Frame], network: nn.Module, card: Card, folder: Path) -> dict | None:
    """Write masks, overlays and thumbnails of a batch; return its rows and errors, None without frames."""
    squares, waiting, rows, errors = [], [], list[dict](), []
    for frame in frames:
        if isinstance(frame.image, StudyError):
            where = f"{frame.source} {frame.name}".strip() if frame.seconds is not None else frame.source
            errors.append({"file": where, "what": frame.image.what, "fix": frame.image.fix})
            continue
        small = _shrink(frame.image, OVERLAY_SIDE, cv2.INTER_AREA)  # eight large originals would fill the memory
        if card.tile:
            rows.append(_row(frame._replace(image=small), *segment_image(frame.image, network, card), card, folder))
            continue
        square, inside = prepare(frame.image, card.image_size)
        squares.append(square)
        waiting.append((frame._replace(image=small), frame.image.shape[:2], inside))
    padded = network_logits(network, np.stack(squares)) if squares else ()
    for (frame, (height, width), inside), square in zip(waiting, padded, strict=True):
        logits = square[:, *inside]  # without the margin
        rows.append(_row(frame, classes_at_size(logits, height, width), confidence(logits), card, folder))
    return {"rows": rows, "errors": errors} if rows or errors else None


def segment_image(image: np.ndarray, network: nn.Module, card: Card) -> tuple[np.ndarray, float]:
    """Most probable class of each pixel of an image (H, W, 3), (H, W) uint8, and the confidence in them."""
    logits_of = partial(network_logits, network)
    if card.tile:
        certain = segment_tiles(image, logits_of, image_size=card.image_size, tile=card.tile)
        return certain[0], confidence_of(*certain)
    square, inside = prepare(image, card.image_size)
    logits = logits_of(square[None])[0][:, *inside]
    return classes_at_size(logits, *image.shape[:2]), confidence(logits)


def _row(frame: Frame, mask: np.ndarray, score: float, card: Card, folder: Path) -> dict:
    """Write the images of a segmented frame; its row of the table."""
    _write_images(frame, mask, folder)
    return {
        "name": frame.name,
        "source": frame.source,
        "seconds": frame.seconds,
        "width": mask.shape[1],
        "height": mask.shape[0],
        "pixels": np.bincount(mask.ravel(), minlength=len(card.class_names)).tolist(),
        "confidence": round(score, 4),
        "remark": frame.remark,
    }


def prepare(image: np.ndarray, size: int) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Fit an image into a grey square as in the VOC tree: (H, W, 3) -> (size, size, 3), and its place there."""
    small = images.fit_image(image, images.fitted_size(image.shape, size))
    return images.pad(small, size, images.MARGIN_GREY), images.inside_square(small.shape, size)


@torch.inference_mode()
def network_logits(network: nn.Module, squares: np.ndarray) -> np.ndarray:
    """(B, S, S, 3) uint8 -> (B, K, S, S) float32, on the network's device."""
    images = torch.from_numpy(squares).permute(0, 3, 1, 2).to(next(network.parameters()).device)
    return network(normalize(images)).float().cpu().numpy()


def classes_at_size(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """Most probable class at an image's own size: (K, h, w), resized bilinearly block by block -> (H, W) uint8."""
    mask = np.zeros((height, width), np.uint8)
    for top in range(0, height, BLOCK):
        above, below, weight = _neighbours(logits.shape[1], height, top)
        strip = logits[:, above] + (logits[:, below] - logits[:, above]) * weight[:, None]  # (K, BLOCK, w)
        for left in range(0, width, BLOCK):
            before, behind, weight = _neighbours(logits.shape[2], width, left)
            classes, highest = mask[top : top + BLOCK, left : left + BLOCK], None
            for number, scores in enumerate(strip):
                here = scores.take(before, axis=1)
                here += (scores.take(behind, axis=1) - here) * weight  # (BLOCK, BLOCK)
                if highest is None:
                    highest = here
                    continue
                classes[here > highest] = number
                np.maximum(highest, here, out=highest)
    return mask


def _neighbours(length: int, enlarged: int, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two values between which each place of a block lies along an axis, and the weight of the second."""
    places = (np.arange(start, min(start + BLOCK, enlarged)) + 0.5) * length / enlarged - 0.5
    places = places.clip(0, length - 1)
    first = places.astype(int)
    return first, np.minimum(first + 1, length - 1), (places - first).astype(np.float32)


def _shrink(image: np.ndarray, side: int, how: int) -> np.ndarray:
    """Scale down so that no side is longer than `side`."""
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return np.ascontiguousarray(image)
    target = tuple(max(1, round(length * scale)) for length in image.shape[1::-1])
    return cv2.resize(image, target, interpolation=how)


def _write_images(frame: Frame, mask: np.ndarray, folder: Path) -> None:
    """Write the mask at the image's own size, the overlay, and a thumbnail with image and overlay side by side."""
    assert not isinstance(frame.image, StudyError)
    shown = cv2.resize(mask, frame.image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    overlay = overlays.blend(frame.image, shown)
    pair = [_shrink(image, THUMBNAIL_SIDE, cv2.INTER_AREA) for image in (frame.image, overlay)]
    thumbnail = np.hstack([pair[0], np.full_like(pair[0][:, :GAP], 255), pair[1]])
    contents = images.palette_png(mask), _webp(overlay), _webp(thumbnail)
    for name, content in zip(_files_of(frame.name), contents, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)


def _webp(image: np.ndarray) -> bytes:
    return cv2.imencode(".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 85])[1].tobytes()


def _move(draft: Path, output: Path) -> None:
    """Replace an earlier run's files with the finished ones; an interrupted move resumes at the next call."""
    write_atomically(output / PROGRESS, b"")  # an incomplete run until the last of OUTPUTS is there
    for name in OUTPUTS:
        if (draft / name).exists():
            shutil.rmtree(output / name, ignore_errors=True)  # of a file there is nothing to remove: it is replaced
            (draft / name).replace(output / name)
