"""Procedural photographs of RH immersion tubes after a dip, with exact truth.

A scene is rendered as a camera would see it: in linear light the plant hall, the vessel, the ladle, one or
two tubes and what hangs in front; then haze, bloom, blur, exposure and sensor. Geometry is in fractions of
the frame, so that (seed, index) is the same scene at every size. On a tube, `u` runs from -1 to 1 across the
visible half and `v` down the axis, zero in the middle of the slag band.
"""

import io
import json
import math
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from rhseg_lib import StudyError
from rhseg_lib.files import write_atomically
from rhseg_lib.labelme import write_annotation

CLASSES = ("background", "immersion_tube", "slag_layer")
PALETTE = (0, 0, 0, 128, 0, 0, 0, 128, 0)

# What varies, uniform between two values. Lengths are in frames, those in `_r` in tube radii; `log_` is a
# power of two; temperatures are in 1000 K, angles in degrees.
# fmt: off
RANGES = {
    "log_radius": (-3.1, -1.7), "band_x": (0.28, 0.72), "band_y": (0.36, 0.74), "roll": (-11, 11),
    "tilt": (-0.32, 0.3),  # of the rim's ellipse, height over width; positive when seen from above
    "taper": (-0.16, 0.12), "spacing_r": (2.35, 3.2), "second_scale": (0.78, 1.08),
    "diameter_mm": (850, 1350), "dry_r": (1.2, 6), "steel_r": (0.35, 2.0), "band_height_r": (0.4, 1.2),
    "castable_relief": (0.25, 0.9), "roughness_r": (0.03, 0.14), "softness_r": (0.01, 0.06),
    "drip_r": (0.1, 0.7), "flaked": (0.0, 0.14),  # share of the band
    "slag_relief": (0.6, 1.6), "log_slag_tone": (-2.0, 0.4), "slag_hue": (0.2, 1.0),  # against the refractory
    "slag_heat": (0.6, 1.2), "steel_heat": (0.8, 1.36), "steel_gradient": (-0.12, 0.2),
    "log_refractory_tone": (-0.3, 0.9), "refractory_warmth": (-0.2, 1),
    "log_key": (-1.4, 0.8), "key_azimuth": (-75, 75), "log_hall": (-2.3, -0.6),  # lamps or flash; diffuse
    "log_bath": (-3.5, 0.6), "bath_heat": (0.95, 1.5), "log_hall_tone": (-3.6, -0.8), "hall_haze": (0.0, 0.2),
    "veil": (0.0, 0.16), "steam": (0.25, 0.7), "bloom": (0.03, 0.3), "vignette": (0.0, 0.55),
    "log_exposure": (-0.55, 0.6), "white_balance": (-0.15, 0.15), "contrast": (0.85, 1.4),
    "defocus": (0.0, 0.002), "motion": (-0.009, 0.009), "noise": (0.004, 0.028),
}
CHANCES = {
    "two_tubes": 0.5, "close_colours": 0.25, "ladle": 0.7, "wall": 0.5, "crust": 0.5, "glow": 0.3,
    "railing": 0.4, "cables": 0.35, "beam": 0.2, "steamy": 0.25, "sparks": 0.2, "blurred": 0.35,
    "shaken": 0.2,
}
REGIMES = {  # chance of the plant's situation, and the ranges it narrows
    "any": (0.4, {}),
    "hot": (0.18, {"steel_heat": (1.1, 1.36), "slag_heat": (0.85, 1.2), "log_key": (-1.2, 0)}),
    "cool": (0.14, {"steel_heat": (0.6, 0.9), "slag_heat": (0.6, 0.95), "bath_heat": (0.7, 1.05)}),
    "hazy": (0.12, {"hall_haze": (0.3, 0.65), "veil": (0.12, 0.32), "log_hall_tone": (-1.5, 0.2)}),
    "flash": (0.16, {"log_key": (0.3, 1.5), "key_azimuth": (-15, 15), "steel_heat": (0.6, 1.0)}),
}
# fmt: on


@dataclass(frozen=True)
class Scene:
    """One scene of S x S pixels with its truth; what belongs to a tube is one value per tube."""

    image: np.ndarray  # (S, S, 3) uint8 RGB, before JPEG
    mask: np.ndarray  # (S, S) uint8, exact: 0 background, 1 immersion tube, 2 slag on the tube
    annotations: tuple[list[tuple[str, np.ndarray]], ...]  # per annotator: label, (N, 2) x, y; painting order
    mm_per_pixel: tuple[float, ...]  # at the tube's axis, at this image size
    thickness_mm: tuple[float, ...]  # mean height of the slag band along the axis, over the visible width
    jpeg_quality: int


