"""Weight averaging against NumPy, torch's swa_utils and torchcontrib."""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from harness.running.optimizers import make_optimizer
from methods import SGD, SWA, SWAG, LatePhaseBatchNorm, MakeNet, Recipe
from methods.core.batch_norm import reestimate
from methods.core.weight_averaging import flatten
from tests.conftest import TinyNet, build
from tests.methods.training import assert_close, finish, train_epochs, trajectory


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
    train_epochs(swa, make_optimizer(swa, recipe), batches)
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
    train_epochs(swa, make_optimizer(swa, recipe), batches, last=2)
    (weights,) = swa.eval().members()
    assert_close(dict(swa.inner.net.state_dict()), weights, 0)


def test_swa_re_estimates_every_members_statistics(recipe, batches):
    inner = partial(LatePhaseBatchNorm, K=3, start=2, sigma0=0.3, prediction="members")
    method = build(SWA, recipe, of=inner, start=3)
    train_epochs(method, make_optimizer(method, recipe), batches)
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
        train_epochs(method, optimizer, batches, first=epoch, last=epoch + 1)
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


def test_a_cyclic_rate_falls_in_every_cycle_and_starts_again():
    swa = build(SWA, Recipe(epochs=20, lr=0.2), start=0.5, rate="cyclic", checkpoints=4, ratio=0.5, low=0.05)
    assert swa.cycle_ends == [12, 15, 18, 20]
    for epoch in np.arange(10, 20, 0.125):
        begin, end = next((b, e) for b, e in zip([10, 12, 15, 18], swa.cycle_ends, strict=True) if b <= epoch < e)
        expected = np.interp(epoch, [begin, end], [0.1, 0.01])
        assert swa.lr(epoch) == pytest.approx(expected, rel=1e-9)
    assert [swa.lr(e) for e in (0, 5, 9)] == pytest.approx([0.2, 0.2, 0.1]), "until then as with a high rate"
    every = build(SWA, Recipe(epochs=20, lr=0.2), start=10, rate="cyclic", low=0.25)
    assert [every.lr(e) for e in (12, 12.5, 13)] == pytest.approx([0.1, 0.075, 0.1])


def test_checkpoints_are_equally_spaced_and_the_last_is_the_end(recipe, batches):
    swa = build(SWA, recipe, start=1, checkpoints=3)
    assert swa.cycle_ends == [3, 4, 6]
    states = trajectory(swa, recipe, batches)
    for name, p in swa.average.net.named_parameters():
        mean = np.mean([states[end - 1][name].double().numpy() for end in swa.cycle_ends], axis=0)
        np.testing.assert_allclose(p.numpy(), mean, rtol=1e-5, atol=1e-6)
    assert not swa.snapshots, "an average alone keeps no checkpoints"


def test_before_its_first_checkpoint_swa_predicts_with_the_network(recipe, batches):
    swa = build(SWA, recipe, start=2, checkpoints=1)
    train_epochs(swa, make_optimizer(swa, recipe), batches, last=5)
    assert_close(dict(swa.inner.net.state_dict()), next(iter(swa.members())), 0)


