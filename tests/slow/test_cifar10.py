"""Every method on real photographs, through the harness: a few epochs of a small network on a part of CIFAR-10.

Needs the environment variable ECON_TEST_DATA: a folder with one file cifar10*.npz that holds x_train and x_test, uint8
(N, 32, 32, 3), and y_train and y_test.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from data import ImageTask
from harness.engines import Inline
from harness.parsing.method_expression import format_value
from harness.planning.plan import Plan
from harness.planning.schedule import Schedule
from harness.running.settings import Settings
from harness.store.run_folder import RunFolder
from harness.studies.study import load
from methods import METHODS
from tests.conftest import SETTINGS

pytestmark = pytest.mark.slow

TRAIN, VALIDATION, TEST = 5000, 500, 2000


class Silence:
    """A watch that shows nothing."""

    def started(self, planned):
        pass

    def ended(self, planned, outcome):
        pass

    def tick(self):
        pass


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A part of CIFAR-10: the first images of its training and test sets."""
    found = sorted(Path(os.environ["ECON_TEST_DATA"]).glob("cifar10*.npz")) if "ECON_TEST_DATA" in os.environ else []
    if not found:
        pytest.skip("needs a file cifar10*.npz in the folder $ECON_TEST_DATA")
    path = tmp_path_factory.mktemp("data") / "cifar10_part.npz"
    with np.load(found[0]) as whole:
        sizes = {"train": TRAIN + VALIDATION, "test": TEST}
        np.savez(path, **{f"{kind}_{part}": whole[f"{kind}_{part}"][:n] for part, n in sizes.items() for kind in "xy"})
    return path


@pytest.fixture(scope="module")
def train(images, tmp_path_factory):
    """A function that trains a method and all that it needs, and gives the results, its own last."""
    folder = tmp_path_factory.mktemp("study")

    def results(name):
        hyperparameters = ", ".join(f"{key}={format_value(value)}" for key, value in SETTINGS.get(name, {}).items())
        study = folder / f"{name}.yaml"
        study.write_text(
            yaml.safe_dump(
                {
                    "datasets": [{"name": f"npz:{images}", "validation": VALIDATION}],
                    "architectures": ["wrn-10-1"],
                    "seeds": [0],
                    "recipe": {"epochs": 4, "batch_size": 64, "lr": 0.1, "schedule": {"kind": "cosine"}},
                    "methods": [f"{name}({hyperparameters})"],
                }
            )
        )
        plan = Plan(load(str(study)))
        schedule = Schedule(plan.runs, plan.finished(folder / "runs"))
        with pytest.MonkeyPatch.context() as patch:
            # The corrupted test sets are 95 times the test set, and are evaluated in tests/harness.
            patch.setattr(ImageTask, "corrupted", lambda task: iter(()))
            Inline(threads=1).run(schedule, Settings(folder / "runs"), Silence())
        assert not schedule.failed
        return [json.loads(RunFolder(folder / "runs", key).result.read_text()) for key in plan.runs]

    return results


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_to_tell_photographs_apart(name, train):
    metrics = train(name)[-1]["metrics"]
    print(name, {key: round(metrics[key], 3) for key in ("accuracy", "nll", "single/accuracy", "single/nll")})
    assert metrics["accuracy"] > 30, "three times chance"
    assert metrics["nll"] < 0.9 * np.log(10)


def test_the_deep_ensemble_is_better_than_each_of_its_members(train):
    *members, ensemble = (result["metrics"] for result in train("deep_ensemble"))
    assert len(members) == ensemble["members"] == 3
    assert ensemble["nll"] < min(member["nll"] for member in members)
    assert ensemble["accuracy"] > np.mean([member["accuracy"] for member in members])
    assert ensemble["single/nll"] == pytest.approx(np.mean([member["nll"] for member in members]))
