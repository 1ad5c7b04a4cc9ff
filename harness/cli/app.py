"""The commands of `econ`, and how a mistake of the user ends the program."""

import sys

import typer
from rich.console import Console

from harness.cli.check_method import check_method
from harness.cli.leaderboard import leaderboard
from harness.cli.list import list_
from harness.cli.new_method import new_method
from harness.cli.options import Refusal
from harness.cli.plot import plot
from harness.cli.report import report
from harness.cli.run import run
from harness.cli.status import status
from harness.cli.sync import sync
from harness.cli.table import table
from harness.cli.tune import tune

app = typer.Typer(
    name="econ",
    help="Which way of ensembling a neural network is worth its cost? Train them side by side and rank them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("list")(list_)
app.command("new-method")(new_method)
app.command("check-method")(check_method)
for command in (run, status, sync, tune, leaderboard, table, report, plot):
    app.command()(command)


def main() -> None:
    """Run the command line: a mistake of the user's gets a message, never a traceback."""
    try:
        app()
    except Refusal as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
