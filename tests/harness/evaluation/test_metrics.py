"""Metrics against scikit-learn, torchmetrics and plain NumPy."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cosine
from scipy.special import softmax
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from harness.evaluation import metrics

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
    """Guo et al., Equation 3: bins ((m − 1)/M, m/M], where a confidence within rounding of an edge lies on it."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = [i for i, c in enumerate(confidence) if (m - 1) / bins < c - 1e-12 <= m / bins]
        if inside:
            total += len(inside) / len(confidence) * abs(correct[inside].mean() - confidence[inside].mean())
    return total


@given(st.integers(0, 1000), st.floats(0.01, 30), st.integers(1, 40))
def test_ece_is_guos(seed, scale, n):
    log_p, y = random_case(seed, n=n, classes=3, scale=scale)
    confidence, top = log_p.exp().max(-1)
    assert metrics.ece(log_p, y) == pytest.approx(naive_ece(confidence.numpy(), (top == y).numpy()), abs=1e-12)


@pytest.mark.parametrize("bins", [1, 2, 10, 15, 20, 49, 1000])
def test_confidence_on_a_bin_edge_belongs_to_the_bin_below(bins):
    edges = [m / bins for m in range(1, bins + 1)]
    confidence = np.array([c for e in edges for c in (np.nextafter(e, 0), e, e + 1e-11) if c <= 1])
    expected = [next(m for m in range(bins) if m / bins < c <= (m + 1) / bins) for c in confidence]
    assert metrics.equal_width_bins(torch.from_numpy(confidence), bins).tolist() == expected


def votes(right, members=15):
    """Logits (members, 1, 2) of members that are certain, `right` of them of class 0."""
    logits = torch.full((members, 1, 2), -1000.0)
    logits[:right, :, 0] = logits[right:, :, 1] = 1000.0
    return logits


@pytest.mark.parametrize("k", range(8, 16))
def test_votes_fall_into_the_bin_of_their_share(k):
    """The share k/15 is the upper edge of bin k − 1, wherever rounding puts it."""
    confidence, _ = metrics.confidences(metrics.ensemble(votes(k)), torch.tensor([0]))
    assert metrics.equal_width_bins(confidence, 15).tolist() == [k - 1]


def test_the_calibration_error_of_votes():
    """30 examples with 11 of 15 votes, all right, and 30 with 12, of which 16 are right."""
    log_p = metrics.ensemble(torch.cat([votes(11)] * 30 + [votes(12)] * 30, dim=1))
    y = torch.tensor([0] * 46 + [1] * 14)
    assert metrics.ece(log_p, y) == pytest.approx((abs(1 - 11 / 15) + abs(16 / 30 - 12 / 15)) / 2)


def test_equal_predictions_have_equal_entropies_in_any_order():
    logits = torch.randn(7, 50, 4, generator=torch.Generator().manual_seed(0))
    orders = [torch.randperm(7, generator=torch.Generator().manual_seed(i)) for i in range(20)]
    found = torch.stack([metrics.entropy(metrics.ensemble(logits[order])) for order in orders])
    raw = torch.stack([torch.special.entr(metrics.ensemble(logits[order]).exp()).sum(-1) for order in orders])
    assert (raw != raw[0]).any(), "not by themselves"
    assert (found == found[0]).all()
    certain = metrics.entropy(torch.tensor([[0.0, -math.inf]], dtype=torch.float64))
    assert math.copysign(1, certain.item()) == 1, "no negative zero"


def test_equal_predictions_tie_in_any_order_of_the_members():
    """60 examples with the same predictions of fifteen members, whose orders differ."""
    logits = 3 * torch.randn(15, 1, 4, generator=torch.Generator().manual_seed(1))
    orders = [torch.randperm(15, generator=torch.Generator().manual_seed(i)) for i in range(60)]
    log_p = metrics.ensemble(torch.cat([logits[order] for order in orders], dim=1))
    best = int(log_p[0].argmax())
    y = torch.tensor([best] * 20 + [(best + 1) % 4] * 40)
    assert len(log_p[:, best].unique()) > 1, "not by themselves"
    confidence = float(log_p[0, best].exp())
    assert metrics.adaptive_ece(log_p, y) == pytest.approx(abs(confidence - 1 / 3), abs=1e-9)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]])
