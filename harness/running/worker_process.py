"""What a process does first that executes runs for a driver."""

import ctypes
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import parent_process
from multiprocessing.connection import wait

import torch


def initialize_worker(threads: int) -> None:
    """Set up a worker process: it leaves Ctrl-C to the driver, and ends when the driver does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    torch.set_num_threads(threads)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Wait for the driver's end, however it comes, and end too."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of glibc's `mallopt`, as its malloc.h numbers them."""


KEEP = {M_TRIM_THRESHOLD: -1, M_MMAP_MAX: 0}
"""Never hand the end of the heap back, however much of it is free, and take no block from outside of it."""


def free_memory() -> None:
    """Give memory back that earlier runs of this process used."""
    gc.collect()
    trim_heap()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def keep_freed_memory() -> None:
    """Let this process keep what it frees for the next step, where its allocator is glibc's.

    That one gives large blocks back to the system, which clears them page by page when they are next asked for: a
    step that allocates the same activations again and again spends a good part of its time there (a K = 4
    BatchEnsemble step of a cResNet20 a third of it).
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return  # the user's own settings
    mallopt = from_glibc("mallopt")
    if mallopt is not None:
        for option, value in KEEP.items():
            mallopt(option, value)


def trim_heap() -> None:
    """Give back to the system what this process keeps, as between runs, of which one may need far more than others."""
    malloc_trim = from_glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def from_glibc(name: str) -> Callable[..., int] | None:
    """Find a function of glibc's allocator; None where another one is used."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