def _draw_look(rng, size):
    """All that varies in a scene, with the frame's coordinates."""
    odds, narrowed = zip(*REGIMES.values(), strict=True)
    regime = narrowed[rng.choice(len(odds), p=odds)]
    drawn = {name: rng.uniform(*regime.get(name, span)) for name, span in RANGES.items()}
    drawn |= {name.removeprefix("log_"): 2**value for name, value in drawn.items() if name.startswith("log_")}
    look = SimpleNamespace(**drawn, **{name: rng.random() < chance for name, chance in CHANCES.items()})
    if look.close_colours:
        look.slag_hue, look.log_slag_tone = 0.2 * look.slag_hue, 0.4 * look.log_slag_tone
        look.slag_heat = look.steel_heat + rng.choice((-1, 1)) * rng.uniform(0.04, 0.1)
    look.slag_tone = 2 ** (look.log_slag_tone + math.copysign(0.3, look.log_slag_tone))  # always told apart
    band = np.clip(look.band_height_r, 0.045 / look.radius, 0.25 / look.radius)
    look.half = float(band) / 2  # height of the band above and below its middle, in radii
    grey, warm, slag = np.array(((0.3, 0.3, 0.3), (0.4, 0.29, 0.2), (0.25, 0.18, 0.11)))
    look.refractory = (grey + look.refractory_warmth * (warm - grey)) * look.refractory_tone
    slag = slag * rng.uniform(0.85, 1.2, 3)
    look.slag = (look.refractory + look.slag_hue * (slag - look.refractory)).clip(0.03, 0.8) * look.slag_tone
    look.sine, look.cosine = math.sin(math.radians(look.roll)), math.cos(math.radians(look.roll))
    look.size = size
    look.y, look.x = ((np.indices((size, size)) + 0.5) / size).astype(np.float32)
    return look


def _noise(rng, shape, cells, octaves=6, gain=0.55, stretch=1.0):
    """Fractal noise of about unit variance; `stretch` > 1 draws it out downwards."""
    rng = np.random.default_rng(rng.integers(2**62))  # octaves too fine for the size are left undrawn
    height, width = shape
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        columns, rows = (max(1, round(cells * 2**octave * s)) for s in (stretch**0.5, stretch**-0.5))
        if octave and max(columns, rows) > width / 1.5:
            break
        grid = rng.standard_normal((rows + 1 if height > 1 else 1, columns + 1), np.float32)
        total += gain**octave * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return total / np.float32(0.75 * sum(gain ** (2 * octave) for octave in range(octaves)) ** 0.5)


def _step(x, width):
    """Smooth step from 0 to 1 around x = 0."""
    t = np.clip(x * (0.5 / width) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _blur(image, sigma):
    """Gaussian blur, sigma in frames; a wide one is done at reduced size."""
    sigma, shrink = sigma * len(image), max(1.0, sigma * len(image) / 3)
    if sigma < 0.25:
        return image
    small = cv2.resize(image, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / shrink), image.shape[1::-1])


def _paint(canvas, alpha, colour):
    """Cover canvas with colour where alpha is 1."""
    canvas += alpha[..., None].astype(np.float32) * (colour - canvas)


def _emission(heat):
    """Planck radiance at 610, 540 and 465 nm, balanced for 3200 K; 1 in red at 1250 K."""
    inverse = (1 / np.maximum(heat, 0.4)).astype(np.float32)[..., None]
    glow = np.exp(np.float32((18.872, 19.825, 21.169)) - np.float32((23.59, 26.64, 30.94)) * inverse)
    return glow + np.float32(0.05) * glow[..., :1]  # the sensor's filters overlap


def _light(look, albedo, height, u=0.0, scale=0.2):
    """Radiance of a surface with relief `height`, in about a tenth of `scale`, under lamps, bath and hall.

    `u` bends it into a cylinder along the tubes' axis.
    """
    height, u = height.astype(np.float32), np.clip(np.asarray(u, np.float32), -0.98, 0.98)
    azimuth = math.radians(look.key_azimuth)
    nx = u * look.cosine - scale * look.size / 80 * cv2.Sobel(height, cv2.CV_32F, 1, 0)
    ny = -u * look.sine - scale * look.size / 80 * cv2.Sobel(height, cv2.CV_32F, 0, 1)
    nz = np.sqrt(1 - u * u)
    length = 1 / np.sqrt(nx**2 + ny**2 + nz**2)
    key = (0.85 * math.sin(azimuth) * nx - 0.5 * ny + 0.85 * math.cos(azimuth) * nz) * length
    bath = (0.75 * ny + 0.45 * nz) * length * np.exp(1.6 * look.y - 1.6)
    hollow = np.clip(1 + 0.5 * (height - _blur(height, 0.06 * scale)), 0.35, 1.3)
    strength = look.key, look.bath, look.hall
    colours = np.array(((1.0, 1.5, 0.92), (0.97, 0.66, 1.0), (0.92, 0.25, 1.1))) * strength  # rows: R, G, B
    light = cv2.merge((np.maximum(key, 0) * hollow, np.maximum(bath, 0) * hollow, hollow))
    return albedo * cv2.transform(light, colours.astype(np.float32))


