"""Tests that the cost a method declares is the cost that is counted."""

import json
from typing import Any

import pytest

from harness.parsing.hyperparameters import hyperparameters
from harness.planning.plan import shape
from harness.store.run_folder import RunFolder
from harness.studies.build_method import make_method
from methods import METHODS
from tests.harness.conftest import N_TRAIN

EPOCHS, HELD_OUT = 10, 12
EXAMPLES = N_TRAIN - HELD_OUT
INSTEAD = {
    "mc_dropout": ["mc_dropout(K=3)"],
    "deep_ensemble": ["deep_ensemble(K=2)", "deep_ensemble(dropout, K=3)"],
    "late_phase_bn": [
        "late_phase_bn",
        "late_phase_bn(K=3, prediction=members)",
        "late_phase_bn(K=3, statistics=reestimate_members)",
    ],
    "late_phase_rank1": ["late_phase_rank1", "late_phase_rank1(K=3, prediction=members)"],
    "late_phase_hypernet": ["late_phase_hypernet", "late_phase_hypernet(K=3, prediction=members)"],
    "late_phase_last_layer": ["late_phase_last_layer", "late_phase_last_layer(K=3, prediction=members)"],
    "late_phase_full": [
        "late_phase_full",
        "late_phase_full(K=3, prediction=members)",
        "late_phase_full(K=3, data=full)",
    ],
    "branched": ["branched", "branched(K=3, prediction=members)", "branched(K=3, prediction=mixtures)"],
    "swa": [
        "swa",
        "swa(start=3, checkpoints=3, prediction=checkpoints)",
        "swa(start=3, checkpoints=3, prediction=simplex, points=4)",
        "swa(start=3, checkpoints=2, prediction=pair, alpha=(0.8, 0.2))",
    ],
    "swag": ["swag(N=3)"],
    "snapshot": ["snapshot", "snapshot(M=2)"],
    "fge": ["fge", "fge(start=3, cycle=4)"],
    "line": ["line", "line(prediction=pair)", "line(prediction=random, points=3)"],
    "curve": ["curve", "curve(prediction=random, points=3)"],
    "simplex": ["simplex", "simplex(prediction=random, points=3)"],
}
"""Hyperparameters to test, where the defaults take long or do not cover everything."""
TRIED = [
    (name, written) for name, method in METHODS.items() if method.about.family for written in INSTEAD.get(name, [name])
]


def evaluated(expression: str, names: dict[str, Any]) -> float:
    """The value of an expression of `About`."""
    return eval(expression, {"__builtins__": {}}, names)


@pytest.mark.long
@pytest.mark.parametrize(("name", "written"), TRIED)
def test_counted_costs_are_those_it_names(name, written, npz, tmp_path, write_study, run_study):
    about = METHODS[name].about
    dataset = {"name": f"npz:{npz}", "validation": HELD_OUT, "corruptions": "none"}
    recipe = {"epochs": EPOCHS, "batch_size": 16, "lr": 0.01}
    study = write_study(tmp_path / "s.yaml", methods=[written], datasets=[dataset], recipe=recipe)
    done = run_study(study, tmp_path / "runs")
    assert not done.schedule.failed
    (planned,) = (planned for planned in done.plan.runs.values() if planned.role == "cell")
    cost = json.loads(RunFolder(tmp_path / "runs", planned.run.key).result.read_text())["cost"]

    method = make_method(planned.run, METHODS, shape(planned.run))
    names = {key: default for key, (_, default) in hyperparameters(METHODS[name]).items() if key != "of"}
    names |= {**planned.run.method.hyperparameters, "epochs": EPOCHS, "start": method.start_epoch / EPOCHS}
    training, passes, prediction = (evaluated(part, names) for part in (about.training, about.passes, about.prediction))
    watched = EPOCHS * HELD_OUT * prediction if method.watches else 0  # a prediction of the held-out data every epoch
    assert cost["backward_examples"] == pytest.approx(training * EPOCHS * EXAMPLES)
    assert cost["forward_examples"] == pytest.approx(training * EPOCHS * EXAMPLES + passes * EXAMPLES + watched)
    assert cost["forwards_per_example"] == prediction


@pytest.mark.parametrize("name", METHODS)
def test_every_method_declares_its_cost(name):
    about = METHODS[name].about
    assert about.family
    assert about.paper or name == "sgd"
