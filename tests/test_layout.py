"""The library's packages import in one direction only, in the order given in its docstring."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import rhseg_lib
from rhseg_lib.files import content_digest

ROOT = Path(__file__).parent.parent
LIBRARY = Path(rhseg_lib.__file__).parent
ORDER = re.findall(r"^(\w+)  +\w", rhseg_lib.__doc__, re.MULTILINE)


def imports_of_text(code: str) -> set[str]:
    """Dotted names, without the library's, of the library modules that code imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rhseg_lib":
            inner = node.module.removeprefix("rhseg_lib").lstrip(".")
            names = [f"{inner}.{alias.name}".lstrip(".") for alias in node.names]
            found |= {name if is_module(name) else inner for name in names}
    return found - {""}


def is_module(name: str) -> bool:
    path = LIBRARY / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").exists()


MODULES = {
    ".".join(path.relative_to(LIBRARY).with_suffix("").parts).removesuffix(".__init__"): imports_of_text(
        path.read_text()
    )
    for path in LIBRARY.rglob("*.py")
    if path.name != "__init__.py" or path.parent.name == "models"
}


def reached_from(modules: set[str], left_out: str) -> set[str]:
    """These modules and all that they import, directly or indirectly, without going through package `left_out`."""
    found: set[str] = set()
    while new := {module for module in modules if module.split(".")[0] != left_out} - found:
        found |= new
        modules = set().union(*(MODULES.get(module, set()) for module in found))
    return found


def notebook_imports(path: Path) -> set[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return imports_of_text(code)


def test_every_module_that_a_notebook_imports_is_an_input_of_its_rule() -> None:
    """Except for the report package in the rule for data, which it does not affect."""
    plan = subprocess.run(
        ["snakemake", "--cores", "1", "--config", "profile=ci", "--forceall", "--dry-run"],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    inputs = dict(re.findall(r"^rule (\w+):\n    input: (.*)$", plan, re.MULTILINE))
    checked = 0
    for rule, listed in inputs.items():
        for notebook in re.findall(r"(?<!/)notebooks/\w+\.ipynb", listed):
            left_out = "report" if rule == "dataset" else "nothing"
            needed = {path_of(module) for module in reached_from(notebook_imports(ROOT / notebook), left_out)}
            assert needed - set(listed.split(", ")) == set(), rule
            checked += 1
    assert checked == 11
    trains = {path_of(module) for module in reached_from({"training.__main__"}, "nothing")}
    assert trains - set(inputs["train"].split(", ")) == set()


def path_of(module: str) -> str:
    path = f"rhseg_lib/{module.replace('.', '/')}"
    return f"{path}.py" if (ROOT / f"{path}.py").exists() else f"{path}/__init__.py"


def test_the_docstring_names_every_package() -> None:
    packages = {path.stem for path in LIBRARY.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(ORDER) == packages - {"__init__", "__pycache__"}


def test_imports_run_in_one_direction() -> None:
    upward = [
        f"{module} imports {other}"
        for module, others in MODULES.items()
        for other in others
        if ORDER.index(other.split(".")[0]) > ORDER.index(module.split(".")[0])
    ]
    assert upward == []


def test_no_circular_imports() -> None:
    def reached(module: str, seen: frozenset[str] = frozenset()) -> set[str]:
        return {
            name for other in MODULES.get(module, set()) - seen for name in {other} | reached(other, seen | {other})
        }

    assert [module for module in MODULES if module in reached(module)] == []


def test_a_folders_digest_depends_on_its_content_alone(tmp_path: Path) -> None:
    (tmp_path / "heat 1").mkdir()
    (tmp_path / "heat 1/a.jpg").write_bytes(b"1")
    first = content_digest(tmp_path)
    os.utime(tmp_path / "heat 1/a.jpg", (1, 1))
    for name in ("Thumbs.db", ".DS_Store", "heat 1/desktop.ini"):
        (tmp_path / name).write_bytes(b"x")
    assert content_digest(tmp_path) == first
    (tmp_path / "heat 1/a.jpg").write_bytes(b"2")
    changed = content_digest(tmp_path)
    (tmp_path / "heat 1/a.jpg").rename(tmp_path / "b.jpg")
    assert len({first, changed, content_digest(tmp_path)}) == 3
