"""The scale of images as options of a command line."""

import argparse

from pydantic import ValidationError

from rhseg_lib.errors import StudyError
from rhseg_lib.settings import Thickness

NAMES = ("tube_diameter_mm", "diameter_uncertainty", "mm_per_pixel", "elevation", "level", "tube", "slag")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `read_options` reads; those that are not given keep the defaults of `Thickness`."""
    add = parser.add_argument_group("slag thickness").add_argument
    add("--tube-diameter-mm", metavar="MM", help="outer diameter of the tubes, from the drawing: the scale")
    add("--diameter-uncertainty", metavar="SHARE", help="its standard uncertainty, for wear and gunning (0.02)")
    add("--mm-per-pixel", metavar="MM", help="at the tubes, in place of their diameter")
    add("--elevation", metavar="DEGREES", help="of the line of sight, positive from above (0)")
    add("--level", metavar="SHARE", help="of the intervals (0.9)")
    add("--tube", metavar="CLASS", help="the class of bare tube (immersion_tube)")
    add("--slag", metavar="CLASS", help="the class of slag on it (slag_layer)")


def read_options(options: argparse.Namespace) -> Thickness | None:
    """The settings that were given; None without any. StudyError for a value out of range."""
    return checked({name: getattr(options, name) for name in NAMES if getattr(options, name) is not None})


def checked(given: dict[str, object]) -> Thickness | None:
    """Settings by name; None without any. StudyError for a value out of range."""
    try:
        return Thickness.model_validate(given) if given else None
    except ValidationError as error:
        first = error.errors()[0]
        name = "--" + str(first["loc"][0] if first["loc"] else "mm_per_pixel").replace("_", "-")
        raise StudyError(f"{first['msg']}, got {first['input']!r:.60}", where=name, fix="see --help") from error