def test_of_equally_likely_classes_the_first_counts_in_any_order_of_the_members(order):
    p = torch.tensor([[0.1, 0.2, 0.7], [0.2, 0.1, 0.7], [0.7, 0.3, 0.0], [0.3, 0.7, 0.0]], dtype=torch.float64)
    log_p = metrics.ensemble(p.log()[order][:, None])
    assert metrics.accuracy(log_p[:, :2], torch.tensor([0])) == 100


def test_certain_predictions_have_no_negative_zeros():
    assert math.copysign(1, metrics.nll(torch.tensor([[0.0, -math.inf]], dtype=torch.float64), torch.tensor([0]))) == 1


def test_a_confidence_that_is_rounded_to_more_than_one_is_in_the_last_bin():
    assert metrics.equal_width_bins(torch.tensor([1 + 2**-52], dtype=torch.float64), 15).tolist() == [14]


def test_bins_without_examples_count_nothing():
    log_p = torch.tensor([[0.9, 0.1], [0.9, 0.1]], dtype=torch.float64).log()
    y = torch.tensor([0, 1])
    confidences, hits = metrics.confidences(log_p, y)
    count, confidence, right = metrics.bin_sums(metrics.equal_width_bins(confidences, 15), confidences, hits, 15)
    assert count.tolist() == [0.0] * 13 + [2.0, 0.0]
    assert confidence.tolist() == pytest.approx([0.0] * 13 + [1.8, 0.0])
    assert right.tolist() == [0.0] * 13 + [1.0, 0.0]
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


@pytest.mark.parametrize("bins", [1, 15, 20, 100])
def test_adaptive_ece_of_equal_confidences_is_the_gap_of_them_all(bins):
    """For any order of equal confidences, and any number of bins that they fill."""
    log_p, y = torch.tensor([[0.7, 0.3]], dtype=torch.float64).log().expand(60, -1), torch.arange(60) // 30
    assert metrics.adaptive_ece(log_p, y, bins) == pytest.approx(0.2, abs=1e-12)
    assert metrics.ece(log_p, y, bins) == pytest.approx(0.2, abs=1e-12)


@given(st.integers(0, 1000))
def test_entropy_against_numpy(seed):
    log_p, _ = random_case(seed, n=7)
    p = log_p.exp().numpy()
    np.testing.assert_allclose(metrics.entropy(log_p).numpy(), -(p * np.log(p)).sum(1), rtol=1e-10)


# --- diversity ------------------------------------------------------------------------------------------------


@given(members().filter(lambda a: len(a) > 1))
def test_diversity_against_numpy(logits):
    best = np.sort(logits.astype(np.float64), axis=-1)[..., -2:]
    gap = best[..., 1] - best[..., 0]
    assume(((gap == 0) | (gap > 1e-9)).all())  # rounding decides which of two nearly equal probabilities is higher
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


# --- cases that break a careless metric -------------------------------------------------------------------------


def log(p) -> torch.Tensor:
    return torch.tensor(p, dtype=torch.float64).log()


