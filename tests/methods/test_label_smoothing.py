"""Label smoothing against targets by hand."""

from functools import partial

import numpy as np
import pytest
import torch

from harness.running.optimizers import make_optimizer
from methods import SGD, SWA, LatePhaseBatchNorm, Line
from methods.label_smoothing import LabelSmoothing
from tests.conftest import build, separable
from tests.methods.training import assert_close, train_epochs


def test_targets_are_mixed_with_the_uniform_distribution(recipe):
    method = build(LabelSmoothing, recipe, epsilon=0.3)
    x, y = separable(9)
    with torch.no_grad():
        logits = method(x).double().numpy()
    targets = 0.7 * np.eye(3)[y] + 0.3 / 3
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert method.loss(x, y).item() == pytest.approx(-(targets * log_p).sum(1).mean(), rel=1e-5)


@pytest.mark.parametrize(
    "of",
    [SGD, partial(LatePhaseBatchNorm, K=3, start=2), Line, partial(SWA, start=3)],
    ids=["sgd", "late_phase_bn", "line", "swa"],
)
def test_it_reaches_every_method(of, recipe, batches):
    """Training is that of the inner method under a recipe with smoothing, to the bit, whatever the recipe said."""
    method = build(LabelSmoothing, recipe.model_copy(update={"label_smoothing": 0.7}), of=of, epsilon=0.2)
    smoothed = recipe.model_copy(update={"label_smoothing": 0.2})
    assert method.recipe == smoothed
    bare, plain = build(of, smoothed), build(of, recipe)
    train_epochs(method, make_optimizer(method, recipe), batches)
    train_epochs(bare, make_optimizer(bare, recipe), batches)
    train_epochs(plain, make_optimizer(plain, recipe), batches)
    assert_close(dict(bare.named_parameters()), dict(method.inner.named_parameters()), 0)
    assert not torch.equal(next(plain.parameters()), next(bare.parameters()))


def test_smoothing_twice_is_refused(recipe):
    with pytest.raises(ValueError, match="only the inner one would smooth"):
        build(LabelSmoothing, recipe, of=partial(LabelSmoothing, epsilon=0.3))
