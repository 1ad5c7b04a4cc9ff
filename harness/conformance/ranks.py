"""Checks that a method which lets ranks divide its minibatches gives the same results then."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from harness.conformance.finding import Finding
from harness.conformance.small_run import Case, SmallRun
from methods import Batch
from methods.core.wrapper import methods_within
from models.shake_drop import ShakeDrop

SYNCHRONIZED = (_BatchNorm, _DropoutNd, ShakeDrop)
"""Layers that ranks synchronize (`synchronize`). They play no part in the check, as they are in evaluation mode."""
Gradients = list[dict[str, Tensor]]
"""The gradients at each step of the optimizer, by parameter name."""


def check_division(case: Case, trained: SmallRun) -> Iterator[Finding]:
    """Check that the mean gradient of two halves of a minibatch is that of the whole one."""
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
        rows = [slice(0, 8), slice(0, 4), slice(4, 8)]
        whole, first, second = (gradients_of(case, saved, epoch, part) for part in rows)
        if not whole:
            yield Finding(
                "ranks",
                "`divisible` is True, but `update` takes no step of the optimizer, by which ranks average gradients",
                "call `optimizer.step()`, or remove `divisible = True`",
            )
            return
        for at_once, one, other in zip(whole, first, second, strict=True):
            for name, gradient in at_once.items():
                halves = [half.get(name, torch.full_like(gradient, torch.nan)) for half in (one, other)]
                if not torch.allclose(torch.stack(halves).mean(0), gradient, rtol=1e-6, atol=1e-9):
                    yield Finding(
                        "ranks",
                        f"`divisible` is True, but two ranks with half a minibatch each get another gradient of {name}",
                        "remove `divisible = True`: --ranks is then refused for this method",
                    )
                    return


def gradients_of(case: Case, saved: tuple[dict[str, object], dict[str, object]], epoch: int, rows: slice) -> Gradients:
    """Return the gradients of one update, in float64, with some rows of each minibatch.

    Args:
        case: the method.
        saved: its state and the optimizer's, after `epoch` epochs.
        epoch: how many epochs are done.
        rows: the rows of each minibatch that are used.
    """
    small: SmallRun = case.start()
    small.restore(saved, epoch)
    method, optimizer = small.method, small.optimizer
    assert optimizer is not None
    method.begin_epoch(epoch)
    method.train().double()
    for module in method.modules():
        if isinstance(module, SYNCHRONIZED):
            module.eval()
    names = {id(p): name for name, p in method.named_parameters()}
    found: Gradients = []

    def note_gradients(stepped: Optimizer, *_: object) -> None:
        parameters = [p for group in stepped.param_groups for p in group["params"] if p.grad is not None]
        found.append({names[id(p)]: p.grad.clone() for p in parameters})

    optimizer.state.clear()  # its float32 momenta play no part in the gradients
    optimizer.register_step_pre_hook(note_gradients)
    batches: list[Batch] = [(x[rows].double(), y[rows]) for x, y in small.minibatches()[:-1]]
    method.update(batches[: method.batches_per_update()], optimizer)
    return found
