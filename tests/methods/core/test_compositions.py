"""What every wrapper and every ensemble must keep to, around every method."""

from copy import deepcopy
from functools import partial
from itertools import product

import pytest
import torch

from harness.parsing.hyperparameters import hyperparameters
from harness.running.optimizers import make_optimizer
from methods import (
    METHODS,
    SWA,
    DeepEnsemble,
    Method,
    Need,
    Recipe,
    Snapshot,
    Wrapper,
)
from methods.core.wrapper import methods_within
from tests.conftest import build, separable
from tests.methods.core.test_conformance import ALL, COMPOSED, ENSEMBLES, assert_same_state, predictions, resumed
from tests.methods.training import finish, train_epochs, trained

pytestmark = pytest.mark.usefixtures("fuse_up_to")
FUSED_LATE_ONLY = True


# --- wrappers ----------------------------------------------------------------------------------------------


WRAPPERS = {name: make for name, make in ALL.items() if "of" in hyperparameters(METHODS[name])}
TRAINING_WRAPPERS = [name for name in WRAPPERS if name != "deep_ensemble"]
INNER = ALL | COMPOSED
BUILT = {name: build(make, Recipe(epochs=6)) for name, make in INNER.items()}
COLLECT = [name for name, method in BUILT.items() if any(part.collected for part in methods_within(method))]
WATCH = [name for name, method in BUILT.items() if method.watches]
REFUSED = {
    **{pair: "keeps copies of its own" for pair in product(["swa", "swag"], COLLECT)},
    **{pair: "watches data itself" for pair in product(["early_stopping"], WATCH)},
    ("label_smoothing", "label_smoothing"): "only the inner one would smooth",
    **{(name, "deep_ensemble"): "trains no network itself" for name in TRAINING_WRAPPERS},
}
"""What means nothing, and why: (outer, inner)."""


@pytest.mark.parametrize(("outer", "inner"), [pair for pair in REFUSED if pair[0] in METHODS])
def test_what_means_nothing_is_refused_with_the_reason(outer, inner, recipe):
    with pytest.raises(ValueError, match=REFUSED[outer, inner]):
        build(WRAPPERS[outer], recipe, of=INNER[inner])


PAIRS = [pair for pair in product(TRAINING_WRAPPERS, INNER) if pair not in REFUSED]


@pytest.fixture(scope="module")
def kept() -> dict[tuple[object, ...], Method]:
    """Wrappers that were trained once, for all tests that only read them."""
    return {}


@pytest.fixture
def few(batches):
    return batches[-4:]


@pytest.fixture
def wrapper(outer, inner, recipe, few, fuse_up_to, kept) -> Method:
    """A wrapper around a method, trained but not prepared; not to be changed."""
    key = outer, inner, Method.fuse_up_to
    if key not in kept:
        kept[key] = build(WRAPPERS[outer], recipe, of=INNER[inner])
        train_epochs(kept[key], make_optimizer(kept[key], recipe), few)
    return kept[key]


@pytest.mark.long
@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_every_wrapper_around_every_method_resumes_with_the_same_bits(outer, inner, wrapper, recipe, few):
    whole = finish(deepcopy(wrapper), few)
    assert_same_state(resumed(partial(WRAPPERS[outer], of=INNER[inner]), recipe, few, 4), whole)
    assert predictions(whole).isfinite().all()


@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_a_wrapper_trains_as_its_inner_method_does(outer, inner, wrapper, recipe, few):
    """But for the learning rate and the recipe, training is the inner method's own, to the bit."""
    bare = build(INNER[inner], wrapper.recipe)
    bare.lr = wrapper.lr
    train_epochs(bare, make_optimizer(bare, recipe), few)
    assert_same_state(wrapper.inner, bare)


@pytest.mark.parametrize("inner", INNER)
def test_a_deep_ensemble_takes_every_method(inner, recipe):
    ensemble = build(DeepEnsemble, recipe, of=INNER[inner], K=2)
    assert len(ensemble.needs()) == 2
    assert predictions(ensemble.eval()).isfinite().all()


def test_needs_are_handed_out_with_their_level(recipe):
    class Tuned(Method):
        def needs(self):
            return [Need(7, 3)]

    assert build(SWA, recipe, of=Tuned).needs() == [Need(7, 3, level=2)]
    assert build(Snapshot, recipe, of=partial(SWA, of=Tuned)).needs() == [Need(7, 3, level=3)]


@pytest.mark.parametrize("name", ENSEMBLES)
def test_a_deep_ensemble_is_its_independent_runs(name, recipe, batches):
    ensemble = build(ENSEMBLES[name], recipe, seed=2)
    size = len(ensemble.needs())
    assert [need.seed for need in ensemble.needs()] == list(range(2 * size, 3 * size))
    assert {(need.epoch, need.level) for need in ensemble.needs()} == {(None, 1)}
    of = ENSEMBLES[name].keywords["of"] if isinstance(ENSEMBLES[name], partial) else METHODS["sgd"]
    parts = [trained(of, recipe, batches, need.seed) for need in ensemble.needs()]
    ensemble.receive([part.state_dict() for part in parts])
    finish(ensemble, batches)
    assert torch.equal(predictions(ensemble), torch.cat([predictions(part) for part in parts]))
    assert sum(1 for _ in ensemble.members()) == sum(1 for part in parts for _ in part.members())


def test_ensembles_of_different_seeds_share_no_member(recipe):
    seeds = [need.seed for seed in range(4) for need in build(DeepEnsemble, recipe, seed).needs()]
    assert len(set(seeds)) == len(seeds)


def test_a_deep_ensemble_trains_nothing(recipe):
    ensemble = build(DeepEnsemble, recipe, K=2)
    assert ensemble.epochs == 0
    assert ensemble.param_groups() == []


# --- wrappers of what trains nothing -------------------------------------------------------------------------


class Halved(Wrapper):
    """Halve the logits."""

    prediction_only = True

    def predict(self, x):
        return super().predict(x) / 2


class Inheriting(Halved):
    """Halve them by a permission that is not its own."""


def test_a_wrapper_that_only_predicts_may_hold_a_deep_ensemble(recipe, batches):
    whole, plain = (
        build(partial(Halved, of=partial(DeepEnsemble, K=2)), recipe),
        build(partial(DeepEnsemble, K=2), recipe),
    )
    assert (whole.epochs, len(whole.param_groups())) == (0, 0)
    assert [(need.seed, need.level) for need in whole.needs()] == [(0, 2), (1, 2)]
    states = [trained(Method, recipe, batches, seed).state_dict() for seed in (0, 1)]
    for method in (whole, plain):
        method.receive(states)
        finish(method, batches)
    x, _ = separable(9, seed=3)
    with torch.no_grad():
        assert torch.equal(whole.predict(x), plain.predict(x) / 2)


def test_that_permission_is_not_inherited(recipe):
    with pytest.raises(ValueError, match="Inheriting cannot be made of DeepEnsemble.*prediction_only = True"):
        build(partial(Inheriting, of=partial(DeepEnsemble, K=2)), recipe)
