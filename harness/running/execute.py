"""Execute one run, alone in its folder, where whatever goes wrong in it is recorded."""

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from data.files.decoder import usable_cpus
from harness.planning.trunks import Trunk
from harness.quadratic.problem import QuadraticRun
from harness.quadratic.quadratic_study import simulate_run
from harness.running.distributed.group import ALONE, Group
from harness.running.distributed.ranks import rank_device, run_together
from harness.running.lifecycle import NeedError, RunLifecycle
from harness.running.out_of_memory import advice, ran_out_of_memory
from harness.running.settings import Settings
from harness.store.claim import ClaimError, confirm
from harness.store.outcome import FOUND, DivergenceError, Outcome
from harness.store.run_folder import RunFolder, read_json, trouble, write_json
from harness.studies.run import Run
from harness.tracking.system_metrics import sampling


def execute(
    run: Run | QuadraticRun | Trunk,
    settings: Settings,
    needed: list[str],
    report: Callable[[], None] = lambda: None,
    trunks: Sequence[str] = (),
) -> Outcome:
    """Execute a run; whatever goes wrong in it is recorded in its folder and never raised.

    Args:
        run: what to run.
        settings: where and on what.
        needed: keys of the finished runs it starts from, then of those that its evaluation looks at.
        report: called at the end of every epoch.
        trunks: keys of the trunks that it can go on from, the latest first; those that are not there are trained again.

    Returns:
        How it ended. A run that was finished already is left alone, and so is one that another process works on.
    """
    folder = RunFolder(settings.runs, run.key)

    def start() -> None:
        if isinstance(run, QuadraticRun):
            simulate_run(run, folder, report)
        elif settings.ranks > 1:
            job = partial(finish, run, settings, folder, needed, trunks)
            run_together(job, settings.ranks, settings.device, partial(confirm_and, report, folder))
        else:
            finish(run, settings, folder, needed, trunks, group=ALONE, report=report)

    return run_claimed(run, settings, folder, start)


def run_claimed(
    run: Run | QuadraticRun | Trunk, settings: Settings, folder: RunFolder, start: Callable[[], None]
) -> Outcome:
    """Start what finishes a run, alone in its folder, and record there what goes wrong in it.

    Args:
        run: what to run.
        settings: where and on what.
        folder: its folder.
        start: does it, unless it was finished already.
    """
    try:
        if is_there(run, folder):
            return Outcome("finished", FOUND)
        with folder.claim(settings.driver):
            return finish_claimed(run, settings, folder, start)
    except ClaimError as error:
        return Outcome("elsewhere", str(error))
    except OSError as error:
        if reason := trouble(error):
            return Outcome("blocked", reason)
        return Outcome("failed", f"{type(error).__name__}: {error} (and the failure could not be recorded)")


def is_there(run: Run | QuadraticRun | Trunk, folder: RunFolder) -> bool:
    """Say whether nothing is left to do; a trunk's state may have been removed for its size."""
    return folder.finished and (not isinstance(run, Trunk) or folder.checkpoint.exists())


def finish_claimed(
    run: Run | QuadraticRun | Trunk, settings: Settings, folder: RunFolder, start: Callable[[], None]
) -> Outcome:
    """Finish a run that this process has claimed.

    Raises:
        LostError: if another process has taken it over.
    """
    if is_there(run, folder):  # by another process, just before
        return Outcome("finished", FOUND)
    failure = read_json(folder.failure)
    if failure.get("time", 0.0) > settings.began and failure["state"] != "out of memory":
        return Outcome(failure["state"], f"{failure['reason']} (another driver tried it)")
    try:
        folder.sweep()
        folder.result.unlink(missing_ok=True)  # of a trunk whose state was removed
        write_json(folder.spec, run.spec())
        with sampling(folder.system, settings.system_metrics, torch.device(settings.device)):
            start()
    except ClaimError:
        raise
    except Exception as error:
        outcome = outcome_of(error, settings)
        return outcome if outcome.state == "blocked" else record_failure(folder, outcome, traceback.format_exc())
    return Outcome("finished")


def confirm_and(report: Callable[[], None], folder: RunFolder) -> None:
    """Make sure of the claim, of which ranks do not know, being processes of their own; then report."""
    confirm(folder.path)
    report()


def outcome_of(error: Exception, settings: Settings) -> Outcome:
    """Say how a run ended that raised an error."""
    if reason := trouble(error):
        return Outcome("blocked", reason)
    if isinstance(error, DivergenceError | NeedError):
        return Outcome("diverged" if isinstance(error, DivergenceError) else "failed", str(error))
    reason = f"{type(error).__name__}: {error}"
    if not ran_out_of_memory(error):
        return Outcome("failed", reason)
    if not settings.alone:
        return Outcome("out of memory", reason)
    return Outcome("failed", f"{reason} ({advice(settings.device)})")


def record_dead_run(folder: RunFolder, reason: str, settings: Settings) -> Outcome:
    """Record that a run failed whose process can do so no more.

    Returns:
        Its outcome: failed, unless it is finished after all, or another driver has taken it over.
    """
    try:
        with folder.claim(settings.driver):
            return Outcome("finished") if folder.finished else record_failure(folder, Outcome("failed", reason))
    except ClaimError as error:
        return Outcome("elsewhere", str(error))
    except OSError as error:
        return Outcome("blocked", trouble(error) or str(error))


def finish(
    run: Run | Trunk,
    settings: Settings,
    folder: RunFolder,
    needed: list[str],
    trunks: Sequence[str],
    *,
    group: Group,
    report: Callable[[], None],
) -> None:
    """Do what is left of a run or a trunk in this process, perhaps as one of the ranks that share it."""
    if group.size > 1:
        decoders = usable_cpus() if settings.decoders is None else settings.decoders
        share = decoders and max(1, decoders // group.size)
        settings = replace(settings, device=rank_device(settings.device, group.rank), decoders=share)
    with group.in_turn():
        if isinstance(run, Trunk):
            execution = RunLifecycle(run.run, settings, folder, report, trunks, group, until=run.epochs)
        else:
            execution = RunLifecycle(run, settings, folder, report, trunks, group)
    if isinstance(run, Trunk):
        execution.finish_trunk(run, needed)
    else:
        execution.finish(needed)


def record_failure(folder: RunFolder, outcome: Outcome, trace: str = "") -> Outcome:
    """Record in a run's folder how it failed."""
    try:
        write_json(folder.failure, {**outcome._asdict(), "traceback": trace, "time": time.time()})
    except OSError as error:
        lost = f"{outcome.reason} (and the failure could not be recorded: {trouble(error) or error})"
        return Outcome("blocked" if trouble(error) else outcome.state, lost)
    return outcome
