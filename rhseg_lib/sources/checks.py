"""Faults of a source of pictures: all of them at once, in one table, each with its fix."""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from rhseg_lib.errors import StudyError
from rhseg_lib.files import write_atomically

MAX_ROWS = 50  # of one message


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file, or with ``shapes[shape]`` of it, and how to fix it."""

    file: str  # relative to the folder of the source
    shape: int | None
    what: str
    fix: str


class FaultyAnnotations(StudyError):
    """Every fault of a folder, in one error."""

    faults: tuple[Fault, ...] = ()


def sift(
    pictures: dict[str, Path],
    checked: list[tuple[str, list[Fault]]],
    *,
    folder: Path,
    on_fault: Literal["stop", "skip"],
) -> dict[str, list[Fault]]:
    """The pictures to leave out and why.

    Parameters
    ----------
    pictures : dict of str to Path
        Name -> annotation.
    checked : list of (str, list of Fault)
        For each, the digest of its picture, or "", and its faults. A picture that an earlier annotation has, byte
        for byte, is a fault, too.
    folder : Path
        Of the source.
    on_fault : {"stop", "skip"}

    Raises
    ------
    FaultyAnnotations
        There are faults, unless they are to be skipped and something is left.
    """
    first, faulty = {}, {}
    for (name, path), (digest, faults) in zip(pictures.items(), checked, strict=True):
        if faults:
            faulty[name] = faults
        elif digest and first.setdefault(digest, path) != path:
            what = f"annotates the same picture as {told_path(first[digest], folder)}"
            fix = "keep one of the two; move the other out of the folder"
            faulty[name] = [Fault(told_path(path, folder), None, what, fix)]
    if on_fault == "stop" or len(faulty) == len(pictures):
        refuse([fault for faults in faulty.values() for fault in faults], folder)
    return faulty


def refuse(faults: list[Fault], where: Path) -> None:
    """Raise one FaultyAnnotations that tabulates the faults, equal ones of several files once; none, no error."""
    if not faults:
        return
    alike: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        alike.setdefault((fault.what, fault.fix), []).append(fault)
    rows = [("file", "shape", "what", "fix")]
    for (what, fix), some in list(alike.items())[:MAX_ROWS]:
        others = len({fault.file for fault in some}) - 1
        shape = "" if some[0].shape is None else str(some[0].shape)
        again = f" ({len(some)} times)" if len(some) > 1 else ""
        rows.append((some[0].file + (f" and {others} more" if others else ""), shape, what + again, fix))
    lines = _aligned(rows)
    if len(alike) > MAX_ROWS:
        lines.append(f"and {len(alike) - MAX_ROWS} more")
    files = len({fault.file for fault in faults})
    what = "\n  ".join([f"{len(faults)} fault(s) in {files} file(s) of the annotations:", *lines])
    error = FaultyAnnotations(what, where=where, fix="fix each as its line says, then run again")
    error.faults = tuple(faults)
    raise error


def write_faults(path: Path, faults: list[dict]) -> None:
    """Keep faults as CSV that a spreadsheet opens; if there are none, no file is left."""
    if not faults:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, fieldnames=[field.name for field in fields(Fault)])
    table.writeheader()
    table.writerows(faults)
    write_atomically(path, text.getvalue().encode("utf-8-sig"))


def told_path(path: Path, root: Path) -> str:
    """A path as it is told: below `root`, with forward slashes, no sign that a terminal would obey."""
    return repr(Path(os.path.relpath(path, root)).as_posix())[1:-1]


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of a table; a sign that a terminal draws twice as wide counts twice."""

    def width(text: str) -> int:
        return sum(1 + (unicodedata.east_asian_width(sign) in "WF") for sign in text)

    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    cells = ([cell + " " * (most - width(cell)) for cell, most in zip(row, widths, strict=True)] for row in rows)
    return ["  ".join(row).rstrip() for row in cells]


def unplaced(what: str, fix: str) -> StudyError:
    """A fault whose place `examine` knows."""
    return StudyError(what, where=None, fix=fix)


def shortened(value: object) -> str:
    """A value from a file, short: text in quotes, a number, of anything else its kind."""
    return f"{value!r:.60}" if isinstance(value, str | int | float) else f"of type {type(value).__name__}"
