"""The study `landscape`, made short, from its file to its plots."""

import shutil

import pytest
import yaml

from analysis import PLOTS, load_runs, load_series, save
from harness.cli.plot import PlotName
from harness.studies.study import load
from harness.studies.study_files import find_study
from harness.tracking.mlflow_mirror import Mirror
from harness.tracking.mlflow_store import store_uri

pytestmark = pytest.mark.long

METHODS = ["sgd", "line", "simplex", "hypernet_ensemble(K=3)"]


def shortened(folder):
    """Write the study with one seed, two epochs, some methods, and few points and draws."""
    raw = yaml.safe_load(find_study("landscape").read_text())
    raw["recipe"]["epochs"], raw["seeds"], raw["methods"] = 2, [0], METHODS
    raw["datasets"] = [{"name": "digits", "train_size": 100}]
    raw["evaluate"]["flatness"] |= {"draws": 1, "examples": 50}
    raw["evaluate"]["path"]["points"] = 3
    raw["evaluate"]["plane"] |= {"points": 2, "examples": 100, "train_examples": 50}
    path = folder / "short.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.fixture(scope="module")
def frame(tmp_path_factory, run_study, empty_store):
    """The tracked runs of the short study."""
    folder = tmp_path_factory.mktemp("landscape")
    done = run_study(shortened(folder), folder / "runs")
    assert not done.schedule.failed
    shutil.copy(empty_store, folder / "runs" / "mlflow.db")
    store = store_uri(str(folder / "runs" / "mlflow.db"), folder / "runs")
    mirror = Mirror(store, "short", folder / "runs")
    for planned in done.plan.runs.values():
        mirror.send(planned)
    assert not mirror.problem
    return load_runs("short", store=store)


def test_the_study_asks_for_all_there_is():
    asked = load("landscape").grids[0].evaluate
    assert set(asked.model_dump(exclude_defaults=True)) == set(type(asked).model_fields)


def test_what_was_measured_is_tracked(frame):
    kinds = dict(zip(frame["label"], frame["arrays"], strict=True))
    assert kinds["sgd"] == "flatness" and kinds["line"] == "flatness path plane"
    assert {"training/loss", "training/accuracy", "ece_20"} <= set(frame.columns)
    assert not [name for name in frame.columns if name.startswith(("test/", "distance/"))], "they rank nothing"
    assert len(load_series(frame, "test/accuracy")) == 4 * 2
    assert len(load_series(frame, "distance/squared_cosine")) == 2 * 2 + 1, "specialists have one distance: from T0 on"


@pytest.mark.parametrize("name", ["path", "plane", "flatness", "epochs", "corruption"])
def test_it_can_be_drawn(frame, tmp_path, name):
    assert name in set(PlotName)
    for path in save(PLOTS[name](frame), tmp_path / name):
        assert path.stat().st_size > 1000


def test_the_command_line_draws_every_plot():
    assert set(PlotName) == {*PLOTS, "tuning", "all"}
