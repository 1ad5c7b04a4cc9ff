"""The group of processes, called ranks, that train one run together: on several GPUs of a machine, or on its CPU.

Every rank holds the whole method. It does everything that a single process would do, with the same order, augmentation
and random draws, but on its own rows of each minibatch. The ranks combine their parts in four places:

- in layers that use the whole minibatch, or draw numbers for each of its rows (`synchronized`);
- in the criterion, which is weighted so that its mean over ranks is that of the whole minibatch, however unequal the
  parts are;
- in the gradients, which are averaged over ranks right before the optimizer steps;
- at the end of an epoch, in the losses, the counted examples, and gradients that a method carries into the next epoch.

The result of a run is that of a single process up to rounding. Checkpoints are the same files, so that a run can
continue with another number of ranks. Only rank 0 writes files and evaluates.

Why this is not `torch.nn.parallel.DistributedDataParallel` (DDP): DDP averages gradients during the backward pass that
follows a forward pass through its wrapper. Methods run networks with weights that are not the network's parameters
(members, points of a subspace, generated kernels), so that a wrapper around the network would miss most parameters. A
wrapper around the method would only serve plain training. An update of K minibatches has K backward passes. The method
would have to exempt all but the last one, or communicate K times as much. DDP also weights all ranks equally although
their parts are unequal, and it renames parameters. Averaging once per step is correct for every method that only adds
and scales gradients before its step, because that is linear. The price is that communication does not overlap with the
backward pass.

What a method must satisfy stands at `Method.divisible`; only classes that say so of themselves are divided. `watch`
sees all held-out data on every rank. What it stores must not affect training, because GPUs may differ in the last bits.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from data import Minibatches
from harness.costs.cost import CostCounter
from methods import Batch, Method
from methods.core.wrapper import methods_within

BUCKET = 2**24
"""Numbers that are averaged in one communication."""


class Group:
    """The ranks of a run, as one of them sees them. In a group of one, nothing is exchanged.

    Attributes:
        rank: the number of this rank, from 0.
        size: the number of ranks.
        joint: whether the ranks train together now, so that each has a part of every minibatch.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        """Create the group of one process, or of ranks whose torch process group exists already."""
        self.rank, self.size = rank, size
        self.joint = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "Group":
        """Return the same group, because a copied network belongs to it, too."""
        return self

    # --- communication -------------------------------------------------------------------------------------

    def exchange(self, own: int) -> list[int]:
        """Return a number of each rank, in order. All ranks wait for each other, but not for a GPU."""
        found = [torch.empty(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(found, torch.tensor([own]))
        return [int(each) for each in found]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            self.exchange(0)

    def gather(self, own: Tensor) -> Tensor:
        """Return the tensors of all ranks, (R, …), which have one shape, (…)."""
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own)
        return torch.stack(found)

    def sum(self, own: Tensor) -> Tensor:
        """Replace a tensor by the sum of the ranks' tensors, which have one shape."""
        dist.all_reduce(own)
        return own

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their means over ranks. All ranks pass tensors of the same number, shapes and types."""
        for bucket in buckets(tensors):
            mean = self.sum(torch.cat([tensor.flatten() for tensor in bucket])).div_(self.size)
            pieces = torch.split(mean, [tensor.numel() for tensor in bucket])
            torch._foreach_copy_(bucket, [piece.view(t.shape) for piece, t in zip(pieces, bucket, strict=True)])

    # --- what a run needs ----------------------------------------------------------------------------------

    def divide(self, batches: Minibatches) -> Minibatches:
        """Return this rank's part of each minibatch.

        Raises:
            ValueError: if a part would be empty.
        """
        return batches.shard(self.rank, self.size) if self.size > 1 else batches

    def whole_batches(self, batches: Minibatches, counter: CostCounter) -> Iterable[Batch]:
        """Return whole minibatches for every rank, for use during joint training. Only rank 0 counts their cost."""
        return WholeBatches(self, batches, counter) if self.size > 1 else batches

    def synchronize_gradients(self, method: Method, optimizer: Optimizer | None) -> None:
        """Make a method's optimizer average the gradients of all ranks before each step.

        Args:
            method: the method.
            optimizer: its optimizer; None if the method trains nothing.

        Raises:
            ValueError: if the method's minibatches cannot be divided among ranks.
        """
        if self.size == 1:
            return
        for part in methods_within(method):
            if not part.may_be_divided:
                name = type(part).__name__
                raise ValueError(
                    f"{name}, as it is set here, may use examples of a minibatch together, which {self.size} ranks "
                    f"would divide: train it with --ranks 1. If that changes none of its results, say so in the class "
                    f"{name} by `divisible = True`; the docstring of `Method` says what it promises"
                )
        if optimizer:
            optimizer.register_step_pre_hook(self.average_gradients)

    @torch.no_grad()
    def average_gradients(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        """Average the gradients over ranks, right before a step, to those of the whole minibatches."""
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        self.average(p.grad for p in parameters if p.grad is not None)

    def average_carried_gradients(self, method: Method) -> None:
        """Average the gradients that a method carries into the next epoch, so that all ranks have the same state."""
        if self.size > 1:
            self.average(sums for part in methods_within(method) for sums in part.gradient_sums())

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over ranks of numbers such as losses."""
        return self.sum(values.clone()).div_(self.size) if self.size > 1 else values

    @contextmanager
    def rank_0_first(self) -> Iterator[None]:
        """Let rank 0 execute the body of the `with` statement, such as a download, before the other ranks do."""
        if self.rank:
            self.barrier()
        yield
        if not self.rank:
            self.barrier()

    @contextmanager
    def joint_training(self, counter: CostCounter) -> Iterator[None]:
        """Train together in the body of the `with` statement; then add the examples of all ranks to the counter."""
        if self.size == 1:
            yield
            return
        cost = counter.cost
        forward, backward = cost.forward_examples, cost.backward_examples
        self.barrier()
        self.joint = True
        try:
            yield
        finally:
            self.joint = False
        cost.forward_examples = forward + sum(self.exchange(cost.forward_examples - forward))
        cost.backward_examples = backward + sum(self.exchange(cost.backward_examples - backward))


class WholeBatches:
    """Minibatches that every rank sees as a whole. Joint training pauses while one is used."""

    def __init__(self, group: Group, batches: Minibatches, counter: CostCounter) -> None:
        self.group, self.batches, self.counter = group, batches, counter

    def __iter__(self) -> Iterator[Batch]:
        joint, counting = self.group.joint, self.counter.counting
        for batch in self.batches:
            self.group.joint, self.counter.counting = False, counting and not self.group.rank
            try:
                yield batch
            finally:
                self.group.joint, self.counter.counting = joint, counting


SINGLE_PROCESS = Group()
"""The group of a run in one process."""


def buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield tensors in lists of one type, each list with at least `BUCKET` numbers except the last of its type."""
    collected: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        bucket = collected.setdefault(tensor.dtype, [])
        bucket.append(tensor)
        if sum(each.numel() for each in bucket) >= BUCKET:
            yield collected.pop(tensor.dtype)
    yield from collected.values()
