"""Learned subspaces against their formulas."""

import math
from collections import Counter
from copy import deepcopy
from functools import partial
from itertools import combinations

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
from methods.core.subspace import squared_cosine
from methods.curve import Curve
from methods.line import Line
from methods.simplex import Simplex
from tests.conftest import TinyNet, build, separable
from tests.methods.loops import assert_close, finish, run

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


def test_a_curve_bent_at_the_midpoint_of_its_ends_is_the_line(recipe):
    line, curve = build(Line, recipe), build(Curve, recipe)
    curve.others[1].load_state_dict(line.weights_at(0.5), strict=False)
    for a in (-0.1, 0.0, 0.25, 0.6, 1.0):
        for key, value in line.weights_at(a).items():
            torch.testing.assert_close(curve.weights_at(a)[key], value, rtol=1e-5, atol=1e-6)


def test_a_simplex_of_two_trains_as_a_line_does(recipe, batches):
    line, simplex = build(Line, recipe), build(Simplex, recipe, m=2)
    line_draw = line.draw_alpha

    def draw(generator):
        a = line_draw(generator).double()
        return torch.stack([1 - a, a])

    simplex.draw_alpha = draw
    for method in (line, simplex):
        run(method, make_optimizer(method, recipe), batches, last=2)
    for key, value in line.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(simplex.state_dict()[key], value), key


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
def test_places_are_uniform_and_come_back_with_the_epoch(method, recipe, monkeypatch):
    made = build(method, recipe)
    seen = []
    monkeypatch.setattr(made, "at", lambda alpha, at=made.at: seen.append(float(alpha)) or at(alpha))
    x, y = separable(6)
    for epoch in (4, 4, 5):
        made.begin_epoch(epoch)
        for _ in range(200):
            made.loss(x, y)
    assert seen[:200] == seen[200:400] != seen[400:]
    assert seen[0] == torch.rand((), generator=stream(0, "alpha", 4)).item()
    assert np.mean(seen) == pytest.approx(0.5, abs=0.05)
    assert np.std(seen) == pytest.approx(math.sqrt(1 / 12), abs=0.03)


@pytest.mark.parametrize("layerwise", [False, True])
@pytest.mark.parametrize("m", [2, 3, 6])
def test_a_simplex_is_drawn_from_uniformly(m, layerwise, recipe):
    """The moments of Dirichlet(1, …, 1)."""
    simplex = build(Simplex, recipe, m=m, layerwise=layerwise)
    draws = torch.stack([simplex.draw_alpha(simplex.alpha_draws) for _ in range(4000)]).double().reshape(-1, m)
    torch.testing.assert_close(draws.sum(-1), torch.ones(len(draws)).double(), rtol=0, atol=1e-6)
    assert (draws >= 0).all()
    expected = -np.ones((m, m)) / (m**2 * (m + 1))
    np.fill_diagonal(expected, (m - 1) / (m**2 * (m + 1)))
    np.testing.assert_allclose(draws.mean(0), 1 / m, atol=0.015)
    np.testing.assert_allclose(np.cov(draws.T.numpy()), expected, atol=0.006)


@pytest.mark.parametrize("name", SUBSPACES)
def test_layerwise_every_layer_draws_its_own_place(name, recipe):
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


def test_the_penalty_is_the_squared_cosine_without_batch_norm(recipe):
    line = build(Line, recipe, beta=2.0)
    with torch.no_grad():
        line.net.norm.weight.fill_(9.0)
    penalty = 2 * cosine2(vector(line.net), vector(line.others[0]))
    x, y = separable(12)
    plain = line.recipe.criterion(line(x, line.weights_at(0.4)), y)
    assert line.loss(x, y, line.weights_at(0.4)).item() == pytest.approx(plain.item() + penalty, rel=1e-5)


