"""Memory: kept for the next step, given back, or more of it needed than there is."""

import ctypes
import gc
import os
import sys
from collections.abc import Callable

import torch

SIGNS = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
    "DefaultCPUAllocator",
)
"""What PyTorch writes into a RuntimeError where memory was refused by a library, a driver or the system."""

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of glibc's `mallopt`, as its malloc.h numbers them."""
KEEP = {M_TRIM_THRESHOLD: -1, M_MMAP_MAX: 0}
"""Never hand the end of the heap back, however much of it is free, and take no block from outside of it."""


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that memory was refused."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS):
            return True
        error = error.__cause__
    return False


def advice(device: str) -> str:
    """Say what to do about a run that needs more memory than there is even where it is alone."""
    if torch.device(device).type == "cuda":
        others = f"if another driver or program uses {device} too, leave it to one of them"
    else:
        others = "if other programs use the memory, end them or take fewer --workers"
    return (
        f"it was alone on {device}: a smaller batch_size, or fewer members, needs less, and so do late-phase members "
        f"one by one (--fuse never); {others}"
    )


def free_memory() -> None:
    """Give memory back that earlier runs of this process used."""
    gc.collect()
    trim()
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


def trim() -> None:
    """Give back to the system what this process keeps, as between runs, of which one may need far more than others."""
    malloc_trim = from_glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def from_glibc(name: str) -> Callable[..., int] | None:
    """Find a function of glibc's allocator; None where another one is used."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
