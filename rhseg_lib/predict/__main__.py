"""Segment new images or a video with trained weights; see `segment`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rhseg_lib.errors import StudyError
from rhseg_lib.predict.segment import DEFAULT_WEIGHTS, predict_source


def main(arguments: list[str] | None = None) -> int:
    """Command line: 0 when every picture was segmented, 1 with the faults on standard error."""
    parser = argparse.ArgumentParser(prog="python -m rhseg_lib.predict", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a folder of pictures, a picture, or a video")
    parser.add_argument("--weights", type=Path, default=Path(DEFAULT_WEIGHTS), metavar="FILE")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="pictures at once (8)")
    parser.add_argument("--threshold", type=float, help="least confidence (the bound that the weights carry)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of a video, take each N-th frame (1)")
    parser.add_argument("--subfolders", action="store_true", help="take the pictures in subfolders too")
    given = vars(parser.parse_args(arguments))
    try:
        table, faults, _ = predict_source(**given)
    except StudyError as fault:
        print(f"\nerror: {fault}\n", file=sys.stderr)
        return 1
    print(f"{len(table)} segmented, {table['abstain'].sum()} of them to be looked at: {given['output'] / 'index.html'}")
    if len(faults):
        lines = "".join(f"\n  {fault.file}: {fault.what} -> {fault.fix}" for fault in faults.head(50).itertuples())
        more = "\n  and more" if len(faults) > 50 else ""
        path = given["output"] / "faults.csv"
        print(f"\nerror: {len(faults)} could not be read (all in {path}):{lines}{more}\n", file=sys.stderr)
    return int(len(faults) > 0)


if __name__ == "__main__":
    sys.exit(main())
