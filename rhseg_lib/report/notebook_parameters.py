"""The parameters of a notebook: each one given must be declared in it, and be of the declared type."""

import ast
from difflib import get_close_matches
from typing import Any

from IPython.core.getipython import get_ipython

from rhseg_lib.errors import StudyError

TYPES: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "float": (int, float), "bool": bool}


def check(given: dict[str, Any], declared: dict[str, str], where: object) -> None:
    """StudyError for a parameter that is not declared, or is of another type than its declared one, by name."""
    for name, value in given.items():
        if name not in declared:
            near = "".join(f"did you mean '{match}'? " for match in get_close_matches(name, declared, n=1))
            raise StudyError(f"unknown parameter '{name}'", where=where, fix=f"{near}known: {', '.join(declared)}")
        kind = declared[name]
        if kind not in TYPES:
            fix = f"declare it as name: type = value, the type one of {', '.join(TYPES)}"
            raise StudyError(f"parameter '{name}' has no type that can be checked", where=where, fix=fix)
        # bool is an int to isinstance, but `seed=True` is a mistake
        if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
            raise StudyError(f"parameter '{name}' is {value!r}", where=where, fix=f"give a value of type {kind}")


def check_injected() -> None:
    """Check what papermill injected into the running notebook, where a misspelt name would change nothing."""
    shell = get_ipython()
    if shell is None:
        return
    variables = shell.user_ns
    cells = [ast.parse(cell).body for cell in variables["In"] if cell.startswith("# Parameters")]
    names = [target.id for cell in cells for line in cell for target in getattr(line, "targets", [])]
    declared = {name: kind.__name__ for name, kind in variables.get("__annotations__", {}).items()}
    check({name: variables[name] for name in names}, declared, "the notebook's parameters")
