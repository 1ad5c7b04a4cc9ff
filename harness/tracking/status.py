"""How far a study is, read from its run folders while whoever works on them goes on."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from harness.planning.planned_runs import Planned, PlannedRuns
from harness.store.run_folder import RunFolder, read_json

State = Literal["finished", "running", "stopped", "failed", "to do"]
STATES: tuple[State, ...] = ("finished", "running", "stopped", "failed", "to do")

PARTS = ("stage", "epoch", "unit", "host", "pid", "device")
"""What a status takes over from progress.json."""


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Attributes:
        key: of the run.
        run: its name.
        label: what the study calls its method.
        role: "cell", or what else it is there for.
        state: finished, running, stopped on its way, failed, or to do.
        stage: of one that was begun: starting, training, preparing, evaluating.
        epoch: epochs done.
        epochs: epochs in all.
        shared: how many of them it takes over from a trunk.
        unit: what is counted: epochs, iterations.
        pace: seconds an epoch took since it was started or resumed; None before the first one is done.
        ends: when its last epoch ends at that pace, in seconds since 1970; None if unknown, or if it is done.
        host: the machine that works, or worked, on it.
        pid: the process there.
        device: that computes.
        sign: when it last gave a sign of life, in seconds since 1970.
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
        """Epochs that it still trains itself."""
        return 0 if self.state == "finished" else self.epochs - max(self.epoch, self.shared)

    @property
    def where(self) -> str:
        """Say on which machine, in which process and on what it computes."""
        return f"{self.host}:{self.pid} {self.device}" if self.pid is not None else ""

    def describe(self) -> str:
        """Say how far it is."""
        done = f"{self.unit} {self.epoch:,} of {self.epochs:,}"
        if self.stage != "training":
            return f"{self.stage}, {done}" if self.epoch and self.stage == "starting" else self.stage
        return done if self.pace is not None or self.state != "running" else f"{done}, then no {self.unit} yet"


def to_do(planned: Planned) -> RunStatus:
    """Give the status of a run that was never begun."""
    return RunStatus(planned.key, str(planned.run), planned.label, planned.role, "to do", epochs=planned.epochs)


def look(status: RunStatus, root: Path, state: State | None = None) -> RunStatus:
    """Look how far a run is.

    Args:
        status: of the run, if it were still to do.
        root: the folder of run folders.
        state: in which it is known to be.
    """
    if state == "finished":
        return replace(status, state="finished", epoch=status.epochs)
    folder = RunFolder(root, status.key)
    progress = read_json(folder.progress)
    state, reason = (state, "") if state else state_of(folder, begun=bool(progress))
    known: dict[str, Any] = {name: progress[name] for name in PARTS if name in progress}
    known["epochs"] = progress.get("epochs") or status.epochs
    if state == "running":
        known |= {"sign": last_sign(folder), "pace": progress.get("pace")}
        if known["pace"] is not None and progress["stage"] == "training":
            known["ends"] = progress["time"] + progress["pace"] * (progress["epochs"] - progress["epoch"])
    elif progress:
        known["sign"] = progress["time"]
    return replace(status, **known, state=state, reason=reason)


def state_of(folder: RunFolder, *, begun: bool) -> tuple[State, str]:
    """Say in which state an unfinished run is, and why it failed if it did."""
    if not folder.path.exists():
        return "to do", ""
    if folder.is_claimed():
        return "running", ""
    if failure := read_json(folder.failure):
        again = failure["state"] == "out of memory"  # it is tried again alone
        return "stopped" if again else "failed", str(failure["reason"])
    return "stopped" if begun or folder.checkpoint.exists() else "to do", ""


def last_sign(folder: RunFolder) -> float | None:
    """Say when anything in the folder was last written; None if there is nothing."""
    times = []
    for path in folder.path.glob("*"):
        with suppress(FileNotFoundError):  # it was replaced at this moment
            times.append(path.stat().st_mtime)
    return max(times, default=None)


def look_at_all(plan: PlannedRuns, root: Path) -> list[RunStatus]:
    """Look how far every run of a plan is, and every trunk that was trained or will be."""
    left = plan.left(root)
    found = []
    for key, planned in plan.runs.items():
        if key in left:
            found.append(look(replace(to_do(planned), shared=planned.epochs - left[key]), root))
        elif planned.role != "trunk" or RunFolder(root, key).finished:
            found.append(look(to_do(planned), root, "finished"))
    return found


def count(statuses: Iterable[RunStatus]) -> dict[State, int]:
    """Count the runs in each state."""
    counts = dict.fromkeys(STATES, 0)
    for status in statuses:
        counts[status.state] += 1
    return counts


def seconds_left(statuses: Sequence[RunStatus], now: float) -> float | None:
    """Estimate how long a study still takes if as many runs go on at once as do now.

    The epochs that are left, each at the pace of running runs of the same method, or of all that run, are shared out to
    as many workers as there are; it takes at least as long as the longest running run. Preparing and evaluating count
    for nothing, and failed runs are not tried again.

    Args:
        statuses: of all runs.
        now: seconds since 1970.

    Returns:
        Seconds; None where nothing runs, or none of what runs has a pace yet.
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


def spell(seconds: float) -> str:
    """Write a length of time for people: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 99.5:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def clock(time: float, now: float) -> str:
    """Write a point in time as the local clock shows it, with the day if it is another one than today."""
    at, today = datetime.fromtimestamp(time), datetime.fromtimestamp(now)
    return at.strftime("%H:%M") if at.date() == today.date() else at.strftime("%b %d %H:%M")