CASES = {
    "random": random_case(0),
    "two classes": random_case(1, classes=2),
    "a thousand classes": random_case(2, n=30, classes=1000),
    "one example": random_case(3, n=1),
    "one class": (torch.zeros(4, 1, dtype=torch.float64), torch.zeros(4, dtype=torch.long)),
    "one class occurs": (random_case(4)[0], torch.full((200,), 2)),
    "saturated": random_case(5, scale=1000.0),
    "float32": (random_case(6)[0].float(), random_case(6)[1]),
    "all classes tie": (log([[0.25] * 4] * 5), torch.tensor([0, 1, 2, 3, 3])),
    "two classes tie": (log([[0.2, 0.4, 0.4], [0.4, 0.2, 0.4], [0.4, 0.4, 0.2]]), torch.tensor([1, 2, 1])),
    "certain and right": (log([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])),
    "certain and wrong": (log([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), torch.tensor([1, 2])),
    "equal confidences": (log([[0.7, 0.2, 0.1]] * 50), torch.arange(50) // 20),
    "bin edges": (log([[m / 15, 1 - m / 15] for m in range(1, 15)]), torch.arange(14) % 2),
}
cases = pytest.mark.parametrize(("log_p", "y"), CASES.values(), ids=CASES)


def naive(log_p: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """The definitions, an example at a time."""
    rows = [[math.exp(v) for v in row] for row in log_p.double().tolist()]
    labels, found = y.tolist(), {}
    found["nll"] = sum(-log_p[i, c].item() for i, c in enumerate(labels)) / len(labels)
    found["brier"] = sum(
        sum((p - (c == label)) ** 2 for c, p in enumerate(row)) for row, label in zip(rows, labels, strict=True)
    ) / len(labels)
    top = [row.index(max(row)) for row in log_p.tolist()]
    found["accuracy"] = 100 * sum(t == c for t, c in zip(top, labels, strict=True)) / len(labels)
    correct = np.array([t == c for t, c in zip(top, labels, strict=True)])
    found["ece"] = naive_ece(log_p.double().amax(-1).exp().numpy(), correct)
    return found


@cases
def test_every_case_is_as_defined(log_p, y):
    for name, expected in naive(log_p, y).items():
        assert getattr(metrics, name)(log_p, y) == pytest.approx(expected, abs=1e-12), name


@cases
def test_float32_is_scored_in_float64(log_p, y):
    low = log_p.float()
    for name in ("accuracy", "nll", "brier", "ece", "adaptive_ece"):
        metric = getattr(metrics, name)
        assert metric(low, y) == pytest.approx(metric(low.double(), y), abs=1e-15)
    assert torch.equal(metrics.entropy(low), metrics.entropy(low.double()))


@cases
def test_every_case_lies_within_its_bounds(log_p, y):
    assert 0 <= metrics.accuracy(log_p, y) <= 100
    assert metrics.nll(log_p, y) >= 0
    assert 0 <= metrics.brier(log_p, y) <= 2
    assert 0 <= metrics.ece(log_p, y) <= 1
    assert 0 <= metrics.adaptive_ece(log_p, y) <= 1
    entropy = metrics.entropy(log_p)
    assert (entropy >= 0).all()
    assert (entropy <= math.log(log_p.shape[1]) + 1e-6).all()


@cases
@pytest.mark.parametrize("seed", range(3))
def test_order_of_examples_has_no_effect(log_p, y, seed):
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    for name in ("accuracy", "nll", "brier", "ece", "adaptive_ece"):
        metric = getattr(metrics, name)
        assert metric(log_p[order], y[order]) == pytest.approx(metric(log_p, y), abs=1e-12), name
    assert torch.equal(metrics.entropy(log_p[order]), metrics.entropy(log_p)[order])


@pytest.mark.parametrize("part", [1, 7, 64, 2**20])
def test_chunk_size_has_no_effect(monkeypatch, part):
    logits = torch.randn(3, 23, 5, generator=torch.Generator().manual_seed(0))
    y = torch.arange(23) % 5

    def everything() -> list[float]:
        log_p = metrics.ensemble(logits)
        scores = [metric(log_p, y) for metric in (metrics.accuracy, metrics.nll, metrics.brier, metrics.ece)]
        averaged = metrics.ensemble(logits, "logits")
        diversity = metrics.diversity(logits).values()
        return [*scores, *diversity, *metrics.entropy(log_p).tolist(), *averaged.flatten().tolist()]

    expected = everything()
    monkeypatch.setattr(metrics, "CHUNK_VALUES", part)
    assert everything() == pytest.approx(expected, abs=1e-12)


def test_nan_is_never_right_and_never_hidden():
    log_p, y = torch.full((3, 4), math.nan), torch.tensor([0, 1, 3])
    assert metrics.accuracy(log_p, y) == metrics.top_k_accuracy(log_p, y, 3) == 0.0
    for metric in (metrics.nll, metrics.brier, metrics.ece, metrics.adaptive_ece):
        assert math.isnan(metric(log_p, y)), metric
    assert metrics.entropy(log_p).isnan().all()


@pytest.mark.parametrize(
    ("log_p", "y", "message"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 3]), "labels must lie in 0 … 2, but they lie in 0 … 3"),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), "labels must lie in 0 … 2, but they lie in -1 … 0"),
        (torch.zeros(2, 3), torch.tensor([0]), r"but they are \(2, 3\) and \(1,\)"),
        (torch.zeros(1, 2, 3), torch.tensor([0]), r"but they are \(1, 2, 3\) and \(1,\)"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), "no examples"),
    ],
)
@pytest.mark.parametrize("name", ["accuracy", "top_k_accuracy", "nll", "brier", "ece", "adaptive_ece"])
def test_what_cannot_be_scored_is_refused(name, log_p, y, message):
    with pytest.raises(ValueError, match=message):
        getattr(metrics, name)(log_p, y)


