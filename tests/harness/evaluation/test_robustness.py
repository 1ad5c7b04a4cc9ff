"""Relative change of the accuracy under corruption."""

import math

import pytest

from harness.evaluation.evaluate import relative_change


def test_relative_change():
    assert relative_change(80.0, 60.0) == pytest.approx(-0.25)
    assert relative_change(0.8, 0.6) == pytest.approx(-0.25)
    assert relative_change(80.0, 80.0) == 0.0
    assert relative_change(50.0, 60.0) == pytest.approx(0.2)
    assert relative_change(50.0, 0.0) == -1.0
    assert math.isnan(relative_change(0.0, 10.0))
