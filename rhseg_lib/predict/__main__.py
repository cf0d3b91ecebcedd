"""Segment new images or a video with trained weights; see `segment`."""

import argparse
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

# Before torch is imported: a thread of it that waits leaves its core to reading and writing.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from rhseg_lib.errors import StudyError, exit_code, printable, show
from rhseg_lib.predict.gallery import NO_THRESHOLD
from rhseg_lib.predict.live import segment_live
from rhseg_lib.predict.pre_annotation import REVIEW, write_drafts
from rhseg_lib.predict.segment import DEFAULT_WEIGHTS, predict_source
from rhseg_lib.predict.write import MASKS, WRITES
from rhseg_lib.thickness.options import add_options, read_options

OF_FILES = ("output", "batch_size", "every", "subfolders", "write", "labelme", "tolerance")  # options without --live


def main(arguments: list[str] | None = None) -> int:
    """Command line: return 0 if every image was segmented, else 1 with the errors on standard error."""
    parser = argparse.ArgumentParser(prog="python -m rhseg_lib.predict", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("source", help="a folder of images, an image, or a video; with --live, a camera's number or a stream's address")
    add("--weights", type=Path, default=Path(DEFAULT_WEIGHTS), metavar="FILE", help="or its export, FILE.onnx")
    add("--output", type=Path, metavar="FOLDER", help="where to write; required without --live")
    add("--batch-size", type=int, default=8, metavar="N", help="images per batch (8)")
    add("--threshold", type=float, help="minimum confidence (stored in the weights)")
    add("--every", type=int, default=1, metavar="N", help="every N-th frame of a video (1)")
    add("--subfolders", action="store_true", help="include images in subfolders")
    add("--write", default=",".join(WRITES), metavar="KINDS", help=f"some of {','.join(WRITES)} (all)")
    add("--labelme", type=Path, metavar="FOLDER", help="also draw Labelme annotations there, to be corrected")
    add("--tolerance", type=float, metavar="PIXELS", help="of their outlines (as far as IoU stays at 0.99)")
    add("--live", action="store_true", help="print a line of JSON per frame, the latest first; write nothing")
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.live:
        if given := [name for name in OF_FILES if getattr(options, name) != parser.get_default(name)]:
            listed = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            parser.error(f"--live takes each frame as it comes and writes no files: leave out {listed}")
        return exit_code(lambda: _print(options))
    if not options.output:
        parser.error("the following arguments are required: --output")
    return exit_code(lambda: _predict(options))


def _print(options: argparse.Namespace) -> None:
    """Print a line per frame until the video ends or Ctrl-C, the usual end, is pressed."""
    found = segment_live(
        options.source, weights=options.weights, threshold=options.threshold, thickness=read_options(options)
    )
    with suppress(KeyboardInterrupt):
        for line in found:
            print(json.dumps(line), flush=True)


def _predict(options: argparse.Namespace) -> int:
    write = tuple(options.write.split(","))
    if options.labelme and MASKS not in write:
        raise StudyError("Labelme annotations are drawn from masks", where="--write", fix=f"write {MASKS} as well")
    result = predict_source(
        Path(options.source),
        weights=options.weights,
        output=options.output,
        batch_size=options.batch_size,
        threshold=options.threshold,
        write=write,
        thickness=read_options(options),
        every=options.every,
        subfolders=options.subfolders,
    )
    table, errors, card, *_ = result
    if options.threshold is None and card.abstain_below is None:
        show(f"note: nothing is flagged, {NO_THRESHOLD}")
    tubes = result.thickness
    if len(tubes):
        show(f"{(~tubes['abstain']).sum()} of {len(tubes)} tubes measured: {options.output / 'thickness.csv'}")
    show(f"{len(table)} segmented, {table['abstain'].sum()} flagged for review: {options.output / 'index.html'}")
    if options.labelme:
        drawn = write_drafts(result, options.output, options.labelme, tolerance=options.tolerance)["drawn"]
        show(f"{drawn.sum()} drawn, {(~drawn).sum()} annotated before and kept: {options.labelme / REVIEW}")
    if len(errors):
        lines = [f"error: {len(errors)} could not be read (all in {options.output / 'errors.csv'}):"]
        lines += [f"  {printable(error.file)}: {error.what} -> {error.fix}" for error in errors.head(50).itertuples()]
        lines += ["  and more"] * (len(errors) > 50)
        show("\n".join(["", *lines, ""]), error=True)
    return int(len(errors) > 0)


if __name__ == "__main__":
    sys.exit(main())
