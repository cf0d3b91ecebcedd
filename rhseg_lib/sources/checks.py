"""All errors in a source of images, in one table, each with its fix."""

import csv
import io
import os
import unicodedata
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from rhseg_lib.errors import StudyError
from rhseg_lib.files import write_atomically

MAX_ROWS = 50  # per message


@dataclass(frozen=True)
class Fault:
    """An error in a file, or in its ``shapes[shape]``, and how to fix it."""

    file: str  # relative to the source's folder
    shape: int | None
    what: str
    fix: str


class FaultyAnnotations(StudyError):
    """All errors in a folder, reported together."""

    faults: tuple[Fault, ...] = ()


def sift(
    annotations: dict[str, Path],
    checked: list[tuple[str, list[Fault]]],
    *,
    folder: Path,
    on_fault: Literal["stop", "skip"],
) -> dict[str, list[Fault]]:
    """The images to leave out, and why.

    Parameters
    ----------
    annotations : dict of str to Path
        Name -> annotation.
    checked : list of (str, list of Fault)
        For each annotation, the digest of its image, or "", and its errors. An image identical, byte for byte, to
        that of an earlier annotation is also an error.
    folder : Path
        The source's folder.
    on_fault : {"stop", "skip"}

    Raises
    ------
    FaultyAnnotations
        There are errors, unless they are to be skipped and at least one image is left.
    """
    first, invalid = dict[str, Path](), {}
    for (name, path), (digest, faults) in zip(annotations.items(), checked, strict=True):
        if faults:
            invalid[name] = faults
        elif digest and first.setdefault(digest, path) != path:
            what = f"annotates the same image as {told_path(first[digest], folder)}"
            fix = "keep one of the two; move the other out of the folder"
            invalid[name] = [Fault(told_path(path, folder), None, what, fix)]
    if on_fault == "stop" or len(invalid) == len(annotations):
        refuse([fault for faults in invalid.values() for fault in faults], folder)
    return invalid


def refuse(faults: list[Fault], where: Path) -> None:
    """Raise one FaultyAnnotations with a table of all errors, identical ones in one row; no errors, no exception."""
    if not faults:
        return
    grouped: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        grouped.setdefault((fault.what, fault.fix), []).append(fault)
    rows: list[tuple[str, ...]] = [("file", "shape", "what", "fix")]
    for (what, fix), same in list(grouped.items())[:MAX_ROWS]:
        others = len({fault.file for fault in same}) - 1
        shape = "" if same[0].shape is None else str(same[0].shape)
        repeats = f" ({len(same)} times)" if len(same) > 1 else ""
        rows.append((same[0].file + (f" and {others} more" if others else ""), shape, what + repeats, fix))
    lines = _aligned(rows)
    if len(grouped) > MAX_ROWS:
        lines.append(f"and {len(grouped) - MAX_ROWS} more")
    files = len({fault.file for fault in faults})
    what = "\n  ".join([f"{len(faults)} annotation error(s) in {files} file(s):", *lines])
    error = FaultyAnnotations(what, where=where, fix="fix each as its row says, then run again")
    error.faults = tuple(faults)
    raise error


def write_faults(path: Path, faults: list[dict]) -> None:
    """Write the errors as CSV that spreadsheets open; if there are none, remove the file."""
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
    """A path for messages: relative to `root`, with forward slashes, control characters escaped."""
    return repr(Path(os.path.relpath(path, root)).as_posix())[1:-1]


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of a table; a character that a terminal draws twice as wide counts twice."""

    def width(text: str) -> int:
        return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in text)

    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    cells = ([cell + " " * (widest - width(cell)) for cell, widest in zip(row, widths, strict=True)] for row in rows)
    return ["  ".join(row).rstrip() for row in cells]


def unplaced(what: str, fix: str) -> StudyError:
    """An error whose location `examine` adds."""
    return StudyError(what, where=None, fix=fix)


def shortened(value: object) -> str:
    """A value from a file, shortened: text in quotes, a number, or the type of anything else."""
    return f"{value!r:.60}" if isinstance(value, str | int | float) else f"of type {type(value).__name__}"
