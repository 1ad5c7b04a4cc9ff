"""The journal of one search: an Optuna journal file with all trials.

Many processes and machines append to the file. None overwrites it.
"""

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
"""The metric that a search optimizes, on validation data."""
EndState = Literal["finished", "pruned", "failed", "diverged", "refused"]
"""How a trial ended."""
OPTUNA_STATES: dict[str, TrialState] = {
    "finished": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "diverged": TrialState.FAIL,  # as Optuna itself treats a value that is not a number
    "refused": TrialState.PRUNED,
}
"""The Optuna state for each end state."""


def search_folder(key: str) -> Path:
    """Return the folder of a search, relative to the folder of run folders. It contains the folders of its trials."""
    return Path("tuning") / key


@contextmanager
def delay_interrupts() -> Iterator[None]:
    """Delay Ctrl-C until the block has ended.

    An interrupt while a journal is written would leave Optuna's lock behind, or make its release fail.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is None:
        yield
        return
    caught: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if caught and callable(handler):
            handler(*caught[0])


class JournalError(Exception):
    """A journal is damaged, so that its search cannot go on."""


class AtomicJournalFile(JournalFileBackend):  # type: ignore[misc]  # Optuna's types are not read
    """Optuna's journal file, with appends that are complete or have no effect.

    A kill, a full disk or a power cut may leave an incomplete last line. The next append removes that line.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or create it."""
        self.path, self.lock = path, JournalFileSymlinkLock(str(path))
        super().__init__(str(path), self.lock)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the complete lines from a number on.

        Raises:
            JournalError: naming the file and the first damaged line. Optuna counts trials by their lines, so that none
                can be left out.
        """
        number = log_number_from
        try:
            for log in super().read_logs(log_number_from):
                if not isinstance(log, dict) or "op_code" not in log:
                    raise ValueError("it is no entry of a journal")
                number += 1
                yield log
        except ValueError as error:
            reason = f"line {number + 1} is damaged ({error}), and its search cannot go on"
            raise JournalError(f"{self.path}: {reason}; restore the file, or remove {self.path.parent}") from error

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append all the lines, or none of them, after the last complete line.

        Raises:
            OSError: if the lines cannot be written. The error names the file.
        """
        content = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        self.lock.acquire()
        try:
            with self.path.open("rb+", buffering=0) as file:  # a buffer would write again when the file is closed
                end = file.truncate(end_of_complete_lines(file))
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
    """Reads and writes the trials of one search."""

    @delay_interrupts()
    def __init__(self, runs: Path, key: str, metric: Metric, driver: str = "") -> None:
        """Open the journal, or create it.

        Args:
            runs: the folder of run folders.
            key: of the search.
            metric: the metric to optimize.
            driver: readable name of the driver that begins trials.
        """
        self.path, self.driver = journal_path(runs, key), driver
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
        """Read all trials, ordered by number. The caller must not change them."""
        self.storage.get_all_studies()  # reads what other processes appended
        return list(self.study.get_trials(deepcopy=False))

    def describe_process(self) -> dict[str, Any]:
        """Describe this process in the same way as a claim does."""
        return asdict(Owner.current_process(self.driver))

    @delay_interrupts()
    def begin(
        self, values: Mapping[str, Any], space: Mapping[str, BaseDistribution], attributes: Mapping[str, Any]
    ) -> None:
        """Add a running trial. All its values are one line, so a kill leaves the whole trial or none of it."""
        self.study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=dict(values),
                distributions=dict(space),
                user_attrs={**attributes, "owner": self.describe_process()},
            )
        )

    @delay_interrupts()
    def take_over(self, number: int) -> None:
        """Record this process as the owner of a running trial."""
        with suppress(UpdateFinishedTrialError):
            self.storage.set_trial_user_attr(self.storage_id(number), "owner", self.describe_process())

    @delay_interrupts()
    def refuse(
        self,
        values: Mapping[str, Any],
        space: Mapping[str, BaseDistribution],
        attributes: Mapping[str, Any],
        reason: str,
    ) -> None:
        """Add a pruned trial for values that are not tried, with the reason. The sampler then avoids such values."""
        self.study.add_trial(
            create_trial(
                state=TrialState.PRUNED,
                params=dict(values),
                distributions=dict(space),
                user_attrs={**attributes, "end": {"state": "refused", "reason": reason, "cost": 0.0}},
            )
        )

    @delay_interrupts()
    def report(self, number: int, epoch: int, value: float) -> None:
        """Record the metric of a running trial after an epoch, unless the same value is recorded already."""
        if self.trials()[number].intermediate_values.get(epoch) != value:
            self.storage.set_trial_intermediate_value(self.storage_id(number), epoch, value)

    @delay_interrupts()
    def tell(self, number: int, state: EndState, value: float | None, reason: str, cost: float) -> None:
        """Record how a trial ended, unless another process has done so.

        Args:
            number: the trial's.
            state: how it ended.
            value: the metric, if it finished.
            reason: why it did not finish.
            cost: in plain trainings of one network.
        """
        if self.trials()[number].state.is_finished():
            return
        with suppress(UpdateFinishedTrialError):
            end = {"state": state, "reason": reason, "cost": cost}
            self.storage.set_trial_user_attr(self.storage_id(number), "end", end)
            self.study.tell(number, value, state=OPTUNA_STATES[state], skip_if_finished=True)

    def storage_id(self, number: int) -> int:
        """Return the identifier that Optuna's storage gave to a trial."""
        study = self.storage.get_study_id_from_name(self.study.study_name)
        return int(self.storage.get_trial_id_from_study_id_trial_number(study, number))


def journal_path(runs: Path, key: str) -> Path:
    """Return the absolute path of a search's journal.

    Optuna's lock is a symbolic link to the journal, and a relative link would point to the wrong folder.
    """
    return (runs / search_folder(key)).absolute() / "journal.log"


def read_trials(runs: Path, key: str) -> list[FrozenTrial]:
    """Read the trials of a search without writing anything. Return [] if the search has not begun."""
    path = journal_path(runs, key)
    if not path.exists():
        return []
    storage = JournalStorage(AtomicJournalFile(path))
    known = {study.study_name for study in storage.get_all_studies()}
    return list(storage.get_all_trials(storage.get_study_id_from_name(key))) if key in known else []


def end_of_complete_lines(file: BinaryIO) -> int:
    """Return the position after the last complete line of a file."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return 0
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return size
    file.seek(0)
    return file.read().rfind(b"\n") + 1


def trial_owner(trial: FrozenTrial) -> Owner:
    """Return the process that began a trial or took it over."""
    return Owner(**trial.user_attrs["owner"])


def trial_end(trial: FrozenTrial) -> dict[str, Any]:
    """Return the state, reason and cost with which a trial ended. A running trial has state "running" and no cost."""
    if not trial.state.is_finished():
        return {"state": "running", "reason": "", "cost": 0.0}
    return dict(trial.user_attrs["end"])
