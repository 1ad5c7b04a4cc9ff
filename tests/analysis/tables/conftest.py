"""Runs of many datasets, shared by the tests of tables."""

import numpy as np
import pytest

HARD = r"\{}$&#^_~%<>|\"'`[x] ε"


@pytest.fixture
def many(runs):
    """Seven datasets and five methods with one awkward name, of three seeds."""
    random = np.random.default_rng(0)
    names = {"sgd": 1.0, "swa": 1.004, "deep_ensemble(late_phase_bn(K=5), K=3)": 3.0, HARD: 2.0, "partly": 1.0}
    return runs(
        *(
            {"dataset": f"data_{i}", "label": name, "seed": seed, "accuracy": 90 + 2 * cost + random.normal()}
            | {"cost/forward_examples": cost, "cost/backward_examples": cost, "cost/forwards_per_example": round(cost)}
            for i in range(7)
            for name, cost in names.items()
            for seed in range(3)
            if not (name == "partly" and i == 0)
        )
    )
