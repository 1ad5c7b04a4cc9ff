"""The driver of a Ray cluster: it hires workers, hands them runs, and brings home what they did."""

import sys
import time
from dataclasses import dataclass
from typing import Any

from harness.engines.engine import EngineError, Watch, end, look, rest
from harness.engines.lost_workers import TRIES, Losses
from harness.engines.ray_cluster import Cluster
from harness.engines.ray_worker import Greeting, Orders, Worker
from harness.engines.run_archive import Archive, pack, unpack
from harness.planning.plan import Planned
from harness.planning.schedule import Schedule
from harness.running.execute import record_dead_run, record_failure
from harness.running.settings import Settings
from harness.store.claim import Claim, ClaimError, LostError, TakenError, take
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder, trouble

COUNTED = 5.0
"""Seconds between two looks at the cluster's machines."""
LOOKED = 1.0
"""Seconds between two looks at a run that trains apart from the driver's folder."""
PATIENCE = 30.0
"""Seconds without any worker after which the driver says what it waits for."""


@dataclass(eq=False)
class Hand:
    """A worker as the driver knows it.

    Attributes:
        actor: Ray's handle of it.
        greeting: what it has not answered yet, as `job` and `look` are.
        job: the run that it executes.
        look: how far it is.
        key: of the run; "" for none.
        apart: whether it shares no storage with the driver.
        host: the machine's name.
        look_at: when to look next.
        checkpoint_at: when to ask for a checkpoint next.
    """

    actor: Any
    greeting: Any
    job: Any = None
    look: Any = None
    key: str = ""
    apart: bool = False
    host: str = ""
    look_at: float = 0.0
    checkpoint_at: float = 0.0

    @property
    def idle(self) -> bool:
        """Whether it can take a run."""
        return self.greeting is None and not self.key


