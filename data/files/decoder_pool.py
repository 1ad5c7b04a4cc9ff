"""Decoding in worker processes, ahead of what consumes the images."""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from data.files.decode_image import DecodeJob, ImageError, decode_images

JOBS_AHEAD = 2
"""Jobs that each process may be ahead."""

START_METHOD = "fork" if sys.platform == "linux" else None
"""How processes start. Forked ones are there at once and share what is loaded, also in an engine's processes, where
the default is to start anew; they only decode, and touch neither the device nor threads of the process they left."""


class DecoderPool:
    """Decodes images in processes of its own, which stay from pass to pass and know nothing of any dataset.

    The processes are started at the first use. A second pass beside an unfinished one gets processes of its own.

    Args:
        workers: How many processes; 0 decodes in the calling one, None takes one for each CPU that may be used.

    Raises:
        ValueError: If `workers` is negative.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = usable_cpus() if workers is None else workers
        if self.workers < 0:
            raise ValueError(f"the number of processes that decode images must not be negative, got {workers}")
        self._idle: dict[bool, list[_WorkerPool]] = {False: [], True: []}

    def __call__(self, jobs: Iterable[DecodeJob], *, pinned: bool = False) -> Iterator[Tensor]:
        """Decode jobs, in their order: each (B, S, S, 3) uint8.

        Args:
            jobs: Taken a few ahead of what is asked for.
            pinned: Whether to put the results into page-locked memory, from which a GPU copies on its own.

        Raises:
            ImageError: If a file holds no image, or a damaged one; names it.
            RuntimeError: If a process dies.
        """
        for result in self._results(jobs, pinned) if self.workers else map(_decode_or_error, jobs):
            if isinstance(result, ImageError):
                raise result
            yield result

    def _results(self, jobs: Iterable[DecodeJob], pinned: bool) -> Iterator[Tensor | ImageError]:
        """Decode in an idle pool, which is idle again when the pass ends or is given up."""
        idle = self._idle[pinned]
        pool = idle.pop() if idle else _WorkerPool(self.workers, pinned)
        pool.queue.jobs = jobs
        broken = False
        try:
            yield from pool.loader
        except RuntimeError as error:
            broken = True
            raise RuntimeError(
                f"the processes that decode images failed ({error}); if one was killed, or ran out of memory or of "
                f"shared memory (/dev/shm), fewer than {self.workers} need less, and 0 none"
            ) from error
        finally:
            if not broken:
                idle.append(pool)


class _WorkerPool:
    """Processes of one pass at a time, and the jobs of that pass."""

    def __init__(self, workers: int, pinned: bool) -> None:
        self.queue = _JobQueue()
        self.loader: DataLoader[Any] = DataLoader(
            _DecodingDataset(),
            batch_size=None,  # a job is a batch already
            sampler=self.queue,
            num_workers=workers,
            prefetch_factor=JOBS_AHEAD,
            persistent_workers=True,
            multiprocessing_context=START_METHOD,
            pin_memory=pinned,
            worker_init_fn=_ignore_interrupt,
            generator=Generator(),  # what it draws, and never uses, must not come from the global one
        )


class _JobQueue:
    """Jobs in their order; the next pass of a pool replaces them."""

    def __init__(self) -> None:
        self.jobs: Iterable[DecodeJob] = ()

    def __iter__(self) -> Iterator[DecodeJob]:
        return iter(self.jobs)


class _DecodingDataset(Dataset[Any]):
    """What a process does with a job; an error about a file travels back as a value, and so keeps its message."""

    def __getitem__(self, job: DecodeJob) -> Tensor | ImageError:
        return _decode_or_error(job)


def _decode_or_error(job: DecodeJob) -> Tensor | ImageError:
    try:
        return decode_images(job)
    except ImageError as error:
        return error


def _ignore_interrupt(worker: int) -> None:
    """Leave Ctrl-C to the process that is decoded for: it ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
