"""Segment new pictures or a video with trained weights: masks, overlays, a table, a gallery sorted by doubt.

    python -m rhseg_lib.predict data/sample --weights FILE --output reports/predictions/sample

Left in the output folder:

    masks/<name>.png       palette PNG in VOC's colours at the picture's own size; values as the weights' classes
    overlays/<name>.webp   the classes over the picture, at most 1280 pixels wide and high
    predictions.csv        a row per picture or frame: size, pixels and share of every class, confidence, abstain
    faults.csv             what could not be read, and how to fix it
    index.html             the most doubtful first, with thumbnails/
    progress.jsonl         settings, then a line per finished batch

All is made in `<output>.unfinished` and moved when whole. A run that was killed goes on there after its last whole
batch and ends with the same files as one never killed; batches always start at multiples of their size, since sums
differ in their last digits between batch sizes.

Confidence is the mean, over the classes other than background, of the network's mean probability on the pixels it
gave that class; a class given no pixel counts as 0. It is a heuristic to sort pictures by, not a calibrated
probability: the mean over all pixels does not serve, as networks are sure of background in black pictures and noise.
A model abstains where it is less sure than on 99 of 100 pictures of its own test part; its weights carry that bound.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterable
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
from rhseg_lib.evaluation.inference import confidence
from rhseg_lib.evaluation.weights import Card, read_weights
from rhseg_lib.files import write_atomically
from rhseg_lib.predict.gallery import Prediction, write_tables
from rhseg_lib.predict.inputs import Frame, PictureFiles, Video, open_source
from rhseg_lib.report import overlays
from rhseg_lib.sources import images

FORMAT = 1  # of progress.jsonl; raised when a row changes its meaning
DEFAULT_WEIGHTS = "models/deeplabv3plus_mobilenetv2_ds_ema.safetensors"
MADE = ("masks", "overlays", "thumbnails", "predictions.csv", "faults.csv", "index.html", "progress.jsonl")
OVERLAY_SIDE, THUMBNAIL_SIDE = 1280, 320  # pixels, the longer side
GAP = 4  # pixels between picture and overlay in a thumbnail
STRIP = 2**22  # numbers held at once while a picture's classes are brought to its size


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
    """Segment every picture of a source and write all the files that the module describes.

    Parameters
    ----------
    source : Path
        A folder of pictures, a picture, or a video.
    weights : Path
        A safetensors file that this study wrote.
    output : Path
        Folder for the results. Those of an earlier run stay until the new ones are whole, then give way.
    batch_size : int
        Pictures that go through the network together.
    threshold : float or None
        Pictures with less confidence are marked `abstain`; may change without segmenting again. None takes the bound
        that the weights carry.
    every : int
        Of a video, take each so many-th frame.
    subfolders : bool
        Take the pictures in subfolders too.

    Raises
    ------
    StudyError
        No source, no weights, a folder in the way, a full disk. Pictures that cannot be read end in `faults`.
    """
    if batch_size < 1 or every < 1 or not 0 <= (threshold or 0) <= 1:
        where = f"batch_size={batch_size}, every={every}, threshold={threshold}"
        raise StudyError("a setting out of range", where=where, fix="at least 1, at least 1, and from 0 to 1")
    network, card = read_weights(weights)
    threshold = card.abstain_below if threshold is None else threshold
    output = output.resolve()  # a link to another disk stays a link
    draft = output.with_name(f"{output.name}.unfinished")
    progress = output / "progress.jsonl"
    if output.is_file() or (not progress.exists() and any((output / name).exists() for name in MADE)):
        raise StudyError("files not made here are in the way", where=output, fix="move them, or take another folder")
    pictures = open_source(source, every=every, subfolders=subfolders, leave_out=(output, draft))
    settings = run_settings(pictures, weights=weights, batch_size=batch_size, every=every)
    batches = finished_batches(output, settings)
    if batches and all((output / f"masks/{row['name']}.png").exists() for batch in batches for row in batch["rows"]):
        return write_tables(output, batches, card, source=source, threshold=threshold)
    try:
        batches = finished_batches(draft, settings)
        if batches is None:
            shutil.rmtree(draft, ignore_errors=True)
            for name in MADE[:3]:
                (draft / name).mkdir(parents=True)
            write_atomically(draft / progress.name, _line(settings))
        for left in draft.rglob(".*.[0-9]*"):  # what a killed run was writing
            left.unlink()
        batches = _segment_rest(pictures, batches or [], network.to(settings["device"]), card, draft, batch_size)
        result = write_tables(draft, batches, card, source=source, threshold=threshold)
        _move(draft, output)
    except OSError as fault:
        if fault.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        fix = "free space there, then run again: finished pictures are kept"
        raise StudyError("no space left on the disk", where=draft, fix=fix) from fault
    return result


def run_settings(pictures: PictureFiles | Video, *, weights: Path, batch_size: int, every: int) -> dict:
    """What a run may go on from: the same weights, the same files untouched, the same numbers."""
    states = [(path.relative_to(pictures.folder), path.stat()) for path in pictures.files]
    files = [(str(path), state.st_size, state.st_mtime_ns) for path, state in states]
    return {
        "format": FORMAT,
        "weights": sha256(weights.read_bytes()).hexdigest(),
        "source": sha256(json.dumps(files).encode()).hexdigest(),
        "batch size": batch_size,
        "every": every,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "torch": version("torch"),
    }


def finished_batches(folder: Path, settings: dict) -> list[dict] | None:
    """The batches that a run with the same settings finished in `folder`; None if there was none."""
    path = folder / "progress.jsonl"
    if not path.exists():
        return None
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]  # a killed run may leave half a line
    if not whole:
        return None
    try:
        first, *batches = map(json.loads, whole.splitlines())
    except ValueError:
        print(f"{path.name} of the run in '{folder.name}' is damaged: starting anew")
        return None
    changed = [name for name, value in settings.items() if first.get(name) != value]
    if changed:
        print(f"{', '.join(changed)} changed since the run in '{folder.name}': starting anew")
        return None
    if whole != content:
        write_atomically(path, whole)
    return batches


def _segment_rest(
    pictures: PictureFiles | Video, batches: list[dict], network: nn.Module, card: Card, folder: Path, batch_size: int
) -> list[dict]:
    """Go on after the finished batches; each new one is a line of progress once its files are written."""
    done = sum(len(batch["rows"]) + len(batch["faults"]) for batch in batches)
    frames = pictures.read(done)
    with tqdm(total=len(pictures) or None, initial=done, desc="segmenting") as bar:
        while batch := segment_batch(islice(frames, batch_size), network, card, folder):
            with (folder / "progress.jsonl").open("ab") as file:
                file.write(_line(batch))
            batches.append(batch)
            bar.update(len(batch["rows"]) + len(batch["faults"]))
    return batches


def segment_batch(frames: Iterable[Frame], network: nn.Module, card: Card, folder: Path) -> dict | None:
    """Write masks, overlays and thumbnails of some pictures; their rows and faults, None if there are no pictures."""
    squares, waiting, rows, faults = [], [], [], []
    for frame in frames:
        if isinstance(frame.image, StudyError):
            where = f"{frame.source} {frame.name}".strip() if frame.seconds is not None else frame.source
            faults.append({"file": where, "what": frame.image.what, "fix": frame.image.fix})
            continue
        square, inside = prepare(frame.image, card.image_size)
        squares.append(square)
        small = _shrink(frame.image, OVERLAY_SIDE, cv2.INTER_AREA)  # eight large originals would fill the memory
        waiting.append((frame._replace(image=small), frame.image.shape[:2], inside))
    if not waiting:
        return {"rows": rows, "faults": faults} if faults else None
    logits = network_logits(network, np.stack(squares))
    for (frame, (height, width), inside), square in zip(waiting, logits, strict=True):
        found = square[:, *inside]
        mask = classes_at_size(found, height, width)
        _write_pictures(frame, mask, folder)
        rows.append({
            "name": frame.name,
            "source": frame.source,
            "seconds": frame.seconds,
            "width": width,
            "height": height,
            "pixels": np.bincount(mask.ravel(), minlength=len(card.class_names)).tolist(),
            "confidence": round(confidence(found), 4),
        })  # fmt: skip
    return {"rows": rows, "faults": faults}


def prepare(image: np.ndarray, size: int) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Fit a picture into a grey square as the VOC tree does: (H, W, 3) -> (size, size, 3), and where it lies there."""
    small = images.fit_image(image, images.fitted_size(image.shape, size))
    return images.pad(small, size, images.MARGIN_GREY), images.inside_square(small.shape, size)


