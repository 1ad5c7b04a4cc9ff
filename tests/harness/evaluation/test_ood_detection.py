"""Detection against scikit-learn, torchmetrics and every threshold in turn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from harness.evaluation import metrics
from harness.evaluation.ood_detection import aupr, auroc, detection_metrics, fpr_at_tpr

scores = st.lists(st.integers(0, 5), min_size=1, max_size=30)


def tensor(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def naive_fpr(inside, outside, tpr=0.95) -> float:
    """The smallest FPR of all thresholds with a sufficient TPR, computed in integers."""
    rates = []
    for threshold in {*inside, *outside}:
        found = sum(score >= threshold for score in outside)
        if 100 * found >= round(100 * tpr) * len(outside):
            rates.append(sum(score >= threshold for score in inside) / len(inside))
    return min(rates)


@given(scores, scores)
def test_with_ties_against_scikit_learn_and_by_hand(inside, outside):
    found = detection_metrics(tensor(inside), tensor(outside))
    assert set(found) == {"auroc", "aupr", "fpr95"}
    labels, both = [0] * len(inside) + [1] * len(outside), inside + outside
    pairs = [(o > i) + 0.5 * (o == i) for o in outside for i in inside]
    assert found["auroc"] == pytest.approx(np.mean(pairs), abs=1e-12)
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, both), abs=1e-12)
    assert found["aupr"] == pytest.approx(average_precision_score(labels, both), abs=1e-12)
    assert found["fpr95"] == pytest.approx(naive_fpr(inside, outside), abs=1e-12)
    rates, hits, _ = roc_curve(labels, both, drop_intermediate=False)
    assert found["fpr95"] == pytest.approx(rates[hits >= 0.95].min(), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_random_scores_against_libraries(seed):
    rng = np.random.default_rng(seed)
    inside, outside = rng.normal(size=3000), rng.normal(0.7, 1.5, size=700)
    found = detection_metrics(torch.from_numpy(inside), torch.from_numpy(outside))
    labels, both = np.repeat([0, 1], [3000, 700]), np.concatenate([inside, outside])
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, both), abs=1e-12)
    assert found["aupr"] == pytest.approx(average_precision_score(labels, both), abs=1e-12)
    # torchmetrics puts scores beyond [0, 1] through a sigmoid unasked, which makes ties: give it their ranks.
    ranks = torch.from_numpy(both.argsort().argsort() / len(both))
    assert found["auroc"] == pytest.approx(binary_auroc(ranks, torch.from_numpy(labels)).item(), abs=1e-6)
    assert found["aupr"] == pytest.approx(binary_average_precision(ranks, torch.from_numpy(labels)).item(), abs=1e-6)


@pytest.mark.parametrize("n", [1, 19, 20, 21, 60, 100, 340, 1000])
def test_exactly_95_percent_is_enough(n):
    """The OOD scores are 1 … n; in-distribution scores lie between them."""
    outside = tensor(range(1, n + 1))
    inside = outside - 0.5
    must_be_found = -(-19 * n // 20)  # 95 % of n, rounded up
    assert fpr_at_tpr(inside, outside) == pytest.approx((must_be_found - 1) / n, abs=1e-12)


def test_other_rates():
    inside, outside = tensor([1, 2, 3, 4]), tensor([2, 3, 3, 5])
    assert fpr_at_tpr(inside, outside, 0.25) == 0.0
    assert fpr_at_tpr(inside, outside, 0.75) == 0.5
    assert fpr_at_tpr(inside, outside, 1.0) == 0.75
    for rate in (0.0, -1.0, 1.01):
        with pytest.raises(ValueError, match="rate of true positives"):
            fpr_at_tpr(inside, outside, rate)


def test_at_the_ends():
    low, high = torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4, 0.5])
    assert detection_metrics(low, high) == {"auroc": 1.0, "aupr": 1.0, "fpr95": 0.0}
    reverse = detection_metrics(high, low)
    assert (reverse["auroc"], reverse["fpr95"]) == (0.0, 1.0)
    assert reverse["aupr"] == pytest.approx((1 / 2) * (1 / 4 + 2 / 5))
    assert auroc(low, low) == 0.5


@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 3), (3, 7)])
def test_constant_scores_tell_nothing(n, m):
    found = detection_metrics(torch.full((n,), 0.3), torch.full((m,), 0.3))
    assert found == {"auroc": 0.5, "aupr": pytest.approx(m / (n + m)), "fpr95": 1.0}


@given(scores, scores)
def test_only_the_order_of_scores_counts(inside, outside):
    plain = detection_metrics(tensor(inside), tensor(outside))
    assert detection_metrics(tensor(inside).exp() - 3, tensor(outside).exp() - 3) == pytest.approx(plain, abs=1e-12)
    assert detection_metrics(tensor(inside).flip(0).float(), tensor(sorted(outside)).float()) == pytest.approx(
        plain, abs=1e-12
    )
    assert plain["auroc"] + auroc(tensor(outside), tensor(inside)) == pytest.approx(1.0, abs=1e-12)
    assert all(0 <= value <= 1 for value in plain.values())


def test_infinite_scores_are_ranked():
    found = detection_metrics(tensor([-math.inf, 0.0]), tensor([0.0, math.inf]))
    assert found == {"auroc": 0.875, "aupr": pytest.approx(0.5 * 1 + 0.5 * 2 / 3), "fpr95": 0.5}


def test_nan_is_never_hidden():
    for inside, outside in ((tensor([math.nan, 1.0]), tensor([2.0])), (tensor([1.0]), tensor([2.0, math.nan]))):
        assert all(math.isnan(value) for value in detection_metrics(inside, outside).values())


def test_nothing_to_compare_is_refused():
    some, none = tensor([1.0]), tensor([])
    for metric in (auroc, aupr, fpr_at_tpr, detection_metrics):
        with pytest.raises(ValueError, match="for each example in distribution"):
            metric(none, some)
        with pytest.raises(ValueError, match="for each example out of distribution"):
            metric(some, none)


def test_entropy_tells_the_uncertain():
    certain = torch.tensor([[9.0, 0.0, 0.0], [8.0, 0.0, 0.0]])
    uncertain = torch.tensor([[0.1, 0.0, 0.0], [0.0, 0.2, 0.0]])
    inside, outside = (metrics.entropy(x.log_softmax(-1)) for x in (certain, uncertain))
    assert detection_metrics(inside, outside) == {"auroc": 1.0, "aupr": 1.0, "fpr95": 0.0}