def _slag_surface(look, lumps, fine, patch):
    """Albedo, height and temperature of crusted slag."""
    height = 1.1 - 1.5 * np.abs(lumps) + 0.35 * fine
    albedo = np.float32(look.slag) * np.exp(0.28 * patch + 0.2 * fine + 0.2 * height)[..., None]
    return albedo, look.slag_relief * height, look.slag_heat + 0.07 * patch - 0.06 * height


def _castable_surface(look, mottle, fine, streak):
    """Albedo and height of refractory castable: gunned patches of another tone, runs, cracks."""
    cracks = np.exp(-np.square(mottle * 22)) * _step(streak - 0.3, 0.5)
    patches = 0.2 * _step(mottle + 0.3 * fine - 0.5, 0.15) - 0.22 * _step(streak + 0.4 * mottle - 0.9, 0.25)
    tone = np.exp(0.1 * mottle + 0.07 * fine + 0.1 * streak + patches) * (1 - 0.45 * cracks)
    height = look.castable_relief * (0.2 * fine + 0.15 * mottle + 0.6 * patches) - 0.5 * cracks
    return np.float32(look.refractory) * tone[..., None], height


def _bar(canvas, start, end, width, colour):
    """Draw a bar between two points, antialiased, on a uint8 canvas."""
    start, end = np.asarray(start), np.asarray(end)
    side = (end - start)[::-1] / np.linalg.norm(end - start) * (-width / 2, width / 2)
    corners = np.stack((start + side, end + side, end - side, start - side)) * len(canvas) - 0.5
    cv2.fillConvexPoly(canvas, np.round(corners * 256).astype(np.int32), colour, cv2.LINE_AA, 8)


def _steelwork(look, rng):
    """Far and near girders and pipes, and a railing, (S, S, 3) uint8."""
    plan = np.full((look.size, look.size, 3), rng.uniform(20, 90), np.uint8)
    for depth in (0.007, 0.001):
        for _ in range(rng.integers(3, 9)):
            tone, width = rng.uniform(20, 210) * rng.uniform(0.88, 1.12, 3), rng.uniform(0.05, 0.5) ** 2
            slope = rng.choice((0.0, np.pi / 2, rng.uniform(0.6, 1))) - math.radians(look.roll)
            way, centre = np.array((np.cos(slope), np.sin(slope))), rng.uniform(-0.1, 1.1, 2)
            reach, side = way * rng.uniform(0.3, 1.2), way[::-1] * (-0.1 * width, 0.1 * width)
            pipe, girder = ((1, 0.5), (0.7, 0.75), (0.3, 1.0)), ((1, 1.0), (0.8, 0.5), (0.6, 0.6))
            for place, (share, light) in enumerate(pipe if rng.random() < 0.5 else girder):
                middle = centre + place * side
                _bar(plan, middle - reach, middle + reach, width * share, (light * tone).tolist())
        plan = _blur(plan, depth)
    if look.railing:
        left, right, paint = rng.uniform(0, 0.8), rng.uniform(0, 0.8), rng.uniform(60, 200)
        for below, width in ((0, 0.008), (0.06, 0.005), (0.14, 0.02)):
            _bar(plan, (-0.1, left + below), (1.1, right + below), width, (paint, paint, 0.6 * paint))
    return plan


