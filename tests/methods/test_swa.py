"""Weight averaging against NumPy, torch's swa_utils and torchcontrib."""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from harness.optimizers import make_optimizer
from methods import SGD, SWA, LatePhaseBatchNorm, MakeNet, Recipe
from methods.batch_norm import reestimate
from tests.conftest import TinyNet, build
from tests.methods.loops import assert_close, finish, run, trajectory


def test_swa_is_the_arithmetic_mean(recipe, batches):
    swa = build(SWA, recipe, start=2)
    states = trajectory(swa, recipe, batches)
    for name, p in swa.average.net.named_parameters():
        mean = np.mean([state[name].double().numpy() for state in states[2:]], axis=0)
        np.testing.assert_allclose(p.numpy(), mean, rtol=1e-5, atol=1e-6)


def test_swa_equals_swa_utils(recipe, batches):
    swa = build(SWA, recipe, start=2)
    averaged = AveragedModel(deepcopy(swa.net))
    for state in trajectory(swa, recipe, batches)[2:]:
        net = TinyNet()
        net.load_state_dict(state)
        averaged.update_parameters(net)
    assert_close(dict(swa.average.net.named_parameters()), dict(averaged.module.named_parameters()))


def torchcontrib_swa(optimizer):
    """torchcontrib's SWA around an optimizer; it no longer sets `defaults` in time for today's torch."""
    from torchcontrib import optim

    class Shimmed(optim.SWA):
        defaults: dict = {}  # noqa: RUF012
        _optimizer_step_pre_hooks: dict = {}  # noqa: RUF012
        _optimizer_step_post_hooks: dict = {}  # noqa: RUF012

    return Shimmed(optimizer)


def test_swa_equals_torchcontrib_parameters_and_statistics(recipe, batches):
    swa = build(SWA, recipe, start=2, ratio=None)
    net = deepcopy(swa.net)
    run(swa, make_optimizer(swa, recipe), batches)
    finish(swa, batches)
    theirs = torchcontrib_swa(
        torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)
    )
    net.train()
    for epoch in range(recipe.epochs):
        for x, y in batches:
            theirs.optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            theirs.optimizer.step()
        if epoch >= 2:
            theirs.update_swa()
    theirs.swap_swa_sgd()
    theirs.bn_update(batches, net)
    state = net.state_dict()
    del state["norm.num_batches_tracked"]
    assert_close(state, swa.average.net.state_dict(), 1e-5)


def test_swa_schedule_is_the_published_one():
    swa = build(SWA, Recipe(epochs=200, lr=0.1))
    assert swa.start_epoch == 160
    assert [swa.lr(e) for e in (0, 80, 144, 160, 199)] == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.05])
    assert swa.lr(112) == pytest.approx(0.075)
    assert build(SWA, Recipe(epochs=200, lr=0.1), ratio=None).lr(199.9) == 0.1


def test_swa_schedule_is_held_within_an_epoch():
    swa = build(SWA, Recipe(epochs=200, lr=0.1))
    assert swa.lr(112.9) == swa.lr(112) != swa.lr(113)


def test_before_averaging_starts_swa_predicts_with_the_network(recipe, batches):
    swa = build(SWA, recipe, start=3)
    run(swa, make_optimizer(swa, recipe), batches, last=2)
    (weights,) = swa.eval().members()
    assert_close(dict(swa.inner.net.state_dict()), weights, 0)


def test_swa_re_estimates_every_members_statistics(recipe, batches):
    inner = partial(LatePhaseBatchNorm, K=3, start=2, sigma0=0.3, prediction="members")
    method = build(SWA, recipe, of=inner, start=3)
    run(method, make_optimizer(method, recipe), batches)
    finish(method, batches)
    for weights in method.members():
        net = TinyNet()
        net.load_state_dict(weights)
        plain = SGD(MakeNet(lambda net=net: net, 0), recipe)
        reestimate(plain, batches)
        assert_close(dict(plain.net.state_dict()), weights)


def test_swa_averages_each_member_over_time_then_members(recipe, batches):
    method = build(SWA, recipe, of=partial(LatePhaseBatchNorm, K=2, start=1, sigma0=0.1), start=3)
    optimizer = make_optimizer(method, recipe)
    scales = []
    for epoch in range(method.epochs):
        run(method, optimizer, batches, first=epoch, last=epoch + 1)
        scales.append([method.inner.late_weights(k)["norm.weight"].detach().clone() for k in range(2)])
    finish(method, batches)
    expected = torch.stack([torch.stack(members).mean(0) for members in scales[3:]]).mean(0)
    torch.testing.assert_close(next(iter(method.members()))["norm.weight"], expected)


def test_swa_refuses_to_start_before_its_members(recipe):
    with pytest.raises(
        ValueError, match="averaging starts in epoch 1, before LatePhaseBatchNorm itself starts in epoch 2"
    ):
        build(SWA, recipe, of=partial(LatePhaseBatchNorm, start=2), start=1)


@pytest.mark.parametrize("start", [6, 7, -1])
def test_a_start_beyond_the_end_is_refused(recipe, start):
    with pytest.raises(ValueError, match=f"start {start} is epoch {start}, but training has only epochs 0 to 5"):
        build(SWA, recipe, start=start)
