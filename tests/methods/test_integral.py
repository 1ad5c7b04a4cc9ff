"""The integral over a line against its formulas."""

import numpy as np
import pytest
import torch
from torch import nn

from harness.parsing.hyperparameters import hyperparameters
from harness.running.optimizers import make_optimizer
from methods import SGD, MakeNet, Recipe
from methods.core.batch_norm import reestimate
from methods.core.random_streams import stream
from methods.core.subspace import squared_cosine
from methods.integral import Integral
from tests.conftest import TinyNet, build, separable
from tests.methods.training import assert_close, finish, train_epochs


def network_at(method: Integral, a: float) -> TinyNet:
    """A network of its own with the weights (1 − a)ω1 + aω2."""
    net = TinyNet()
    ends = zip(method.net.named_parameters(), method.others[0].parameters(), strict=True)
    net.load_state_dict({key: ((1 - a) * p + a * q).detach() for (key, p), q in ends}, strict=False)
    return net.train()


@pytest.mark.parametrize("a", [0.0, 0.37, 0.95])
def test_the_training_output_is_a_finite_difference(a, recipe):
    """Equation 17 with three separate networks; at 0.95 the last one lies beyond the line."""
    method = build(Integral, recipe, init="independent", epsilon=0.1)
    x, _ = separable(12)
    g = [network_at(method, place)(x) for place in (0.0, a, a + 0.1)]
    torch.testing.assert_close(method.output(x, a), g[0] + (g[2] - g[1]) / 0.1, rtol=1e-4, atol=1e-4)


def test_the_average_output_over_the_line_is_the_network_at_its_end(recipe):
    """Equation 16, with a midpoint rule of 200 places in evaluation mode."""
    method = build(Integral, recipe, init="independent", epsilon=1e-3).double().eval()
    x = separable(8)[0].double()
    places = (np.arange(200) + 0.5) / 200
    with torch.no_grad():
        mean = torch.stack([method.output(x, a - 5e-4) for a in places]).mean(0)
        torch.testing.assert_close(mean, method(x, method.weights_at(1.0)), rtol=0, atol=0.02)
        assert (method(x, method.weights_at(1.0)) - method(x, method.weights_at(0.0))).abs().max() > 0.5


def test_the_loss_is_that_of_f_at_a_random_place_plus_the_penalty(recipe):
    method = build(Integral, recipe, init="independent", beta=2.0)
    method.begin_epoch(3)
    x, y = separable(12)
    a = torch.rand((), generator=stream(0, "alpha", 3)).item()
    g = [network_at(method, place)(x) for place in (0.0, a, a + 0.1)]
    plain = nn.functional.cross_entropy(g[0] + (g[2] - g[1]) / 0.1, y).item()
    ends = ([net.conv.weight, net.head.weight, net.head.bias] for net in (method.net, method.others[0]))
    assert method.loss(x, y).item() == pytest.approx(plain + 2 * squared_cosine(*ends).item(), rel=1e-4)


def test_it_starts_as_plain_training_of_the_first_draw(recipe):
    """From one point the difference is zero, and so is the gradient of the end where the line starts."""
    method = build(Integral, recipe)
    x, y = separable(12)
    torch.testing.assert_close(method.output(x, 0.4), MakeNet(TinyNet, 0)()(x), rtol=1e-4, atol=1e-4)
    plain = MakeNet(TinyNet, 0)()
    nn.functional.cross_entropy(plain(x), y).backward()
    method.loss(x, y).backward()
    torch.testing.assert_close(method.others[0].head.weight.grad, plain.head.weight.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(method.net.head.weight.grad, torch.zeros(3, 36), rtol=0, atol=1e-4)


def test_it_predicts_with_the_network_at_the_end(recipe, batches):
    method = build(Integral, recipe)
    losses = train_epochs(method, make_optimizer(method, recipe), batches)
    assert losses[-1] < 0.7 * losses[0]
    finish(method, batches)
    (weights,) = method.members()
    plain = SGD(MakeNet(lambda: network_at(method, 1.0), 0), recipe)
    reestimate(plain, batches)
    assert_close(plain.own_weights(), weights, 1e-6)
    x, y = separable(60, seed=7)
    with torch.no_grad():
        logits = method.predict(x)
        torch.testing.assert_close(logits, plain.eval()(x)[None])
    assert (logits[0].argmax(-1) == y).float().mean() > 0.9


def test_it_offers_only_what_it_knows(recipe):
    assert set(hyperparameters(Integral)) == {"epsilon", "beta", "init"}
    assert Recipe(epochs=1).weight_decay == build(Integral, Recipe(epochs=1)).param_groups()[0]["weight_decay"]
