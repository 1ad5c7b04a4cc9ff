"""Metrics against scikit-learn, torchmetrics and plain NumPy."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cosine
from scipy.special import softmax
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from harness import metrics

logit = st.floats(-20, 20, width=32)


def members(K: int | None = None):
    """Logits (K, N, C)."""
    shape = st.tuples(st.just(K) if K else st.integers(1, 4), st.integers(1, 12), st.integers(2, 5))
    return shape.flatmap(lambda s: hnp.arrays(np.float32, s, elements=logit))


def random_case(seed: int, n: int = 200, classes: int = 5, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (N, C) and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits.log_softmax(-1), torch.randint(classes, (n,), generator=generator)


# --- combining members ---------------------------------------------------------------------------------------


@given(members())
def test_ensemble_in_log_space_is_the_mean_of_softmax(logits):
    log_p = metrics.ensemble(torch.from_numpy(logits))
    expected = softmax(logits.astype(np.float64), axis=-1).mean(0)
    assert log_p.dtype == torch.float64
    np.testing.assert_allclose(log_p.exp().numpy(), expected, rtol=1e-12, atol=1e-15)


@given(members(K=1))
def test_one_member_is_itself_whichever_way_it_is_averaged(logits):
    alone = torch.from_numpy(logits)
    torch.testing.assert_close(metrics.ensemble(alone), alone[0].double().log_softmax(-1))
    torch.testing.assert_close(metrics.ensemble(alone), metrics.ensemble(alone, "logits"))


def test_average_of_logits_is_another_thing():
    logits = torch.tensor([[[4.0, 0.0]], [[0.0, 1.0]]])
    expected = softmax([2.0, 0.5])
    np.testing.assert_allclose(metrics.ensemble(logits, "logits").exp()[0].numpy(), expected, rtol=1e-12)
    assert abs(metrics.ensemble(logits).exp()[0, 0].item() - expected[0]) > 0.05


def test_ensemble_keeps_what_would_underflow():
    log_p = metrics.ensemble(torch.tensor([[[0.0, -2000.0]], [[0.0, -2000.0]]]))
    assert log_p[0, 1].item() == pytest.approx(-2000.0)


# --- against scikit-learn and torchmetrics --------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_against_libraries(seed):
    log_p, y = random_case(seed)
    p = log_p.exp()
    assert metrics.accuracy(log_p, y) == pytest.approx(100 * accuracy_score(y, p.argmax(-1)), abs=1e-12)
    assert metrics.accuracy(log_p, y) == pytest.approx(
        100 * multiclass_accuracy(p, y, num_classes=5, average="micro").item(), abs=1e-4
    )
    assert metrics.nll(log_p, y) == pytest.approx(log_loss(y, p, labels=range(5)), rel=1e-12)
    one_hot = np.eye(5)[y]
    assert metrics.brier(log_p, y) == pytest.approx(((p.numpy() - one_hot) ** 2).sum(1).mean(), rel=1e-12)
    expected = multiclass_calibration_error(p, y, num_classes=5, n_bins=15, norm="l1").item()
    assert metrics.ece(log_p, y) == pytest.approx(expected, abs=1e-6)


def naive_ece(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Guo et al., Equation 3: bins ((m − 1)/M, m/M]."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = [i for i, c in enumerate(confidence) if (m - 1) / bins < c <= m / bins]
        if inside:
            total += len(inside) / len(confidence) * abs(correct[inside].mean() - confidence[inside].mean())
    return total


@given(st.integers(0, 1000), st.floats(0.01, 30), st.integers(1, 40))
def test_ece_is_guos(seed, scale, n):
    log_p, y = random_case(seed, n=n, classes=3, scale=scale)
    confidence, top = log_p.exp().max(-1)
    assert metrics.ece(log_p, y) == pytest.approx(naive_ece(confidence.numpy(), (top == y).numpy()), abs=1e-12)


@pytest.mark.parametrize("edge", range(1, 16))
def test_confidence_on_a_bin_edge_belongs_to_the_bin_below(edge):
    confidence = torch.tensor([edge / 15, edge / 15 - 1e-9, min(edge / 15 + 1e-9, 1.0)], dtype=torch.float64)
    rest = (1 - confidence) / 14
    p = torch.cat([confidence[:, None], rest[:, None].expand(-1, 14)], dim=1)
    share, _, _ = metrics.calibration_bins(Exactly(p), torch.zeros(3, dtype=torch.long))
    expected = torch.zeros(15, dtype=torch.float64)
    expected[edge - 1] = 2 / 3
    expected[min(edge, 14)] += 1 / 3
    if edge == 1:  # one fifteenth of fifteen classes: just below it another class is the likeliest
        expected = torch.tensor([1 / 3, 2 / 3] + 13 * [0.0], dtype=torch.float64)
    torch.testing.assert_close(share, expected)


class Exactly:
    """Log-probabilities whose exponential is exact."""

    def __init__(self, p: torch.Tensor) -> None:
        self.p = p

    def exp(self) -> torch.Tensor:
        return self.p


def test_bins_without_examples_count_nothing():
    log_p = torch.tensor([[0.9, 0.1], [0.9, 0.1]], dtype=torch.float64).log()
    y = torch.tensor([0, 1])
    share, confidence, right = metrics.calibration_bins(log_p, y)
    assert share.tolist() == [0.0] * 13 + [1.0, 0.0]
    assert confidence.tolist() == pytest.approx([0.0] * 13 + [0.9, 0.0])
    assert right.tolist() == [0.0] * 13 + [0.5, 0.0]
    assert metrics.ece(log_p, y) == pytest.approx(0.4)


def test_certain_and_right_is_perfect():
    log_p = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64).log()
    y = torch.tensor([0, 1])
    values = [metrics.accuracy(log_p, y), metrics.nll(log_p, y), metrics.brier(log_p, y), metrics.ece(log_p, y)]
    assert values == [100.0, 0.0, 0.0, 0.0]
    assert metrics.adaptive_ece(log_p, y) == 0.0
    assert metrics.entropy(log_p).tolist() == [0.0, 0.0]  # 0 · ln 0 = 0


def test_certain_and_wrong_is_the_worst():
    log_p, y = torch.tensor([[1.0, 0.0]], dtype=torch.float64).log(), torch.tensor([1])
    assert [metrics.accuracy(log_p, y), metrics.brier(log_p, y), metrics.ece(log_p, y)] == [0.0, 2.0, 1.0]
    assert metrics.nll(log_p, y) == np.inf


def test_one_class_only():
    log_p, y = torch.zeros(4, 1, dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    values = [metrics.accuracy(log_p, y), metrics.nll(log_p, y), metrics.brier(log_p, y), metrics.ece(log_p, y)]
    assert values == [100.0, 0.0, 0.0, 0.0]


def test_ties_go_to_the_first_class():
    log_p = torch.full((2, 4), 0.25, dtype=torch.float64).log()
    assert metrics.accuracy(log_p, torch.tensor([0, 1])) == 50.0
    assert metrics.ece(log_p, torch.tensor([0, 1])) == pytest.approx(0.25)


@given(st.integers(0, 1000), st.integers(1, 50), st.integers(1, 20))
def test_adaptive_ece_against_equal_parts(seed, n, bins):
    log_p, y = random_case(seed, n=n, classes=3)
    confidence, top = log_p.exp().max(-1)
    order = np.argsort(confidence.numpy(), kind="stable")
    # Example i of n, by confidence, belongs to part ⌊i · bins / n⌋; no part has two more than another.
    parts = [[j for i, j in enumerate(order) if i * bins // n == part] for part in range(bins)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    correct = (top == y).numpy()
    expected = sum(len(p) / n * abs(correct[p].mean() - confidence.numpy()[p].mean()) for p in parts if p)
    assert metrics.adaptive_ece(log_p, y, bins) == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 1000))
def test_entropy_against_numpy(seed):
    log_p, _ = random_case(seed, n=7)
    p = log_p.exp().numpy()
    np.testing.assert_allclose(metrics.entropy(log_p).numpy(), -(p * np.log(p)).sum(1), rtol=1e-10)


# --- out of distribution --------------------------------------------------------------------------------------

scores = st.lists(st.integers(0, 5), min_size=1, max_size=20)


@given(scores, scores)
def test_auroc_with_ties_against_sklearn_and_against_all_pairs(negatives, positives):
    found = metrics.auroc(torch.tensor(negatives).double(), torch.tensor(positives).double())
    pairs = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    labels = [0] * len(negatives) + [1] * len(positives)
    assert found == pytest.approx(np.mean(pairs), abs=1e-12)
    assert found == pytest.approx(roc_auc_score(labels, negatives + positives), abs=1e-12)


def test_auroc_at_its_ends():
    low, high = torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4, 0.5])
    assert metrics.auroc(low, high) == 1.0
    assert metrics.auroc(high, low) == 0.0
    assert metrics.auroc(low, low) == 0.5


# --- diversity ------------------------------------------------------------------------------------------------


@given(members().filter(lambda a: len(a) > 1))
def test_diversity_against_numpy(logits):
    p = softmax(logits.astype(np.float64), axis=-1)
    log_p = np.log(p)
    top = p.argmax(-1)
    pairs = list(combinations(range(len(p)), 2))
    kl = [(p[i] * (log_p[i] - log_p[j])).sum(-1).mean() for i in range(len(p)) for j in range(len(p)) if i != j]
    found = metrics.diversity(torch.from_numpy(logits))
    assert set(found) == {"disagreement", "total_variation", "kl"}
    assert found["disagreement"] == pytest.approx(np.mean([(top[i] != top[j]).mean() for i, j in pairs]), abs=1e-12)
    variation = np.mean([np.abs(p[i] - p[j]).sum(-1).mean() / 2 for i, j in pairs])
    assert found["total_variation"] == pytest.approx(variation, abs=1e-12)
    assert found["kl"] == pytest.approx(np.mean(kl), rel=1e-9, abs=1e-9)


def test_equal_members_do_not_differ():
    same = torch.randn(1, 5, 3).expand(4, -1, -1)
    assert metrics.diversity(same) == {"disagreement": 0.0, "total_variation": 0.0, "kl": 0.0}
    vectors = torch.arange(1.0, 4.0).expand(3, -1)
    assert metrics.weight_distances(vectors) == {"cosine": pytest.approx(1.0, abs=1e-12), "l2": 0.0}


def test_opposite_members_differ_as_much_as_can_be():
    found = metrics.diversity(torch.tensor([[[50.0, -50.0]], [[-50.0, 50.0]]]))
    assert found == {"disagreement": 1.0, "total_variation": pytest.approx(1.0), "kl": pytest.approx(100.0)}


def test_weight_distances_against_numpy():
    vectors = np.random.default_rng(0).normal(size=(4, 9))
    pairs = list(combinations(vectors, 2))
    found = metrics.weight_distances(torch.from_numpy(vectors))
    assert found["cosine"] == pytest.approx(np.mean([1 - cosine(a, b) for a, b in pairs]), abs=1e-12)
    assert found["l2"] == pytest.approx(np.mean([np.linalg.norm(a - b) for a, b in pairs]), rel=1e-12)
