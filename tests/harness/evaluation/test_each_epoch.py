"""Tests of the measurements after each epoch, which must not change training."""

import json

import numpy as np
import pytest
import torch

from harness.evaluation.landscape import measure_landscape
from harness.running.execute import execute
from harness.running.lifecycle import RunLifecycle
from harness.running.settings import Settings
from harness.store import checkpoint as checkpoints
from harness.store.damaged_files import read_json
from harness.store.run_folder import RunFolder
from harness.studies.extra_measurements import ExtraMeasurements, FlatnessMeasurement, PathMeasurement, PlaneMeasurement

EACH_EPOCH = ExtraMeasurements(each_epoch=("distances", "test"))
ALL = ExtraMeasurements(
    training_loss=True,
    calibration_bins=20,
    flatness=FlatnessMeasurement(sigmas=(0.1,), draws=1),
    path=PathMeasurement(points=3),
    plane=PlaneMeasurement(points=2, third="sgd"),
    each_epoch=("distances", "test"),
)
SAMPLES = ["sgd", "mc_dropout(K=2)", "swa(line, start=1)", "early_stopping(criterion=test)", "snapshot(M=3)"]
OTHERS = ["hypernet_ensemble(K=2, start=1)", "batch_ensemble(K=2)", "swag(start=1, N=2)", "simplex"]


@pytest.fixture
def asked(make_run):
    def make(method, evaluate=EACH_EPOCH, **changes):
        return make_run(method, **changes).model_copy(update={"evaluate": evaluate})

    return make


def final_state(runs, key):
    return checkpoints.load(RunFolder(runs, key).checkpoint, key)


@pytest.mark.parametrize("method", SAMPLES + OTHERS)
def test_training_gives_the_same_bits_and_costs_the_same_with_it(method, make_run, asked, tmp_path):
    states = []
    for run in (make_run(method), asked(method)):
        assert execute(run, Settings(tmp_path), []).state == "finished"
        folder = RunFolder(tmp_path, run.key)
        state = final_state(tmp_path, run.key)
        result = read_json(folder.result)
        states.append((state.method, result["metrics"], result["cost"], result["spent"], folder.read_epochs()))
    (plain, metrics, *costs, lines), (measured, same, *same_costs, more) = states
    assert plain.keys() == measured.keys()
    for name, value in plain.items():
        assert torch.equal(value, measured[name]) if isinstance(value, torch.Tensor) else value == measured[name], name
    assert (metrics, costs) == (same, same_costs)
    assert [line["train/loss"] for line in lines] == [line["train/loss"] for line in more]
    assert all("test/accuracy" in line and "test/nll" in line for line in more)
    assert not any("test/accuracy" in line for line in lines)


@pytest.mark.parametrize("method", ["line", "swa(start=1)", "late_phase_bn(K=2, start=1, prediction=members)"])
def test_the_last_epochs_scores_are_those_of_the_finished_run(method, asked, tmp_path):
    run = asked(method)
    assert execute(run, Settings(tmp_path), []).state == "finished"
    folder = RunFolder(tmp_path, run.key)
    last, metrics = folder.read_epochs()[-1], read_json(folder.result)["metrics"]
    assert last["test/accuracy"] == pytest.approx(metrics["accuracy"])
    assert last["test/nll"] == pytest.approx(metrics["nll"])
    assert "chosen_on" not in read_json(folder.result), "nothing is selected by it"
    if method == "late_phase_bn(K=2, start=1, prediction=members)":
        assert last["distance/l2"] == pytest.approx(metrics["diversity/l2"])
        assert last["distance/cosine"] == pytest.approx(metrics["diversity/cosine"])
        assert "distance/l2" not in folder.read_epochs()[0], "before T0 there is one network"


def test_an_interrupted_run_measures_the_same(asked, tmp_path, read_result, monkeypatch):
    run = asked("swa(line, start=1)", ALL.model_copy(update={"plane": None}))
    whole = tmp_path / "whole"
    assert execute(run, Settings(whole, checkpoint_seconds=0.0), []).state == "finished"

    def stop(*_):
        raise KeyboardInterrupt

    cut = tmp_path / "cut"
    execution = RunLifecycle(run, Settings(cut, checkpoint_seconds=0.0), RunFolder(cut, run.key), lambda: None)
    execution.report = stop
    with pytest.raises(KeyboardInterrupt):
        execution.finish([])
    monkeypatch.setattr(RunLifecycle, "write_result", stop)
    with pytest.raises(KeyboardInterrupt):
        execute(run, Settings(cut), [])
    monkeypatch.undo()
    assert execute(run, Settings(cut), []).state == "finished"
    assert read_result(whole, run.key) == read_result(cut, run.key)
    one, other = (np.load(RunFolder(folder, run.key).arrays) for folder in (whole, cut))
    assert one.files == other.files
    assert all(np.array_equal(one[name], other[name]) for name in one.files)


