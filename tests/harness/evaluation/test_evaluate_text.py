"""Tests that evaluation of text scores every symbol once, and agrees with all predictions at once."""

import math

import pytest
import torch

from data.tasks.text_task import TextTask
from harness.costs.cost import CostCounter
from harness.evaluation import metrics
from harness.evaluation.evaluate_text import evaluate_text
from harness.evaluation.temperature_scaling import fit_temperature, scale_by_temperature
from methods import SGD, MakeNet, Recipe
from models.lstm import LSTM

C, K = 7, 3


class Fixed(SGD):
    """Predicts K logits of the symbol after each one: a table by the symbol and the one before it."""

    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.table = torch.randn(C, C, K, C, generator=torch.Generator().manual_seed(0))

    def predict(self, x):
        assert not self.training
        self.net(x)
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
        return self.table[before, x].permute(2, 0, 3, 1)  # (K, B, C, T)


def text(n, seed):
    return torch.randint(C, (n,), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


@pytest.fixture
def task():
    return TextTask("t", C, bytes(range(C)), text(400, 0), text(1500, 1), text(2700, 2), 50)


def make(counter):
    method = Fixed(MakeNet(lambda: LSTM(units=4, classes=C), 0), Recipe(epochs=1))
    method.net.register_forward_pre_hook(counter)
    return method


def at_once(method, symbols):
    """All predictions of a text in one window: (K, N − 1, C) and the right symbols."""
    with torch.no_grad():
        logits = method.eval().predict(symbols[None, :-1].long())[:, 0].movedim(1, -1)
    return logits, symbols[1:].long()


def test_scores_are_those_of_all_predictions_at_once(task):
    counter = CostCounter()
    method = make(counter)
    found = evaluate_text(method, task, counter)
    logits, y = at_once(method, task.test)
    log_p = metrics.ensemble(logits)
    expected = {
        "accuracy": metrics.accuracy(log_p, y),
        "nll": metrics.nll(log_p, y),
        "bpc": metrics.nll(log_p, y) / math.log(2),
        "brier": metrics.brier(log_p, y),
        "ece": metrics.ece(log_p, y),
        "members": K,
        "single/nll": sum(metrics.nll(metrics.ensemble(one[None]), y) for one in logits) / K,
        "single/accuracy": sum(metrics.accuracy(metrics.ensemble(one[None]), y) for one in logits) / K,
        "logit_average/nll": metrics.nll(metrics.ensemble(logits, average="logits"), y),
    }
    expected |= {f"diversity/{name}": value for name, value in metrics.diversity(logits).items()}
    for name, value in expected.items():
        assert found.metrics[name] == pytest.approx(value, abs=1e-9), name
    assert found.metrics["single/bpc"] == pytest.approx(expected["single/nll"] / math.log(2))
    first_two = metrics.ensemble(logits[:2])
    assert found.curves["bpc"][1] == pytest.approx(metrics.nll(first_two, y) / math.log(2))
    kept = torch.from_numpy(found.predictions["log_likelihoods"])
    torch.testing.assert_close(kept, log_p.gather(1, y[:, None])[:, 0].float())
    assert found.forwards_per_example == 1


def test_a_temperature_is_fitted_on_held_out_text(task):
    counter = CostCounter()
    method = make(counter)
    found = evaluate_text(method, task, counter).metrics
    temperature = fit_temperature(*at_once(method, task.validation))
    assert found["temperature"] == pytest.approx(temperature, rel=1e-6)
    logits, y = at_once(method, task.test)
    cooled = scale_by_temperature(metrics.ensemble(logits), temperature)
    assert found["scaled/nll"] == pytest.approx(metrics.nll(cooled, y))
    assert found["scaled/ece"] == pytest.approx(metrics.ece(cooled, y))


def test_without_held_out_text_and_with_one_member(task):
    counter = CostCounter()
    method = SGD(MakeNet(lambda: LSTM(units=4, classes=C), 0), Recipe(epochs=1))
    method.net.register_forward_pre_hook(counter)
    alone = TextTask("t", C, bytes(range(C)), task.train, None, task.test, 50)
    found = evaluate_text(method, alone, counter).metrics
    assert not [name for name in found if name.startswith(("temperature", "scaled/", "diversity/", "logit_"))]
    assert found["single/nll"] == found["nll"]
    assert found["bpc"] == pytest.approx(math.log2(C), abs=0.01)  # its weights are near zero
