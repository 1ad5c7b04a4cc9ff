"""From a run's spec to its method, networks drawn and all."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

import models
from data import Shape
from harness.run import Run
from methods import MakeNet, Method


def make_method(
    run: Run,
    methods: Mapping[str, type[Method]],
    shape: Shape,
    attach: Callable[[nn.Module], nn.Module] = lambda net: net,
) -> Method:
    """Build the method of a run on the CPU.

    Args:
        run: what to build.
        methods: every method by name.
        shape: of the pictures, and the number of classes.
        attach: given each network as it is drawn, before any copy of it is made: precision, cost hooks.

    Raises:
        ValueError: if the architecture or the method refuses.
    """

    def build(**options: float) -> nn.Module:
        return attach(
            models.build(
                run.architecture,
                in_channels=shape.in_channels,
                classes=shape.classes,
                image_size=shape.image_size,
                **options,
            )
        )

    return run.method.make(methods)(MakeNet(build, run.seed), run.recipe)


def imagine_method(run: Run, methods: Mapping[str, type[Method]], shape: Shape) -> Method:
    """Build the method of a run without memory or values: to see whether it can be built, and what it needs."""
    with torch.device("meta"):
        return make_method(run, methods, shape)
