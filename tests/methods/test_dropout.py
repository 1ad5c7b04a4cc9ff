"""Dropout and MC-dropout against forwards by hand."""

import pytest
import torch
from torch import nn

from methods import Dropout, MakeNet, MCDropout
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


def test_dropout_predicts_with_the_whole_network(recipe):
    method = build(Dropout, recipe, p=0.3).eval()
    assert method.net.dropout.p == 0.3
    x, _ = separable(5)
    assert torch.equal(method.predict(x)[0], method.net(x))
    with pytest.raises(ValueError, match="no place for dropout"):
        Dropout(MakeNet(lambda dropout=0.0: nn.Linear(2, 2), 0), recipe)
