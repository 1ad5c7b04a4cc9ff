"""The tutorial in docs does what it says: its blocks, run in order, end in a compiled paper."""

import contextlib
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[1] / "docs" / "from-runs-to-a-paper.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_tutorial_runs_from_end_to_end(tmp_path, monkeypatch):
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is not installed")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    printed = io.StringIO()
    for kind, text in BLOCKS:
        if kind in ("yaml", "latex"):
            Path(re.match(r"[#%] (\S+?):?\s", text)[1]).write_text(text, encoding="utf-8")
        elif kind == "console":
            for line in text.splitlines():
                run(line.removeprefix("$ ").split())
        else:
            with contextlib.redirect_stdout(printed):
                exec(compile(text, str(TUTORIAL), "exec"), names)
    said = printed.getvalue()
    assert "digits · wrn-10-1" in said and "Deep ensemble" in said and "missing" in said
    assert len(names["runs"]) == 24 and set(names["differences"]["label"]) == {"SWA", "Late-phase", "Deep ensemble"}
    log = Path("paper.log").read_text(errors="replace")
    assert Path("paper.pdf").stat().st_size > 10_000 and "undefined" not in log and "Overfull" not in log
    assert Path("preview.pdf").exists() and "<h1" in Path("report.html").read_text(encoding="utf-8")
    assert {path.suffix for path in Path("figures").iterdir()} == {".pdf", ".svg", ".png"}


def run(command):
    """Run a command of the tutorial; `econ` by the Python of the tests."""
    if command[0] == "econ":
        command = [sys.executable, "-m", "harness.cli", *command[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
