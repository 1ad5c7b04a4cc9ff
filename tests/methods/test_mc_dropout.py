"""MC dropout against forward passes by hand."""

import numpy as np
import torch
from torch import nn

from methods import MakeNet, MCDropout
from tests.conftest import build, separable


def test_mc_dropout_is_k_forwards_with_dropout_on_and_batch_norm_still(recipe):
    method = build(MCDropout, recipe, K=4, p=0.5).eval()
    x, _ = separable(500, 3)
    with torch.no_grad():
        logits = method.predict(x)
        hidden = nn.functional.max_pool2d(method.net.norm(method.net.conv(x)).relu(), 2)
        torch.manual_seed(method.generator("dropout at test time").initial_seed())
        expected = [method.net.head(nn.functional.dropout(hidden, 0.5).flatten(1)) for _ in range(4)]
    assert torch.equal(logits, torch.stack(expected))
    assert not torch.equal(logits[0], logits[1])
    assert not any(module.training for module in method.modules())


def test_mc_dropout_leaves_the_global_generator_alone(recipe):
    method = build(MCDropout, recipe).eval()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    method.predict(separable(4)[0])
    assert torch.equal(torch.rand(1), expected)


def test_mc_dropout_samples_have_the_mean_and_variance_of_a_linear_network(recipe):
    """Each input is kept with probability 1 − p and divided by it: mean wx + b, variance Σ (w x)² p / (1 − p)."""

    def linear(dropout=0.0):
        return nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(36, 3))

    K, p = 20_000, 0.2
    method = MCDropout(MakeNet(linear, 0), recipe, K=K, p=p).eval()
    x, _ = separable(4)
    weight, bias = (t.detach().double().numpy() for t in method.net[2].parameters())
    terms = x.flatten(1).double().numpy()[:, None] * weight  # (B, C, 36)
    variance = (terms**2).sum(2) * p / (1 - p)
    with torch.no_grad():
        logits = method.predict(x).double().numpy()
    assert (np.abs(logits.mean(0) - terms.sum(2) - bias) < 4 * np.sqrt(variance / K)).all()
    np.testing.assert_allclose(logits.var(0), variance, rtol=0.06)


def test_the_masks_are_a_function_of_seed_and_epoch(recipe):
    x, _ = separable(6)

    def logits(seed, epoch):
        method = build(MCDropout, recipe, seed=seed, K=3).eval()
        method.net.load_state_dict(build(MCDropout, recipe).net.state_dict())  # masks apart, all are the same
        method.epoch = epoch
        return method.predict(x)

    first = logits(0, 5)
    assert torch.equal(first, logits(0, 5))
    assert not torch.equal(first, logits(0, 4))
    assert not torch.equal(first, logits(1, 5))
