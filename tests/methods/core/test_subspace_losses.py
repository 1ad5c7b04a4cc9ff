"""The losses of subspaces by hand: penalty, weight decay, groups of a minibatch, feature similarity."""

import math
from collections import Counter
from copy import deepcopy
from functools import partial
from itertools import combinations

import pytest
import torch
from torch import nn

from harness.running.optimizers import make_optimizer
from methods import Recipe
from methods.core.subspace import squared_cosine
from methods.curve import Curve
from methods.line import Line
from methods.simplex import Simplex
from tests.conftest import TinyNet, build, separable
from tests.methods.core.test_subspace import SHARES, SUBSPACES, cosine2, fixed_draws, mixed, nets, vector


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
