"""Sends to the tracking store in a thread of its own, so that nobody waits for one that is slow or away."""

import threading
import time
from pathlib import Path

from harness.planning.plan import Planned
from harness.tracking.mlflow_mirror import Mirror

MOMENT = 2.0
"""Seconds that a sending is waited for: a healthy store is done by then, and the next run trains undisturbed."""
OPENING = 15.0
"""Seconds that the opening is waited for: a new database takes some."""
FAREWELL = 30.0
"""Seconds that what is left is waited for at the end."""


class BackgroundMirror:
    """Stands before a `Mirror`, and has a thread do what the mirror would do at once.

    Whoever sends waits for a moment, as long as the thread keeps up; once it is behind, nobody waits for it at all.
    """

    def __init__(self, mirror: Mirror, moment: float = MOMENT, opening: float = OPENING) -> None:
        """Start the thread, which opens the store.

        Args:
            mirror: does the sending.
            moment: seconds that a sending is waited for.
            opening: seconds that the opening of the store is waited for.
        """
        self.mirror, self.moment = mirror, moment
        self.waiting: dict[str, tuple[Planned, bool]] = {}
        self.planned: dict[str, Planned] = {}
        self.busy: str | None = ""  # the key that is being sent, "" while the store is opened
        self.closing = False
        self.error: BaseException | None = None
        self.changed = threading.Condition()
        threading.Thread(target=self.work, name="tracking", daemon=True).start()
        self.wait(opening)

    @property
    def runs(self) -> Path:
        """The folder of run folders."""
        return self.mirror.runs

    @property
    def problem(self) -> str:
        """What is wrong with the store; "" if nothing is, as far as is known."""
        return self.mirror.problem

    @property
    def unsent(self) -> set[str]:
        """Keys of the runs that the store does not have as they are now."""
        with self.changed:
            return (
                self.mirror.unsent
                | self.mirror.left.keys()
                | self.waiting.keys()
                | ({self.busy} if self.busy else set())
            )

    @property
    def behind(self) -> bool:
        """Whether the thread is not done with what it was given."""
        return bool(self.waiting) or self.closing or self.busy is not None

    def send(self, planned: Planned, *, live: bool = False) -> None:
        """Have sent what is new in a run's folder.

        Args:
            planned: the run.
            live: it is still running; send only now and then.
        """
        with self.changed:
            moment = 0.0 if self.behind else self.moment
            _, lively = self.waiting.get(planned.key, (planned, True))
            self.waiting[planned.key] = planned, live and lively
            self.planned[planned.key] = planned
            self.changed.notify_all()
        self.wait(moment)

    def leave_to_other_driver(self, planned: Planned) -> None:
        """Leave a run to the driver that trained it; `finish` makes sure that it was sent."""
        self.planned[planned.key] = planned
        self.mirror.leave_to_other_driver(planned)

    def wait(self, seconds: float) -> None:
        """Wait until everything is sent, but not longer than this.

        Raises:
            BaseException: what went wrong in the thread and is no trouble of the store's, but a defect.
        """
        with self.changed:
            self.changed.wait_for(lambda: self.error or not self.behind, seconds)
            if self.error:
                raise self.error

    def finish(self, seconds: float | None = None) -> None:
        """Send what other drivers did not, and once more what the store did not take; wait no longer than this."""
        seconds = FAREWELL if seconds is None else seconds
        end = time.monotonic() + seconds
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        self.wait(seconds)
        if self.mirror.unsent and not self.behind:
            self.mirror.retry_at = 0.0
            with self.changed:
                self.waiting |= {key: (self.planned[key], False) for key in self.mirror.unsent}
                self.changed.notify_all()
            self.wait(max(0.0, end - time.monotonic()))

    def work(self) -> None:
        """Open the store, then send what waits, for ever."""
        try:
            self.mirror.open()
            while True:
                with self.changed:
                    self.busy = None
                    self.changed.notify_all()
                    self.changed.wait_for(lambda: self.waiting or self.closing)
                    self.busy = next(iter(self.waiting), "")
                    planned, live = self.waiting.pop(self.busy) if self.busy else (None, False)
                if planned:
                    self.mirror.send(planned, live=live)
                else:
                    self.mirror.close()
                    self.closing = False
        except BaseException as error:
            with self.changed:
                self.error = error
                self.changed.notify_all()
