"""The processes that train one run together: started, watched, and ended as one."""

import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
import torch.multiprocessing

from harness.running.distributed.group import Group
from harness.running.worker_process import initialize_worker

NEVER = timedelta(days=365)
"""A rank waits for the others as long as they live: an evaluation may be long, and deaths are noticed elsewhere."""
LOOK = 0.2
"""Seconds between two looks at the ranks."""
GRACE = 2.0
"""Seconds for which a failure may turn out to be the consequence of another rank's death."""

Report = Callable[[], None]


class RankError(Exception):
    """A rank that died."""


class Job(Protocol):
    """What every rank does; it can be pickled."""

    def __call__(self, *, group: Group, report: Report) -> None:
        """Do it.

        Args:
            group: the ranks.
            report: tells the process that started them that an epoch is over; for one rank to call.
        """


def run_together(job: Job, ranks: int, device: str, report: Report) -> None:
    """Start the ranks of a run, and wait until all have done a job.

    They share this process's threads. None outlives this function, nor this process.

    Args:
        job: what to do.
        ranks: how many.
        device: "cpu", or the CUDA device of rank 0; the others have those after it.
        report: called whenever a rank reports.

    Raises:
        RankError: if one dies.
        Exception: what the first one to fail raised.
    """
    context = torch.multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // ranks)
    processes: list[SpawnProcess] = []
    with tempfile.TemporaryDirectory() as folder:
        receivers = []
        try:
            for rank in range(ranks):
                receiver, sender = context.Pipe(duplex=False)
                arguments = (job, rank, ranks, rank_device(device, rank), threads, Path(folder, "store"), sender)
                process = context.Process(target=be_rank, args=arguments, name=f"rank {rank}")
                process.start()
                processes.append(process)
                sender.close()  # so that only the rank holds it
                receivers.append(receiver)
            watch(processes, receivers, report)
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.join()


def watch(processes: Sequence[SpawnProcess], receivers: Sequence[Connection], report: Report) -> None:
    """Wait until all ranks have ended well.

    Raises:
        RankError: if one dies.
        Exception: what the first one to fail raised.
    """
    listening = list(receivers)
    failure: Exception | None = None
    deadline = float("inf")
    while failure is None or time.monotonic() < deadline:
        codes = [process.exitcode for process in processes]  # before what they said last is read
        wait(listening, LOOK)
        for message in said(listening):
            if message is None:
                report()
            elif failure is None:
                failure, deadline = message, time.monotonic() + GRACE
        for rank, code in enumerate(codes):
            if code and (code < 0 or failure is None):  # a rank that is cut off by another's death fails, too
                raise RankError(f"rank {rank} of {len(codes)} {how(code)}; started again, the run goes on") from failure
        if all(code == 0 for code in codes):
            return
    raise failure


def said(listening: list[Connection]) -> Iterator[Exception | None]:
    """Give what ranks have said since they were last asked; those that will say no more are taken off the list."""
    for receiver in list(listening):
        try:
            while receiver.poll():
                yield receiver.recv()
        except EOFError:
            listening.remove(receiver)


def how(code: int) -> str:
    """Say how a process died, from its exit code."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name} (perhaps it ran out of memory)"
    return f"ended with exit code {code}"


def rank_device(device: str, rank: int) -> str:
    """Name the device of a rank, given that of rank 0."""
    kind, _, index = device.partition(":")
    return f"{kind}:{int(index or 0) + rank}" if kind == "cuda" else device


def be_rank(job: Job, rank: int, ranks: int, device: str, threads: int, store: Path, sender: Connection) -> None:
    """Be a rank, in a process of its own; whatever goes wrong is sent to the process that started it."""
    initialize_worker(threads)
    try:
        cuda = device.startswith("cuda")
        if cuda:
            torch.cuda.set_device(device)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=dist.FileStore(str(store), ranks),  # type: ignore[attr-defined]
            rank=rank,
            world_size=ranks,
            timeout=NEVER,
        )
        job(group=Group(rank, ranks), report=lambda: sender.send(None))
        dist.destroy_process_group()
    except Exception as error:
        sender.send(portable(error, f"in rank {rank} of {ranks}:\n{traceback.format_exc()}"))
        sender.close()
        sys.stdout.flush()
        os._exit(1)  # connections to other ranks could hold up an orderly end


def portable(error: Exception, note: str) -> Exception:
    """Give an error that survives pickling: itself if it does, with a note on where it was raised."""
    try:
        same = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever an error's own class does there
        same = None
    if type(same) is not type(error):
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(note)
    return error
