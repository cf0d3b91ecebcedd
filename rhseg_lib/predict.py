"""Segment new pictures or a video with trained weights: masks, overlays, a table, a gallery sorted by doubt.

    python -m rhseg_lib.predict data/sample --weights FILE --output reports/predictions/sample

Left in the output folder:

    masks/<name>.png       palette PNG in VOC's colours at the picture's own size; values as the weights' classes
    overlays/<name>.webp   the classes over the picture, at most 1280 pixels wide and high
    predictions.csv        a row per picture or frame: size, pixels and share of every class, confidence, abstain
    faults.csv             what could not be read, and how to mend it
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

import argparse
import errno
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import cv2
import numpy as np
import pandas as pd
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from torch import nn
from tqdm import tqdm

from rhseg_lib import StudyError, labelme, plots, voc
from rhseg_lib.datamodule import normalize
from rhseg_lib.evaluation import confidence
from rhseg_lib.files import write_atomically
from rhseg_lib.labelme import PICTURE_SUFFIXES
from rhseg_lib.weights import Card, read_weights

FORMAT = 1  # of progress.jsonl; raised when a row changes its meaning
DEFAULT_WEIGHTS = "models/deeplabv3plus_mobilenetv2_ds_ema.safetensors"
VIDEOS = (".avi", ".mkv", ".mov", ".mp4")
MADE = ("masks", "overlays", "thumbnails", "predictions.csv", "faults.csv", "index.html", "progress.jsonl")
OVERLAY_SIDE, THUMBNAIL_SIDE = 1280, 320  # pixels, the longer side
GAP = 4  # pixels between picture and overlay in a thumbnail
STRIP = 2**22  # numbers held at once while a picture's classes are brought to its size
SHOWN = 500  # pictures in the gallery
COPY_AGAIN = "copy it again from its source"


class Frame(NamedTuple):
    """One picture of a source, or why it cannot be had."""

    name: str  # of the files made from it
    source: str
    seconds: float | None  # from the start of a video
    image: np.ndarray | StudyError  # (H, W, 3) uint8 RGB


class Prediction(NamedTuple):
    """What a run left in its output folder."""

    table: pd.DataFrame  # predictions.csv
    faults: pd.DataFrame  # faults.csv
    card: Card


@dataclass(frozen=True)
class PictureFiles:
    """Pictures in files; their names are their paths in `folder`, without suffix where those differ without."""

    folder: Path
    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, start: int) -> Iterator[Frame]:
        """Every picture from number `start` on."""
        paths = [path.relative_to(self.folder) for path in self.files]
        bare = Counter(path.with_suffix("").as_posix().casefold() for path in paths)
        alike = max(bare.values()) > 1
        for file, path in islice(zip(self.files, paths, strict=True), start, None):
            name = path.as_posix() if alike else path.with_suffix("").as_posix()
            source = path.as_posix().encode(errors="surrogateescape").decode(errors="replace")
            try:
                if source != path.as_posix() or max(len(part.encode()) for part in path.parts) > 200:
                    raise StudyError("its name is too long or not UTF-8", where=file, mend="rename it")
                yield Frame(name, source, None, labelme.read_picture(file))
            except StudyError as fault:
                yield Frame(name, source, None, fault)


@dataclass(frozen=True)
class Video:
    """Every so many frames of a video, as OpenCV decodes them in order; frames it cannot decode are not numbered."""

    path: Path
    every: int

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise StudyError("not a video, or broken or cut off", where=self.path, mend=COPY_AGAIN)
        return capture

    def frames(self) -> int:
        """How many frames the file announces; 0 if it does not say."""
        return max(0, int(self.open().get(cv2.CAP_PROP_FRAME_COUNT)))

    def __len__(self) -> int:
        return -(-self.frames() // self.every)

    def read(self, start: int) -> Iterator[Frame]:
        """Every chosen frame from number `start` on; those before are passed by, as seeking is not exact."""
        capture, source, number = self.open(), self.path.name, 0
        while capture.grab():
            if number % self.every == 0 and number // self.every >= start:
                whole, image = capture.retrieve()
                fault = StudyError("the frame cannot be decoded", where=self.path, mend=COPY_AGAIN)
                seconds = round(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, 3)
                yield Frame(f"frame_{number:06}", source, seconds, image[..., ::-1] if whole else fault)
            number += 1
        if number < self.frames() and -(-number // self.every) >= start:
            what = f"the file announces {self.frames()} frames, {number} could be read"
            yield Frame("", source, None, StudyError(what, where=self.path, mend=COPY_AGAIN))


def open_source(
    source: Path, *, every: int = 1, subfolders: bool = False, leave_out: tuple[Path, ...] = ()
) -> PictureFiles | Video:
    """A picture, a folder of pictures or a video; files below the folders `leave_out` are no sources.

    Raises
    ------
    StudyError
        Nothing there, nothing that can be read, or a video that cannot be opened.
    """
    kind = source.suffix.lower()
    if source.is_file() and kind in VIDEOS:
        video = Video(source, every)
        video.open()
        return video
    if source.is_file() and kind in PICTURE_SUFFIXES:
        return PictureFiles(source.parent, (source,))
    if not source.is_dir():
        what = f"neither a picture nor a video: '{kind}'" if source.is_file() else "the source is not there"
        mend = f"give a folder of pictures, a picture ({', '.join(PICTURE_SUFFIXES)}) or a video ({', '.join(VIDEOS)})"
        raise StudyError(what, where=source, mend=mend)
    found = sorted(
        path
        for path in source.rglob("*")
        if path.suffix.lower() in PICTURE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
        and not any(path.resolve().is_relative_to(folder) for folder in leave_out)
    )
    files = tuple(path for path in found if subfolders or path.parent == source)
    left = len(found) - len(files)
    below = f"; {left} in subfolders, which the setting `subfolders` (--subfolders) takes too" if left else ""
    if not files:
        mend = f"give a folder that holds {', '.join(PICTURE_SUFFIXES)}; a video is given by its own path"
        raise StudyError(f"no pictures in the folder{below}", where=source, mend=mend)
    if below:
        print(f"{source}: {len(files)} pictures{below}")
    return PictureFiles(source, files)


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
        raise StudyError("a setting out of range", where=where, mend="at least 1, at least 1, and from 0 to 1")
    network, card = read_weights(weights)
    threshold = card.abstain_below if threshold is None else threshold
    output = output.resolve()  # a link to another disk stays a link
    draft = output.with_name(f"{output.name}.unfinished")
    progress = output / "progress.jsonl"
    if output.is_file() or (not progress.exists() and any((output / name).exists() for name in MADE)):
        raise StudyError("files not made here are in the way", where=output, mend="move them, or take another folder")
    pictures = open_source(source, every=every, subfolders=subfolders, leave_out=(output, draft))
    settings = run_settings(pictures, weights=weights, batch_size=batch_size, every=every)
    batches = finished_batches(output, settings)
    if batches and all((output / f"masks/{row['name']}.png").exists() for batch in batches for row in batch["rows"]):
        return _write_tables(output, batches, card, source=source, threshold=threshold)
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
        result = _write_tables(draft, batches, card, source=source, threshold=threshold)
        _move(draft, output)
    except OSError as fault:
        if fault.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        mend = "free space there, then run again: finished pictures are kept"
        raise StudyError("no space left on the disk", where=draft, mend=mend) from fault
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
            faults.append({"file": where, "what": frame.image.what, "mend": frame.image.mend})
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
    small = voc.fit_image(image, voc.fitted_size(image.shape, size))
    return voc.pad(small, size, voc.MARGIN_GREY), voc.inside_square(small.shape, size)


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
    overlay = plots.blend(frame.image, shown)
    pair = [_shrink(picture, THUMBNAIL_SIDE, cv2.INTER_AREA) for picture in (frame.image, overlay)]
    files = {
        f"masks/{frame.name}.png": voc.palette_png(mask),
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


def _write_tables(folder: Path, batches: list[dict], card: Card, *, source: Path, threshold: float) -> Prediction:
    """The two tables and the gallery, from the lines of progress."""
    rows = [row for batch in batches for row in batch["rows"]]
    columns = ["name", "source", "seconds", "width", "height", "pixels", "confidence"]
    table = pd.DataFrame(rows, columns=columns).astype({"seconds": float})
    pixels = np.array([row["pixels"] for row in rows]).reshape(len(rows), len(card.class_names))
    counted = table.pop("pixels"), table.pop("confidence")
    for index, name in enumerate(card.class_names):
        table[f"{name}_pixels"] = pixels[:, index]
        table[f"{name}_percent"] = (100 * pixels[:, index] / (table["width"] * table["height"])).round(4)
    table["confidence"] = counted[1]
    table["abstain"] = table["confidence"] < threshold
    faults = pd.DataFrame([f for batch in batches for f in batch["faults"]], columns=["file", "what", "mend"])
    write_atomically(folder / "predictions.csv", table.to_csv(index=False).encode())
    write_atomically(folder / "faults.csv", faults.to_csv(index=False).encode())
    result = Prediction(table, faults, card)
    write_atomically(folder / "index.html", gallery(result, title=source.resolve().name, threshold=threshold).encode())
    return result


def gallery(result: Prediction, *, title: str, threshold: float) -> str:
    """The page of a run: the most doubtful pictures first, at most `SHOWN`; it loads nothing but its own files."""
    table, faults, card = result
    classes = [
        {
            "name": name,
            "colour": plots.CLASS_COLOURS[index] if index < len(plots.CLASS_COLOURS) else None,
            "spread": table.loc[~table["abstain"], f"{name}_percent"].agg(["median", "min", "max"]).to_dict(),
        }
        for index, name in enumerate(card.class_names)
    ]
    shown = table.sort_values(["confidence", "name"]).head(SHOWN).to_dict("records")
    for row in shown:
        row["overlay"], row["thumbnail"] = (quote(f"{kind}/{row['name']}.webp") for kind in ("overlays", "thumbnails"))
        row["shares"] = [{**kind, "percent": row[f"{kind['name']}_percent"]} for kind in classes[1:]]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("gallery/index.html.j2").render(
        title=title,
        card=card,
        classes=classes,
        shown=shown,
        pictures=len(table),
        abstained=int(table["abstain"].sum()),
        faults=faults.head(SHOWN).to_dict("records"),
        unread=len(faults),
        threshold=threshold,
        chart=plots.data_uri(plots.shares_over_time(table, card.class_names)) if table["seconds"].count() > 1 else None,
    )


def most_doubtful(table: pd.DataFrame, folder: Path, count: int) -> tuple[list[np.ndarray], list[str]]:
    """The pictures with least confidence, each beside its overlay, and a title for each."""
    rows = table.sort_values(["confidence", "name"]).head(count)
    pictures = [np.asarray(Image.open(folder / f"thumbnails/{name}.webp").convert("RGB")) for name in rows["name"]]
    return pictures, [f"{row.name[-40:]}: {row.confidence:.2f}" for row in rows.itertuples(index=False)]


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


def main(arguments: list[str] | None = None) -> int:
    """Command line: 0 when every picture was segmented, 1 with the faults on standard error."""
    parser = argparse.ArgumentParser(prog="python -m rhseg_lib.predict", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a folder of pictures, a picture, or a video")
    parser.add_argument("--weights", type=Path, default=Path(DEFAULT_WEIGHTS), metavar="FILE")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="pictures at once (8)")
    parser.add_argument("--threshold", type=float, help="least confidence (the bound that the weights carry)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of a video, take each N-th frame (1)")
    parser.add_argument("--subfolders", action="store_true", help="take the pictures in subfolders too")
    given = vars(parser.parse_args(arguments))
    try:
        table, faults, _ = predict_source(**given)
    except StudyError as fault:
        print(f"\nerror: {fault}\n", file=sys.stderr)
        return 1
    print(f"{len(table)} segmented, {table['abstain'].sum()} of them to be looked at: {given['output'] / 'index.html'}")
    if len(faults):
        lines = "".join(f"\n  {fault.file}: {fault.what} -> {fault.mend}" for fault in faults.head(50).itertuples())
        more = "\n  and more" if len(faults) > 50 else ""
        path = given["output"] / "faults.csv"
        print(f"\nerror: {len(faults)} could not be read (all in {path}):{lines}{more}\n", file=sys.stderr)
    return int(len(faults) > 0)


if __name__ == "__main__":
    sys.exit(main())
