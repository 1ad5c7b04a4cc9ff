"""The training loop. It is the same for all methods and names none of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice, repeat

import torch
from torch import Tensor
from torch.optim import Optimizer

from data import Minibatches
from harness.evaluation.evaluate import resize_batch
from harness.running.optimizers import make_optimizer
from harness.store.outcome import DivergenceError
from methods import Batch, Method
from methods.core.layers import copy_module
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
    highest = method.recipe.highest_rate
    for batches in group_batches(minibatches, method.batches_per_update):
        rate = method.lr(epoch + done / total)
        constant_rate = highest * method.recipe.warmup_factor(epoch + done / total)
        for group in optimizer.param_groups:
            constant = group.get("schedule") == "constant"
            group["lr"] = (constant_rate if constant else rate) * group["lr_scale"]
        losses.append(method.update(batches, optimizer))
        sizes.append(len(batches))
        done += len(batches)
    values = mean(torch.stack(losses)).tolist()  # the only place where an epoch waits for the device
    loss = math.fsum(value * size for value, size in zip(values, sizes, strict=True)) / total
    if not math.isfinite(loss):
        raise DivergenceError(f"the training loss became {loss} in epoch {epoch + 1} at learning rate {rate:.3g}")
    method.end_epoch(epoch)
    return loss, rate


def warm_up_epoch(
    method: Method, data: Callable[[int], Minibatches], epoch: int, watched: Sequence[Minibatches] = ()
) -> None:
    """Take every kind of update of an epoch, and of those after it, at least once, with a copy of the method.

    cuDNN searches for the fastest algorithm of a convolution when it first meets its shapes. Afterwards it meets no new
    ones until a method within this one starts, so that the search is not part of the seconds of training.

    Args:
        method: the method at the beginning of the epoch; it is not changed.
        data: see `train_epoch`.
        epoch: the epoch, counted from 0.
        watched: what `Method.watch` receives; empty if it is not called.
    """
    copy = copy_module(method)
    optimizer = make_optimizer(copy, copy.recipe)
    copy.begin_epoch(epoch)
    copy.train()
    minibatches = data(0)
    first, last = first_and_last(minibatches)
    seen, begun_with = set(), set()
    total = len(minibatches) * copy.data_orders()
    while (size := min(copy.batches_per_update(), total)) not in begun_with:  # epochs, each cutting cycles otherwise
        begun_with.add(size)
        left = total
        batches = chain(repeat(first, left - 1), [last])
        for group in group_batches(batches, copy.batches_per_update):
            left -= len(group)
            shapes = tuple(len(labels) for _, labels in group)
            if shapes not in seen or not left:
                copy.update(group, optimizer)
                seen.add(shapes)
    if watched:
        copy.watch(*map(first_and_last, watched))


def first_and_last(minibatches: Minibatches) -> list[Batch]:
    """Return the first minibatch of a pass, and rows of it in the number of those of the last one."""
    x, y = next(iter(minibatches))
    last = minibatches.examples - len(x) * (len(minibatches) - 1)
    return [(x, y), (resize_batch(x, last), resize_batch(y, last))]


def group_batches(batches: Iterator[Batch], size: Callable[[], int]) -> Iterator[list[Batch]]:
    """Yield minibatches in groups, one per update; `size` is called before each group. The last one may be smaller."""
    while group := list(islice(batches, size())):
        yield group
