"""Synthetic runs in a temporary MLflow store, written as the harness writes them."""

import hashlib
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.analysis.quadratic_settings import LOSSES, add_setting
from tests.analysis.tuning_searches import add_searches

LATE = "late_phase_bn(K=5) <&_%$|*"
NETWORKS = {"resnet20": "cifar10", "lenet": "digits"}
# accuracy, nll, ece, disagreement; (forward, backward) examples, seconds, forwards an example, members
CELLS = {
    ("sgd", "resnet20"): ([93.0, 93.2, 93.4], 0.25, 0.030, None, (1000, 1000), 10.0, 1, 1),
    ("swa", "resnet20"): ([94.0, 94.1, 94.2], 0.20, 0.020, None, (1100, 1000), 11.0, 1, 1),
    (LATE, "resnet20"): ([94.0, 94.1, 94.2], 0.20, 0.010, 0.02, (1000, 1000), 12.0, 1, 5),
    ("deep_ensemble(K=3)", "resnet20"): ([95.0, 95.1, 95.5], 0.15, 0.012, 0.05, (3000, 3000), 30.0, 3, 3),
    ("sgd", "lenet"): ([98.0, 97.0], 0.08, 0.010, None, (500, 500), 1.0, 1, 1),
    ("deep_ensemble(K=3)", "lenet"): ([98.5], 0.06, 0.008, 0.01, (1500, 1500), 3.0, 3, 3),
}


class Store:
    """A store that runs can be written to."""

    empty: Path
    """A database without runs: copying it is far quicker than making one."""

    def __init__(self, folder: Path) -> None:
        from mlflow.tracking import MlflowClient

        if not (folder / "mlflow.db").exists():
            shutil.copy(self.empty, folder / "mlflow.db")
        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.folder = folder
        self.client = MlflowClient(tracking_uri=self.uri)
        self.studies: dict[str, str] = {}

    def add(self, study, label, seed, *, metrics=None, series=None, files=None, **tags):
        """Write one run; a key follows from its tags unless one is given."""
        from mlflow.entities import Metric, RunTag

        if study not in self.studies:
            location = (self.folder / "artifacts" / study).as_uri()
            self.studies[study] = self.client.create_experiment(study, artifact_location=location)
        tags = {"label": label, "method": label, "architecture": "resnet20", "dataset": "cifar10"} | tags
        tags = {"seed": str(seed), "role": "cell", "state": "finished", "evaluated_on": "test"} | tags
        text = "/".join(tags[name] for name in ("method", "architecture", "dataset", "seed"))
        tags.setdefault("key", hashlib.sha256(text.encode()).hexdigest())
        name = f"{label} · {tags['architecture']} · {tags['dataset']} · seed {seed}"
        run = self.client.create_run(self.studies[study], run_name=name).info
        points = [Metric(name, value, 1, 0) for name, value in (metrics or {}).items()]
        points += [Metric(n, v, 1, k) for n, values in (series or {}).items() for k, v in enumerate(values, 1)]
        self.client.log_batch(run.run_id, metrics=points, tags=[RunTag(k, v) for k, v in tags.items()])
        for name, content in (files or {}).items():
            folder = self.folder / "artifacts" / study / run.run_id / "artifacts"
            folder.mkdir(parents=True, exist_ok=True)
            np.savez(folder / f"{name}.npz", **content)
        return run.run_id, tags["key"]


