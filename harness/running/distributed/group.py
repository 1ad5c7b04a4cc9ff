"""One run trained by several processes, the ranks: on several GPUs of a machine, or on its CPU.

Every rank holds the whole method and does all that one process would do, on its part of each minibatch: the same
order, augmentation and draws, other rows. What one process would see is put together in four places:

- layers that look at the whole minibatch, or draw numbers for each of its rows (`synchronized`);
- the criterion, weighted so that the mean over ranks is that of the whole minibatch, however unequal the parts are;
- gradients, averaged over ranks right before the optimizer steps;
- at an epoch's end, the losses, the examples counted, and gradients that a method carries into the next epoch.

So runs have the results of one process up to rounding, and their checkpoints are the same files: a run may go on with
another number of ranks. Rank 0 alone writes and evaluates.

Why this is not `torch.nn.parallel.DistributedDataParallel`: that averages gradients within the backward pass which
follows a forward pass through its wrapper. Methods run networks with weights that are no parameters of theirs (members,
points of a subspace, generated kernels), so that a wrapper around the network would miss most parameters. Around the
method it would serve plain training alone: an update of K minibatches has K backward passes, all but the last of which
the method itself would have to exempt, or pay K times the communication; it counts every rank alike where parts are
unequal; and it renames parameters. Averaging once a step is right for every method that only adds up and scales
gradients before its step, which is linear. What is given up is communication during the backward pass.

What a method has to keep to: losses come from the recipe's criterion, and what else there is in them does not depend
on examples (`Method.divisible`). One that draws numbers for each example from a stream of its own would draw the same
ones on every rank. `watch` sees all held-out data on every rank, and what it keeps must not steer training, as GPUs
may disagree in the last bits.
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
"""Numbers that travel at once."""


class Group:
    """The ranks of a run, seen from one of them; alone, everything is as in a run without ranks.

    Attributes:
        rank: this one's number, from 0.
        size: how many there are.
        joined: whether they train together now: minibatches are parts of whole ones.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        """Take a place among ranks whose process group exists already, or alone."""
        self.rank, self.size = rank, size
        self.joined = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "Group":
        """Stay one group when a network is copied."""
        return self

    # --- saying and adding ---------------------------------------------------------------------------------

    def counts(self, own: int) -> list[int]:
        """Tell each other a number, and so wait for each other, without waiting for a GPU: each rank's, in order."""
        found = [torch.empty(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(found, torch.tensor([own]))
        return [int(each) for each in found]

    def wait(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            self.counts(0)

    def gather(self, own: Tensor) -> Tensor:
        """Show each other tensors of one shape, (…): those of all ranks, (R, …)."""
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own)
        return torch.stack(found)

    def sum(self, own: Tensor) -> Tensor:
        """Add up tensors of one shape, in place."""
        dist.all_reduce(own)
        return own

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their means over ranks, which have equally many of the same shapes and types."""
        for bucket in buckets(tensors):
            mean = self.sum(torch.cat([tensor.flatten() for tensor in bucket])).div_(self.size)
            pieces = torch.split(mean, [tensor.numel() for tensor in bucket])
            torch._foreach_copy_(bucket, [piece.view(t.shape) for piece, t in zip(pieces, bucket, strict=True)])

    # --- what a run needs ----------------------------------------------------------------------------------

    def part(self, passes: Minibatches) -> Minibatches:
        """Give this rank's part of each minibatch.

        Raises:
            ValueError: if a part would be empty.
        """
        return passes.shard(self.rank, self.size) if self.size > 1 else passes

    def apart(self, passes: Minibatches, counter: CostCounter) -> Iterable[Batch]:
        """Give whole minibatches to every rank in the midst of joint training; rank 0 alone counts what they cost."""
        return Apart(self, passes, counter) if self.size > 1 else passes

    def share_gradients(self, method: Method, optimizer: Optimizer | None) -> None:
        """Let the optimizer of a method, if it trains anything, step on the gradients of all ranks.

        Raises:
            ValueError: if several processes cannot share the method's minibatches.
        """
        if self.size == 1 or optimizer is None:
            return
        for part in methods_within(method):
            if not part.divisible:
                raise ValueError(
                    f"{type(part).__name__}, as it is set here, looks at examples of a minibatch together, which "
                    f"{self.size} ranks would divide: train it with 1"
                )
        optimizer.register_step_pre_hook(self.average_gradients)

    @torch.no_grad()
    def average_gradients(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        """Before a step: give all ranks the gradient of the whole minibatches."""
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        self.average(p.grad for p in parameters if p.grad is not None)

    def agree(self, method: Method) -> None:
        """After an epoch: average gradients that are carried into the next one, so that all ranks have one state."""
        if self.size > 1:
            self.average(sums for part in methods_within(method) for sums in part.gradient_sums())

    def mean(self, values: Tensor) -> Tensor:
        """Give the mean over ranks of numbers such as losses."""
        return self.sum(values.clone()).div_(self.size) if self.size > 1 else values

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let rank 0 do something first, such as a download; then the others do it."""
        if self.rank:
            self.wait()
        yield
        if not self.rank:
            self.wait()

    @contextmanager
    def together(self, counter: CostCounter) -> Iterator[None]:
        """Train together inside; afterwards the counter has the examples of all ranks."""
        if self.size == 1:
            yield
            return
        cost = counter.cost
        forward, backward = cost.forward_examples, cost.backward_examples
        self.wait()
        self.joined = True
        try:
            yield
        finally:
            self.joined = False
        cost.forward_examples = forward + sum(self.counts(cost.forward_examples - forward))
        cost.backward_examples = backward + sum(self.counts(cost.backward_examples - backward))


class Apart:
    """Minibatches that every rank sees as a whole: while one is handed out, ranks do not act together."""

    def __init__(self, group: Group, passes: Minibatches, counter: CostCounter) -> None:
        self.group, self.passes, self.counter = group, passes, counter

    def __iter__(self) -> Iterator[Batch]:
        joined, counting = self.group.joined, self.counter.counting
        for batch in self.passes:
            self.group.joined, self.counter.counting = False, counting and not self.group.rank
            try:
                yield batch
            finally:
                self.group.joined, self.counter.counting = joined, counting


ALONE = Group()
"""A run in one process."""


def buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Collect tensors of one type until they have `BUCKET` numbers or more."""
    open_: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        bucket = open_.setdefault(tensor.dtype, [])
        bucket.append(tensor)
        if sum(each.numel() for each in bucket) >= BUCKET:
            yield open_.pop(tensor.dtype)
    yield from open_.values()
