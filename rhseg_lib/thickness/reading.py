"""From pixels to a reading: millimetres, an interval, or the reason why there is none.

A scale is the tube's diameter from its drawing, or millimetres per pixel; a view from above or below shortens lengths
along the axis by the cosine of its elevation. Without a scale a reading is in tube diameters.

A model reads an image and its mirror image; the reading is the mean, and the difference is a sign of doubt. Intervals
are split-conformal: on calibration images with known thickness, each error is divided by an error scale that grows with
the pixel, the thickness and the difference of the two readings; the order statistic ceil((n + 1) · level) of those n
scores, times the error scale of a new reading, is half the interval's width. One tube per image counts; images of one
heat are alike, and count once if they are given as a group. It holds on average over images like those of the
calibration, not for each kind of image.
"""

import math
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from rhseg_lib.errors import StudyError
from rhseg_lib.settings import Calibration, Thickness
from rhseg_lib.thickness.measure import Measurement, measure

# Parts of the error scale, weighed on the calibration scenes of six models: at 90 % coverage these give intervals
# within 2 % of the narrowest found, and cover the least covered group of scenes better than those.
PIXELS = 0.006  # of the mask's longer side, which the network sees at its size: 3 of 512 pixels
RELATIVE = 0.03  # of the thickness
DOUBT = 2.0  # of the difference of the two readings
MOST_DOUBT = 0.25  # relative difference of the two readings above which none is given
NO_MIRROR = "the mirror image shows no such tube"
DISAGREES = "the mirror image gives another thickness"
MM, DIAMETERS = "mm", "tube diameters"


@dataclass(frozen=True)
class Reading:
    """The slag thickness of one tube, in `unit`; NaN where `problem` says why there is none."""

    x: float  # pixels, the middle of the band
    y: float
    unit: str
    thickness: float = math.nan
    drip_free: float = math.nan  # without the drips below the band
    low: float = math.nan  # of the interval; NaN without a calibration
    high: float = math.nan
    level: float = math.nan  # of the interval
    error_scale: float = math.nan
    problem: str = ""
    tube: Measurement = field(default_factory=lambda: Measurement(math.nan, math.nan), compare=False)

    @property
    def row(self) -> dict:
        """The reading as JSON values, None where there is none."""
        numbers = {"thickness": self.thickness, "drip_free": self.drip_free, "low": self.low, "high": self.high}
        digits = 1 if self.unit == MM else 4
        rounded = {name: round(value, digits) if math.isfinite(value) else None for name, value in numbers.items()}
        place = {"x": round(self.x, 1), "y": round(self.y, 1)}
        rounded["level"] = self.level if math.isfinite(self.high) else None
        return {"unit": self.unit, **rounded, "abstain": bool(self.problem), "reason": self.problem, **place}


def indices(class_names: tuple[str, ...], settings: Thickness) -> tuple[int, int]:
    """Mask values of tube and slag; StudyError if the classes lack one of them."""
    for name in (settings.tube, settings.slag):
        if name not in class_names[1:]:
            what = f"no class '{name}' to measure: the classes are {', '.join(class_names[1:])}"
            fix = "name the classes of tube and slag: thickness: {tube: ..., slag: ...} or --tube and --slag"
            raise StudyError(what, where="thickness", fix=fix)
    return class_names.index(settings.tube), class_names.index(settings.slag)


def read_mask(
    mask: np.ndarray,
    class_names: tuple[str, ...],
    settings: Thickness,
    *,
    mirrored: np.ndarray | None = None,
    calibration: Calibration | None = None,
) -> list[Reading]:
    """Read every tube of a mask (H, W) of class indices, from left to right; an empty list without slag on a tube.

    `mirrored` is the mask of the mirrored image, mirrored back, (H, W). Without `calibration` there is no interval.
    """
    tube, slag = indices(class_names, settings)
    direct = measure(mask, tube=tube, slag=slag)
    others = None if mirrored is None else measure(mirrored, tube=tube, slag=slag)
    return [read_tube(one, others, max(mask.shape), settings, calibration) for one in direct]


def read_tube(
    one: Measurement,
    others: list[Measurement] | None,
    longer: int,
    settings: Thickness,
    calibration: Calibration | None = None,
) -> Reading:
    """The reading of one tube, from the tubes of the mirrored image's mask too unless they are None.

    `longer` is the longer side of the mask in pixels.
    """
    unit = MM if settings.tube_diameter_mm or settings.mm_per_pixel else DIAMETERS
    reading = Reading(one.x, one.y, unit, tube=one, problem=one.problem)
    if one.problem:
        return reading
    again = one if others is None else _same_tube(one, others)
    if again is None:
        return _abstained(reading, NO_MIRROR)
    pair = [(_scale(tube, settings), tube) for tube in (one, again)]
    first, second = (scale * tube.thickness_px for scale, tube in pair)
    value, doubt = (first + second) / 2, abs(first - second)
    if doubt > MOST_DOUBT * value:
        return _abstained(reading, DISAGREES)
    scale = (pair[0][0] + pair[1][0]) / 2
    error_scale = math.hypot(PIXELS * longer * scale, RELATIVE * value, DOUBT * doubt)
    half = _half_width(value, error_scale, settings, calibration)
    return Reading(
        one.x,
        one.y,
        unit,
        thickness=value,
        drip_free=sum(scale * tube.drip_free_px for scale, tube in pair) / 2,
        low=max(value - half, 0.0) if math.isfinite(half) else math.nan,
        high=value + half,
        level=settings.level,
        error_scale=error_scale,
        tube=one,
    )


def _abstained(reading: Reading, problem: str) -> Reading:
    return Reading(reading.x, reading.y, reading.unit, problem=problem, tube=reading.tube)


def _same_tube(one: Measurement, others: list[Measurement]) -> Measurement | None:
    """The measured tube of another mask whose axis is nearest, if it is within half a diameter."""
    near = [other for other in others if not other.problem and abs(other.x - one.x) < one.diameter_px / 2]
    return min(near, key=lambda other: abs(other.x - one.x), default=None)


def _scale(tube: Measurement, settings: Thickness) -> float:
    """Length along the axis, in the unit of the reading, per pixel."""
    per_pixel = settings.mm_per_pixel or (settings.tube_diameter_mm or 1.0) / tube.diameter_px
    return per_pixel / math.cos(math.radians(settings.elevation))


def _half_width(value: float, error_scale: float, settings: Thickness, calibration: Calibration | None) -> float:
    """Half the interval; what is not known of the diameter widens it, in quadrature, which is an approximation.

    Measured dips hold for the scale that they were read with, and their errors contain what is not known of it.
    """
    if calibration is None or (calibration.scale is not None and calibration.scale != settings.scale):
        return math.nan
    factor = calibration.factor(settings.level, by_diameter=settings.mm_per_pixel is None)
    uncertain = settings.diameter_uncertainty if settings.tube_diameter_mm and calibration.scale is None else 0.0
    return math.hypot(factor * error_scale, NormalDist().inv_cdf((1 + settings.level) / 2) * uncertain * value)
