"""Which layers are late-phase weights, and how many parameters they add."""

from functools import partial

import pytest
import torch
from torch import nn

import models
from methods import LatePhaseBatchNorm, MakeNet, Recipe
from tests.conftest import build

pytestmark = pytest.mark.usefixtures("fuse_up_to")


def test_late_phase_needs_batch_norm(recipe):
    with pytest.raises(ValueError, match="need an architecture with BatchNorm"):
        LatePhaseBatchNorm(MakeNet(lambda: nn.Linear(2, 2), 0), recipe)


def test_member_weight_decay_reaches_members_only(recipe):
    groups = build(LatePhaseBatchNorm, recipe, member_weight_decay=0.5).param_groups()
    assert [group["weight_decay"] for group in groups] == [recipe.weight_decay, 0.5]


def test_the_last_layer_can_stay_shared(recipe):
    names = set(build(LatePhaseBatchNorm, recipe, last_layer=False).late_weights(0))
    assert not any(name.startswith("head") for name in names)


def test_ten_members_add_little_to_a_large_network():
    """Less than 1 % of a WRN-28-10's parameters on CIFAR-10, less than 2.5 % on CIFAR-100."""
    for classes, bound in ((10, 0.01), (100, 0.025)):
        with torch.device("meta"):
            build_net = partial(models.build, "wrn-28-10", in_channels=3, classes=classes, image_size=32)
            method = LatePhaseBatchNorm(MakeNet(build_net, 0), Recipe(epochs=200), K=10)
        plain = sum(p.numel() for p in method.net.parameters())
        added = sum(p.numel() for p in method.parameters()) - plain
        late = 17_952 + 641 * classes if classes == 10 else 17_952 + 64_100
        assert added == 10 * late
        assert added < bound * plain
