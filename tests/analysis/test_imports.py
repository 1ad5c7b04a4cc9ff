"""Importing the package is fast: heavy packages are imported at their first use."""

import subprocess
import sys


def test_importing_the_package_is_light():
    code = "import analysis, sys; print(sorted({'mlflow', 'matplotlib', 'seaborn', 'harness'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_importing_analysis_stays_light():
    code = (
        "import analysis, sys; print({'mlflow', 'matplotlib', 'jinja2'} & set(sys.modules), callable(analysis.report))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set() True\n"
