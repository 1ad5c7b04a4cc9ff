"""Tests that streaming metrics equal the metrics of all parts together."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.evaluation import metrics
from harness.evaluation.streaming_metrics import StreamingMetrics


def one_shot(log_p, y, bins=metrics.CALIBRATION_BINS):
    return {
        "accuracy": metrics.accuracy(log_p, y),
        "nll": metrics.nll(log_p, y),
        "brier": metrics.brier(log_p, y),
        "ece": metrics.ece(log_p, y, bins),
    }


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
    st.integers(0, 1000),
    st.sampled_from([0.1, 2.0, 50.0]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([1, 15, 20]),
)
def test_any_parts_give_what_one_shot_gives(lengths, seed, scale, dtype, bins):
    generator = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    log_p = (scale * torch.randn(n, 6, generator=generator)).to(dtype).log_softmax(-1)
    y = torch.randint(6, (n,), generator=generator)
    score = StreamingMetrics(bins)
    for part, labels in zip(log_p.split(lengths), y.split(lengths), strict=True):
        score.add(part, labels)
    assert score.metrics() == pytest.approx(one_shot(log_p, y, bins), abs=1e-12)


def test_a_long_text_loses_no_digits():
    generator = torch.Generator().manual_seed(0)
    log_p = torch.randn(20_000, 5, generator=generator, dtype=torch.float64).log_softmax(-1)
    y = torch.randint(5, (20_000,), generator=generator)
    score = StreamingMetrics()
    for start in range(0, 20_000, 7):
        score.add(log_p[start : start + 7], y[start : start + 7])
    assert score.metrics() == pytest.approx(one_shot(log_p, y), abs=1e-12)


def test_a_part_may_be_asked_about_before_the_next():
    score = StreamingMetrics()
    certain = torch.tensor([[1.0, 0.0]]).log()
    score.add(certain, torch.tensor([0]))
    assert score.metrics() == {"accuracy": 100.0, "nll": 0.0, "brier": 0.0, "ece": 0.0}
    score.add(certain, torch.tensor([1]))
    assert score.metrics() == {"accuracy": 50.0, "nll": math.inf, "brier": 1.0, "ece": 0.5}


def test_nothing_and_nonsense_are_refused():
    score = StreamingMetrics()
    with pytest.raises(ValueError, match="no examples"):
        score.metrics()
    with pytest.raises(ValueError, match="labels must lie in 0 … 1"):
        score.add(torch.zeros(1, 2), torch.tensor([2]))
    with pytest.raises(ValueError, match="no examples"):
        score.metrics()  # what was refused is not counted
    with pytest.raises(ValueError, match="at least one bin"):
        StreamingMetrics(bins=0)
