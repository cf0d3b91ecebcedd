"""Atomic file writes, checked reads, one writer per folder, and resumable folder builds.

<name>.unfinished/finished.jsonl   the settings of the build, then one line for each finished item
<name>.unfinished/tree/            becomes <name>
<name>.unfinished/replaced/        the old <name>, which is deleted once the new one has its place

A folder is replaced or emptied only if it holds a file that this study put there.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import file_digest, sha256
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from rhseg_lib.errors import StudyError, show

LEFT_BEHIND = ("thumbs.db", "desktop.ini")  # by file managers that only displayed the folder
LOCK = ".writing"  # held by the process that writes the folder; a kill leaves the file, but nobody holds it
JOURNAL = "finished.jsonl"
MAX_ALIASES = 20  # in YAML: each repeats a part of it, and a few dozen fill any memory
DISK_ERRORS = {
    errno.ENOSPC: ("no space left on the disk", "free space there"),
    errno.EDQUOT: ("no space left in your quota", "free space there"),
    errno.EROFS: ("a read-only disk", "choose a folder that can be written"),
    errno.ENOTDIR: ("a file stands where a folder is needed", "choose another folder"),
    errno.EACCES: ("no permission", "allow access to it, or choose another folder"),
}


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn a full or read-only disk and a lack of permission into a StudyError."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        what, fix = DISK_ERRORS[error.errno]
        fix += ", then run again: what is finished is kept"
        raise StudyError(what, where=error.filename2 or error.filename or where, fix=fix) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write under a temporary name beside `path`, then rename: `path` is complete or unchanged; see `disk_errors`."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with disk_errors(path):
        try:
            draft.write_bytes(content)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """The text of a file; StudyError if it is missing, no file (reading a pipe would never end), or not in UTF-8."""
    if not path.is_file():
        what = "not a file, but a folder, a pipe or a device" if path.exists() else "the file is not there"
        raise StudyError(what, where=path, fix="put the file there, or correct the path")
    try:
        with disk_errors(path):
            return path.read_text(encoding="utf-8-sig")  # a byte order mark, as Windows' editor writes it, is skipped
    except UnicodeDecodeError as error:
        raise StudyError(f"not text in UTF-8 ({error.reason})", where=path, fix="save it as UTF-8") from error


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which no mapping has a key twice: all but the last of its values would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set[str]()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self.aliases = getattr(self, "aliases", 0) + 1
            if self.aliases > MAX_ALIASES:
                mark = self.peek_event().start_mark
                raise yaml.composer.ComposerError(None, None, f"more than {MAX_ALIASES} aliases", mark)
        return super().compose_node(parent, index)


def parse_yaml(text: str, *, where: object) -> object:
    """The content of YAML text; StudyError if it is none."""
    try:
        return yaml.load(text, _UniqueKeys)  # a SafeLoader
    except yaml.YAMLError as error:
        raise StudyError("not valid YAML", where=where, fix=str(error)) from error
    except RecursionError as error:
        raise StudyError("not valid YAML: nested too deeply", where=where, fix="remove brackets") from error
    except (ValueError, LookupError, AttributeError) as error:  # a tag such as !!int before a value of another type
        fix = "write dates and other texts in quotes"
        raise StudyError(f"not valid YAML: a value cannot be read ({error})", where=where, fix=fix) from error


def read_json(path: Path, *, fix: str) -> dict:
    """The JSON object in a file; StudyError, with this `fix`, if it holds anything else."""
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise StudyError(f"not JSON ({error})", where=path, fix=fix) from error
    if not isinstance(content, dict):
        raise StudyError("not a JSON object", where=path, fix=fix)
    return content


def refuse_foreign(folder: Path, marks: Iterable[str]) -> None:
    """Stop before a folder with files is replaced or emptied, unless a file in it marks it as made by this study."""
    foreign = folder.is_dir() and any(folder.iterdir()) and not any((folder / mark).exists() for mark in marks)
    if foreign or folder.is_file():
        raise StudyError("a file or folder not made here is in the way", where=folder, fix="move it elsewhere")


@contextmanager
def sole_writer(folder: Path, *, marks: Iterable[str] | None = None) -> Iterator[None]:
    """Be the only process that writes `folder`, which is created; if it is empty in the end, it is removed.

    StudyError if another process writes it, or, with `marks`, if it holds files and none of them is one of these.
    """
    if marks is not None:
        refuse_foreign(folder, (LOCK, *marks))
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except (Timeout, FileNotFoundError) as error:  # not found: the other writer has just removed it
            fix = "wait until it has ended, then run again; or give each its own folder"
            raise StudyError("another run is writing here", where=folder, fix=fix) from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            (folder / LOCK).unlink()  # while held, so that nobody can take a lock that is about to vanish
        lock.release()
        with suppress(OSError):  # not empty: kept for the next run
            folder.rmdir()


def draft_of(target: Path) -> Path:
    """The folder in which the new `target` is built."""
    return target.with_name(f"{target.name}.unfinished")


class Journal:
    """A file that lists the settings of a run, then what it has finished, one JSON object per line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, settings: dict) -> list[dict] | None:
        """Records of a run with these settings, or None; a line that a kill cut off is removed."""
        content = self.path.read_bytes() if self.path.is_file() else b""
        complete = content[: content.rfind(b"\n") + 1]
        if not complete:
            return None
        run = f"the run in '{self.path.parent.name}'"
        try:
            first, *records = map(json.loads, filter(None, complete.splitlines()))
            changed = [name for name, value in settings.items() if first.get(name) != value]
        except (ValueError, AttributeError, RecursionError):
            show(f"{self.path.name} of {run} is damaged: starting again")
            return None
        if changed:
            show(f"{', '.join(changed)} changed since {run}: starting again")
            return None
        if complete != content:
            write_atomically(self.path, complete)
        return records

    def start(self, settings: dict, records: Iterable[dict] = ()) -> None:
        """Replace the file."""
        write_atomically(self.path, b"".join(map(_line, (settings, *records))))

    def add(self, *records: dict) -> None:
        """Append records of items whose files are complete."""
        with self.path.open("ab") as file:
            file.writelines(map(_line, records))