def test_a_calibration_error_needs_a_bin():
    for metric in (metrics.ece, metrics.adaptive_ece):
        with pytest.raises(ValueError, match="at least one bin, not 0"):
            metric(*random_case(0), bins=0)


# --- libraries, once more ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["random", "two classes", "a thousand classes", "one class occurs", "saturated"])
def test_brier_is_scikit_learns(name):
    log_p, y = CASES[name]
    classes = range(log_p.shape[1])
    p = log_p.exp() / log_p.exp().sum(-1, keepdim=True)
    assert metrics.brier(log_p, y) == pytest.approx(
        brier_score_loss(np.eye(len(classes))[y], p.numpy(), scale_by_half=False), abs=1e-12
    )


@pytest.mark.parametrize("bins", [1, 2, 10, 20, 100])
@pytest.mark.parametrize("name", ["random", "two classes", "a thousand classes", "one class occurs", "float32"])
def test_ece_of_any_number_of_bins_is_torchmetrics(name, bins):
    log_p, y = CASES[name]
    classes = log_p.shape[1]
    expected = multiclass_calibration_error(log_p.double().exp(), y, num_classes=classes, n_bins=bins, norm="l1")
    assert metrics.ece(log_p, y, bins) == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["random", "one class occurs", "float32", "saturated"])
def test_top_k_accuracy_is_torchmetrics_and_scikit_learns(name, k):
    log_p, y = CASES[name]
    found = metrics.top_k_accuracy(log_p, y, k)
    assert found == pytest.approx(100 * top_k_accuracy_score(y, log_p.numpy(), k=k, labels=range(5)), abs=1e-12)
    expected = multiclass_accuracy(log_p, y, num_classes=5, average="micro", top_k=k)
    assert found == pytest.approx(100 * expected.item(), abs=1e-4)


@given(hnp.arrays(np.int64, (9, 6), elements=st.integers(0, 2)), st.integers(0, 1000), st.integers(1, 5))
def test_ties_among_the_k_likeliest_rank_the_first_class_first(levels, seed, k):
    scores = torch.from_numpy(levels).double()
    y = torch.randint(6, (9,), generator=torch.Generator().manual_seed(seed))
    found = metrics.top_k_accuracy(scores, y, k)
    ranked = np.argsort(-levels, axis=1, kind="stable")[:, :k]
    assert found == pytest.approx(100 * np.mean([c in row for c, row in zip(y.tolist(), ranked, strict=True)]))
    # scikit-learn ranks the last class first: turn the classes around.
    assert found == pytest.approx(100 * top_k_accuracy_score(5 - y, levels[:, ::-1], k=k, labels=range(6)), abs=1e-12)
    assert metrics.accuracy(scores, y) == metrics.top_k_accuracy(scores, y, 1)


def test_all_classes_are_always_right_and_more_do_not_exist():
    log_p, y = random_case(0)
    assert metrics.top_k_accuracy(log_p, y) == 100.0  # five likeliest of five
    for k in (0, 6):
        with pytest.raises(ValueError, match=f"the {k} likeliest of 5 classes"):
            metrics.top_k_accuracy(log_p, y, k)


