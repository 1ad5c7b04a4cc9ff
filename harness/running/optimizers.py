"""The optimizer of a run: the recipe's, over the method's parameter groups."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch.optim import SGD, Adam, Optimizer

from methods import Method, Recipe

KINDS = ("recipe", "sgd", "nesterov", "adam")


def make_optimizer(method: Method, recipe: Recipe) -> Optimizer:
    """Make the optimizer of a method, in torch's fused implementation.

    A group's "optimizer" says which update it has: "sgd" without momentum, "nesterov", "adam", or "recipe" (the
    default). Momentum is the recipe's, Adam's constants are torch's (0.9, 0.999, 1e-8).

    Raises:
        ValueError: for any other update.
    """
    groups = [group for group in method.param_groups() if group["params"]]
    places = {id(group["params"][0][1]): i for i, group in enumerate(groups)}
    sgd, adam = [], []
    for group in groups:
        kind = group.pop("optimizer", "recipe")
        if kind not in KINDS:
            raise ValueError(f"{type(method).__name__}.param_groups: unknown optimizer {kind!r}; there are {KINDS}")
        if kind == "adam" or (kind == "recipe" and recipe.optimizer == "adam"):
            adam.append(group)
            continue
        momentum = 0.0 if kind == "sgd" else recipe.momentum
        sgd.append(group | {"momentum": momentum, "nesterov": momentum > 0 and (kind == "nesterov" or recipe.nesterov)})
    made: list[Optimizer] = []
    if sgd:
        made.append(SGD(sgd, lr=recipe.lr, fused=True))
    if adam:
        made.append(Adam(adam, lr=recipe.lr, fused=True))
    optimizer = made[0] if len(made) == 1 else Together(made, places)
    if any(group["momentum"] for group in sgd):
        parameters = sum(len(group["params"]) for group in optimizer.param_groups)
        made[0].register_step_pre_hook(partial(begin_momentum, optimizer, parameters))
    return optimizer


class Together(Optimizer):
    """Two optimizers as one: each steps its own groups, all groups and states are in one place."""

    def __init__(self, parts: Sequence[Optimizer], places: Mapping[int, int]) -> None:
        """Join the optimizers.

        Args:
            parts: over different parameters.
            places: of each group in the list of all, by the id of its first parameter.
        """
        groups = sorted(
            (group for part in parts for group in part.param_groups), key=lambda group: places[id(group["params"][0])]
        )
        super().__init__([{"params": group["params"]} for group in groups], {})
        self.parts = parts
        self.param_groups = groups
        for part in parts:
            part.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Let each optimizer step."""
        for part in self.parts:
            part.step()


def begin_momentum(whole: Optimizer, parameters: int, optimizer: Optimizer, args: object, kwargs: object) -> None:
    """Give a parameter's momentum its start, zero, at its first gradient.

    torch's fused SGD fails where some parameters of a group have had a gradient and others have not, as late-phase
    members do in a short cycle.

    Args:
        whole: holds the state of all parameters.
        parameters: how many tensors these are.
        optimizer: the part that is about to step.
        args: of the step.
        kwargs: of the step.
    """
    if len(whole.state) == parameters:
        return
    for group in optimizer.param_groups:
        if not group["momentum"]:
            continue
        for p in group["params"]:
            if p.grad is not None and p not in optimizer.state:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
