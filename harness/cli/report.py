"""`econ report`: writes the report of a study, one web page."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from harness.cli.options import (
    RESULTS,
    Plugins,
    Runs,
    Scale,
    Store,
    Study,
    Tuned,
    console,
    make_plan,
    print_or_write,
    results_name,
    study_arguments,
)
from harness.cli.reading import load_frame, refuse_errors


def report(
    study: Study,
    by: Annotated[
        str | None, typer.Option(help="The metric to rank by. Default: accuracy, or of text bits per character.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="The file to write. Default: results/STUDY/report.html."),
    ] = None,
    runs: Runs = Path("runs"),
    store: Store = None,
    plugin: Plugins = None,
    tuned: Tuned = None,
    scale: Scale = None,
) -> None:
    """Write a study's report, one web page with leaderboards, costs, plots and every run's provenance."""
    from analysis import Drawing, Section, beside_paper, compare
    from analysis import report as write
    from harness.studies.study_files import find_study, own_results

    plan = make_plan(study, plugin, tuned, scale)
    frame = load_frame(plan, study_arguments(study, tuned, scale), runs, store)
    extra = []
    with refuse_errors(), progress_messages() as tell:
        if (paper := plan.study.published_values()) is not None:
            extra.append(beside_paper(compare(paper, frame)))
        if plan.study.figures:
            from harness.cli.reading import draw_figures

            figures = list(draw_figures(plan.study, frame))
            drawn = [Drawing(name or "Figure", figure) for name, figure in figures if not isinstance(figure, str)]
            undrawn = [reason for _, reason in figures if isinstance(reason, str)]
            extra.append(Section("Figures of the study", drawings=drawn, notes=undrawn))
        text = write(frame, by=by, extra=extra, tell=tell)
    if output:
        print_or_write(text, output)
        return
    name = results_name(plan.study.name)
    with refuse_errors(), own_results(RESULTS, name, find_study(study)):
        print_or_write(text, RESULTS / name / "report.html")


@contextmanager
def progress_messages() -> Iterator[Callable[[str], None]]:
    """Yield a function that prints messages about long work: over each other on a terminal, else line by line."""
    if not console.is_terminal:
        yield lambda line: console.print(line)
        return
    with console.status("") as status:
        yield lambda line: status.update(escape(line))
