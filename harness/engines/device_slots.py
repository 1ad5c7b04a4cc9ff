"""Assigns runs to device slots, and keeps a device free for a run that must have it alone."""

from collections import deque
from collections.abc import Sequence


class DeviceSlots:
    """The slots of all devices: each device has one or more slots, and each slot at most one run.

    Attributes:
        devices: the device of each slot.
        runs: slot → key of its run.
        reserved: device → keys of the runs that wait to have the device alone.
        exclusive: device → key of the run that has the device alone.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        """Start with free slots.

        Args:
            devices: the device of each slot. A device that takes several runs at once is listed several times.
        """
        self.devices = tuple(devices)
        self.runs: dict[int, str] = {}
        self.reserved: dict[str, deque[str]] = {device: deque() for device in devices}
        self.exclusive: dict[str, str] = {}

    def slots_of(self, device: str) -> list[int]:
        """List the slots of a device."""
        return [slot for slot, name in enumerate(self.devices) if name == device]

    def count_runs(self, device: str) -> int:
        """Count the runs on a device."""
        return sum(slot in self.runs for slot in self.slots_of(device))

    def find_free_slot(self) -> int | None:
        """Return a free slot on the device with the fewest runs. Return None if no slot is free."""
        shared = [name for name in self.reserved if not self.reserved[name] and name not in self.exclusive]
        slots = [slot for name in shared for slot in self.slots_of(name) if slot not in self.runs]
        return min(slots, key=lambda slot: (self.count_runs(self.devices[slot]), slot), default=None)

    def occupy(self, slot: int, key: str) -> None:
        """Assign a run to a free slot."""
        self.runs[slot] = key

    def release(self, slot: int) -> str:
        """Free a slot. Return the key of its run."""
        key = self.runs.pop(slot)
        device = self.devices[slot]
        if self.exclusive.get(device) == key:
            del self.exclusive[device]
        return key

    def reserve(self, device: str, key: str) -> None:
        """Reserve a device for a run. The device takes no other run until that run has had it alone."""
        self.reserved[device].append(key)

    def occupy_reserved(self) -> list[tuple[int, str]]:
        """Assign runs to the devices that are reserved for them and have no other run left.

        Returns:
            Slot and key of each assigned run.
        """
        assigned = []
        for device, keys in self.reserved.items():
            if keys and not self.count_runs(device):
                slot, key = self.slots_of(device)[0], keys.popleft()
                self.occupy(slot, key)
                self.exclusive[device] = key
                assigned.append((slot, key))
        return assigned


def gpu_slots(device: str, gpus: str | None, per_gpu: int, visible: int) -> list[str]:
    """List the devices of all slots on GPUs: each GPU once, then each GPU again until it has `per_gpu` slots.

    Args:
        device: "cuda" for all GPUs, or one GPU such as "cuda:1".
        gpus: numbers of GPUs, such as "0,1,3"; None to use `device`.
        per_gpu: number of runs at once on each GPU.
        visible: number of visible GPUs.

    Raises:
        ValueError: if the numbers are malformed, repeated, or not those of visible GPUs.
    """
    _, _, number = device.partition(":")
    if gpus is not None and number:
        raise ValueError(f"--gpus {gpus}: --device {device} already names a GPU; use one of the two options")
    wanted = (gpus or number).split(",") if gpus is not None or number else [str(i) for i in range(visible)]
    if not all(name.strip().isdecimal() for name in wanted):
        if gpus is None:
            raise ValueError(f"--device {device}: write the number of a GPU, such as cuda:1")
        raise ValueError(f"--gpus {gpus}: write numbers separated by commas, such as 0,1,3")
    numbers = [int(name) for name in wanted]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"--gpus {gpus}: a GPU is repeated; --per-gpu 2 executes two runs at once on each")
    if absent := [i for i in numbers if i >= visible]:
        raise ValueError(f"there is no GPU {absent[0]}: {visible} are visible, counted from 0")
    return [f"cuda:{i}" for i in numbers] * per_gpu
