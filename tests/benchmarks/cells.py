"""What benchmarks time: epochs of the harness, and of the bare loop that does the same work, on random images."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import models
from data import Augmentation, Batches, Shape, Split
from harness.costs.cost import Counter
from harness.parsing.method_expression import parse
from harness.planning.study_cost import forward_flops
from harness.running.compilation import clone_gradients, compile_forward
from harness.running.optimizers import make_optimizer
from harness.running.precision import use_bfloat16
from harness.running.training_loop import train_epoch
from methods import METHODS, SGD, MakeMethod, MakeNet, Method, Recipe
from methods.core.streams import stream
from methods.core.wrapper import methods_within
from tests.benchmarks.comparison import Epoch, Measured, Timing, in_turns
from tests.benchmarks.device import with_peak_memory

CLASSES = 10
START = 500
"""The epoch from which methods are timed, past T0 of those that have one."""


@dataclass(frozen=True)
class Cell:
    """A network, its data, and where and how it is trained.

    Attributes:
        architecture: its name.
        minibatches: of an epoch.
        batch_size: images of each.
        device: "cpu" or "cuda".
        precision: "float32" or "bfloat16".
        compile: how torch compiles the network of the harness.
        fuse_up_to: the largest minibatch of which members are run as one batch.
        channels: of an image.
        side: of an image, in pixels.
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
        """Images of an epoch."""
        return self.minibatches * self.batch_size

    @property
    def recipe(self) -> Recipe:
        """How it is trained: a small rate, so that nothing diverges."""
        return Recipe(epochs=1000, batch_size=self.batch_size, lr=0.01)

    @property
    def operations(self) -> float:
        """Floating-point operations of an image's training: forward, and twice as many backward."""
        return 3 * forward_flops(self.architecture, Shape(self.channels, self.side, CLASSES, 1), 0)

    def describe(self, method: str) -> dict[str, Any]:
        """Say what was timed, as `harness.planning.scaling_forecast` reads it."""
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

    def data(self) -> Batches:
        """Make random images, augmented as CIFAR's are."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.images, self.channels, self.side, self.side)
        images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        labels = torch.randint(CLASSES, (self.images,), generator=generator)
        return Batches(
            Split(images, labels).to(self.device),
            self.batch_size,
            mean=(0.5,) * self.channels,
            std=(0.25,) * self.channels,
            augmentation=Augmentation(padding=self.side // 8, flip=True),
            stream=lambda: stream(0, "data"),
        )

    def network(self, **options: float) -> nn.Module:
        """Draw the network, in the layout of the harness."""
        net = models.build(
            self.architecture, in_channels=self.channels, classes=CLASSES, image_size=self.side, **options
        )
        return net.to(memory_format=torch.channels_last)

    def method(self, make: MakeMethod = SGD, counter: Counter | None = None) -> Method:
        """Build a method as the harness does: its networks compiled, counted and in their precision."""

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


def build(written: str) -> MakeMethod:
    """Make a method of its expression."""
    spec, errors = parse(written, METHODS)
    if spec is None:
        raise ValueError("; ".join(errors))
    return spec.make(METHODS)


def bare_epoch(cell: Cell, build: Callable[[], nn.Module] | None = None) -> Epoch:
    """An epoch as one would write it by hand: the same data, network and optimizer, and nothing else.

    Args:
        cell: what is trained.
        build: draws another network than the cell's.
    """
    batches, recipe = cell.data(), cell.recipe
    net = (build or cell.network)().to(cell.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay, fused=True
    )
    half = cell.precision == "bfloat16"

    def epoch() -> None:
        net.train()
        total = torch.zeros((), device=cell.device)
        for x, y in batches:
            optimizer.zero_grad()
            with torch.autocast(cell.device, torch.bfloat16) if half else contextlib.nullcontext():
                logits = net(x)
            loss = nn.functional.cross_entropy(logits.float(), y)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        total.item()

    return epoch


def harness_epoch(cell: Cell, make: MakeMethod = SGD) -> Epoch:
    """An epoch of the harness, cost hooks and all, from `START` on (past T0 of the late-phase methods)."""
    counter, batches = Counter(), cell.data()
    method = cell.method(make, counter)
    optimizer = make_optimizer(method, cell.recipe)
    optimizer.register_step_post_hook(counter.step)
    epochs = iter(range(min(method.start_epoch, START), cell.recipe.epochs))

    def epoch() -> None:
        with counter.training(torch.device(cell.device)):
            train_epoch(method, optimizer, lambda order: batches, next(epochs))

    return epoch


def time_loop(cell: Cell, rounds: int, lasting: float = 0.0) -> Timing:
    """Time plain training by the harness ("harness") and by the bare loop ("bare"), and the memory of the former."""
    epoch, memory = with_peak_memory(lambda: harness_epoch(cell), cell.device)
    timing = in_turns({"harness": epoch, "bare": bare_epoch(cell)}, cell.device, rounds, warm_up=1, lasting=lasting)
    return Timing(timing.seconds, memory)


def time_method(cell: Cell, written: str, rounds: int, lasting: float = 0.0) -> Timing:
    """Time a method ("method") and plain training ("sgd")."""
    epochs = {"method": harness_epoch(cell, build(written)), "sgd": harness_epoch(cell)}
    return in_turns(epochs, cell.device, rounds, warm_up=1, lasting=lasting)


def rates(cell: Cell, taken: float) -> dict[str, float]:
    """Say how fast an epoch is that takes so many seconds."""
    return {"images_per_second": cell.images / taken, "ms_per_update": 1e3 * taken / cell.minibatches}


def loop_row(cell: Cell, timing: Timing, peak: float, bound: float) -> dict[str, Any]:
    """Sum up what `time_loop` gave, on a device that does so many operations a second at most."""
    taken = timing.median("harness")
    return {
        **cell.describe("sgd"),
        **rates(cell, taken),
        "of_matrix_peak": cell.images * cell.operations / taken / peak,
        "peak_memory_bytes": timing.memory,
        "over_bare_loop": Measured.of(timing.ratios("harness", "bare"), bound),
    }


def method_row(cell: Cell, written: str, timing: Timing, bound: float | None) -> dict[str, Any]:
    """Sum up what `time_method` gave."""
    over = Measured.of(timing.ratios("method", "sgd"), bound)
    return {**cell.describe(written), **rates(cell, timing.median("method")), "over_sgd": over}