@pytest.mark.parametrize(("method", "m"), [(Curve, 3), (partial(Simplex, m=4), 4)])
def test_the_penalty_takes_a_random_pair_every_time(method, m, recipe):
    made = build(method, recipe, beta=1.0)
    with torch.no_grad():  # so that every pair has a cosine of its own
        for i, net in enumerate(nets(made)):
            net.head.weight.add_(0.1 * 2**i)
    pairs = list(combinations(range(m), 2))
    known = {round(cosine2(vector(nets(made)[j]), vector(nets(made)[k])), 4): (j, k) for j, k in pairs}
    assert len(known) == len(pairs)
    x, y = separable(12)
    weights = {key: p.detach() for key, p in nets(made)[0].named_parameters()}
    plain = made.recipe.criterion(made(x, weights), y).item()
    n = 150 * len(pairs)
    counts = Counter()
    for _ in range(n):
        penalty = made.loss(x, y, weights).item() - plain
        counts[known[min(known, key=lambda value: abs(value - penalty))]] += 1
        assert min(abs(value - penalty) for value in known) < 1e-3
    assert counts.keys() == set(pairs)
    for count in counts.values():
        assert count == pytest.approx(150, abs=5 * math.sqrt(150))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_squared_cosine_and_its_gradient(layout):
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 3, 2, 2), (7,), (4, 6)]
    tensors = [torch.randn(shape, generator=generator) for shape in 2 * shapes]
    tensors = [t.to(memory_format=layout) if t.ndim == 4 else t for t in tensors]
    one, other = ([t.double().requires_grad_() for t in tensors] for _ in range(2))
    squared_cosine(one[:3], one[3:]).mul(3.0).backward()
    a, b = (torch.cat([t.flatten() for t in half]) for half in (other[:3], other[3:]))
    value = nn.functional.cosine_similarity(a, b, dim=0).square()
    value.mul(3.0).backward()
    torch.testing.assert_close(squared_cosine(one[:3], one[3:]), value)
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_decay_of_the_point_is_half_its_square(recipe):
    """As Garipov et al. have it: 0.5 · decay · ‖P(α)‖² in the loss, BatchNorm included, none in the optimizer."""
    curve = build(Curve, recipe, beta=0.0, decay="point")
    plain = build(Curve, recipe, beta=0.0)
    assert [group["weight_decay"] for group in curve.param_groups()] == [0.0]
    assert [group["weight_decay"] for group in plain.param_groups()] == [recipe.weight_decay]
    x, y = separable(12)
    square = sum((value**2).sum() for value in mixed(curve, SHARES["curve"](0.3)).values())
    difference = curve.loss(x, y, curve.weights_at(0.3)).item() - plain.loss(x, y, plain.weights_at(0.3)).item()
    assert difference == pytest.approx(0.5 * recipe.weight_decay * square, rel=1e-3)
    curve.loss(x, y, curve.weights_at(0.3)).backward()
    plain.loss(x, y, plain.weights_at(0.3)).backward()
    for net, other, share in zip(nets(curve), nets(plain), SHARES["curve"](0.3), strict=True):
        expected = other.conv.weight.grad + share * recipe.weight_decay * curve.weights_at(0.3)["conv.weight"]
        torch.testing.assert_close(net.conv.weight.grad, expected)


@pytest.mark.parametrize("name", SUBSPACES)
def test_decay_of_the_endpoints_is_the_optimizers(name, recipe):
    """One step of plain SGD: every network moves by −lr · (gradient + decay · weight)."""
    plain = Recipe(epochs=1, lr=0.1, momentum=0.0, weight_decay=0.01)
    method = build(SUBSPACES[name], plain, beta=0.5)
    x, y = separable(12)
    twin = deepcopy(method)
    for made in (method, twin):
        made.begin_epoch(0)
    twin.loss(x, y).backward()
    method.update([(x, y)], make_optimizer(method, plain))
    for (key, p), old in zip(method.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, old - 0.1 * (old.grad + 0.01 * old), msg=key)


