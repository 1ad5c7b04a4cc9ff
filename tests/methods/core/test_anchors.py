"""The networks between which a method's weight space is looked at."""

from functools import partial

import pytest
import torch

from methods import (
    SWA,
    SWAG,
    Curve,
    DeepEnsemble,
    EarlyStopping,
    HypernetEnsemble,
    Integral,
    LatePhaseBatchNorm,
    Line,
    Recipe,
    Simplex,
    Snapshot,
)
from tests.conftest import TinyNet, build
from tests.methods.core.test_conformance import ALL, ENSEMBLES, TRAINED, assert_same_state
from tests.methods.training import train_epochs, trained

COUNTS = {
    "sgd": 1,
    "swa": 1,
    "mc_dropout": 1,
    "integral": 1,
    "line": 2,
    "branched": 3,
    "curve": 3,
    "simplex": 3,
    "late_phase_bn": 3,
    "late_phase_hypernet": 3,
    "hypernet_ensemble": 3,
    "batch_ensemble": 3,
    "swag": 3,
    "snapshot": 2,
    "swa(line, pair)": 2,
    "swa(late_phase_bn)": 3,
    "snapshot(late_phase_bn)": 7,  # one network before T0, then three
}


@pytest.mark.parametrize("name", TRAINED)
def test_anchors_are_whole_networks_and_nothing_is_changed_by_them(name, recipe, batches):
    method = trained(TRAINED[name], recipe, batches)
    before = {key: value.clone() for key, value in method.state_dict().items() if isinstance(value, torch.Tensor)}
    plain = TinyNet()
    with torch.no_grad():
        anchors = list(method.anchors())
    for anchor in anchors:
        found = {key: value.shape for key, value in anchor.weights.items()}
        shapes = {key: value.shape for key, value in plain.named_parameters()}
        assert {key: found[key] for key in shapes} == shapes
        assert set(found) <= set(plain.state_dict())
    if name in COUNTS:
        assert len(anchors) == COUNTS[name]
    for key, value in before.items():
        assert torch.equal(method.state_dict()[key], value), key
    assert sum(method.along(0.3)) == pytest.approx(1.0)
    for alpha, first in ((0.0, [1.0, 0.0]), (1.0, [0.0, 1.0])):
        assert method.along(alpha) == first + [0.0] * (len(method.along(alpha)) - 2)


@pytest.mark.parametrize("name", ENSEMBLES)
def test_an_ensembles_anchors_are_its_members(name, recipe):
    method = build(ENSEMBLES[name], recipe)
    for anchor, member in zip(method.anchors(), method.members(), strict=True):
        assert all(torch.equal(anchor.weights[key], value) for key, value in member.items())


def test_anchors_of_a_subspace_are_its_networks_and_its_path_is_its_own():
    method = build(Curve, Recipe(epochs=2))
    omegas = [dict(net.named_parameters()) for net in (method.net, *method.others)]
    for anchor, omega in zip(method.anchors(), omegas, strict=True):
        assert anchor.weights.keys() == omega.keys()
        assert all(anchor.weights[key] is value for key, value in omega.items())
    for alpha in (-0.1, 0.3, 0.5):
        shares, point = method.along(alpha), method.weights_at(alpha)
        for key, value in point.items():
            mixed = sum(share * omega[key] for share, omega in zip(shares, omegas, strict=True))
            torch.testing.assert_close(mixed, value)
    assert method.along(0.5) == pytest.approx([0.25, 0.25, 0.5])
    assert build(Simplex, Recipe(epochs=2), m=4).along(0.25) == [0.75, 0.25]


def test_anchors_of_specialists_lie_in_their_embeddings_and_mix_like_them(recipe, batches):
    method = trained(partial(HypernetEnsemble, K=3, start=0.3), recipe, batches)
    anchors = list(method.anchors())
    for k, anchor in enumerate(anchors):
        own = [p for name, p in method.named_parameters() if name.startswith(f"late.{k}.") and name.endswith(".e")]
        assert len(own) == 1 and all(mine is theirs for mine, theirs in zip(anchor.embedding, own, strict=True))
    shares = [0.5, 0.8, -0.3]
    with torch.no_grad():
        (e,) = [
            sum(a * part for a, part in zip(shares, parts, strict=True))
            for parts in zip(*(anchor.embedding for anchor in anchors), strict=True)
        ]
        method.factors[0].e.copy_(e)
        made = method.generate(list(method.factors))["conv.weight"]
        mixed = sum(a * anchor.weights["conv.weight"] for a, anchor in zip(shares, anchors, strict=True))
    torch.testing.assert_close(mixed, made)
    shared = trained(partial(HypernetEnsemble, K=2, start=0.3, embeddings="shared"), recipe, batches)
    assert [anchor.embedding for anchor in shared.anchors()] == [None, None]


def test_late_phase_members_are_anchors_though_their_average_predicts(recipe, batches):
    make = partial(LatePhaseBatchNorm, K=3, start=0.5)
    early = build(make, recipe)
    assert len(list(early.anchors())) == 1, "before T0 there is one network"
    method = trained(make, recipe, batches)
    assert len(list(method.members())) == 1
    for k, anchor in enumerate(method.anchors()):
        assert anchor.weights["norm.weight"] is method.member(k)["norm.weight"]


def test_anchors_of_an_average_are_averaged_and_of_samples_are_samples(recipe, batches):
    swa = trained(partial(SWA, of=Line, start=3), recipe, batches)
    for anchor, averaged in zip(swa.anchors(), swa.average.anchors(), strict=True):
        assert anchor.weights["head.weight"] is averaged.weights["head.weight"]
    swag = trained(partial(SWAG, start=3, rank=2, N=3), recipe, batches)
    with torch.no_grad():
        one, two, _ = (anchor.weights["head.weight"] for anchor in swag.anchors())
        first, second, _ = (member["head.weight"] for member in swag.members())
    assert torch.equal(one, first) and torch.equal(two, second) and not torch.equal(one, two)


def test_wrappers_follow_the_path_of_what_they_wrap():
    recipe = Recipe(epochs=4)
    for make in (partial(SWA, of=Curve, start=2), partial(Snapshot, of=Curve, M=2), partial(EarlyStopping, of=Curve)):
        assert build(make, recipe).along(0.5) == pytest.approx([0.25, 0.25, 0.5])
    assert build(partial(DeepEnsemble, of=Curve, K=2), recipe).along(0.5) == [0.5, 0.5], "between two midpoints"


def test_the_line_of_an_integral_is_no_space_of_classifiers(recipe, batches):
    method = trained(Integral, recipe, batches)
    (anchor,) = method.anchors()
    (member,) = method.members()
    assert all(torch.equal(anchor.weights[key], value) for key, value in member.items())


def test_reading_anchors_in_mid_run_does_not_change_what_comes_next(recipe, batches):
    from harness.running.optimizers import make_optimizer

    for name in ("swag", "snapshot", "hypernet_ensemble", "early_stopping"):
        one, other = build(ALL[name], recipe), build(ALL[name], recipe)
        optimizers = [make_optimizer(method, recipe) for method in (one, other)]
        for epoch in range(recipe.epochs):
            for method, optimizer in zip((one, other), optimizers, strict=True):
                train_epochs(method, optimizer, batches, first=epoch, last=epoch + 1)
            with torch.no_grad():
                list(one.anchors())
        assert_same_state(one, other)
