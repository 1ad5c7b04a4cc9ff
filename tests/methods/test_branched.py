"""Branched runs against runs on their own, and their mixtures."""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch

from harness.running.optimizers import make_optimizer
from methods import SGD, Branched, LateIndependent, MakeNet
from methods.core.batch_norm import reestimate
from tests.conftest import TinyNet, build
from tests.methods.training import assert_close, finish, rotated, train_epochs

pytestmark = pytest.mark.usefixtures("fuse_up_to")


def fork(recipe, batches, start, sees):
    """Train plainly until `start`, then on what `sees(epoch)` gives, with the momentum of before."""
    plain = build(SGD, recipe)
    optimizer = make_optimizer(plain, recipe)
    train_epochs(plain, optimizer, batches, last=start)
    for epoch in range(start, recipe.epochs):
        train_epochs(plain, optimizer, sees(epoch), first=epoch, last=epoch + 1)
    return plain.own_weights()


@pytest.mark.parametrize("make", [LateIndependent, partial(Branched, prediction="members")])
def test_branches_are_runs_on_their_own(make, recipe, batches):
    """Each sees all of the data in an order of its own; the first one is plain training, bit by bit."""
    method = build(make, recipe, K=3, start=2)
    train_epochs(method, make_optimizer(method, recipe), batches)
    orders = rotated(batches)
    for k, weights in enumerate(method.members()):
        alone = fork(recipe, batches, 2, lambda _, k=k: orders(k))
        for name, value in alone.items():
            assert torch.equal(weights[name], value), (k, name)


@pytest.mark.parametrize("mixing", ["global", "layer", "weight"])
def test_mixtures_lie_between_the_runs(mixing, recipe, batches):
    """Equation 18: a coefficient for the network, for each layer or for each weight."""
    method = build(Branched, recipe, start=1, prediction="mixtures", mixing=mixing, points=4)
    train_epochs(method, make_optimizer(method, recipe), batches)
    with torch.no_grad():
        for k, p in enumerate(method.late.parameters()):  # far apart, so that a mixture's place can be read off it
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(k)))
    ends = [deepcopy(method.late_weights(k)) for k in range(2)]
    finish(method, batches)
    mixtures = [{name: value.clone() for name, value in weights.items()} for weights in method.members()]
    assert len(mixtures) == 4
    alphas = []
    for weights in mixtures:
        shares = {}
        for name, _ in method.net.named_parameters():
            width = (ends[1][name] - ends[0][name]).double()
            share = (weights[name].double() - ends[0][name]) / width
            shares[name] = share[width.abs() > 1e-3].detach().numpy()
        values = np.concatenate([share.ravel() for share in shares.values()])
        assert values.min() > -0.01
        assert values.max() < 1.01
        spread = {name: np.ptp(share) for name, share in shares.items()}
        if mixing == "weight":
            assert spread["head.weight"] > 0.5
        else:
            assert max(spread.values()) < 0.01, "one coefficient for all weights of a layer"
            layers = [shares["conv.weight"].mean(), shares["head.weight"].mean(), shares["norm.weight"].mean()]
            assert (np.ptp(layers) < 0.01) == (mixing == "global")
            assert shares["head.bias"].mean() == pytest.approx(shares["head.weight"].mean(), abs=0.01)
            alphas.append(shares["head.weight"].mean())
        net = TinyNet()
        net.load_state_dict(weights)
        plain = SGD(MakeNet(lambda net=net: net, 0), recipe)
        reestimate(plain, batches)
        assert_close(plain.own_weights(), weights)
    assert mixing == "weight" or len({round(float(alpha), 4) for alpha in alphas}) == 4


def test_coefficients_of_a_mixture_are_uniform(recipe):
    """Two runs, α uniform in [0, 1]: mean 1/2, variance 1/12; the runs' weights are zeros and ones."""
    method = build(Branched, recipe, start=0, prediction="mixtures", mixing="weight", points=1)
    with torch.no_grad():
        for k in range(2):
            for p in method.late[k].parameters():
                p.fill_(float(k))
    values = method.mixture(0)["head.weight"].detach().flatten()
    assert values.mean().item() == pytest.approx(0.5, abs=0.08)
    assert values.var().item() == pytest.approx(1 / 12, abs=0.02)


def test_mixing_without_mixtures_is_refused(recipe):
    with pytest.raises(ValueError, match="mixing=layer applies to random mixtures"):
        build(Branched, recipe, mixing="layer")
