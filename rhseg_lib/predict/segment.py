"""Segment new images or a video with trained weights: masks, overlays, a table, a gallery sorted by confidence.

    python -m rhseg_lib.predict data/sample --weights FILE --output reports/predictions/sample

Files in the output folder:

    masks/<name>.png       palette PNG in VOC's colours at the image's own size; values are the weights' class indices
    overlays/<name>.jpg    the classes over the image, at most 1280 pixels wide and high
    predictions.csv        a row per image or frame: size, pixels and percentage of every class, confidence, abstain,
                           and which parts of the file were ignored, such as transparency or further pages
    thickness.csv          a row per tube: its slag thickness with an interval, or why there is none (`thickness`);
                           without rows if it was not measured
    errors.csv             images that could not be read, and how to fix them
    index.html             the gallery, least confident first, with thumbnails/
    progress.jsonl         settings, then a line per finished batch

`write` leaves out masks, or overlays and thumbnails. Reading, inference and writing run in parallel threads: one reads,
and as many write as the network has threads on the CPU, see `runtime.open_weights`.

All files are written to its folder `unfinished` and moved when complete. An interrupted run resumes there after its
last complete batch and ends with the same files as an uninterrupted one. Batches always start at multiples of their
size, since sums differ in their last digits between batch sizes. Weights trained on tiles are applied tile by tile
(`evaluation.tiled_inference`).

Confidence (`evaluation.inference.confidence`) sorts images; it is not a calibrated probability. Images whose confidence
is below the 1st percentile of the model's own test images are marked `abstain`; the weights store that threshold. A
wrong mask can have high confidence; a black image, for example, gets an empty mask with high confidence.
"""

import json
import os
import shutil
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Unpack

import cv2
import numpy as np
from tqdm import tqdm

from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation.full_size_inference import Fitted, fit, mirrored, network_outputs, segmented
from rhseg_lib.evaluation.weights import Card
from rhseg_lib.files import Journal, disk_errors, sole_writer, write_atomically
from rhseg_lib.predict.gallery import Prediction, write_tables
from rhseg_lib.predict.inputs import Frame, ImageFiles, Selection, Video, open_source
from rhseg_lib.predict.runtime import Runtime, open_weights
from rhseg_lib.predict.write import OVERLAY_SIDE, OVERLAYS, TABLE, THICKNESS, WRITES, files_of, shrink, write_images
from rhseg_lib.settings import Thickness
from rhseg_lib.sources.images import class_pixels
from rhseg_lib.thickness.reading import Reading, indices, read_mask

FORMAT = 3  # of progress.jsonl; raised when the meaning of a row changes
DEFAULT_WEIGHTS = "reports/reduced/runs/deeplabv3plus_mobilenetv2_ds_ema/seed0/weights.safetensors"
PROGRESS, DRAFT = "progress.jsonl", "unfinished"
FOLDERS = ("masks", "overlays", "thumbnails")
OUTPUTS = (*FOLDERS, "predictions.csv", "thickness.csv", "errors.csv", "index.html", PROGRESS)  # the last: done
MOST = 1_000_000  # upper limit of `batch_size` and of `every`


class Waiting(NamedTuple):
    """An image waiting for its logits. The original is not kept: eight large images would fill the memory."""

    row: dict  # of the table, as far as it is known
    fitted: Fitted
    shown: np.ndarray | None  # at the overlay's size; None: no overlay is wanted


def predict_source(
    source: Path,
    *,
    weights: Path,
    output: Path,
    batch_size: int = 8,
    threshold: float | None = None,
    write: tuple[str, ...] = WRITES,
    thickness: Thickness | None = None,
    **selected: Unpack[Selection],
) -> Prediction:
    """Segment every image of a source and write the files described in the module docstring.

    Parameters
    ----------
    source : Path
        A folder of images, an image, or a video.
    weights : Path
        A safetensors file that this study wrote, or its export (.onnx).
    output : Path
        Files of an earlier run there are replaced once the new ones are complete.
    batch_size : int
    threshold : float or None
        Images with lower confidence are marked `abstain`; None: the threshold in the weights, if they store one. It
        may change without segmenting again.
    write : tuple of str
        Which of "masks", "overlays" (with thumbnails) and "thickness" to write beside the "table". Thickness takes the
        network twice as long: it segments the mirror image too.
    thickness : Thickness or None
        The scale, and the classes of tube and slag; None: in tube diameters, if the weights have this study's classes.
    selected
        `every` and `subfolders` of `open_source`.

    StudyError without source or weights, with foreign files in the output folder, another run that writes it, images
    that changed meanwhile, a full disk. Images that cannot be read are listed in `errors`.
    """
    every = selected.get("every", 1)
    _check(batch_size, write, every)
    runtime = open_weights(weights)
    threshold = runtime.threshold(threshold)
    output = Path(os.path.realpath(output))  # a link to another disk stays a link
    inputs = open_source(source, leave_out=output, **selected)
    measured = measured_thickness(thickness, write, runtime.card)
    write = tuple(kind for kind in write if kind != THICKNESS or measured)
    settings = run_settings(inputs, runtime, weights=weights, batch_size=batch_size, every=every, write=write)
    settings["thickness"] = measured and measured.model_dump()
    _refuse_other_files(output)
    draft = output / DRAFT
    tables = partial(write_tables, runtime=runtime, source=source, inputs=inputs, threshold=threshold, write=write)
    with sole_writer(draft, marks=[PROGRESS]), disk_errors(draft):
        batches = Journal(output / PROGRESS).read(settings)
        if batches:
            _restore(batches, inputs, runtime, output, settings)
            return tables(output, batches)
        batches = _segment(inputs, runtime, draft, settings)
        result = tables(draft, batches)
        _move(draft, output)
    return result


