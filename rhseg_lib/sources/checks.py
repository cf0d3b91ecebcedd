"""All errors in a source of images, in one table, each with its fix."""

import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pandas as pd

from rhseg_lib.errors import StudyError
from rhseg_lib.files import write_atomically

MAX_ROWS = 50  # per message


@dataclass(frozen=True)
class Problem:
    """An error in a file, or in its ``shapes[shape]``, and how to fix it."""

    file: str  # relative to the source's folder
    shape: int | None
    what: str
    fix: str


class InvalidAnnotations(StudyError):
    """All errors in a folder, reported together."""

    problems: tuple[Problem, ...] = ()
    can_skip = False  # whether `on_error: skip` would leave the images out


@contextmanager
def collected(problems: list[Problem], file: str, shape: int | None = None) -> Iterator[None]:
    """Append a StudyError of the block to `problems` instead of raising it."""
    try:
        yield
    except StudyError as error:
        problems.append(Problem(file, shape, error.what, error.fix))


def sift(
    annotations: dict[str, Path],
    invalid: dict[str, list[Problem]],
    digests: dict[str, str],
    *,
    folder: Path,
    on_error: Literal["stop", "skip"],
) -> dict[str, list[Problem]]:
    """The images to leave out, and their errors: the `invalid` ones, and those that repeat an earlier one.

    `annotations` maps names to files in `folder`, `digests` the names of valid images to that of their bytes, if known.
    Raises InvalidAnnotations if there are errors, and `on_error` is "stop" or no image is left.
    """
    first, skipped = dict[str, Path](), {}
    for name, path in annotations.items():
        digest = digests.get(name)
        if name in invalid:
            skipped[name] = invalid[name]
        elif digest and first.setdefault(digest, path) != path:
            what = f"annotates the same image as {display_path(first[digest], folder)}"
            fix = "keep one of the two; move the other out of the folder"
            skipped[name] = [Problem(display_path(path, folder), None, what, fix)]
    if on_error == "stop" or len(skipped) == len(annotations):
        can_skip = on_error == "stop" and len(skipped) < len(annotations)
        refuse([problem for problems in skipped.values() for problem in problems], folder, can_skip=can_skip)
    return skipped


def refuse(problems: list[Problem], where: Path, *, can_skip: bool = False) -> None:
    """Raise one InvalidAnnotations with a table of all errors, identical ones in one row, unless there are none."""
    if not problems:
        return
    grouped: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        grouped.setdefault((problem.what, problem.fix), []).append(problem)
    rows = [("file", "shape", "what", "fix"), *map(_row, list(grouped.values())[:MAX_ROWS])]
    lines = _aligned(rows)
    if len(grouped) > MAX_ROWS:
        lines.append(f"and {len(grouped) - MAX_ROWS} more")
    files = len({problem.file for problem in problems})
    what = "\n  ".join([f"{len(problems)} annotation error(s) in {files} file(s):", *lines])
    error = InvalidAnnotations(what, where=where, fix="fix each as its row says, then run again")
    error.problems, error.can_skip = tuple(problems), can_skip
    raise error


def write_errors(path: Path, problems: list[dict]) -> None:
    """Write the errors as CSV that spreadsheets open; if there are none, remove the file."""
    if not problems:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # As objects: an empty 'shape' would turn the others into fractions.
    table = pd.DataFrame(problems, columns=[field.name for field in fields(Problem)], dtype=object)
    write_atomically(path, table.to_csv(index=False, lineterminator="\r\n").encode("utf-8-sig"))


def display_path(path: Path, root: Path) -> str:
    """A path for messages: relative to `root`, with forward slashes, control characters escaped."""
    return repr(Path(os.path.relpath(path, root)).as_posix())[1:-1]


def _row(same: list[Problem]) -> tuple[str, str, str, str]:
    """Errors with the same text: file, shape, what and fix of the first, and how many others there are."""
    first, others = same[0], len({problem.file for problem in same}) - 1
    file = f"{first.file} and {others} more" if others else first.file
    what = f"{first.what} ({len(same)} times)" if len(same) > 1 else first.what
    return file, "" if first.shape is None else str(first.shape), what, first.fix


def _aligned(rows: list[tuple[str, str, str, str]]) -> list[str]:
    """Lines of a table; a character that a terminal draws twice as wide counts twice."""

    def width(text: str) -> int:
        return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in text)

    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    cells = ([cell + " " * (widest - width(cell)) for cell, widest in zip(row, widths, strict=True)] for row in rows)
    return ["  ".join(row).rstrip() for row in cells]


def unplaced(what: str, fix: str) -> StudyError:
    """An error whose location is added by a caller, such as `collected`."""
    return StudyError(what, where=None, fix=fix)


def shortened(value: object) -> str:
    """A value from a file, shortened: text in quotes, a number, or the type of anything else."""
    return f"{value!r:.60}" if isinstance(value, str | int | float) else f"of type {type(value).__name__}"
