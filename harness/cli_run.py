"""The command that trains: run."""

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from harness.cli_options import Plugins, Refusal, Runs, Store, Study, console, make_plan

if TYPE_CHECKING:
    from harness.plan import Plan
    from harness.track import Mirror

running = typer.Typer()
INTERRUPTED = 130
"""The exit code after Ctrl-C."""


class EngineName(StrEnum):
    """Where runs are executed."""

    inline = "inline"
    processes = "processes"


@running.command()
def run(
    study: Study,
    engine: Annotated[EngineName, typer.Option(help="One run after another, or several at once.")] = EngineName.inline,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes at once. Default: one a core.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads a process. Default: the cores, shared out.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 … Default: cuda if there is one.")] = None,
    runs: Runs = Path("runs"),
    downloads: Annotated[Path, typer.Option(help="The folder of datasets.")] = Path("downloads"),
    store: Store = None,
    plugin: Plugins = None,
    decoders: Annotated[
        int | None,
        typer.Option(min=0, help="Processes a run that decode picture files. Default: the cores, shared out."),
    ] = None,
    ranks: Annotated[
        int, typer.Option(min=1, help="Processes that train each run together: on so many GPUs, or on the CPU.")
    ] = 1,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="Least time between two checkpoints of a run; 0: every epoch.")
    ] = 10.0,
    trunk_gb: Annotated[
        float,
        typer.Option(
            min=0,
            help="Gigabytes for the states of trunks, the training that runs have in common and that is done once. "
            "0: train every run alone.",
        ),
    ] = 20.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be trained, and stop.")] = False,
) -> None:
    """Train what is left of a study. Safe to stop and to repeat: finished runs are skipped, others resume."""
    plan = make_plan(study, plugin, share=trunk_gb > 0)
    for warning in sorted({planned.warning for planned in plan.runs.values() if planned.warning}):
        console.print(f"warning: {warning}", markup=False)
    if dry_run:
        from harness.dry_run import plan_table

        console.print(plan_table(plan, runs))
        return
    finished = plan.finished(runs)
    import torch

    from harness.engines import make_engine
    from harness.execute import Settings
    from harness.folder import RunFolder
    from harness.plan import Schedule
    from harness.track import Mirror, store_uri
    from harness.watch import Show

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = 1 if engine is EngineName.inline else workers or cores
    threads = threads or max(1, cores // workers)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    check_ranks(device, ranks, workers)
    decoders = max(1, cores // workers) if decoders is None else decoders
    settings = Settings(runs, downloads, device, checkpoint_seconds, plan.study.plugins, decoders, ranks)
    mirror = Mirror(store_uri(store, runs), plan.study.name, runs)
    mirror.open()
    schedule = Schedule(plan.runs, finished)
    for key in finished:
        if RunFolder(runs, key).finished:  # not a trunk that need not be trained
            mirror.send(plan.runs[key])
    try:
        with Show(plan, schedule, mirror, console, trunk_gb * 1e9) as show:
            make_engine(engine.value, workers, threads).run(schedule, settings, show)
    except KeyboardInterrupt:
        console.print("interrupted; finished runs are kept, and the same command goes on with the others")
        raise typer.Exit(INTERRUPTED) from None
    conclude(plan, schedule.failed, mirror, study)


def check_device(device: str) -> None:
    """Refuse a device that is not there."""
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise Refusal(f"--device {device}: {str(error).splitlines()[0]}") from error


def check_ranks(device: str, ranks: int, workers: int) -> None:
    """Refuse more ranks than there are GPUs from a device on, and runs that would use the same ones at once."""
    if ranks == 1 or not device.startswith("cuda"):
        return
    import torch

    from harness.ranks import device_of

    last, gpus = device_of(device, ranks - 1), torch.cuda.device_count()
    if int(last.partition(":")[2]) >= gpus:
        raise Refusal(f"--ranks {ranks}: each has a GPU of its own, the last one {last}, but there are {gpus}")
    if workers > 1:
        raise Refusal(f"--ranks {ranks} with --workers {workers}: all runs would use the same GPUs; take --workers 1")


def conclude(plan: "Plan", failed: Mapping[str, tuple[str, str]], mirror: "Mirror", study: str) -> None:
    """Say how a study ended; a failure is an exit code other than 0."""
    if mirror.unsent:
        console.print(
            f"the tracking store lacks {len(mirror.unsent)} of the runs: {mirror.problem}; "
            f"`econ sync {study}` sends them",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if not failed:
        console.print(f"study {plan.study.name}: all {len(plan.alone)} runs are finished")
        return
    table = Table(title=f"{len(failed)} of {len(plan.runs)} runs did not finish", show_lines=True)
    for column in ("run", "state", "reason", "folder"):
        table.add_column(column, overflow="fold")
    for key, (state, reason) in failed.items():
        table.add_row(escape(str(plan.runs[key].run)), state, escape(reason), key[:12])
    console.print(table)
    raise typer.Exit(1)
