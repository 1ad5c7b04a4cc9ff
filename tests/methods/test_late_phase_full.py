"""Whole networks late in training, against runs on their own."""

import pytest
import torch

from harness.running.optimizers import make_optimizer
from methods import SGD, Branched, LatePhaseFull, MakeNet
from methods.core.batch_norm import reestimate
from tests.conftest import TinyNet, build
from tests.methods.training import assert_close, finish, train_epochs

pytestmark = pytest.mark.usefixtures("fuse_up_to")


def fork(recipe, batches, start, sees):
    """Train plainly until `start`, then on what `sees(epoch)` gives, with the momentum of before."""
    plain = build(SGD, recipe)
    optimizer = make_optimizer(plain, recipe)
    train_epochs(plain, optimizer, batches, last=start)
    for epoch in range(start, recipe.epochs):
        train_epochs(plain, optimizer, sees(epoch), first=epoch, last=epoch + 1)
    return plain.own_weights()


def test_members_that_share_the_data_see_every_kth_minibatch(recipe, batches):
    """Seven minibatches, K = 3; the first member of epoch 2 + e is e mod 3."""
    method = build(LatePhaseFull, recipe, K=3, start=2, member_momentum="copy", prediction="members")
    train_epochs(method, make_optimizer(method, recipe), batches)
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
    train_epochs(method, make_optimizer(method, recipe), batches)
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


def test_hyperparameters_about_shared_weights_are_refused(recipe):
    for hyperparameters in ({"gamma_theta": 0.5}, {"frozen_base": True}, {"data": "full", "leftover": "step"}):
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
    train_epochs(method, make_optimizer(method, recipe), batches)
    for weights in method.members():
        assert {name: value.shape for name, value in weights.items()} == {
            name: value.shape for name, value in Nested().state_dict().items()
        }
        assert not torch.equal(weights["attention.out_proj.weight"], method.net.attention.out_proj.weight)
