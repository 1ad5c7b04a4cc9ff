"""Recognizes errors of runs that ran out of memory, and advises what to do about them."""

import torch

OUT_OF_MEMORY_TEXTS = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
    "DefaultCPUAllocator",
)
"""Texts in a RuntimeError of PyTorch which say that a library, a driver or the system had no memory left."""


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or the error that caused it, says that there was no memory left."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS):
            return True
        error = error.__cause__
    return False


def advice(device: str) -> str:
    """Return advice for a run that ran out of memory although no other run was on its device."""
    if torch.device(device).type == "cuda":
        others = f"if another driver or program also uses {device}, run only one of them at a time"
    else:
        others = "if other programs use the memory, end them, or use fewer --workers"
    return (
        f"it was alone on {device}: a smaller batch_size, or fewer members, needs less memory; so do late-phase "
        f"members that are run one by one (--fuse never); {others}"
    )
