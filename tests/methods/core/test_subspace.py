"""Learned subspaces against their formulas."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

import models
from harness.running.optimizers import make_optimizer
from methods import SGD, MakeNet, Recipe
from methods.core.batch_norm import reestimate
from methods.core.random_streams import stream
from methods.curve import Curve
from methods.line import Line
from methods.simplex import Simplex
from tests.conftest import TinyNet, build, separable
from tests.methods.training import assert_close, finish, train_epochs

SUBSPACES = {"line": Line, "curve": Curve, "simplex": Simplex}
SHARES = {
    "line": lambda a: [1 - a, a],
    "curve": lambda a: [(1 - a) ** 2, a**2, 2 * a * (1 - a)],
    "simplex": lambda a: [1 - a, a / 4, 3 * a / 4],
}


def nets(method):
    return [method.net, *method.others]


def place(name, a):
    return SHARES["simplex"](a) if name == "simplex" else a


def mixed(method, shares):
    """The networks' parameters, mixed by NumPy in double precision."""
    columns = zip(*(net.named_parameters() for net in nets(method)), strict=True)
    return {
        column[0][0]: sum(s * p.detach().double().numpy() for s, (_, p) in zip(shares, column, strict=True))
        for column in columns
    }


def vector(net):
    """All weights but BatchNorm's."""
    return np.concatenate([p.detach().double().numpy().ravel() for n, p in net.named_parameters() if "norm" not in n])


def cosine2(a, b):
    return (a @ b) ** 2 / ((a @ a) * (b @ b))


def fixed_draws(method, alphas):
    """Let the method draw these places, in turn."""
    left = [torch.as_tensor(alpha) for alpha in alphas]
    method.draw_alpha = lambda generator: left.pop(0)


# --- points ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", [0.0, 0.3, 1.0, -0.05, 1.2])
@pytest.mark.parametrize("name", SUBSPACES)
def test_a_point_mixes_all_parameters_inside_and_beyond_the_subspace(name, a, recipe):
    method = build(SUBSPACES[name], recipe)
    with torch.no_grad():
        for p in method.parameters():
            p.add_(torch.randn_like(p))
    expected = mixed(method, SHARES[name](a))
    point = method.weights_at(place(name, a))
    assert list(point) == list(expected), "BatchNorm's scale and shift too"
    for key, value in point.items():
        np.testing.assert_allclose(value.detach().numpy(), expected[key], rtol=1e-5, atol=1e-6)


def test_ends_are_the_networks_drawn_in_order_and_independently(recipe):
    make_net = MakeNet(TinyNet, 0)
    drawn = [make_net() for _ in range(3)]
    line, curve, simplex = (build(method, recipe) for method in (Line, Curve, Simplex))
    for method, places in ((line, [0.0, 1.0]), (curve, [0.0, 1.0]), (simplex, np.eye(3).tolist())):
        for net, alpha in zip(drawn, places, strict=False):
            for key, value in net.named_parameters():
                assert torch.equal(method.weights_at(alpha)[key], value), (type(method), key)
    assert not torch.equal(drawn[0].conv.weight, drawn[1].conv.weight)
    torch.testing.assert_close(
        curve.weights_at(0.5)["conv.weight"],
        (drawn[0].conv.weight + drawn[1].conv.weight + 2 * drawn[2].conv.weight) / 4,
    )


def test_point_init_starts_all_networks_from_the_first_draw(recipe):
    simplex = build(Simplex, recipe, m=4, init="point")
    first = MakeNet(TinyNet, 0)()
    assert len(nets(simplex)) == 4
    for net in nets(simplex):
        for key, value in first.state_dict().items():
            assert torch.equal(net.state_dict()[key], value), key
    assert len({p.data_ptr() for p in simplex.parameters()}) == 4 * len(list(first.parameters()))


