"""One immersion tube after a dip: slag band, surface, exact mask, true thickness."""

import math
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from rhseg_lib.scenes.look import fractal_noise, gaussian_blur, smooth_step
from rhseg_lib.scenes.paint import castable_surface, illuminate, paint_over, planck, slag_surface, unroll


@dataclass(frozen=True)
class Tube:
    """The truth about one tube of a scene; pixels are those of the scene's image."""

    x: float  # pixels, where the axis crosses the middle of the band, in front
    y: float
    roll: float  # degrees, of the axis against the image's vertical; its lower end leans to the right if positive
    diameter_px: float  # at the band, without crust
    mm_per_pixel: float  # at the band; along the axis, lengths appear shortened by the cosine of the elevation
    elevation: float  # degrees, of the line of sight: positive from above
    thickness_mm: float  # mean length along the axis between the band's edges, equally spaced over the visible width
    drip_free_mm: float  # the same without the drips below the band
    visible: float  # share of the band that is in the frame with nothing in front
    sides_in_frame: bool  # whether the frame cuts neither side at the band


def _band_edges(look, rng, angles):
    """Upper, lower and drip-free lower edge of the slag band by angle around the tube, in radii."""
    line = partial(fractal_noise, rng, (1, len(angles)), 4, 5, 0.6)
    slant = rng.uniform(-0.08, 0.08) * np.sin(angles + rng.uniform(-1, 1))
    upper = slant - look.half + look.roughness_r * line()[0]
    lower = smooth = slant + look.half + look.roughness_r * line()[0]
    for _ in range(rng.integers(0, 9)):
        drop = np.exp(-(((angles - rng.uniform(-1.5, 1.5)) / rng.uniform(0.03, 0.11)) ** 4))
        lower = np.maximum(lower, slant + look.half - 0.05 + look.drip_r * rng.uniform(0.3, 1) * drop)
    return upper, *(np.clip(edge, upper + 0.5 * look.half, look.half + look.steel_r) for edge in (lower, smooth))


def _tube_surface(look, rng, v, top, bottom, slag, texture, pixel):
    """Albedo, height and temperature along a tube: castable, slag band, steel; and the steel's temperature."""
    lumps, fine, patch, streak, ring = texture
    albedo, height = castable_surface(look, patch, fine, 0.75 * streak + 0.5 * ring)
    for level in (-look.half - np.cumsum(rng.uniform(0.4, 1.8, 3))).tolist():
        joint = 0.5 * np.exp(-np.square((v - level - 0.01 * ring) / (0.012 + 0.3 * pixel)))
        albedo, height = albedo * (1 - joint)[..., None], height - joint
    wet = smooth_step(v - (top + bottom) / 2, 0.15)
    skin = 0.12 * smooth_step(lumps + 0.4 * patch - 1.5, 0.3)
    steel = look.steel_heat + look.steel_gradient * v + 0.03 * patch + 0.025 * streak + 0.01 * ring - skin
    metal = np.float32((0.16, 0.15, 0.15)) * np.exp(0.25 * patch + 0.15 * streak)[..., None]
    heat = 0.5 + 0.3 * np.exp(-np.maximum(top - v, 0) / 0.3)
    crust, bumps, slag_heat = slag_surface(look, lumps, fine, patch)
    paint_over(albedo, 0.7 * wet, metal)
    paint_over(albedo, slag, crust)
    heat = slag * slag_heat + (1 - slag) * (heat + wet * (steel - heat))
    height = slag * (bumps + 1.2) + (1 - slag) * height * (1 - 0.5 * wet)
    return albedo, height, heat, steel


