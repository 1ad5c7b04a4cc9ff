"""Runs that run out of memory: how that is recognized, and that they are tried again once, alone on their device."""

import errno
import gc
import platform
import subprocess
import sys

import pytest
import torch

from harness.engines import Inline, Processes
from harness.running.out_of_memory import advice, ran_out_of_memory
from harness.store.damaged_files import read_json
from harness.store.run_folder import RunFolder


def raised(action):
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        action()
    return caught.value


@pytest.mark.parametrize(
    "action",
    [
        lambda: torch.empty(10**15),
        lambda: torch.zeros(2, 2).expand(10**7, 10**8, 2, 2).contiguous(),
        lambda: bytearray(2**62),
    ],
)
def test_errors_of_a_system_without_memory(action):
    assert ran_out_of_memory(raised(action))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        *map(
            RuntimeError,
            [
                "CUDA out of memory. Tried to allocate",
                "CUDA ran out of memory outside PyTorch's allocator. If this workload uses many dynamic shapes, cuDNN",
                "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
                "CUDA driver error: out of memory",
                "GET was unable to find an engine to execute this computation",
                "FIND was unable to find an engine to execute this computation",
                "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
                "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
                "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
                "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
                "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
                "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasLtCreate(&handle)`",
                "CUDA error: CUSOLVER_STATUS_ALLOC_FAILED",
                "cusolver error: CUSOLVER_STATUS_NOT_INITIALIZED, when calling `cusolverDnCreate(handle)`. If you keep",
                "CUDA error: CUSPARSE_STATUS_ALLOC_FAILED when calling `cusparseCreate(&handle)`",
                "cuFFT error: CUFFT_ALLOC_FAILED",
                "curand error: CURAND_STATUS_ALLOCATION_FAILED",
                "Failed to CUDA calloc async 608 bytes",
                "NCCL error in: NCCL.cpp:36, unhandled cuda error\nLast error:\nFailed to CUDA calloc 64 bytes",
                "Failed to CUDA malloc 536870912 bytes",
                "NCCL error: Cuda failure 2 'out of memory'",
                "NCCL WARN Cuda failure 'out of memory'",
                "Triton Error [CUDA]: out of memory",
                "unable to mmap 1000 bytes from file <filename not specified>: Cannot allocate memory (12)",
            ],
        ),
    ],
    ids=str,
)
def test_errors_of_a_gpu_without_memory(error):
    assert ran_out_of_memory(error)
    wrapped = ValueError("while something else went on")
    wrapped.__cause__ = error
    assert ran_out_of_memory(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("CUDA out of memory"),
        OSError(28),
        *map(
            RuntimeError,
            [
                "mat1 and mat2 shapes cannot be multiplied",
                "CUDA error: an illegal memory access was encountered",
                "CUDA error: device-side assert triggered",
                "CUDA error: unspecified launch failure",
                "CUDA driver error: invalid argument",
                "Found no NVIDIA driver on your system.",
                "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous",
                "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
                "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
                "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`",
                "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm( handle, opa, opb, m, n, k)`",
                "cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED, when calling `cusolverDnCreate(handle)`",
                "NCCL error: unhandled cuda error, Cuda failure 'peer access is not supported between two'",
                "Expected all tensors to be on the same device",
                "unable to find a valid batch; the data ran out of examples",
            ],
        ),
    ],
    ids=str,
)
def test_other_errors(error):
    assert not ran_out_of_memory(error)


def test_the_advice_depends_on_the_device():
    assert "it was alone on cuda:1: " in advice("cuda:1")
    assert "--workers" in advice("cpu") and "--per-gpu" not in advice("cpu")
    assert all("batch_size" in advice(device) for device in ("cpu", "cuda"))


HUNGRY = """
import os, time
from pathlib import Path
import torch
from methods import Method

def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)

class Neighbour(Method):
    'Is on the device until the hungry one has failed once, and some time more.'
    def __init__(self, make_net, recipe, *, box: str = ""):
        super().__init__(make_net, recipe)
        self.box = Path(box)
    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        if epoch == 0:
            (self.box / "here").touch()
            wait_for(lambda: list(self.box.glob("tries *")))
        time.sleep(0.2)
    def end_epoch(self, epoch):
        super().end_epoch(epoch)
        if epoch == self.epochs - 1:
            (self.box / "here").unlink()

class Hungry(Method):
    'Has enough memory in epoch 1 only where nobody else is; or, if it is `always` so, never.'
    def __init__(self, make_net, recipe, *, box: str = "", always: bool = False):
        super().__init__(make_net, recipe)
        self.box, self.always = Path(box), always
    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        if epoch != 1:
            return
        tries = self.box / f"tries {self.always}"
        if not self.always and not tries.exists():
            wait_for(lambda: (self.box / "here").exists())
        others = list(self.box.glob("here"))
        with tries.open("a") as file:
            file.write(f"{os.getpid()} {len(others)}\\n")
        if others or self.always:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

METHODS = {"neighbour": Neighbour, "hungry": Hungry}
"""
ALWAYS = "it was alone on cpu: a smaller batch_size, or fewer members, needs less"