# --- draws -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [Line, Curve])
def test_coordinates_are_uniform_and_come_back_with_the_epoch(method, recipe, monkeypatch):
    made = build(method, recipe)
    seen = []
    monkeypatch.setattr(made, "weights_at", lambda alpha, at=made.weights_at: seen.append(float(alpha)) or at(alpha))
    x, y = separable(6)
    for epoch in (4, 4, 5):
        made.begin_epoch(epoch)
        for _ in range(200):
            made.loss(x, y)
    assert seen[:200] == seen[200:400] != seen[400:]
    assert seen[0] == torch.rand((), generator=stream(0, "alpha", 4)).item()
    assert np.mean(seen) == pytest.approx(0.5, abs=0.05)
    assert np.std(seen) == pytest.approx(math.sqrt(1 / 12), abs=0.03)


@pytest.mark.parametrize("name", SUBSPACES)
def test_layerwise_every_layer_draws_its_own_coordinates(name, recipe):
    method = build(SUBSPACES[name], recipe, layerwise=True)
    with torch.no_grad():
        for i, net in enumerate(nets(method)):
            for p in net.parameters():
                p.fill_(10.0**i)
    alphas = method.draw_alpha(method.alpha_draws)
    assert len(alphas) == 3, "convolution, BatchNorm, classifier"
    values = {}
    for key, value in method.weights_at(alphas).items():
        assert (value == value.flatten()[0]).all()
        values[key] = value.flatten()[0].item()
    for i, layer in enumerate(("conv", "norm", "head")):
        a = alphas[i].double()
        shares = a.tolist() if name == "simplex" else SHARES[name](a.item())
        expected = sum(share * 10.0**i for i, share in enumerate(shares))
        for key in values:
            if key.startswith(layer):
                assert values[key] == pytest.approx(expected, rel=1e-5), "a layer's weight and bias share a place"
    assert len({values["conv.weight"], values["norm.weight"], values["head.weight"]}) == 3


def test_layers_of_a_whole_architecture_are_told_apart():
    net = partial(models.build, "wrn-10-1", in_channels=1, classes=10, image_size=8)
    line = Line(MakeNet(net, 0), Recipe(epochs=1), layerwise=True)
    own = [name for name, layer in line.net.named_modules() if list(layer.parameters(recurse=False))]
    assert len(line.draw_alpha(line.alpha_draws)) == len(own)
    assert [own[i] for i in line.layer_of] == [name.rpartition(".")[0] for name in line.names]


# --- losses and gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("a", [0.3, 1.1])
@pytest.mark.parametrize("name", SUBSPACES)
def test_gradients_are_scaled_by_the_shares(name, a, recipe):
    """Equations 3 and 4: each network's gradient is its share times the gradient at the point."""
    method = build(SUBSPACES[name], recipe, beta=0.0)
    x, y = separable(12)
    method.loss(x, y, method.weights_at(place(name, a))).backward()
    point = {key: value.detach().requires_grad_() for key, value in method.weights_at(place(name, a)).items()}
    nn.functional.cross_entropy(functional_call(method.net, point, (x,)), y).backward()
    for net, share in zip(nets(method), SHARES[name](a), strict=True):
        for key, p in net.named_parameters():
            torch.testing.assert_close(p.grad, share * point[key].grad, rtol=1e-4, atol=1e-6)


# --- prediction --------------------------------------------------------------------------------------------

PREDICTIONS = {
    "line midpoint": (Line, {}, [[0.5, 0.5]]),
    "line pair": (Line, {"prediction": "pair", "alpha": 0.2}, [[0.8, 0.2], [0.2, 0.8]]),
    "line ends": (Line, {"prediction": "pair"}, [[1.0, 0.0], [0.0, 1.0]]),
    "line point": (Line, {"prediction": "point", "alpha": 1.05}, [[-0.05, 1.05]]),
    "curve midpoint": (Curve, {}, [[0.25, 0.25, 0.5]]),
    "curve pair": (Curve, {"prediction": "pair", "alpha": 0.1}, [[0.81, 0.01, 0.18], [0.01, 0.81, 0.18]]),
    "simplex midpoint": (Simplex, {"m": 4}, [[0.25] * 4]),
    "simplex point": (Simplex, {"prediction": "point", "alpha": (0.3, 0.9, -0.2)}, [[0.3, 0.9, -0.2]]),
    "simplex vertex": (Simplex, {"prediction": "point"}, [[1.0, 0.0, 0.0]]),
}