# --- samples and feature similarity ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "s", "sizes"), [(12, 4, [3, 3, 3, 3]), (11, 3, [4, 4, 3]), (5, 4, [3, 2]), (3, 2, [3]), (1, 4, [1])]
)
def test_samples_split_the_minibatch(n, s, sizes, recipe):
    """A naive loop; every example counts equally, and no group has one example unless the minibatch does."""
    line = build(Line, recipe, beta=0.0, samples=s)
    x, y = separable(n)
    alphas = [0.1, 0.9, 0.4, 0.7][: len(sizes)]
    fixed_draws(line, alphas)
    loss = line.loss(x, y)
    expected, first = 0.0, 0
    for size, alpha in zip(sizes, alphas, strict=True):
        net = TinyNet().train()
        net.load_state_dict(line.weights_at(alpha), strict=False)
        group = slice(first, first + size)
        expected += size / n * nn.functional.cross_entropy(net(x[group]), y[group]).item()
        first += size
    assert first == n
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "layerwise", "distance"),
    [
        ("line", False, 0.6),
        ("curve", False, 0.6),
        ("simplex", False, 0.5),
        ("line", True, (0.6 + 0.1 + 0.3) / 3),
        ("simplex", True, (0.5 + 0.0 + 1.0) / 3),
    ],
)
@pytest.mark.parametrize("n", [10, 9])
def test_feature_similarity(name, layerwise, distance, n, recipe):
    """Equation 13 by hand: λ |α_j − α_k| cos²(φ_j, φ_k), φ what the last layer is given."""
    alphas = {
        ("line", False): [0.2, 0.8],
        ("curve", False): [0.2, 0.8],
        ("simplex", False): [[0.2, 0.3, 0.5], [0.5, 0.5, 0.0]],
        ("line", True): [[0.2, 0.5, 0.9], [0.8, 0.4, 0.6]],
        ("simplex", True): [
            [[0.2, 0.3, 0.5], [0.1, 0.2, 0.7], [1.0, 0.0, 0.0]],
            [[0.5, 0.5, 0.0], [0.1, 0.2, 0.7], [0.0, 0.0, 1.0]],
        ],
    }[name, layerwise]
    x, y = separable(n)
    losses, features = [], []
    for lam in (0.0, 3.0):
        method = build(SUBSPACES[name], recipe, beta=0.0, samples=2, lam=lam, layerwise=layerwise)
        fixed_draws(method, alphas)
        losses.append(method.loss(x, y).item())
    half = (n + 1) // 2
    for alpha, xs in zip(alphas, (x[:half], x[half:]), strict=True):
        net = TinyNet().train()
        net.load_state_dict(method.weights_at(alpha), strict=False)
        net.head = nn.Identity()
        features.append(net(xs).detach().double().numpy()[: n // 2].ravel())
    assert losses[1] - losses[0] == pytest.approx(3 * distance * cosine2(*features), rel=1e-3)


def test_feature_similarity_takes_a_random_pair_of_groups_and_needs_two(recipe):
    line = build(Line, recipe, beta=0.0, samples=3, lam=1.0)
    taken = []
    line.distance = lambda one, other: taken.append((float(one), float(other))) or 0.0
    x, y = separable(12)
    for _ in range(300):
        fixed_draws(line, [0.0, 0.25, 0.75])
        line.loss(x, y)
    counts = Counter(frozenset(pair) for pair in taken)
    assert counts.keys() == {frozenset(pair) for pair in combinations([0.0, 0.25, 0.75], 2)}
    assert all(count == pytest.approx(100, abs=45) for count in counts.values())
    fixed_draws(line, [0.5])
    plain = line.recipe.criterion(line(x[:3], line.weights_at(0.5)), y[:3])
    assert line.loss(x[:3], y[:3]).item() == pytest.approx(plain.item(), rel=1e-6), "one group has no pair"
    assert not line.net.head._forward_pre_hooks


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
    run(method, make_optimizer(method, recipe), batches, last=2)
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
    run(method, make_optimizer(method, recipe), batches, last=1)
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
    (Simplex, {"prediction": "point", "alpha": (0.5, 0.5)}, "m=3 shares that sum to one"),
    (Simplex, {"prediction": "point", "alpha": (0.5, 0.5, 0.5)}, "m=3 shares that sum to one"),
]


@pytest.mark.parametrize(("make", "options", "reason"), REFUSED)
def test_what_means_nothing_is_refused_with_the_reason(make, options, reason, recipe):
    with pytest.raises(ValueError, match=reason):
        build(make, recipe, **options)


@pytest.mark.parametrize("make", SUBSPACES.values())
def test_can_be_imagined_without_memory(make, recipe):
    with torch.device("meta"):
        method = build(make, recipe, prediction="random", layerwise=True, init="point")
    assert all(p.is_meta for p in method.parameters())