def _hall(look, rng):
    """Radiance of the plant hall: steelwork, lamps, a refractory wall, crusts of slag, glow."""
    x, y, shape = look.x, look.y, look.x.shape
    mottle, fine, runs = _noise(rng, shape, 4), _noise(rng, shape, 24), _noise(rng, shape, 9, stretch=7)
    albedo = (_steelwork(look, rng).astype(np.float32) / 255) ** 1.6 * np.float32(look.hall_tone)
    albedo *= np.exp(0.15 * mottle + 0.06 * fine + 0.18 * runs)[..., None]
    relief, heat, near = 0.1 * mottle + 0.1 * fine, np.full(shape, 0.4, np.float32), _step(y - 0.55, 0.5)
    if look.wall:
        surface, height = _castable_surface(look, mottle, fine, runs)
        course, brick, start = rng.uniform(0.035, 0.1), rng.uniform(1.5, 2.6), rng.uniform(0.2, 0.8)
        row, column = (y + look.sine * x) / course, (x - look.sine * y) / course / brick
        column += 0.5 * (np.floor(row) % 2)
        joint = np.minimum(0.5 - np.abs(row % 1 - 0.5), brick * (0.5 - np.abs(column % 1 - 0.5)))
        joint = 1 - _step(joint - 0.05, 0.06)
        near = _step(rng.choice((-1, 1)) * (x - start + rng.uniform(-0.15, 0.15) * (y - 0.5)), 0.006)
        _paint(albedo, near, surface * rng.uniform(0.25, 0.8) * (1 - 0.4 * joint)[..., None])
        relief += near * (height - 0.6 * joint - relief)
    if look.crust:
        place, lumps = _noise(rng, shape, 4, 5), _noise(rng, shape, rng.integers(7, 16), 5)
        crusted = near * _step(place + 0.2 * fine - rng.uniform(0.1, 1.1), 0.12)
        slag, height, slag_heat = _slag_surface(look, lumps, fine, mottle)
        _paint(albedo, crusted, slag)
        relief += crusted * (height + 0.5 - relief)
        heat += crusted * (slag_heat - rng.uniform(0, 0.2) - heat)
    lit = 0.3 + _step(_noise(rng, shape, 2, 2), 1.6)
    if look.glow:
        away = np.hypot(x - rng.uniform(0, 1), y - rng.uniform(0.2, 1)) / rng.uniform(0.08, 0.3)
        heat = np.maximum(heat, look.steel_heat + 0.06 * mottle - 0.35 * _step(away - 0.8 + 0.25 * lit, 0.5))
    radiance = _light(look, albedo, relief, scale=0.15) * lit[..., None] + _emission(heat)
    for _ in range(rng.integers(0, 3)):
        away = np.hypot(x - rng.uniform(0, 1), y - rng.uniform(0, 0.5)) / rng.uniform(0.003, 0.03)
        radiance += (3 / (1 + away**4))[..., None] * np.float32((1, 0.9, 0.7))
    veil = np.float32(0.4 * look.hall) * (1 + 0.3 * mottle[..., None])
    return _blur(radiance + np.float32(look.hall_haze) * (veil - radiance), rng.uniform(0.0, 0.004))


def _cylinder(look, place, radius, tilt, bump=0.0):
    """Of every pixel: u across, v along the front surface, s along the axis."""
    dx, dy = look.x - place[0], look.y - place[1]
    s = dx * look.sine + dy * look.cosine
    u = (dx * look.cosine - dy * look.sine) / (radius * np.maximum(1 + look.taper * s, 0.3) * (1 + bump))
    return u, s - radius * tilt * np.sqrt(np.maximum(1 - u * u, 0)), s


def _vessel(look, rng, canvas, tubes):
    """Paint the lower vessel and the flange of every tube."""
    mottle, fine = _noise(rng, look.x.shape, 6), _noise(rng, look.x.shape, 28)
    tone = np.float32((0.3 * look.refractory + 0.1) * 2 ** rng.uniform(-1.2, 0.4))
    tone, flange = tone * np.exp(0.2 * mottle + 0.1 * fine)[..., None], rng.uniform(1.15, 1.35)
    parts = [(*tubes[0], rng.uniform(2.2, 4), -99, -0.25), *((*tube, flange, -0.3, 0) for tube in tubes)]
    for place, radius, width, upper, lower in parts:
        u, v, _ = _cylinder(look, place, radius * width, look.tilt / width)
        v, edge = v / radius + look.dry_r, 0.003 / radius
        inside = _step(1 - np.abs(u), edge / width) * _step(lower - v, edge) * _step(v - upper, edge)
        _paint(canvas, inside, _light(look, tone, 0.2 * fine, u))


def _band_edges(look, rng, angles):
    """Upper and lower edge of the slag band by angle around the tube, in radii: crust, slant, drips."""
    line = partial(_noise, rng, (1, len(angles)), 4, 5, 0.6)
    slant = rng.uniform(-0.08, 0.08) * np.sin(angles + rng.uniform(-1, 1))
    upper = slant - look.half + look.roughness_r * line()[0]
    lower = slant + look.half + look.roughness_r * line()[0]
    for _ in range(rng.integers(0, 9)):
        drop = np.exp(-(((angles - rng.uniform(-1.5, 1.5)) / rng.uniform(0.03, 0.11)) ** 4))
        lower = np.maximum(lower, slant + look.half - 0.05 + look.drip_r * rng.uniform(0.3, 1) * drop)
    return upper, np.clip(lower, upper + 0.5 * look.half, look.half + look.steel_r)


