"""Rank-1 factors against their formula and a naive Algorithm 1."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from harness.running.optimizers import make_optimizer
from methods import LatePhaseRank1, MakeNet, Rank1, Recipe
from tests.conftest import TinyNet, build, separable
from tests.methods.training import finish, train_epochs

pytestmark = pytest.mark.usefixtures("fuse_up_to")


class Recurrent(nn.Module):
    """An LSTM over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.lstm(x[:, 0])[0][:, -1])


def factors_of(method, parts):
    return {name: (f.u.detach().numpy(), f.v.detach().numpy()) for name, f in zip(method.matrices, parts, strict=True)}


def test_effective_weights_are_products(recipe, batches):
    method = build(LatePhaseRank1, recipe, K=3, start=2, sigma0=0.3, last_layer=False, prediction="members")
    train_epochs(method, make_optimizer(method, recipe), batches)
    assert method.matrices == ["conv.weight", "head.weight"]
    for k, weights in enumerate(method.members()):
        for name, (u, v) in factors_of(method, method.own_parts(k)).items():
            theta = method.net.get_parameter(name).detach().numpy()
            expected = np.einsum("oi...,o,i->oi...", theta, u, v)
            np.testing.assert_allclose(weights[name].detach().numpy(), expected, rtol=1e-5)
    assert len({factors_of(method, method.own_parts(k))["conv.weight"][0].tobytes() for k in range(3)}) == 3


def test_the_average_network_has_the_mean_weights(recipe, batches):
    """Equation 1 of rank-1 matrices: the mean of u vᵀ over members, times θ; one network of plain size."""
    method = build(LatePhaseRank1, recipe, K=3, start=2, sigma0=0.3)
    train_epochs(method, make_optimizer(method, recipe), batches)
    finish(method, batches)
    (weights,) = method.members()
    outer = np.mean([np.outer(*factors_of(method, method.own_parts(k)[1:])["conv.weight"]) for k in range(3)], axis=0)
    expected = method.net.conv.weight.detach().numpy() * outer[:, :, None, None]
    np.testing.assert_allclose(weights["conv.weight"].detach().numpy(), expected, rtol=1e-5, atol=1e-7)
    heads = [method.late_weights(k)["head.weight"] for k in range(3)]
    torch.testing.assert_close(weights["head.weight"], torch.stack(heads).mean(0))
    plain = TinyNet()
    plain.load_state_dict(weights)
    x, _ = separable(9, 3)
    with torch.no_grad():
        torch.testing.assert_close(method.predict(x)[0], plain.eval()(x))


def test_factors_start_near_one_and_are_trained_from_the_first_epoch(recipe, batches):
    method = build(LatePhaseRank1, recipe, start=3)
    drawn = torch.cat([p.detach().flatten() for p in method.factors.parameters()])
    assert drawn.min() >= 0.99
    assert drawn.max() <= 1.01
    assert drawn.std() > 0.003
    train_epochs(method, make_optimizer(method, recipe), batches, last=2)
    assert not torch.equal(torch.cat([p.detach().flatten() for p in method.factors.parameters()]), drawn)


def test_factors_have_no_decay(recipe):
    method = build(LatePhaseRank1, recipe.model_copy(update={"weight_decay": 0.25}), K=2, start=0)
    decays = {name: group["weight_decay"] for group in method.param_groups() for name, _ in group["params"]}
    assert decays["factors.0.u"] == decays["late.1.1.v"] == 0.0
    assert decays["net.conv.weight"] == decays["late.0.0.weight"] == 0.25


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_late_rank1_is_algorithm_1(optimizer):
    """A linear network in float64; five minibatches in cycles of two; an optimizer per member."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 4, generator=generator).double(), torch.arange(30) % 3
    batches = list(zip(x.split(6), y.split(6), strict=True))
    recipe = Recipe(epochs=4, lr=0.05, weight_decay=0.0, optimizer=optimizer)
    make_net = MakeNet(lambda: nn.Linear(4, 3), seed=0)
    method = LatePhaseRank1(make_net, recipe, K=2, start=0, last_layer=False, gamma_theta="1/K").double()
    theta = nn.Linear(4, 3).double()
    theta.load_state_dict(method.net.state_dict())
    members = [[p.detach().clone().requires_grad_() for p in method.factors.parameters()] for _ in range(2)]
    update = (
        partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True)
        if optimizer == "sgd"
        else partial(torch.optim.Adam, lr=0.05)
    )
    step_base, step_member = update(theta.parameters()), [update(member) for member in members]
    sums = [torch.zeros_like(p) for p in theta.parameters()]
    for i, (x, y) in enumerate(batches * 4):  # cycles go on over the ends of epochs
        u, v = members[i % 2]
        loss = nn.functional.cross_entropy(((x * v) @ theta.weight.T) * u + theta.bias, y)
        *shared, u.grad, v.grad = torch.autograd.grad(loss, [*theta.parameters(), u, v])
        sums = [total + g for total, g in zip(sums, shared, strict=True)]
        step_member[i % 2].step()
        if i % 2:
            for p, total in zip(theta.parameters(), sums, strict=True):
                p.grad = total / 2
            step_base.step()
            sums = [torch.zeros_like(p) for p in theta.parameters()]
    train_epochs(method, make_optimizer(method, recipe), batches)
    torch.testing.assert_close(method.net.weight, theta.weight, rtol=1e-10, atol=1e-12)
    for k in range(2):
        for found, expected in zip(method.late[k].parameters(), members[k], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_recurrent_matrices_have_factors():
    recipe = Recipe(epochs=2, lr=0.01)
    method = LatePhaseRank1(MakeNet(Recurrent, 0), recipe, K=2, start=1)
    assert method.matrices == Rank1(MakeNet(Recurrent, 0), recipe).matrices == ["lstm.weight_hh_l0"], "as in the paper"
    assert method.names == []
    method = LatePhaseRank1(MakeNet(Recurrent, 0), recipe, K=2, start=1, matrices="all")
    assert method.matrices == ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]
    assert method.names == ["head"]
    x, _ = separable(7)
    plain = Recurrent().eval()
    weights = {name: value.detach() for name, value in method.own_weights().items()}
    plain.load_state_dict(weights)
    u, v = (f.detach() for f in (method.factors[1].u, method.factors[1].v))
    torch.testing.assert_close(plain.lstm.weight_hh_l0, method.net.lstm.weight_hh_l0 * torch.outer(u, v))
    with torch.no_grad():
        torch.testing.assert_close(method.eval()(x), plain(x))
        assert not torch.allclose(method(x), method.net(x), atol=1e-6), "changed weights reach the LSTM"
    loss = method.train().loss(*separable(7))
    loss.backward()
    assert method.factors[1].u.grad.abs().sum() > 0


def test_what_has_no_effect_is_refused(recipe):
    with pytest.raises(ValueError, match="needs an architecture with recurrent layers"):
        build(LatePhaseRank1, recipe, matrices="recurrent")
    with pytest.raises(ValueError, match="member_weight_decay applies to the layers that members own"):
        build(LatePhaseRank1, recipe, last_layer=False, member_weight_decay=0.5)
