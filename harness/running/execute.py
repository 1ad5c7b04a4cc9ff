"""Executes one run, alone in its folder. Whatever goes wrong is recorded there and never raised."""

import time
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

import torch

from data.files.usable_cpus import usable_cpus
from harness.planning.trunks import TrunkRun
from harness.quadratic.problem import QuadraticRun
from harness.quadratic.quadratic_study import simulate_run
from harness.running.distributed.group import SINGLE_PROCESS, Group
from harness.running.distributed.ranks import rank_device, run_ranks
from harness.running.lifecycle import RunLifecycle
from harness.running.needed_runs import NeededRunError
from harness.running.out_of_memory import advice, ran_out_of_memory
from harness.running.settings import Settings
from harness.store.claim import ClaimError, check_still_owner
from harness.store.outcome import ALREADY_FINISHED, DivergenceError, Outcome
from harness.store.process_identity import machine_id
from harness.store.run_folder import RunFolder, describe_disk_error, write_json
from harness.store.source_archive import save_sources
from harness.studies.run import Run
from harness.tracking.system_metrics import sampling

DYING_SECONDS = 2.0
"""How long a process that was killed may still be there."""


def execute(
    run: Run | QuadraticRun | TrunkRun,
    settings: Settings,
    needed: list[str],
    report: Callable[[], None] = lambda: None,
    trunks: Sequence[str] = (),
    contained: Collection[str] = (),
) -> Outcome:
    """Execute a run, unless it is finished or another process works on it.

    Args:
        run: the run or trunk.
        settings: folders, device and speed options.
        needed: keys of the finished runs that it starts from, then of those that its evaluation uses.
        report: called at the end of every epoch.
        trunks: keys of the trunks that it can be forked from, the latest first. Without their states, the run trains
            those epochs itself.
        contained: keys of needed states that are no part of its cost, for it needs runs that pass through them.

    Returns:
        How the run ended.
    """
    folder = RunFolder(settings.runs, run.key)

    def finish() -> None:
        if isinstance(run, QuadraticRun):
            simulate_run(run, folder, report)
        elif settings.ranks > 1:
            job = partial(finish_in_process, run, settings, folder, needed, trunks, contained)
            run_ranks(job, settings.ranks, settings.device, partial(confirm_claim_and_report, folder, report))
        else:
            finish_in_process(run, settings, folder, needed, trunks, contained, group=SINGLE_PROCESS, report=report)

    return run_claimed(run, settings, folder, finish)


def run_claimed(
    run: Run | QuadraticRun | TrunkRun, settings: Settings, folder: RunFolder, finish: Callable[[], None]
) -> Outcome:
    """Claim a run's folder, and call the function that finishes the run; record its error if it fails.

    Args:
        run: the run or trunk.
        settings: folders, device and speed options.
        folder: the run's folder.
        finish: does what is left of the run; it is not called for a finished run.

    Returns:
        How the run ended.
    """
    try:
        if is_done(run, folder):
            return Outcome("finished", ALREADY_FINISHED)
        with folder.claim(settings.driver):
            return finish_claimed(run, settings, folder, finish)
    except ClaimError as error:
        return Outcome("elsewhere", str(error))
    except OSError as error:
        if reason := describe_disk_error(error):
            return Outcome("blocked", reason)
        return Outcome("failed", f"{type(error).__name__}: {error} (and the failure could not be recorded)")


def is_done(run: Run | QuadraticRun | TrunkRun, folder: RunFolder) -> bool:
    """Return whether nothing is left to do. A trunk is not done if its state was removed to save disk space."""
    return folder.finished and (not isinstance(run, TrunkRun) or folder.checkpoint.exists())


def finish_claimed(
    run: Run | QuadraticRun | TrunkRun, settings: Settings, folder: RunFolder, finish: Callable[[], None]
) -> Outcome:
    """Finish a run that this process has claimed, and record its error if it fails.

    Raises:
        ClaimLostError: if another process has taken the run over.
    """
    if is_done(run, folder):  # another process finished it just before the claim
        return Outcome("finished", ALREADY_FINISHED)
    failure = folder.read_failure()
    if failure.get("time", 0.0) > settings.began and failure["state"] != "out of memory":
        return Outcome(failure["state"], f"{failure['reason']} (another driver tried it)")
    try:
        folder.remove_leftovers()
        folder.result.unlink(missing_ok=True)  # that of a trunk whose state was removed
        write_json(folder.spec, run.spec())
        if not isinstance(run, QuadraticRun):
            save_sources(folder, (run.run if isinstance(run, TrunkRun) else run).method, settings.plugins)
        with sampling(folder.system, settings.system_metrics, torch.device(settings.device)):
            finish()
    except ClaimError:
        raise
    except (Exception, SystemExit) as error:  # a method of the user's may end itself, but not the other runs
        outcome = outcome_of(error, settings)
        return outcome if outcome.state == "blocked" else record_failure(folder, outcome, traceback.format_exc())
    return Outcome("finished")


