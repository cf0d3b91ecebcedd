"""Calibrate the intervals of slag thickness on images whose thickness is known; the weights keep the calibration.

    python -m rhseg_lib.calibrate WEIGHTS FOLDER --tube-diameter-mm 1100

FOLDER holds images with thickness.csv, measured on the plant: columns image, tube, mm, with a row for each tube that
shows slag, 1 being the leftmost, and mm empty where it was not measured; a column group, such as the heat, makes alike
images count once. Or it holds images with Labelme JSON, which calibrate against the annotation. The model must not have
been trained on them.
"""

import argparse
import math
import sys
from pathlib import Path

from rhseg_lib.errors import StudyError, exit_code, show
from rhseg_lib.evaluate import open_annotations
from rhseg_lib.evaluation import thickness_own
from rhseg_lib.evaluation.weights import read_weights, write_calibration
from rhseg_lib.settings import Calibration, Thickness
from rhseg_lib.thickness.options import add_options, read_options


def calibrate(weights: Path, folder: Path, settings: Thickness) -> Calibration:
    """Calibrate weights on a folder, and store the calibration in them.

    Raises
    ------
    StudyError
        No weights, errors in the annotations or in thickness.csv, too few images, or classes without tube and slag.
    """
    network, card = read_weights(weights)
    if (folder / thickness_own.DIPS).exists():
        pairs = list(thickness_own.against_dips(folder, network, card, settings))
        against = thickness_own.AGAINST_DIPS
    else:
        source = open_annotations(folder, card.class_names[1:])
        names = list(source.names())
        pairs = list(thickness_own.against_annotations(source, names, network, card, settings))
        against = thickness_own.AGAINST_ANNOTATION
    calibration = thickness_own.calibrate(pairs, against, settings)
    write_calibration(weights, calibration)
    return calibration


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0 if the weights were calibrated."""
    parser = argparse.ArgumentParser(prog="python -m rhseg_lib.calibrate", description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, help="weights.safetensors of a run")
    parser.add_argument("folder", type=Path, help="images with thickness.csv, or with Labelme JSON")
    add_options(parser)
    options = parser.parse_args(arguments)
    return exit_code(lambda: _report(options))


def _report(options: argparse.Namespace) -> None:
    if options.weights.suffix == ".onnx":
        raise StudyError("an export cannot be calibrated", where=options.weights, fix="calibrate, then export again")
    settings = read_options(options) or Thickness.model_validate({})
    calibration = calibrate(options.weights, options.folder, settings)
    by_diameter = settings.mm_per_pixel is None
    factor = calibration.factor(settings.level, by_diameter=by_diameter)
    if math.isnan(factor):
        count = len(calibration.by_diameter if by_diameter else calibration.by_pixel)
        what = f"{count} images are too few for an interval of {100 * settings.level:g} %; those of 90 % are calibrated"
        raise StudyError(what, where=options.folder, fix="add images, or give a lower --level")
    show(f"{options.weights}: calibrated against {calibration.against}")
    show(f"intervals of {100 * settings.level:g} % are {factor:.2f} error scales wide to either side")


if __name__ == "__main__":
    sys.exit(main())
