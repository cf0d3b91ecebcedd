"""The one error that a user sees: what is wrong, where, and how to fix it."""

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

    def __str__(self) -> str:
        return f"{self.what}\n  where: {self.where}\n  fix:   {self.fix}"
