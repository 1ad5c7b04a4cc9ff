"""Corruption errors by hand."""

import math

import numpy as np
import pytest

from harness.robustness import (
    SEVERITIES,
    STANDARD_CORRUPTIONS,
    is_complete,
    mean_corruption_error,
    relative_change,
)


def measured(seed: int = 0) -> dict[tuple[str, int], float]:
    rng = np.random.default_rng(seed)
    return {(name, s): float(rng.uniform(0, 100)) for name in STANDARD_CORRUPTIONS for s in SEVERITIES}


def test_the_standard_corruptions_are_fifteen():
    assert len(set(STANDARD_CORRUPTIONS)) == 15
    assert not set(STANDARD_CORRUPTIONS) & {"speckle_noise", "gaussian_blur", "spatter", "saturate"}


def test_mce_is_the_mean_over_corruptions_of_means_over_severities():
    errors = measured()
    by_corruption = [np.mean([errors[name, s] for s in SEVERITIES]) for name in STANDARD_CORRUPTIONS]
    assert mean_corruption_error(errors) == pytest.approx(np.mean(by_corruption), abs=1e-12)
    assert mean_corruption_error(dict.fromkeys(errors, 47.84)) == pytest.approx(47.84, abs=1e-12)


def test_extra_corruptions_never_enter():
    errors = measured()
    extra = {(name, s): 1e6 for name in ("speckle_noise", "gaussian_blur", "spatter", "saturate") for s in SEVERITIES}
    clean = {("clean", 0): 0.0}
    assert mean_corruption_error(clean | extra | errors) == mean_corruption_error(errors)


def test_an_incomplete_mean_is_refused():
    errors = measured()
    assert is_complete(errors)
    del errors["fog", 3]
    assert not is_complete(errors)
    with pytest.raises(ValueError, match="but 1 are missing: fog 3$"):
        mean_corruption_error(errors)
    with pytest.raises(ValueError, match=r"but 75 are missing: gaussian_noise 1, .* gaussian_noise 5 …$"):
        mean_corruption_error({})


def test_relative_change():
    assert relative_change(80.0, 60.0) == pytest.approx(-0.25)
    assert relative_change(0.8, 0.6) == pytest.approx(-0.25)
    assert relative_change(80.0, 80.0) == 0.0
    assert relative_change(50.0, 60.0) == pytest.approx(0.2)
    assert relative_change(50.0, 0.0) == -1.0
    assert math.isnan(relative_change(0.0, 10.0))
