"""LaTeX of tables, compiled as an author does it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MULTIPLY = "There were multiply-defined labels"
"""What LaTeX says of two tables of one name; it names them in lines of their own."""


def typeset(text: str, folder: Path) -> str:
    """Compile a document in two passes and give what LaTeX says in the second.

    Only that one knows the labels of the first, and says which are multiply defined.
    """
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is not installed")
    (folder / "all.latex").write_text(text, encoding="utf-8")
    said = ""
    for _ in range(2):
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.latex"],
            cwd=folder,
            env=os.environ | {"max_print_line": "1000"},  # else a warning breaks anywhere
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
        )
        said = done.stdout
        assert done.returncode == 0, said[-2000:]
    return said