def test_what_is_no_number_ends_the_run(asked, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.evaluation.each_epoch.anchor_distances", lambda *_: {"l2": float("nan")})
    outcome = execute(asked("line"), Settings(tmp_path), [])
    assert outcome == ("diverged", "not a number after epoch 1: distance/l2")


def test_a_study_measures_everything_and_keeps_it_with_the_result(write_study, run_study, tmp_path):
    methods = ["sgd", "line", "simplex"]
    evaluate = ALL.model_dump(mode="json", exclude_defaults=True)
    done = run_study(write_study(tmp_path / "s.yaml", methods=methods, evaluate=evaluate), tmp_path / "runs")
    assert not done.schedule.failed
    found = {}
    for key, planned in done.plan.runs.items():
        folder = RunFolder(tmp_path / "runs", key)
        found[str(planned.run.method)] = (read_json(folder.result), folder)
    plain, _ = found["sgd"]
    assert plain["arrays"] == ["flatness"]
    assert plain["left_out"].keys() == {"path", "plane"}
    line, folder = found["line"]
    assert line["arrays"] == ["flatness", "path", "plane"] and "left_out" not in line
    assert {"ece_20", "training/loss", "training/accuracy"} <= line["metrics"].keys()
    arrays = np.load(folder.arrays)
    assert arrays["plane/names"].tolist() == ["1", "2", "sgd"]
    assert arrays["path/accuracy"][1] == pytest.approx(line["metrics"]["accuracy"]), "the midpoint is what predicts"
    assert line["cost"]["forward_examples"] == 3 * 60 + 60, "three epochs, one pass for the midpoint: no evaluation"
    assert np.load(found["simplex"][1].arrays)["plane/names"].tolist() == ["1", "2", "3"]
    assert json.loads(folder.spec.read_text())["evaluate"]["plane"] == {"points": 2, "third": "sgd"}


def test_the_third_network_is_that_of_the_finished_plain_run(asked, tmp_path, monkeypatch):
    seen = []

    def remember(method, measures, examples, plain=None):
        seen.append(plain)
        return measure_landscape(method, ExtraMeasurements(), examples)

    monkeypatch.setattr("harness.running.lifecycle.measure_landscape", remember)
    run = asked("line", ExtraMeasurements(plane=PlaneMeasurement(third="sgd")))
    plain = run.plain({"sgd": type("Plain", (), {"version": 1})})
    settings = Settings(tmp_path)
    outcome = execute(run, settings, [plain.key])
    assert outcome.state == "failed" and "it needs the run" in outcome.reason
    assert execute(plain, settings, []).state == "finished"
    assert execute(run, settings, [plain.key]).state == "finished"
    state = final_state(tmp_path, plain.key).method
    for name, value in seen[-1].weights.items():
        assert torch.equal(value, state[f"net.{name}"])


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["swa(line, start=1)", "hypernet_ensemble(K=3, start=1)", "mc_dropout(K=2)"])
def test_on_cuda_too_and_its_memory_is_no_cost(method, make_run, asked, tmp_path):
    settings = Settings(tmp_path, device="cuda")
    evaluate = ALL.model_copy(update={"plane": PlaneMeasurement(points=2)})
    execute(make_run(method, seed=1), settings, [])  # the first run of a process allocates more
    peaks, states = [], []
    for run in (make_run(method), asked(method, evaluate)):
        outcome = execute(run, settings, [])
        assert outcome.state == "finished", outcome
        states.append(final_state(tmp_path, run.key).method)
        peaks.append(read_json(RunFolder(tmp_path, run.key).result)["timing"]["cost/peak_memory_bytes"])
    assert peaks[1] == pytest.approx(peaks[0], rel=0.02)
    for name, value in states[0].items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-4, msg=name)
