"""Runs on the stand-in for a CUDA device: no error, no wait inside an update, the same bits after interruptions."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stand_in.cases import CASES, QUICK

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not (sys.platform == "linux" and (shutil.which("cc") or shutil.which("gcc"))), reason="needs Linux and a C compiler"
)
DEFECTS = {
    "mixing": """
    def update(self, batches, optimizer):
        return super().update(batches, optimizer) * torch.ones(1)
""",
    "waiting": """
    def update(self, batches, optimizer):
        loss = super().update(batches, optimizer)
        self.last = loss.item()
        return loss
""",
    "losing_layout": """
    def loss(self, x, y, weights=None):
        return super().loss(x, y, {name: p.contiguous() for name, p in self.net.named_parameters()})
""",
    "forgetting": """
    epochs_seen = 0
    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        self.epochs_seen += 1
    def lr(self, epoch):
        return super().lr(epoch) / max(self.epochs_seen, 1)
""",
}
"""Methods of a user's that work on a CPU."""


def drive(*arguments, timeout=3600):
    """Drive cases in a process of their own; return what was seen by name."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.stand_in.drive", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
    seen = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert seen, done.stderr
    return seen


def check(seen):
    """A run on a GPU has no error, waits in no update, goes on with the same bits, and is timed without searches."""
    assert not seen["error"]
    assert not seen["resumed"], "entries of the state that differ after interruptions"
    assert not seen["waits"]
    assert not [place for place in seen["layouts"] if place[0] == "update"]
    assert not any(seen["timed"].values()), "convolutions seen first where seconds are counted"
    assert {dtype for dtype, _ in seen["recurrent"]} <= {"torch.float32"}


@pytest.fixture(scope="module")
def quick():
    return drive("--quick")


@pytest.mark.parametrize("name", QUICK)
def test_a_run(quick, name):
    check(quick[name])


def test_recurrent_weights_lie_in_one_piece_also_in_copies(quick):
    assert quick["text: sgd bfloat16"]["recurrent"] == [["torch.float32", "one piece"]]


@pytest.fixture(scope="module")
def others():
    return drive("--long")


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in CASES if name not in QUICK])
def test_every_other_run(others, name):
    check(others[name])


@pytest.mark.long
def test_planted_defects_are_found(tmp_path):
    files = [tmp_path / f"{name}.py" for name in DEFECTS]
    for path, body in zip(files, DEFECTS.values(), strict=True):
        path.write_text(f"import torch\nfrom methods import Method\n\nclass Planted(Method):{body}")
    seen = drive("--plugin", *files)
    assert "MixedDevicesError: Expected all tensors to be on the same device" in seen["mixing"]["error"]
    assert [(hook, reason) for hook, _, reason in seen["waiting"]["waits"]] == [("update", "item")]
    assert ["update", "weight not channels last"] in [
        [hook, what] for hook, _, what in seen["losing_layout"]["layouts"]
    ]
    assert seen["forgetting"]["resumed"]
    clean = {"waits": [], "resumed": [], "error": ""}
    assert {name: seen["losing_layout"][name] for name in clean} == clean