def _tube_surface(look, rng, v, top, bottom, slag, texture, pixel):
    """Albedo, height and temperature down a tube: castable, slag band, steel; and the steel's temperature."""
    lumps, fine, patch, streak, ring = texture
    albedo, height = _castable_surface(look, patch, fine, 0.75 * streak + 0.5 * ring)
    for level in (-look.half - np.cumsum(rng.uniform(0.4, 1.8, 3))).tolist():
        joint = 0.5 * np.exp(-np.square((v - level - 0.01 * ring) / (0.012 + 0.3 * pixel)))
        albedo, height = albedo * (1 - joint)[..., None], height - joint
    wet = _step(v - (top + bottom) / 2, 0.15)
    skin = 0.12 * _step(lumps + 0.4 * patch - 1.5, 0.3)
    steel = look.steel_heat + look.steel_gradient * v + 0.03 * patch + 0.025 * streak + 0.01 * ring - skin
    metal = np.float32((0.16, 0.15, 0.15)) * np.exp(0.25 * patch + 0.15 * streak)[..., None]
    heat = 0.5 + 0.3 * np.exp(-np.maximum(top - v, 0) / 0.3)
    crust, bumps, slag_heat = _slag_surface(look, lumps, fine, patch)
    _paint(albedo, 0.7 * wet, metal)
    _paint(albedo, slag, crust)
    heat = slag * slag_heat + (1 - slag) * (heat + wet * (steel - heat))
    height = slag * (bumps + 1.2) + (1 - slag) * height * (1 - 0.5 * wet)
    return albedo, height, heat, steel


def _tube(look, rng, canvas, mask, place, radius):
    """Paint one tube over canvas and mask; return its band's mean height in frames."""
    shape, tilt, rim, pixel = mask.shape, look.tilt, look.half + look.steel_r, 0.7 / len(mask) / radius
    _, v, _ = _cylinder(look, place, radius, tilt)
    swell = 0.025 * look.slag_relief * _step(look.half - np.abs(v) / radius, 0.1)
    swell += 0.012 * _noise(rng, shape, 5)
    u, v, s = _cylinder(look, place, radius, tilt, swell)
    theta, v, s = np.arcsin(np.clip(u, -1, 1)).astype(np.float32), v / radius, s / radius

    extent = max(np.pi, 1.6 / radius)  # edge of the texture, in radii
    kinds = ((1.6, 5, 1), (9, 3, 1), (0.7, 5, 1), (2, 5, 7), (1.2, 5, 0.08), (1.5, 4, 1))  # cells per radius
    fields = [_noise(rng, shape, max(2, round(cells * extent)), n, stretch=long) for cells, n, long in kinds]
    at = np.dstack((theta + np.pi / 2, v + 0.8 / radius)) * (len(mask) / extent)
    wrap = partial(cv2.remap, map1=at.astype(np.float32), map2=None, interpolation=cv2.INTER_LINEAR)
    lumps, fine, patch, streak, ring, flake = (wrap(field, borderMode=cv2.BORDER_REFLECT) for field in fields)

    angles = np.linspace(-np.pi / 2, np.pi / 2, 1024)
    upper, lower = _band_edges(look, rng, angles)
    chips = 0.05 * np.minimum(_noise(rng, (1, 1024), 5, 5)[0], 0.6)
    top, bottom, chip = (np.interp(theta, angles, line).astype(np.float32) for line in (upper, lower, chips))
    body = _step(1 - np.abs(u), pixel) * _step(rim + chip - v, pixel) * _step(v + look.dry_r, pixel)
    frayed, soft = 0.3 * look.softness_r * fine, look.softness_r
    slag = _step(v - top + frayed, soft) * _step(bottom - v + frayed, soft)
    slag *= _step(np.quantile(fields[5][::4, ::4], 1 - look.flaked) - flake, 0.25)

    texture = lumps, fine, patch, streak, ring
    albedo, height, heat, steel = _tube_surface(look, rng, v, top, bottom, slag, texture, pixel)
    shade = 1 - 0.45 * np.clip(_blur(slag, 0.05 * radius) - slag, 0, 1)
    shining = _emission(heat) * (0.75 + 0.25 * np.sqrt(1 - np.clip(u, -1, 1) ** 2))[..., None]
    spill = _blur(shining * body[..., None], 0.35 * radius)  # hot zones light what is near them
    radiance = _light(look, albedo, height, u, radius) + 0.8 * albedo * spill
    canvas += 0.06 * spill
    if tilt < 0:
        oval = np.hypot(u, (s - rim) / tilt)
        broken = _step(1 - np.abs(u), 0.01) * _step(rim + pixel - v, pixel) * _step(v - rim + 0.2, pixel)
        face, bore = np.maximum(_step(1 - oval, 0.02), broken) * (1 - body), _step(0.62 - oval, 0.03)
        end = _light(look, 0.11 * np.exp(0.2 * patch)[..., None], 0.3 * fine) + _emission(steel - 0.05)
        _paint(canvas, face, end * (1 - rng.uniform(0.5, 0.95) * bore)[..., None])
        mask[face > 0.5] = 1
    _paint(canvas, body, radiance * shade[..., None] + shining)
    mask[body > 0.5] = 1
    mask[(body > 0.5) & (slag > 0.5)] = 2
    seen = np.arcsin(np.linspace(-0.98, 0.98, 512))
    return radius * float(np.mean(np.interp(seen, angles, lower - upper)))


