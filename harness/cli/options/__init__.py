"""Options that several commands share, and the plan of the study that they name."""

import math
import os
import socket
import time
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options.plain_console import PlainConsole
from harness.running import settings

if TYPE_CHECKING:
    from harness.planning.planned_runs import PlannedRuns

console = PlainConsole()

Study = Annotated[str, typer.Argument(help="A study's name (see `econ list studies`), or the path of its YAML file.")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="A Python file with methods of your own; they join the study. Repeatable."),
]


def possible_folder(path: Path) -> Path:
    """Refuse a path at which no folder can be made."""
    try:
        path.exists()
        inside = next(filter(Path.is_file, path.parents), None)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(getattr(error, "strerror", error))) from error
    if inside:
        raise typer.BadParameter(f"{inside} is a file, in which no folder can be")
    return path


Runs = Annotated[Path, typer.Option(file_okay=False, callback=possible_folder, help="The folder of run folders.")]
Downloads = Annotated[Path, typer.Option(file_okay=False, callback=possible_folder, help="The folder of datasets.")]
Store = Annotated[
    str | None,
    typer.Option(help="MLflow tracking URI. Default: $MLFLOW_TRACKING_URI, else sqlite:///RUNS/mlflow.db."),
]
Tuned = Annotated[
    Path | None,
    typer.Option(help="Take methods' values from this file, which `econ tune` wrote; those not in it run as written."),
]
Scale = Annotated[
    str | None,
    typer.Option(
        metavar="SCALE",
        help="A rehearsal on a small machine: `tiny`, or epochs=N,subset=N,width=F,members=N,seeds=N,data=synthetic. "
        "The figures mean nothing, and they are tracked apart.",
    ),
]
Fuse = Annotated[
    settings.Fuse,
    typer.Option(
        help="Run late-phase members that share convolutions as one batch: the same results to rounding. "
        "auto: for small minibatches, where it is faster on a CPU; on a GPU that is an estimate."
    ),
]
Compile = Annotated[
    settings.Compile,
    typer.Option(
        help="Compile networks for images with torch.compile, for training; reduce-overhead: into CUDA graphs. "
        "Takes up to some minutes a run; the same results to rounding."
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", dir_okay=False, help="Write to this file instead of the terminal.")
]


class Format(StrEnum):
    """How a leaderboard is written."""

    text = "text"
    csv = "csv"
    markdown = "markdown"


RESULTS = Path("results")
"""The folder of reports and plots."""
SUFFIXES = {".tex": "latex", ".md": "markdown", ".csv": "csv", ".txt": "text"}
"""The format of a file by the end of its name."""
PROBE = 4096
"""Bytes that are written to see whether there is room."""
INTERRUPTED = 130
"""The exit code after Ctrl-C."""


class Refusal(Exception):  # noqa: N818 - what a user reads, no failure of the program
    """Something the user can mend; its message says what and where."""


def make_plan(
    study: str, plugins: list[Path] | None, tuned: Path | None = None, scale: str | None = None, *, share: bool = False
) -> "PlannedRuns":
    """Return the plan of a study: from the cache, or by reading and checking it.

    Args:
        study: a study's name, or the path of its YAML file.
        plugins: plugin files that the command line names.
        tuned: a file of tuned values.
        scale: the scale of a rehearsal.
        share: whether runs share trunks.

    Raises:
        Refusal: for what is wrong with the study or its files.
    """
    from harness.parsing.yaml_errors import StudyError
    from harness.planning.plan_cache import data_files, plan_key, read_plan, write_plan
    from harness.studies.study_files import find_study

    try:
        path = find_study(study)
        key = plan_key(path, plugins or [], tuned, scale, share=share)
        if plan := read_plan(key):
            return plan
        began = time.time()
        plan = check_plan(study, plugins or [], tuned, scale, share=share)
    except StudyError as error:
        raise Refusal(str(error)) from error
    write_plan(key, plan, [path, *plan.study.plugins, *([tuned] if tuned else []), *data_files(plan)], began)
    return plan


def check_plan(study: str, plugins: list[Path], tuned: Path | None, scale: str | None, *, share: bool) -> "PlannedRuns":
    """Read and check a study, perhaps with tuned values or at a small scale, and return its plan.

    Raises:
        Refusal, StudyError: for what is wrong with it.
    """
    from harness.planning.plan import Plan
    from harness.planning.planned_runs import PlannedRuns
    from harness.studies.build_method import without_garbage_collection
    from harness.studies.study import Study, load

    loaded = load(study, plugins)
    if tuned:
        from harness.tuning.apply_tuned_values import apply_tuned_values

        if not isinstance(loaded, Study):
            raise Refusal(f"--tuned {tuned}: study {loaded.name} has no methods to tune")
        loaded = apply_tuned_values(loaded, tuned)
    if scale is not None:
        from harness.studies.rehearsal import rehearse, rehearse_quadratic
        from harness.studies.scale import read_scale

        if tuned:
            raise Refusal("--scale and --tuned: values are tuned for a study as it is written, not for a rehearsal")
        small = read_scale(scale)
        loaded = rehearse(loaded, small) if isinstance(loaded, Study) else rehearse_quadratic(loaded, small)
    with without_garbage_collection():
        plan = Plan(loaded, share=share)
    return PlannedRuns(plan.study, plan.runs)  # without the methods on the meta device, which may take a gigabyte


def study_arguments(study: str, tuned: Path | None = None, scale: str | None = None) -> str:
    """Write a study as the arguments of a command."""
    return study + (f" --tuned {tuned}" if tuned else "") + (f" --scale {scale}" if scale is not None else "")


def results_name(study: str) -> str:
    """Return the name of a study's results in the folder `RESULTS`."""
    return study.replace(" · ", "-")


def format_by_name(output: Path | None) -> str | None:
    """Return the format that the name of an output file asks for; None if it asks for none.

    Raises:
        Refusal: for the ending of a format that nothing here writes.
    """
    if output is None or not output.suffix:
        return None
    if output.suffix.lower() not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise Refusal(f"{output}: no format ends in {output.suffix}; there are {known} (--format says it otherwise)")
    return SUFFIXES[output.suffix.lower()]


def finite(value: float | None) -> float | None:
    """Refuse infinity and NaN as the value of an option."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a number that can be used here")
    return value


def print_or_write(text: str, output: Path | None) -> None:
    """Write text to a file or to the terminal."""
    if output is None:
        print(text.rstrip("\n"))
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refusal(f"--output {output}: {error.strerror}") from error
    console.print(f"wrote {output}")


def check_runs(runs: Path) -> None:
    """Refuse a folder of run folders that cannot be written to or has no hard links, before anything is trained."""
    from harness.store.claim import make_hard_link
    from harness.store.run_folder import describe_disk_error, write_atomically

    probe, linked = runs / ".probe", runs / f".probe.{socket.gethostname()}.{os.getpid()}"
    try:
        write_atomically(probe, lambda file: file.write(bytes(PROBE)))
        with suppress(FileNotFoundError):  # another driver looked at the same moment
            make_hard_link(probe, linked)
    except OSError as error:
        raise Refusal(f"--runs {runs}: {describe_disk_error(error) or error}") from error
    finally:
        for path in (probe, linked):
            with suppress(OSError):
                path.unlink(missing_ok=True)
