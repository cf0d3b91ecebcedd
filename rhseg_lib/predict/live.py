"""Segment a camera, a stream or a video as it comes: one line of JSON per segmented frame, and no files.

    python -m rhseg_lib.predict 0 --live --weights model.onnx

The latest frame wins: those that come while the network is busy are skipped, so that a line is never older than the
work on one frame. A video is played at its own speed. Keys of a line:

    frame, seconds      number of the frame, and its time since the start
    skipped             frames since the line before that were not segmented
    width, height       of the frame, pixels
    pixels, percent     of every class, by name
    confidence, abstain see `segment`
    tubes               slag thickness of each, if its scale is given: see `thickness.reading`
    milliseconds        from the arrival of the frame to this line
"""

import time
from collections.abc import Generator, Iterator
from pathlib import Path
from threading import Condition, Thread
from typing import NamedTuple

import cv2
import numpy as np

from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation.full_size_inference import segment_image
from rhseg_lib.predict.inputs import Video
from rhseg_lib.predict.runtime import Runtime, open_weights
from rhseg_lib.settings import Thickness
from rhseg_lib.sources.images import class_pixels
from rhseg_lib.thickness.reading import indices, read_mask


class Arrived(NamedTuple):
    """A frame as it came."""

    number: int
    seconds: float  # since the start
    image: np.ndarray  # (H, W, 3) uint8 BGR
    at: float  # time.monotonic()


class Latest:
    """Frames of a capture, read in a thread of their own; of those not taken yet, only the newest is kept."""

    def __init__(self, capture: cv2.VideoCapture, *, own_speed: bool) -> None:
        self.capture, self.own_speed = capture, own_speed
        self.frame: Arrived | None = None
        self.changed, self.ended = Condition(), False

    def read(self) -> None:
        """Read to the end, or until `ended` is set."""
        number, start = 0, time.monotonic()
        try:
            while not self.ended and self.capture.grab():
                seconds = time.monotonic() - start
                if self.own_speed:
                    seconds = self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                    time.sleep(max(0, start + seconds - time.monotonic()))
                decoded, image = self.capture.retrieve()
                if decoded:
                    with self.changed:
                        self.frame = Arrived(number, round(seconds, 3), image, time.monotonic())
                        self.changed.notify()
                number += 1
        finally:
            with self.changed:
                self.ended = True
                self.changed.notify()

    def frames(self) -> Generator[Arrived, None, None]:
        """Yield the newest frame whenever the last one is done."""
        thread = Thread(target=self.read, daemon=True)
        thread.start()
        try:
            while frame := self.take():
                yield frame
        finally:
            self.ended = True
            thread.join(timeout=1)  # a camera that hangs must not keep the program

    def take(self) -> Arrived | None:
        """Wait for a frame that was not taken yet; None at the end."""
        with self.changed:
            self.changed.wait_for(lambda: self.frame is not None or self.ended)
            frame, self.frame = self.frame, None
        return frame


def segment_live(
    source: str, *, weights: Path, threshold: float | None = None, thickness: Thickness | None = None
) -> Iterator[dict]:
    """Yield what the module's docstring lists for each segmented frame, until a video ends.

    `source` is the number of a camera, the address of a stream (rtsp://...), or the path of a video; for `weights` and
    `threshold` see `segment.predict_source`. Without `thickness` settings none is measured: it takes the network twice
    as long. StudyError if there are no weights or no such source, and when a camera or stream ends.
    """
    runtime = open_weights(weights)
    threshold = runtime.threshold(threshold)
    if thickness is not None:
        indices(runtime.card.class_names, thickness)  # StudyError if the weights have no tube and slag
    is_file = not source.isdecimal() and "://" not in source
    cv2.setNumThreads(runtime.threads)
    expected = 0
    for frame in Latest(open_capture(source, is_file=is_file), own_speed=is_file).frames():
        yield {**line(frame, runtime, threshold, thickness), "skipped": frame.number - expected}
        expected = frame.number + 1
    if not is_file:
        raise StudyError("the camera or stream has ended", where=source, fix="check its cable or its server")


def open_capture(source: str, *, is_file: bool) -> cv2.VideoCapture:
    """Open a camera, a stream or a video."""
    if is_file:
        if not Path(source).is_file():
            fix = "give the number of a camera, the address of a stream, or the path of a video"
            raise StudyError("no such video", where=source, fix=fix)
        return Video(Path(source), every=1).open()
    capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    if not capture.isOpened():
        fix = "check that it is connected, and that no other program uses it"
        raise StudyError("the camera or stream cannot be opened", where=source, fix=fix)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return capture


def line(frame: Arrived, runtime: Runtime, threshold: float | None, thickness: Thickness | None = None) -> dict:
    """What is known of one frame, without its place among the others."""
    height, width = frame.image.shape[:2]
    names = runtime.card.class_names
    image = cv2.cvtColor(frame.image, cv2.COLOR_BGR2RGB)
    mask, score = segment_image(image, runtime.network, runtime.card)
    tubes = {} if thickness is None else {"tubes": read_tubes(image, mask, runtime, thickness)}
    pixels = dict(zip(names, class_pixels(mask, len(names)), strict=True))
    return {
        "frame": frame.number,
        "seconds": frame.seconds,
        "width": width,
        "height": height,
        "pixels": pixels,
        "percent": {name: round(100 * count / (width * height), 4) for name, count in pixels.items()},
        "confidence": round(score, 4),
        "abstain": round(score, 4) < (threshold or 0),
        **tubes,
        "milliseconds": round(1000 * (time.monotonic() - frame.at), 1),
    }


def read_tubes(image: np.ndarray, mask: np.ndarray, runtime: Runtime, thickness: Thickness) -> list[dict]:
    """The slag thickness of each tube of a frame, from its mask and that of its mirror image."""
    turned = np.ascontiguousarray(image[:, ::-1])
    other = segment_image(turned, runtime.network, runtime.card).mask[:, ::-1]
    names, calibration = runtime.card.class_names, runtime.card.thickness
    return [one.row for one in read_mask(mask, names, thickness, mirrored=other, calibration=calibration)]
