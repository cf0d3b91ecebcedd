"""Execute a notebook with checked parameters and convert it to an HTML page that works offline.

    python -m rhseg_lib.report.runner notebooks/03_train.ipynb -p profile quick -p model unet_vgg16 \
        --output reports/quick/notebooks/03_train_unet_vgg16_seed0.ipynb \
        --html reports/quick/html/03_train_unet_vgg16_seed0.html
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
import zmq
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from nbconvert.filters import strip_ansi
from papermill.exceptions import PapermillExecutionError
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from rhseg_lib.errors import StudyError, exit_code, show
from rhseg_lib.files import disk_errors, parse_yaml, read_json, write_atomically
from rhseg_lib.profile import Profile, load_profile
from rhseg_lib.report.notebook_parameters import check

TEMPLATES = Path(__file__).parent / "templates"
PAGES = {  # notebook -> name in the navigation
    "00_summary": "Summary",
    "01_dataset": "Data",
    "02_architectures": "Architectures",
    "04_ablation": "Ablation",
    "05_comparison": "Comparison",
    "06_segmentations": "Segmentations",
    "07_claims": "Claims",
    "08_speed": "Speed",
    "11_realtime": "Real time",
}
OWN_PAGES = {  # of a profile that does not judge the paper
    "00_results": "Results",
    "01_dataset": "Data",
    "06_segmentations": "Segmentations",
    "05_comparison": "Comparison",
    "02_architectures": "Architectures",
    "08_speed": "Speed",
    "11_realtime": "Real time",
}
START_SECONDS = 300  # a kernel's first import from a cold, busy disk takes over a minute
RESTORE = "restore the notebook, for example with `git checkout`"


def check_parameters(notebook: Path, parameters: dict[str, Any]) -> None:
    """Raise a StudyError for a missing notebook, and for a parameter with an undeclared name or of the wrong type."""
    if not notebook.exists():
        known = ", ".join(sorted(p.name for p in notebook.parent.glob("*.ipynb"))) or "none"
        raise StudyError("no such notebook", where=notebook, fix=f"take one of: {known}")
    try:
        nbformat.validate(read_json(notebook, fix=RESTORE))
    except (nbformat.ValidationError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"not a notebook ({str(error).splitlines()[0]})", where=notebook, fix=RESTORE) from error
    declared = papermill.inspect_notebook(str(notebook))
    check(parameters, {name: about["inferred_type_name"] for name, about in declared.items()}, notebook)


def run_notebook(notebook: Path, output: Path, parameters: dict[str, Any], *, root: Path = Path()) -> None:
    """Execute a notebook in the folder `root`; `output` is written only if every cell succeeded.

    A failed execution is kept beside it as ``<name>.failed.ipynb``.

    Raises
    ------
    StudyError
        An invalid parameter, or a failed cell: notebook, cell and error.
    """
    check_parameters(notebook, parameters)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(".partial.ipynb")
    failed = output.with_suffix(".failed.ipynb")
    try:
        _execute(notebook, partial, parameters, root)
    except (PapermillExecutionError, DeadKernelError) as error:
        os.replace(partial, failed)
        what = "lost its kernel: the process was killed"
        fix = "usually it ran out of memory: free some, then run the same command again"
        if isinstance(error, PapermillExecutionError):
            what = f"failed in cell {error.exec_count}: {error.ename}: {strip_ansi(error.evalue)}"
            fix = "fix the cause and run the same command again; finished steps are not repeated"
        raise StudyError(f"{notebook.name} {what}", where=f"{failed} (the executed copy)", fix=fix) from error
    failed.unlink(missing_ok=True)
    os.replace(partial, output)


def _execute(notebook: Path, output: Path, parameters: dict[str, Any], root: Path) -> None:
    """Run every cell in a new kernel; one that does not start has run no cell and is tried three times."""
    for starts_left in (2, 1, 0):
        with tempfile.TemporaryDirectory(prefix="kernel") as sockets:
            try:
                papermill.execute_notebook(
                    str(notebook),
                    str(output),
                    parameters,
                    cwd=str(root),
                    progress_bar=False,
                    stderr_file=sys.stderr,
                    config=kernel_config(Path(sockets)),
                    start_timeout=START_SECONDS,
                    shutdown_kernel="immediate",
                )
                return
            except (DeadKernelError, PapermillExecutionError):
                raise  # a cell had started
            except RuntimeError as error:
                if starts_left == 0:
                    output.unlink(missing_ok=True)
                    fix = "`python -m ipykernel` in a terminal shows the cause; then run the same command again"
                    raise StudyError(f"no kernel started: {error}", where=notebook, fix=fix) from error
                show(f"{notebook.name}: {error}; trying again", error=True)


def kernel_config(sockets: Path) -> Config:
    """Return where a kernel listens: in files of a private folder, so that kernels started together never share a port.

    Where the system has no such sockets (Windows), over TCP; encrypted, so that other users cannot send commands.
    """
    place = {"transport": "ipc", "connection_file": str(sockets / "kernel.json")} if zmq.has("ipc") else {}
    return Config({"KernelManager": {"transport_encryption": "auto", **place}})


def pages_of(profile: Profile) -> dict[str, str]:
    """The pages of a profile's report in the order of the navigation: notebook -> name."""
    pages = {}
    for name, text in (PAGES if profile.paper else OWN_PAGES).items():
        pages[name] = text
        if name == "06_segmentations" and profile.thickness.fits(profile.data.classes):
            pages["10_thickness" if profile.data.source == "synthetic" else "10_own_thickness"] = "Thickness"
    return pages


