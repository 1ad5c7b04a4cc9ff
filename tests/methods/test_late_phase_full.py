"""Whole networks late in training, against runs on their own."""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch

from harness.running.optimizers import make_optimizer
from methods import SGD, Branched, LateIndependent, LatePhaseFull, MakeNet
from methods.core.batch_norm import reestimate
from tests.conftest import TinyNet, build
from tests.methods.loops import assert_close, finish, rotated, run


def fork(recipe, batches, start, sees):
    """Train plainly until `start`, then on what `sees(epoch)` gives, with the momentum of before."""
    plain = build(SGD, recipe)
    optimizer = make_optimizer(plain, recipe)
    run(plain, optimizer, batches, last=start)
    for epoch in range(start, recipe.epochs):
        run(plain, optimizer, sees(epoch), first=epoch, last=epoch + 1)
    return plain.own_weights()


@pytest.mark.parametrize("make", [LateIndependent, partial(Branched, prediction="members")])
def test_branches_are_runs_on_their_own(make, recipe, batches):
    """Each sees all of the data in an order of its own; the first one is plain training, bit by bit."""
    method = build(make, recipe, K=3, start=2)
    run(method, make_optimizer(method, recipe), batches)
    orders = rotated(batches)
    for k, weights in enumerate(method.members()):
        alone = fork(recipe, batches, 2, lambda _, k=k: orders(k))
        for name, value in alone.items():
            assert torch.equal(weights[name], value), (k, name)


def test_members_that_share_the_data_see_every_kth_minibatch(recipe, batches):
    """Seven minibatches, K = 3; the first member of epoch 2 + e is e mod 3."""
    method = build(LatePhaseFull, recipe, K=3, start=2, member_momentum="copy", prediction="members")
    run(method, make_optimizer(method, recipe), batches)
    for k, weights in enumerate(method.members()):
        alone = fork(
            recipe,
            batches,
            2,
            lambda epoch, k=k: [batch for i, batch in enumerate(batches) if (epoch - 2 + i) % 3 == k],
        )
        assert_close(alone, weights, 1e-6)


def test_the_average_of_networks_has_their_mean_weights_and_new_statistics(recipe, batches):
    method = build(LatePhaseFull, recipe, K=3, start=2)
    run(method, make_optimizer(method, recipe), batches)
    runs = [{name: value.clone() for name, value in method.late_weights(k).items()} for k in range(3)]
    finish(method, batches)
    (weights,) = method.members()
    net = TinyNet()
    means = {name: torch.stack([one[name].float() for one in runs]).mean(0) for name in runs[0]}
    net.load_state_dict(means)
    plain = SGD(MakeNet(lambda: net, 0), recipe)
    reestimate(plain, batches)
    assert_close(plain.own_weights(), weights)
    assert not torch.allclose(weights["norm.running_mean"], means["norm.running_mean"], rtol=1e-3)


@pytest.mark.parametrize("mixing", ["global", "layer", "weight"])
def test_mixtures_lie_between_the_runs(mixing, recipe, batches):
    """Equation 18: a coefficient for the network, for each layer or for each weight."""
    method = build(Branched, recipe, start=1, prediction="mixtures", mixing=mixing, points=4)
    run(method, make_optimizer(method, recipe), batches)
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


def test_late_independent_networks_can_be_noisy_and_share_the_data(recipe, batches):
    quiet, noisy = (build(LateIndependent, recipe, K=2, start=1, sigma0=s, data="shared") for s in (0.0, 0.5))
    for method in (quiet, noisy):
        run(method, make_optimizer(method, recipe), batches, last=1)
        method.begin_epoch(1)
        assert method.data_orders() == 1
    kernels = [method.late_weights(1)["conv.weight"] for method in (quiet, noisy)]
    assert torch.equal(kernels[0], quiet.net.conv.weight)
    rms = quiet.net.conv.weight.square().mean().sqrt().item()
    assert (kernels[1] - kernels[0]).std().item() == pytest.approx(0.5 * rms, rel=0.3)


def test_hyperparameters_about_shared_weights_are_refused(recipe):
    for hyperparameters in ({"gamma_theta": 0.5}, {"frozen_base": True}, {"data": "full", "leftover": "carry"}):
        with pytest.raises(ValueError, match="applies to weights that members share, and there are none"):
            build(LatePhaseFull, recipe, **hyperparameters)
    with pytest.raises(ValueError, match="points=3 applies to random mixtures"):
        build(Branched, recipe, points=3)


class Nested(torch.nn.Module):
    """Parameters of the network itself, and a layer with parameters of its own and a layer inside."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))
        self.attention = torch.nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = torch.nn.Linear(6, 3)

    def forward(self, x):
        rows = x[:, 0]
        return self.head(self.attention(rows, rows, rows)[0].mean(1)) * self.scale


def test_nested_layers_are_copied_once(recipe, batches):
    method = LatePhaseFull(MakeNet(Nested, 0), recipe, K=3, start=1, member_momentum="copy", prediction="members")
    plain = sum(p.numel() for p in method.net.parameters())
    assert sum(p.numel() for p in method.late.parameters()) == 3 * plain
    run(method, make_optimizer(method, recipe), batches)
    for weights in method.members():
        assert {name: value.shape for name, value in weights.items()} == {
            name: value.shape for name, value in Nested().state_dict().items()
        }
        assert not torch.equal(weights["attention.out_proj.weight"], method.net.attention.out_proj.weight)
