"""Time and errors of measuring slag thickness from exact masks of 512×512 pixels, on scenes rendered first.

    python benchmarks/thickness.py
    python benchmarks/thickness.py --errors 1000 --seed 7502

The time is that on one core; processor time is less disturbed by other load than wall time. The errors are those of
the page Thickness, on scenes of another seed: take one that nobody has looked at.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pandas as pd

from rhseg_lib.errors import show
from rhseg_lib.evaluation.thickness import PARTS, SCALES, Scenes, exact_masks, measure_scenes
from rhseg_lib.evaluation.thickness_runs import EXACT, summarise
from rhseg_lib.profile import load_profile
from rhseg_lib.scenes.render import render_scene
from rhseg_lib.scenes.write import write_scenes
from rhseg_lib.thickness.measure import measure

SCENES, SIZE = 40, 512
SHOWN = ["tubes", "clear_left_out", "mean_error", "percent", "bias", "p95", "gross", "false"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--errors", type=int, default=0, metavar="N", help="state errors on N scenes, instead of times")
    parser.add_argument("--seed", type=int, default=7400, help="of the scenes")
    options = parser.parse_args()
    if options.errors:
        measure_errors(options.errors, options.seed)
    else:
        measure_times(options.seed)


def measure_errors(count: int, seed: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_scenes(folder, num_scenes=count, size=SIZE, seed=seed, workers=0)
        scenes = Scenes(PARTS[0], folder, pd.read_parquet(folder / "truth.parquet"))
        tables = {EXACT: [measure_scenes(load_profile("reduced"), [scenes], exact_masks)]}
    rows = pd.concat({scale: summarise(tables, scale)[SHOWN] for scale in SCALES})
    show(rows.to_string(float_format="{:.3f}".format))


def measure_times(seed: int) -> None:
    cv2.setNumThreads(1)
    masks = [render_scene(seed, index, SIZE).mask for index in range(SCENES)]
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