@pytest.mark.parametrize("name", PREDICTIONS)
def test_members_are_the_points_each_with_its_own_statistics(name, recipe, batches):
    make, options, places = PREDICTIONS[name]
    method = build(make, recipe, **options)
    train_epochs(method, make_optimizer(method, recipe), batches, last=2)
    finish(method, batches)
    for shares, weights in zip(places, method.members(), strict=True):
        net = TinyNet()
        point = {key: torch.from_numpy(value) for key, value in mixed(method, shares).items()}
        net.load_state_dict(point, strict=False)
        plain = SGD(MakeNet(lambda net=net: net, 0), recipe)
        reestimate(plain, batches)
        assert_close(plain.own_weights(), weights, 1e-5)


@pytest.mark.parametrize("layerwise", [False, True])
@pytest.mark.parametrize("name", SUBSPACES)
def test_random_points_are_drawn_once_as_in_training(name, layerwise, recipe, batches):
    make = partial(SUBSPACES[name], prediction="random", points=5, layerwise=layerwise)
    method = build(make, recipe)
    train_epochs(method, make_optimizer(method, recipe), batches, last=1)
    before = [alpha.clone() for alpha in method.prediction_alphas]
    finish(method, batches)
    members = method.members()
    assert len(members) == 5
    for alpha, old, weights, own in zip(method.prediction_alphas, before, members, method.statistics, strict=True):
        assert torch.equal(alpha, old), "whatever the epoch"
        assert alpha.shape[: 1 if layerwise else 0] == ((3,) if layerwise else ())
        mean = torch.stack([method.weights_at(alpha)["conv.weight"], weights["conv.weight"]])
        assert torch.equal(mean[0], mean[1])
        assert torch.equal(weights["norm.running_mean"], own.named()["norm.running_mean"])
    assert len({weights["conv.weight"].flatten()[0].item() for weights in members}) == 5
    assert len({weights["norm.running_mean"][0].item() for weights in members}) == 5
    assert not torch.equal(build(make, recipe, seed=1).prediction_alphas[0], method.prediction_alphas[0])


def test_many_random_points_are_uniform(recipe):
    line = build(Line, recipe, prediction="random", points=500)
    alphas = np.array([float(alpha) for alpha in line.prediction_alphas])
    assert alphas.mean() == pytest.approx(0.5, abs=0.05)
    assert alphas.std() == pytest.approx(math.sqrt(1 / 12), abs=0.03)


REFUSED = [
    (Line, {"alpha": 0.2}, "alpha=0.2 is the position of a pair or a point"),
    (Curve, {"prediction": "random", "alpha": 0.2}, "alpha=0.2 is the position of a pair or a point"),
    (Line, {"points": 3}, "points=3 is the number of random points"),
    (Line, {"lam": 1.0}, "lam=1.0 compares groups .* samples of 2 or more, not 1"),
    (Line, {"samples": 65}, "samples=65 groups of two do not fit into minibatches of 128"),
    (Simplex, {"m": 1}, "m=1: a simplex needs two"),
    (Simplex, {"prediction": "pair"}, "a point of a simplex has no opposite"),
    (Simplex, {"alpha": (0.5, 0.5, 0.0)}, "it needs prediction=point"),
    (Simplex, {"prediction": "point", "alpha": (0.5, 0.5)}, "has m=3 numbers, which sum to one"),
    (Simplex, {"prediction": "point", "alpha": (0.5, 0.5, 0.5)}, "has m=3 numbers, which sum to one"),
]


@pytest.mark.parametrize(("make", "options", "reason"), REFUSED)
def test_what_means_nothing_is_refused_with_the_reason(make, options, reason, recipe):
    with pytest.raises(ValueError, match=reason):
        build(make, recipe, **options)


@pytest.mark.parametrize("make", SUBSPACES.values())
def test_can_be_built_on_the_meta_device(make, recipe):
    with torch.device("meta"):
        method = build(make, recipe, prediction="random", layerwise=True, init="point")
    assert all(p.is_meta for p in method.parameters())
