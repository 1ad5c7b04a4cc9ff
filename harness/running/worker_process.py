"""Sets up the processes that execute runs: signals, threads, devices, and how freed memory is handled."""

import ctypes
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import parent_process
from multiprocessing.connection import wait

import torch
from torch import nn


def initialize_worker(threads: int) -> None:
    """Set up a worker process. It leaves Ctrl-C to the driver, and ends when the driver ends.

    Args:
        threads: the number of threads that torch uses.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    torch.set_num_threads(threads)
    threading.Thread(target=end_with_parent, daemon=True).start()


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C in processes that are started inside a `with` block; in this process it waits for the block's end.

    A process of ours would otherwise answer to it with a traceback until `initialize_worker` is called.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Wait until the driver ends, for any reason, then end this process."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def set_up_device(device: torch.device, *, deterministic: bool) -> None:
    """Make a run's device the current one of this process, choose its algorithms, and warm it up.

    Args:
        device: the device.
        deterministic: whether only algorithms may be used that give the same bits at every repetition. An operation
            that has none raises an error. Otherwise cuDNN measures which algorithm of a convolution is fastest; which
            one it takes, and so the last bits, may differ from process to process. A CPU has no such algorithms.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if deterministic:
        os.environ.setdefault(CUBLAS_WORKSPACE, ":4096:8")  # cuBLAS reads it when it is first used
    if torch.are_deterministic_algorithms_enabled() != deterministic:  # the call takes seconds, for what it imports
        torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # takes time
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic  # shapes stay the same for a whole run
    warm_up(device)


@cache
def warm_up(device: torch.device) -> None:
    """Initialize a device with a throw-away training step, so that no run's seconds include this one-time work."""
    import torch._dynamo  # takes a second; the first optimizer would import it, and keep what its callers hold

    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=True)
    for _ in range(2):
        net(torch.zeros(2, 1, 8, 8, device=device)).sum().backward()
        optimizer.step()


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""The numbers of two options of glibc's `mallopt`, from its malloc.h."""
KEEP_FREED_MEMORY = {M_TRIM_THRESHOLD: -1, M_MMAP_MAX: 0}
"""Options by which the heap is never trimmed by itself, and every block is allocated in it."""


def free_memory() -> None:
    """Return the memory that earlier runs of this process used to the system and to the GPU."""
    gc.collect()
    trim_heap()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next step, if its allocator is glibc's.

    By default glibc returns large blocks to the system, which clears them page by page when they are allocated again.
    A training step allocates the same activations each time, and can spend much of its time there: a third of a K = 4
    BatchEnsemble step of a cResNet20.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return  # the user has set the allocator's options
    mallopt = glibc_function("mallopt")
    if mallopt is not None:
        for option, value in KEEP_FREED_MEMORY.items():
            mallopt(option, value)


def trim_heap() -> None:
    """Return the freed memory that this process has kept to the system.

    This is done between runs, because one run may need far more memory than the next.
    """
    malloc_trim = glibc_function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def glibc_function(name: str) -> Callable[..., int] | None:
    """Return a function of glibc's allocator; None if the process does not use glibc."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
