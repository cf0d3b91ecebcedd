"""Time to measure slag thickness from a mask of 512×512 pixels, on one core.

    python benchmarks/thickness.py

Masks are the exact ones of fresh scenes, rendered first. Processor time is less disturbed by other load than wall time.
"""

import time

import cv2
import numpy as np

from rhseg_lib.errors import show
from rhseg_lib.scenes.render import render_scene
from rhseg_lib.thickness.measure import measure

SCENES, SEED = 40, 7400


def main() -> None:
    cv2.setNumThreads(1)
    masks = [render_scene(SEED, index, 512).mask for index in range(SCENES)]
    wall, cpu = [], []
    for mask in masks * 3:
        start, used = time.perf_counter(), time.process_time()
        measure(mask)
        wall.append(1000 * (time.perf_counter() - start))
        cpu.append(1000 * (time.process_time() - used))
    for name, each in (("wall", wall), ("processor", cpu)):
        median, ninth = np.quantile(each, (0.5, 0.9))
        show(f"{name} time of an image: median {median:.1f} ms, nine of ten within {ninth:.1f} ms")


if __name__ == "__main__":
    main()
