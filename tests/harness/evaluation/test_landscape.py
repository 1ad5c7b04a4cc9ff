"""Tests paths, planes and flatness against direct computations, and that measuring changes nothing."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from harness.evaluation import landscape
from harness.evaluation.landscape import (
    LandscapeData,
    UnavailableError,
    anchor_coefficients,
    measure_flatness,
    measure_landscape,
    measure_path,
    measure_plane,
    plane_coordinates,
)
from harness.evaluation.weight_space import (
    AccuracyAndNll,
    AnchorCombinations,
    anchor_distances,
    anchor_vectors,
    subsample,
)
from harness.studies.extra_measurements import ExtraMeasurements, FlatnessMeasurement, PathMeasurement, PlaneMeasurement
from methods import (
    SGD,
    Anchor,
    BatchEnsemble,
    Curve,
    DeepEnsemble,
    HypernetEnsemble,
    LatePhaseBatchNorm,
    Line,
    MakeNet,
    Recipe,
    Simplex,
)
from methods.core.batch_norm import reestimate
from tests.conftest import TinyLSTM, build, separable
from tests.methods.training import trained


class Minibatches(list):
    """Minibatches of one part, as the harness has them."""

    @property
    def examples(self):
        return sum(len(x) for x, _ in self)


def batches(n, seed, size=16):
    x, y = separable(n, seed)
    return Minibatches(zip(x.split(size), y.split(size), strict=True))


@pytest.fixture
def examples():
    return LandscapeData(test=batches(41, 5), train=batches(50, 0), statistics=batches(50, 0))


@pytest.fixture
def recipe():
    return Recipe(epochs=3, lr=0.05)


def naive(method, weights, data):
    """Accuracy and NLL of one network, one example at a time, in float64."""
    right, nll, count = 0, 0.0, 0
    with torch.no_grad():
        for x, y in data:
            for log_p, c in zip(method(x, weights).double().log_softmax(-1), y, strict=True):
                right, nll, count = right + int(log_p.argmax() == c), nll - log_p[c].item(), count + 1
    return 100 * right / count, nll / count


def reestimated(method, parameters, data):
    """The network with these parameters, with statistics of its own."""
    point = {**parameters, **{name: value.clone() for name, value in method.net.named_buffers()}}
    reestimate(method, data, point)
    return point


# --- points ---------------------------------------------------------------------------------------------------


def test_a_point_combines_all_weights_and_has_statistics_of_its_own(recipe, examples):
    method = trained(Line, recipe, examples.train)
    points = AnchorCombinations(method, list(method.anchors()), examples.statistics)
    expected = reestimated(method, method.weights_at(0.3), examples.statistics)
    found = points.weights_at([0.7, 0.3])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
    (end, _) = method.omegas()
    for name, value in zip(method.names, end, strict=True):
        assert torch.equal(points.weights_at([1.0, 0.0])[name], value), "an end is met exactly"


def test_statistics_that_anchors_share_are_kept_and_others_are_not(recipe, examples):
    for make, kept in (
        (partial(HypernetEnsemble, K=3, start=1, batch_norm="shared"), True),
        (partial(HypernetEnsemble, K=3, start=1), False),
        (partial(BatchEnsemble, K=3), True),
        (partial(LatePhaseBatchNorm, K=3, start=1), False),
    ):
        method = trained(make, recipe, examples.train)
        points = AnchorCombinations(method, list(method.anchors()), examples.statistics)
        assert points.shared_statistics == kept
        found = points.weights_at([0.5, 0.8, -0.3])
        if kept:
            assert torch.equal(found["norm.running_mean"], method.net.norm.running_mean)
            assert found["norm.running_mean"] is not method.net.norm.running_mean
        else:
            own = reestimated(method, {n: t for n, t in found.items() if "running" not in n}, examples.statistics)
            torch.testing.assert_close(found["norm.running_var"], own["norm.running_var"])
            assert not torch.equal(found["norm.running_var"], method.net.norm.running_var)


def test_a_network_without_batch_norm_needs_no_pass(recipe):
    class Refused:
        def __iter__(self):
            raise AssertionError("a pass")

    method = build(Line, recipe, net="lstm")
    point = AnchorCombinations(method, list(method.anchors()), Refused()).weights_at([0.5, 0.5])
    assert point.keys() == dict(TinyLSTM().named_parameters()).keys()


def test_a_tally_is_what_all_at_once_would_be():
    generator = torch.Generator().manual_seed(0)
    logits, y = 3 * torch.randn(2, 31, 4, generator=generator), torch.randint(4, (31,), generator=generator)
    total, averaged = AccuracyAndNll(), AccuracyAndNll()
    for part in (slice(0, 7), slice(7, 8), slice(8, 31)):
        total.add(logits[:, part], y[part])
        averaged.add(logits[:, part], y[part], logit_average=True)
    p = logits.double().softmax(-1).mean(0)
    assert total.nll == pytest.approx(-p[range(31), y].log().mean().item(), abs=1e-12)
    assert total.accuracy == pytest.approx(100 * (p.argmax(-1) == y).double().mean().item())
    assert averaged.nll == pytest.approx(F.cross_entropy(logits.double().mean(0), y).item(), abs=1e-12)
    assert total.nll != pytest.approx(averaged.nll)


def test_text_counts_symbols_and_leaves_padding_out():
    logits, y = torch.randn(2, 3, 5, 4), torch.tensor([[0, 1, 2, 4], [3, -1, -1, -1], [1, 1, 0, 2]])  # (K, B, C, T)
    total = AccuracyAndNll()
    total.add(logits, y)
    p = logits.double().softmax(2).mean(0)
    expected = [-p[b, y[b, t], t].log().item() for b in range(3) for t in range(4) if y[b, t] >= 0]
    assert total.examples == 9 and total.nll == pytest.approx(np.mean(expected), abs=1e-12)


def test_a_network_that_gives_no_number_is_never_right():
    total = AccuracyAndNll()
    total.add(torch.full((1, 4, 3), torch.nan), torch.zeros(4, dtype=torch.int64))
    assert total.accuracy == 0.0 and np.isnan(total.nll)


def test_few_examples_are_spread_over_all():
    data = Minibatches([(torch.arange(4.0), torch.arange(4)), (torch.arange(4.0, 10.0), torch.arange(4, 10))])
    assert torch.cat([y for _, y in subsample(data, 5)]).tolist() == [0, 2, 4, 6, 8]
    assert torch.cat([x for x, _ in subsample(data, 3)]).tolist() == [0.0, 3.0, 6.0]
    assert subsample(data, 10) is data and subsample(data, None) is data


def test_distances_leave_batch_norm_out(recipe, examples):
    method = trained(Simplex, recipe, examples.train)
    flat = [
        torch.cat([p.flatten() for name, p in net.named_parameters() if "norm" not in name]).double()
        for net in (method.net, *method.others)
    ]
    pairs = [(flat[i], flat[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    cosines = [F.cosine_similarity(a, b, dim=0).item() for a, b in pairs]
    found = anchor_distances(method.net, method.anchors())
    assert found["l2"] == pytest.approx(np.mean([(a - b).norm().item() for a, b in pairs]))
    assert found["cosine"] == pytest.approx(np.mean(cosines))
    assert found["squared_cosine"] == pytest.approx(np.mean(np.square(cosines)))
    assert found["squared_cosine"] != pytest.approx(found["cosine"] ** 2)
    assert anchor_distances(method.net, [Anchor(dict(method.net.named_parameters()))]) == {}


def test_embeddings_count_only_if_all_have_one(recipe, examples):
    method = trained(partial(HypernetEnsemble, K=2, start=1), recipe, examples.train)
    anchors = list(method.anchors())
    assert [len(each) for each in anchor_vectors(method.net, anchors)] == [anchors[0].embedding[0].numel()] * 2
    third = Anchor(anchors[0].weights)
    sizes = {len(each) for each in anchor_vectors(method.net, [*anchors, third])}
    assert sizes == {4 * 9 + 4 * 9 * 3 + 3}, "the convolution, the last layer, no BatchNorm"


# --- along a path ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Line, Curve])
def test_a_path_scores_its_networks_and_pairs(make, recipe, examples):
    method = trained(make, recipe, examples.train)
    found = measure_path(method, PathMeasurement(points=5, margin=0.25), examples)
    np.testing.assert_allclose(found["alpha"], [-0.25, 0.125, 0.5, 0.875, 1.25])
    x, y = (torch.cat(parts) for parts in zip(*examples.test, strict=True))
    for i, alpha in enumerate(found["alpha"]):
        networks = [reestimated(method, method.weights_at(place), examples.statistics) for place in (alpha, 1 - alpha)]
        accuracy, nll = naive(method, networks[0], examples.test)
        assert found["accuracy"][i] == pytest.approx(accuracy)
        assert found["nll"][i] == pytest.approx(nll, rel=1e-5)
        with torch.no_grad():
            logits = torch.stack([method(x, weights) for weights in networks]).double()
        p = logits.softmax(-1).mean(0)
        assert found["pair_nll"][i] == pytest.approx(-p[range(len(y)), y].log().mean().item(), rel=1e-5)
        assert found["pair_accuracy"][i] == pytest.approx(100 * (p.argmax(-1) == y).double().mean().item())
        assert found["logit_pair_nll"][i] == pytest.approx(F.cross_entropy(logits.mean(0), y).item(), rel=1e-5)
    assert found["pair_nll"][2] == found["nll"][2], "in the middle there is one network"
    np.testing.assert_array_equal(found["pair_accuracy"], found["pair_accuracy"][::-1])


def test_a_path_may_have_no_middle(recipe, examples):
    found = measure_path(trained(Line, recipe, examples.train), PathMeasurement(points=2), examples)
    assert found["alpha"].tolist() == [0.0, 1.0] and len(found["nll"]) == 2


# --- planes ---------------------------------------------------------------------------------------------------


def test_coordinates_keep_distances_and_angles():
    generator = torch.Generator().manual_seed(0)
    points = [torch.randn(50, generator=generator) for _ in range(3)]
    found = plane_coordinates(points)
    assert found[0].tolist() == [0.0, 0.0] and found[1, 1] == 0.0 and found[2, 1] > 0
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(found[i] - found[j]) == pytest.approx((points[i] - points[j]).norm().item(), rel=1e-6)
    place = found[0] + np.array([1.3, -0.7])
    shares = anchor_coefficients(*place, found)
    assert sum(shares) == pytest.approx(1.0)
    np.testing.assert_allclose(np.array(shares) @ found, place, atol=1e-12)
    for corner, expected in zip(found, np.eye(3), strict=True):
        np.testing.assert_allclose(anchor_coefficients(*corner, found), expected, atol=1e-12)


@pytest.mark.parametrize("third", [0.0, 1.0, 0.3, 2.0])
def test_three_networks_on_a_line_span_no_plane(third):
    one, two = torch.randn(20), torch.randn(20)
    with pytest.raises(UnavailableError, match="lie on one line"):
        plane_coordinates([one, two, (1 - third) * one + third * two])
    with pytest.raises(UnavailableError, match="lie on one line"):
        plane_coordinates([one, one, two])


def test_a_plane_scores_each_point_of_its_grid(recipe, examples):
    method = trained(Simplex, recipe, examples.train)
    found = measure_plane(
        method, PlaneMeasurement(points=3, margin=0.5, examples=20, train_examples=10), examples, None
    )
    assert found["names"].tolist() == ["1", "2", "3"] and found["space"].item() == "weights"
    width, height = found["anchors"].max(0) - found["anchors"].min(0)
    assert found["x"][[0, -1]] == pytest.approx([-0.5 * width, 1.5 * width])
    assert found["y"][[0, -1]] == pytest.approx([-0.5 * height, 1.5 * height])
    test, train = list(subsample(examples.test, 20)), list(subsample(examples.train, 10))
    assert sum(len(x) for x, _ in test) == 20 and sum(len(x) for x, _ in train) == 10
    for row, column in ((0, 2), (1, 1), (2, 0)):
        shares = anchor_coefficients(found["x"][column], found["y"][row], found["anchors"])
        network = reestimated(method, method.weights_at(shares), examples.statistics)
        accuracy, nll = naive(method, network, test)
        assert found["accuracy"][row, column] == pytest.approx(accuracy)
        assert found["nll"][row, column] == pytest.approx(nll, rel=1e-4)
        assert found["train_nll"][row, column] == pytest.approx(naive(method, network, train)[1], rel=1e-4)
    np.testing.assert_allclose(found["path"][[0, -1]], found["anchors"][:2], atol=1e-12)


def test_a_curve_is_seen_on_its_plane(recipe, examples):
    method = trained(Curve, recipe, examples.train)
    found = measure_plane(method, PlaneMeasurement(points=2, train_examples=0), examples, None)
    assert "train_nll" not in found
    one, two, bend = found["anchors"]
    np.testing.assert_allclose(found["path"][30], 0.25 * one + 0.25 * two + 0.5 * bend)


def test_plain_training_is_the_third_network_of_a_line(recipe, examples):
    method = trained(Line, recipe, examples.train)
    plain = Anchor(dict(build(SGD, recipe, seed=1).net.named_parameters()))
    found = measure_plane(method, PlaneMeasurement(points=2, margin=0.0, third="sgd"), examples, plain)
    assert found["names"].tolist() == ["1", "2", "sgd"]
    _, ends, other = anchor_vectors(method.net, [*method.anchors(), plain])
    assert np.linalg.norm(found["anchors"][2] - found["anchors"][1]) == pytest.approx((ends - other).norm().item())


def test_specialists_span_a_plane_of_embeddings(recipe, examples):
    method = trained(partial(HypernetEnsemble, K=3, start=1, batch_norm="shared"), recipe, examples.train)
    found = measure_plane(method, PlaneMeasurement(points=2, margin=0.0), examples, None)
    one, two, _ = (anchor.embedding[0] for anchor in method.anchors())
    assert found["space"].item() == "embeddings"
    assert found["anchors"][1, 0] == pytest.approx((one - two).norm().item(), rel=1e-6)
    shares = anchor_coefficients(found["x"][1], found["y"][0], found["anchors"])
    members = [anchor.weights for anchor in method.anchors()]
    mixed = {name: sum(s * each[name] for s, each in zip(shares, members, strict=True)) for name in members[0]}
    kept = {**mixed, **dict(method.net.named_buffers())}
    expected = naive(method, kept, examples.test)
    assert (found["accuracy"][0, 1], found["nll"][0, 1]) == pytest.approx(expected, rel=1e-5)


# --- flatness -------------------------------------------------------------------------------------------------


def test_a_path_under_corruption(recipe, examples):
    """The scores of examples that are darkened according to the severity."""
    method = trained(Line, recipe, examples.train)
    corrupted = {s: batches(41, 5) for s in (1, 4)}
    for s, part in corrupted.items():
        corrupted[s] = Minibatches((x - s, y) for x, y in part)
    asked = PathMeasurement(points=3, corruptions=("brightness",), severities=(1, 4))
    both = replace(examples, corrupted=lambda name, s: {"brightness": corrupted}[name][s])
    found = measure_path(method, asked, both)
    for s, part in corrupted.items():
        alone = measure_path(method, PathMeasurement(points=3), replace(examples, test=part))
        for name in ("accuracy", "nll", "pair_accuracy", "pair_nll", "logit_pair_nll"):
            np.testing.assert_array_equal(found[f"brightness_{s}_{name}"], alone[name])
    np.testing.assert_array_equal(found["nll"], measure_path(method, PathMeasurement(points=3), examples)["nll"])
    with pytest.raises(landscape.UnavailableError, match="no corrupted test examples of text"):
        measure_path(method, asked, examples)
    with pytest.raises(ValueError, match="unknown corruption 'rain'"):
        PathMeasurement(corruptions=("rain",))


def test_flatness_adds_noise_in_proportion_to_each_weight(recipe, examples):
    method = trained(partial(LatePhaseBatchNorm, K=2, start=1, prediction="members"), recipe, examples.train)
    found = measure_flatness(method, FlatnessMeasurement(sigmas=(0.0, 0.1, 0.4), draws=3), examples.train)
    assert found["sigma"].tolist() == [0.0, 0.1, 0.4] and found["increase"].shape == (3, 3)
    assert found["increase"][0].tolist() == [0.0] * 3
    plain = np.mean([naive(method, weights, examples.train)[1] for weights in method.members()])
    assert found["loss"] == pytest.approx([plain], rel=1e-6)
    for draw in range(3):
        losses = []
        for k, weights in enumerate(method.members()):
            generator = method.generator(f"flatness: draw {draw} of member {k}")
            noisy = dict(weights)
            for name in dict(method.net.named_parameters()):
                noisy[name] = weights[name] + 0.4 * weights[name] * torch.randn(
                    weights[name].shape, generator=generator
                )
            losses.append(naive(method, noisy, examples.train)[1])
        assert found["increase"][2, draw] == pytest.approx(np.mean(losses) - plain, rel=1e-4)
    assert np.abs(found["increase"][1]).min() > 0


def test_flatness_of_a_linear_softmax_agrees_with_its_second_order_term():
    """For small σ, E[δL] = ½σ² Σ w_i² ∂²L/∂w_i²."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 3, bias=False))
    method = SGD(MakeNet(lambda: net, 0), Recipe(epochs=1))
    data = batches(60, 0)
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    w = net[1].weight.detach().double()
    p = (x.flatten(1).double() @ w.T).softmax(-1)  # (N, C)
    curvature = ((p * (1 - p)).T @ x.flatten(1).double().square()) / len(y)  # (C, 36)
    expected = 0.5 * (w.square() * curvature).sum().item()
    found = measure_flatness(method, FlatnessMeasurement(sigmas=(0.05,), draws=400), data)["increase"][0] / 0.05**2
    assert abs(found.mean() - expected) < 4 * found.std(ddof=1) / 20


