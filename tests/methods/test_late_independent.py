"""Late independent networks: noise at T0, and shared data."""

import pytest
import torch

from harness.running.optimizers import make_optimizer
from methods import LateIndependent
from tests.conftest import build
from tests.methods.training import train_epochs

pytestmark = pytest.mark.usefixtures("fuse_up_to")


def test_late_independent_networks_can_be_noisy_and_share_the_data(recipe, batches):
    quiet, noisy = (build(LateIndependent, recipe, K=2, start=1, sigma0=s, data="shared") for s in (0.0, 0.5))
    for method in (quiet, noisy):
        train_epochs(method, make_optimizer(method, recipe), batches, last=1)
        method.begin_epoch(1)
        assert method.data_orders() == 1
    kernels = [method.late_weights(1)["conv.weight"] for method in (quiet, noisy)]
    assert torch.equal(kernels[0], quiet.net.conv.weight)
    rms = quiet.net.conv.weight.square().mean().sqrt().item()
    assert (kernels[1] - kernels[0]).std().item() == pytest.approx(0.5 * rms, rel=0.3)