def _ladle(look, rng, place, radius):
    """Ladle below the tubes: radiance, coverage of the whole and of the part in front of the tubes."""
    shape, wide = look.x.shape, radius * rng.uniform(2.4, 4.2)
    x = look.x - place[0] - rng.uniform(-1, 1) * radius
    level = min(place[1] + (look.half + look.steel_r + rng.uniform(-0.15, 1.0)) * radius, 1.1)
    flat, y = max(look.tilt, 0.04) * wide, look.y - level
    lumps, fine = _noise(rng, shape, rng.integers(8, 18), 5), _noise(rng, shape, 40, 3)
    patch, runs = _noise(rng, shape, 5), _noise(rng, shape, 7, 5, stretch=4)
    oval, across = np.hypot(x / wide, y / flat) + 0.05 * patch, x / (wide * 1.14) + 0.012 * lumps
    depth = (y - flat * np.sqrt(np.clip(1 - across**2, 0, 1))) / radius  # below the front of the rim
    ring, bath = _step(1.16 - oval + 0.05 * lumps, 0.03), _step(1 - oval, 0.03)
    whole = np.maximum(ring, _step(y, 0.004) * _step(1 - np.abs(across), 0.02))
    skull = np.maximum(_step(0.12 - depth + 0.2 * runs + 0.08 * lumps, 0.05), ring)
    bands = sum(_step(0.07 - np.abs(depth - rng.uniform(0.3, 0.6) - 0.9 * at), 0.03) for at in range(3))
    slag, height, heat = _slag_surface(look, lumps, fine, patch)
    shell = np.exp(0.2 * patch + 0.08 * fine + 0.3 * runs + 0.4 * bands)
    albedo = np.float32((0.13, 0.12, 0.11)) * shell[..., None]
    _paint(albedo, skull, slag)
    radiance = _light(look, albedo, 0.15 * fine + bands + skull * (height + 0.8), across * (1 - ring))
    radiance += _emission(0.4 + skull * (heat - 0.4))
    crusted = _step(patch + 0.3 * lumps + rng.uniform(-1.2, 1.2), 0.5)
    molten = look.bath_heat + 0.04 * patch + 0.02 * lumps - 0.22 * crusted
    _paint(radiance, bath, _emission(molten) + 0.3 * radiance)
    return radiance, whole, whole * _step(y, 0.004) * (1 - bath)


def _foreground(look, rng, canvas):
    """Paint cables and a beam in front; return what the beam hides, and what all of it hides."""
    thin, thick = np.zeros((2, look.size, look.size), np.uint8)
    for _ in range(rng.integers(1, 4) if look.cables else 0):
        t, (start, end), sag = np.linspace(-0.1, 1.1, 60), rng.uniform(-0.1, 1.1, 2), rng.uniform(-0.15, 0.3)
        curve = np.stack((start + (end - start) * t + sag * t * (1 - t), t), 1)[:, :: rng.choice((1, -1))]
        width, links = rng.uniform(0.004, 0.013), rng.choice(((1, 1), (1, 1), (0.5, 1.5)))
        for k in range(len(curve) - 1):
            _bar(thin, curve[k], curve[k + 1], width * links[k % 2], 255)
    if look.beam:
        angle, through = rng.uniform(-0.25, 0.25) + rng.choice((0, np.pi / 2)), rng.uniform(0.1, 0.9, 2)
        reach = 1.5 * np.array((np.cos(angle), np.sin(angle)))
        _bar(thick, through - reach, through + reach, rng.uniform(0.03, 0.08), 255)
    cover = _blur(np.maximum(thin, thick).astype(np.float32) / 255, rng.uniform(0.0005, 0.0025))
    tone = np.float32(2 ** rng.uniform(-1, 1.5)) * np.exp(0.3 * _noise(rng, thin.shape, 4, 4))[..., None]
    relief = 3 * _blur(cover, 0.006) + 0.2 * _noise(rng, thin.shape, 30, 3)
    _paint(canvas, cover, _light(look, tone * np.float32((0.12, 0.11, 0.1)), relief))
    return thick > 127, np.maximum(thin, thick) > 127


