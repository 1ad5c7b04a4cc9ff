"""Memory: kept for the next step, given back, or more of it needed than there is."""

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
