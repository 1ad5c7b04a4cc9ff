"""Recognizes errors of runs that ran out of memory, and advises what to do about them."""

import errno
import re

import torch

OUT_OF_MEMORY_TEXTS = (
    "CUDA out of memory",  # torch's allocator
    "CUDA ran out of memory outside PyTorch's allocator",  # torch, on behalf of cuDNN
    "CUDA error: out of memory",  # the CUDA runtime, in C10_CUDA_CHECK
    "CUDA driver error: out of memory",  # the driver, in C10_CUDA_DRIVER_CHECK: segments that expand
    "DefaultCPUAllocator",  # torch's allocator on the CPU
    "CUBLAS_STATUS_ALLOC_FAILED",  # cublas_api.h
    "CUSOLVER_STATUS_ALLOC_FAILED",  # cusolver_common.h
    "CUSPARSE_STATUS_ALLOC_FAILED",  # cusparse.h
    "CUFFT_ALLOC_FAILED",  # cufft.h
    "CURAND_STATUS_ALLOCATION_FAILED",  # curand.h
    "CUDNN_STATUS_ALLOC_FAILED",  # cuDNN 8
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",  # cudnn_graph.h, cuDNN 9
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",  # cudnn_graph.h, cuDNN 9
    # For a convolution, torch tries all engines of cuDNN and drops their reasons, often that memory is missing
    # (pytorch/pytorch issue 108645). A run that no engine can compute is tried twice, then, and fails with this text.
    "unable to find an engine to execute this computation",
    # A library that has no memory for its handle says no more than that it is not initialized.
    r"CUBLAS_STATUS_NOT_INITIALIZED when calling `cublas(?:Lt)?Create",
    r"CUSOLVER_STATUS_NOT_INITIALIZED, when calling `cusolver\w*Create",
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    r"Failed to CUDA (?:c|m)alloc(?: async)? \d+ bytes",  # NCCL, include/alloc.h
    r"Cuda failure (?:\d+ )?'out of memory'",  # NCCL, include/checks.h
    r"Triton Error \[CUDA\]: out of memory",  # Triton's launcher, of compiled networks
    r"Cannot allocate memory \(12\)",  # torch, of memory that processes share
)
"""Patterns of texts in a RuntimeError of PyTorch which say that a library, a driver or the system had no memory left.

They stand in torch 2.14 and the libraries that it brings: cuDNN 9, cuBLAS and others of CUDA 13, NCCL 2."""
OUT_OF_MEMORY = re.compile("|".join(OUT_OF_MEMORY_TEXTS))


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or the error that caused it, says that there was no memory left."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        if isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)):
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
