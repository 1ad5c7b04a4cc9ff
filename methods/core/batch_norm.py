"""Re-estimation of BatchNorm's running statistics, for weights that were never trained themselves."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from methods.core.declarations import Batch
from methods.core.recipe import Recipe

Turn = Callable[[int], Mapping[str, Tensor] | None]
"""Gives the weights that see a batch, by its number; None for the network's own."""
Member = Mapping[str, Tensor] | Turn | None
"""A network's weights, or what gives them; None for the network's own."""


class RunsNetwork(Protocol):
    """What runs its network on weights: a `Method`."""

    net: nn.Module
    recipe: Recipe

    def __call__(self, x: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Give the logits, (B, C)."""


def batch_norms(net: nn.Module) -> dict[str, _BatchNorm]:
    """List the BatchNorm layers of a network by name."""
    return {name: layer for name, layer in net.named_modules() if isinstance(layer, _BatchNorm)}


def reestimate(
    method: RunsNetwork,
    batches: Iterable[Batch],
    weights: Member = None,
) -> None:
    """Set running means and variances to their average over one pass of the data, in place.

    Each batch counts by its number of examples. Dropout is off. A network without BatchNorm costs no pass.

    Args:
        method: runs its network as `method(x, weights)`.
        batches: one pass of training data.
        weights: the weights to run, whose running statistics are written; None for the network's own. A function
            gives those of each batch by its number, for networks that share their statistics and take turns.

    Raises:
        ValueError: if there is no batch.

    References:
        Izmailov et al., Averaging weights leads to wider optima, 2018, section 3.2; the weighting is that of
        their code and of torchcontrib.
    """
    reestimate_each(method, batches, [weights])


@torch.no_grad()
def reestimate_each(method: RunsNetwork, batches: Iterable[Batch], members: Iterable[Member]) -> None:
    """Do the same for several networks, each batch made once for all of them.

    Args:
        method: runs its network as `method(x, weights)`.
        batches: one pass of training data.
        members: the weights of each network, with statistics of its own; all are in memory together. A function gives
            them anew for each batch, by its number, and they are not.

    Raises:
        ValueError: if there is no batch.
    """
    turns = [member if callable(member) else partial(always, member) for member in members]
    layers = {name: layer for name, layer in batch_norms(method.net).items() if layer.track_running_stats}
    if not layers:
        return
    sums = [Sums(dict(method.net.named_buffers()) | dict(turn(0) or {}), layers) for turn in turns]
    seen = batches_seen = 0
    with only_training(method.net, layers.values()):
        for i, (x, _) in enumerate(batches):
            examples = method.recipe.count_examples(x)
            for turn, own in zip(turns, sums, strict=True):
                method(x, turn(i))
                own.add(examples)
            seen, batches_seen = seen + examples, batches_seen + 1
    if not seen:
        raise ValueError("cannot re-estimate BatchNorm statistics: there is no batch of data")
    for own in sums:
        own.write(seen, batches_seen)


class Sums:
    """The sums of a network's statistics over a pass, in float64."""

    def __init__(self, tensors: Mapping[str, Tensor], layers: Iterable[str]) -> None:
        """Start at nothing.

        Args:
            tensors: with the network's running statistics, by its names.
            layers: names of its BatchNorm layers.
        """
        self.counts = [tensors[f"{name}.num_batches_tracked"] for name in layers]
        self.statistics = [tensors[f"{name}.{key}"] for name in layers for key in ("running_mean", "running_var")]
        self.sums = [torch.zeros_like(statistic, dtype=torch.float64) for statistic in self.statistics]
        for statistic in self.statistics:
            statistic.zero_()  # momentum 1 would keep a NaN

    def add(self, examples: int) -> None:
        """Add the statistics of the last batch."""
        for total, statistic in zip(self.sums, self.statistics, strict=True):
            total.add_(statistic, alpha=examples)

    def write(self, examples: int, batches: int) -> None:
        """Set the statistics to their means over so many examples, in so many batches."""
        for total, statistic in zip(self.sums, self.statistics, strict=True):
            statistic.copy_(total / examples)
        for count in self.counts:
            count.fill_(batches)


def always(weights: Mapping[str, Tensor] | None, batch: int) -> Mapping[str, Tensor] | None:
    """Give the same weights whichever the batch."""
    return weights


@contextmanager
def only_training(net: nn.Module, layers: Iterable[_BatchNorm]) -> Iterator[None]:
    """Put these layers in training mode, each batch replacing the statistics, and the rest in evaluation mode."""
    modes = {module: module.training for module in net.modules()}
    momenta = {layer: layer.momentum for layer in layers}
    net.eval()
    for layer in momenta:
        layer.training, layer.momentum = True, 1.0
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for layer, momentum in momenta.items():
            layer.momentum = momentum
