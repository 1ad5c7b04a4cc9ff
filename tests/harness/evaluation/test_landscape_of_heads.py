"""Landscapes and re-estimated statistics are those of what a network predicts, which may not be its output."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from harness.evaluation.landscape import LandscapeData, measure_landscape
from harness.evaluation.weight_space import accuracy_and_nll
from harness.studies.extra_measurements import ExtraMeasurements, FlatnessMeasurement, PathMeasurement
from methods import SWA, SWAG, Anchor, Line, Method, Snapshot, reestimate
from tests.conftest import build, separable
from tests.harness.evaluation.test_landscape import batches
from tests.methods.training import trained


class TwoHeads(Method):
    """A network with two classifiers, which sees each image twice as bright in prediction, as if that was its input."""

    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.net.head = nn.Linear(36, 6)

    def loss(self, x, y, weights=None):
        return sum(self.recipe.criterion(logits, y) for logits in self.predict_with(x, weights))

    def predict_with(self, x, weights=None):
        return self(2 * x, weights).unflatten(1, (2, 3)).transpose(0, 1)

    def anchors(self):
        own = self.own_weights()
        return [Anchor(own), Anchor({name: 1.1 * value for name, value in own.items()})]


@pytest.fixture
def data():
    return LandscapeData(batches(60, 1), batches(96, 0), batches(96, 0))


def test_flatness_begins_at_the_loss_of_the_prediction(recipe, data):
    method = trained(TwoHeads, recipe, data.train)
    asked = ExtraMeasurements(training_loss=True, flatness=FlatnessMeasurement(sigmas=(0.0, 0.1), draws=2))
    found = measure_landscape(method, asked, data)
    assert found.unavailable == {}
    (loss,) = found.arrays["flatness/loss"]
    assert loss == pytest.approx(found.metrics["training/loss"], rel=1e-6)
    with torch.no_grad():
        assert loss == pytest.approx(accuracy_and_nll(method.predict, data.train).nll, rel=1e-6)


def test_a_path_begins_at_the_score_of_the_prediction(recipe, data):
    method = trained(TwoHeads, recipe, data.train)
    found = measure_landscape(method, ExtraMeasurements(path=PathMeasurement(points=3)), data)
    method.net.load_state_dict(method.own_weights())
    reestimate(method, data.statistics)
    with torch.no_grad():
        expected = accuracy_and_nll(method.predict, data.test)
    assert found.arrays["path/nll"][0] == pytest.approx(expected.nll, rel=1e-4)
    assert np.isfinite(found.arrays["path/pair_nll"]).all()


def test_statistics_are_re_estimated_on_what_prediction_shows_the_network(recipe, data):
    swa = trained(lambda make_net, recipe: SWA(make_net, recipe, of=TwoHeads, start=3), recipe, data.train)
    (average,) = swa.members()
    x = torch.cat([x for x, _ in data.train])
    features = nn.functional.conv2d(2 * x, average["conv.weight"], padding=1)
    torch.testing.assert_close(average["norm.running_mean"], features.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)


def test_a_plain_method_is_scored_as_before(recipe, data):
    method = build(Method, recipe).eval()
    x, _ = separable(5)
    with torch.no_grad():
        (own,) = method.members()
        assert torch.equal(method.predict_with(x, own)[0], method(x, own))


@pytest.mark.parametrize("outer", [partial(Snapshot, M=2), partial(SWA, start=3), partial(SWAG, start=3, N=2)])
def test_a_path_of_a_wrapper_is_that_of_its_networks(outer, recipe, data):
    method = trained(partial(outer, of=Line), recipe, data.train)
    found = measure_landscape(method, ExtraMeasurements(path=PathMeasurement(points=3)), data)
    plain = build(Method, recipe)
    for i, anchor in zip((0, 2), method.anchors(), strict=False):
        plain.net.load_state_dict({**plain.net.state_dict(), **anchor.weights})
        reestimate(plain, data.statistics)
        with torch.no_grad():
            expected = accuracy_and_nll(plain.eval().predict, data.test)
        assert found.arrays["path/nll"][i] == pytest.approx(expected.nll, rel=1e-4)


class Scaled(Method):
    """Override `predict` alone."""

    def predict(self, x):
        return super().predict(x) / 3


class Wide(TwoHeads):
    """Override `predict` alone, of a network whose output has another width."""

    def predict_with(self, x, weights=None):
        return self(2 * x, weights)[None]

    def predict(self, x):
        return self(2 * x).unflatten(1, (2, 3)).transpose(0, 1)

    def loss(self, x, y, weights=None):
        return sum(self.recipe.criterion(logits, y) for logits in self.predict(x))


@pytest.mark.parametrize(
    ("make", "reason"), [(Scaled, "is not what `predict_with` gives"), (Wide, "gives (6,) numbers")]
)
def test_a_landscape_of_something_else_is_not_shown(make, reason, recipe, data):
    method = trained(make, recipe, data.train)
    found = measure_landscape(method, ExtraMeasurements(flatness=FlatnessMeasurement(sigmas=(0.0,), draws=1)), data)
    assert reason in found.unavailable["flatness"]
    assert found.arrays == {}
