"""From a run's spec to its method, networks drawn and all."""

from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path

import torch
from torch import nn

import models
from data import Shape
from harness.run import Run
from methods import MakeNet, Method, Recipe
from methods.wrapper import methods_within
from models.pretrained import check_fit, load_pretrained


def make_method(
    run: Run,
    methods: Mapping[str, type[Method]],
    shape: Shape,
    attach: Callable[[nn.Module], nn.Module] = lambda net: net,
    weights: Path | None = None,
    recipe: Recipe | None = None,
) -> Method:
    """Build the method of a run on the CPU.

    Args:
        run: what to build.
        methods: every method by name.
        shape: of the pictures, and the number of classes.
        attach: given each network as it is drawn, before any copy of it is made: precision, cost hooks.
        weights: the folder of pretrained weights; None to leave networks as drawn even if they should start from such.
        recipe: in place of the run's, one that trains alike.

    Raises:
        ValueError: if the architecture or the method refuses, or the pretrained weights do not fit.
        FileNotFoundError: if pretrained weights are missing and cannot be downloaded.
    """
    if run.recipe.initial != "random":
        check_fit(run.architecture, in_channels=shape.in_channels, classes=shape.classes)

    def build(**options: float) -> nn.Module:
        net = models.build(
            run.architecture,
            in_channels=shape.in_channels,
            classes=shape.classes,
            image_size=shape.image_size,
            **options,
        )
        if run.recipe.initial != "random" and weights is not None:
            load_pretrained(net, run.architecture, weights)
        return attach(net)

    return run.method.make(methods)(MakeNet(build, run.seed), recipe or run.recipe)


def count_anchors(method: Method, *, most: int = 4) -> int | None:
    """Count the anchors that an imagined method has at the end of training.

    Args:
        method: imagined; it is put into its last epoch.
        most: count no further.

    Returns:
        None where it depends on values, which only training gives.
    """
    for part in methods_within(method):
        part.epoch = max(part.epochs - 1, 0)
    try:
        with torch.no_grad():
            return sum(1 for _ in islice(method.anchors(), most))
    except RuntimeError:  # what torch says to a question about a value that is only imagined
        return None


def imagine_method(run: Run, methods: Mapping[str, type[Method]], shape: Shape) -> Method:
    """Build the method of a run without memory or values: to see whether it can be built, and what it needs."""
    with torch.device("meta"):
        return make_method(run, methods, shape)
