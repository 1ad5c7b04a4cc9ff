"""Observes the claims of other processes: a run is free again if its owner is dead, or sends no heartbeats."""

import time
from pathlib import Path

from harness.store import claim


class ClaimObserver:
    """Observes the claims of other processes, and releases those whose owner is dead or sends no heartbeats."""

    def __init__(self, timeout: float | None = None) -> None:
        """Start without observations.

        Args:
            timeout: seconds without a heartbeat after which an owner is considered dead; None for `HEARTBEAT_TIMEOUT`.
        """
        self.timeout = claim.HEARTBEAT_TIMEOUT if timeout is None else timeout
        self.last_states: dict[Path, tuple[claim.ClaimState, float]] = {}

    def is_free(self, folder: Path) -> bool:
        """Return whether the run can be claimed now. The caller asks repeatedly."""
        found, now = claim.read_claim(folder), time.monotonic()
        if found.owner is None or found.owner.is_dead():
            self.last_states.pop(folder, None)
            return True
        before, since = self.last_states.setdefault(folder, (found, now))
        if found != before:
            self.last_states[folder] = (found, now)
        elif now - since >= self.timeout:
            del self.last_states[folder]
            claim.write_claim(folder, found.number + 1, "")  # if another observer came first, it is free as well
            return True
        return False
