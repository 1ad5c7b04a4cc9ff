"""Re-estimation of running statistics against NumPy."""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch

import models
from methods import SGD, Dropout, MakeNet, Recipe
from methods.core.batch_norm import reestimate, reestimate_each
from tests.conftest import build
from tests.methods.training import assert_close


def test_reestimate_weights_batches_by_their_size(make_net, recipe, batches):
    method = SGD(make_net, recipe)
    reestimate(method, batches)
    with torch.no_grad():
        outputs = [method.net.conv(x).double() for x, _ in batches]
    sizes = np.array([len(x) for x, _ in batches])
    means = np.stack([out.mean((0, 2, 3)).numpy() for out in outputs])
    variances = np.stack([out.var((0, 2, 3)).numpy() for out in outputs])
    np.testing.assert_allclose(method.net.norm.running_mean, np.average(means, 0, sizes), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(method.net.norm.running_var, np.average(variances, 0, sizes), rtol=1e-5)


def test_reestimate_writes_the_given_statistics_and_nothing_else(recipe):
    """On LeNet-5, whose last BatchNorm comes after a dropout layer: with dropout on, its statistics would move."""
    make_net = MakeNet(partial(models.build, "lenet5", in_channels=1, classes=3, image_size=8), 0)
    method = Dropout(make_net, recipe, p=0.5).train()
    x = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batches = [(part, torch.zeros(len(part), dtype=torch.long)) for part in x.split(16)]
    before = deepcopy(method.state_dict())
    weights = {name: tensor.detach().clone() for name, tensor in method.own_weights().items()}
    method.net.register_forward_hook(lambda net, x, out: recorded.append(out.requires_grad))
    recorded: list[bool] = []
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        reestimate(method, batches, weights)
        found.append({name: value.clone() for name, value in weights.items() if "running" in name})
    assert_close(found[0], found[1], 0)
    assert not any(recorded), "no gradients"
    assert all(value.abs().sum() > 0 for value in found[0].values())
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items() if isinstance(v, torch.Tensor))
    assert all(module.training for module in method.net.modules())
    assert {layer.momentum for layer in method.net.modules() if hasattr(layer, "momentum")} == {0.1}


def test_reestimate_recovers_from_statistics_that_are_not_numbers(make_net, recipe, batches):
    method = SGD(make_net, recipe)
    reestimate(method, batches)
    good = deepcopy(method.net.norm.state_dict())
    method.net.norm.running_mean.fill_(float("nan"))
    reestimate(method, batches)
    assert_close(good, method.net.norm.state_dict(), 0)


def test_reestimate_refuses_an_empty_pass(make_net, recipe):
    with pytest.raises(ValueError, match="no batch"):
        reestimate(SGD(make_net, recipe), [])


def test_several_networks_share_one_pass_with_the_bits_of_a_pass_each(batches):
    """Also where their weights come one by one, and where they are made anew for each batch."""
    recipe = Recipe(epochs=1)
    passes = []

    class Data:
        def __iter__(self):
            passes.append(1)
            return iter(batches)

    def networks():
        return [build(SGD, recipe, seed=seed).own_weights() for seed in range(3)]

    method = build(SGD, recipe)
    together, apart, anew = networks(), networks(), networks()
    reestimate_each(method, Data(), iter(together))
    assert len(passes) == 1
    reestimate_each(method, Data(), [lambda batch, own=own: dict(own) for own in anew])
    for weights in apart:
        reestimate(method, batches, weights)
    for found in (together, anew):
        for one, other in zip(found, apart, strict=True):
            for name, value in one.items():
                assert torch.equal(value, other[name]), name
    assert not torch.equal(together[0]["norm.running_mean"], together[1]["norm.running_mean"])
    with pytest.raises(ValueError, match="no batch"):
        reestimate_each(method, [], networks())
