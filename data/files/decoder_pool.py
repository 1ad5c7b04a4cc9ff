"""A pool of worker processes that decode images ahead of their use."""

import signal
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from data.files.decode_image import DecodeJob, ImageError, decode_images
from data.files.usable_cpus import usable_cpus

JOBS_AHEAD = 2
"""Number of jobs that each process decodes ahead."""

START_METHOD = "fork" if sys.platform == "linux" else None
"""Start method of the processes. Forked processes start at once and share the loaded modules.

It is set explicitly because an engine's processes have another default. Forking is safe here: the processes only
decode, and use neither the device nor the threads of their parent process.
"""


class DecoderPool:
    """Decodes images in worker processes, which are kept from pass to pass.

    The processes are started at the first use. A second pass that begins before the first has ended gets other
    processes.

    Args:
        workers: Number of processes; 0 to decode in the calling process, None for one per usable CPU.

    Raises:
        ValueError: If `workers` is negative.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = usable_cpus().number if workers is None else workers
        if self.workers < 0:
            raise ValueError(f"the number of processes that decode images must not be negative, got {workers}")
        self._idle: dict[bool, list[_WorkerPool]] = {False: [], True: []}

    def __call__(self, jobs: Iterable[DecodeJob], *, pinned: bool = False) -> Iterator[Tensor]:
        """Yield the images of each job, in the order of the jobs: (B, S, S, 3) uint8.

        Args:
            jobs: The jobs. A few more of them are decoded ahead.
            pinned: Whether to put the images into page-locked memory, from which copies to a GPU are asynchronous.

        Raises:
            ImageError: If a file holds no image, or a damaged one; names the file.
            RuntimeError: If a process dies.
        """
        for result in self._results(jobs, pinned) if self.workers else map(_decode_or_error, jobs):
            if isinstance(result, ImageError):
                # The traceback will hold this frame. If the frame held the error, too, the processes would live until a
                # collection of garbage, and take five seconds each to end.
                try:
                    raise result
                finally:
                    del result
            yield result

    def _results(self, jobs: Iterable[DecodeJob], pinned: bool) -> Iterator[Tensor | ImageError]:
        """Decode in an idle pool, which becomes idle again when the pass ends or is abandoned."""
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
                f"shared memory (/dev/shm), use fewer of them than {self.workers}, or 0 to decode without them"
            ) from error
        finally:
            if not broken:
                idle.append(pool)


class _WorkerPool:
    """Processes that decode the jobs of one pass at a time."""

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
            generator=Generator(),  # the loader draws a seed and never uses it; the global generator must not change
        )


class _JobQueue:
    """The jobs of a pool's current pass, in order."""

    def __init__(self) -> None:
        self.jobs: Iterable[DecodeJob] = ()

    def __iter__(self) -> Iterator[DecodeJob]:
        return iter(self.jobs)


class _DecodingDataset(Dataset[Any]):
    """Decodes a job in a worker process. An `ImageError` is returned as a value, so that its message is kept."""

    def __getitem__(self, job: DecodeJob) -> Tensor | ImageError:
        return _decode_or_error(job)


def _decode_or_error(job: DecodeJob) -> Tensor | ImageError:
    try:
        return decode_images(job)
    except ImageError as error:
        return error


def _ignore_interrupt(worker: int) -> None:
    """Ignore Ctrl-C in a worker process. The parent process handles it and ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
