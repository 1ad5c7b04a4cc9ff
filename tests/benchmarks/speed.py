"""Time epochs of the harness against a bare PyTorch loop, and of methods against plain training.

Everything is timed side by side in one run, in turns, and compared by the median of the ratios. Run it by hand; it
takes about ten minutes: `python -m tests.benchmarks.speed`.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

import models
from data import Augmentation, Batches, Split, load
from harness.cost import Counter
from harness.expression import parse
from harness.optimizers import make_optimizer
from harness.train import train_epoch
from methods import METHODS, SGD, LatePhaseBatchNorm, Line, MakeMethod, MakeNet, Recipe
from methods.streams import stream

RECIPE = Recipe(epochs=1000, batch_size=32, lr=0.01)
LARGE = "wrn-16-4"
ON_PICTURES = (LARGE, "lenet5")
"""Timed on pictures of CIFAR's size, other networks on the digits. An update of LeNet-5 on these takes 1.5 ms: the
harness's own 30 µs are 2 % of it, as much as two medians taken in one process differ by."""
MINIBATCHES, PICTURES = 10, 64
"""Of an epoch on pictures: a cycle of ten members; and of a minibatch."""


def digits() -> Batches:
    """The digits, augmented."""
    task = load("digits")
    return Batches(
        task.train,
        RECIPE.batch_size,
        mean=task.mean,
        std=task.std,
        augmentation=task.augmentation,
        stream=lambda: stream(0, "data"),
    )


def pictures() -> Batches:
    """A few minibatches of random pictures, of CIFAR's size and augmented as they are."""
    n = MINIBATCHES * PICTURES
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Batches(
        Split(images, torch.randint(10, (n,), generator=generator)),
        PICTURES,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        augmentation=Augmentation(padding=4, flip=True),
        stream=lambda: stream(0, "data"),
    )


def data_for(architecture: str) -> Batches:
    """What a network is timed on."""
    return pictures() if architecture in ON_PICTURES else digits()


def network(architecture: str, **options: float) -> nn.Module:
    """A network for these data, in the layout that the harness uses."""
    channels, size = (3, 32) if architecture in ON_PICTURES else (1, 8)
    net = models.build(architecture, in_channels=channels, classes=10, image_size=size, **options)
    return net.to(memory_format=torch.channels_last)


def bare_epoch(architecture: str) -> Callable[[], None]:
    """An epoch as one would write it by hand: the same data, network and optimizer, and nothing else."""
    net, batches = network(architecture), data_for(architecture)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=RECIPE.lr, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    )

    def epoch() -> None:
        net.train()
        total = torch.zeros(())
        for x, y in batches:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        total.item()

    return epoch


def harness_epoch(architecture: str, method: MakeMethod = SGD) -> Callable[[], None]:
    """An epoch of the harness, cost hooks and all, from epoch 500 on (past T0 of the late-phase methods)."""
    counter, batches = Counter(), data_for(architecture)

    def build(**options: float) -> nn.Module:
        net = network(architecture, **options)
        net.register_forward_pre_hook(counter)
        return net

    made = method(MakeNet(build, seed=0), RECIPE)
    optimizer = make_optimizer(made, RECIPE)
    optimizer.register_step_post_hook(counter.step)
    epochs = iter(range(500, 1000))

    def epoch() -> None:
        with counter.training(torch.device("cpu")):
            train_epoch(made, optimizer, lambda order: batches, next(epochs))

    return epoch


def compare(base: Callable[[], None], other: Callable[[], None], rounds: int = 40, warm_up: int = 3) -> float:
    """How many times as long as `base` the other takes: the median ratio of epochs timed in turns."""
    for _ in range(warm_up):
        base()
        other()
    ratios = []
    for i in range(rounds):
        order = (base, other) if i % 2 else (other, base)
        seconds = {}
        for epoch in order:
            start = time.process_time()  # of one thread: what else the machine does counts less
            epoch()
            seconds[epoch] = time.process_time() - start
        ratios.append(seconds[other] / seconds[base])
    return statistics.median(ratios)


LATE = partial(LatePhaseBatchNorm, K=10, start=500)
PAIRS: dict[str, tuple[Callable[[str], Callable[[], None]], Callable[[str], Callable[[], None]]]] = {
    "harness / bare loop": (bare_epoch, harness_epoch),
    "late_phase_bn(K=10) / sgd": (harness_epoch, partial(harness_epoch, method=LATE)),
    "line / sgd": (harness_epoch, partial(harness_epoch, method=Line)),
}
BOUNDS = {
    "late_phase_bn(K=10, start=500)": 1.03,
    "late_phase_rank1(K=10, start=500)": 1.15,
    "line": 1.15,
    "curve": 1.15,
    "swa(start=500)": 1.02,
    "swag(start=500)": 1.02,
}
"""How many times as long as plain training a method may take on the large network; collecting is part of an epoch."""


def print_bounds(rounds: int = 3) -> bool:
    """Print the ratio of each method beside its bound; say whether all bounds hold."""
    good = True
    base = harness_epoch(LARGE)
    for written, bound in BOUNDS.items():
        spec, errors = parse(written, METHODS)
        if spec is None:
            raise ValueError("; ".join(errors))
        ratio = compare(base, harness_epoch(LARGE, spec.make(METHODS)), rounds, warm_up=1)
        good &= ratio <= bound
        verdict = "" if ratio <= bound else "  above the bound"
        print(f"{written:35} {LARGE:10} {ratio:.3f} <= {bound:.2f}{verdict}", flush=True)
    return good


def main() -> None:
    """Print every ratio, on one thread."""
    torch.set_num_threads(1)
    for name, (base, other) in PAIRS.items():
        for architecture in ("lenet5", "wrn-10-1"):
            print(f"{name:35} {architecture:10} {compare(base(architecture), other(architecture)):.3f}", flush=True)
    if not print_bounds():
        sys.exit(1)


if __name__ == "__main__":
    main()
