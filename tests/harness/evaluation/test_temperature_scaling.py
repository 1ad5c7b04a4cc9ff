"""Temperatures against closed forms, scipy's minimiser and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from harness.evaluation import metrics
from harness.evaluation.temperature_scaling import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    fit_temperature,
    scale_by_temperature,
)
from harness.store.outcome import DivergenceError


def random_case(seed: int, K: int = 1, n: int = 300, C: int = 4, scale: float = 3.0):
    """Logits of members that are better than chance, (K, N, C), and the labels."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(C, (n,), generator=generator)
    logits = torch.randn(K, n, C, generator=generator)
    logits += torch.nn.functional.one_hot(y, C)
    return scale * logits, y


def logit(p: float) -> float:
    return math.log(p / (1 - p))


@pytest.mark.parametrize(("gap", "right"), [(3.0, 0.9), (1.0, 0.95), (10.0, 0.55), (0.3, 0.75)])
def test_two_classes_in_closed_form(gap, right):
    """The top logit leads by `gap`, and a share of predictions is right. The best temperature gives that share."""
    n = 100
    logits = torch.tensor([gap, 0.0]).expand(1, n, 2)
    y = (torch.arange(n) >= round(right * n)).long()
    found = fit_temperature(logits, y)
    assert found == pytest.approx(gap / logit(right), rel=1e-6)  # the gap is a float32
    confidence = scale_by_temperature(metrics.ensemble(logits), found)[:, 0].exp()
    np.testing.assert_allclose(confidence.numpy(), right, rtol=1e-12)
    assert metrics.ece(scale_by_temperature(metrics.ensemble(logits), found), y) == pytest.approx(0.0, abs=1e-12)


def test_members_are_pooled_and_then_calibrated():
    """Closed form for two members with different gaps. Scaling each member first would give another temperature."""
    gaps, right, n = (1.0, 6.0), 0.7, 100
    logits = torch.tensor([[gap, 0.0] for gap in gaps], dtype=torch.float64)[:, None].expand(-1, n, -1)
    y = (torch.arange(n) >= round(right * n)).long()
    pooled = np.mean([1 / (1 + math.exp(-gap)) for gap in gaps])
    assert fit_temperature(logits, y) == pytest.approx(logit(pooled) / logit(right), rel=1e-12)
    assert fit_temperature(logits, y, "logits") == pytest.approx(np.mean(gaps) / logit(right), rel=1e-12)


def naive_nll(logits: np.ndarray, y: np.ndarray, temperature: float) -> float:
    pooled = logsumexp(log_softmax(logits.astype(np.float64), axis=-1), axis=0) - math.log(len(logits))
    return -np.mean(log_softmax(pooled / temperature, axis=-1)[np.arange(len(y)), y])


@pytest.mark.parametrize(("seed", "K", "scale"), [(0, 1, 3.0), (1, 1, 0.5), (2, 3, 8.0), (3, 7, 1.0)])
def test_it_is_the_minimum_that_scipy_finds(seed, K, scale):
    logits, y = random_case(seed, K=K, scale=scale)
    found = fit_temperature(logits, y)
    expected = minimize_scalar(
        lambda log_t: naive_nll(logits.numpy(), y.numpy(), math.exp(log_t)),
        bounds=(math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert found == pytest.approx(math.exp(expected.x), rel=1e-6)
    assert metrics.nll(scale_by_temperature(metrics.ensemble(logits), found), y) == pytest.approx(
        expected.fun, abs=1e-12
    )
    around = [
        metrics.nll(scale_by_temperature(metrics.ensemble(logits), found * change), y) for change in (0.999, 1.0, 1.001)
    ]
    assert min(around) == around[1]


@pytest.mark.parametrize("seed", range(3))
def test_one_network_as_in_scikit_learn(seed):
    logits, y = random_case(seed)
    x = logits[0].double().numpy()  # in float32, scikit-learn fits to 1e-4 only
    network = LogisticRegression().fit(x, y.numpy())
    theirs = CalibratedClassifierCV(FrozenEstimator(network), method="temperature").fit(x, y.numpy())
    own = torch.from_numpy(network.decision_function(x))
    found = fit_temperature(own[None], y)
    np.testing.assert_allclose(
        scale_by_temperature(own.log_softmax(-1), found).exp().numpy(), theirs.predict_proba(x), atol=1e-6
    )


@given(st.integers(0, 1000), st.integers(1, 4), st.sampled_from([0.3, 1.0, 3.0]))
def test_held_out_nll_never_rises(seed, K, scale):
    logits, y = random_case(seed, K=K, n=30, scale=scale)
    log_p, found = metrics.ensemble(logits), fit_temperature(logits, y)
    assert MIN_TEMPERATURE <= found <= MAX_TEMPERATURE
    assert metrics.nll(scale_by_temperature(log_p, found), y) <= metrics.nll(log_p, y) + 1e-12
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    assert fit_temperature(logits[:, order], y[order]) == pytest.approx(found, rel=1e-9)


@pytest.mark.parametrize("factor", [0.1, 0.5, 3.0])
def test_logits_times_a_factor_need_the_temperature_times_it(factor):
    logits, y = random_case(0)
    expected = factor * fit_temperature(logits, y)
    assert fit_temperature(factor * logits.double(), y) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [1, 50])
def test_held_out_data_without_an_error_ask_for_the_coldest(n):
    y = torch.arange(n) % 3
    for scale in (1.0, 1e3, 1e30):  # up to predictions of exactly 0 and 1
        logits = scale * torch.nn.functional.one_hot(y, 3).float()
        assert fit_temperature(logits.expand(2, -1, -1), y) == MIN_TEMPERATURE


@pytest.mark.parametrize("n", [1, 50])
def test_predictions_that_are_all_wrong_ask_for_the_hottest(n):
    y = torch.arange(n) % 3
    for scale in (1.0, 1e3, 1e30):
        logits = scale * torch.nn.functional.one_hot((y + 1) % 3, 3).float()
        assert fit_temperature(logits[None], y) == MAX_TEMPERATURE


def test_where_no_temperature_matters_it_is_one():
    assert fit_temperature(torch.randn(3, 5, 1), torch.zeros(5).long()) == 1.0
    assert fit_temperature(torch.full((2, 5, 4), 0.3), torch.arange(5) % 4) == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    logits, y = random_case(0, K=2)
    logits[1, 7, 2] = bad
    with pytest.raises(DivergenceError, match="not a number at evaluation: some logits of the held-out data"):
        fit_temperature(logits, y)


def test_data_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="no examples"):
        fit_temperature(torch.zeros(2, 0, 3), torch.zeros(0).long())
    with pytest.raises(ValueError, match="labels must lie in 0 … 2"):
        fit_temperature(torch.zeros(2, 1, 3), torch.tensor([3]))


@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_scaled_is_softmax_of_the_divided_logits(seed, temperature):
    logits, _ = random_case(seed, n=5)
    found = scale_by_temperature(metrics.ensemble(logits), temperature)
    expected = log_softmax(logits[0].double().numpy() / temperature, axis=-1)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    assert torch.equal(found.argmax(-1), logits[0].argmax(-1))


def test_scaled_keeps_what_is_impossible():
    log_p = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]).log()
    torch.testing.assert_close(scale_by_temperature(log_p, 3.0), log_p.double())


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_temperatures_are_positive(temperature):
    with pytest.raises(ValueError, match="a temperature is a positive number"):
        scale_by_temperature(torch.zeros(1, 2), temperature)
