"""The training loop. It is the same for all methods and names none of them."""

import math
from collections.abc import Callable, Iterator
from itertools import chain, islice

import torch
from torch import Tensor
from torch.optim import Optimizer

from data import Minibatches
from harness.store.outcome import DivergenceError
from methods import Batch, Method
from methods.core.random_streams import seed_all, stream


def train_epoch(
    method: Method,
    optimizer: Optimizer,
    data: Callable[[int], Minibatches],
    epoch: int,
    mean: Callable[[Tensor], Tensor] = lambda losses: losses,
) -> tuple[float, float]:
    """Train a method for one epoch.

    Args:
        method: the method.
        optimizer: steps the method's parameter groups.
        data: returns one pass over the training data in a given order; order 0 is that of plain training.
        epoch: the epoch, counted from 0.
        mean: returns the mean of losses over the processes that share minibatches.

    Returns:
        The mean training loss of the epoch's minibatches, and the last learning rate.

    Raises:
        DivergenceError: if the loss is not finite.
    """
    seed_all(stream(method.seed, "torch", epoch), next(method.net.parameters()).device)
    if method.resets_optimizer(epoch):
        optimizer.state.clear()
    method.begin_epoch(epoch)
    method.train()
    passes = [data(order) for order in range(method.data_orders())]
    minibatches = chain.from_iterable(zip(*passes, strict=True))  # one of each order in turn
    total, done = sum(map(len, passes)), 0
    losses, sizes = [], []
    for batches in group_batches(minibatches, method.batches_per_update):
        rate = method.lr(epoch + done / total)
        for group in optimizer.param_groups:
            constant = group.get("schedule") == "constant"
            group["lr"] = (method.recipe.lr if constant else rate) * group["lr_scale"]
        losses.append(method.update(batches, optimizer))
        sizes.append(len(batches))
        done += len(batches)
    values = mean(torch.stack(losses)).tolist()  # the only place where an epoch waits for the device
    loss = math.fsum(value * size for value, size in zip(values, sizes, strict=True)) / total
    if not math.isfinite(loss):
        raise DivergenceError(f"the training loss became {loss} in epoch {epoch + 1} at learning rate {rate:.3g}")
    method.end_epoch(epoch)
    return loss, rate


def group_batches(batches: Iterator[Batch], size: Callable[[], int]) -> Iterator[list[Batch]]:
    """Yield minibatches in groups, one per update; `size` is called before each group. The last one may be smaller."""
    while group := list(islice(batches, size())):
        yield group
