"""`econ status`: shows how far a study is."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table

from harness.cli.options import Plugins, Refusal, Runs, Scale, Study, Tuned, console, make_plan

if TYPE_CHECKING:
    from harness.tracking.status import RunStatus


DAY = 86400.0


def status(
    study: Study,
    runs: Runs = Path("runs"),
    plugin: Plugins = None,
    tuned: Tuned = None,
    scale: Scale = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until nothing is left to do.")] = False,
    every: Annotated[float, typer.Option(min=0.2, max=DAY, help="Seconds between two looks.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print it for scripts.")] = False,
) -> None:
    """Show how far a study is: which runs are done, running (and until when), stopped, failed or to do."""
    from harness.tracking.status import read_statuses

    if watch and as_json:
        raise Refusal("--watch is for people, --json for scripts: give one of them")
    plan = make_plan(study, plugin, tuned, scale, share=True)
    found = read_statuses(plan, runs)
    if as_json:
        print(json.dumps(as_values(plan.study.name, found, time.time()), indent=2))
    elif not watch:
        console.print(draw_status(plan.study.name, found, time.time()))
    else:
        with Live(draw_status(plan.study.name, found, time.time()), console=console, auto_refresh=False) as live:
            while any(status.state in ("running", "stopped", "to do") for status in found):
                try:
                    time.sleep(every)
                except KeyboardInterrupt:
                    break
                found = read_statuses(plan, runs)
                live.update(draw_status(plan.study.name, found, time.time()), refresh=True)


def as_values(study: str, found: "list[RunStatus]", now: float) -> dict[str, Any]:
    """Give a study's status as JSON values.

    Args:
        study: its name.
        found: the status of each run.
        now: seconds since 1970.
    """
    from harness.tracking.status import count_states, seconds_left

    runs = without_trunks(found)
    methods = {status.label: count_states(other for other in runs if other.label == status.label) for status in runs}
    left = seconds_left(found, now)
    return {
        "study": study,
        "time": now,
        "counts": count_states(runs),
        "epochs_left": sum(status.epochs_left for status in found),
        "seconds_left": left,
        "ends": None if left is None else now + left,
        "methods": methods,
        "runs": [{**asdict(status), "epochs_left": status.epochs_left} for status in found],
    }


def draw_status(study: str, found: "list[RunStatus]", now: float) -> Group:
    """Draw a study's status: counts and estimate, what runs, what failed or was stopped, and the methods.

    Args:
        study: its name.
        found: the status of each run.
        now: seconds since 1970.
    """
    from harness.tracking.status import count_states, format_clock, format_duration, seconds_left

    counts = count_states(without_trunks(found))
    parts: list[Any] = [", ".join(f"{number} {state}" for state, number in counts.items())]
    left = seconds_left(found, now)
    if left is not None:
        parts.append(f"about {format_duration(left)} left, until {format_clock(now + left, now)}, without evaluation")
    elif any(status.state == "running" for status in found):
        parts.append("time left: unknown until what runs has finished an epoch")
    elif counts["stopped"] or counts["to do"]:
        parts.append("time left: unknown, for nothing runs")
    for draw in (running_table, broken_table):
        table = draw(found, now)
        if table.rows:
            parts.append(table)
    return Group(*parts, methods_table(study, found))


def running_table(found: "list[RunStatus]", now: float) -> Table:
    """Tabulate what runs now."""
    from harness.tracking.status import format_clock, format_duration

    table = columns("running", "run", "at", "pace", "left", "training ends", "works on it", "last sign of life")
    for status in found:
        if status.state == "running":
            pace = "" if status.pace is None else f"{number(status.pace)} s"
            ends = (
                ("", "")
                if status.ends is None
                else (format_duration(status.ends - now), format_clock(status.ends, now))
            )
            sign = "" if status.sign is None else f"{format_duration(now - status.sign)} ago"
            table.add_row(status.run, status.describe(), pace, *ends, status.where, sign)
    return table


def broken_table(found: "list[RunStatus]", now: float) -> Table:
    """Tabulate what failed or was stopped."""
    from harness.tracking.status import format_duration

    table = columns("stopped or failed", "run", "state", "at", "last worked on by", "when", "reason")
    for status in found:
        if status.state in ("stopped", "failed"):
            when = "" if status.sign is None else f"{format_duration(now - status.sign)} ago"
            at = status.describe() if status.stage else ""
            table.add_row(status.run, status.state, at, status.where, when, status.reason)
    return table


def methods_table(study: str, found: "list[RunStatus]") -> Table:
    """Count the runs of each method in each state, and their epochs that are left."""
    from harness.tracking.status import STATES, count_states

    table = Table(title=f"study {study}")
    table.add_column("method", overflow="fold")
    for column in (*STATES, "epochs left"):
        table.add_column(column, justify="right")
    methods: dict[str, list[RunStatus]] = {}
    runs = without_trunks(found)
    for status in runs:
        name = status.label if status.role == "cell" else f"needed: {status.label}"
        methods.setdefault(name, []).append(status)
    rows = [*sorted(methods.items()), ("total", runs)]
    if trunks := [status for status in found if status.role == "trunk"]:
        rows.append(("trunks, shared or needed", trunks))
    for name, statuses in rows:
        numbers = [*count_states(statuses).values(), sum(status.epochs_left for status in statuses)]
        style = "bold" if statuses is runs else None
        table.add_row(name, *(f"{number:,}" if number else "" for number in numbers), style=style)
    return table


def without_trunks(found: "list[RunStatus]") -> "list[RunStatus]":
    """List the runs that have results of their own."""
    return [status for status in found if status.role != "trunk"]


def columns(title: str, *names: str) -> Table:
    """Make a table with columns that show all they hold."""
    table = Table(title=title)
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def number(seconds: float) -> str:
    """Write seconds with three digits."""
    return f"{seconds:.3g}" if seconds < 100 else f"{seconds:,.0f}"