class Driver:
    """Drives one schedule on one cluster."""

    def __init__(
        self,
        ray: Any,
        cluster: Cluster,
        workers: int | None,
        orders: Orders,
        schedule: Schedule,
        settings: Settings,
        watch: Watch,
        home: float,
    ) -> None:
        """Start with no workers; the arguments are those of `Ray` and its `run`."""
        self.ray, self.cluster, self.workers, self.orders = ray, cluster, workers, orders
        self.schedule, self.settings, self.watch, self.home = schedule, settings, watch, home
        self.hands: list[Hand] = []
        self.losses = Losses(settings.runs)
        self.alone: set[str] = set()
        self.claims: dict[str, Claim] = {}
        self.room, self.counted_at = 0, 0.0
        self.began: float | None = time.monotonic()
        self.stillborn = 0
        # One retry policy, which is this class's: Ray starts nothing again by itself.
        self.hire_one: Any = ray.remote(Worker).options(
            num_cpus=cluster.cpus,
            num_gpus=cluster.gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=2,  # one executes, the other looks
        )

    def work(self) -> None:
        """Go on until nothing is left."""
        try:
            while self.schedule.left:
                self.hire()
                self.hand_out()
                self.look()
                self.listen()
                look(self.schedule, self.settings, self.watch)
                self.watch.tick()
            self.dismiss(0)
        finally:
            for hand in self.hands:
                self.ray.kill(hand.actor)
            for claim in self.claims.values():
                claim.release()

    def hire(self) -> None:
        """Have as many workers as there is room and work for."""
        if time.monotonic() >= self.counted_at:
            self.room, self.counted_at = self.count_room(), time.monotonic() + COUNTED
        wanted = min(self.room, len(self.schedule.waiting) + len(self.schedule.running))
        while len(self.hands) < wanted:
            actor = self.hire_one.remote(self.orders)
            self.hands.append(Hand(actor, actor.greet.remote()))
        self.dismiss(wanted)
        if self.began and time.monotonic() - self.began > PATIENCE:
            self.began = None
            print(
                f"waiting for the Ray cluster: no worker has started in {PATIENCE:g} s; a run asks for "
                f"{self.cluster.cpus:g} CPUs and {self.cluster.gpus:g} GPUs, which others may use (see `ray status`)",
                file=sys.stderr,
            )

    def count_room(self) -> int:
        """Count the runs that the cluster has room for at once.

        Raises:
            EngineError: if it has none.
        """
        if self.workers and not self.cluster.local:
            return self.workers  # also more than there is room for, so that a cluster that can grow does
        room = sum(self.cluster.fits(node["Resources"]) for node in self.ray.nodes() if node["Alive"])
        if not room and not self.hands:
            raise EngineError(
                f"no machine of the Ray cluster has the {self.cluster.cpus:g} CPUs and {self.cluster.gpus:g} GPUs that "
                "a run asks for: ask for less (--cpus-per-run, --gpus-per-run), or start machines (`ray start`)"
            )
        return min(room, self.workers or room)

    def dismiss(self, wanted: int) -> None:
        """Let go those that nothing is left for: Ray ends a worker that nobody knows any more, after its last task."""
        idle = [hand for hand in self.hands if hand.idle][: max(0, len(self.hands) - wanted)]
        leaving = [hand.actor.leave.remote() for hand in idle]
        self.hands = [hand for hand in self.hands if hand not in idle]
        if leaving:
            self.ray.wait(leaving, num_returns=len(leaving), timeout=1.0)

    def hand_out(self) -> None:
        """Give every idle worker a run."""
        for hand in list(self.hands):
            if hand.idle and (key := self.take()):
                self.give(hand, key)

    def take(self) -> str | None:
        """Take the next run, None if there is none now.

        Those that lost their worker come last, one at a time, and those that ran out of memory when nothing else runs.
        """
        running = {hand.key for hand in self.hands if hand.key}
        if running & self.alone:
            return None
        return self.schedule.take() or self.losses.take(running, self.alone)

    def give(self, hand: Hand, key: str) -> None:
        """Hand a worker a run, and where it shares no storage, all that the run starts from."""
        planned = self.schedule.runs[key]
        try:
            archives = self.prepare(planned) if hand.apart else {}
        except TakenError as error:
            self.end(key, Outcome("elsewhere", str(error)))
            return
        except OSError as error:
            self.end(key, Outcome("blocked", trouble(error) or str(error)))
            return
        if alone := key in self.alone:
            for other in [other for other in self.hands if other is not hand]:
                self.fire(other)  # which frees what idle processes keep of a GPU's memory
        hand.key, hand.job = key, hand.actor.work.remote(planned, archives, alone=alone)
        hand.look_at, hand.checkpoint_at = time.monotonic() + LOOKED, time.monotonic() + self.home
        self.watch.started(planned)

    def prepare(self, planned: Planned) -> dict[str, Archive]:
        """Claim a run for a worker that shares no storage, and pack what it starts from.

        Raises:
            TakenError: if another driver works on it.
            OSError: if the folder cannot be read or written.
        """
        folder = self.folder(planned.key)
        self.claims[planned.key] = take(folder.path, self.settings.driver)
        folder.sweep()
        return {key: pack(self.folder(key)) for key in (*self.started_from(planned), planned.key)}

    def started_from(self, planned: Planned) -> list[str]:
        """List the runs that a run needs, and the latest of its trunks that is there unless it has begun itself."""
        begun = self.folder(planned.key).checkpoint.exists()
        states = [] if begun else [key for key in planned.trunks if self.folder(key).checkpoint.exists()]
        diverged = [key for key in planned.trunks if self.folder(key).failure.exists()]
        return [*planned.needs, *planned.beside, *states[:1], *diverged]

    def look(self) -> None:
        """Ask those that work apart how far they are, and now and then for a checkpoint."""
        now = time.monotonic()
        for hand in self.hands:
            if hand.apart and hand.key and hand.look is None and now >= hand.look_at:
                hand.look = hand.actor.look.remote(hand.key, checkpoint=now >= hand.checkpoint_at)

    def listen(self) -> None:
        """Wait a moment for an answer."""
        asked = {ref: hand for hand in self.hands for ref in (hand.greeting, hand.job, hand.look) if ref is not None}
        if not asked:
            rest(self.schedule, self.settings, self.watch)
            return
        self.ray.wait(list(asked), timeout=0.5)
        answered, _ = self.ray.wait(list(asked), num_returns=len(asked), timeout=0)
        for ref in sorted(answered, key=lambda ref: ref == asked[ref].look):  # ends first
            hand = asked[ref]
            if ref == hand.greeting:
                self.hear_greeting(hand)
            elif ref == hand.job:
                self.hear_end(hand)
            elif ref == hand.look:  # not one of a run whose end was heard just now
                self.hear_look(hand)

    def hear_greeting(self, hand: Hand) -> None:
        """Take a worker in.

        Raises:
            EngineError: if workers cannot be started, or lack what runs need.
        """
        try:
            greeting: Greeting = self.ray.get(hand.greeting)
        except self.ray.exceptions.RayError as error:
            self.hands.remove(hand)
            self.stillborn += 1
            if self.stillborn >= TRIES:
                raise EngineError(f"no worker could be started on the Ray cluster: {error}") from error
            return
        if greeting.problems:
            raise EngineError("\n".join(greeting.problems))
        hand.greeting, hand.apart, hand.host = None, greeting.apart, greeting.host
        self.stillborn, self.began = 0, None

    def hear_look(self, hand: Hand) -> None:
        """Keep how far a run is.

        Raises:
            EngineError: if there is no room for it.
        """
        folder, ref = self.folder(hand.key), hand.look
        hand.look, hand.look_at = None, time.monotonic() + LOOKED
        try:
            archive: Archive = self.ray.get(ref)
        except self.ray.exceptions.RayError:
            return  # its worker or machine is lost, which the answer to its run will say too; or the next look works
        try:
            unpack(archive, folder, whole=False)
        except LostError as error:
            self.fire(hand)
            self.end(folder.key, Outcome("elsewhere", str(error)))
            return
        except OSError as error:
            raise EngineError(f"a checkpoint could not be brought home: {error}") from error
        if folder.checkpoint.name in archive:
            hand.checkpoint_at = time.monotonic() + self.home

    def hear_end(self, hand: Hand) -> None:
        """Bring a run home that ended, however it did."""
        key, ref = hand.key, hand.job
        hand.key, hand.job, hand.look = "", None, None
        folder = self.folder(key)
        try:
            outcome, archive = self.ray.get(ref)
            unpack(archive, folder, whole=bool(archive))
            if outcome.state == "blocked" and hand.apart:
                outcome = Outcome("blocked", f"on {hand.host}, {outcome.reason}")
        except self.ray.exceptions.RayTaskError as error:  # the worker lives: the trouble was around the run
            if reason := trouble(error.cause):
                outcome = Outcome("blocked", f"on {hand.host}, {reason}")
            else:
                outcome = record_failure(
                    folder, Outcome("failed", f"{type(error.cause).__name__}: {error.cause}"), str(error)
                )
        except self.ray.exceptions.RayError:
            self.lose(hand, key)
            return
        except ClaimError as error:
            outcome = Outcome("elsewhere", str(error))
        except OSError as error:
            outcome = Outcome("blocked", f"it could not be brought home: {trouble(error) or error}")
        if outcome.state not in ("finished", "elsewhere") and self.cluster.gpus:
            self.fire(hand)  # after some errors a process can use its GPU no more
        if outcome.state == "out of memory":
            self.alone.add(key)
            self.release(key)
            self.losses.defer(key)
        else:
            self.end(key, outcome)

    def lose(self, hand: Hand, key: str) -> None:
        """Put a run back whose worker died, unless it did so too often without getting further."""
        self.fire(hand)  # should it be alive and only out of reach
        self.release(key)
        if self.folder(key).finished:  # it died after that
            self.end(key, Outcome("finished"))
            return
        if self.losses.count(key) < TRIES:
            self.losses.defer(key)
            run = self.schedule.runs[key].run
            print(f"{run}: its worker process died; it goes on from its last checkpoint later", file=sys.stderr)
            return
        reason = f"its worker process died {TRIES} times (killed, or out of memory)"
        self.end(key, record_dead_run(self.folder(key), reason, self.settings))

    def fire(self, hand: Hand) -> None:
        """End a worker at once."""
        self.hands.remove(hand)
        self.ray.kill(hand.actor)

    def end(self, key: str, outcome: Outcome) -> None:
        """Note how a run ended."""
        self.release(key)
        if outcome.state != "elsewhere":  # where it may have to wait because a machine was lost with its claim
            self.losses.forget(key)
        end(self.schedule, self.watch, key, outcome)

    def release(self, key: str) -> None:
        """Give up the claim of a run, if the driver holds it."""
        if claim := self.claims.pop(key, None):
            claim.release()

    def folder(self, key: str) -> RunFolder:
        """Give the driver's own folder of a run."""
        return RunFolder(self.settings.runs, key)
