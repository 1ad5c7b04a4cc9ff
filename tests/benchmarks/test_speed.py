"""Bounds on speed, as ratios of epochs timed in turns in this process.

A loaded machine disturbs single ratios, so a bound holds if one of three medians keeps it.
"""

import pytest
import torch

from tests.benchmarks.speed import PAIRS, compare

BOUNDS = {"harness / bare loop": 1.03, "late_phase_bn(K=10) / sgd": 1.10}


@pytest.mark.parametrize("architecture", ["lenet5", "wrn-10-1"])
@pytest.mark.parametrize("name", BOUNDS)
def test_ratio(name, architecture):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        base, other = PAIRS[name]
        medians = []
        for _ in range(3):
            medians.append(compare(base(architecture), other(architecture)))
            if medians[-1] <= BOUNDS[name]:
                return
    finally:
        torch.set_num_threads(threads)
    pytest.fail(f"{name} on {architecture}: medians {medians}, bound {BOUNDS[name]}")
