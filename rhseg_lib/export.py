"""Export trained weights to one ONNX file, which runs without PyTorch: in `rhseg_lib.predict`, ONNX Runtime, OpenVINO.

    python -m rhseg_lib.export WEIGHTS --output FILE.onnx
    python -m rhseg_lib.export WEIGHTS --output FILE.onnx --int8 --calibrate FOLDER

Input `images`: RGB (B, H, W, 3) uint8, as a camera gives it, of any batch and size; normalisation is in the graph.
Output `logits`: (B, K, H, W) float32. The card of the weights is in the file's metadata, under `card`.

With `--int8`, weights and activations have 8 bits: a third of the file, and on a CPU with VNNI five to six times as
fast as PyTorch. The range of each activation is the one it has on the images of FOLDER: images like those to be
predicted, a few hundred. Activations are unsigned: with signed ones, OpenVINO loses points of mIoU.

The file is compared with the weights before it gets its name; beyond a bound nothing is written. Where FOLDER is
annotated (Labelme JSON or a VOC tree), int8 must keep mIoU within half a point.
"""

import argparse
import logging
import sys
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from rhseg_lib.dataset.batches import mean_and_std
from rhseg_lib.errors import StudyError, exit_code, show
from rhseg_lib.evaluate import score, spread
from rhseg_lib.evaluation import statistics
from rhseg_lib.evaluation.full_size_inference import network_logits, prepare
from rhseg_lib.evaluation.weights import Card, read_weights
from rhseg_lib.files import write_atomically
from rhseg_lib.models.fused_decoder import lightened
from rhseg_lib.predict.inputs import Video, open_source
from rhseg_lib.predict.runtime import INPUT, INSTALL, OUTPUT, PRECISION, OnnxNetwork, usable_cores
from rhseg_lib.profile import Data
from rhseg_lib.sources.voc_folder import IMAGES

PACKAGES = ("onnx", "onnxruntime", "onnxscript")  # imported where they are needed, as they are optional
SAMPLE = Path("data/sample")
CALIBRATION, FEW = 300, 100  # images at most; below the second, a warning
COMPARED, SCORED = 20, 500  # images on which logits and mIoU of the file and the weights are compared
# Of float32: largest difference of a logit, relative to the largest logit; of int8: share of pixels of another class.
LOGIT_BOUND, PIXEL_BOUND = 1e-4, 0.02
LOSS_BOUND = 0.005  # of mIoU, int8
SIDES = {"min": 16, "max": 8192}  # pixels


