"""Early stopping against an independent search for the best epoch."""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch

from harness.running.optimizers import make_optimizer
from harness.store import checkpoint
from methods import SGD, SWA, LatePhaseBatchNorm, MCDropout, Recipe, Snapshot
from methods.early_stopping import EarlyStopping
from tests.conftest import build, separable
from tests.methods.training import assert_close, finish, train_epochs

INNER = {
    "sgd": SGD,
    "swa": partial(SWA, start=2),
    "late_phase_bn": partial(LatePhaseBatchNorm, K=3, start=2, leftover="step"),
    "late_phase_bn, members": partial(LatePhaseBatchNorm, K=3, start=2, sigma0=0.5, prediction="members"),
    "mc_dropout": partial(MCDropout, K=3),
    "snapshot": partial(Snapshot, M=2),
}


@pytest.fixture
def recipe():
    return Recipe(epochs=7, lr=0.003, weight_decay=0.0)


@pytest.fixture
def held_out():
    """Noisier than the training data, and a quarter of it labelled wrongly, so that growing sure is punished."""
    x, y = separable(45, seed=3)
    x += torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    y[::4] = (y[::4] + 1) % 3
    return [(x[:32], y[:32]), (x[32:], y[32:])]


def watched(method, optimizer, batches, held_out, first=0, last=None):
    """Train as the harness does; the inner method after every epoch."""
    states = []
    for epoch in range(first, method.epochs if last is None else last):
        train_epochs(method, optimizer, batches, first=epoch, last=epoch + 1, watched=held_out)
        states.append(deepcopy(method.inner))
    return states


def scores(inner, batches, held_out):
    """The negative log-likelihood and the share of errors, example by example."""
    finish(inner, batches)
    likelihoods, wrong = [], []
    for x, y in held_out:
        with torch.no_grad():
            logits = inner.predict(x).double().numpy()  # (K, B, C)
        p = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).mean(0)
        likelihoods += [p[i, label] for i, label in enumerate(y.tolist())]
        wrong += [p[i].argmax() != label for i, label in enumerate(y.tolist())]
    return -np.log(likelihoods).mean(), np.mean(wrong)


@pytest.mark.parametrize("metric", ["nll", "accuracy"])
@pytest.mark.parametrize("name", INNER)
def test_the_best_epoch_predicts(name, metric, recipe, batches, held_out):
    method = build(EarlyStopping, recipe, of=INNER[name], metric=metric)
    states = watched(method, make_optimizer(method, recipe), batches, held_out)
    found = np.array([scores(state, batches, held_out)[metric == "accuracy"] for state in states])
    best = int(found.argmin())
    assert method.best_epoch == best > 0, "the first of the least"
    assert best < recipe.epochs - 1 or name == "snapshot"
    assert method.best_score.item() == pytest.approx(found[best], rel=1e-6)
    finish(method, batches)
    x, _ = separable(11, seed=5)
    with torch.no_grad():
        assert torch.equal(method.predict(x), states[best].predict(x))
    for weights, expected in zip(method.members(), states[best].members(), strict=True):
        assert_close(expected, weights, 0)


def test_of_equal_epochs_the_earlier_wins(recipe, batches, held_out):
    method = build(EarlyStopping, recipe, metric="accuracy")
    states = watched(method, make_optimizer(method, recipe), batches, held_out)
    errors = [scores(state, batches, held_out)[1] for state in states]
    assert errors.count(min(errors)) > 1
    assert method.best_epoch == errors.index(min(errors)) > 0


@pytest.mark.parametrize("stop", [1, 3, 6])
@pytest.mark.parametrize("name", ["sgd", "swa"])
def test_resuming_gives_the_same_bits(name, stop, recipe, batches, held_out):
    whole = build(EarlyStopping, recipe, of=INNER[name])
    watched(whole, make_optimizer(whole, recipe), batches, held_out)
    first = build(EarlyStopping, recipe, of=INNER[name])
    optimizer = make_optimizer(first, recipe)
    watched(first, optimizer, batches, held_out, last=stop)
    second = build(EarlyStopping, recipe, of=INNER[name])
    with torch.no_grad():
        for tensor in [*second.parameters(), *second.buffers()]:
            tensor.fill_(7)
    second.load_state_dict(deepcopy(first.state_dict()))
    again = make_optimizer(second, recipe)
    checkpoint.load_optimizer_state(again, deepcopy(checkpoint.optimizer_state(optimizer)))
    watched(second, again, batches, held_out, first=stop)
    finish(whole, batches)
    finish(second, batches)
    for key, value in whole.state_dict().items():
        other = second.state_dict()[key]
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, key


def test_watching_leaves_training_alone(recipe, batches, held_out):
    method, plain = build(EarlyStopping, recipe, of=INNER["swa"]), build(INNER["swa"], recipe)
    watched(method, make_optimizer(method, recipe), batches, held_out)
    train_epochs(plain, make_optimizer(plain, recipe), batches)
    assert_close(dict(plain.named_parameters()), dict(method.inner.named_parameters()), 0)
    assert all(part.training for part in method.modules())
    assert not any(p.requires_grad for p in method.best.parameters())


def test_before_anything_was_watched_the_inner_method_predicts(recipe, batches):
    method = build(EarlyStopping, recipe, of=INNER["swa"])
    train_epochs(method, make_optimizer(method, recipe), batches)
    expected = finish(deepcopy(method.inner), batches)
    assert_close(next(iter(expected.members())), next(iter(finish(method, batches).members())), 0)


def test_it_asks_for_its_criterion_and_refuses_another_watcher(recipe, held_out):
    assert build(EarlyStopping, recipe).watches == "validation"
    assert build(Snapshot, recipe, of=partial(EarlyStopping, criterion="test"), M=2).watches == "test"
    with pytest.raises(ValueError, match="cannot be made of EarlyStopping, which watches data itself"):
        build(EarlyStopping, recipe, of=EarlyStopping)
    with pytest.raises(ValueError, match="was shown no held-out data"):
        build(EarlyStopping, recipe).watch([], [])


class WatchesTest(SWA):
    """A wrapper that looks at test data."""

    watches = "test"


def test_a_wrapper_that_watches_other_data_than_its_inner_method_is_refused(recipe):
    with pytest.raises(ValueError, match="WatchesTest watches test data, and EarlyStopping inside it validation data"):
        build(WatchesTest, recipe, of=EarlyStopping)
    assert build(WatchesTest, recipe).watches == "test"