class Unfinished:
    """The folder `tree` under construction, which will replace `target`; call it as `sole_builder`.

    `settings` are all that determines the content besides the input: a build with other settings is discarded.
    `finished` maps the name of each finished item to its record, of JSON types.
    """

    def __init__(self, target: Path, settings: dict) -> None:
        self.target = target
        self.tree = draft_of(target) / "tree"
        self._journal = Journal(draft_of(target) / JOURNAL)
        records = self._journal.read(settings)
        if records is None:
            shutil.rmtree(self.tree, ignore_errors=True)
        self.finished = {record.pop("name"): record for record in records or []}
        self._journal.start(settings, ({"name": name, **record} for name, record in self.finished.items()))
        self.tree.mkdir(exist_ok=True)
        (self.tree / "dataset.json").unlink(missing_ok=True)  # of a build killed just before it was published

    def record(self, records: dict[str, dict]) -> None:
        """Record finished items, whose files are complete."""
        self.finished |= records
        self._journal.add(*({"name": name, **record} for name, record in records.items()))

    def forget(self, names: list[str]) -> None:
        """Drop items that must be rebuilt; a later line with the same name replaces the earlier one."""
        for name in names:
            del self.finished[name]

    def publish(self) -> None:
        """Replace the target by the tree; after a kill at any moment, `repair` restores a valid state."""
        if self.target.exists():
            self.target.rename(_replaced(self.target))
        self.tree.rename(self.target)
        repair(self.target)
        self._journal.path.unlink()


@contextmanager
def sole_builder(target: Path, *, marks: Iterable[str]) -> Iterator[None]:
    """Be the only process that builds a new `target`; what is finished is kept after an error, see `Unfinished`.

    StudyError if another process builds it, or if the old one holds files and none of them is among `marks`.
    """
    with sole_writer(draft_of(target), marks=[JOURNAL]), disk_errors(target.parent):
        repair(target)
        refuse_foreign(target, marks)
        yield


def repair(target: Path) -> None:
    """Restore the old `target` if a build was killed between the two renames; delete it if the new one is in place."""
    if target.exists():
        shutil.rmtree(_replaced(target), ignore_errors=True)
    elif _replaced(target).exists():
        _replaced(target).rename(target)


def _replaced(target: Path) -> Path:
    return draft_of(target) / "replaced"


def _line(record: dict) -> bytes:
    return json.dumps(record).encode() + b"\n"


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
