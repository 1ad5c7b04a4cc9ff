"""The learned curve against the line."""

import torch

from methods.curve import Curve
from methods.line import Line
from tests.conftest import build


def test_a_curve_bent_at_the_midpoint_of_its_ends_is_the_line(recipe):
    line, curve = build(Line, recipe), build(Curve, recipe)
    curve.others[1].load_state_dict(line.weights_at(0.5), strict=False)
    for a in (-0.1, 0.0, 0.25, 0.6, 1.0):
        for key, value in line.weights_at(a).items():
            torch.testing.assert_close(curve.weights_at(a)[key], value, rtol=1e-5, atol=1e-6)
