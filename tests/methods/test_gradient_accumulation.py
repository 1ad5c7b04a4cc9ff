"""Gradient accumulation against a naive loop."""

from copy import deepcopy

import pytest
import torch

from harness.running.optimizers import make_optimizer
from methods import SGD, GradientAccumulation, Recipe
from tests.conftest import build
from tests.methods.training import train_epochs

pytestmark = pytest.mark.usefixtures("fuse_up_to")


@pytest.mark.parametrize("leftover", ["carry", "step", "drop"])
@pytest.mark.parametrize(("gamma", "scale"), [(1.0, lambda n: 1.0), ("1/K", lambda n: 1 / n), (0.5, lambda n: 0.5)])
def test_gradients_of_a_cycle_are_summed(gamma, scale, leftover, batches):
    """Plain steps before T0 = 1, then seven minibatches an epoch in cycles of three."""
    batches = [(x.double(), y) for x, y in batches]
    recipe = Recipe(epochs=3, lr=0.02, weight_decay=1e-2)
    method = build(GradientAccumulation, recipe, K=3, start=1, gamma_theta=gamma, leftover=leftover).double()
    naive = deepcopy(method.net).train()
    optimizer = torch.optim.SGD(naive.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-2)
    cycle = []
    for epoch in range(3):
        for i, (x, y) in enumerate(batches):
            cycle.append((x, y))
            loss = torch.nn.functional.cross_entropy(naive(x), y)
            loss.backward()
            if not epoch or len(cycle) == 3 or (leftover == "step" and i == 6):
                for p in naive.parameters():
                    p.grad *= scale(len(cycle)) if epoch else 1
                optimizer.step()
            if not epoch or len(cycle) == 3 or (leftover != "carry" and i == 6):
                optimizer.zero_grad()
                cycle = []
    train_epochs(method, make_optimizer(method, recipe), batches)
    for name, value in naive.state_dict().items():
        torch.testing.assert_close(method.net.state_dict()[name], value, rtol=1e-10, atol=1e-12)


def test_a_cycle_of_one_is_plain_training_bitwise(recipe, batches):
    one, plain = build(GradientAccumulation, recipe, K=1, start=2), build(SGD, recipe)
    train_epochs(one, make_optimizer(one, recipe), batches)
    train_epochs(plain, make_optimizer(plain, recipe), batches)
    assert all(torch.equal(p, q) for p, q in zip(one.net.parameters(), plain.net.parameters(), strict=True))
    assert [p.numel() for p in one.parameters()] == [p.numel() for p in plain.parameters()]