def _air(look, rng, canvas):
    """Paint the dust veil, steam and sparks."""
    shape, level, colour = look.x.shape, float(np.mean(canvas)) + 0.02, np.float32((1.1, 1.0, 0.9))
    cloud = _step(_noise(rng, shape, 3) + rng.uniform(-1, 1), 1.5) * _step(_noise(rng, shape, 2, 2), 1.5)
    density = look.veil + look.steam * cloud * look.steamy
    _paint(canvas, np.minimum(density, 0.6), level * rng.uniform(0.6, 1.5) * colour)
    sparks, source = np.zeros(shape, np.uint8), np.array((rng.uniform(0, 1), rng.uniform(0.6, 1.2)))
    for _ in range(rng.integers(8, 70) if look.sparks else 0):
        angle, far = rng.normal(-np.pi / 2, 0.7), rng.exponential(0.35)
        way, length = np.array((np.cos(angle), np.sin(angle))), 0.002 + rng.exponential(0.012)
        start, flight = source + way * far + (0, 0.5 * far**2), np.add(way, (0, far))
        _bar(sparks, start, start + flight * length, rng.uniform(0.001, 0.003), rng.uniform(30, 255))
    shine = 40 * level * _blur(sparks.astype(np.float32) / 255, 0.001)
    canvas += shine[..., None] * np.float32((1, 0.6, 0.25))


def _camera(look, rng, canvas, mask):
    """Exposure, bloom, blur, white balance, vignette, tone curve, grain: linear light -> uint8."""
    size, metered = look.size, canvas[mask > 0].mean(1)  # the operator exposes for the tube
    meter = np.sqrt(np.median(metered) * np.quantile(metered, 0.85))
    canvas = canvas * np.float32(0.3 * look.exposure / meter)
    canvas += np.float32(look.bloom) * _blur(np.clip(canvas - 0.7, 0, 4), 0.035)
    canvas = _blur(canvas, look.defocus * (2.2 if look.blurred else 0.6))
    if look.shaken:
        steps = np.linspace(-0.5, 0.5, 9)[:, None] * (look.motion, rng.uniform(-0.006, 0.006)) * size
        move = partial(cv2.warpAffine, dsize=(size, size), borderMode=cv2.BORDER_REPLICATE)
        canvas = sum(move(canvas, np.float32(((1, 0, dx), (0, 1, dy)))) for dx, dy in steps) / 9
    canvas *= np.float32((1 + look.white_balance, 1 + rng.uniform(-0.05, 0.05), 1 - look.white_balance))
    canvas *= (1 - 1.6 * look.vignette * (np.square(look.x - 0.5) + np.square(look.y - 0.5)))[..., None]
    image = (1 - np.exp(-1.5 * np.maximum(canvas, 0))) ** np.float32(look.contrast / 2.1)
    grain = rng.standard_normal((size, size, 3), np.float32) * np.float32(min(1, size / 256) ** 0.5)
    image += look.noise * _blur(grain + 0.6 * grain[::-1, :, :1], 0.0012) * (0.5 + np.sqrt(image))
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


def _annotate(rng, drawn, bias):
    """One annotator's polygons; `drawn` is the mask in which only thick things hide the tube."""
    size, shapes, hand = len(drawn), [], 0.004 * _noise(rng, drawn.shape, 6, 3)
    distance = partial(cv2.distanceTransform, distanceType=cv2.DIST_L2, maskSize=5)
    for label, region, least, smear in ((1, drawn > 0, 0.004, 0.006), (2, drawn == 2, 0.0015, 0.011)):
        inside = (_blur(region.astype(np.float32), smear) > 0.5).astype(np.uint8)
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


def _check(seed, index, size):
    if size < 64 or seed < 0 or index < 0:
        where = f"seed={seed}, index={index}, size={size}"
        raise StudyError("no such scene", where=where, mend="take size >= 64, seed >= 0 and index >= 0")


