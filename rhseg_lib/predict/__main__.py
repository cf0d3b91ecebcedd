"""Segment new images or a video with trained weights; see `segment`."""

import argparse
import sys
from pathlib import Path

from rhseg_lib.errors import exit_code, printable, show
from rhseg_lib.predict.gallery import NO_THRESHOLD
from rhseg_lib.predict.segment import DEFAULT_WEIGHTS, predict_source
from rhseg_lib.predict.write import WRITES


def main(arguments: list[str] | None = None) -> int:
    """Command line: return 0 if every image was segmented, else 1 with the errors on standard error."""
    parser = argparse.ArgumentParser(prog="python -m rhseg_lib.predict", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a folder of images, an image, or a video")
    parser.add_argument(
        "--weights", type=Path, default=Path(DEFAULT_WEIGHTS), metavar="FILE", help="or its .onnx export"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="images per batch (8)")
    parser.add_argument("--threshold", type=float, help="minimum confidence (stored in the weights)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th frame of a video (1)")
    parser.add_argument("--subfolders", action="store_true", help="include images in subfolders")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="CPU threads (OMP_NUM_THREADS, or all cores)"
    )
    parser.add_argument(
        "--write", type=_kinds, default=WRITES, metavar="KINDS", help=f"some of {','.join(WRITES)} (all)"
    )
    options = vars(parser.parse_args(arguments))
    return exit_code(lambda: _predict(options))


def _kinds(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _predict(options: dict) -> int:
    table, errors, card = predict_source(**options)
    if options["threshold"] is None and card.abstain_below is None:
        show(f"note: nothing is flagged, {NO_THRESHOLD}")
    show(f"{len(table)} segmented, {table['abstain'].sum()} flagged for review: {options['output'] / 'index.html'}")
    if len(errors):
        lines = "".join(
            f"\n  {printable(error.file)}: {error.what} -> {error.fix}" for error in errors.head(50).itertuples()
        )
        more = "\n  and more" if len(errors) > 50 else ""
        path = options["output"] / "errors.csv"
        show(f"\nerror: {len(errors)} could not be read (all in {path}):{lines}{more}\n", error=True)
    return int(len(errors) > 0)


if __name__ == "__main__":
    sys.exit(main())
