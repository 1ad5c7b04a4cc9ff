"""Trunks: a fork has the same bits as training alone, whatever other method trained the trunk."""

from copy import deepcopy
from functools import partial

import pytest
import torch

from harness.running.optimizers import make_optimizer
from harness.store import checkpoint
from methods import METHODS, SGD, SWA, LatePhaseBatchNorm, LatePhaseRank1, Method, Recipe, late_phase_rank1
from methods.core import declarations, hypernetwork
from methods.core.declarations import SHARES_NOTHING, Sharing, Trunk
from methods.core.forking import declared_sharing, fork, fork_state, training_source
from methods.dropout import Dropout
from methods.label_smoothing import LabelSmoothing
from methods.line import Line
from methods.mc_dropout import MCDropout
from tests.conftest import build, separable
from tests.methods.core.test_conformance import TRAINED, assert_same_state
from tests.methods.training import finish, train_epochs

pytestmark = pytest.mark.usefixtures("fuse_up_to")
FUSED_LATE_ONLY = True

EPOCHS = 6


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(epochs=EPOCHS, batch_size=16, lr=0.05)


@pytest.fixture
def batches():
    x, y = separable(60)
    return list(zip(x.split(16), y.split(16), strict=True))


def forked(trunk: Method, make, recipe, batches, epochs: int, change=lambda method: None) -> Method:
    """Train a method for some epochs, and let another go on from what they have in common."""
    change(trunk)
    optimizer = make_optimizer(trunk, recipe)
    train_epochs(trunk, optimizer, batches, last=epochs)
    state, momenta = deepcopy(fork_state(trunk, epochs)), deepcopy(checkpoint.optimizer_state(optimizer))
    method = build(make, recipe)
    fork(method, state, epochs)
    optimizer = make_optimizer(method, method.recipe)
    checkpoint.load_optimizer_state(optimizer, momenta)
    train_epochs(method, optimizer, batches, first=epochs)
    return finish(method, batches)


def alone(make, recipe, batches) -> Method:
    method = build(make, recipe)
    train_epochs(method, make_optimizer(method, method.recipe), batches)
    return finish(method, batches)


@pytest.mark.parametrize("name", TRAINED)
def test_a_fork_of_itself_has_the_same_bits_after_any_epoch(name, recipe, batches):
    """Whatever it shares by then, with whomever: what `fork_state` leaves out is made anew or not yet written."""
    whole = alone(TRAINED[name], recipe, batches)
    for epochs in (1, 3, EPOCHS - 1, EPOCHS):
        part = forked(build(TRAINED[name], recipe), TRAINED[name], recipe, batches, epochs)
        assert_same_state(part, whole)


def plain_until(name: str, recipe) -> int:
    """For how many epochs a method says that it is plain training."""
    method = build(TRAINED[name], recipe)
    plain = training_source(build(SGD, recipe), 0).name
    return sum(training_source(method, epoch).name == plain for epoch in range(method.epochs))


PLAIN = {
    "sgd": 6,
    "label_smoothing": 6,
    "gradient_accumulation": 2,
    "swa": 3,
    "swag": 3,
    "snapshot": 2,
    "fge": 3,
    "late_phase_bn": 2,
    "late_phase_last_layer": 2,
    "late_phase_full": 2,
    "late_independent": 2,
    "branched": 2,
    "swa(late_phase_bn)": 2,
    "swa(late_phase_bn, members)": 2,
    "snapshot(late_phase_bn)": 1,
    "snapshot(swa)": 1,
}
"""For how many of six epochs each method is plain training, at its own rates."""


def test_how_long_methods_are_plain_training(recipe):
    assert {name: until for name in TRAINED if (until := plain_until(name, recipe))} == PLAIN


@pytest.mark.parametrize("name", PLAIN)
def test_a_fork_of_plain_training_has_the_same_bits(name, recipe, batches):
    def at_its_rate(plain: Method) -> None:
        plain.lr = build(TRAINED[name], recipe).lr  # rates are part of a trunk's history

    changed = training_source(build(TRAINED[name], recipe), 0).method.recipe  # and so is the recipe: smoothed labels
    part = forked(build(SGD, changed), TRAINED[name], recipe, batches, PLAIN[name], at_its_rate)
    assert_same_state(part, alone(TRAINED[name], recipe, batches))


PAIRS = {
    "dropout at test time": (Dropout, partial(MCDropout, K=2), EPOCHS),
    "points of a line": (Line, partial(Line, prediction="pair"), EPOCHS),
    "members, not their average": (
        partial(LatePhaseBatchNorm, K=2, start=3),
        partial(LatePhaseBatchNorm, K=2, start=3, prediction="members"),
        EPOCHS,
    ),
    "rank-1 factors before T0": (
        partial(LatePhaseRank1, K=2, start=3),
        partial(LatePhaseRank1, K=3, start=5, sigma0=0.1),
        3,
    ),
    "an average of late-phase weights": (
        partial(LatePhaseBatchNorm, K=2, start=3),
        partial(SWA, of=partial(LatePhaseBatchNorm, K=2, start=3), start=5, ratio=None),
        5,
    ),
    "smoothed labels": (LabelSmoothing, partial(LabelSmoothing, of=partial(SWA, start=5, ratio=None)), 5),
}


@pytest.mark.parametrize("what", PAIRS)
def test_what_methods_have_in_common(what, recipe, batches):
    one, other, until = PAIRS[what]
    for first, second in ((one, other), (other, one)):
        trunk = build(first, recipe)
        assert training_source(trunk, until - 1).name == training_source(build(second, recipe), until - 1).name
        part = forked(trunk, second, recipe, batches, until)
        assert_same_state(part, alone(second, recipe, batches))


def test_a_subclass_shares_nothing_unless_it_says_so(recipe):
    class Other(SGD):
        def update(self, batches, optimizer):
            return super().update(batches[:1], optimizer)

    assert declared_sharing(build(SGD, recipe)).trunk is not None
    assert declared_sharing(build(Other, recipe)) is SHARES_NOTHING
    assert training_source(build(Other, recipe), 0).name == ""
    assert {name for name, method in METHODS.items() if "sharing" not in vars(method)} == {
        "batch_ensemble",
        "deep_ensemble",
        "early_stopping",
        "integral",
    }


def test_a_state_of_another_trunk_is_refused(recipe, batches):
    trunk = build(LatePhaseRank1, recipe)
    state = fork_state(trunk, 1)
    with pytest.raises(
        ValueError, match=r"SGD cannot continue from this state after 1 epochs: only one of them has factors"
    ):
        fork(build(SGD, recipe), state, 1)


def test_a_method_that_receives_states_has_no_trunk(recipe):
    class Tuned(SGD):
        sharing = Sharing(lambda method: Trunk("plain", method.epochs))

        def needs(self):
            return ["something"]

    assert training_source(build(Tuned, recipe), 0).name == ""


def test_fork_states_hold_copies_of_nothing_late(recipe):
    names = fork_state(build(partial(LatePhaseBatchNorm, K=2, start=3), recipe), 3)
    assert all(name.startswith("net.") or name == "_extra_state" for name in names)
    assert torch.equal(names["net.conv.weight"], build(SGD, recipe).net.conv.weight)


def test_trunks_carry_the_version_of_the_method_that_trains_them():
    assert f"sgd {METHODS['sgd'].version}" == declarations.PLAIN_TRUNK
    assert METHODS["rank1"].version == late_phase_rank1.TRUNK_VERSION
    assert METHODS["late_phase_hypernet"].version == hypernetwork.TRUNK_VERSION
