"""A `map` over processes, for work on images and masks alone."""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, parent_process
from threading import Thread

import cv2


@contextmanager
def processes(workers: int) -> Iterator[Callable]:
    """`map`, in this process or over several. They are spawned: forking a notebook's threads may deadlock."""
    if workers == 1:
        yield map
        return
    pool = ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context("spawn"), initializer=_start_worker)
    try:
        yield partial(pool.map, chunksize=4)
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
