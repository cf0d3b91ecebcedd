"""What a user sees of an error: what is wrong, where, and how to fix it; and how text reaches the terminal."""

import sys
import unicodedata
from collections.abc import Callable
from functools import partial


class StudyError(Exception):
    """An error the user can fix.

    `what` is the error in one sentence, `where` a file, cell, parameter or location, `fix` what the user can do.
    """

    def __init__(self, what: str, *, where: object, fix: str) -> None:
        super().__init__(what, where, fix)
        self.what, self.where, self.fix = what, where, fix

    def __reduce__(self) -> tuple:  # pickled on its way back from a worker process
        return partial(StudyError, where=self.where, fix=self.fix), (self.what,)

    def _render_traceback_(self) -> list[str]:
        """In a notebook: the error alone, without the frames that led to it."""
        return [f"error: {self}"]

    def __str__(self) -> str:
        what, fix = (printable(text, keep="\n") for text in (self.what, self.fix))
        return f"{what}\n  where: {printable(self.where)}\n  fix:   {fix}"


def printable(text: object, *, keep: str = "") -> str:
    """Escape what a terminal would obey or cannot show: control characters, bidirectional overrides, bytes of no text.

    Letters of every script and all spaces stay, and the characters of `keep`.
    """
    return "".join(
        character
        if character.isprintable() or character in keep or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode()
        for character in str(text)
    )


def show(text: str, *, error: bool = False) -> None:
    """Print to standard output or standard error, with what is not `printable` there escaped."""
    stream = sys.stderr if error else sys.stdout
    encoding = stream.encoding or "utf-8"
    print(printable(text, keep="\n").encode(encoding, "backslashreplace").decode(encoding), file=stream)


def exit_code(command: Callable[[], int | None]) -> int:
    """Run a command line; an error of the user or of the disk, and Ctrl-C, are reported, and the code is then 1."""
    try:
        return command() or 0
    except StudyError as error:
        shown = error
    except OSError as error:
        where = error.filename2 or error.filename or "a file or folder of this command"
        shown = StudyError(error.strerror or str(error), where=where, fix="check that it is there and can be used")
    except KeyboardInterrupt:
        shown = StudyError("interrupted", where="keyboard", fix="run again: what is finished is kept")
    show(f"\nerror: {shown}\n", error=True)
    return 1
