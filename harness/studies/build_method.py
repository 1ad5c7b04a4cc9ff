"""Builds the method of a run from its spec, with initialized networks or on the meta device."""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import models
from data import DatasetShape
from harness.studies.run import Run
from methods import DataSizes, MakeNet, Method, Need, Recipe
from methods.core.layers import copy_module
from methods.core.random_streams import CONSTRUCTION, DRAWN, all_seeded, stream
from methods.core.wrapper import Wrapper, methods_within
from models.pretrained import check_pretrained_fit, load_pretrained


def make_method(
    run: Run,
    methods: Mapping[str, type[Method]],
    shape: DatasetShape,
    attach: Callable[[nn.Module], nn.Module] = lambda net: net,
    weights: Path | None = None,
    recipe: Recipe | None = None,
    build_net: Callable[..., nn.Module] = models.build,
) -> Method:
    """Build the method of a run on the CPU.

    Args:
        run: the spec of the run.
        methods: all methods by name.
        shape: shape of the images and number of classes.
        attach: called with each new network before it is copied, to attach precision and cost hooks; returns it.
        weights: folder of pretrained weights; None to keep random weights even if the recipe wants pretrained ones.
        recipe: used instead of the run's recipe; it must give the same training.
        build_net: builds each network, with the arguments of `models.build`.

    Raises:
        ValueError: if the architecture or the method refuses its arguments, or the pretrained weights do not fit.
        FileNotFoundError: if pretrained weights are missing and cannot be downloaded.
    """
    if run.recipe.initial != "random":
        check_pretrained_fit(run.architecture, in_channels=shape.in_channels, classes=shape.classes)

    sizes = DataSizes(shape.in_channels, shape.image_size, shape.classes, shape.train)
    given = {"in_channels": sizes.in_channels, "classes": sizes.classes, "image_size": sizes.image_size}

    def build(**options: Any) -> nn.Module:
        net = build_net(run.architecture, **(given | options))
        if run.recipe.initial != "random" and weights is not None:
            load_pretrained(net, run.architecture, weights)
        return attach(net)

    with all_seeded(stream(run.seed, CONSTRUCTION)):  # whatever the method draws itself
        method = run.method.make(methods)(MakeNet(build, run.seed, sizes), recipe or run.recipe)
    check_networks(method)
    return method


def check_networks(method: Method) -> None:
    """Refuse a method whose network `make_net` did not draw: nothing would count its work.

    Raises:
        ValueError: for the first such method, of a method and those inside it.
    """
    for part in reversed(methods_within(method)):  # the innermost first
        if not getattr(getattr(part, "net", None), DRAWN, False):
            raise ValueError(
                f"{type(part).__name__}.net is not a network that make_net drew: its work would not be counted, and it "
                "would have neither the study's architecture nor its precision; change layers of the network that "
                "make_net drew instead (self.net.set_submodule)"
            )


def count_anchors(method: Method, *, most: int = 4) -> int | None:
    """Count the anchors that a meta-device method has at the end of training.

    Args:
        method: method on the meta device; it is set to its last epoch for the count.
        most: largest number to count to.

    Returns:
        The number of anchors; None if it depends on trained values.
    """
    epochs = [(part, part.epoch) for part in methods_within(method)]
    for part, _ in epochs:
        part.epoch = max(part.epochs - 1, 0)
    try:
        with torch.no_grad():
            return sum(1 for _ in islice(method.anchors(), most))
    except RuntimeError:  # torch refuses to read a value of a meta tensor
        return None
    finally:
        for part, epoch in epochs:
            part.epoch = epoch


def build_meta_method(run: Run, methods: Mapping[str, type[Method]], shape: DatasetShape) -> Method:
    """Build the method of a run on the meta device, without memory or values, to check it and to read its structure."""
    with torch.device("meta"), SkipInitialization():
        return make_method(run, methods, shape, build_net=copy_meta_net)


def copy_meta_net(architecture: str, **options: Any) -> nn.Module:
    """Return a network on the meta device; copying one is several times as fast as building it."""
    return copy_module(build_meta_net(architecture, **options))


@lru_cache(maxsize=64)
def build_meta_net(architecture: str, **options: Any) -> nn.Module:
    """Build a network on the meta device, with the arguments of `models.build`."""
    return models.build(architecture, **options)


class MetaMethods:
    """A cache of methods on the meta device. All seeds share one method, and so do a study's checks and its plan."""

    def __init__(self, methods: Mapping[str, type[Method]]) -> None:
        """Start with an empty cache.

        Args:
            methods: all methods by name.
        """
        self.methods = methods
        self.built: dict[tuple[DatasetShape, str, str, str], Method] = {}
        self.needs_follow_seed: dict[str, bool] = {}

    def build(self, run: Run, shape: DatasetShape) -> Method:
        """Return the method of a run, built at the first call. Errors are not cached, so each call raises them."""
        key = self.key(run, shape)
        if key not in self.built:
            self.built[key] = build_meta_method(run, self.methods, shape)
        return self.built[key]

    @staticmethod
    def key(run: Run, shape: DatasetShape) -> tuple[DatasetShape, str, str, str]:
        """Return what decides the method of a run besides its seed."""
        return shape, run.architecture, str(run.method), run.recipe.model_dump_json()

    def needs(self, run: Run, shape: DatasetShape) -> list[Need]:
        """Return what a run needs, which depends on its seed; the method may have been built for another one.

        Whether a method's `needs` follows its attribute `seed` is seen at its second seed, by building it once more. If
        not, it is built for each seed. This is a property of the method's code, so it is found out once for each method
        expression.
        """
        method, key = self.build(run, shape), str(run.method)
        if all(type(part).needs in (Method.needs, Wrapper.needs) for part in methods_within(method)):
            return []
        if method.seed == run.seed:
            return seeded_needs(method)
        if self.needs_follow_seed.get(key):
            return needs_with_seed(method, run.seed)
        needs = seeded_needs(build_meta_method(run, self.methods, shape))
        self.needs_follow_seed.setdefault(key, needs == needs_with_seed(method, run.seed))
        return needs


def needs_with_seed(method: Method, seed: int) -> list[Need]:
    """Return what a method would need if it and the methods inside it had another seed."""
    before = method.seed
    parts = [(part, part.seed) for part in methods_within(method)]
    for part, own in parts:
        part.seed = seed if own == before else own
    try:
        return seeded_needs(method)
    finally:
        for part, own in parts:
            part.seed = own


def seeded_needs(method: Method) -> list[Need]:
    """Return what a method needs; what it draws from global generators for that follows its seed."""
    with all_seeded(stream(method.seed, "global generators in needs")):
        return method.needs()


class SkipInitialization(TorchFunctionMode):
    """Skips the normal initialization of meta tensors, which costs torch more time than making a layer."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return a meta tensor unchanged. A standard deviation that torch refuses is still refused."""
        if func is Tensor.normal_ and args[0].is_meta:
            std = (kwargs or {}).get("std", args[2] if len(args) > 2 else 1.0)
            if std >= 0:
                return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Collect no garbage: methods on the meta device are millions of objects, which each collection would visit."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
