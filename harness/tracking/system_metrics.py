"""System metrics of a run: what its process and machine do meanwhile, sampled by a thread, in system.jsonl."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

MEGABYTE = 1e6
Sample = dict[str, float]


def missing_packages(device: str) -> str:
    """Say what must be installed to sample a device, "" if it is there.

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
    """Sample system metrics every so many seconds while something runs.

    Args:
        path: of the file to which each sample is appended as a line.
        seconds: between two samples; None for none at all.
        device: whose GPU is sampled, if it is one.
    """
    if seconds is None:
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=keep_sampling, args=(path, seconds, device, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def keep_sampling(path: Path, seconds: float, device: torch.device, done: threading.Event) -> None:
    """Append a sample every so many seconds, and a last one; a disk that takes none ends the sampling, not the run."""
    try:
        readers = [read_machine(path.parent), *([read_gpu(device)] if device.type == "cuda" else [])]
        mend(path)
        ended = False
        while not ended:
            ended = done.wait(seconds)
            sample: Sample = {"time": time.time()}
            for read in readers:
                sample |= read()
            with path.open("a") as file:
                file.write(json.dumps(sample) + "\n")
    except Exception as error:  # whatever a machine refuses to tell ends the sampling, not the run
        what = f"{path}: {error.strerror}" if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        print(f"no more system metrics of this run: {what}", file=sys.stderr)


def read_machine(folder: Path) -> Callable[[], Sample]:
    """Give a function that reads CPU, memory and disk of the machine, and what this process and its children use.

    Args:
        folder: on the disk that is meant.
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
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
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

    read()  # use is measured since the reading before
    return read


def read_gpu(device: torch.device) -> Callable[[], Sample]:
    """Give a function that reads use, memory and power of a GPU, as far as it can be asked for them."""
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


def mend(path: Path) -> None:
    """Cut off a last line that a kill left half written."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)


def read_samples(path: Path) -> list[Mapping[str, float]]:
    """Read the samples of a run, but for one that is being written or a crash has spoilt; none without a file."""
    if not path.exists():
        return []
    samples = []
    for line in path.read_bytes().splitlines(keepends=True):
        with suppress(ValueError):
            samples += [json.loads(line)] if line.endswith(b"\n") else []
    return samples