def test_every_step_is_algorithm_2(recipe, batches):
    """θ_SWA ← (t·θ_SWA + θ)/(t + 1) after every step of plain training from the start on."""
    swa = build(SWA, recipe, start=4, every="step", ratio=None)
    net = deepcopy(swa.net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)
    averages, t = [np.zeros(p.shape) for p in net.parameters()], 0
    for epoch in range(recipe.epochs):
        for x, y in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
            if epoch >= 4:
                averages = [
                    (t * a + p.detach().double().numpy()) / (t + 1)
                    for a, p in zip(averages, net.parameters(), strict=True)
                ]
                t += 1
    train_epochs(swa, make_optimizer(swa, recipe), batches)
    assert swa.steps == t == 2 * len(batches)
    for mine, expected in zip(swa.average.net.parameters(), averages, strict=True):
        np.testing.assert_allclose(mine.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_an_ensemble_of_checkpoints_keeps_their_own_statistics(recipe, batches):
    swa = build(SWA, recipe, start=1, checkpoints=3, prediction="checkpoints")
    states = trajectory(swa, recipe, batches)
    finish(swa, batches)
    members = list(swa.members())
    assert len(members) == 3
    for end, weights in zip([3, 4, 6], members, strict=True):
        assert_close(states[end - 1], weights, 0)


def simplex_of(recipe, batches, **hyperparameters):
    swa = build(SWA, recipe, start=1, checkpoints=3, prediction="simplex", **hyperparameters)
    states = trajectory(swa, recipe, batches)
    corners = [
        flatten(states[end - 1][name] for name, _ in swa.net.named_parameters()).double() for end in swa.cycle_ends
    ]
    return finish(swa, batches), torch.stack(corners).numpy()


def test_points_of_the_simplex_are_convex_combinations_with_statistics_of_their_own(recipe, batches):
    swa, corners = simplex_of(recipe, batches, points=4)
    members = list(swa.members())
    assert len(members) == 4
    for weights in members:
        point = flatten(weights[name] for name, _ in swa.net.named_parameters()).double().numpy()
        shares = np.linalg.lstsq(corners.T, point, rcond=None)[0]
        np.testing.assert_allclose(shares @ corners, point, atol=1e-6)
        np.testing.assert_allclose(shares.sum(), 1, atol=1e-5)
        assert (shares > 0).all()
        net = TinyNet()
        net.load_state_dict(weights)
        plain = SGD(MakeNet(lambda net=net: net, 0), recipe)
        reestimate(plain, batches)
        assert_close(dict(plain.net.state_dict()), weights)
    assert not torch.equal(members[0]["head.weight"], members[1]["head.weight"])


@pytest.mark.parametrize("prediction", ["point", "pair"])
def test_points_on_the_line_between_two_checkpoints(prediction, recipe, batches):
    """Figure 18 of the subspaces' paper, and a little beyond the line's ends."""
    swa = build(SWA, recipe, start=1, checkpoints=2, prediction=prediction, alpha=(1.2, -0.2))
    states = trajectory(swa, recipe, batches)
    first, second = (states[end - 1] for end in swa.cycle_ends)
    members = list(finish(swa, batches).members())
    for weights, share in zip(members, (1.2, -0.2), strict=prediction == "pair"):
        for name, _ in swa.net.named_parameters():
            torch.testing.assert_close(weights[name], share * first[name] + (1 - share) * second[name])
        net = TinyNet()
        net.load_state_dict(weights)
        plain = SGD(MakeNet(lambda net=net: net, 0), recipe)
        reestimate(plain, batches)
        assert_close(dict(plain.net.state_dict()), weights)
    assert len(members) == (2 if prediction == "pair" else 1)


def test_points_of_the_simplex_are_uniform(recipe, batches):
    """Shares of Dirichlet(1, 1, 1) have mean 1/3, variance 1/18 and covariance −1/36."""
    swa, corners = simplex_of(recipe, batches)
    mean = flatten(swa.average.parameters())
    points = torch.stack([swa.point_weights(i, mean) for i in range(2000)]).double().numpy()
    shares = np.linalg.lstsq(corners.T, points.T, rcond=None)[0]
    np.testing.assert_allclose(shares.mean(1), np.full(3, 1 / 3), atol=0.02)
    np.testing.assert_allclose(np.cov(shares), (np.eye(3) - 1 / 3) / 12, atol=0.006)


def test_computing_points_leaves_the_average_as_it_was(recipe, batches):
    swa, _ = simplex_of(recipe, batches)
    before = deepcopy(swa.state_dict())
    waiting = iter(swa.members())
    first = deepcopy(next(waiting))  # and no further
    assert_close(before, swa.state_dict() | {key: before[key] for key in before if key.endswith("extra_state")}, 0)
    x = batches[0][0]
    with torch.no_grad():
        expected = torch.stack([swa(x, weights) for weights in swa.members()])
        assert torch.equal(swa.predict(x), expected)
    assert_close(first, next(iter(swa.members())), 0)


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"checkpoints": 4}, "4 checkpoints do not fit into 3 epochs"),
        ({"rate": "cyclic", "ratio": None}, "falls from ratio to low, but ratio=None"),
        ({"rate": "cyclic", "ratio": 0.05}, "falls from ratio to low, but ratio=0.05 and low=0.1"),
        ({"prediction": "checkpoints"}, "prediction=checkpoints keeps the checkpoints: it needs their number"),
        ({"prediction": "simplex"}, "prediction=simplex keeps the checkpoints: it needs their number"),
        ({"every": "step", "checkpoints": 2}, "every=step averages all states alike"),
        ({"every": "step", "rate": "cyclic"}, "every=step averages all states alike"),
        ({"low": 0.1}, "low=0.1 is the lowest rate of a cycle; it needs rate=cyclic"),
        ({"points": 3}, "points=3 is the number of random points; it needs prediction=simplex"),
        (
            {"checkpoints": 2, "alpha": (0.5, 0.5)},
            "prediction=point and prediction=pair need alpha, others have none",
        ),
        ({"checkpoints": 2, "prediction": "pair"}, "alpha=None: prediction=point and prediction=pair need alpha"),
        (
            {"checkpoints": 2, "prediction": "point", "alpha": (0.5, 0.6)},
            "alpha has checkpoints=2 numbers, which sum to",
        ),
        (
            {"checkpoints": 3, "prediction": "pair", "alpha": (0.5, 0.5, 0.0)},
            "only a line, of checkpoints=2, has opposite",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(recipe, hyperparameters, message):
    with pytest.raises(ValueError, match=message):
        build(SWA, recipe, start=3, **hyperparameters)


@pytest.mark.parametrize(
    ("prediction", "passes", "forwards"),
    [("average", 1, 1), ("checkpoints", 0, 2), ("simplex", 6, 6), ("point", 1, 1), ("pair", 2, 2)],
)
def test_its_cost_is_what_it_says(prediction, passes, forwards):
    known = {"prediction": prediction, "checkpoints": 2, "points": 6}
    assert (eval(SWA.about.passes, known), eval(SWA.about.prediction, known)) == (passes, forwards)


class Watching(SGD):
    """Asks for held-out data, and does nothing with them."""

    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.watches = "validation"


def test_a_method_that_watches_is_averaged_once_an_epoch(recipe, batches):
    swa, plain = build(SWA, recipe, of=Watching, start=2), build(SWA, recipe, start=2)
    for method in (swa, plain):
        train_epochs(method, make_optimizer(method, recipe), batches)
    assert_close(dict(plain.average.net.named_parameters()), dict(swa.average.net.named_parameters()), 0)


class Counting(Watching):
    """Counts, in a buffer, how often it was given held-out data."""

    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.register_buffer("looks", torch.zeros(()))

    def watch(self, held_out, training):
        self.looks += 1


@pytest.mark.parametrize("wrapper", [SWA, SWAG])
def test_an_average_has_what_watching_changed(wrapper, recipe, batches):
    method = build(wrapper, recipe, of=Counting, start=2)
    train_epochs(method, make_optimizer(method, recipe), batches)
    assert method.average.looks == method.inner.looks == recipe.epochs
