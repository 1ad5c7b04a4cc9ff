"""The history of tuning, read from a synthetic store."""

import json

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json

from analysis import importances, latex, leaderboard, load_tuning, render, save, tuning_history

SPACE = {"a": FloatDistribution(0.0, 1.0), "kind": CategoricalDistribution([1.0, "1/K"])}
NAME = "paper · tuning"


def add_search(store, label, trials, *, metric="nll", study=NAME, **tags):
    space = {name: json.loads(distribution_to_json(each)) for name, each in SPACE.items()}
    parent, _ = store.add(
        study,
        label,
        1000,
        role="search",
        metric=metric,
        space=json.dumps(space),
        key=f"{label}{len(trials)}{tags}",
        **tags,
    )
    for number, (state, value, values) in enumerate(trials):
        metrics = {"value": value} if state == "finished" else {}
        series = {f"validation/{metric}": [9.0, value]} if value is not None else {}
        store.add(
            study,
            label,
            1000,
            metrics=metrics,
            series=series,
            role="trial",
            state=state,
            trial=str(number),
            values=json.dumps(values),
            key=f"{label}{len(trials)}{tags}/{number}",
            **{"mlflow.parentRunId": parent},
            **tags,
        )


@pytest.fixture(scope="module")
def tuned(store):
    """Two methods: of `first`, `a` decides all; `second` was searched twice."""
    trials = [("finished", 1.0 + abs(a / 8 - 0.5), {"a": a / 8, "kind": [1.0, "1/K"][a % 2]}) for a in range(8)]
    trials += [("pruned", 3.0, {"a": 0.9, "kind": 1.0}), ("refused", None, {"a": 0.9, "kind": 1.0})]
    add_search(store, "first", trials)
    add_search(store, "second", [("finished", 5.0, {"a": 0.5, "kind": 1.0})] * 4)
    add_search(store, "second", [("finished", 0.5, {"a": 0.5, "kind": 1.0}), ("failed", None, {"a": 0.1, "kind": 1.0})])
    add_search(store, "first", [("finished", 99.0, {"a": 0.5, "kind": 1.0})], architecture="lenet", metric="accuracy")
    return load_tuning("paper", store=store.uri)


def test_trials_are_rows(tuned):
    rows = tuned[(tuned["label"] == "first") & (tuned["architecture"] == "resnet20")]
    assert list(rows["number"]) == list(range(10))
    assert list(rows["state"]) == ["finished"] * 8 + ["pruned", "refused"]
    assert rows["value"].iloc[0] == 1.5
    assert rows["value"].iloc[8] == 3.0, "of a pruned trial the last"
    assert rows["value"].isna().iloc[9]
    assert rows["values"].iloc[1] == {"a": 0.125, "kind": "1/K"}
    assert rows["space"].iloc[0] == SPACE
    assert set(rows["metric"]) == {"nll"}


def test_of_a_method_searched_twice_the_latest_counts(tuned):
    rows = tuned[tuned["label"] == "second"]
    assert list(rows["value"].dropna()) == [0.5]
    assert list(rows["state"]) == ["finished", "failed"]


def test_importance_finds_what_decides(tuned):
    rows = tuned[(tuned["label"] == "first") & (tuned["architecture"] == "resnet20")]
    found = importances(rows)
    assert list(found) == ["a", "kind"]
    assert found["a"] > 0.8
    assert sum(found.values()) == pytest.approx(1.0)
    assert found == importances(rows), "the same every time"
    assert importances(rows.iloc[:3]) == {}, "too few"
    assert importances(rows.iloc[[0] * 5]) == {}, "no differences"


def test_the_figures(tuned, tmp_path):
    figures = tuning_history(tuned)
    assert list(figures) == ["cifar10 · lenet", "cifar10 · resnet20"]
    figure = figures["cifar10 · resnet20"]
    axes = {ax.get_title(): ax for ax in figure.axes if ax.get_title()}
    assert set(axes) == {"first", "second"}
    lines = {line.get_marker(): line for line in axes["first"].lines}
    assert list(lines["D"].get_xydata()[0]) == [0, 1.5]
    assert list(lines["x"].get_xydata()[0]) == [8, 3.0]
    assert len(lines["o"].get_xydata()) == 7
    best = next(line for line in axes["first"].lines if line.get_marker() == "None")
    assert list(best.get_ydata()) == [1.5, 1.375, 1.25, 1.125, 1.0, 1.0, 1.0, 1.0, 1.0]
    bars = [patch.get_width() for ax in figure.axes for patch in ax.patches]
    assert sum(bars) == pytest.approx(1.0)
    assert axes["first"].get_ylabel() == "Validation NLL\n(nats)"
    for path in save(figure, tmp_path / "tuning"):
        assert path.stat().st_size > 5_000


def test_each_panel_names_its_own_metric(tuned):
    """One method was tuned by the likelihood, another one on the same cell by the accuracy."""
    frame = tuned[tuned["architecture"] == "resnet20"].copy()
    frame.loc[frame["label"] == "second", "metric"] = "accuracy"
    (figure,) = tuning_history(frame).values()
    named = {ax.get_title(): ax.get_ylabel() for ax in figure.axes if ax.get_title()}
    assert named == {"first": "Validation NLL\n(nats)", "second": "Validation accuracy\n(%)"}
    assert figure.get_supylabel() == ""


def test_a_study_that_was_not_tuned(store):
    with pytest.raises(LookupError, match="no study 'twice · tuning'"):
        load_tuning("twice", store=store.uri)


def test_the_caption_says_what_was_tuned(frame):
    said = "Tuned on validation data (NLL, at most 20 trials & more): swa. Not tuned: sgd."
    marked = frame.copy()
    marked.attrs = {**frame.attrs, "tuning": said}
    board = leaderboard(marked)
    for format in ("text", "markdown"):
        assert said.replace("&", "&amp;" if format != "text" else "&") in render(board, format), format
    assert said.replace("&", r"\&") in latex(board).split(r"\label")[0]
    assert board.attrs["notes"][1] == said
    assert "Tuned" not in render(leaderboard(frame)) + latex(leaderboard(frame))
