"""The commands of `econ`, and how a mistake of the user ends the program."""

import os
import signal
import sys
from io import TextIOWrapper
from types import FrameType

import typer

from harness.cli.check_method import check_method
from harness.cli.leaderboard import leaderboard
from harness.cli.list import list_
from harness.cli.new_method import new_method
from harness.cli.options import INTERRUPTED, Refusal, console
from harness.cli.options.plain_console import PlainConsole
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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal without UTF-8 cannot show
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        app()
    except Refusal as error:
        from harness.tracking.mlflow_store import hide_passwords

        PlainConsole(stderr=True).print(f"error: {hide_passwords(str(error))}")
        sys.exit(2)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Interrupt the command at the first Ctrl-C; at the second one, end at once without a word.

    What the first one began, such as the end of workers, may take a while. Workers end when this process does.
    """
    signal.signal(signal.SIGINT, end_at_once)
    signal.default_int_handler(number, frame)


def end_at_once(number: int, frame: FrameType | None) -> None:
    """End this process as after the first Ctrl-C."""
    console.show_cursor()
    os._exit(INTERRUPTED)