def _check(batch_size: int, write: tuple[str, ...], every: int) -> None:
    """Raise StudyError for a setting out of range."""
    if not (1 <= batch_size <= MOST and 1 <= every <= MOST):
        where = f"batch_size={batch_size}, every={every}"
        raise StudyError("a setting is out of range", where=where, fix=f"give both from 1 to {MOST:,}")
    if unknown := {*write} - {*WRITES}:
        fix = f"give some of {','.join(WRITES)}"
        raise StudyError(f"unknown kind of file: {', '.join(sorted(unknown))}", where="write", fix=fix)


def _refuse_other_files(output: Path) -> None:
    """Raise StudyError if the output folder is none, or holds files that no run wrote."""
    is_other = any((output / name).exists() for name in OUTPUTS) and not (output / PROGRESS).exists()
    if is_other or (output.exists() and not output.is_dir()):
        fix = "move them, or choose another folder"
        raise StudyError(
            "the output path is a file, or a folder with files that `predict` did not write", where=output, fix=fix
        )


def measured_thickness(given: Thickness | None, write: tuple[str, ...], card: Card) -> Thickness | None:
    """How thickness is measured with some weights; None if it is not wanted, or they have no tube and slag.

    StudyError if settings were given that name a class which the weights do not have.
    """
    if THICKNESS not in write:
        return None
    settings = given or Thickness.model_validate({})
    if given is None and not settings.fits(card.class_names):
        return None
    indices(card.class_names, settings)
    return settings


def run_settings(
    inputs: ImageFiles | Video, runtime: Runtime, *, weights: Path, batch_size: int, every: int, write: tuple[str, ...]
) -> dict:
    """Settings that must be unchanged for a run to resume: weights, what runs them, files and their times, numbers."""
    return {
        "format": FORMAT,
        "weights": sha256(weights.read_bytes()).hexdigest(),
        "source": _files_digest(inputs),
        "batch size": batch_size,
        "every": every,
        "write": sorted({*write} | {TABLE}),
        "runtime": runtime.name,
        "device": runtime.device,
        "threads": runtime.threads,
    }


def _files_digest(inputs: ImageFiles | Video) -> str:
    """Changes with the name, size or time of any file; a file that is gone counts as changed."""
    states = [(path, path.stat() if path.exists() else None) for path in inputs.files]
    files = [(str(path.relative_to(inputs.folder)), of and (of.st_size, of.st_mtime_ns)) for path, of in states]
    return sha256(json.dumps(files).encode()).hexdigest()


def _segment(inputs: ImageFiles | Video, runtime: Runtime, draft: Path, settings: dict) -> list[dict]:
    """Resume after the finished batches; add a line of progress per batch once its files are written."""
    journal = Journal(draft / PROGRESS)
    batches = journal.read(settings)
    if batches is None:
        for name in FOLDERS:
            shutil.rmtree(draft / name, ignore_errors=True)
            (draft / name).mkdir()  # without an image, it replaces an earlier run's all the same
        journal.start(settings)
        batches = []
    _restore(batches, inputs, runtime, draft, settings)
    for half_written in draft.rglob(".*.[0-9]*"):  # by an interrupted run
        half_written.unlink()
    done = sum(len(batch["rows"]) + len(batch["errors"]) for batch in batches)
    with (
        tqdm(total=len(inputs) or None, initial=done, desc="segmenting") as bar,
        closing(segment_batches(inputs.read(done), runtime, draft, settings)) as finished,
    ):
        for batch in finished:
            journal.add(batch)
            batches.append(batch)
            bar.update(len(batch["rows"]) + len(batch["errors"]))
    if _files_digest(inputs) != settings["source"]:
        fix = "run again when no other program changes that folder; all images are segmented again"
        raise StudyError("files were changed while they were segmented", where=inputs.folder, fix=fix)
    return batches


