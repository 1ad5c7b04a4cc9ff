"""The trials of one search, in Optuna's journal file: many processes and machines append to it, none overwrites."""

import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.store.claim import Owner

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


class AtomicJournalFile(JournalFileBackend):  # type: ignore[misc]  # Optuna's types are not read
    """Optuna's journal file, in which a kill, a full disk or a power cut leaves no half line for the next to go on."""

    def __init__(self, path: Path) -> None:
        """Open the file, or begin it."""
        self.path, self.lock = path, JournalFileSymlinkLock(str(path))
        super().__init__(str(path), self.lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines after the last whole one, all of them or none.

        Raises:
            OSError: that names the file, if they cannot be written.
        """
        content = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        self.lock.acquire()
        try:
            with self.path.open("rb+", buffering=0) as file:  # a buffer would try again where the file is closed
                end = file.truncate(end_of_lines(file))
                try:
                    file.seek(end)
                    left = memoryview(content)
                    while left:
                        left = left[file.write(left) :]
                    os.fsync(file.fileno())
                except BaseException:
                    file.truncate(end)
                    raise
        except OSError as error:
            error.filename, error.filename2 = str(self.path), None
            raise
        finally:
            self.lock.release()


class Journal:
    """The journal of one search."""

    @undisturbed()
    def __init__(self, runs: Path, key: str, metric: Metric, driver: str = "") -> None:
        """Open the journal, or begin it.

        Args:
            runs: the folder of run folders.
            key: of the search.
            metric: what is made better.
            driver: who begins trials in it, for people.
        """
        self.path, self.driver = path_of(runs, key), driver
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.storage = JournalStorage(AtomicJournalFile(self.path))
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

    def me(self) -> dict[str, Any]:
        """Name this process as a claim does."""
        return asdict(Owner.here(self.driver))

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
                user_attrs={**attributes, "owner": self.me()},
            )
        )

    @undisturbed()
    def adopt(self, number: int) -> None:
        """Note that this process has a running trial from now on."""
        with suppress(UpdateFinishedTrialError):
            self.storage.set_trial_user_attr(self.identity(number), "owner", self.me())

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


def path_of(runs: Path, key: str) -> Path:
    """Give the journal of a search; absolute, for Optuna's lock is a link to it, and a relative one leads astray."""
    return (runs / folder_of(key)).absolute() / "journal.log"


def read_trials(runs: Path, key: str) -> list[FrozenTrial]:
    """Read the trials of a search that may never have begun; nothing is written."""
    path = path_of(runs, key)
    if not path.exists():
        return []
    storage = JournalStorage(AtomicJournalFile(path))
    known = {study.study_name for study in storage.get_all_studies()}
    return list(storage.get_all_trials(storage.get_study_id_from_name(key))) if key in known else []


def end_of_lines(file: BinaryIO) -> int:
    """Find where the last whole line of a file ends."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return 0
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return size
    file.seek(0)
    return file.read().rfind(b"\n") + 1


def owner_of(trial: FrozenTrial) -> Owner:
    """Give the process that began a trial, or took it over."""
    return Owner(**trial.user_attrs["owner"])


def trial_end(trial: FrozenTrial) -> dict[str, Any]:
    """Give how a trial ended: state, reason, cost; of one that runs, the state "running" and no cost."""
    if not trial.state.is_finished():
        return {"state": "running", "reason": "", "cost": 0.0}
    return dict(trial.user_attrs["end"])
