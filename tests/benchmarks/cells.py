"""What benchmarks time: epochs of the harness, and of the bare loop that does the same work, on random pictures.

Timed are epochs in turns, within one process, and compared by the median of the ratios.
"""

import contextlib
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import models
from data import Augmentation, Batches, Shape, Split
from harness.compilation import compile_forward, own_gradients
from harness.cost import Counter
from harness.expression import parse
from harness.optimizers import make_optimizer
from harness.precision import use_bfloat16
from harness.provenance import commit
from harness.study_cost import operations
from harness.train import train_epoch
from methods import METHODS, SGD, MakeMethod, MakeNet, Method, Recipe
from methods.streams import stream
from methods.wrapper import methods_within

CLASSES = 10
START = 500
"""The epoch from which methods are timed, past T0 of those that have one."""
Epoch = Callable[[], object]


@dataclass(frozen=True)
class Cell:
    """A network, its data, and where and how it is trained.

    Attributes:
        architecture: its name.
        minibatches: of an epoch.
        batch_size: pictures of each.
        device: "cpu" or "cuda".
        precision: "float32" or "bfloat16".
        compile: how torch compiles the network of the harness.
        fuse_up_to: the largest minibatch of which members are run as one batch.
        channels: of a picture.
        side: of a picture, in pixels.
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
    def pictures(self) -> int:
        """Pictures of an epoch."""
        return self.minibatches * self.batch_size

    @property
    def recipe(self) -> Recipe:
        """How it is trained: a small rate, so that nothing diverges."""
        return Recipe(epochs=1000, batch_size=self.batch_size, lr=0.01)

    @property
    def operations(self) -> float:
        """Floating-point operations of a picture's training: forward, and twice as many backward."""
        return 3 * operations(self.architecture, Shape(self.channels, self.side, CLASSES, 1), 0)

    def describe(self, method: str) -> dict[str, Any]:
        """Say what was timed, as `harness.scaling` reads it."""
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
        """Make random pictures, augmented as CIFAR's are."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.pictures, self.channels, self.side, self.side)
        images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        labels = torch.randint(CLASSES, (self.pictures,), generator=generator)
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
            own_gradients(method)
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


def seconds(epoch: Epoch, device: str, clock: Callable[[], float] = time.perf_counter) -> float:
    """Time an epoch, to the end of what it started on the device."""
    start = clock()
    epoch()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def in_turns(
    epochs: dict[str, Epoch], device: str, rounds: int, warm_up: int = 2, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Time several kinds of epochs in turns, each round in the other order."""
    for _ in range(warm_up):
        for epoch in epochs.values():
            seconds(epoch, device)
    times: dict[str, list[float]] = {name: [] for name in epochs}
    for i in range(rounds):
        for name in list(epochs)[:: 1 if i % 2 else -1]:
            times[name].append(seconds(epochs[name], device, clock))
    return times


def ratio(times: dict[str, list[float]], one: str, other: str) -> float:
    """Give how many times as long as the other one takes: the median of the ratios of rounds."""
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def matrix_peak(device: str, precision: str) -> float:
    """Measure the most floating-point operations a second that the device does in a large matrix product.

    On a CPU also in a large convolution, which another library computes there, and a faster one.
    """
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    n = 8192 if device == "cuda" else 4096
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    work: dict[str, tuple[float, Epoch]] = {"product": (2.0 * n**3, lambda: torch.mm(a, b))}
    if device == "cpu":
        x = torch.randn(16, 512, 32, 32, dtype=dtype).contiguous(memory_format=torch.channels_last)
        kernel = torch.randn(512, 512, 3, 3, dtype=dtype)
        count = 2.0 * x.numel() * kernel[0].numel()  # as many channels come out as go in
        work["convolution"] = (count, lambda: nn.functional.conv2d(x, kernel, padding=1))
    times = in_turns({name: run for name, (_, run) in work.items()}, device, rounds=3)
    return max(count / statistics.median(times[name]) for name, (count, _) in work.items())


def device_name(device: str) -> str:
    """Name what was measured on."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def module_name() -> str:
    """Name the module that was started."""
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else sys.argv[0]


def write_results(path: Path, device: str, results: dict[str, Any]) -> None:
    """Write what was measured as JSON, with where, by which command and from which commit."""
    made = {
        "device": {
            "name": device_name(device),
            "type": device,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "command": shlex.join(["python", "-m", module_name(), *sys.argv[1:]]),
        "commit": commit(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**made, **results}, indent=1) + "\n")
    print(f"\nwritten to {path}")


@dataclass
class Judge:
    """Compares figures with their bounds.

    Attributes:
        bad: the figures that did not keep theirs.
    """

    bad: list[str]

    def __call__(self, what: str, value: float, bound: float | None, *, least: bool = False) -> str:
        """Write a figure beside its bound, if it has one."""
        if bound is None:
            return f"{value:.3f}"
        if not (value >= bound if least else value <= bound):
            self.bad.append(f"{what}: {value:.3f}, bound {bound}")
        return f"{value:.3f} {'>=' if least else '<='} {bound:.2f}"

    def end(self) -> None:
        """Fail if a bound did not hold."""
        if self.bad:
            print("not kept: " + "; ".join(self.bad))
            sys.exit(1)
