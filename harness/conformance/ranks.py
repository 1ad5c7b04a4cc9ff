"""Checks that a method which lets ranks divide its minibatches gives the same results then."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from harness.conformance.finding import Finding
from harness.conformance.small_run import Case, Saved, SmallRun
from methods import Batch
from methods.core.wrapper import methods_within
from models.shake_drop import ShakeDrop

SYNCHRONIZED = (_BatchNorm, _DropoutNd, ShakeDrop)
"""Layers that ranks synchronize (`synchronize`). They play no part in the check, as they are in evaluation mode."""
WHOLE = [slice(0, 8)]
HALVES = [slice(0, 4), slice(4, 8)]
"""The rows of each minibatch that one rank, or each of two, has."""
PATIENCE = 20.0
"""Seconds that a rank waits for the other one."""


def check_division(case: Case, trained: SmallRun) -> Iterator[Finding]:
    """Check that an update by two ranks, with half of each minibatch each, is that by one."""
    small = case.start()
    undivided = [type(part).__name__ for part in methods_within(small.method) if not part.may_be_divided]
    if undivided:
        yield Finding(
            "ranks",
            f"{undivided[0]} is refused with --ranks, as it does not say that a minibatch may be divided",
            "if the docstring of `Method` allows it, set `divisible = True` in the class itself",
            "note",
        )
        return
    for epoch in (0, small.method.epochs - 1):
        saved = trained.snapshots[epoch].saved
        (whole,), halves = (update(case, saved, epoch, rows) for rows in (WHOLE, HALVES))
        for half in halves:
            for name, value in whole.items():
                if not torch.allclose(half[name], value, rtol=1e-6, atol=1e-9):
                    yield Finding(
                        "ranks",
                        f"`divisible` is True, but two ranks with half a minibatch each end with another {name}",
                        "remove `divisible = True`: --ranks is then refused for this method",
                    )
                    return


def update(case: Case, saved: Saved, epoch: int, rows: Sequence[slice]) -> list[dict[str, Tensor]]:
    """Let ranks take one update together, each in a thread, and return the state of each, in float64.

    Args:
        case: the method.
        saved: its state and the optimizer's, after `epoch` epochs.
        epoch: how many epochs are done.
        rows: the rows of each minibatch that each rank has.
    """
    ranks = Ranks(len(rows))
    ready = [ranks.build(rank, case, saved, epoch) for rank in range(len(rows))]  # which draws, one after the other
    with ThreadPoolExecutor(len(rows)) as threads:
        jobs = [threads.submit(ranks.update, small, own) for small, own in zip(ready, rows, strict=True)]
    return [job.result() for job in jobs]


class Ranks:
    """Threads that train together: before each step of the optimizer, each has the mean of all gradients."""

    def __init__(self, size: int) -> None:
        """Expect a number of ranks."""
        self.barrier = Barrier(size, timeout=PATIENCE)
        self.gradients: list[list[Tensor]] = [[] for _ in range(size)]

    def build(self, rank: int, case: Case, saved: Saved, epoch: int) -> SmallRun:
        """Build the method of one rank at the beginning of an epoch, in float64."""
        small = case.start()
        small.restore(saved, epoch)
        small.method.begin_epoch(epoch)
        small.method.train().double()
        for module in small.method.modules():
            if isinstance(module, SYNCHRONIZED):
                module.eval()
        assert small.optimizer is not None
        small.optimizer.state.clear()  # its momenta are in float32
        small.optimizer.register_step_pre_hook(partial(self.average, rank))
        return small

    def update(self, small: SmallRun, rows: slice) -> dict[str, Tensor]:
        """Take one update with some rows of each minibatch; return the floating-point tensors of the method's state."""
        method, optimizer = small.method, small.optimizer
        assert optimizer is not None
        batches: list[Batch] = [(x[rows].double(), y[rows]) for x, y in small.minibatches()[:-1]]
        try:
            method.update(batches[: method.batches_per_update()], optimizer)
        except BaseException:
            self.barrier.abort()  # the others would wait
            raise
        state = method.state_dict()
        return {name: value for name, value in state.items() if isinstance(value, Tensor) and value.is_floating_point()}

    @torch.no_grad()
    def average(self, rank: int, optimizer: Optimizer, *_: object) -> None:
        """Replace a rank's gradients by the means of all ranks'."""
        own = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.gradients[rank] = own
        self.barrier.wait()
        means = [torch.stack(each).mean(0) for each in zip(*self.gradients, strict=True)]
        self.barrier.wait()
        for gradient, mean in zip(own, means, strict=True):
            gradient.copy_(mean)
