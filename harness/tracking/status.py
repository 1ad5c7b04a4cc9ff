"""The status of a study's runs, read from their folders at any time, also while processes work on them."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from harness.planning.planned_runs import Planned, PlannedRuns
from harness.store.run_folder import RunFolder

State = Literal["finished", "running", "stopped", "failed", "to do"]
STATES: tuple[State, ...] = ("finished", "running", "stopped", "failed", "to do")

COPIED_FIELDS = ("stage", "epoch", "unit", "host", "pid", "device")
"""Fields of progress.json that a status has too."""


@dataclass(frozen=True)
class RunStatus:
    """The state of a run, and how far it is.

    Attributes:
        key: the run's key.
        run: its name.
        label: the study's name for its method.
        role: its role in the plan: "cell", "component", "trunk" or "trial".
        state: finished, running, stopped (begun, but nobody works on it), failed, or to do.
        stage: what it does or last did: starting, training, preparing or evaluating; "" if it was never begun.
        epoch: epochs done.
        epochs: epochs in all.
        shared: how many of the epochs a trunk trains for it.
        unit: the name of what `epoch` counts: epoch or iteration.
        pace: mean seconds per epoch since it was started or resumed; None before its first epoch is done.
        ends: when its last epoch ends at that pace, in seconds since 1970; None if unknown, or after training.
        host: the machine that works, or last worked, on it.
        pid: the process on that machine.
        device: the device of that process.
        sign: when it last wrote a file, in seconds since 1970.
        reason: why it failed.
    """

    key: str
    run: str
    label: str
    role: str
    state: State
    stage: str = ""
    epoch: int = 0
    epochs: int = 0
    shared: int = 0
    unit: str = "epoch"
    pace: float | None = None
    ends: float | None = None
    host: str = ""
    pid: int | None = None
    device: str = ""
    sign: float | None = None
    reason: str = ""

    @property
    def epochs_left(self) -> int:
        """How many epochs it still has to train itself."""
        return 0 if self.state == "finished" else self.epochs - max(self.epoch, self.shared)

    @property
    def where(self) -> str:
        """Its machine, process and device, as `host:pid device`; "" if unknown."""
        return f"{self.host}:{self.pid} {self.device}" if self.pid is not None else ""

    def describe(self) -> str:
        """Return its stage, or during training its epoch, as a phrase for people."""
        done = f"{self.unit} {self.epoch:,} of {self.epochs:,}"
        if self.stage != "training":
            return f"{self.stage}, {done}" if self.epoch and self.stage == "starting" else self.stage
        return done if self.pace is not None or self.state != "running" else f"{done}, then no {self.unit} yet"


def unstarted_status(planned: Planned) -> RunStatus:
    """Return the status of a run that was never started."""
    return RunStatus(planned.key, str(planned.run), planned.label, planned.role, "to do", epochs=planned.epochs)


def read_status(status: RunStatus, root: Path, state: State | None = None) -> RunStatus:
    """Read the status of a run from its folder.

    Args:
        status: the run's status as if it had not been started.
        root: the folder of run folders.
        state: the run's state if the caller knows it; None to read it, too.
    """
    if state == "finished":
        return replace(status, state="finished", epoch=status.epochs)
    folder = RunFolder(root, status.key)
    progress = folder.read_progress()
    state, reason = (state, "") if state else read_state(folder, begun=bool(progress))
    known: dict[str, Any] = {name: progress[name] for name in COPIED_FIELDS if name in progress}
    known["epochs"] = progress.get("epochs") or status.epochs
    if state == "running":
        known |= {"sign": last_write_time(folder), "pace": progress.get("pace")}
        if known["pace"] is not None and progress["stage"] == "training":
            known["ends"] = progress["time"] + progress["pace"] * (progress["epochs"] - progress["epoch"])
    elif progress:
        known["sign"] = progress["time"]
    return replace(status, **known, state=state, reason=reason)


def read_state(folder: RunFolder, *, begun: bool) -> tuple[State, str]:
    """Return the state of an unfinished run, and the reason if it failed.

    Args:
        folder: the run's folder.
        begun: whether it holds a progress.json.
    """
    if not folder.path.exists():
        return "to do", ""
    if folder.is_claimed():
        return "running", ""
    if failure := folder.read_failure():
        retried = failure["state"] == "out of memory"  # such a run is tried again, alone on its device
        return "stopped" if retried else "failed", str(failure["reason"])
    return "stopped" if begun or folder.checkpoint.exists() else "to do", ""


def last_write_time(folder: RunFolder) -> float | None:
    """Return when a file of a folder was last written, in seconds since 1970; None for an empty folder."""
    times = []
    for path in folder.path.glob("*"):
        with suppress(FileNotFoundError):  # the file was replaced at this moment
            times.append(path.stat().st_mtime)
    return max(times, default=None)


def read_statuses(plan: PlannedRuns, root: Path) -> list[RunStatus]:
    """Return the status of every run of a plan, and of every trunk that was trained or will be.

    Args:
        plan: the study's plan.
        root: the folder of run folders.
    """
    left = plan.left(root)
    found = []
    for key, planned in plan.runs.items():
        if key in left:
            found.append(read_status(replace(unstarted_status(planned), shared=planned.epochs - left[key]), root))
        elif planned.role != "trunk" or RunFolder(root, key).finished:
            found.append(read_status(unstarted_status(planned), root, "finished"))
    return found


def count_states(statuses: Iterable[RunStatus]) -> dict[State, int]:
    """Return how many runs are in each state."""
    counts = dict.fromkeys(STATES, 0)
    for status in statuses:
        counts[status.state] += 1
    return counts


def seconds_left(statuses: Sequence[RunStatus], now: float) -> float | None:
    """Estimate how long a study still takes if as many runs train at once as do now.

    Each epoch that is left takes the mean pace of the running runs of its method, or of all running runs if that
    method has none. This work is divided evenly among the runs that train at once. The study takes at least as long as
    its longest running run. The estimate leaves out preparing, evaluating, and runs that failed.

    Args:
        statuses: the status of all runs.
        now: the time, in seconds since 1970.

    Returns:
        Seconds; None if no run is running, or no running run has a pace yet.
    """
    running = [status for status in statuses if status.state == "running"]
    paces: dict[str, list[float]] = {}
    for status in running:
        if status.pace is not None:
            paces.setdefault(status.label, []).append(status.pace)
    known = [pace for same in paces.values() for pace in same]
    if not known:
        return None
    work = 0.0
    for status in statuses:
        if status.state not in ("finished", "failed"):
            same = paces.get(status.label, known)
            work += status.epochs_left * sum(same) / len(same)
    longest = max((status.ends - now for status in running if status.ends is not None), default=0.0)
    return max(work / len(running), longest)


def format_duration(seconds: float) -> str:
    """Return a duration as text: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 99.5:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def format_clock(time: float, now: float) -> str:
    """Return a time of day in the local time zone, with the date unless it is today.

    Args:
        time: the time, in seconds since 1970.
        now: the present time, likewise.
    """
    at, today = datetime.fromtimestamp(time), datetime.fromtimestamp(now)
    return at.strftime("%H:%M") if at.date() == today.date() else at.strftime("%b %d %H:%M")
