"""Procedural images of RH immersion tubes after a dip, with exact ground truth.

A scene is rendered as a camera would see it: in linear light the plant hall, the vessel, the ladle, one or
two tubes and foreground objects; then haze, bloom, blur, exposure and sensor. Geometry is in fractions of
the frame, so that (seed, index) is the same scene at every size. On a tube, `u` runs from -1 to 1 across the
visible half and `v` down the axis, zero in the middle of the slag band.
"""

import math
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from rhseg_lib.errors import StudyError
from rhseg_lib.scenes import paint
from rhseg_lib.scenes.look import draw_look, fractal_noise, gaussian_blur, thin_band
from rhseg_lib.scenes.tube import Tube, paint_tube

CLASSES = ("background", "immersion_tube", "slag_layer")


@dataclass(frozen=True)
class Scene:
    """One scene of S x S pixels with its ground truth."""

    image: np.ndarray  # (S, S, 3) uint8 RGB, before JPEG
    mask: np.ndarray  # (S, S) uint8, exact: 0 background, 1 immersion tube, 2 slag on the tube
    annotations: tuple[list[tuple[str, np.ndarray]], ...]  # per annotator: label, (N, 2) x, y; painting order
    tubes: tuple[Tube, ...]  # one or two; the second may be wholly hidden, or outside
    conditions: tuple[str, ...]  # what makes it hard to measure: "bar", "blurred", "dim", "ragged", "similar colours"
    jpeg_quality: int


def _annotate(rng, drawn, bias):
    """One annotator's polygons; `drawn` is the mask in which only thick objects hide the tube."""
    size, shapes, hand = len(drawn), [], 0.004 * fractal_noise(rng, drawn.shape, 6, 3)
    distance = partial(cv2.distanceTransform, distanceType=cv2.DIST_L2, maskSize=5)
    for label, region, least, smear in ((1, drawn > 0, 0.004, 0.006), (2, drawn == 2, 0.0015, 0.011)):
        inside = (gaussian_blur(region.astype(np.float32), smear) > 0.5).astype(np.uint8)
        seen = (distance(inside) - distance(1 - inside)) / size + bias + hand > 0
        for contour in cv2.findContours(seen.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]:
            if cv2.contourArea(contour) < least * size**2:
                continue
            clicks, tolerance = contour, 0.003 * size
            while len(clicks) > 36 or clicks is contour:
                clicks, tolerance = cv2.approxPolyDP(contour, tolerance, True), 1.2 * tolerance
            slip = rng.normal(0, 0.003 * size, (len(clicks), 2)) + rng.normal(0, 0.0018 * size, 2)
            shapes.append((CLASSES[label], np.clip(clicks[:, 0] + slip, 0, size - 1)))
    return shapes


def _conditions(look):
    holds = {
        "bar": look.beam,
        "blurred": look.blurred or look.shaken,
        "dim": look.exposure < 0.8,
        "ragged": look.roughness_r > 0.1,
        "similar colours": look.close_colours,
    }
    return tuple(name for name, it_does in holds.items() if it_does)


def check_size(seed, index, size):
    """Raise StudyError for a negative seed or index, or a size below 64 pixels."""
    if size < 64 or seed < 0 or index < 0:
        where = f"seed={seed}, index={index}, size={size}"
        raise StudyError("invalid scene parameters", where=where, fix="take size >= 64, seed >= 0 and index >= 0")


def render_scene(seed: int, index: int, size: int = 512, *, band_mm: tuple[float, float] | None = None) -> Scene:
    """Render scene `index` of the data set `seed`, `size` pixels wide and high; it is the same scene at every size.

    `band_mm` draws the nominal height of the slag band between two bounds in mm instead; its edges are then less rough.
    """
    check_size(seed, index, size)
    streams = [np.random.default_rng([seed, index, part]) for part in range(11)]  # one per part of the scene
    look = draw_look(streams[0], size)
    if band_mm:
        thin_band(look, np.random.default_rng([seed, index, 11]).uniform(*band_mm))
    tubes = [((look.band_x, look.band_y), look.radius)]
    if look.two_tubes:  # the second is placed where there is more room; it may lie wholly outside
        reach, scale = math.copysign(look.spacing_r * look.radius, 0.5 - look.band_x), look.second_scale
        second = look.band_x + reach * look.cosine, look.band_y - reach * look.sine + 0.3 * (scale - 1)
        if -0.3 * look.radius < second[0] < 1 + 0.3 * look.radius:
            tubes.append((second, look.radius * scale))

    canvas, mask = paint.paint_hall(look, streams[1]), np.zeros((size, size), np.uint8)
    if look.ladle:
        ladle, whole, front = paint.paint_ladle(look, streams[2], *tubes[0])
        paint.paint_over(canvas, whole, ladle)
    paint.paint_vessel(look, streams[3], canvas, tubes)
    painted = [paint_tube(look, streams[4 + k], canvas, mask, *tube) for k, tube in enumerate(tubes)]
    if look.ladle:
        paint.paint_over(canvas, front, ladle)
        mask[front > 0.5] = 0
    thick, hidden = paint.paint_foreground(look, streams[6], canvas)
    drawn = mask * ~thick
    mask[hidden] = 0
    paint.paint_air(look, streams[7], canvas)
    shown = [float((mask[band] == 2).mean()) if band.any() else 0.0 for _, band in painted]
    return Scene(
        image=paint.expose(look, streams[8], canvas, mask),
        mask=mask,
        annotations=(_annotate(streams[9], drawn, 0.0018), _annotate(streams[10], drawn, -0.0018)),
        tubes=tuple(
            replace(tube, visible=tube.visible * share) for (tube, _), share in zip(painted, shown, strict=True)
        ),
        conditions=_conditions(look),
        jpeg_quality=int(streams[0].integers(72, 96)),
    )
