"""Checks that the work of a method is counted, and that it is what the method declares."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from harness.conformance.finding import Finding
from harness.conformance.small_run import DATASET, NETWORKS, Case, SmallRun
from harness.costs.cost import Cost
from harness.costs.expected_cost import evaluate_cost_expression
from methods import prepare_for_prediction
from methods.core.random_streams import DRAWN

UNCOUNTED = 0.1
"""The largest share of operations, of those of the counted passes, that a method may do besides them, unnoticed."""
CLEAR = 0.5
"""The share above which this is a failure; the rest may be small in a larger network."""
USUAL_BATCH = 128
"""The size of a minibatch by whose passes work is judged that does not grow with the minibatch."""
ROUNDING = 0.05
"""The largest relative difference between the declared and the counted cost."""
REMEDY = (
    "run networks that make_net drew, by calling them or `self(x, weights)`, so that each pass is counted; change "
    "layers of one rather than add others (self.net.set_submodule)"
)


class Work(NamedTuple):
    """What a hook did.

    Attributes:
        operations: floating-point operations.
        cost: the passes and steps that were counted.
    """

    operations: int
    cost: Cost


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


def measure(small: SmallRun, work: Callable[[], object]) -> Work:
    """Run a hook, and return what it did; the run's own cost stays as it is."""
    kept, small.counter.cost, small.counter.counting = small.counter.cost, Cost(), True
    with OperationCounter() as counter:
        work()
    done, small.counter.cost, small.counter.counting = small.counter.cost, kept, False
    return Work(counter.operations, done)


def operations_of_passes(whole: SmallRun, x: Tensor) -> tuple[float, float]:
    """Return the operations of a forward and of a backward pass through the method's network, for one example.

    Args:
        whole: the run of the method.
        x: examples, (B, …).
    """
    shapes: list[torch.Size] = []  # of what the network gets: a method may join several inputs
    nets = [module for module in whole.method.modules() if getattr(module, DRAWN, False)]
    handles = [net.register_forward_pre_hook(lambda _, given: shapes.append(given[0].shape)) for net in nets]
    whole.predict(x)
    for handle in handles:
        handle.remove()
    inputs = torch.zeros(shapes[0] if shapes else x.shape)
    method = deepcopy(whole.method).requires_grad_(True).train()
    bare = any(not hasattr(layer, "weight") for layer in method.net.modules() if isinstance(layer, nn.Conv2d))
    with OperationCounter() as forward:
        logits = method(inputs) if bare else method.net(inputs)  # the method generates the weights of a bare network
    with OperationCounter() as backward:
        logits.sum().backward()
    return forward.operations / len(inputs), backward.operations / len(inputs)


def excess(work: Work, forward: float, backward: float) -> float:
    """Return the operations of some work besides those of the passes that were counted."""
    return work.operations - work.cost.forward_examples * forward - work.cost.backward_examples * backward


def check_counted_work(case: Case, whole: SmallRun) -> Iterator[Finding]:
    """Check that most operations of prediction and training are those of passes that are counted."""
    if case.architecture == NETWORKS[0]:  # it has too few operations to tell
        return
    x, _ = whole.test_batch()
    forward, backward = operations_of_passes(whole, x)
    few, many = (measure(whole, partial(whole.predict, x[:rows])) for rows in (6, 12))
    yield from judge("predict", few, many, forward, 0.0)
    small, last = case.start(), whole.method.epochs - 1
    if small.optimizer is None:
        return
    small.restore(whole.snapshots[last].saved, last)
    small.method.begin_epoch(last)
    small.method.train()
    batches = small.minibatches()[:-1]
    doubled = [(torch.cat([a, a.flip(-1)]), torch.cat([b, b])) for a, b in batches]
    count = small.method.batches_per_update()
    few, many = (
        measure(small, partial(small.method.update, part[:count], small.optimizer)) for part in (batches, doubled)
    )
    yield from judge("update", few, many, forward, backward)
    if not many.cost.optimizer_steps:
        yield Finding(
            "costs",
            "`update` never calls `optimizer.step`: the recipe's optimizer, learning rate and weight decay have no "
            "effect, and no step is counted",
            "let the optimizer that `update` is given take the step",
            "warning",
        )
    epoch = (forward + backward) * (DATASET.train_size or 0)
    hooks = {
        "end_epoch": partial(small.method.end_epoch, last),
        "prepare": partial(prepare_for_prediction, small.method, small.preparation_data()),
    }
    for hook, run in hooks.items():
        if excess(measure(small, run), forward, backward) > UNCOUNTED * epoch:
            yield Finding("costs", f"`{hook}` does work that is not counted, besides its passes", REMEDY)


def judge(hook: str, few: Work, many: Work, forward: float, backward: float) -> Iterator[Finding]:
    """Judge the work of a hook by what it did with few examples, and with twice as many.

    Args:
        hook: its name.
        few: its work with few examples.
        many: its work with twice as many.
        forward: the operations of a forward pass of an example.
        backward: those of a backward pass.
    """
    passes = many.cost.forward_examples * forward + many.cost.backward_examples * backward
    growing = 2 * (excess(many, forward, backward) - excess(few, forward, backward))
    fixed = excess(many, forward, backward) - growing  # which a usual minibatch shares out
    examples = many.cost.forward_examples or 1
    besides = growing + max(fixed, 0.0) * min(examples / USUAL_BATCH, 1.0)
    if not passes and besides > 0:
        yield Finding("costs", f"`{hook}` does work, and no pass of it is counted", REMEDY)
        return
    share = besides / passes if passes else 0.0
    if share > UNCOUNTED:
        yield Finding(
            "costs",
            f"`{hook}` does {1 + share:.2g} times the operations of the passes that are counted: it would be shown as "
            "cheaper than it is",
            REMEDY,
            "failure" if share > CLEAR else "warning",
        )


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
    in_training = (training.forward_examples - training.backward_examples) / examples
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
                f"{suggest(field, value, in_training, method.epochs)} in `about`; plans and forecasts use it",
            )


def suggest(field: str, value: float, in_training: float, epochs: int) -> str:
    """Return how `about` may declare a cost that was counted.

    Args:
        field: the name of the cost.
        value: what was counted.
        in_training: how many passes without a backward one came in training.
        epochs: the epochs of the training.
    """
    each, after = in_training / epochs, value - in_training
    if field == "passes" and each >= 1 and each == int(each):
        later = f" + {after:g}" if after else ""
        return f'set passes="{int(each)} * epochs{later}" (passes without a backward one count, those in training, too)'
    return f'set {field}="…", an expression of hyperparameters and `epochs` that gives {value:.3g} here,'
