"""Up to which size of a minibatch it is faster to run members that share most of their weights as one batch.

It saves the overhead of operations, and costs memory traffic. So it pays where operations are small: on a CPU where
the activations of a minibatch fit into its cache, on a GPU where it waits for operations to be started.
"""

import sys

import torch

from data import Shape
from harness.planning.study_cost import forward_flops
from harness.running.settings import Settings
from harness.studies.run import Run

CPU_PIXELS = 2**13
"""Pixels of a minibatch. Measured on two cores, cycles of ten: up to here 1.03 to 2.1 times as fast, beyond it 0.64 to
1.1 times (`python -m tests.benchmarks.fusion`)."""
GPU_OPERATIONS = 3.2e10
"""Floating-point operations of a minibatch's forward pass. Not measured: an operation of 20 layers takes some 10 µs to
start, and about as long to compute at this number. A minibatch of 128 is below it for a cResNet20, above for a WRN."""


def fuse_up_to(settings: Settings, run: Run, shape: Shape) -> int:
    """Give the largest minibatch, in examples, of which members of a run are run as one batch; 0 for none.

    Args:
        settings: where the run is executed.
        run: its architecture.
        shape: of its data.
    """
    if settings.fuse == "never" or settings.ranks > 1 or shape.image_size is None:
        return 0
    if settings.fuse == "always":
        return sys.maxsize
    if torch.device(settings.device).type == "cuda":
        return int(GPU_OPERATIONS / forward_flops(run.architecture, shape, 0))
    return CPU_PIXELS // shape.image_size**2
