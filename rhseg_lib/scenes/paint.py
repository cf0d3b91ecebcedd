"""Surfaces and light: refractory, slag, steelwork, glow; painted in linear light."""

import math
from functools import partial

import cv2
import numpy as np

from rhseg_lib.scenes.look import fractal_noise, gaussian_blur, smooth_step


def paint_over(canvas, alpha, colour):
    """Cover canvas with colour where alpha is 1."""
    canvas += alpha[..., None].astype(np.float32) * (colour - canvas)


def planck(heat):
    """Planck radiance at 610, 540 and 465 nm, balanced for 3200 K; 1 in red at 1250 K."""
    inverse = (1 / np.maximum(heat, 0.4)).astype(np.float32)[..., None]
    glow = np.exp(np.float32((18.872, 19.825, 21.169)) - np.float32((23.59, 26.64, 30.94)) * inverse)
    return glow + np.float32(0.05) * glow[..., :1]  # the sensor's filters overlap


def illuminate(look, albedo, height, u=0.0, scale=0.2):
    """Radiance of a surface lit by lamps, bath and hall; its relief `height` is in about a tenth of `scale`.

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
    hollow = np.clip(1 + 0.5 * (height - gaussian_blur(height, 0.06 * scale)), 0.35, 1.3)
    strength = look.key, look.bath, look.hall
    colours = np.array(((1.0, 1.5, 0.92), (0.97, 0.66, 1.0), (0.92, 0.25, 1.1))) * strength  # rows: R, G, B
    light = cv2.merge((np.maximum(key, 0) * hollow, np.maximum(bath, 0) * hollow, hollow))
    return albedo * cv2.transform(light, colours.astype(np.float32))


def slag_surface(look, lumps, fine, patch):
    """Albedo, height and temperature of crusted slag."""
    height = 1.1 - 1.5 * np.abs(lumps) + 0.35 * fine
    albedo = np.float32(look.slag) * np.exp(0.28 * patch + 0.2 * fine + 0.2 * height)[..., None]
    return albedo, look.slag_relief * height, look.slag_heat + 0.07 * patch - 0.06 * height


def castable_surface(look, mottle, fine, streak):
    """Albedo and height of refractory castable: gunned patches in another tone, runs, cracks."""
    cracks = np.exp(-np.square(mottle * 22)) * smooth_step(streak - 0.3, 0.5)
    patches = 0.2 * smooth_step(mottle + 0.3 * fine - 0.5, 0.15) - 0.22 * smooth_step(streak + 0.4 * mottle - 0.9, 0.25)
    tone = np.exp(0.1 * mottle + 0.07 * fine + 0.1 * streak + patches) * (1 - 0.45 * cracks)
    height = look.castable_relief * (0.2 * fine + 0.15 * mottle + 0.6 * patches) - 0.5 * cracks
    return np.float32(look.refractory) * tone[..., None], height


def draw_bar(canvas, start, end, width, colour):
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
                draw_bar(plan, middle - reach, middle + reach, width * share, (light * tone).tolist())
        plan = gaussian_blur(plan, depth)
    if look.railing:
        left, right, paint = rng.uniform(0, 0.8), rng.uniform(0, 0.8), rng.uniform(60, 200)
        for below, width in ((0, 0.008), (0.06, 0.005), (0.14, 0.02)):
            draw_bar(plan, (-0.1, left + below), (1.1, right + below), width, (paint, paint, 0.6 * paint))
    return plan


def paint_hall(look, rng):
    """Radiance of the plant hall: steelwork, lamps, a refractory wall, crusts of slag, glow."""
    x, y, shape = look.x, look.y, look.x.shape
    mottle, fine = fractal_noise(rng, shape, 4), fractal_noise(rng, shape, 24)
    runs = fractal_noise(rng, shape, 9, stretch=7)
    albedo = (_steelwork(look, rng).astype(np.float32) / 255) ** 1.6 * np.float32(look.hall_tone)
    albedo *= np.exp(0.15 * mottle + 0.06 * fine + 0.18 * runs)[..., None]
    relief, heat, near = 0.1 * mottle + 0.1 * fine, np.full(shape, 0.4, np.float32), smooth_step(y - 0.55, 0.5)
    if look.wall:
        surface, height = castable_surface(look, mottle, fine, runs)
        course, brick, start = rng.uniform(0.035, 0.1), rng.uniform(1.5, 2.6), rng.uniform(0.2, 0.8)
        row, column = (y + look.sine * x) / course, (x - look.sine * y) / course / brick
        column += 0.5 * (np.floor(row) % 2)
        joint = np.minimum(0.5 - np.abs(row % 1 - 0.5), brick * (0.5 - np.abs(column % 1 - 0.5)))
        joint = 1 - smooth_step(joint - 0.05, 0.06)
        near = smooth_step(rng.choice((-1, 1)) * (x - start + rng.uniform(-0.15, 0.15) * (y - 0.5)), 0.006)
        paint_over(albedo, near, surface * rng.uniform(0.25, 0.8) * (1 - 0.4 * joint)[..., None])
        relief += near * (height - 0.6 * joint - relief)
    if look.crust:
        place, lumps = fractal_noise(rng, shape, 4, 5), fractal_noise(rng, shape, rng.integers(7, 16), 5)
        crusted = near * smooth_step(place + 0.2 * fine - rng.uniform(0.1, 1.1), 0.12)
        slag, height, slag_heat = slag_surface(look, lumps, fine, mottle)
        paint_over(albedo, crusted, slag)
        relief += crusted * (height + 0.5 - relief)
        heat += crusted * (slag_heat - rng.uniform(0, 0.2) - heat)
    lit = 0.3 + smooth_step(fractal_noise(rng, shape, 2, 2), 1.6)
    if look.glow:
        away = np.hypot(x - rng.uniform(0, 1), y - rng.uniform(0.2, 1)) / rng.uniform(0.08, 0.3)
        heat = np.maximum(heat, look.steel_heat + 0.06 * mottle - 0.35 * smooth_step(away - 0.8 + 0.25 * lit, 0.5))
    radiance = illuminate(look, albedo, relief, scale=0.15) * lit[..., None] + planck(heat)
    for _ in range(rng.integers(0, 3)):
        away = np.hypot(x - rng.uniform(0, 1), y - rng.uniform(0, 0.5)) / rng.uniform(0.003, 0.03)
        radiance += (3 / (1 + away**4))[..., None] * np.float32((1, 0.9, 0.7))
    veil = np.float32(0.4 * look.hall) * (1 + 0.3 * mottle[..., None])
    return gaussian_blur(radiance + np.float32(look.hall_haze) * (veil - radiance), rng.uniform(0.0, 0.004))


def unroll(look, place, radius, tilt, bump=0.0):
    """Tube coordinates of every pixel: u across, v along the front surface, s along the axis."""
    dx, dy = look.x - place[0], look.y - place[1]
    s = dx * look.sine + dy * look.cosine
    u = (dx * look.cosine - dy * look.sine) / (radius * np.maximum(1 + look.taper * s, 0.3) * (1 + bump))
    return u, s - radius * tilt * np.sqrt(np.maximum(1 - u * u, 0)), s


def paint_vessel(look, rng, canvas, tubes):
    """Paint the lower vessel and the flange of every tube."""
    mottle, fine = fractal_noise(rng, look.x.shape, 6), fractal_noise(rng, look.x.shape, 28)
    tone = np.float32((0.3 * look.refractory + 0.1) * 2 ** rng.uniform(-1.2, 0.4))
    tone, flange = tone * np.exp(0.2 * mottle + 0.1 * fine)[..., None], rng.uniform(1.15, 1.35)
    parts = [(*tubes[0], rng.uniform(2.2, 4), -99, -0.25), *((*tube, flange, -0.3, 0) for tube in tubes)]
    for place, radius, width, upper, lower in parts:
        u, v, _ = unroll(look, place, radius * width, look.tilt / width)
        v, edge = v / radius + look.dry_r, 0.003 / radius
        inside = smooth_step(1 - np.abs(u), edge / width) * smooth_step(lower - v, edge) * smooth_step(v - upper, edge)
        paint_over(canvas, inside, illuminate(look, tone, 0.2 * fine, u))


def paint_ladle(look, rng, place, radius):
    """Ladle below the tubes: radiance, coverage of all of it and of what is in front of the tubes."""
    shape, wide = look.x.shape, radius * rng.uniform(2.4, 4.2)
    x = look.x - place[0] - rng.uniform(-1, 1) * radius
    level = min(place[1] + (look.half + look.steel_r + rng.uniform(-0.15, 1.0)) * radius, 1.1)
    flat, y = max(look.tilt, 0.04) * wide, look.y - level
    lumps, fine = fractal_noise(rng, shape, rng.integers(8, 18), 5), fractal_noise(rng, shape, 40, 3)
    patch, runs = fractal_noise(rng, shape, 5), fractal_noise(rng, shape, 7, 5, stretch=4)
    oval, across = np.hypot(x / wide, y / flat) + 0.05 * patch, x / (wide * 1.14) + 0.012 * lumps
    depth = (y - flat * np.sqrt(np.clip(1 - across**2, 0, 1))) / radius  # below the front of the rim
    ring, bath = smooth_step(1.16 - oval + 0.05 * lumps, 0.03), smooth_step(1 - oval, 0.03)
    whole = np.maximum(ring, smooth_step(y, 0.004) * smooth_step(1 - np.abs(across), 0.02))
    skull = np.maximum(smooth_step(0.12 - depth + 0.2 * runs + 0.08 * lumps, 0.05), ring)
    bands = sum(smooth_step(0.07 - np.abs(depth - rng.uniform(0.3, 0.6) - 0.9 * at), 0.03) for at in range(3))
    slag, height, heat = slag_surface(look, lumps, fine, patch)
    shell = np.exp(0.2 * patch + 0.08 * fine + 0.3 * runs + 0.4 * bands)
    albedo = np.float32((0.13, 0.12, 0.11)) * shell[..., None]
    paint_over(albedo, skull, slag)
    radiance = illuminate(look, albedo, 0.15 * fine + bands + skull * (height + 0.8), across * (1 - ring))
    radiance += planck(0.4 + skull * (heat - 0.4))
    crusted = smooth_step(patch + 0.3 * lumps + rng.uniform(-1.2, 1.2), 0.5)
    molten = look.bath_heat + 0.04 * patch + 0.02 * lumps - 0.22 * crusted
    paint_over(radiance, bath, planck(molten) + 0.3 * radiance)
    return radiance, whole, whole * smooth_step(y, 0.004) * (1 - bath)


def paint_foreground(look, rng, canvas):
    """Paint cables and a beam in front; return the masks hidden by the beam and by both."""
    thin, thick = np.zeros((2, look.size, look.size), np.uint8)
    for _ in range(rng.integers(1, 4) if look.cables else 0):
        t, (start, end), sag = np.linspace(-0.1, 1.1, 60), rng.uniform(-0.1, 1.1, 2), rng.uniform(-0.15, 0.3)
        curve = np.stack((start + (end - start) * t + sag * t * (1 - t), t), 1)[:, :: rng.choice((1, -1))]
        width, links = rng.uniform(0.004, 0.013), rng.choice(((1, 1), (1, 1), (0.5, 1.5)))
        for k in range(len(curve) - 1):
            draw_bar(thin, curve[k], curve[k + 1], width * links[k % 2], 255)
    if look.beam:
        angle, through = rng.uniform(-0.25, 0.25) + rng.choice((0, np.pi / 2)), rng.uniform(0.1, 0.9, 2)
        reach = 1.5 * np.array((np.cos(angle), np.sin(angle)))
        draw_bar(thick, through - reach, through + reach, rng.uniform(0.03, 0.08), 255)
    cover = gaussian_blur(np.maximum(thin, thick).astype(np.float32) / 255, rng.uniform(0.0005, 0.0025))
    tone = np.float32(2 ** rng.uniform(-1, 1.5)) * np.exp(0.3 * fractal_noise(rng, thin.shape, 4, 4))[..., None]
    relief = 3 * gaussian_blur(cover, 0.006) + 0.2 * fractal_noise(rng, thin.shape, 30, 3)
    paint_over(canvas, cover, illuminate(look, tone * np.float32((0.12, 0.11, 0.1)), relief))
    return thick > 127, np.maximum(thin, thick) > 127


def paint_air(look, rng, canvas):
    """Paint the dust veil, steam and sparks."""
    shape, level, colour = look.x.shape, float(np.mean(canvas)) + 0.02, np.float32((1.1, 1.0, 0.9))
    cloud = smooth_step(fractal_noise(rng, shape, 3) + rng.uniform(-1, 1), 1.5)
    cloud *= smooth_step(fractal_noise(rng, shape, 2, 2), 1.5)
    density = look.veil + look.steam * cloud * look.steamy
    paint_over(canvas, np.minimum(density, 0.6), level * rng.uniform(0.6, 1.5) * colour)
    sparks, source = np.zeros(shape, np.uint8), np.array((rng.uniform(0, 1), rng.uniform(0.6, 1.2)))
    for _ in range(rng.integers(8, 70) if look.sparks else 0):
        angle, far = rng.normal(-np.pi / 2, 0.7), rng.exponential(0.35)
        way, length = np.array((np.cos(angle), np.sin(angle))), 0.002 + rng.exponential(0.012)
        start, flight = source + way * far + (0, 0.5 * far**2), np.add(way, (0, far))
        draw_bar(sparks, start, start + flight * length, rng.uniform(0.001, 0.003), rng.uniform(30, 255))
    shine = 40 * level * gaussian_blur(sparks.astype(np.float32) / 255, 0.001)
    canvas += shine[..., None] * np.float32((1, 0.6, 0.25))


def expose(look, rng, canvas, mask):
    """Exposure, bloom, blur, white balance, vignette, tone curve, grain: linear light -> uint8."""
    size, metered = look.size, canvas[mask > 0].mean(1)  # the operator exposes for the tube
    meter = np.sqrt(np.median(metered) * np.quantile(metered, 0.85))
    canvas = canvas * np.float32(0.3 * look.exposure / meter)
    canvas += np.float32(look.bloom) * gaussian_blur(np.clip(canvas - 0.7, 0, 4), 0.035)
    canvas = gaussian_blur(canvas, look.defocus * (2.2 if look.blurred else 0.6))
    if look.shaken:
        steps = np.linspace(-0.5, 0.5, 9)[:, None] * (look.motion, rng.uniform(-0.006, 0.006)) * size
        move = partial(cv2.warpAffine, dsize=(size, size), borderMode=cv2.BORDER_REPLICATE)
        canvas = sum(move(canvas, np.float32(((1, 0, dx), (0, 1, dy)))) for dx, dy in steps) / 9
    canvas *= np.float32((1 + look.white_balance, 1 + rng.uniform(-0.05, 0.05), 1 - look.white_balance))
    canvas *= (1 - 1.6 * look.vignette * (np.square(look.x - 0.5) + np.square(look.y - 0.5)))[..., None]
    image = (1 - np.exp(-1.5 * np.maximum(canvas, 0))) ** np.float32(look.contrast / 2.1)
    grain = rng.standard_normal((size, size, 3), np.float32) * np.float32(min(1, size / 256) ** 0.5)
    image += look.noise * gaussian_blur(grain + 0.6 * grain[::-1, :, :1], 0.0012) * (0.5 + np.sqrt(image))
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
