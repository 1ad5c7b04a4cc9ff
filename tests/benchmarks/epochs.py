"""The epochs that benchmarks time, on random images: those of the harness, and those of a bare PyTorch loop."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import models
from data import Augmentation, DatasetShape, ImageBatches, Split
from harness.costs.cost import CostCounter
from harness.parsing.method_expression import parse_method
from harness.planning.study_cost import forward_flops
from harness.running.compilation import clone_gradients, compile_forward
from harness.running.optimizers import make_optimizer
from harness.running.precision import use_bfloat16
from harness.running.training_loop import train_epoch
from methods import METHODS, SGD, MakeMethod, MakeNet, Method, Recipe
from methods.core.random_streams import stream
from methods.core.wrapper import methods_within
from tests.benchmarks.device import measure_peak_memory
from tests.benchmarks.timing import Epoch, Measurement, Timing, time_in_turns

CLASSES = 10
START = 500
"""The first timed epoch of methods. It is not before T0 of the methods that have one."""


@dataclass(frozen=True)
class TrainingSetup:
    """An architecture, its data, and how and on which device it is trained.

    Attributes:
        architecture: name of the architecture.
        minibatches: number of minibatches in an epoch.
        batch_size: number of images in a minibatch.
        device: "cpu" or "cuda".
        precision: "float32" or "bfloat16".
        compile: mode of torch.compile for the network of the harness, or "off".
        fuse_up_to: the largest minibatch whose late-phase members are run as one batch.
        channels: number of channels of an image.
        side: width and height of an image, in pixels.
    """

    architecture: str
    minibatches: int = 10
    batch_size: int = 128
    device: str = "cpu"
    precision: str = "float32"
    compile: str = "off"
    fuse_up_to: int = 0
    channels: int = 3
    side: int = 32

    @property
    def images(self) -> int:
        """Number of images in an epoch."""
        return self.minibatches * self.batch_size

    @property
    def recipe(self) -> Recipe:
        """The recipe, with a small learning rate so that nothing diverges."""
        return Recipe(epochs=1000, batch_size=self.batch_size, lr=0.01)

    @property
    def operations(self) -> float:
        """Floating-point operations to train on one image: forward, and twice as many backward."""
        return 3 * forward_flops(self.architecture, DatasetShape(self.channels, self.side, CLASSES, 1), 0)

    def describe(self, method: str) -> dict[str, Any]:
        """Describe the setup in the form that `harness.planning.scaling_forecast` reads."""
        return {
            "architecture": self.architecture,
            "image": [self.channels, self.side, self.side],
            "classes": CLASSES,
            "batch_size": self.batch_size,
            "precision": self.precision,
            "compile": self.compile,
            "fuse_up_to": self.fuse_up_to,
            "method": method,
        }

    def data(self) -> ImageBatches:
        """Make minibatches of random images, with the augmentation of CIFAR."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.images, self.channels, self.side, self.side)
        images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        labels = torch.randint(CLASSES, (self.images,), generator=generator)
        return ImageBatches(
            Split(images, labels).to(self.device),
            self.batch_size,
            mean=(0.5,) * self.channels,
            std=(0.25,) * self.channels,
            augmentation=Augmentation(padding=self.side // 8, flip=True),
            stream=lambda: stream(0, "data"),
        )

    def network(self, **options: float) -> nn.Module:
        """Make the network, in the memory layout of the harness."""
        net = models.build(
            self.architecture, in_channels=self.channels, classes=CLASSES, image_size=self.side, **options
        )
        return net.to(memory_format=torch.channels_last)

    def method(self, make: MakeMethod = SGD, counter: CostCounter | None = None) -> Method:
        """Build a method as the harness does: with compiled networks, cost counters and precision."""

        def attach(**options: float) -> nn.Module:
            net = self.network(**options)
            if self.compile != "off":
                compile_forward(net, self.compile)
            if counter is not None:
                net.register_forward_pre_hook(counter)
            if self.precision == "bfloat16":
                use_bfloat16(net, self.device)
            return net

        method = make(MakeNet(attach, seed=0), self.recipe).to(self.device)
        if self.compile == "reduce-overhead":
            clone_gradients(method)
        for part in methods_within(method):
            part.fuse_up_to = self.fuse_up_to
        return method


def build(expression: str) -> MakeMethod:
    """Return the constructor of a method from its expression."""
    spec, errors = parse_method(expression, METHODS)
    if spec is None:
        raise ValueError("; ".join(errors))
    return spec.make(METHODS)


def bare_epoch(setup: TrainingSetup, build: Callable[[], nn.Module] | None = None) -> Epoch:
    """Return an epoch of a hand-written loop: the same data, network and optimizer, and nothing else.

    Args:
        setup: what to train.
        build: makes a network to train in place of the setup's.
    """
    batches, recipe = setup.data(), setup.recipe
    net = (build or setup.network)().to(setup.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay, fused=True
    )
    half = setup.precision == "bfloat16"

    def epoch() -> None:
        net.train()
        total = torch.zeros((), device=setup.device)
        for x, y in batches:
            optimizer.zero_grad()
            with torch.autocast(setup.device, torch.bfloat16) if half else contextlib.nullcontext():
                logits = net(x)
            loss = nn.functional.cross_entropy(logits.float(), y)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        total.item()

    return epoch


def harness_epoch(setup: TrainingSetup, make: MakeMethod = SGD) -> Epoch:
    """Return an epoch of the harness, with its cost hooks. Methods with a T0 begin at it, at most at `START`."""
    counter, batches = CostCounter(), setup.data()
    method = setup.method(make, counter)
    optimizer = make_optimizer(method, setup.recipe)
    optimizer.register_step_post_hook(counter.step)
    epochs = iter(range(min(method.start_epoch, START), setup.recipe.epochs))

    def epoch() -> None:
        with counter.training(torch.device(setup.device)):
            train_epoch(method, optimizer, lambda order: batches, next(epochs))

    return epoch


def time_loop(setup: TrainingSetup, rounds: int, lasting: float = 0.0) -> Timing:
    """Time plain training in the harness ("harness") and in a bare loop ("bare"). Measure the memory of the former."""
    epoch, memory = measure_peak_memory(lambda: harness_epoch(setup), setup.device)
    timing = time_in_turns(
        {"harness": epoch, "bare": bare_epoch(setup)}, setup.device, rounds, warm_up=1, lasting=lasting
    )
    return Timing(timing.seconds, memory)


def time_method(setup: TrainingSetup, expression: str, rounds: int, lasting: float = 0.0) -> Timing:
    """Time a method ("method") and plain training ("sgd")."""
    epochs = {"method": harness_epoch(setup, build(expression)), "sgd": harness_epoch(setup)}
    return time_in_turns(epochs, setup.device, rounds, warm_up=1, lasting=lasting)


def speed_of(setup: TrainingSetup, taken: float) -> dict[str, float]:
    """Return the speed of an epoch that takes `taken` seconds."""
    return {"images_per_second": setup.images / taken, "ms_per_update": 1e3 * taken / setup.minibatches}


def loop_row(setup: TrainingSetup, timing: Timing, peak: float, bound: float) -> dict[str, Any]:
    """Summarize the timing of `time_loop`.

    Args:
        setup: what was timed.
        timing: of "harness" and "bare".
        peak: peak speed of the device, in operations a second.
        bound: maximum ratio of the harness to the bare loop.
    """
    taken = timing.median("harness")
    return {
        **setup.describe("sgd"),
        **speed_of(setup, taken),
        "of_matrix_peak": setup.images * setup.operations / taken / peak,
        "peak_memory_bytes": timing.memory,
        "over_bare_loop": Measurement.of(timing.ratios("harness", "bare"), bound),
    }


def method_row(setup: TrainingSetup, expression: str, timing: Timing, bound: float | None) -> dict[str, Any]:
    """Summarize the timing of `time_method`."""
    over = Measurement.of(timing.ratios("method", "sgd"), bound)
    return {**setup.describe(expression), **speed_of(setup, timing.median("method")), "over_sgd": over}