@pytest.fixture
def study(tmp_path, write_study):
    (tmp_path / "hungry.py").write_text(HUNGRY)
    (tmp_path / "box").mkdir()
    box = repr(str(tmp_path / "box"))

    def write(*methods, **changes):
        return write_study(tmp_path / "s.yaml", methods=[m.replace("box", f"box={box}") for m in methods], **changes)

    return write


def read_tries(tmp_path, always):
    """The process and the number of neighbours of each try."""
    return [line.split() for line in (tmp_path / "box" / f"tries {always}").read_text().splitlines()]


@pytest.mark.long
def test_a_run_that_ran_out_of_memory_beside_others_is_tried_again_alone(tmp_path, study, run_study):
    written = study("neighbour(box)", "hungry(box)", "hungry(box, always=True)")
    done = run_study(written, tmp_path / "runs", Processes(2, 1), plugins=[tmp_path / "hungry.py"])
    ((key, outcome),) = done.schedule.failed.items()
    assert "always=True" in str(done.plan.runs[key].run.method)
    assert done.schedule.finished == set(done.plan.runs) - {key}
    (first, others), (second, alone) = read_tries(tmp_path, False)
    assert (others, alone) == ("1", "0")
    assert first != second, "in a new process, so that nothing is kept from the first try"
    assert len(read_tries(tmp_path, True)) == 2, "once more, not again and again"
    assert outcome.state == "failed"
    assert outcome.reason.startswith("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. (")
    assert ALWAYS in outcome.reason
    failure = read_json(RunFolder(tmp_path / "runs", key).failure)
    assert (failure["state"], failure["reason"]) == outcome
    assert "raise torch.OutOfMemoryError" in failure["traceback"]
    for finished in done.schedule.finished:
        assert not RunFolder(tmp_path / "runs", finished).failure.exists()


def test_inline_memory_of_earlier_runs_is_freed_before_the_second_try(tmp_path, study, run_study, monkeypatch):
    freed = []
    monkeypatch.setattr(gc, "collect", lambda: freed.append(1))
    written = study("hungry(box, always=True)", "sgd")
    (tmp_path / "hungry.py").write_text(HUNGRY.replace('"neighbour": Neighbour, ', ""))  # all of a plugin is run
    done = run_study(written, tmp_path / "runs", Inline(1), plugins=[tmp_path / "hungry.py"])
    (outcome,) = done.schedule.failed.values()
    assert outcome.state == "failed"
    assert ALWAYS in outcome.reason
    assert len(read_tries(tmp_path, True)) == 2
    assert freed == [1]
    assert [name for name, state in done.log.ends if state == "finished"] == ["sgd"]


FREED = """
import ctypes, resource, sys
from harness.running.worker_process import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def step():
    block = libc.malloc(2**26)
    libc.memset(block, 1, 2**26)
    libc.free(block)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.long
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc's allocator")
def test_freed_memory_is_kept_for_the_next_step():
    """Ten blocks of 64 MiB are 163,840 pages of 4 KiB, or 320 of 2 MiB, each a fault where it is asked for anew."""

    def faults(what: str) -> int:
        command = [sys.executable, "-c", FREED, what]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("default") > 300
    assert faults("keep") < 30


LARGE = """
import ctypes, sys
from harness.running import worker_process as memory
if sys.argv[1] == "keep":
    memory.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.sbrk.restype, libc.sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
libc.malloc_trim(0)  # what imports have freed at the end of the heap would hold a part of the blocks
begin = libc.sbrk(0)
def heap():
    return (libc.sbrk(0) - begin) // 2**20
blocks = [libc.malloc(2**28) for _ in range(12)]
assert all(blocks), "the system refuses 3 GiB of addresses"
print(heap())
for block in blocks:
    libc.free(block)
print(heap())
memory.free_memory()
print(heap())
"""


@pytest.mark.long
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc's allocator")
def test_more_than_two_gigabytes_are_kept_and_returned_on_request():
    """How far the heap grows, in MiB. Nothing is written to the blocks, which therefore take addresses, not memory."""

    def sizes(what: str) -> list[int]:
        command = [sys.executable, "-c", LARGE, what]
        return [int(size) for size in subprocess.check_output(command, text=True).split()]

    assert max(sizes("default")) < 256, "blocks from outside of the heap"
    used, freed, given_back = sizes("keep")
    assert used >= 12 * 256
    assert freed == used
    assert given_back < 256
