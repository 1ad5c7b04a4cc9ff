"""The command that trains: run."""

import os
import socket
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from harness.cli_options import Plugins, Refusal, Runs, Store, Study, Tuned, console, make_plan, named

if TYPE_CHECKING:
    from harness.plan import Plan, Schedule
    from harness.sender import Sender

Gpus = Annotated[
    str | None, typer.Option(help="GPUs to share out among processes, as 0,1,3. Default: all that are visible.")
]
PerGpu = Annotated[
    int | None,
    typer.Option(
        min=1, help="Runs at once on each GPU. One that runs out of memory is tried again alone on its GPU. Default: 1."
    ),
]

running = typer.Typer()
PROBE = 4096
"""Bytes that are written to see whether there is room."""
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
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes at once on the CPU. Default: one a core.")
    ] = None,
    gpus: Gpus = None,
    per_gpu: PerGpu = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads a process. Default: the cores, shared out.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 … Default: cuda if there is one.")] = None,
    runs: Runs = Path("runs"),
    downloads: Annotated[Path, typer.Option(help="The folder of datasets.")] = Path("downloads"),
    store: Store = None,
    plugin: Plugins = None,
    tuned: Tuned = None,
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
    system_metrics: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="SECONDS", help="Track CPU, memory and GPU every so many seconds. Default: not."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be trained, and stop.")] = False,
) -> None:
    """Train what is left of a study. Safe to stop and to repeat: finished runs are skipped, others resume."""
    plan = make_plan(study, plugin, tuned, share=trunk_gb > 0)
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
    from harness.sender import Sender
    from harness.system import missing
    from harness.track import Mirror, store_uri
    from harness.watch import Show, StudyStoppedError

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    devices = choose_devices(engine, device, workers, cores, gpus, per_gpu)
    workers = len(devices)
    check_ranks(device, ranks, workers)
    threads = threads or max(1, cores // workers)
    decoders = max(1, cores // workers) if decoders is None else decoders
    driver = f"econ run {plan.study.name}, process {os.getpid()} on {socket.gethostname()}"
    settings = Settings(
        runs,
        downloads,
        device,
        checkpoint_seconds,
        plan.study.plugins,
        decoders,
        ranks=ranks,
        driver=driver,
        system_metrics=system_metrics,
    )
    if system_metrics and (absent := missing(device)):
        raise Refusal(f"--system-metrics needs what is not installed: pip install {absent}")
    if plan.alone.keys() - finished:
        check_runs(runs)
    mirror = Sender(Mirror(store_uri(store, runs), plan.study.name, runs))
    schedule = Schedule(plan.runs, finished, driver)
    for key in finished:
        if RunFolder(runs, key).finished:  # not a trunk that need not be trained
            mirror.send(plan.runs[key])
    try:
        with Show(plan, schedule, mirror, console, trunk_gb * 1e9) as show:
            make_engine(engine.value, workers, threads, devices).run(schedule, settings, show)
    except KeyboardInterrupt:
        console.print(
            "interrupted; finished runs are kept, and the same command goes on with the others", soft_wrap=True
        )
        raise typer.Exit(INTERRUPTED) from None
    except StudyStoppedError as error:
        kept = "finished runs and checkpoints are kept, and the same command goes on"
        raise Refusal(f"study {plan.study.name} was stopped: {error}; {kept}") from error
    mirror.finish()
    conclude(plan, schedule, mirror, named(study, tuned))


def choose_devices(
    engine: EngineName, device: str, workers: int | None, cores: int, gpus: str | None, per_gpu: int | None
) -> list[str]:
    """Give the device of each process: one a core or `workers` on the CPU, as many as asked for on each GPU."""
    import torch

    from harness.engines.slots import gpu_slots

    several = engine is EngineName.processes
    if not (several and device.startswith("cuda") and torch.cuda.is_available()):
        check_device(device)
        if gpus is not None or per_gpu:
            raise Refusal(f"--gpus and --per-gpu share out GPUs with --engine processes, not {device} {engine.value}")
        return [device] * (workers or cores if several else 1)
    try:  # the driver itself needs no context on any of the GPUs, which costs memory
        devices = gpu_slots(device, gpus, per_gpu or 1, torch.cuda.device_count())
    except ValueError as error:
        raise Refusal(str(error)) from error
    if workers and workers != len(devices):
        raise Refusal(f"--workers {workers}: on GPUs --gpus and --per-gpu decide, here for {len(devices)} runs at once")
    return devices


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
        raise Refusal(f"--ranks {ranks}: {workers} runs at once would use the same GPUs; take --engine inline")


def check_runs(runs: Path) -> None:
    """Refuse a folder of run folders that cannot be written to, before anything is trained for it."""
    from harness.folder import trouble, write

    probe = runs / ".probe"
    try:
        write(probe, lambda file: file.write(bytes(PROBE)))
        probe.unlink(missing_ok=True)  # another driver may have looked at the same moment
    except OSError as error:
        raise Refusal(f"--runs {runs}: {trouble(error) or error}") from error


def conclude(plan: "Plan", schedule: "Schedule", mirror: "Sender", study: str) -> None:
    """Say how a study ended; a failure is an exit code other than 0."""
    failed = schedule.failed
    if mirror.unsent:
        console.print(
            f"the tracking store lacks {len(mirror.unsent)} of the runs: {mirror.problem or 'it is slow to answer'}; "
            f"`econ sync {study}` sends them",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if not failed:
        by_others = f", {count} of them by another driver" if (count := len(schedule.by_others)) else ""
        console.print(f"study {plan.study.name}: all {len(plan.alone)} runs are finished{by_others}")
        return
    table = Table(title=f"{len(failed)} of {len(plan.runs)} runs did not finish", show_lines=True)
    for column in ("run", "state", "reason", "folder"):
        table.add_column(column, overflow="fold")
    for key, (state, reason) in failed.items():
        table.add_row(escape(str(plan.runs[key].run)), state, escape(reason), key[:12])
    console.print(table)
    raise typer.Exit(1)
