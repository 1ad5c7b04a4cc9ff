"""Every stage of the checks on a GPU, rehearsed on the CPU."""

import subprocess
import sys

import pytest

from tests.benchmarks.gpu_checks import ROOT, STAGES, Stage, run


@pytest.mark.long
@pytest.mark.parametrize("stage", STAGES, ids=[stage.name for stage in STAGES])
def test_a_stage_starts_and_ends(tmp_path, stage):
    relaxed = stage._replace(seconds=900)  # the limits are those of a machine that does nothing else
    assert run(relaxed, tmp_path, rehearse=True) == "passed", (tmp_path / f"{stage.name}.txt").read_text()


def test_a_stage_that_fails_or_hangs_loses_no_other(tmp_path):
    failing = ("-c", "print('here'); import sys; sys.exit(3)")
    assert run(Stage("tests", "a", 60, failing, ()), tmp_path, rehearse=False) == "failed with exit code 3"
    assert (tmp_path / "a.txt").read_text() == "here\n"
    hanging = ("-c", "import time; time.sleep(100)")
    assert run(Stage("tests", "b", 1, hanging, ()), tmp_path, rehearse=False) == "ended after its limit of 1 s"


def test_the_command(tmp_path):
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.gpu_checks",
        "--rehearse",
        "--only",
        "machine",
        "--output",
        tmp_path,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("machine ")
    assert " passed: " in done.stdout
