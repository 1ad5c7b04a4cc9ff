"""Sends runs to the tracking store in a background thread, so that training never waits long for a slow store."""

import threading
import time
from pathlib import Path

from harness.planning.planned_runs import Planned
from harness.tracking.mlflow_mirror import Mirror

SEND_SECONDS = 2.0
"""Seconds that `send` waits. A healthy store has taken a run by then, so that the next run trains undisturbed."""
OPEN_SECONDS = 15.0
"""Seconds that the constructor waits for the store to be opened; creating a database takes some."""
FINISH_SECONDS = 30.0
"""Seconds that `finish` waits for the runs that are still to be sent."""


class BackgroundMirror:
    """Wraps a `Mirror` and calls it in a thread of its own.

    `send` waits for a moment while the thread keeps up. Once the thread is behind, `send` only adds to its queue.

    Attributes:
        queue: runs to send, by key, each with whether it is still running.
        known: all runs that were ever passed to this object, by key.
        sending: the key of the run that is being sent; "" while the store is opened or closed; None while idle.
        closing: whether the thread is to close the mirror once the queue is empty.
        error: what ended the thread; None while it works.
    """

    def __init__(self, mirror: Mirror, send_seconds: float = SEND_SECONDS, open_seconds: float = OPEN_SECONDS) -> None:
        """Start the thread, which opens the store.

        Args:
            mirror: does the sending.
            send_seconds: the longest that `send` waits.
            open_seconds: the longest that this constructor waits.
        """
        self.mirror, self.send_seconds = mirror, send_seconds
        self.queue: dict[str, tuple[Planned, bool]] = {}
        self.known: dict[str, Planned] = {}
        self.sending: str | None = ""
        self.closing = False
        self.error: BaseException | None = None
        self.changed = threading.Condition()
        threading.Thread(target=self.run_thread, name="tracking", daemon=True).start()
        self.wait(open_seconds)

    @property
    def runs(self) -> Path:
        """The folder of run folders."""
        return self.mirror.runs

    @property
    def problem(self) -> str:
        """What is wrong with the store; "" if nothing is known to be wrong."""
        return self.mirror.problem

    @property
    def unsent(self) -> set[str]:
        """Keys of the runs that the store lacks, or has in an older state."""
        with self.changed:
            return (
                self.mirror.unsent
                | self.mirror.left_to_others.keys()
                | self.queue.keys()
                | ({self.sending} if self.sending else set())
            )

    @property
    def behind(self) -> bool:
        """Whether the thread still has something to do."""
        return bool(self.queue) or self.closing or self.sending is not None

    def send(self, planned: Planned, *, live: bool = False) -> None:
        """Queue a run, so that what is new in its folder is sent.

        Args:
            planned: the run.
            live: whether it is still running; then it is sent only now and then.
        """
        with self.changed:
            seconds = 0.0 if self.behind else self.send_seconds
            _, queued_live = self.queue.get(planned.key, (planned, True))
            self.queue[planned.key] = planned, live and queued_live
            self.known[planned.key] = planned
            self.changed.notify_all()
        self.wait(seconds)

    def leave_to_other_driver(self, planned: Planned) -> None:
        """Leave the sending of a run to the driver that trained it; `finish` sends it if that driver did not."""
        self.known[planned.key] = planned
        self.mirror.leave_to_other_driver(planned)

    def wait(self, seconds: float) -> None:
        """Wait until the thread has nothing left to do, but at most this long.

        Raises:
            BaseException: what ended the thread. Troubles of the store do not, so that this is a defect.
        """
        with self.changed:
            self.changed.wait_for(lambda: self.error or not self.behind, seconds)
            if self.error:
                raise self.error

    def finish(self, seconds: float | None = None) -> None:
        """Send the runs that other drivers did not send, then try those again that the store did not accept.

        Args:
            seconds: the longest to wait; None for `FINISH_SECONDS`.
        """
        seconds = FINISH_SECONDS if seconds is None else seconds
        end = time.monotonic() + seconds
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        self.wait(seconds)
        if self.mirror.unsent and not self.behind:
            self.mirror.retry_at = 0.0
            with self.changed:
                self.queue |= {key: (self.known[key], False) for key in self.mirror.unsent}
                self.changed.notify_all()
            self.wait(max(0.0, end - time.monotonic()))

    def run_thread(self) -> None:
        """Open the store, then send queued runs for ever."""
        try:
            self.mirror.open()
            while True:
                with self.changed:
                    self.sending = None
                    self.changed.notify_all()
                    self.changed.wait_for(lambda: self.queue or self.closing)
                    self.sending = next(iter(self.queue), "")
                    planned, live = self.queue.pop(self.sending) if self.sending else (None, False)
                if planned:
                    self.mirror.send(planned, live=live)
                else:
                    self.mirror.close()
                    self.closing = False
        except BaseException as error:
            with self.changed:
                self.error = error
                self.changed.notify_all()
