"""Landscapes and re-estimated statistics are those of what a network predicts, which may not be its output."""

import numpy as np
import pytest
import torch
from torch import nn

from harness.evaluation.landscape import LandscapeData, measure_landscape
from harness.evaluation.weight_space import accuracy_and_nll
from harness.studies.extra_measurements import ExtraMeasurements, FlatnessMeasurement, PathMeasurement
from methods import SWA, Anchor, Method, reestimate
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
