"""Time epochs of the harness against a bare PyTorch loop, and of methods against plain training.

Everything is timed side by side in one run, in turns, and compared by the median of the ratios. Run it by hand:
`python -m tests.benchmarks.speed`.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

import models
from data import Batches, load
from harness.cost import Counter
from harness.optimizers import make_optimizer
from harness.train import train_epoch
from methods import SGD, LatePhaseBatchNorm, Line, MakeMethod, MakeNet, Recipe
from methods.streams import stream

RECIPE = Recipe(epochs=1000, batch_size=32, lr=0.01)


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


def network(architecture: str, **options: float) -> nn.Module:
    """A network for the digits, in the layout that the harness uses."""
    net = models.build(architecture, in_channels=1, classes=10, image_size=8, **options)
    return net.to(memory_format=torch.channels_last)


def bare_epoch(architecture: str) -> Callable[[], None]:
    """An epoch as one would write it by hand: the same data, network and optimizer, and nothing else."""
    net, batches = network(architecture), digits()
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
    counter, batches = Counter(), digits()

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


def compare(base: Callable[[], None], other: Callable[[], None], rounds: int = 40) -> float:
    """How many times as long as `base` the other takes: the median ratio of epochs timed in turns."""
    for _ in range(3):
        base()
        other()
    ratios = []
    for i in range(rounds):
        order = (base, other) if i % 2 else (other, base)
        seconds = {}
        for epoch in order:
            start = time.perf_counter()
            epoch()
            seconds[epoch] = time.perf_counter() - start
        ratios.append(seconds[other] / seconds[base])
    return statistics.median(ratios)


LATE = partial(LatePhaseBatchNorm, K=10, start=500)
PAIRS: dict[str, tuple[Callable[[str], Callable[[], None]], Callable[[str], Callable[[], None]]]] = {
    "harness / bare loop": (bare_epoch, harness_epoch),
    "late_phase_bn(K=10) / sgd": (harness_epoch, partial(harness_epoch, method=LATE)),
    "line / sgd": (harness_epoch, partial(harness_epoch, method=Line)),
}


def main() -> None:
    """Print every ratio."""
    torch.set_num_threads(1)
    for name, (base, other) in PAIRS.items():
        for architecture in ("lenet5", "wrn-10-1"):
            print(f"{name:28} {architecture:10} {compare(base(architecture), other(architecture)):.3f}", flush=True)


if __name__ == "__main__":
    main()