def _restore(batches: list[dict], inputs: ImageFiles | Video, runtime: Runtime, folder: Path, settings: dict) -> None:
    """Segment again the finished batches of which a file in `folder` was deleted or emptied since."""
    size = settings["batch size"]
    for number, batch in enumerate(batches):
        paths = [folder / file for row in batch["rows"] for file in files_of(row["name"], settings["write"])]
        if not all(path.is_file() and path.stat().st_size for path in paths):
            frames = islice(inputs.read(number * size), size)
            for _ in segment_batches(frames, runtime, folder, settings):
                pass


def segment_batches(
    frames: Iterator[Frame], runtime: Runtime, folder: Path, settings: dict
) -> Generator[dict, None, None]:
    """Yield the rows and errors of each batch, in order, once its masks, overlays and thumbnails are written.

    While the network works on one batch, the next is read and the one before is written.
    """
    cv2.setNumThreads(1)  # parallelism comes from the threads below
    network, card, write = runtime.network, runtime.card, settings["write"]
    read = partial(read_batch, frames, settings["batch size"], card, write)
    measured = settings["thickness"] and Thickness.model_validate(settings["thickness"])
    finish = partial(finish_frame, card=card, measured=measured, folder=folder, write=write)
    rows, errors = list[Future[dict]](), list[dict]()  # of the batch before
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(runtime.threads) as writers:
        coming = reader.submit(read)
        while True:
            waiting, unread = coming.result()
            coming = reader.submit(read)
            outputs = network_outputs(network, card, [one.fitted.image for one in waiting])
            turned = [np.ascontiguousarray(one.fitted.image[:, ::-1]) for one in waiting] if measured else []
            again = network_outputs(network, card, turned) or [None] * len(waiting)
            if rows or errors:
                yield {"rows": [row.result() for row in rows], "errors": errors}
            if not waiting and not unread:
                return
            rows = [writers.submit(finish, *some) for some in zip(waiting, outputs, again, strict=True)]
            errors = unread


def read_batch(
    frames: Iterator[Frame], batch_size: int, card: Card, write: tuple[str, ...]
) -> tuple[list[Waiting], list[dict]]:
    """The next frames, fitted to the network, and the errors of those that cannot be read; both empty at the end."""
    waiting, errors = list[Waiting](), list[dict]()
    for frame in islice(frames, batch_size):
        if isinstance(frame.image, StudyError):
            where = f"{frame.source} {frame.name}".strip() if frame.seconds is not None else frame.source
            errors.append({"file": where, "what": frame.image.what, "fix": frame.image.fix})
            continue
        height, width = frame.image.shape[:2]
        row = {"name": frame.name, "source": frame.source, "seconds": frame.seconds}
        row |= {"remark": frame.remark, "width": width, "height": height}
        shown = shrink(frame.image, OVERLAY_SIDE) if OVERLAYS in write else None
        waiting.append(Waiting(row, fit(frame.image, card), shown))
    return waiting, errors


def finish_frame(
    waiting: Waiting, output, again, *, card: Card, measured: Thickness | None, folder: Path, write: tuple[str, ...]
) -> dict:
    """The row of an image, once its files are written, from what the network said of it and of its mirror image."""
    mask, score = segmented(output, waiting.fitted)
    readings = list[Reading]()
    if measured:
        other = mirrored(again, waiting.fitted)
        readings = read_mask(mask, card.class_names, measured, mirrored=other, calibration=card.thickness)
    write_images(waiting.row["name"], waiting.shown, mask, readings, folder, write)
    pixels = class_pixels(mask, len(card.class_names))
    return {**waiting.row, "pixels": pixels, "confidence": round(score, 4), "tubes": [one.row for one in readings]}


def _move(draft: Path, output: Path) -> None:
    """Replace an earlier run's files with the finished ones; an interrupted move resumes at the next call."""
    write_atomically(output / PROGRESS, b"")  # an incomplete run until the last of OUTPUTS is there
    for name in OUTPUTS:
        if (draft / name).exists():
            shutil.rmtree(output / name, ignore_errors=True)  # of a file there is nothing to remove: it is replaced
            (draft / name).replace(output / name)
    for name in FOLDERS:
        with suppress(OSError):  # not empty
            (output / name).rmdir()
