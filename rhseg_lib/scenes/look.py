"""The random parameters of a scene, and the noise used for every surface."""

import math
from types import SimpleNamespace

import cv2
import numpy as np

# Uniform ranges. Lengths are fractions of the frame, those in `_r` tube radii; `log_` is an exponent of two;
# temperatures are in 1000 K, angles in degrees.
# fmt: off
RANGES = {
    "log_radius": (-3.1, -1.7), "band_x": (0.28, 0.72), "band_y": (0.36, 0.74), "roll": (-11, 11),
    "tilt": (-0.32, 0.3),  # of the rim's ellipse, height over width; positive when seen from above
    "taper": (-0.16, 0.12), "spacing_r": (2.35, 3.2), "second_scale": (0.78, 1.08),
    "diameter_mm": (850, 1350), "dry_r": (1.2, 6), "steel_r": (0.35, 2.0), "band_height_r": (0.4, 1.2),
    "castable_relief": (0.25, 0.9), "roughness_r": (0.03, 0.14), "softness_r": (0.01, 0.06),
    "drip_r": (0.1, 0.7), "flaked": (0.0, 0.14),  # share of the band
    "slag_relief": (0.6, 1.6), "log_slag_tone": (-2.0, 0.4), "slag_hue": (0.2, 1.0),  # relative to the refractory
    "slag_heat": (0.6, 1.2), "steel_heat": (0.8, 1.36), "steel_gradient": (-0.12, 0.2),
    "log_refractory_tone": (-0.3, 0.9), "refractory_warmth": (-0.2, 1),
    "log_key": (-1.4, 0.8), "key_azimuth": (-75, 75), "log_hall": (-2.3, -0.6),  # lamps or flash; diffuse light
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
REGIMES = {  # probability of a plant condition, and the ranges it narrows
    "any": (0.4, {}),
    "hot": (0.18, {"steel_heat": (1.1, 1.36), "slag_heat": (0.85, 1.2), "log_key": (-1.2, 0)}),
    "cool": (0.14, {"steel_heat": (0.6, 0.9), "slag_heat": (0.6, 0.95), "bath_heat": (0.7, 1.05)}),
    "hazy": (0.12, {"hall_haze": (0.3, 0.65), "veil": (0.12, 0.32), "log_hall_tone": (-1.5, 0.2)}),
    "flash": (0.16, {"log_key": (0.3, 1.5), "key_azimuth": (-15, 15), "steel_heat": (0.6, 1.0)}),
}


def draw_look(rng, size):
    """Draw all parameters of a scene; also holds the pixel coordinates."""
    odds, narrowed = zip(*REGIMES.values(), strict=True)
    regime = narrowed[rng.choice(len(odds), p=odds)]
    drawn = {name: rng.uniform(*regime.get(name, span)) for name, span in RANGES.items()}
    drawn |= {name.removeprefix("log_"): 2**value for name, value in drawn.items() if name.startswith("log_")}
    look = SimpleNamespace(**drawn, **{name: rng.random() < chance for name, chance in CHANCES.items()})
    if look.close_colours:
        look.slag_hue, look.log_slag_tone = 0.2 * look.slag_hue, 0.4 * look.log_slag_tone
        look.slag_heat = look.steel_heat + rng.choice((-1, 1)) * rng.uniform(0.04, 0.1)
    look.slag_tone = 2 ** (look.log_slag_tone + math.copysign(0.3, look.log_slag_tone))  # always distinguishable
    band = np.clip(look.band_height_r, 0.045 / look.radius, 0.25 / look.radius)
    look.half = float(band) / 2  # half the band's height, in radii
    grey, warm, slag = np.array(((0.3, 0.3, 0.3), (0.4, 0.29, 0.2), (0.25, 0.18, 0.11)))
    look.refractory = (grey + look.refractory_warmth * (warm - grey)) * look.refractory_tone
    slag = slag * rng.uniform(0.85, 1.2, 3)
    look.slag = (look.refractory + look.slag_hue * (slag - look.refractory)).clip(0.03, 0.8) * look.slag_tone
    look.sine, look.cosine = math.sin(math.radians(look.roll)), math.cos(math.radians(look.roll))
    look.size = size
    look.y, look.x = ((np.indices((size, size)) + 0.5) / size).astype(np.float32)
    return look


def thin_band(look, height_mm):
    """Change a look to a slag band of this height, with edges and drips in proportion to it."""
    half = height_mm / look.diameter_mm  # in radii
    for name in ("roughness_r", "drip_r", "softness_r"):
        setattr(look, name, getattr(look, name) * min(1, half / look.half))
    look.half = half


def fractal_noise(rng, shape, cells, octaves=6, gain=0.55, stretch=1.0):
    """Fractal noise of about unit variance; `stretch` > 1 stretches it vertically."""
    rng = np.random.default_rng(rng.integers(2**62))  # octaves too fine for the size are not drawn
    height, width = shape
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        columns, rows = (max(1, round(cells * 2**octave * s)) for s in (stretch**0.5, stretch**-0.5))
        if octave and max(columns, rows) > width / 1.5:
            break
        grid = rng.standard_normal((rows + 1 if height > 1 else 1, columns + 1), np.float32)
        total += gain**octave * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return total / np.float32(0.75 * sum(gain ** (2 * octave) for octave in range(octaves)) ** 0.5)


def smooth_step(x, width):
    """Smooth step from 0 to 1 around x = 0."""
    t = np.clip(x * (0.5 / width) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def gaussian_blur(image, sigma):
    """Gaussian blur, sigma as a fraction of the frame; a wide blur is computed at reduced size."""
    sigma, shrink = sigma * len(image), max(1.0, sigma * len(image) / 3)
    if sigma < 0.25:
        return image
    small = cv2.resize(image, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / shrink), image.shape[1::-1])
