"""Errors as they reach the terminal: in words, escaped, with an exit code; from real pipes, disks and users."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATH

from rhseg_lib.errors import StudyError, exit_code, printable, show
from rhseg_lib.files import read_json

ROOT = Path(__file__).parent.parent
NAMELESS = ["--reuid=12345", "--clear-groups", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("渣层 Öfen é 7 %", "渣层 Öfen é 7 %"),
        ("no\u00a0break\u3000wide", "no\u00a0break\u3000wide"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("gpj.\u202eexe\u2066", r"gpj.\u202eexe\u2066"),
        ("\u2028\x9b1m\x7f", r"\u2028\x9b1m\x7f"),
        ("not UTF-8: \udcff", r"not UTF-8: \udcff"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, expected):
    assert printable(text) == expected
    assert printable(text, keep="\n") == expected.replace(r"\n", "\n")
    error = str(StudyError(text, where=Path(text), fix=text))
    assert f"where: {expected}\n" in error and "\x1b" not in error


def test_a_terminal_of_another_encoding_shows_escapes(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    show("渣 \x1b\nö")
    stream.flush()
    assert stream.buffer.getvalue() == b"\\u6e23 \\x1b\n\\xf6\n"


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (StudyError("no data", where="here\x1b", fix="add some"), ["no data", r"where: here\x1b", "fix:   add some"]),
        (OSError(36, "File name too long", "x" * 300), ["File name too long", "where: xxx", "fix:"]),
        (KeyboardInterrupt(), ["interrupted", "fix:   run again"]),
    ],
)
def test_a_command_reports_an_error_and_fails(capsys, raised, expected):
    def command() -> int:
        raise raised

    assert exit_code(command) == 1
    stderr = capsys.readouterr().err
    assert stderr.startswith("\nerror: ") and all(words in stderr for words in expected)
    assert exit_code(lambda: None) == 0 and exit_code(lambda: 3) == 3


JSON = {
    "deep lists": (b"[" * 100_000, "not JSON"),
    "deep objects": (b'{"a":' * 100_000, "not JSON"),
    "cut": (b'{"a": ', "not JSON"),
    "a list": (b"[]", "not a JSON object"),
    "not UTF-8": (b'{"a": "\xff"}', "not text in UTF-8"),
    "empty": (b"", "not JSON"),
    "folder": (Path.mkdir, "a folder, a pipe or a device"),
    "pipe": (os.mkfifo, "a folder, a pipe or a device"),
    "link to a device": (lambda path: path.symlink_to("/dev/zero"), "a folder, a pipe or a device"),
    "missing": (lambda path: None, "not there"),
}


@pytest.mark.parametrize(("made", "expected"), JSON.values(), ids=JSON)
def test_json_that_cannot_be_read_names_the_file(tmp_path, made, expected):
    path = tmp_path / "metrics.json"
    path.write_bytes(made) if isinstance(made, bytes) else made(path)
    with pytest.raises(StudyError, match=expected) as caught:
        read_json(path, fix="train again")
    assert caught.value.where == path


def test_predict_ends_at_a_pipe_in_place_of_weights(tmp_path):
    os.mkfifo(tmp_path / "w\x1b.safetensors")
    command = [sys.executable, "-m", "rhseg_lib.predict", "data/sample", "--output", str(tmp_path / "out")]
    command += ["--weights", str(tmp_path / "w\x1b.safetensors")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 1 and "\x1b" not in ran.stderr
    assert "error: the weights are a folder, a pipe or a device" in ran.stderr and r"w\x1b.safetensors" in ran.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("home", [{}, {"HOME": "/proc/nowhere"}])
def test_a_user_without_name_and_home_can_plan_the_study(tmp_path, home):
    for name in ("Makefile", "Snakefile", "notebooks", "profiles", "rhseg_lib"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("requirements.lock", "pyproject.toml", "installed"):
        (tmp_path / name).touch()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/installed").touch()
    tmp_path.chmod(0o777)
    environment = {"PATH": PATH, "PYTHONPATH": str(ROOT), **home}
    command = ["setpriv", *NAMELESS, "make", "study", "PROFILE=ci", "CORES=1 --dry-run"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "This was a dry-run" in ran.stdout + ran.stderr
