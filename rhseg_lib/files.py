"""Writing a file whole or not at all, and building a folder so that what is finished outlives a kill.

<name>.unfinished/finished.jsonl   what it is made with, then one line for each finished piece
<name>.unfinished/tree/            what is to be <name>
<name>.replaced                    what <name> was, for the moment between two renames
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import suppress
from hashlib import file_digest, sha256
from pathlib import Path

from rhseg_lib.errors import StudyError

LEFT_BEHIND = ("thumbs.db", "desktop.ini")  # by file managers that only looked


def write_atomically(path: Path, content: bytes) -> None:
    """Write under a temporary name beside `path`, then rename: `path` is whole or unchanged.

    Raises
    ------
    StudyError
        No space is left on the disk.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    except OSError as fault:
        if fault.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StudyError("no space left on the disk", where=path, fix="free space there, then run again") from fault
    finally:
        draft.unlink(missing_ok=True)


class Unfinished:
    """The folder that is to take the place of `target`.

    Parameters
    ----------
    target : Path
    settings : str
        Whatever decides the content besides the input; what was begun with other settings is thrown away.

    Attributes
    ----------
    tree : Path
        To be filled.
    finished : dict of str to dict
        Record of each finished piece by its name, as JSON types.
    """

    def __init__(self, target: Path, settings: str) -> None:
        self.target = target
        self.folder = target.with_name(f"{target.name}.unfinished")
        self.tree = self.folder / "tree"
        self._journal = self.folder / "finished.jsonl"
        self.finished = self._read(settings)
        if not self.finished:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.tree.mkdir(parents=True, exist_ok=True)
        (self.tree / "dataset.json").unlink(missing_ok=True)  # killed just before it took its place
        lines = [{"settings": settings}, *({"name": name, **record} for name, record in self.finished.items())]
        write_atomically(self._journal, "".join(map(_line, lines)).encode())

    def record(self, records: dict[str, dict]) -> None:
        """Note finished pieces, whose files are whole."""
        self.finished |= records
        with self._journal.open("a", encoding="utf-8", newline="\n") as journal:
            journal.writelines(_line({"name": name, **record}) for name, record in records.items())

    def forget(self, names: list[str]) -> None:
        """Take pieces back that are to be made anew; a later line of the same name counts."""
        for name in names:
            del self.finished[name]

    def publish(self) -> None:
        """Put the tree in the target's place; killed at any moment, `repair` fixes what is left."""
        replaced = _replaced(self.target)
        if self.target.exists():
            self.target.rename(replaced)
        self.tree.rename(self.target)
        shutil.rmtree(replaced, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, settings: str) -> dict[str, dict]:
        """What the journal holds if it was begun with these settings."""
        records = []
        with suppress(OSError, ValueError):  # none there; or a kill tore its last line
            for line in self._journal.read_text(encoding="utf-8", errors="replace").splitlines():
                records.append(json.loads(line))
        if not records or records[0] != {"settings": settings}:
            return {}
        return {record.pop("name"): record for record in records[1:]}


def repair(target: Path) -> None:
    """Bring back what stood at `target` if a kill came between the two renames, or clear it away after them."""
    replaced = _replaced(target)
    if not replaced.exists():
        return
    if target.exists():
        shutil.rmtree(replaced)
    else:
        replaced.rename(target)


def _replaced(target: Path) -> Path:
    return target.with_name(f"{target.name}.replaced")


def _line(record: dict) -> str:
    return json.dumps(record) + "\n"


def content_digest(folder: Path) -> str:
    """Another one when a file of a folder changes, comes or goes; not when it is only touched.

    Hidden files and what file managers leave behind do not count.
    """
    digest = sha256()
    for path in sorted(Path(folder).rglob("*")):
        names = path.relative_to(folder).parts
        if path.is_file() and not any(name[0] == "." or name.lower() in LEFT_BEHIND for name in names):
            with path.open("rb") as file:
                digest.update(
                    f"{'/'.join(names)}\n{file_digest(file, 'sha256').hexdigest()}\n".encode(errors="replace")
                )
    return digest.hexdigest()
