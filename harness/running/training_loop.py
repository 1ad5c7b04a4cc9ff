"""The training loop: one for all methods, naming none."""

import math
from collections.abc import Callable, Iterator
from itertools import chain, islice

import torch
from torch import Tensor
from torch.optim import Optimizer

from data import Minibatches
from harness.store.outcome import DivergenceError
from methods import Batch, Method
from methods.core.random_streams import seed_torch, stream


def grouped(batches: Iterator[Batch], size: Callable[[], int]) -> Iterator[list[Batch]]:
    """Group minibatches, asking anew for the `size` of each group; the last group may be smaller."""
    while group := list(islice(batches, size())):
        yield group


def train_epoch(
    method: Method,
    optimizer: Optimizer,
    data: Callable[[int], Minibatches],
    epoch: int,
    mean: Callable[[Tensor], Tensor] = lambda losses: losses,
) -> tuple[float, float]:
    """Train for one epoch.

    Args:
        method: what to train.
        optimizer: over its parameter groups.
        data: gives one pass over the training data in each of its orders; order 0 is plain training's.
        epoch: counted from 0.
        mean: gives the means of losses over the processes that share minibatches.

    Returns:
        The mean training loss of the epoch's minibatches, and the last learning rate.

    Raises:
        DivergenceError: if the loss is not finite.
    """
    seed_torch(stream(method.seed, "torch", epoch), next(method.net.parameters()).device)
    if method.recipe.resets_optimizer(epoch):
        optimizer.state.clear()
    method.begin_epoch(epoch)
    method.train()
    passes = [data(order) for order in range(method.data_orders())]
    steps, done = sum(map(len, passes)), 0
    losses, sizes = [], []
    for group in grouped(chain.from_iterable(zip(*passes, strict=True)), method.batches_per_update):
        rate = method.lr(epoch + done / steps)
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate * parameters["lr_scale"]
        losses.append(method.update(group, optimizer))
        sizes.append(len(group))
        done += len(group)
    values = mean(torch.stack(losses)).tolist()  # the one moment in which an epoch waits for the device
    loss = math.fsum(value * size for value, size in zip(values, sizes, strict=True)) / steps
    if not math.isfinite(loss):
        raise DivergenceError(f"the training loss became {loss} in epoch {epoch + 1} at learning rate {rate:.3g}")
    method.end_epoch(epoch)
    return loss, rate
