"""An epoch of the harness, and the bare loop that does the same work: what benchmarks time."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from data import Batches
from harness.cost import Counter
from harness.optimizers import make_optimizer
from harness.train import train_epoch
from methods import MakeMethod, MakeNet, Recipe

START = 500
"""The epoch from which methods are timed: T0 of those that have one."""


def bare_epoch(
    net: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], recipe: Recipe
) -> Callable[[], None]:
    """An epoch as one would write it by hand: the same data, network and optimizer, and nothing else."""
    net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay, fused=True
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


def harness_epoch(
    build: Callable[..., nn.Module], batches: Batches, method: MakeMethod, recipe: Recipe
) -> Callable[[], None]:
    """An epoch of the harness, cost hooks and all, from `START` on."""
    counter = Counter()

    def attach(**options: float) -> nn.Module:
        net = build(**options).to(memory_format=torch.channels_last)
        net.register_forward_pre_hook(counter)
        return net

    made = method(MakeNet(attach, seed=0), recipe)
    optimizer = make_optimizer(made, recipe)
    optimizer.register_step_post_hook(counter.step)
    first = 0 if made.start_epoch == 0 else START
    epochs = iter(range(first, recipe.epochs))

    def epoch() -> None:
        with counter.training(torch.device("cpu")):
            train_epoch(made, optimizer, lambda order: batches, next(epochs))

    return epoch
