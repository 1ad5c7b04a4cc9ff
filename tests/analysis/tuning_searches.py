"""Hyperparameter searches for tests, written to a store."""

import json

from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json

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


def add_searches(store):
    """Add two methods: for `first` only `a` matters; `second` was searched twice."""
    trials = [("finished", 1.0 + abs(a / 8 - 0.5), {"a": a / 8, "kind": [1.0, "1/K"][a % 2]}) for a in range(8)]
    trials += [("pruned", 3.0, {"a": 0.9, "kind": 1.0}), ("refused", None, {"a": 0.9, "kind": 1.0})]
    add_search(store, "first", trials)
    add_search(store, "second", [("finished", 5.0, {"a": 0.5, "kind": 1.0})] * 4)
    add_search(store, "second", [("finished", 0.5, {"a": 0.5, "kind": 1.0}), ("failed", None, {"a": 0.1, "kind": 1.0})])
    add_search(store, "first", [("finished", 99.0, {"a": 0.5, "kind": 1.0})], architecture="lenet", metric="accuracy")