@torch.inference_mode()
def network_logits(network: nn.Module, squares: np.ndarray) -> np.ndarray:
    """(B, S, S, 3) uint8 -> (B, K, S, S) float32, on the network's device."""
    images = torch.from_numpy(squares).permute(0, 3, 1, 2).to(next(network.parameters()).device)
    return network(normalize(images)).float().cpu().numpy()


def classes_at_size(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """Most probable class at a picture's own size: (K, h, w), enlarged bilinearly strip by strip -> (H, W) uint8."""
    rows = np.ascontiguousarray(logits.transpose(1, 2, 0))  # (h, w, K)
    last, mask = len(rows) - 1, np.empty((height, width), np.uint8)
    step = max(1, STRIP // (width * rows.shape[2]))
    for top in range(0, height, step):
        bottom = min(height, top + step)
        place = ((np.arange(top, bottom) + 0.5) * len(rows) / height - 0.5).clip(0, last)
        above = place.astype(int)
        weight = (place - above).astype(np.float32)[:, None, None]
        strip = rows[above] * (1 - weight) + rows[np.minimum(above + 1, last)] * weight  # (bottom - top, w, K)
        mask[top:bottom] = cv2.resize(strip, (width, bottom - top), interpolation=cv2.INTER_LINEAR).argmax(2)
    return mask


def _shrink(image: np.ndarray, side: int, how: int) -> np.ndarray:
    """Scale down so that no side is longer than `side`."""
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return np.ascontiguousarray(image)
    target = tuple(max(1, round(length * scale)) for length in image.shape[1::-1])
    return cv2.resize(image, target, interpolation=how)


def _write_pictures(frame: Frame, mask: np.ndarray, folder: Path) -> None:
    """Mask at the picture's size, overlay at the shown size, and for the gallery both side by side."""
    shown = cv2.resize(mask, frame.image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    overlay = overlays.blend(frame.image, shown)
    pair = [_shrink(picture, THUMBNAIL_SIDE, cv2.INTER_AREA) for picture in (frame.image, overlay)]
    files = {
        f"masks/{frame.name}.png": images.palette_png(mask),
        f"overlays/{frame.name}.webp": _webp(overlay),
        f"thumbnails/{frame.name}.webp": _webp(np.hstack([pair[0], np.full_like(pair[0][:, :GAP], 255), pair[1]])),
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)


def _webp(image: np.ndarray) -> bytes:
    return cv2.imencode(".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 85])[1].tobytes()


def _line(content: dict) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _move(draft: Path, output: Path) -> None:
    """Put finished files in the place of an earlier run's; a move that is broken off goes on with the next call."""
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / "progress.jsonl", b"")  # made here, but not whole before the last of MADE is there
    for name in MADE:
        if (draft / name).exists():
            if (output / name).is_dir():
                shutil.rmtree(output / name)
            (draft / name).replace(output / name)
    shutil.rmtree(draft)
