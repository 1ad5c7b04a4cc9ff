"""Learned lines against their formulas."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from harness.optimizers import make_optimizer
from methods import SGD, Line, MakeNet
from methods.batch_norm import reestimate
from tests.conftest import TinyNet, build, separable
from tests.methods.loops import assert_close, finish, run


def test_line_ends_and_midpoint(recipe):
    line = build(Line, recipe)
    for name, value in line.at(0.0).items():
        assert torch.equal(value, dict(line.net.named_parameters())[name])
        other = dict(line.end.named_parameters())[name]
        assert torch.equal(line.at(1.0)[name], other)
        torch.testing.assert_close(line.at(0.5)[name], (value + other) / 2)
    assert not torch.equal(line.net.conv.weight, line.end.conv.weight), "the ends are drawn independently"
    assert torch.equal(line.net.norm.weight, line.end.norm.weight)


def test_line_gradients_are_scaled_by_the_point(recipe):
    """Equation 4: the ends' gradients are (1 − α) and α times the gradient at the point."""
    line = build(Line, recipe, beta=0.0)
    x, y = separable(12)
    line.loss(x, y, line.at(0.3)).backward()
    point = {name: value.detach().requires_grad_() for name, value in line.at(0.3).items()}
    loss = nn.functional.cross_entropy(functional_call(line.net, point, (x,)), y)
    gradient = torch.autograd.grad(loss, point["conv.weight"])[0]
    torch.testing.assert_close(line.net.conv.weight.grad, 0.7 * gradient)
    torch.testing.assert_close(line.end.conv.weight.grad, 0.3 * gradient)


def test_line_penalty_is_the_squared_cosine_without_batch_norm(recipe):
    line = build(Line, recipe, beta=2.0)
    with torch.no_grad():
        line.net.norm.weight.fill_(9.0)
    vectors = [
        np.concatenate([p.detach().double().numpy().ravel() for n, p in net.named_parameters() if "norm" not in n])
        for net in (line.net, line.end)
    ]
    a, b = vectors
    cosine = a @ b / math.sqrt((a @ a) * (b @ b))
    assert line.squared_cosine().item() == pytest.approx(cosine**2, rel=1e-5)
    x, y = separable(12)
    plain = line.recipe.criterion(line(x, line.at(0.4)), y)
    assert line.loss(x, y, line.at(0.4)).item() == pytest.approx(plain.item() + 2 * cosine**2, rel=1e-5)


def test_line_sees_uniform_points_that_come_back_with_the_epoch(recipe, monkeypatch):
    line = build(Line, recipe)
    seen = []
    monkeypatch.setattr(line, "at", lambda alpha, at=line.at: seen.append(float(alpha)) or at(alpha))
    x, y = separable(6)
    for epoch in (4, 4, 5):
        line.begin_epoch(epoch)
        for _ in range(200):
            line.loss(x, y)
    assert seen[:200] == seen[200:400] != seen[400:]
    assert np.mean(seen) == pytest.approx(0.5, abs=0.05)
    assert np.std(seen) == pytest.approx(math.sqrt(1 / 12), abs=0.03)


def test_line_pair_and_its_statistics(recipe, batches):
    line = build(Line, recipe, prediction="pair", alpha=0.2)
    run(line, make_optimizer(line, recipe), batches)
    finish(line, batches)
    for alpha, weights in zip((0.2, 0.8), line.members(), strict=True):
        net = TinyNet()
        net.load_state_dict(
            {
                name: (1 - alpha) * p + alpha * dict(line.end.named_parameters())[name]
                for name, p in line.net.named_parameters()
            },
            strict=False,
        )
        plain = SGD(MakeNet(lambda net=net: net, 0), recipe)
        reestimate(plain, batches)
        assert_close({k: v for k, v in plain.own_weights().items()}, weights, 1e-5)