def finish_in_process(
    run: Run | TrunkRun,
    settings: Settings,
    folder: RunFolder,
    needed: list[str],
    trunks: Sequence[str],
    contained: Collection[str],
    *,
    group: Group,
    report: Callable[[], None],
) -> None:
    """Do what is left of a run or a trunk in this process, which may be one of several ranks.

    Args:
        run: the run or trunk.
        settings: folders, device and speed options.
        folder: the run's folder.
        needed: keys of the finished runs that it starts from, then of those that its evaluation uses.
        trunks: keys of the trunks that it can be forked from, the latest first.
        contained: keys of needed states that are no part of its cost, for it needs runs that pass through them.
        group: the ranks that train the run together.
        report: called at the end of every epoch.
    """
    if group.size > 1:
        decoders = usable_cpus().number if settings.decoders is None else settings.decoders
        own_decoders = decoders and max(1, decoders // group.size)
        settings = replace(settings, device=rank_device(settings.device, group.rank), decoders=own_decoders)
    trained, until = (run.run, run.epochs) if isinstance(run, TrunkRun) else (run, None)
    with group.rank_0_first():
        lifecycle = RunLifecycle(trained, settings, folder, report, trunks, group, until=until, contained=contained)
    if isinstance(run, TrunkRun):
        lifecycle.finish_trunk(run, needed)
    else:
        lifecycle.finish(needed)


def confirm_claim_and_report(folder: RunFolder, report: Callable[[], None]) -> None:
    """Check that this process still holds the claim of a run, then report an epoch.

    The ranks of a run are other processes, and cannot check the claim themselves.
    """
    check_still_owner(folder.path)
    report()


def outcome_of(error: Exception | SystemExit, settings: Settings) -> Outcome:
    """Return the outcome of a run that raised an error."""
    if reason := describe_disk_error(error):
        return Outcome("blocked", reason)
    if isinstance(error, DivergenceError | NeededRunError):
        return Outcome("diverged" if isinstance(error, DivergenceError) else "failed", str(error))
    reason = f"{type(error).__name__}: {error}"
    if not ran_out_of_memory(error):
        return Outcome("failed", reason)
    if not settings.alone:
        return Outcome("out of memory", reason)
    return Outcome("failed", f"{reason} ({advice(settings.device)})")


def record_failure(folder: RunFolder, outcome: Outcome, trace: str = "") -> Outcome:
    """Write to a run's folder how it failed; return the outcome, which says so if that could not be written."""
    try:
        write_json(folder.failure, {**outcome._asdict(), "traceback": trace, "time": time.time()})
    except OSError as error:
        unrecorded = f"{outcome.reason} (and the failure could not be recorded: {describe_disk_error(error) or error})"
        return Outcome("blocked" if describe_disk_error(error) else outcome.state, unrecorded)
    return outcome


def wait_for_death(folder: RunFolder, driver: str) -> None:
    """Wait a moment for a process of this driver and machine that holds the claim: a killed one may not be gone yet."""
    end = time.monotonic() + DYING_SECONDS
    while (owner := folder.owner()) and (owner.driver, owner.machine) == (driver, machine_id()):
        if time.monotonic() > end:
            return
        time.sleep(0.02)


def record_dead_run(folder: RunFolder, reason: str, settings: Settings) -> Outcome:
    """Record the failure of a run whose process has died.

    Args:
        folder: the run's folder.
        reason: how the process died.
        settings: the run's settings.

    Returns:
        The run's outcome: failed, unless it is finished after all, or another driver has taken it over.
    """
    try:
        wait_for_death(folder, settings.driver)
        with folder.claim(settings.driver):
            return Outcome("finished") if folder.finished else record_failure(folder, Outcome("failed", reason))
    except ClaimError as error:
        return Outcome("elsewhere", str(error))
    except OSError as error:
        return Outcome("blocked", describe_disk_error(error) or str(error))
