"""The cost of studies: runs and epochs are counted, GPU-hours are estimated."""

import pytest
import torchvision

from data import DatasetShape
from harness.planning import study_cost
from harness.planning.plan import Plan
from harness.planning.study_cost import REFERENCE_HOURS, StudyCost, count_cost, forward_flops, read_costs, study_digest
from harness.studies.study import load
from harness.studies.study_files import study_names

CIFAR = DatasetShape(3, 32, 10, 50_000)


def write(tmp_path, methods, **more):
    path = tmp_path / "s.yaml"
    lines = {"datasets": "[cifar10]", "architectures": "[wrn-28-10]", "seeds": "[0]", "recipe": "late-phase/sgd"} | more
    path.write_text("".join(f"{k}: {v}\n" for k, v in lines.items()) + f"methods: [{methods}]\n")
    return str(path)


def test_the_measured_run_costs_what_was_measured(tmp_path):
    cost = count_cost(write(tmp_path, "sgd"))
    assert (cost.runs, cost.written, cost.shared) == (1, 200, 200)
    assert cost.hours_written == cost.hours_shared == pytest.approx(REFERENCE_HOURS, abs=1e-3)


@pytest.mark.parametrize(
    ("methods", "runs", "written", "shared", "hours_written", "hours_shared"),
    [
        ("batch_ensemble(K=4)", 1, 200, 200, 4, 4),
        ("deep_ensemble(K=3)", 4, 600, 600, 3, 3),
        ("sgd, late_phase_bn(start=120)", 2, 400, 280, 2, 1.4),
        ("late_independent(K=5, start=120)", 1, 200, 200, 0.6 + 5 * 0.4, 0.6 + 5 * 0.4),
        ("sgd, 'late_independent(K=5, start=120)'", 2, 400, 280, 1 + 2.6, 0.6 + 0.4 + 2.0),
    ],
)
def test_methods_cost_what_they_declare(tmp_path, methods, runs, written, shared, hours_written, hours_shared):
    methods = methods if "'" in methods or "," not in methods.split("(")[-1] else f'"{methods}"'
    cost = count_cost(write(tmp_path, methods))
    assert (cost.runs, cost.written, cost.shared) == (runs, written, shared)
    assert cost.hours_written / REFERENCE_HOURS == pytest.approx(hours_written, rel=0.02)
    assert cost.hours_shared / REFERENCE_HOURS == pytest.approx(hours_shared, rel=0.02)


def test_less_data_costs_less(tmp_path):
    cost = count_cost(write(tmp_path, "sgd", datasets="[{name: cifar10, train_size: 10000}]"))
    assert cost.hours_written == pytest.approx(REFERENCE_HOURS / 5, abs=1e-3)


def test_operations_are_counted_as_published():
    """Twice the multiply-adds: 5.24 billion of a WRN-28-10, torchvision's own count of its ResNet-50, and an LSTM."""
    assert forward_flops("wrn-28-10", CIFAR, 0) == pytest.approx(2 * 5.24e9, rel=0.01)
    gflops = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["_ops"]
    assert forward_flops("resnet50", DatasetShape(3, 224, 1000, 1), 0) == pytest.approx(2e9 * gflops, rel=0.01)
    own = forward_flops("lstm-500", DatasetShape(None, None, 205, 1), 100)
    assert own == 2 * 100 * (4 * 500 * (500 + 206) + 500 * 205 + 205)


def test_the_study_of_no_network_costs_nothing():
    assert str(count_cost("late-phase/figure-1")) == "simulated in minutes on a CPU"


def test_it_is_written_on_one_line():
    cost = StudyCost("", 53, 13000, 6485, 319.8, 5.43)
    assert str(cost) == "53 runs; 13,000 epochs as written, 6,485 after sharing; about 320 and 5.4 GPU-hours"


def test_the_stored_costs_are_up_to_date():
    """Count them anew by `python -m harness.planning.study_cost`."""
    assert set(read_costs()) == set(study_names())


@pytest.mark.parametrize("name", ["late-phase/table-17", "late-phase/table-5", "digits"])
def test_stored_costs_are_correct(name):
    assert read_costs()[name] == count_cost(name)
    assert read_costs()[name].digest == study_digest(name)


def test_the_epochs_are_the_dry_runs(tmp_path):
    plan = Plan(load("late-phase/sweep"), share=True)
    cost = read_costs()["late-phase/sweep"]
    assert (cost.runs, cost.written, cost.shared) == (len(plan.without_trunks), 4000, 1760)


def test_a_cost_is_of_the_study_and_of_the_recipes_that_it_names(tmp_path, monkeypatch):
    path = write(tmp_path, "sgd")
    before = study_digest(path)
    known, other = study_cost.load_recipes(), {"epochs": 7}
    monkeypatch.setattr(study_cost, "load_recipes", lambda: known | {"late-phase/swa": other, "own/new": other})
    assert study_digest(path) == before
    monkeypatch.setattr(study_cost, "load_recipes", lambda: known | {"late-phase/sgd": other})
    assert study_digest(path) != before
    assert study_digest(write(tmp_path, "swa")) != before
