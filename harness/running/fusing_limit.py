"""The largest minibatch for which running several members as one fused batch is faster than one after another.

Members can be fused if they share most of their weights. Fusing saves the overhead of starting operations, but adds
memory traffic. It pays for small operations: on a CPU, if the activations of a minibatch fit into its cache; on a GPU,
if it would idle between operations.
"""

import sys

import torch

from data import DatasetShape
from harness.planning.study_cost import forward_flops
from harness.running.settings import Settings
from harness.studies.run import Run

CPU_PIXELS = 2**13
"""Pixels of the largest minibatch that is fused on a CPU.

Measured on two cores with K = 10 (`python -m tests.benchmarks.fusion`): fused cycles were 1.03 to 2.1 times as
fast up to this size, and 0.64 to 1.1 times as fast beyond."""
GPU_OPERATIONS = 3.2e10
"""Floating-point operations in the forward pass of the largest minibatch that is fused on a GPU.

This is an estimate, not measured. Starting an operation takes about 10 µs. In a network of 20 layers, computing it
takes about as long at this number. With a batch size of 128, a cResNet20 is below the limit, and a WRN above."""


def fuse_up_to(settings: Settings, run: Run, shape: DatasetShape) -> int:
    """Return the size, in examples, of the largest minibatch for which a run's members are fused; 0 to fuse none.

    Args:
        settings: the device, and whether to fuse.
        run: the run's spec, with its architecture.
        shape: the shape of its data.
    """
    if settings.fuse == "never" or settings.ranks > 1 or shape.image_size is None:
        return 0
    if settings.fuse == "always":
        return sys.maxsize
    if torch.device(settings.device).type == "cuda":
        return int(GPU_OPERATIONS / forward_flops(run.architecture, shape, 0))
    return CPU_PIXELS // shape.image_size**2
