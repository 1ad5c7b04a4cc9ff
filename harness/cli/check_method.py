"""`econ check-method`: checks methods of one's own before they are trained in earnest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.padding import Padding
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from harness.cli.options import Plugins, Refusal, console

if TYPE_CHECKING:
    from harness.conformance.check_method import Row
    from harness.conformance.finding import Finding


def check_method(
    file: Annotated[Path, typer.Argument(help="A Python file with methods of your own.")],
    expressions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[EXPRESSION]…", help="Methods to check, as in my_method(K=3). Default: all of the file."
        ),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Check methods of your own: that they resume, are seeded, counted, saved and averaged as `Method` asks for.

    Each is trained for a moment on three small networks, alone and inside of other methods. Every failure is printed
    with its remedy. Notes are about what works, or is refused when it would be wrong. Ends with code 1 after a failure.
    """
    from harness.conformance.check_method import check_methods
    from harness.conformance.finding import failures
    from harness.parsing.plugins import available_methods, load_plugin

    try:
        asked = expressions or list(load_plugin(file))
        plugins = [file, *(plugin or [])]
        methods = available_methods(plugins)
        rows: list[Row] = []
        columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            progress.add_task(f"checking {', '.join(asked)} on small networks")
            for row in check_methods(asked, methods, plugins):
                print_row(row, shown={finding for earlier in rows for finding in earlier.findings})
                rows.append(row)
    except (ValueError, OSError) as error:
        raise Refusal(str(error)) from error
    found = [finding for row in rows for finding in failures(row.findings)]
    checked = sum(not row.refused for row in rows)
    failed = f"{len(found)} failure" + ("" if len(found) == 1 else "s")
    console.print(f"{checked} checked, {len(rows) - checked} refused, {failed}")
    if found:
        alone = {row.expression for row in rows if row.network == rows[0].network}
        if {row.expression for row in rows} == alone:
            console.print("compositions were not checked, as the method itself fails")
        raise typer.Exit(1)


def print_row(row: "Row", shown: "set[Finding]") -> None:
    """Print what was found of one method on one network, without what was shown already."""
    from harness.conformance.finding import failures

    failed = bool(failures(row.findings))
    verdict = Text("refused") if row.refused else Text("FAILS", "bold red") if failed else Text("ok", "green")
    console.print(verdict, f" {row.expression} on {row.network}", soft_wrap=True)
    if row.refused:
        console.print(indented(row.refused), style="dim")
    if set(failures(row.findings)) & shown:
        kinds = dict.fromkeys(finding.check for finding in failures(row.findings) if finding in shown)
        console.print(indented(f"failures that are shown above: {', '.join(kinds)}"), style="red")
    for finding in row.findings:
        if finding in shown:
            continue
        style = {"failure": "red", "warning": "yellow", "note": "dim"}[finding.level]
        console.print(indented(f"{finding.level}: {finding.check}: {finding.reason}"), style=style)
        if finding.remedy:
            console.print(indented(f"→ {finding.remedy}"), style="dim")


def indented(text: str) -> Padding:
    """Return a text whose lines all begin further to the right."""
    return Padding(text, (0, 0, 0, 6))