# --- all of it ------------------------------------------------------------------------------------------------

EVERYTHING = ExtraMeasurements(
    training_loss=True,
    flatness=FlatnessMeasurement(sigmas=(0.1,), draws=1),
    path=PathMeasurement(points=3),
    plane=PlaneMeasurement(points=2),
)


@pytest.mark.parametrize("make", [Simplex, partial(HypernetEnsemble, K=3, start=1), partial(DeepEnsemble, K=3)])
def test_looking_changes_nothing(make, recipe, examples):
    method = trained(make, recipe, examples.train) if build(make, recipe).epochs else build(make, recipe)
    before = {name: value.clone() for name, value in method.named_parameters()}
    before |= {name: value.clone() for name, value in method.named_buffers()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, second = measure_landscape(method, EVERYTHING, examples), measure_landscape(method, EVERYTHING, examples)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in [*method.named_parameters(), *method.named_buffers()]:
        assert torch.equal(value, before[name]), name
    assert first.names == ["flatness", "path", "plane"] and not first.unavailable
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(array, second.arrays[name], err_msg=name)


def test_what_a_method_cannot_give_is_left_out_with_the_reason(recipe, examples):
    method = trained(SGD, recipe, examples.train)
    found = measure_landscape(method, EVERYTHING, examples)
    assert found.names == ["flatness"]
    assert found.unavailable == {
        "path": "a path runs between 2 networks, and there is 1",
        "plane": "a plane goes through three networks, and there is 1",
    }
    accuracy, nll = naive(method, None, examples.train)
    assert found.metrics == pytest.approx({"training/loss": nll, "training/accuracy": accuracy})
    line = measure_landscape(trained(Line, recipe, examples.train), EVERYTHING, examples)
    assert line.unavailable == {"plane": "a plane goes through three networks, and there are 2"}
    assert landscape.measure_landscape(method, ExtraMeasurements(), examples) == landscape.Landscape()


def test_distances_between_the_ends_of_a_path_are_metrics(recipe, examples):
    method = trained(Curve, recipe, examples.train)
    found = measure_landscape(method, ExtraMeasurements(path=PathMeasurement(points=2)), examples).metrics
    kept = [i for i, name in enumerate(method.names) if name not in ("norm.weight", "norm.bias")]
    one, two = (
        np.concatenate([omega[i].detach().double().numpy().ravel() for i in kept]) for omega in method.omegas()[:2]
    )
    cosine = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
    expected = {"path/l2": np.linalg.norm(one - two), "path/cosine": cosine, "path/squared_cosine": cosine**2}
    assert found == pytest.approx(expected, rel=1e-5)