class Exported(nn.Module):
    """A network with its normalisation, `batches.normalize` row by row of pixels.

    Runtimes push the permutation behind the normalisation, and colour by colour it would take an eighth of the time.
    """

    mean: Tensor  # (3,)
    per_std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        mean, std = mean_and_std()
        self.register_buffer("mean", mean.flatten())
        self.register_buffer("per_std", 1 / std.flatten())

    def forward(self, images: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 RGB -> logits (B, K, H, W)."""
        width = images.shape[2]
        rows = images.flatten(2).float()  # (B, H, W * 3)
        rows = (rows - self.mean.repeat(width)) * self.per_std.repeat(width)
        return self.network(rows.unflatten(2, (width, 3)).permute(0, 3, 1, 2))  # (B, 3, H, W)


def export(
    weights: Path, output: Path, *, int8: bool = False, folder: Path = SAMPLE, float32: Path | None = None
) -> dict[str, float]:
    """Write `output` and return how it differs from the weights.

    Parameters
    ----------
    weights : Path
        A safetensors file that this study wrote.
    output : Path
        Its name ends in .onnx; an earlier file is replaced.
    int8 : bool
        Quantise, with the ranges that activations have on the images of `folder`.
    folder : Path
        Real images, on which the file is also compared with the weights; annotated or not.
    float32 : Path or None
        An export of the same weights in float32, to quantise: else it is made first, in a quarter of a minute.

    Returns
    -------
    dict of str to float
        See `compare`. StudyError without weights, images, or the packages of the extra `export`, and if the file
        differs beyond a bound: then nothing is written.
    """
    if output.suffix != ".onnx":
        raise StudyError("the output is not named as an ONNX file", where=output, fix="end its name in .onnx")
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise StudyError(f"the export needs {', '.join(missing)}", where="installed packages", fix=INSTALL)
    network, card = read_weights(weights)
    squares = read_squares(folder, card)
    if int8 and len(squares) < FEW:
        show(f"note: {len(squares)} images to calibrate with; {FEW} or more like those to be predicted are better")
    with TemporaryDirectory() as draft:
        path = Path(draft) / "float32.onnx"
        if float32:
            copyfile(float32, path)
        else:
            write_graph(lightened(network), path)
        if int8:
            path = quantise(path, squares)
        mark(path, {"card": card.model_dump_json(exclude_unset=True), PRECISION: "int8" if int8 else "float32"})
        found = compare(network, card, path, squares[:COMPARED], folder)
        write_atomically(output, path.read_bytes())
    return found


def read_squares(folder: Path, card: Card) -> np.ndarray:
    """At most `CALIBRATION` images, evenly spread over a folder, as the network sees them: (N, S, S, 3) uint8."""
    is_tree = (folder / IMAGES).is_dir()
    inputs = open_source(folder / IMAGES if is_tree else folder, subfolders=is_tree)
    if isinstance(inputs, Video):
        raise StudyError("a video, where a folder of images is needed", where=folder, fix="give some of its frames")
    files = tuple(inputs.files[index] for index in spread(len(inputs), CALIBRATION))
    squares = []
    for frame in replace(inputs, files=files).read(0):
        if isinstance(frame.image, StudyError):
            raise frame.image
        squares.append(prepare(frame.image, card.image_size)[0])
    return np.stack(squares)


def write_graph(network: nn.Module, path: Path) -> None:
    """Write a network as ONNX in float32, with its batch and image size left open."""
    sizes = {0: torch.export.Dim("batch", min=1), **{i: torch.export.Dim(n, **SIDES) for i, n in ((1, "h"), (2, "w"))}}
    example = torch.zeros((2, 96, 128, 3), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's own parts
        program = torch.onnx.export(
            Exported(network).eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=(sizes,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None
    program.save(path)


def quantise(path: Path, squares: np.ndarray) -> Path:
    """Write a file beside `path` whose weights (signed, per channel) and activations (unsigned) have 8 bits."""
    from onnxruntime import quantization

    class Calibration(quantization.CalibrationDataReader):
        images = iter(squares)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(({INPUT: square[None]} for square in self.images), None)

    logging.disable(logging.WARNING)  # of the root logger, about the graph that torch wrote
    try:
        quantization.quantize_static(
            path,
            target := path.with_name("int8.onnx"),
            Calibration(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
    finally:
        logging.disable(logging.NOTSET)
    return target


def mark(path: Path, metadata: dict[str, str]) -> None:
    """Put metadata into an ONNX file."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


def compare(network: nn.Module, card: Card, path: Path, squares: np.ndarray, folder: Path) -> dict[str, float]:
    """How a file differs from the network it was made of; StudyError beyond a bound.

    `logit_difference` is the largest; `pixels_differ` the share of pixels of another class; with annotations and int8
    also `miou_loss`, a fraction of 1, and the ends of its 95 % interval, `low` and `high` (NaN: too few images).
    """
    exported = OnnxNetwork(path, usable_cores())
    int8 = exported.metadata[PRECISION] == "int8"
    pairs = [[network_logits(way, square[None]) for way in (network, exported)] for square in squares]
    largest = max(float(np.abs(logits).max()) for logits, _ in pairs)
    found = {
        "logit_difference": max(float(np.abs(logits - others).max()) for logits, others in pairs),
        "pixels_differ": float(np.mean([logits.argmax(1) != others.argmax(1) for logits, others in pairs])),
    }
    if int8 and is_annotated(folder, card):
        first, second = (score(way, card, folder, most=SCORED)[1][None] for way in (network, exported))
        loss = statistics.difference(first, second, these_weights=True)
        found |= {"miou_loss": loss.value, **dict(zip(("low", "high"), loss.interval, strict=True))}
    problems = {
        f"a logit differs by {found['logit_difference']:.2g}": not int8
        and not found["logit_difference"] <= LOGIT_BOUND * largest,
        f"{found['pixels_differ']:.1%} of the pixels get another class": found["pixels_differ"] > PIXEL_BOUND,
        f"int8 loses {100 * found.get('miou_loss', 0):.2f} points of mIoU": found.get("miou_loss", 0) > LOSS_BOUND,
    }
    if exceeded := [what for what, is_so in problems.items() if is_so]:
        fix = "calibrate with more images like those to be predicted, or leave out --int8" if int8 else "report it"
        raise StudyError(f"the export is not the same network: {'; '.join(exceeded)}", where=folder, fix=fix)
    return found


def is_annotated(folder: Path, card: Card) -> bool:
    """Whether a folder can be scored; the sample is annotated with this study's classes, not with one's own."""
    if folder == SAMPLE and card.class_names != ("background", *Data.model_fields["classes"].default):
        return False
    return (folder / IMAGES).is_dir() or any(folder.glob("*.json"))


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0 if the file was written."""
    parser = argparse.ArgumentParser(prog="python -m rhseg_lib.export", description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, help="weights.safetensors of a run")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.onnx")
    parser.add_argument("--int8", action="store_true", help="weights and activations of 8 bits")
    parser.add_argument("--calibrate", type=Path, default=SAMPLE, metavar="FOLDER", help=f"real images ({SAMPLE})")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _report(options.weights, options.output, options.int8, options.calibrate))


def _report(weights: Path, output: Path, int8: bool, folder: Path) -> None:
    found = export(weights, output, int8=int8, folder=folder)
    show(
        f"{output}: {output.stat().st_size / 1e6:.1f} MB; on images of {folder}, logits differ by at most "
        f"{found['logit_difference']:.2g}, and {found['pixels_differ']:.3%} of the pixels get another class"
    )
    if "miou_loss" in found:
        change, low, high = (-100 * found[name] for name in ("miou_loss", "high", "low"))
        interval = "too few images for an interval" if np.isnan(low) else f"95 % interval {low:+.2f} to {high:+.2f}"
        show(f"int8 changes mIoU by {change:+.2f} points ({interval})")
    elif int8:
        show("mIoU was not measured: there are no annotations of the weights' classes")


if __name__ == "__main__":
    sys.exit(main())
