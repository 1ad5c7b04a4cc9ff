"""From a run's spec to its method, networks drawn and all."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import models
from data import DatasetShape
from harness.studies.run import Run
from methods import MakeNet, Method, Recipe
from methods.core.wrapper import methods_within
from models.pretrained import check_pretrained_fit, load_pretrained


def make_method(
    run: Run,
    methods: Mapping[str, type[Method]],
    shape: DatasetShape,
    attach: Callable[[nn.Module], nn.Module] = lambda net: net,
    weights: Path | None = None,
    recipe: Recipe | None = None,
    drawing: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Method:
    """Build the method of a run on the CPU.

    Args:
        run: what to build.
        methods: every method by name.
        shape: of the images, and the number of classes.
        attach: given each network as it is drawn, before any copy of it is made: precision, cost hooks.
        weights: the folder of pretrained weights; None to leave networks as drawn even if they should start from such.
        recipe: in place of the run's, one that trains alike.
        drawing: makes what each network is drawn within.

    Raises:
        ValueError: if the architecture or the method refuses, or the pretrained weights do not fit.
        FileNotFoundError: if pretrained weights are missing and cannot be downloaded.
    """
    if run.recipe.initial != "random":
        check_pretrained_fit(run.architecture, in_channels=shape.in_channels, classes=shape.classes)

    def build(**options: float) -> nn.Module:
        with drawing():
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
    epochs = [(part, part.epoch) for part in methods_within(method)]
    for part, _ in epochs:
        part.epoch = max(part.epochs - 1, 0)
    try:
        with torch.no_grad():
            return sum(1 for _ in islice(method.anchors(), most))
    except RuntimeError:  # what torch says to a question about a value that is only imagined
        return None
    finally:
        for part, epoch in epochs:
            part.epoch = epoch


def imagine_method(run: Run, methods: Mapping[str, type[Method]], shape: DatasetShape) -> Method:
    """Build the method of a run without memory or values: to see whether it can be built, and what it needs."""
    with torch.device("meta"):
        return make_method(run, methods, shape, drawing=Undrawn)


class Imagined:
    """Methods without memory or values, each built once: for all seeds, for the checks of a study and for its plan."""

    def __init__(self, methods: Mapping[str, type[Method]]) -> None:
        """Start with none.

        Args:
            methods: every method by name.
        """
        self.methods = methods
        self.built: dict[tuple[DatasetShape, str, str, str], Method] = {}

    def __call__(self, run: Run, shape: DatasetShape) -> Method:
        """Give the method of a run; if it refuses, again each time that it is asked for."""
        place = (shape, run.architecture, str(run.method), run.recipe.model_dump_json())
        if place not in self.built:
            self.built[place] = imagine_method(run, self.methods, shape)
        return self.built[place]


class Undrawn(TorchFunctionMode):
    """Draws no normal values where there is no memory for them: torch takes longer to see that than to make a layer."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Give a tensor without memory back as it is; a standard deviation that torch refuses is still refused."""
        if func is Tensor.normal_ and args[0].is_meta:
            std = (kwargs or {}).get("std", args[2] if len(args) > 2 else 1.0)
            if std >= 0:
                return args[0]
        return func(*args, **(kwargs or {}))
