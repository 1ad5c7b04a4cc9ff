"""Bounds on speed, as ratios of epochs timed in turns in this process.

A loaded machine disturbs single rounds, so where a bound does not hold there are more of them, and all count.
"""

import time
from functools import partial

import pytest
import torch

from tests.benchmarks.cells import Cell
from tests.benchmarks.comparison import Measured, Timing, in_turns, with_more_rounds
from tests.benchmarks.speed import PAIRS, SMALL

pytestmark = pytest.mark.alone

BOUNDS = {"harness / bare loop": 1.03, "late_phase_bn(K=10) / sgd": 1.10}
CELLS = {"lenet5": Cell("lenet5", batch_size=64), "wrn-10-1": SMALL}
"""An update of LeNet-5 on the digits takes 1.5 ms: the harness's own 30 µs are 2 % of it, as much as two medians taken
in one process differ by. On images of CIFAR's size they are none."""


@pytest.mark.parametrize("architecture", CELLS)
@pytest.mark.parametrize("name", BOUNDS)
def test_ratio(name, architecture):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def measured(timing: Timing) -> Measured:
        return Measured.of(timing.ratios("other", "base"), BOUNDS[name])

    try:
        base, other = (make(CELLS[architecture]) for make in PAIRS[name])
        # the time of one thread: what else the machine does counts less
        timed = partial(in_turns, {"base": base, "other": other}, "cpu", rounds=40, clock=time.process_time)
        timing = with_more_rounds(timed(), timed, lambda timing: measured(timing).kept)
    finally:
        torch.set_num_threads(threads)
    assert measured(timing).kept, f"{name} on {architecture}: {measured(timing)}, {measured(timing).rounds} rounds"
