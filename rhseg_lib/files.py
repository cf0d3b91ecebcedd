"""Atomic file writes, and resumable, atomic folder builds.

<name>.unfinished/finished.jsonl   the settings of the build, then one line for each finished item
<name>.unfinished/tree/            becomes <name>
<name>.replaced                    the old <name>, between two renames
"""

import errno
import json
import os
import shutil
from contextlib import suppress
from hashlib import file_digest, sha256
from pathlib import Path

from rhseg_lib.errors import StudyError

LEFT_BEHIND = ("thumbs.db", "desktop.ini")  # by file managers that only displayed the folder


def write_atomically(path: Path, content: bytes) -> None:
    """Write under a temporary name beside `path`, then rename: `path` is complete or unchanged.

    Raises
    ------
    StudyError
        No space is left on the disk.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StudyError("no space left on the disk", where=path, fix="free space there, then run again") from error
    finally:
        draft.unlink(missing_ok=True)


class Unfinished:
    """A folder under construction that will replace `target`.

    Parameters
    ----------
    target : Path
    settings : str
        Everything besides the input that determines the content; a build with other settings is discarded.

    Attributes
    ----------
    tree : Path
        The folder to fill.
    finished : dict of str to dict
        Record of each finished item by its name, as JSON types.
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
        (self.tree / "dataset.json").unlink(missing_ok=True)  # of a build killed just before it was published
        lines = [{"settings": settings}, *({"name": name, **record} for name, record in self.finished.items())]
        write_atomically(self._journal, "".join(map(_line, lines)).encode())

    def record(self, records: dict[str, dict]) -> None:
        """Record finished items, whose files are complete."""
        self.finished |= records
        with self._journal.open("a", encoding="utf-8", newline="\n") as journal:
            journal.writelines(_line({"name": name, **record}) for name, record in records.items())

    def forget(self, names: list[str]) -> None:
        """Drop items that must be rebuilt; a later line with the same name replaces the earlier one."""
        for name in names:
            del self.finished[name]

    def publish(self) -> None:
        """Replace the target by the tree; after a kill at any moment, `repair` restores a valid state."""
        replaced = _replaced(self.target)
        if self.target.exists():
            self.target.rename(replaced)
        self.tree.rename(self.target)
        shutil.rmtree(replaced, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, settings: str) -> dict[str, dict]:
        """Records in the journal; none if the build had other settings."""
        records = []
        with suppress(OSError, ValueError):  # no journal, or a last line cut off by a kill
            for line in self._journal.read_text(encoding="utf-8", errors="replace").splitlines():
                records.append(json.loads(line))
        if not records or records[0] != {"settings": settings}:
            return {}
        return {record.pop("name"): record for record in records[1:]}


def repair(target: Path) -> None:
    """Restore the old `target` after a kill between the two renames; delete it after a kill that came later."""
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
    """Digest that changes when a file in the folder is changed, added or removed, not when it is only touched.

    Hidden files and those that file managers leave behind are ignored.
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