def paint_tube(look, rng, canvas, mask, place, radius):
    """Paint one tube over canvas and mask; return its true geometry and the pixels of its band, (S, S) bool."""
    shape, tilt, rim, pixel = mask.shape, look.tilt, look.half + look.steel_r, 0.7 / len(mask) / radius
    _, v, _ = unroll(look, place, radius, tilt)
    swell = 0.025 * look.slag_relief * smooth_step(look.half - np.abs(v) / radius, 0.1)
    swell += 0.012 * fractal_noise(rng, shape, 5)
    u, v, s = unroll(look, place, radius, tilt, swell)
    theta, v, s = np.arcsin(np.clip(u, -1, 1)).astype(np.float32), v / radius, s / radius

    extent = max(np.pi, 1.6 / radius)  # edge of the texture, in radii
    kinds = ((1.6, 5, 1), (9, 3, 1), (0.7, 5, 1), (2, 5, 7), (1.2, 5, 0.08), (1.5, 4, 1))  # cells per radius
    fields = [fractal_noise(rng, shape, max(2, round(cells * extent)), n, stretch=long) for cells, n, long in kinds]
    at = np.dstack((theta + np.pi / 2, v + 0.8 / radius)) * (len(mask) / extent)
    wrap = partial(cv2.remap, map1=at.astype(np.float32), map2=None, interpolation=cv2.INTER_LINEAR)
    lumps, fine, patch, streak, ring, flake = (wrap(field, borderMode=cv2.BORDER_REFLECT) for field in fields)

    angles = np.linspace(-np.pi / 2, np.pi / 2, 1024)
    upper, lower, smooth = _band_edges(look, rng, angles)
    chips = 0.05 * np.minimum(fractal_noise(rng, (1, 1024), 5, 5)[0], 0.6)
    top, bottom, chip = (np.interp(theta, angles, line).astype(np.float32) for line in (upper, lower, chips))
    body = smooth_step(1 - np.abs(u), pixel) * smooth_step(rim + chip - v, pixel) * smooth_step(v + look.dry_r, pixel)
    frayed, soft = 0.3 * look.softness_r * fine, look.softness_r
    slag = smooth_step(v - top + frayed, soft) * smooth_step(bottom - v + frayed, soft)
    slag *= smooth_step(np.quantile(fields[5][::4, ::4], 1 - look.flaked) - flake, 0.25)

    texture = lumps, fine, patch, streak, ring
    albedo, height, heat, steel = _tube_surface(look, rng, v, top, bottom, slag, texture, pixel)
    shade = 1 - 0.45 * np.clip(gaussian_blur(slag, 0.05 * radius) - slag, 0, 1)
    shining = planck(heat) * (0.75 + 0.25 * np.sqrt(1 - np.clip(u, -1, 1) ** 2))[..., None]
    spill = gaussian_blur(shining * body[..., None], 0.35 * radius)  # hot zones light their surroundings
    radiance = illuminate(look, albedo, height, u, radius) + 0.8 * albedo * spill
    canvas += 0.06 * spill
    if tilt < 0:
        oval = np.hypot(u, (s - rim) / tilt)
        broken = smooth_step(1 - np.abs(u), 0.01) * smooth_step(rim + pixel - v, pixel)
        broken *= smooth_step(v - rim + 0.2, pixel)
        face, bore = np.maximum(smooth_step(1 - oval, 0.02), broken) * (1 - body), smooth_step(0.62 - oval, 0.03)
        end = illuminate(look, 0.11 * np.exp(0.2 * patch)[..., None], 0.3 * fine) + planck(steel - 0.05)
        paint_over(canvas, face, end * (1 - rng.uniform(0.5, 0.95) * bore)[..., None])
        mask[face > 0.5] = 1
    paint_over(canvas, body, radiance * shade[..., None] + shining)
    band = (body > 0.5) & (slag > 0.5)
    mask[body > 0.5] = 1
    mask[band] = 2
    return _truth(look, place, radius, angles, (upper, lower, smooth)), band


def _truth(look, place, radius, angles, edges):
    """The `Tube` of band edges by angle; `visible` is for now the share of the band in the frame."""
    across = np.linspace(-0.98, 0.98, 512)
    upper, lower, smooth = (np.interp(np.arcsin(across), angles, edge) for edge in edges)
    s = radius * (np.linspace(upper, lower, 32) + look.tilt * np.sqrt(1 - across**2))  # along the axis
    u = radius * np.maximum(1 + look.taper * s, 0.3) * across
    x, y = place[0] + u * look.cosine + s * look.sine, place[1] - u * look.sine + s * look.cosine
    inside = (np.minimum(x, y) >= 0) & (np.maximum(x, y) <= 1)
    shortened = math.sqrt(1 - look.tilt**2)  # the tilt is the sine of the elevation
    front = radius * look.tilt
    return Tube(
        x=(place[0] + front * look.sine) * look.size - 0.5,
        y=(place[1] + front * look.cosine) * look.size - 0.5,
        roll=look.roll,
        diameter_px=2 * radius * look.size,
        mm_per_pixel=look.diameter_mm / (2 * radius * look.size),
        elevation=math.degrees(math.asin(look.tilt)),
        thickness_mm=float(np.mean(lower - upper)) * look.diameter_mm / 2 / shortened,
        drip_free_mm=float(np.mean(smooth - upper)) * look.diameter_mm / 2 / shortened,
        visible=float(inside.mean()),
        sides_in_frame=bool(inside[:, [0, -1]].all()),
    )
