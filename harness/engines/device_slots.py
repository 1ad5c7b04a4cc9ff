"""Slots: which run is on which device, and which device is kept for one run alone."""

from collections import deque
from collections.abc import Sequence


class Slots:
    """Gives runs their places: each device has one slot or more, each slot at most one run."""

    def __init__(self, devices: Sequence[str]) -> None:
        """Start with free slots.

        Args:
            devices: of each slot; a device that takes several runs at once is there several times.
        """
        self.devices = tuple(devices)
        self.runs: dict[int, str] = {}
        self.to_be_alone: dict[str, deque[str]] = {device: deque() for device in devices}
        self.alone: dict[str, str] = {}

    def on(self, device: str) -> list[int]:
        """List the slots of a device."""
        return [slot for slot, name in enumerate(self.devices) if name == device]

    def load(self, device: str) -> int:
        """Count the runs on a device."""
        return sum(slot in self.runs for slot in self.on(device))

    def free(self) -> int | None:
        """Give a slot for any run, on the device with the fewest; None if there is none now."""
        open_devices = [name for name in self.to_be_alone if not self.to_be_alone[name] and name not in self.alone]
        slots = [slot for name in open_devices for slot in self.on(name) if slot not in self.runs]
        return min(slots, key=lambda slot: (self.load(self.devices[slot]), slot), default=None)

    def begin(self, slot: int, key: str) -> None:
        """Put a run into a free slot."""
        self.runs[slot] = key

    def end(self, slot: int) -> str:
        """Take the run out of a slot."""
        key = self.runs.pop(slot)
        device = self.devices[slot]
        if self.alone.get(device) == key:
            del self.alone[device]
        return key

    def ask_alone(self, device: str, key: str) -> None:
        """Keep a device for a run: it takes no others until that run was on it alone."""
        self.to_be_alone[device].append(key)

    def begin_alone(self) -> list[tuple[int, str]]:
        """Put runs onto the devices that are kept for them, where nothing is left; give their slots."""
        begun = []
        for device, keys in self.to_be_alone.items():
            if keys and not self.load(device):
                slot, key = self.on(device)[0], keys.popleft()
                self.begin(slot, key)
                self.alone[device] = key
                begun.append((slot, key))
        return begun


def gpu_slots(device: str, gpus: str | None, per_gpu: int, visible: int) -> list[str]:
    """List the devices of slots on GPUs, one run of each GPU first.

    Args:
        device: "cuda" for all, or one, as "cuda:1".
        gpus: numbers as "0,1,3"; None for what `device` says.
        per_gpu: runs a GPU at once.
        visible: how many GPUs there are.

    Raises:
        ValueError: for numbers that are none, are there twice, or name no GPU.
    """
    _, _, number = device.partition(":")
    if gpus is not None and number:
        raise ValueError(f"--gpus {gpus}: --device {device} names one already; use one of the two")
    wanted = (gpus or number).split(",") if gpus is not None or number else [str(i) for i in range(visible)]
    if not all(name.strip().isdecimal() for name in wanted):
        if gpus is None:
            raise ValueError(f"--device {device}: a GPU has a number, as cuda:1")
        raise ValueError(f"--gpus {gpus}: numbers with commas between are needed, as 0,1,3")
    numbers = [int(name) for name in wanted]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"--gpus {gpus}: a GPU is there twice; --per-gpu 2 puts two runs on each")
    if absent := [i for i in numbers if i >= visible]:
        raise ValueError(f"GPU {absent[0]} is not there: {visible} are visible, counted from 0")
    return [f"cuda:{i}" for i in numbers] * per_gpu
