"""Studies of the noisy quadratic problem: their files, their run folders, their mirror, and the command line."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from harness.parsing.yaml_errors import StudyError
from harness.planning.plan import Plan
from harness.quadratic import quadratic_study
from harness.quadratic.problem import QuadraticRun, late_phase_loss, mean_square_late_weight
from harness.quadratic.quadratic_study import PAPER_ITERATIONS
from harness.running.execute import execute
from harness.running.settings import Settings
from harness.store.run_folder import RunFolder
from harness.studies.study import load

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SMALL = """\
# Two settings of a few dimensions
noisy_quadratic:
  K: [1, 3]
  seeds: [0, 1, 2]
  n: 4
  iterations: 400
  average: 200
  settings:
    - {eta: 0.5, B: 1000}
    - {eta: 0.5, B: 2}
"""
GOLDEN = """\
description: what can be wrong
noisy_quadratic:
  K: [1, 0, 5]
  seeds: [0, 0]
  iterations: many
  iterations: 40000
  average: 30
  settings:
    - {eta: 0.1, B: 10}
    - {eta: -0.1, B: 10}
    - {eta: 0.1, b: 10}
    - {eta: 2.5, B: 10}
    - {eta: 0.1, B: 10}
  speed: 3
methods: [sgd]
"""
GOLDEN_ERRORS = """\
11 errors in the study; nothing was started
  s.yaml:6: noisy_quadratic.iterations: this key is written twice
  s.yaml:3: noisy_quadratic.K[1]: Input should be greater than or equal to 1
  s.yaml:4: noisy_quadratic.seeds: each value once: 0, 0
  s.yaml:7: noisy_quadratic.average: Input should be a multiple of 20
  s.yaml:10: noisy_quadratic.settings[1].eta: Input should be greater than 0
  s.yaml:11: noisy_quadratic.settings[2]: 'B' is missing
  s.yaml:11: noisy_quadratic.settings[2].b: unknown key
  s.yaml:14: noisy_quadratic.speed: unknown key
  s.yaml:15: methods: unknown key
  s.yaml:12: noisy_quadratic.settings[3]: eta: no steady state: the learning rate 2.5 is 2 / curvature or more (1)
  s.yaml:13: noisy_quadratic.settings[4]: this setting is there twice
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    """The path of a study, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(SMALL)
    return tmp_path / "s.yaml"


@pytest.fixture
def call(run_here, path, monkeypatch, empty_store):
    """Run the command line in this process, and return its exit code and output."""
    (path.parent / "runs").mkdir()
    shutil.copy(empty_store, path.parent / "runs" / "mlflow.db")
    # MLflow keeps a store open by its URI: the default one, which is relative, would be another test's.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path.parent / 'runs' / 'mlflow.db'}")
    return run_here


# --- the file -------------------------------------------------------------------------------------------------


def test_all_errors_at_once(path):
    path.write_text(GOLDEN)
    with pytest.raises(StudyError) as caught:
        load("s.yaml")
    assert str(caught.value).splitlines() == GOLDEN_ERRORS.splitlines()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("noisy_quadratic:", "noisy_quadratic: 3\nother:", "s.yaml:2: noisy_quadratic: Input should be a valid dict"),
        ("  K: [1, 3]\n", "", "s.yaml:2: noisy_quadratic: 'K' is missing"),
        ("[1, 3]", "[2]", "s.yaml:3: noisy_quadratic.K: Tuple should have at least 2 items"),
        ("iterations: 400", "iterations: 210", "iterations - average = 10: the slowest direction relaxes in 8 iterati"),
        ("iterations: 400", "iterations: 100", "iterations - average = -100: the slowest direction relaxes in 8 it"),
        (
            "n: 4",
            "n: one",
            "1 error in the study; nothing was started\n  s.yaml:5: noisy_quadratic.n: Input should be a",
        ),
        ("B: 1000", "B: .inf", "s.yaml:9: noisy_quadratic.settings[0].B: Input should be a finite number"),
    ],
)
def test_mistakes(path, old, new, expected):
    assert old in SMALL
    path.write_text(SMALL.replace(old, new))
    with pytest.raises(StudyError) as caught:
        load("s.yaml")
    assert expected in str(caught.value)


def test_what_remains_of_the_start_where_averaging_begins(path):
    """After burn-in, initial weights at distance 1 in the slowest direction add less than 1 % to the smallest loss."""
    with pytest.raises(StudyError, match=r"and (\d+) are needed") as caught:
        path.write_text(SMALL.replace("400", "201"))
        load("s.yaml")
    needed = [int(line.split("and ")[1].split()[0]) for line in str(caught.value).splitlines()[1:]]
    h, smallest = 0.25, 0.5 / (2 * 3 * 1000) * sum(h / (2 - 0.5 * h) for h in (1, 1 / 2, 1 / 3, 1 / 4))
    left = [0.5 * h * np.exp(-2 * 0.5 * h * t) / smallest for t in (needed[0] - 1, needed[0])]
    assert left[0] > 0.01 >= left[1]
    path.write_text(SMALL.replace("400", str(200 + needed[0])))
    assert len(load("s.yaml").runs) == 2


def test_plugin_methods_are_refused(path):
    with pytest.raises(StudyError, match="--plugin mine.py: a study of the noisy quadratic problem trains no methods"):
        load("s.yaml", [Path("mine.py")])


def test_the_study_of_figure_1():
    study = load("late-phase/figure-1")
    assert study.name == "late-phase/figure-1"
    first = study.runs[0]
    assert {2, 5, 10, 15, 20, 25} < set(first.K) and first.n == 100
    for K in first.K:  # what the file says of it: neither here nor in the paper's iterations does the balance move
        losses = late_phase_loss(first, K, [0, first.iterations, PAPER_ITERATIONS])
        np.testing.assert_allclose(losses, losses[0], rtol=0.01)
    for run in study.runs[1:3]:  # on their way
        assert (
            mean_square_late_weight(run, 1, [run.iterations])[0]
            > 1.1 * mean_square_late_weight(run, 1, [PAPER_ITERATIONS])[0]
        )
    for run in study.runs[3:]:  # at rest
        for K in run.K:
            here, there = late_phase_loss(run, K, [run.iterations - run.average, PAPER_ITERATIONS])
            np.testing.assert_allclose(here, there, rtol=0.01)


def test_the_key():
    values = {"eta": 0.5, "B": 10.0, "K": (1, 2), "seeds": (0, 1), "iterations": 400, "average": 200}
    key = QuadraticRun(**values).key
    assert key == QuadraticRun(**values, n=100).key, "a default"
    others = [
        ("eta", 0.4),
        ("B", 11),
        ("K", (1, 3)),
        ("seeds", (0, 2)),
        ("n", 99),
        ("iterations", 500),
        ("average", 20),
    ]
    assert len({key, *(QuadraticRun(**{**values, name: value}).key for name, value in others)}) == 8


# --- from run folders to the figure ---------------------------------------------------------------------------


def test_from_run_to_plot(call, path):
    code, out, err = call("run", "s.yaml", "--dry-run")
    assert (code, err) == (0, "")
    assert "study s: 2 runs, 0 of them finished" in out
    assert [path.name for path in path.parent.glob("runs/*")] == ["mlflow.db"]
    code, _, err = call("plot", "s.yaml")
    assert code == 2
    assert "no study 's'" in err and "simulate it with `econ run s.yaml`" in err

    code, out, err = call("run", "s.yaml")
    assert code == 0, err
    assert "[2/2] η = 0.5, B = 2 · noisy quadratic problem of 4 dimensions: finished in" in out
    assert "study s: all 2 runs are finished" in out
    plan = Plan(load("s.yaml"))
    results = {key: json.loads((path.parent / "runs" / key / "result.json").read_text()) for key in plan.runs}
    assert {file.name for file in (path.parent / "runs" / next(iter(results))).iterdir()} == {
        "spec.json",
        "result.json",
        "claim.1",
    }
    code, out, _ = call("run", "s.yaml")
    assert code == 0 and "finished in" not in out, "nothing is simulated twice"
    assert call("status", "s.yaml")[1].startswith("2 finished, 0 running")
    assert call("sync", "s.yaml")[1] == f"2 runs of study s are in {os.environ['MLFLOW_TRACKING_URI']}\n"
    check_mirror(results)

    for command in ("leaderboard", "table"):
        code, _, err = call(command, "s.yaml")
        assert code == 2
        assert err == "error: study s simulates the noisy quadratic problem: `econ plot s.yaml` draws it\n"
    code, _, err = call("plot", "s.yaml", "cost")
    assert (code, err) == (2, "error: no plot 'cost' of study s: it has one, `econ plot s.yaml`\n")
    code, out, err = call("plot", "s.yaml")
    assert code == 0, err
    assert {file.name for file in (path.parent / "results").iterdir()} == {"s.pdf", "s.svg", "s.png", ".studies.json"}


def check_mirror(results):
    """The store holds each setting once, with what its folder holds."""
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    runs = client.search_runs([client.get_experiment_by_name("s").experiment_id])
    assert {run.data.tags["key"] for run in runs} == results.keys() and len(runs) == 2
    for run in runs:
        result = results[run.data.tags["key"]]
        assert run.data.tags["state"] == "finished" and run.info.status == "FINISHED"
        assert float(run.data.params["B"]) in (1000, 2) and run.data.params["n"] == "4"
        for name, value in result["metrics"].items():
            assert run.data.metrics[name] == value
        for name, curve in result["members"].items():
            points = client.get_metric_history(run.info.run_id, f"members/{name}")
            assert {str(point.step): point.value for point in points} == curve and len(points) == 2
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["result.json"]


def test_a_result_holds_what_was_measured(path):
    plan = Plan(load("s.yaml"))
    for folder in ("runs", "again"):
        for planned in plan.runs.values():
            assert execute(planned.run, Settings(path.parent / folder), []).state == "finished"
    for key, planned in plan.runs.items():
        result = json.loads((path.parent / "runs" / key / "result.json").read_text())
        losses = np.array(result["losses"]["late_phase"])  # (2, S, len(K))
        assert losses.shape == (2, 3, 2)
        np.testing.assert_allclose(list(result["members"]["late_phase"].values()), losses.mean((0, 1)))
        assert list(result["members"]["late_phase"]) == ["1", "3"]
        assert result["spec"] == planned.run.spec() and result["key"] == key
        repeated = json.loads((path.parent / "again" / key / "result.json").read_text())
        assert {**repeated, "timing": 0} == {**result, "timing": 0}, "the same whenever it is repeated"


def test_ctrl_c_loses_only_the_setting_in_progress(call, path, monkeypatch):
    simulate, started = quadratic_study.simulate, []

    def interrupted(run, report):
        started.append(run)
        report(100)
        if len(started) == 2:
            raise KeyboardInterrupt
        return simulate(run, report)

    monkeypatch.setattr(quadratic_study, "simulate", interrupted)
    code, out, _ = call("run", "s.yaml")
    assert code == 130
    assert "interrupted; finished runs are kept, and the same command goes on with the others" in out
    first, second = (RunFolder(path.parent / "runs", key) for key in Plan(load("s.yaml")).runs)
    assert first.finished and not second.finished and not second.failure.exists()
    assert "iteration 100 of 400" in call("status", "s.yaml")[1]
    assert call("run", "s.yaml")[0] == 0
    assert len(started) == 3, "the first one was not begun again"
    assert second.finished and not second.progress.exists()


def test_a_setting_that_diverges_does_not_stop_the_others(call, path):
    path.write_text(SMALL.replace("B: 1000", "B: 1.0e-6"))
    code, out, _ = call("run", "s.yaml")
    assert code == 1
    assert "diverged" in out and "1 of 2 runs did not finish" in out
    assert call("status", "s.yaml")[1].startswith("1 finished, 0 running, 0 stopped, 1 failed")
    code, out, _ = call("plot", "s.yaml")
    assert code == 0
    assert "1 of 2 settings are not finished: left out" in out
