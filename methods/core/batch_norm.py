"""Re-estimate the running statistics of BatchNorm, for weights that no training batch has run through."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from methods.core.declarations import Batch
from methods.core.recipe import Recipe

WeightsByBatch = Callable[[int], Mapping[str, Tensor] | None]
"""A function from a batch's number to the weights that run on the batch; None stands for the network's own weights."""
NetworkWeights = Mapping[str, Tensor] | WeightsByBatch | None
"""The weights of one network: by name, as a function of the batch's number, or None for the network's own."""


class NetworkRunner(Protocol):
    """An object that predicts with given weights of its network, such as a `Method`."""

    net: nn.Module
    recipe: Recipe

    def predict_with(self, x: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the logits, (k, B, C)."""


def batch_norms(net: nn.Module) -> dict[str, _BatchNorm]:
    """Return the BatchNorm layers of a network by name."""
    return {name: layer for name, layer in net.named_modules() if isinstance(layer, _BatchNorm)}


def reestimate(
    method: NetworkRunner,
    batches: Iterable[Batch],
    weights: NetworkWeights = None,
) -> None:
    """Set the running means and variances to their averages over one pass of the data, in place.

    Each batch is weighted by its number of examples. Dropout is off. Without BatchNorm in the network, no pass is made.

    Args:
        method: runs its network, as for a prediction, by `method.predict_with(x, weights)`.
        batches: one pass of training data.
        weights: the weights to run; their running statistics are written. None: the network's own. A function
            returns the weights for each batch by its number, for several networks that share their statistics.

    Raises:
        ValueError: if there is no batch.

    References:
        Izmailov et al., Averaging weights leads to wider optima, 2018, section 3.2. Batches are weighted as in their
        code and in torchcontrib.
    """
    reestimate_each(method, batches, [weights])


@torch.no_grad()
def reestimate_each(method: NetworkRunner, batches: Iterable[Batch], members: Iterable[NetworkWeights]) -> None:
    """Re-estimate the statistics of several networks in one pass, which reads each batch once.

    Args:
        method: runs its network, as for a prediction, by `method.predict_with(x, weights)`.
        batches: one pass of training data.
        members: the weights of each network, each with statistics of its own. Weights given by name are all in memory
            together. Weights given by a function are computed again for each batch, and are not.

    Raises:
        ValueError: if there is no batch.
    """
    weights_by_batch = [member if callable(member) else partial(same_weights, member) for member in members]
    layers = {name: layer for name, layer in batch_norms(method.net).items() if layer.track_running_stats}
    if not layers:
        return
    buffers = dict(method.net.named_buffers())
    sums = [StatisticSums(buffers | dict(weights(0) or {}), layers) for weights in weights_by_batch]
    seen = batches_seen = 0
    with only_batch_norm_training(method.net, layers.values()):
        for i, (x, _) in enumerate(batches):
            examples = method.recipe.count_examples(x)
            for weights, own in zip(weights_by_batch, sums, strict=True):
                method.predict_with(x, weights(i))
                own.add(examples)
            seen, batches_seen = seen + examples, batches_seen + 1
    if not seen:
        raise ValueError("cannot re-estimate BatchNorm statistics: there is no batch of data")
    for own in sums:
        own.write(seen, batches_seen)


class StatisticSums:
    """Sums of one network's batch statistics over a pass, in float64."""

    def __init__(self, tensors: Mapping[str, Tensor], layers: Iterable[str]) -> None:
        """Start with sums of zero.

        Args:
            tensors: tensors by the network's names, with its running statistics among them.
            layers: names of the BatchNorm layers.
        """
        self.counts = [tensors[f"{name}.num_batches_tracked"] for name in layers]
        self.statistics = [tensors[f"{name}.{key}"] for name in layers for key in ("running_mean", "running_var")]
        self.sums = [torch.zeros_like(statistic, dtype=torch.float64) for statistic in self.statistics]
        for statistic in self.statistics:
            statistic.zero_()  # momentum 1 would keep a NaN

    def add(self, examples: int) -> None:
        """Add the statistics of the last batch, weighted by its number of examples."""
        for total, statistic in zip(self.sums, self.statistics, strict=True):
            total.add_(statistic, alpha=examples)

    def write(self, examples: int, batches: int) -> None:
        """Write the means to the running statistics.

        Args:
            examples: the number of examples in the pass.
            batches: the number of batches in the pass.
        """
        for total, statistic in zip(self.sums, self.statistics, strict=True):
            statistic.copy_(total / examples)
        for count in self.counts:
            count.fill_(batches)


def same_weights(weights: Mapping[str, Tensor] | None, batch: int) -> Mapping[str, Tensor] | None:
    """Return the same weights for every batch."""
    return weights


@contextmanager
def only_batch_norm_training(net: nn.Module, layers: Iterable[_BatchNorm]) -> Iterator[None]:
    """Put these layers in training mode and all others in evaluation mode, inside a `with` block.

    Each batch then replaces the running statistics.
    """
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
