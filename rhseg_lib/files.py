"""Writing a file whole or not at all."""

import errno
import os
from pathlib import Path

from rhseg_lib import StudyError


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
        raise StudyError("no space left on the disk", where=path, mend="free space there, then run again") from fault
    finally:
        draft.unlink(missing_ok=True)
