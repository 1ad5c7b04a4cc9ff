"""Plain training with rank-1 factors, against the late phase's trunk."""

import pytest
import torch

from harness.running.optimizers import make_optimizer
from methods import LatePhaseRank1, Rank1
from tests.conftest import build
from tests.methods.training import train_epochs

pytestmark = pytest.mark.usefixtures("fuse_up_to")


def test_the_control_is_one_network_with_factors(recipe, batches):
    """It equals the late phase's trunk where no layer is late."""
    control = build(Rank1, recipe)
    assert len(control.late) == 0
    trunk = build(LatePhaseRank1, recipe, start=5, last_layer=False)
    train_epochs(control, make_optimizer(control, recipe), batches, last=5)
    train_epochs(trunk, make_optimizer(trunk, recipe), batches, last=5)
    for name, value in control.own_weights().items():
        assert torch.equal(value, trunk.own_weights()[name]), name
