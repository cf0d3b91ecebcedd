"""A `map` over processes, for work on images and masks alone."""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import cv2

from rhseg_lib.errors import StudyError


@contextmanager
def processes(workers: int, folder: Path) -> Iterator[Callable]:
    """`map`, in this process or over several; StudyError if one of them dies while it works on `folder`.

    They are spawned: forking a notebook's threads may deadlock.
    """
    if workers == 1:
        yield map
        return
    pool = ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context("spawn"), initializer=_start_worker)
    try:
        yield partial(pool.map, chunksize=4)
    except BrokenProcessPool as error:
        fix = "run again with one worker: most often memory ran out; what is finished is kept"
        raise StudyError("a worker process died", where=folder, fix=fix) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """One thread per process, and no torch: albumentations imports it if it can, for 3 s and 600 MB per process."""
    Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # typeshed omits None, which blocks an import


def _end_with_parent() -> None:
    """End with the parent: a worker whose parent was killed would wait for work forever."""
    if parent := parent_process():
        parent.join()
        os._exit(1)
