"""System metrics of a run: a thread samples CPU, memory, disk and GPU while it trains, and writes system.jsonl."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from harness.store.damaged_files import NUMBER, missing_parts, not_numbers

MEGABYTE = 1e6
Sample = dict[str, float]


def missing_packages(device: str) -> str:
    """Return the packages that must be installed to sample a device, separated by spaces; "" if none is missing.

    Args:
        device: "cpu", "cuda", "cuda:1" …
    """
    names = {"psutil": "psutil"} | ({"pynvml": "nvidia-ml-py"} if device.startswith("cuda") else {})
    absent = []
    for module, package in names.items():
        try:
            __import__(module)
        except ImportError:
            absent.append(package)
    return " ".join(absent)


@contextmanager
def sampling(path: Path, seconds: float | None, device: torch.device) -> Iterator[None]:
    """Sample system metrics while the body of the `with` statement runs.

    Args:
        path: the file to which each sample is appended as a line of JSON.
        seconds: the seconds between two samples; None to sample nothing.
        device: the run's device; a CUDA device is sampled, too.
    """
    if seconds is None:
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=write_samples, args=(path, seconds, device, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def write_samples(path: Path, seconds: float, device: torch.device, done: threading.Event) -> None:
    """Append a sample every so many seconds, and a last one when `done` is set.

    Any error, such as a full disk, is printed. It ends the sampling, but not the run.
    """
    try:
        readers = [machine_reader(path.parent), *([gpu_reader(device)] if device.type == "cuda" else [])]
        cut_off_partial_line(path)
        ended = False
        while not ended:
            ended = done.wait(seconds)
            sample: Sample = {"time": time.time()}
            for read in readers:
                sample |= read()
            with path.open("a") as file:
                file.write(json.dumps(sample) + "\n")
    except Exception as error:  # a metric that a machine does not provide must not end the run
        what = f"{path}: {error.strerror}" if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        print(f"no more system metrics of this run: {what}", file=sys.stderr)


def machine_reader(folder: Path) -> Callable[[], Sample]:
    """Return a function that reads the use of the machine's CPU, memory and disk, and that of this process.

    The process's children count as part of it.

    Args:
        folder: a folder on the disk whose use is read.
    """
    import psutil

    this = psutil.Process()
    processes: dict[int, Any] = {}

    def read() -> Sample:
        family = {
            process.pid: processes.get(process.pid, process) for process in [this, *this.children(recursive=True)]
        }
        processes.clear()
        processes.update(family)
        busy, resident = 0.0, 0
        for process in family.values():
            with suppress(psutil.NoSuchProcess):  # the process has ended meanwhile
                busy, resident = busy + process.cpu_percent(), resident + process.memory_info().rss
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(folder))
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
            "disk_usage_percentage": disk.percent,
            "disk_available_megabytes": disk.free / MEGABYTE,
            "process_cpu_percentage": busy,
            "process_memory_megabytes": resident / MEGABYTE,
        }

    read()  # psutil measures CPU use since the previous reading
    return read


def gpu_reader(device: torch.device) -> Callable[[], Sample]:
    """Return a function that reads utilization, memory and power of a GPU, as far as its driver provides them.

    A metric that the driver does not provide is reported once on stderr, and left out from then on.
    """
    import pynvml

    name = f"gpu_{torch.cuda.current_device() if device.index is None else device.index}"
    total = torch.cuda.get_device_properties(device).total_memory
    readings: dict[str, Callable[[], float]] = {
        "utilization_percentage": lambda: float(torch.cuda.utilization(device)),
        "memory_usage_megabytes": lambda: torch.cuda.device_memory_used(device) / MEGABYTE,
        "memory_usage_percentage": lambda: 100 * torch.cuda.device_memory_used(device) / total,
        "power_usage_watts": lambda: torch.cuda.power_draw(device) / 1000,
    }

    def read() -> Sample:
        sample = {}
        for what, reading in list(readings.items()):
            try:
                sample[f"{name}_{what}"] = reading()
            except pynvml.NVMLError as error:
                print(f"{name}_{what} is not measured: {error}", file=sys.stderr)
                del readings[what]
        return sample

    return read


def cut_off_partial_line(path: Path) -> None:
    """Remove a last line that is incomplete because the process writing it was killed."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)


def read_samples(path: Path) -> list[Mapping[str, float]]:
    """Return the samples of a run; lines that are incomplete or damaged are left out. Without a file, return none."""
    if not path.exists():
        return []
    samples: list[Mapping[str, float]] = []
    for line in path.read_bytes().splitlines(keepends=True):
        with suppress(ValueError, RecursionError):
            sample: Any = json.loads(line) if line.endswith(b"\n") else None
            if not (missing_parts(sample, {"time": NUMBER}) or not_numbers(sample)):
                samples.append(sample)
    return samples
