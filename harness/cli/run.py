"""`econ run`: trains what is left of a study."""

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from harness.cli.options import (
    INTERRUPTED,
    Compile,
    Downloads,
    Fuse,
    Plugins,
    Refusal,
    Runs,
    Scale,
    Store,
    Study,
    Tuned,
    check_runs,
    console,
    finite,
    make_plan,
    study_arguments,
)
from harness.cli.options.engine import (
    MOST_AT_ONCE,
    Address,
    CpusPerRun,
    Deterministic,
    Device,
    EngineName,
    EngineOptions,
    Gpus,
    GpusPerRun,
    PerGpu,
    Threads,
    Workers,
    choose_engine,
)

if TYPE_CHECKING:
    from harness.planning.planned_runs import PlannedRuns
    from harness.planning.schedule import Schedule
    from harness.tracking.background_mirror import BackgroundMirror


def run(
    study: Study,
    engine: Annotated[
        EngineName, typer.Option(help="One run after another, several at once, or a Ray cluster.")
    ] = EngineName.inline,
    workers: Workers = None,
    gpus: Gpus = None,
    per_gpu: PerGpu = None,
    threads: Threads = None,
    device: Device = None,
    runs: Runs = Path("runs"),
    downloads: Downloads = Path("downloads"),
    store: Store = None,
    plugin: Plugins = None,
    tuned: Tuned = None,
    scale: Scale = None,
    decoders: Annotated[
        int | None,
        typer.Option(
            min=0, max=MOST_AT_ONCE, help="Processes a run that decode image files. Default: the cores, shared out."
        ),
    ] = None,
    ranks: Annotated[
        int,
        typer.Option(
            min=1, max=MOST_AT_ONCE, help="Processes that train each run together: on so many GPUs, or on the CPU."
        ),
    ] = 1,
    fuse: Fuse = "auto",
    compile: Compile = "off",
    deterministic: Deterministic = False,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, callback=finite, help="Least time between two checkpoints of a run; 0: every epoch.")
    ] = 10.0,
    trunk_gb: Annotated[
        float,
        typer.Option(
            min=0,
            callback=finite,
            help="Gigabytes for the states of trunks, the training that runs have in common and that is done once. "
            "0: train every run alone.",
        ),
    ] = 20.0,
    ray_address: Address = None,
    cpus_per_run: CpusPerRun = None,
    gpus_per_run: GpusPerRun = None,
    system_metrics: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            callback=finite,
            metavar="SECONDS",
            help="Track CPU, memory and GPU every so many seconds. Default: not.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be trained, and stop.")] = False,
) -> None:
    """Train what is left of a study. Safe to stop and to repeat: finished runs are skipped, others resume."""
    plan = make_plan(study, plugin, tuned, scale, share=trunk_gb > 0)
    for warning in sorted({planned.warning for planned in plan.runs.values() if planned.warning}):
        console.print(f"warning: {warning}")
    if dry_run:
        from harness.planning.dry_run import plan_table

        console.print(plan_table(plan, runs))
        if plan.study.caption:
            console.print(plan.study.caption, markup=False, highlight=False)
        return
    from harness.engines import EngineError
    from harness.planning.plan_cache import with_specs
    from harness.planning.schedule import Schedule
    from harness.running.settings import Settings
    from harness.store.run_folder import RunFolder, describe_disk_error
    from harness.tracking.background_mirror import BackgroundMirror
    from harness.tracking.mlflow_mirror import Mirror
    from harness.tracking.mlflow_store import store_uri
    from harness.tracking.progress_display import ProgressDisplay, StudyStoppedError
    from harness.tracking.system_metrics import missing_packages

    plan = with_specs(plan)
    finished = plan.finished(runs)

    asked = EngineOptions(
        engine, workers, threads, device, gpus, per_gpu, ranks, ray_address, cpus_per_run, gpus_per_run
    )
    chosen = choose_engine(asked)
    driver = f"econ run {plan.study.name}, process {os.getpid()} on {socket.gethostname()}"
    settings = Settings(
        runs,
        downloads,
        chosen.device,
        checkpoint_seconds,
        plan.study.plugins,
        chosen.cores if decoders is None else decoders,
        ranks=ranks,
        fuse=fuse,
        compile=compile,
        deterministic=deterministic,
        driver=driver,
        began=time.time(),
        system_metrics=system_metrics,
    )
    if system_metrics and (absent := missing_packages(chosen.device)):
        raise Refusal(f"--system-metrics needs what is not installed: pip install {absent}")
    if plan.without_trunks.keys() - finished:
        check_runs(runs)
    mirror = BackgroundMirror(Mirror(store_uri(store, runs), plan.study.name, runs, plan.study.banner))
    schedule = Schedule(plan.runs, finished, driver)
    for key in finished:
        if RunFolder(runs, key).finished:  # not a trunk that need not be trained
            mirror.send(plan.runs[key])
    try:
        with ProgressDisplay(plan, schedule, mirror, console, trunk_gb * 1e9) as display:
            chosen.engine.run(schedule, settings, display)
    except EngineError as error:
        raise Refusal(f"--engine {engine.value}: {error}") from error
    except KeyboardInterrupt:
        console.print("interrupted; finished runs are kept, and the same command goes on with the others")
        raise typer.Exit(INTERRUPTED) from None
    except (StudyStoppedError, OSError) as error:
        if isinstance(error, OSError) and not describe_disk_error(error):
            raise
        kept = "finished runs and checkpoints are kept, and the same command goes on"
        raise Refusal(f"study {plan.study.name} was stopped: {describe_disk_error(error) or error}; {kept}") from error
    mirror.finish()
    conclude(plan, schedule, mirror, study_arguments(study, tuned, scale))


def conclude(plan: "PlannedRuns", schedule: "Schedule", mirror: "BackgroundMirror", study: str) -> None:
    """Say how a study ended; a failure is an exit code other than 0."""
    failed = {key: outcome for key, outcome in schedule.failed.items() if key in plan.without_trunks}
    if mirror.unsent:
        what = "runs and trunks" if len(plan.without_trunks) < len(plan.runs) else "runs"
        console.print(
            f"the tracking store lacks {len(mirror.unsent)} of the {what}: {mirror.problem or 'it is slow to answer'}; "
            f"`econ sync {study}` sends them",
        )
    for key in schedule.failed.keys() - plan.without_trunks.keys():
        if schedule.failed[key].state == "diverged":
            continue  # the runs that go on from it diverge too, and say so below
        console.print(f"{plan.runs[key].run} failed; runs that share it train its epochs alone: ", end="")
        console.print(schedule.failed[key].reason)
    if not failed:
        by_others = (
            f", {count} of them by another driver"
            if (count := len(schedule.by_others & plan.without_trunks.keys()))
            else ""
        )
        console.print(f"study {plan.study.name}: all {len(plan.without_trunks)} runs are finished{by_others}")
        return
    table = Table(title=f"{len(failed)} of {len(plan.without_trunks)} runs did not finish", show_lines=True)
    for column in ("run", "state", "reason", "folder"):
        table.add_column(column, overflow="fold")
    for key, (state, reason) in failed.items():
        table.add_row(str(plan.runs[key].run), state, reason, key[:12])
    console.print(table)
    raise typer.Exit(1)
