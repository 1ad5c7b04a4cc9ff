"""Starts the processes (ranks) that train one run together, waits for them, and ends them together."""

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
from harness.running.worker_process import initialize_worker, interrupts_blocked

NO_TIMEOUT = timedelta(days=365)
"""A rank waits for the others without a limit: an evaluation may be long, and `wait_for_ranks` notices deaths."""
POLL_SECONDS = 0.2
"""Seconds between two checks of the ranks."""
GRACE_SECONDS = 2.0
"""Seconds after a rank's error in which another rank's death may turn out to be its cause."""

Report = Callable[[], None]


class RankError(Exception):
    """A rank died."""


class Job(Protocol):
    """A function that every rank calls. It must be picklable."""

    def __call__(self, *, group: Group, report: Report) -> None:
        """Do the work of a rank.

        Args:
            group: the ranks.
            report: tells the process that started the ranks that an epoch is over; only one rank calls it.
        """


def run_ranks(job: Job, ranks: int, device: str, report: Report) -> None:
    """Start the ranks of a run, and wait until all have done their job.

    The ranks share the threads of this process. No rank outlives this function or this process.

    Args:
        job: the function that every rank calls.
        ranks: the number of ranks.
        device: "cpu", or the CUDA device of rank 0; the other ranks use the devices after it.
        report: called whenever a rank reports an epoch.

    Raises:
        RankError: if a rank dies.
        Exception: the error of the first rank that fails.
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
                process = context.Process(target=rank_main, args=arguments, name=f"rank {rank}")
                with interrupts_blocked():
                    process.start()
                processes.append(process)
                sender.close()  # only the rank keeps it open
                receivers.append(receiver)
            wait_for_ranks(processes, receivers, report)
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.join()


def wait_for_ranks(processes: Sequence[SpawnProcess], receivers: Sequence[Connection], report: Report) -> None:
    """Wait until all ranks have ended without an error.

    Args:
        processes: the ranks' processes.
        receivers: the connections on which the ranks report epochs and errors.
        report: called whenever a rank reports an epoch.

    Raises:
        RankError: if a rank dies.
        Exception: the error of the first rank that fails.
    """
    open_receivers = list(receivers)
    failure: Exception | None = None
    deadline = float("inf")
    while failure is None or time.monotonic() < deadline:
        codes = [process.exitcode for process in processes]  # read before the ranks' last messages
        wait(open_receivers, POLL_SECONDS)
        for message in receive_messages(open_receivers):
            if message is None:
                report()
            elif failure is None:
                failure, deadline = message, time.monotonic() + GRACE_SECONDS
        for rank, code in enumerate(codes):
            if code and (code < 0 or failure is None):  # a rank's death makes the other ranks fail, too
                death = f"rank {rank} of {len(codes)} {describe_exit(code)}"
                raise RankError(f"{death}; started again, the run goes on") from failure
        if all(code == 0 for code in codes):
            return
    raise failure


def receive_messages(receivers: list[Connection]) -> Iterator[Exception | None]:
    """Yield the messages that have arrived: None for an epoch, or a rank's error.

    Args:
        receivers: the ranks' connections; those that are closed are removed from the list.
    """
    for receiver in list(receivers):
        try:
            while receiver.poll():
                yield receiver.recv()
        except EOFError:
            receivers.remove(receiver)


def describe_exit(code: int) -> str:
    """Return how a process died, from its exit code, as a phrase."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name} (perhaps it ran out of memory)"
    return f"ended with exit code {code}"


def rank_device(device: str, rank: int) -> str:
    """Return the device of a rank, given that of rank 0."""
    kind, _, index = device.partition(":")
    return f"{kind}:{int(index or 0) + rank}" if kind == "cuda" else device


def rank_main(job: Job, rank: int, ranks: int, device: str, threads: int, store: Path, sender: Connection) -> None:
    """Run a rank's job in its own process; send any error to the process that started the rank.

    Args:
        job: the function to call.
        rank: the number of this rank.
        ranks: the number of ranks.
        device: the device of this rank.
        threads: the number of threads that torch uses.
        store: the file by which the ranks find each other.
        sender: the connection to the process that started the rank.
    """
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
            timeout=NO_TIMEOUT,
        )
        job(group=Group(rank, ranks), report=lambda: sender.send(None))
        dist.destroy_process_group()
    except (Exception, SystemExit) as error:
        sender.send(make_picklable(error, f"in rank {rank} of {ranks}:\n{traceback.format_exc()}"))
        sender.close()
        sys.stdout.flush()
        os._exit(1)  # an orderly exit could hang in connections to other ranks


def make_picklable(error: Exception | SystemExit, note: str) -> Exception:
    """Return an error that survives pickling, with a note: the error itself, or a RuntimeError with its message."""
    try:
        same = pickle.loads(pickle.dumps(error))
    except Exception:  # an error's own class can raise anything here
        same = None
    if isinstance(error, SystemExit) or type(same) is not type(error):
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(note)
    return error