@pytest.fixture(scope="session")
def store(tmp_path_factory, empty_database) -> Iterator[Store]:
    """A store with the studies "paper" (finished and unfinished runs), "twice" and "unfinished"."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    Store.empty = empty_database
    store = Store(tmp_path_factory.mktemp("store"))
    for (label, architecture), (accuracies, nll, ece, disagreement, examples, *costs) in CELLS.items():
        for seed, accuracy in enumerate(accuracies):
            _finish(store, label, architecture, seed, accuracy, nll, ece, disagreement, examples, costs)
    store.add("paper", "sgd", 9, metrics={"accuracy": 1.0}, role="component")
    reason = "Traceback (most recent call last):\n  File …\nRuntimeError: CUDA out of memory"
    store.add("paper", "fge(K=5)", 0, state="failed", reason=reason)
    store.add("paper", "fge(K=5)", 1, state="diverged")
    store.add("paper", "fge(K=5)", 2, state="running")
    for _ in range(2):
        store.add("twice", "sgd", 0, metrics={"accuracy": 90.0}, key="f" * 64)
    store.add("unfinished", "sgd", 0, state="failed", reason="x")
    store.add("unfinished", "sgd", 1, state="running")
    yield store


@pytest.fixture(scope="session")
def other_store(store, tmp_path_factory) -> Store:
    """A copy of the store, for studies that other tests do not count on."""
    folder = tmp_path_factory.mktemp("other")
    shutil.copy(store.folder / "mlflow.db", folder)
    return Store(folder)


def _finish(store, label, architecture, seed, accuracy, nll, ece, disagreement, examples, costs):
    seconds, forwards, members = costs
    metrics = {"accuracy": accuracy, "nll": nll + 0.01 * seed, "brier": nll / 2, "ece": ece, "members": members}
    metrics |= {"cost/forward_examples": examples[0], "cost/backward_examples": examples[1]}
    metrics |= {"cost/train_seconds": seconds + seed, "cost/forwards_per_example": forwards}
    if disagreement is not None:
        metrics["diversity/disagreement"] = disagreement
    if architecture == "resnet20" and not (label == "swa" and seed == 2):
        metrics |= {"ood_auroc": 0.9 + 0.01 * seed, "ood_auroc/svhn": 0.9 + 0.01 * seed}
    series = {"train/loss": [2.0, 1.0], "train/lr": [0.1, 0.1]}
    series["members/accuracy"] = [accuracy - 0.5 * (members - k) for k in range(1, members + 1)]
    series["members/nll"] = [nll + 0.02 * (members - k) for k in range(1, members + 1)]
    random = np.random.default_rng([seed, members])
    probabilities = random.dirichlet(np.full(10, 0.2), 200).astype(np.float32)
    arrays = {"predictions": {"probabilities": probabilities, "labels": random.integers(0, 10, 200)}}
    tags = {"architecture": architecture, "dataset": NETWORKS[architecture]}
    series |= {"test/accuracy": [accuracy - 5, accuracy], "test/nll": [2 * nll, nll]}
    arrays["arrays"] = {"flatness/sigma": np.array([0.0, 0.1]), "flatness/loss": np.array([nll])}
    arrays["arrays"]["flatness/increase"] = np.array([[0.0, 0.0], [0.1 + seed, 0.3 + seed]])
    if members > 1:
        series |= {"distance/l2": [10.0, 9.0 + seed], "distance/squared_cosine": [0.1, 0.0]}
        arrays["arrays"] |= around(accuracy, nll)
    tags["arrays"] = "flatness path plane" if members > 1 else "flatness"
    store.add("paper", label, seed, metrics=metrics, series=series, files=arrays, **tags)


def around(accuracy, nll):
    """A path whose middle is a barrier of three per cent, and a plane."""
    dip = np.array([0.0, 3.0, 0.0])
    path = {"alpha": np.array([0.0, 0.5, 1.0]), "accuracy": accuracy - 1 - dip, "nll": nll + dip}
    path |= {"pair_accuracy": accuracy - dip, "pair_nll": nll + dip}
    x = np.linspace(-1.0, 3.0, 4)
    bowl = 0.1 + 0.1 * (x[:, None] ** 2 + x**2)
    plane = {"x": x, "y": x, "accuracy": 100 - bowl, "nll": bowl, "train_nll": bowl}
    plane |= {"anchors": np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 1.5]]), "names": np.array(["1", "2", "sgd"])}
    plane |= {"space": np.array(["weights"]), "path": np.array([[0.0, 0.0], [2.0, 0.0]])}
    return {f"path/{n}": v for n, v in path.items()} | {f"plane/{n}": v for n, v in plane.items()}


@pytest.fixture(scope="session")
def frame(store):
    """The finished runs of the study "paper"."""
    from analysis.frame.runs import load_runs

    return load_runs("paper", store=store.uri)


@pytest.fixture
def runs():
    """Make a frame by hand, a dict of columns a row, with what every row needs filled in."""
    import pandas as pd

    def make(*rows):
        given = {"dataset": "cifar10", "architecture": "resnet20", "evaluated_on": "test", "seed": 0}
        full = [given | {"method": row["label"], "key": str(i), "run_id": str(i)} | row for i, row in enumerate(rows)]
        return pd.DataFrame(full)

    return make


@pytest.fixture
def scored(runs):
    """Make the runs of a table of scores, cells × methods, one or more seeds."""

    def make(scores, names=None, seeds=1):
        names = names or [f"m{j}" for j in range(len(scores[0]))]
        return runs(
            *(
                {"dataset": f"d{i}", "label": name, "accuracy": float(value) + seed, "seed": seed}
                for i, row in enumerate(scores)
                for name, value in zip(names, row, strict=True)
                for seed in range(seeds)
                if not math.isnan(value)
            )
        )

    return make


@pytest.fixture(scope="session")
def tuned(store, tmp_path_factory):
    """The trials of a tuned study, in a store of its own: other tests list the studies of the shared one."""
    from analysis import load_tuning

    store = type(store)(tmp_path_factory.mktemp("tuned"))
    add_searches(store)
    return load_tuning("paper", store=store.uri)


@pytest.fixture(scope="session")
def quadratic_store(store, tmp_path_factory):
    """A store of its own: other tests list the studies of the shared one."""
    return type(store)(tmp_path_factory.mktemp("quadratic"))


@pytest.fixture(scope="session")
def settings(quadratic_store):
    store = quadratic_store
    for (eta, B), loss in LOSSES.items():
        add_setting(store, "quadratic", eta, B, loss)
    store.add("quadratic", "η = 2, B = 1", 0, state="diverged")
    from analysis import load_settings

    return load_settings("quadratic", store=store.uri)
