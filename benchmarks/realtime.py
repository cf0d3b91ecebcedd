"""Speed of prediction on this CPU, with accuracy beside it: the network in each runtime, and a video from end to end.

    OMP_WAIT_POLICY=passive python benchmarks/realtime.py
    OMP_WAIT_POLICY=passive python benchmarks/realtime.py --video FILE --against EARLIER_CLONE

The first prints the table of the report's page "Real time" for a profile whose data set and weights are there. The
second segments a video to masks and table, and to the table alone, in turn with an earlier version, which writes all
its files and runs as it would for its user. OMP_WAIT_POLICY is what `python -m rhseg_lib.predict` sets by itself: a
thread of PyTorch that waits leaves its core.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from rhseg_lib import realtime
from rhseg_lib.errors import StudyError
from rhseg_lib.evaluation.provenance import cpu_name
from rhseg_lib.evaluation.runs import finished_runs
from rhseg_lib.predict.runtime import usable_cores
from rhseg_lib.profile import load_profile

EARLIER = """
import json, sys, tempfile, time
from pathlib import Path
from rhseg_lib.predict.segment import predict_source
with tempfile.TemporaryDirectory() as folder:
    start, used = time.perf_counter(), time.process_time()
    table = predict_source(Path(sys.argv[1]), weights=Path(sys.argv[2]), output=Path(folder) / "out")[0]
    print(json.dumps({"frames": len(table), "wall": time.perf_counter() - start, "cpu": time.process_time() - used}))
"""


def main() -> None:
    """Measure each model, then the video if one is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="reduced")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--video", type=Path, help="segmented from end to end")
    parser.add_argument("--against", type=Path, metavar="CLONE", help="an earlier version that segments it as well")
    options = parser.parse_args()
    print(f"{cpu_name()}, {usable_cores()} cores; load {os.getloadavg()[0]:.1f}")
    pd.set_option("display.width", 200, "display.max_columns", 20, "display.precision", 2)
    profile = load_profile(options.profile)
    for run in realtime.measured_runs(profile, finished_runs(profile)):
        print(realtime.side_by_side(profile, run, rounds=options.rounds), flush=True)
        if options.video:
            with tempfile.TemporaryDirectory() as folder:
                files = realtime.exported(profile, run, Path(folder))
                print(end_to_end(options.video, files, options.against, rounds=3), flush=True)


def end_to_end(video: Path, files: dict[str, Path], against: Path | None, *, rounds: int) -> pd.DataFrame:
    """Medians over rounds in which each way segments the video once."""
    kinds = {"masks and table": ("masks", "table"), "table": ("table",)}
    ways = {(way, kind): [] for way, kind in product(files, kinds)}
    if against:
        ways = {("earlier version", "everything"): [], **ways}
    for _, (way, found) in product(range(rounds), ways.items()):
        if way[0] == "earlier version":
            found.append(earlier(against, video, files[realtime.PLAIN]))
        else:
            found.append(realtime.video_speed(video, files[way[0]], write=kinds[way[1]]))
    rows = [{name: np.median([one[name] for one in found]) for name in found[0]} for found in ways.values()]
    table = pd.DataFrame(rows, index=pd.MultiIndex.from_tuples(ways, names=["way", "written"]))
    return table.assign(frames_per_second=table["frames"] / table["wall"])


def earlier(tree: Path, video: Path, weights: Path) -> dict[str, float]:
    """What an earlier version takes for the video."""
    command = [sys.executable, "-c", EARLIER, str(video.resolve()), str(weights.resolve())]
    environment = {**os.environ, "PYTHONPATH": str(tree.resolve())}
    environment.pop("OMP_WAIT_POLICY", None)  # set here, by this version
    ran = subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(ran.stdout.splitlines()[-1])


if __name__ == "__main__":
    try:
        main()
    except StudyError as error:
        sys.exit(f"error: {error}")
