"""The library's packages import one way only, in the order that its docstring names."""

import ast
import re
from pathlib import Path

import rhseg_lib

LIBRARY = Path(rhseg_lib.__file__).parent
ORDER = re.findall(r"^(\w+)  +\w", rhseg_lib.__doc__, re.MULTILINE)


def imports_of(path: Path) -> set[str]:
    """Modules of the library that a file imports, wherever in it, dotted and without the library's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rhseg_lib":
            inner = node.module.removeprefix("rhseg_lib").lstrip(".")
            names = [f"{inner}.{alias.name}".lstrip(".") for alias in node.names]
            found |= {name if is_module(name) else inner for name in names}
    return found - {""}


def is_module(name: str) -> bool:
    path = LIBRARY / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").exists()


MODULES = {
    ".".join(path.relative_to(LIBRARY).with_suffix("").parts): imports_of(path)
    for path in LIBRARY.rglob("*.py")
    if path.name != "__init__.py" or path.parent.name == "models"
}


def test_the_docstring_names_every_package() -> None:
    there = {path.stem for path in LIBRARY.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(ORDER) == there - {"__init__", "__pycache__"}


def test_imports_run_one_way() -> None:
    upward = [
        f"{module} imports {other}"
        for module, others in MODULES.items()
        for other in others
        if ORDER.index(other.split(".")[0]) > ORDER.index(module.split(".")[0])
    ]
    assert upward == []


def test_no_circle_inside_a_package() -> None:
    def reached(module: str, seen: frozenset[str] = frozenset()) -> set[str]:
        return {
            name for other in MODULES.get(module, set()) - seen for name in {other} | reached(other, seen | {other})
        }

    assert [module for module in MODULES if module in reached(module)] == []
