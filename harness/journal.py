"""The trials of one search, in Optuna's journal file: many processes and machines append to it, none overwrites."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState, create_trial

optuna.logging.set_verbosity(optuna.logging.WARNING)

Metric = Literal["nll", "accuracy"]
Ended = Literal["finished", "pruned", "failed", "diverged", "refused"]
STATES: dict[str, TrialState] = {
    "finished": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "diverged": TrialState.FAIL,  # as Optuna itself takes a value that is no number
    "refused": TrialState.PRUNED,
}
"""What Optuna calls the ways in which trials end."""


def folder_of(key: str) -> Path:
    """Give the folder of a search, below the folder of run folders; its trials' folders are inside."""
    return Path("tuning") / key


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let Ctrl-C wait until a journal is written: Optuna's lock would be left behind, or fail in being freed."""
    known = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or known is None:
        yield
        return
    caught: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, known)
        if caught and callable(known):
            known(*caught[0])


class Journal:
    """The journal of one search."""

    @undisturbed()
    def __init__(self, runs: Path, key: str, metric: Metric) -> None:
        """Open the journal, or begin it.

        Args:
            runs: the folder of run folders.
            key: of the search.
            metric: what is made better.
        """
        folder = (runs / folder_of(key)).absolute()  # Optuna's lock is a link to this path: a relative one leads astray
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "journal.log"
        lock = JournalFileSymlinkLock(str(self.path))
        mend(self.path, lock)
        self.storage = JournalStorage(JournalFileBackend(str(self.path), lock))
        if key in {study.study_name for study in self.storage.get_all_studies()}:
            self.study = optuna.load_study(study_name=key, storage=self.storage)
        else:
            direction = "minimize" if metric == "nll" else "maximize"
            self.study = optuna.create_study(
                storage=self.storage, study_name=key, direction=direction, load_if_exists=True
            )

    def trials(self) -> list[FrozenTrial]:
        """Read all trials, in the order of their numbers; they are not to be changed."""
        self.storage.get_all_studies()  # reads what others appended
        return list(self.study.get_trials(deepcopy=False))

    @undisturbed()
    def begin(
        self, values: Mapping[str, Any], space: Mapping[str, BaseDistribution], attributes: Mapping[str, Any]
    ) -> None:
        """Add a trial with all its values as one line: after a kill it is there whole, or not at all."""
        self.study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=dict(values),
                distributions=dict(space),
                user_attrs={**attributes, "owner": owner()},
            )
        )

    @undisturbed()
    def adopt(self, number: int) -> None:
        """Note that this process has a running trial from now on."""
        with suppress(UpdateFinishedTrialError):
            self.storage.set_trial_user_attr(self.identity(number), "owner", owner())

    @undisturbed()
    def refuse(
        self,
        values: Mapping[str, Any],
        space: Mapping[str, BaseDistribution],
        attributes: Mapping[str, Any],
        reason: str,
    ) -> None:
        """Note values that are not tried, and why, as a pruned trial: the search turns away from them."""
        self.study.add_trial(
            create_trial(
                state=TrialState.PRUNED,
                params=dict(values),
                distributions=dict(space),
                user_attrs={**attributes, "end": {"state": "refused", "reason": reason, "cost": 0.0}},
            )
        )

    @undisturbed()
    def report(self, number: int, epoch: int, value: float) -> None:
        """Note the metric of a running trial after an epoch; the same value again is left out."""
        if self.trials()[number].intermediate_values.get(epoch) != value:
            self.storage.set_trial_intermediate_value(self.identity(number), epoch, value)

    @undisturbed()
    def tell(self, number: int, state: Ended, value: float | None, reason: str, cost: float) -> None:
        """Note how a trial ended, once: another process may have done so meanwhile.

        Args:
            number: the trial's.
            state: how it ended.
            value: the metric, if it finished.
            reason: why it did not finish.
            cost: in plain trainings.
        """
        if self.trials()[number].state.is_finished():
            return
        with suppress(UpdateFinishedTrialError):
            end = {"state": state, "reason": reason, "cost": cost}
            self.storage.set_trial_user_attr(self.identity(number), "end", end)
            self.study.tell(number, value, state=STATES[state], skip_if_finished=True)

    def identity(self, number: int) -> int:
        """Give the storage's own number of a trial."""
        study = self.storage.get_study_id_from_name(self.study.study_name)
        return int(self.storage.get_trial_id_from_study_id_trial_number(study, number))


def mend(path: Path, lock: JournalFileSymlinkLock) -> None:
    """Cut off a last line that a kill, a full disk or a power cut left unfinished: the next one would spoil both."""
    if not path.exists():
        return
    lock.acquire()
    try:
        with path.open("rb+") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)
                os.fsync(file.fileno())
    finally:
        lock.release()


def owner() -> dict[str, Any]:
    """Name this process among all that may work on a search, and the time."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}


def dead(named: Mapping[str, Any]) -> bool:
    """Say whether an owner is a process of this machine that is no more."""
    if named["host"] != socket.gethostname():
        return False
    try:
        os.kill(named["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def end_of(trial: FrozenTrial) -> dict[str, Any]:
    """Give how a trial ended: state, reason, cost; of one that runs, the state "running" and no cost."""
    if not trial.state.is_finished():
        return {"state": "running", "reason": "", "cost": 0.0}
    return dict(trial.user_attrs["end"])