def write_page(executed: Path, html: Path, *, profile: Profile, notebook: str, without: tuple[str, ...] = ()) -> None:
    """Convert an executed notebook to one self-contained HTML file, with folded code and embedded images.

    The navigation leads to the pages of the profile, but not to those named in `without`; lines of the front page that
    link to them are left out.
    """
    content = nbformat.read(executed, as_version=4)
    heading = next(c.source for c in content.cells if c.cell_type == "markdown").splitlines()[0].lstrip("# ")
    if notebook == "03_train":
        heading = executed.stem.removeprefix("03_train_").replace("_seed", ", seed ")
    for cell in content.cells:
        if cell.cell_type == "markdown" and any(f"html/{page}.html" in cell.source for page in without):
            lines = cell.source.splitlines()
            cell.source = "\n".join(line for line in lines if not any(f"html/{page}.html" in line for page in without))
    front = html.parent == profile.reports
    pages = {page: text for page, text in pages_of(profile).items() if page not in without}
    hrefs = {page: f"html/{page}.html" if front else f"{page}.html" for page in pages}
    hrefs[next(iter(pages))] = "index.html" if front else "../index.html"
    links = [{"text": text, "href": hrefs[page], "current": page == notebook} for page, text in pages.items()]
    style = (TEMPLATES / "report" / "style.css").read_text(encoding="utf-8")
    page = {
        "title": f"{heading} · {profile.title}",
        "style": style + HtmlFormatter(style="default").get_style_defs(".highlight"),
        "links": links,
        "banner": profile.data_banner if notebook in ("01_dataset", "02_architectures") else profile.banner,
        "kind": profile.kind,
        "notebook": f"notebooks/{notebook}.ipynb",
    }
    exporter = HTMLExporter(template_name="report", extra_template_basedirs=[str(TEMPLATES)])
    body, _ = exporter.from_notebook_node(content, resources={"page": page})
    html.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(html, body.encode())


def main(arguments: list[str] | None = None) -> int:
    """Command line: return 0 if the notebook ran and its page was written, else 1 with the error on standard error."""
    parser = argparse.ArgumentParser(prog="python -m rhseg_lib.report.runner", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="the executed copy")
    parser.add_argument("--html", type=Path, required=True, help="the HTML page")
    parser.add_argument("--without", nargs="*", default=[], metavar="PAGE", help="pages that this report lacks")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="parameters")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    started = time.monotonic()
    parameters = {name: parse_yaml(value, where=f"-p {name}") for name, value in options.parameters}
    profile = load_profile(str(parameters.get("profile", "quick")))
    with disk_errors(options.output):
        run_notebook(options.notebook, options.output, parameters, root=profile.root)
        without = tuple(options.without)
        write_page(options.output, options.html, profile=profile, notebook=options.notebook.stem, without=without)
    show(f"{options.output.stem}: {time.monotonic() - started:.0f} s → {options.html}", error=True)


if __name__ == "__main__":
    sys.exit(main())
