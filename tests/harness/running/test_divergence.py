"""A run whose last step makes its weights useless has diverged, whatever is measured of it."""

import json

import pytest

from harness.store.run_folder import RunFolder

PLUGIN = """
import torch
from methods import Method

class Exploding(Method):
    'Its loss stays finite, and its last step makes a weight of the last layer `to`.'
    def __init__(self, make_net, recipe, *, to: str = "nan"):
        super().__init__(make_net, recipe)
        self.to_value = float(to)
    def end_epoch(self, epoch):
        super().end_epoch(epoch)
        if epoch == self.epochs - 1:
            with torch.no_grad():
                list(self.net.parameters())[-1][0] = self.to_value

METHODS = {"exploding": Exploding}
"""
EVERYTHING = {
    "training_loss": True,
    "calibration_bins": 20,
    "flatness": {"sigmas": [0, 0.1], "draws": 1, "examples": 16},
}


@pytest.fixture
def explode(tmp_path, write_study, run_study):
    (tmp_path / "exploding.py").write_text(PLUGIN)

    def run(to, **changes):
        study = write_study(tmp_path / "s.yaml", methods=[f"exploding(to={to!r})"], **changes)
        done = run_study(study, tmp_path / "runs", plugins=[tmp_path / "exploding.py"])
        ((key, outcome),) = done.schedule.failed.items()
        recorded = json.loads(RunFolder(tmp_path / "runs", key).failure.read_text())
        assert (recorded["state"], recorded["reason"]) == outcome
        return outcome

    return run


@pytest.mark.parametrize("to", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("validation", [0, 12])
@pytest.mark.parametrize("evaluate", [{}, EVERYTHING, {"each_epoch": ["test"]}], ids=["plain", "all", "each epoch"])
def test_images(explode, npz, to, validation, evaluate):
    dataset = {"name": f"npz:{npz}", "corruptions": "none", "validation": validation}
    state, reason = explode(to, datasets=[dataset], evaluate=evaluate)
    assert state == "diverged", reason
    assert reason.startswith("not a number ")


@pytest.mark.parametrize("to", ["nan", "inf"])
@pytest.mark.parametrize("validation", [0, 60])
def test_text(explode, tmp_path, to, validation):
    (tmp_path / "t.txt").write_text("the quick brown fox jumps over the lazy dog. " * 30)
    dataset = {"name": f"text:{tmp_path / 't.txt'}", "segment": 12, "validation": validation}
    state, reason = explode(to, datasets=[dataset], architectures=["lstm-8"])
    assert state == "diverged", reason
    assert reason.startswith("not a number ")
