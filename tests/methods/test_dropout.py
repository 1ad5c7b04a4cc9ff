"""Dropout and MC-dropout against forwards by hand."""

import pytest
import torch
from torch import nn

from methods import Dropout, MakeNet
from tests.conftest import build, separable


def test_dropout_predicts_with_the_whole_network(recipe):
    method = build(Dropout, recipe, p=0.3).eval()
    assert method.net.dropout.p == 0.3
    x, _ = separable(5)
    assert torch.equal(method.predict(x)[0], method.net(x))
    with pytest.raises(ValueError, match="this architecture has no dropout layers"):
        Dropout(MakeNet(lambda dropout=0.0: nn.Linear(2, 2), 0), recipe)
