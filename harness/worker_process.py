"""What a process does first that executes runs for a driver."""

import os
import signal
import threading
from multiprocessing import parent_process
from multiprocessing.connection import wait

import torch

from harness.memory import keep_freed_memory


def begin_worker(threads: int) -> None:
    """Set up a worker process: it leaves Ctrl-C to the driver, and ends when the driver does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    torch.set_num_threads(threads)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Wait for the driver's end, however it comes, and end too."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
