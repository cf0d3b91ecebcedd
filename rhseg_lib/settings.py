"""Checked kinds of values, and the settings that more than a profile uses: slag thickness and its calibration."""

import math
from contextlib import suppress
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _number(value: object) -> object:
    """YAML 1.1 reads ``1e-4`` as a string; convert it to a number."""
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


def _label(value: object) -> object:
    """YAML 1.1 reads ``no`` and ``on`` as booleans, ``12`` as a number."""
    if not isinstance(value, str):
        raise ValueError("YAML does not read this as text: put the label in quotes")
    if not value.isprintable() or "$" in value or value.strip() != value or not value:
        raise ValueError("a label is printable text without '$' and without spaces around it")
    return value


Label = Annotated[str, BeforeValidator(_label)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
ImageSize = Annotated[int, Field(ge=32, le=8192)]  # pixels, side of a square


class Strict(BaseModel):
    """Reject unknown keys and wrong types; never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Thickness(Strict):
    """How slag thickness is measured; without a scale it is stated in tube diameters."""

    tube: Label = "immersion_tube"  # the class of bare tube
    slag: Label = "slag_layer"  # of slag on it
    tube_diameter_mm: Positive | None = None  # outer diameter, from the drawing
    diameter_uncertainty: Number = Field(0.02, ge=0, le=0.5)  # its standard uncertainty, relative: wear and gunning
    mm_per_pixel: Positive | None = None  # at the tubes, in the images at their own size; in place of the diameter
    elevation: Number = Field(0.0, ge=-75, le=75)  # degrees, of the line of sight above the horizontal
    level: Number = Field(0.9, ge=0.5, le=0.99)  # of the intervals
    # Fresh scenes with known thickness, for synthetic data: neither trained nor tested on.
    scenes: int = Field(300, ge=4, le=10_000)  # on which errors are stated
    calibration_scenes: int = Field(200, ge=0, le=10_000)  # which give the intervals their width
    thin_scenes: int = Field(100, ge=1, le=10_000)  # with bands of 50 to 250 mm
    scene_size: int = Field(512, ge=64, le=2048)  # pixels
    seed: Seed = 7302

    @property
    def scale(self) -> tuple[float, float] | None:
        """Tube diameter or mm per pixel, and elevation; None without a scale."""
        known = self.tube_diameter_mm or self.mm_per_pixel
        return (known, self.elevation) if known else None

    def fits(self, class_names: tuple[str, ...]) -> bool:
        """Whether the classes are those of a tube and of slag on it."""
        return {self.tube, self.slag} <= {*class_names}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.tube_diameter_mm is not None and self.mm_per_pixel is not None:
            raise ValueError("give 'tube_diameter_mm' or 'mm_per_pixel', not both")
        if self.tube == self.slag:
            raise ValueError("'tube' and 'slag' must be two classes")
        return self


ERROR_SCALE = 2  # version of the error scale of a reading (`thickness.reading`)


class Calibration(Strict):
    """Errors of slag thickness on calibration images, each divided by its error scale (`thickness.reading`)."""

    against: str = Field(min_length=1)  # where the known thickness comes from
    by_pixel: tuple[Number, ...] = ()  # ascending, with a known number of mm per pixel
    by_diameter: tuple[Number, ...] = ()  # with a known tube diameter
    # Of measured dips, whose errors contain those of the scale: tube diameter or mm per pixel, and elevation.
    scale: tuple[Number, Number] | None = None
    error_scale: int = 1  # version of the one that the errors were divided by; a calibration by an older one is void

    def factor(self, level: float, *, by_diameter: bool) -> float:
        """How many error scales wide an interval is to either side; NaN if the calibration images are too few."""
        if self.error_scale != ERROR_SCALE:
            return math.nan
        scores = self.by_diameter if by_diameter else self.by_pixel
        rank = math.ceil((len(scores) + 1) * level - 1e-9)
        return scores[rank - 1] if rank <= len(scores) else math.nan
