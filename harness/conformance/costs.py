"""Checks that the work of a method is counted, and that it is what the method declares."""

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from harness.conformance.finding import Finding
from harness.conformance.small_run import DATASET, NETWORKS, Case, SmallRun
from harness.costs.expected_cost import evaluate_cost_expression
from methods.core.random_streams import DRAWN

MOST_OUTSIDE = 0.1
"""The largest share of a method's operations that may happen outside of networks that `make_net` drew."""
ROUNDING = 0.05
"""The largest relative difference between the declared and the counted cost."""


def check_counted_work(case: Case, whole: SmallRun) -> Iterator[Finding]:
    """Check that most operations of prediction and training happen in networks whose work is counted."""
    if case.architecture == NETWORKS[0]:  # it has too few operations to tell
        return
    small = case.start()
    x, _ = whole.test_batch()
    shares = {"predict": share_outside(whole.method, lambda: whole.predict(x))}
    if (optimizer := small.optimizer) is not None:
        small.method.begin_epoch(0)
        small.method.train()
        batches = small.minibatches()[: small.method.batches_per_update()]
        shares["update"] = share_outside(small.method, lambda: small.method.update(batches, optimizer))
    for hook, share in shares.items():
        if share > MOST_OUTSIDE:
            yield Finding(
                "costs",
                f"{share:.0%} of the operations of `{hook}` happen outside of the networks that make_net drew: they "
                "are not counted, and have neither the study's architecture nor its precision",
                "draw each network by make_net, or change layers of one (self.net.set_submodule)",
            )


class OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts floating-point operations as torch's `FlopCounterMode` does, but without following modules.

    Attributes:
        operations: how many there were.
    """

    def __init__(self) -> None:
        """Start at zero."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry out an operation, and count it."""
        found = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.operations += count(*args, **(kwargs or {}), out_val=found)
        return found


def share_outside(method: nn.Module, work: Callable[[], object]) -> float:
    """Return the share of floating-point operations that happen outside of the networks that `make_net` drew.

    Backward passes, which follow from the forward passes, are left out.

    Args:
        method: the method.
        work: runs the method.
    """
    inside = backward = depth = begun = 0
    counter = OperationCounter()

    def leave_out(derive: Callable[..., Any]) -> Callable[..., Any]:
        def derive_uncounted(*arguments: Any, **options: Any) -> Any:
            nonlocal backward
            before = counter.operations
            found = derive(*arguments, **options)
            backward += counter.operations - before
            return found

        return derive_uncounted

    def enter(*_: object) -> None:
        nonlocal depth, begun
        depth += 1
        begun = counter.operations if depth == 1 else begun

    def leave(*_: object) -> None:
        nonlocal depth, inside
        depth -= 1
        inside += counter.operations - begun if depth == 0 else 0

    nets = [module for module in method.modules() if getattr(module, DRAWN, False)]
    handles = [net.register_forward_pre_hook(enter) for net in nets]
    handles += [net.register_forward_hook(leave) for net in nets]
    try:
        with (
            counter,
            patch.object(torch.autograd, "backward", leave_out(torch.autograd.backward)),
            patch.object(torch.autograd, "grad", leave_out(torch.autograd.grad)),
        ):
            work()
    finally:
        for handle in handles:
            handle.remove()
    total = counter.operations - backward
    return 1 - inside / total if total else 0.0


def check_declared_costs(case: Case, whole: SmallRun) -> Iterator[Finding]:
    """Check that `about` declares the costs that are counted. Costs of a composition follow from its parts."""
    method, examples = whole.method, DATASET.train_size or 0
    if case.spec.of is not None or method.needs() or not method.epochs:
        return
    cost, training = whole.counter.cost, whole.snapshots[-1].cost
    if not training.forward_examples:
        yield Finding("costs", "no forward pass is counted in training", "run the network that make_net drew")
        return
    counted = {
        "training": training.backward_examples / (examples * method.epochs),
        "passes": (cost.forward_examples - cost.backward_examples) / examples,
    }
    x, _ = whole.test_batch()
    before, whole.counter.counting = cost.forward_examples, True
    whole.predict(x)
    whole.counter.counting = False
    counted["prediction"] = (whole.counter.cost.forward_examples - before) / len(x)
    if method.watches:  # passes over held-out data have no expression
        del counted["passes"]
    for field, value in counted.items():
        declared = evaluate_cost_expression(case.spec, case.methods, field, method.epochs)
        if abs(declared - value) > ROUNDING * max(declared, 1.0):
            name = case.methods[case.spec.name].__name__
            yield Finding(
                "costs",
                f"{name}.about declares {field} = {declared:.3g}, and {value:.3g} is counted",
                f'set {field}="…" in `about`; plans and forecasts use it',
            )
