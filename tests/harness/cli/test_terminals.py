"""Terminals and pipes: what is printed stays as it is and whole, and Ctrl-C ends quietly."""

import os
import signal
import subprocess
import sys
from io import StringIO

import pytest
from rich.table import Table

from harness.cli.options.plain_console import PlainConsole

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
LONG = "a folder of a name so long that no terminal shows it in one line " * 3
NAMES = ["[red]x[/red]", "[/]", "\\[x]", ":bomb:", "a [b] c", "{x}", "ηθ", LONG]


def printed(*objects, **options):
    console = PlainConsole(width=60, file=StringIO(), **options)
    console.print(*objects)
    return console.file.getvalue()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("terminal", [True, False])
def test_a_text_is_printed_as_it_is(name, terminal):
    assert printed(f"wrote {name}", force_terminal=terminal) == f"wrote {name}\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_of_a_table_is_printed_as_it_is_and_the_table_fits(name):
    table = Table(title=name, show_lines=True)
    table.add_column(name, overflow="fold")
    table.add_row(name)
    lines = printed(table).splitlines()
    assert max(map(len, lines)) <= 60
    assert "".join(name.split()) in "".join("".join(lines).replace("│", "").split())


def test_control_characters_are_replaced():
    assert printed("a\x1b[2Jb\x07\x9bc\td\n") == "a?[2Jb??c       d\n\n"


def test_paths_stay_whole_in_a_pipe(run_here, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    folder = "x" * 150
    code, out, _ = run_here("new-method", "mine", "--into", folder)
    assert (code, out.splitlines()[0]) == (0, f"wrote {folder}/mine.py")


FOUR = """
import sys
from harness.cli import app
for command in ("run s.yaml", "status s.yaml", "leaderboard s.yaml", "list methods"):
    sys.argv = ["econ", *command.split()]
    try:
        app.main()
    except SystemExit as end:
        print("ended with", end.code)
"""
"""Four commands of a process."""


@pytest.mark.long
@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0"},
        {"LC_ALL": "C"},
        {"PYTHONIOENCODING": "utf-16"},
    ],
)
def test_a_process_without_utf_8_prints_replaced_characters(environment, tmp_path, write_study, variables):
    write_study(tmp_path / "s.yaml", methods=[{"η → 漢字": "sgd"}], recipe={"epochs": 1})
    done = subprocess.run(
        [sys.executable, "-c", FOUR], cwd=tmp_path, env=environment | variables, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b""), done.stdout + done.stderr
    assert done.stdout.decode("utf-16" if "utf-16" in variables.values() else "utf-8").count("ended with 0") == 4
    assert b"Traceback" not in done.stdout


TWICE = """
import os, signal, sys, time
from harness.cli import app
from harness.cli.app import app as commands

@commands.command("wait")
def wait():
    try:
        print("waiting", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("ending", flush=True)
        time.sleep(60)

sys.argv = ["econ", "wait"]
app.main()
"""


def test_a_second_ctrl_c_ends_at_once_and_quietly(environment):
    process = subprocess.Popen(
        [sys.executable, "-c", TWICE], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in ("waiting\n", "ending\n"):
        assert process.stdout.readline() == line
        os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (130, "", "")
