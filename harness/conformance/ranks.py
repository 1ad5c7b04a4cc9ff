"""Checks that a method which lets ranks divide its minibatches gives the same results then."""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from threading import Barrier
from unittest.mock import patch

import torch
from pydantic import PrivateAttr
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from harness.conformance.finding import Finding, describe_error
from harness.conformance.small_run import Case, Saved, SmallRun, same
from methods import Batch, Recipe, prepare_for_prediction
from methods.core.wrapper import methods_within
from models.shake_drop import ShakeDrop

SYNCHRONIZED = (_BatchNorm, _DropoutNd, ShakeDrop)
"""Layers that ranks synchronize (`synchronize`). They play no part in the check, as they are in evaluation mode."""
WHOLE = [slice(0, 8)]
PARTS = [slice(0, 3), slice(3, 8)]
"""The rows of each minibatch that one rank, or each of two, has."""
REMEDY = "remove `divisible = True`: --ranks is then refused for this method"
FLOAT64 = "the check runs it in float64: create constants in the type of what they meet, as in `.to(x)`"
STATISTICS = re.compile("running_mean|running_var|num_batches_tracked")
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
        try:
            (whole,), parts = (update(case, saved, epoch, rows) for rows in (WHOLE, PARTS))
        except RuntimeError as error:
            yield Finding("ranks", f"in float64 an update fails: {describe_error(error)}", FLOAT64, "warning")
            return
        for part in parts:
            for name, value in whole.items():
                if not torch.allclose(part[name], value, rtol=1e-6, atol=1e-9):
                    yield Finding(
                        "ranks",
                        f"`divisible` is True, but two ranks with a part of each minibatch end with another {name}",
                        REMEDY,
                    )
                    return
    yield from check_divided_preparation(case, trained)


def check_divided_preparation(case: Case, trained: SmallRun) -> Iterator[Finding]:
    """Check that `prepare` of two ranks sets nothing but running statistics by the data, which it would share out."""
    found = []
    for rows in (slice(None), slice(0, 3)):
        small = case.start()
        small.restore(trained.snapshots[-1].saved, trained.epoch)
        small.method.eval()
        data = small.preparation_data()
        own = replace(data, training=[(x[rows], y[rows]) for x, y in data.training])
        with small.seeded("prepare"), patch.object(_BatchNorm, "forward", normalise):
            prepare_for_prediction(small.method, own)
        found.append(small.method.state_dict())
    for name, value in found[0].items():
        if not STATISTICS.search(name) and not same(value, found[1][name]):
            yield Finding(
                "ranks",
                f"`divisible` is True, but `prepare` computes {name} from the training data, of which each rank has a "
                "part",
                REMEDY,
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


def normalise(layer: _BatchNorm, x: Tensor) -> Tensor:
    """Run a BatchNorm layer without moving its running statistics, which ranks estimate together."""
    return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, False, 0.0, layer.eps)


class PartOfRecipe(Recipe):
    """A recipe whose criterion is weighted by the size of a rank's part of a minibatch, as `--ranks` does."""

    _share: float = PrivateAttr(default=1.0)

    @classmethod
    def of(cls, recipe: Recipe, share: float) -> Recipe:
        """Return a recipe's version for one of two ranks, which has a share of each minibatch."""
        made = cls(**recipe.model_dump())
        made._share = share
        return made

    def criterion(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the rank's rows. Its mean over ranks is the loss of the whole minibatch."""
        return super().criterion(logits, y) * len(PARTS) * self._share

    def count_examples(self, x: Tensor) -> int:
        """Return the number of examples of the whole minibatch."""
        return round(len(x) / self._share)


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
        shares = [(rows.stop - rows.start) / WHOLE[0].stop for rows in PARTS]
        if len(self.gradients) > 1:
            for part in methods_within(small.method):
                part.recipe = PartOfRecipe.of(part.recipe, shares[rank])
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