def render_scene(seed: int, index: int, size: int = 512) -> Scene:
    """Render one scene; the same (seed, index) is the same scene at every size.

    Parameters
    ----------
    seed, index : int
        The data set's seed and the scene's number, 0 or more.
    size : int
        Edge length in pixels; below 64, or with a negative seed or index, StudyError.
    """
    _check(seed, index, size)
    streams = [np.random.default_rng([seed, index, part]) for part in range(11)]  # one per part of the scene
    look = _draw_look(streams[0], size)
    tubes = [((look.band_x, look.band_y), look.radius)]
    if look.two_tubes:  # the second stands where there is more room, and may lie wholly outside
        reach, scale = math.copysign(look.spacing_r * look.radius, 0.5 - look.band_x), look.second_scale
        second = look.band_x + reach * look.cosine, look.band_y - reach * look.sine + 0.3 * (scale - 1)
        if -0.3 * look.radius < second[0] < 1 + 0.3 * look.radius:
            tubes.append((second, look.radius * scale))

    canvas, mask = _hall(look, streams[1]), np.zeros((size, size), np.uint8)
    if look.ladle:
        ladle, whole, front = _ladle(look, streams[2], *tubes[0])
        _paint(canvas, whole, ladle)
    _vessel(look, streams[3], canvas, tubes)
    heights = [_tube(look, streams[4 + k], canvas, mask, *tube) for k, tube in enumerate(tubes)]
    if look.ladle:
        _paint(canvas, front, ladle)
        mask[front > 0.5] = 0
    thick, hidden = _foreground(look, streams[6], canvas)
    drawn = mask * ~thick
    mask[hidden] = 0
    _air(look, streams[7], canvas)
    scales = [look.diameter_mm / (2 * radius) for _, radius in tubes]  # millimetres per frame
    return Scene(
        image=_camera(look, streams[8], canvas, mask),
        mask=mask,
        annotations=(_annotate(streams[9], drawn, 0.0018), _annotate(streams[10], drawn, -0.0018)),
        mm_per_pixel=tuple(scale / size for scale in scales),
        thickness_mm=tuple(height * scale for height, scale in zip(heights, scales, strict=True)),
        jpeg_quality=int(streams[0].integers(72, 96)),
    )


def write_scenes(folder: Path, *, num_scenes: int, size: int, seed: int, workers: int, first_index: int = 0) -> None:
    """Write scenes with both annotators' polygons and the truth; those already there are kept.

    Parameters
    ----------
    folder : Path
        Receives `scene_0000.jpg`, Labelme's `scene_0000.json` and `second/scene_0000.json`, the exact mask
        `truth/scene_0000.png`, and last `truth.parquet`: scene, tube, mm_per_pixel, thickness_mm per tube.
    num_scenes, size, seed, first_index : int
        Scenes first_index, first_index + 1, ... of `render_scene`.
    workers : int
        Processes, 0 for one per processor; the bytes do not depend on it.

    Raises
    ------
    StudyError
        If a parameter is out of range, or the folder holds scenes of another seed or size.
    """
    _check(seed, first_index, size)
    if num_scenes < 1 or workers < 0:
        where = f"num_scenes={num_scenes}, workers={workers}"
        raise StudyError("nothing to write", where=where, mend="take num_scenes >= 1 and workers >= 0")
    for part in ("second", "truth"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    spawn = get_context("spawn")  # a fork of a process that runs threads, as torch's do, may hang
    with ProcessPoolExecutor(workers or os.cpu_count(), spawn, cv2.setNumThreads, (1,)) as pool:
        indices = range(first_index, first_index + num_scenes)
        scenes = tqdm(pool.map(partial(_write_scene, folder, size, seed), indices), "scenes", num_scenes)
        table = pd.DataFrame([row for rows in scenes for row in rows])
    write_atomically(folder / "truth.parquet", table.to_parquet(index=False))


def _write_scene(folder, size, seed, index):
    """Write the files of one scene, the mask last: it carries the scene's rows of the truth, returned."""
    name = f"scene_{index:04d}"
    picture, first, second = (
        folder / f"{name}.jpg",
        folder / f"{name}.json",
        folder / "second" / f"{name}.json",
    )
    truth = folder / "truth" / f"{name}.png"
    if not all(path.exists() for path in (picture, first, second, truth)):
        scene, jpeg, png, note = render_scene(seed, index, size), io.BytesIO(), io.BytesIO(), PngInfo()
        Image.fromarray(scene.image).save(jpeg, "JPEG", quality=scene.jpeg_quality)
        write_atomically(picture, jpeg.getvalue())
        drawn = partial(write_annotation, height=size, width=size)
        drawn(first, image_path=picture.name, shapes=scene.annotations[0])
        drawn(second, image_path=f"../{picture.name}", shapes=scene.annotations[1])
        columns = ("scene", "tube", "mm_per_pixel", "thickness_mm")
        tubes = enumerate(zip(scene.mm_per_pixel, scene.thickness_mm, strict=True))
        rows = [dict(zip(columns, (name, tube, *values), strict=True)) for tube, values in tubes]
        note.add_text("truth", json.dumps({"seed": seed, "size": size, "rows": rows}))
        mask = Image.fromarray(scene.mask)
        mask.putpalette(PALETTE)
        mask.save(png, "PNG", pnginfo=note)
        write_atomically(truth, png.getvalue())
    with Image.open(truth) as mask:
        found = json.loads(mask.text["truth"])
    if (found["seed"], found["size"]) != (seed, size):
        what = f"the folder holds scenes of seed {found['seed']} and size {found['size']}"
        raise StudyError(what, where=truth, mend="give an empty folder, or that seed and size")
    return found["rows"]