def test_bits_per_character():
    assert metrics.bits_per_character(math.log(256)) == pytest.approx(8.0, abs=1e-12)
    uniform = torch.full((10, 2), 0.5).log()
    assert metrics.bits_per_character(metrics.nll(uniform, torch.zeros(10).long())) == pytest.approx(1.0, abs=1e-7)


# --- members ------------------------------------------------------------------------------------------------------


@given(members())
def test_growing_ensembles_are_ensembles_of_the_first_members(logits):
    logits = torch.from_numpy(logits)
    grown = list(metrics.growing_ensembles(logits))
    assert len(grown) == len(logits)
    for k, log_p in enumerate(grown, start=1):
        torch.testing.assert_close(log_p, metrics.ensemble(logits[:k]), rtol=1e-12, atol=1e-12)


@given(members(K=1), st.integers(2, 5))
def test_ensemble_of_equal_members_is_the_member(logits, K):
    alone = torch.from_numpy(logits)
    y = torch.zeros(alone.shape[1], dtype=torch.long)
    together, single = metrics.ensemble(alone.expand(K, -1, -1)), metrics.ensemble(alone)
    torch.testing.assert_close(together, single, rtol=1e-12, atol=1e-12)
    assert metrics.nll(together, y) == pytest.approx(metrics.nll(single, y), rel=1e-12)
    assert set(metrics.diversity(alone.expand(K, -1, -1)).values()) == {0.0}


@given(members(K=4), st.permutations(range(4)))
def test_order_of_members_has_no_effect(logits, order):
    logits = torch.from_numpy(logits)
    torch.testing.assert_close(metrics.ensemble(logits[order]), metrics.ensemble(logits), rtol=1e-12, atol=1e-12)
    found = metrics.diversity(logits)
    assert metrics.diversity(logits[order]) == pytest.approx(found, rel=1e-9, abs=1e-9)
    assert 0 <= found["disagreement"] <= 1
    assert 0 <= found["total_variation"] <= 1
    assert found["kl"] >= 0


@given(members())
def test_ensemble_is_no_worse_than_its_members_on_average(logits):
    """Jensen's inequality, of the NLL and of the Brier score."""
    logits = torch.from_numpy(logits)
    y = torch.zeros(logits.shape[1], dtype=torch.long)
    singles = [metrics.ensemble(member[None]) for member in logits]
    for metric in (metrics.nll, metrics.brier):
        assert metric(metrics.ensemble(logits), y) <= np.mean([metric(single, y) for single in singles]) + 1e-9


def test_a_class_that_members_rule_out():
    inf = math.inf
    both = torch.tensor([[[0.0, 0.0, -inf]], [[1.0, 0.0, -inf]]])
    without = both[:, :, :2]
    assert metrics.diversity(both) == pytest.approx(metrics.diversity(without))
    assert metrics.ensemble(both)[0].tolist() == pytest.approx([*metrics.ensemble(without)[0].tolist(), -inf])
    one = torch.tensor([[[0.0, 0.0, -inf]], [[0.0, 0.0, 0.0]]])
    found = metrics.diversity(one)
    assert found == {"disagreement": 0.0, "total_variation": pytest.approx(1 / 3), "kl": inf}
    assert metrics.ensemble(one)[0, 2].exp().item() == pytest.approx(1 / 6)


def test_diversity_of_near_members_does_not_cancel():
    """Members 1e-7 apart: to the first order, KL both ways is half the variance of the difference."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 50, 5, generator=generator, dtype=torch.float64)
    step = 1e-7 * torch.randn(1, 50, 5, generator=generator, dtype=torch.float64)
    p = logits[0].softmax(-1)
    variance = (p * step[0] ** 2).sum(-1) - (p * step[0]).sum(-1) ** 2
    found = metrics.diversity(torch.cat([logits, logits + step]))["kl"]
    assert found == pytest.approx(variance.mean().item() / 2, rel=1e-5)


def test_one_member_is_not_diverse():
    with pytest.raises(ValueError, match="one only"):
        metrics.diversity(torch.zeros(1, 2, 3))
