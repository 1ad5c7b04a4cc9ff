"""Builds the optimizer of a run from the recipe and the method's parameter groups."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch.optim import SGD, Adam, Optimizer

from methods import Method, Recipe

UPDATES = ("recipe", "sgd", "nesterov", "adam")
SCHEDULES = ("recipe", "constant")


def make_optimizer(method: Method, recipe: Recipe) -> Optimizer:
    """Return the optimizer of a method, in torch's fused implementation.

    A parameter group selects its update by "optimizer": "sgd" (without momentum), "nesterov", "adam", or "recipe", the
    default. Momentum is the recipe's. Adam's constants are torch's (0.9, 0.999, 1e-8).

    Raises:
        ValueError: if a group selects any other update or schedule.
    """
    groups = [group for group in method.param_groups() if group["params"]]
    positions = {id(group["params"][0][1]): i for i, group in enumerate(groups)}
    sgd, adam = [], []
    for group in groups:
        kind = group.pop("optimizer", "recipe")
        if group.get("schedule", "recipe") not in SCHEDULES:
            raise ValueError(
                f"{type(method).__name__}.param_groups: unknown schedule {group['schedule']!r}; there are {SCHEDULES}"
            )
        if kind not in UPDATES:
            raise ValueError(f"{type(method).__name__}.param_groups: unknown optimizer {kind!r}; there are {UPDATES}")
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
    optimizer = made[0] if len(made) == 1 else CombinedOptimizer(made, positions)
    if any(group["momentum"] for group in sgd):
        parameters = sum(len(group["params"]) for group in optimizer.param_groups)
        made[0].register_step_pre_hook(partial(create_momentum_buffers, parameters))
    return optimizer


class CombinedOptimizer(Optimizer):
    """Several optimizers as one. Each steps its own parameter groups; groups and states are listed together."""

    def __init__(self, parts: Sequence[Optimizer], positions: Mapping[int, int]) -> None:
        """Combine optimizers.

        Args:
            parts: optimizers over different parameters.
            positions: the position of each group in the combined list, by the id of its first parameter.
        """
        groups = sorted(
            (group for part in parts for group in part.param_groups),
            key=lambda group: positions[id(group["params"][0])],
        )
        super().__init__([{"params": group["params"]} for group in groups], {})
        self.parts = parts
        self.param_groups = groups
        for part in parts:
            part.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step each optimizer."""
        for part in self.parts:
            part.step()


def create_momentum_buffers(parameters: int, optimizer: Optimizer, args: object, kwargs: object) -> None:
    """Create a zero momentum buffer for each parameter that has its first gradient.

    torch's fused SGD fails if only some parameters of a group have had a gradient so far. This happens to late-phase
    members in a short cycle.

    Args:
        parameters: the number of parameter tensors, also of other optimizers whose state it shares.
        optimizer: the SGD optimizer that is about to step.
        args: the arguments of the step.
        kwargs: the keyword arguments of the step.
    """
    if len(optimizer.state) == parameters:
        return
    for group in optimizer.param_groups:
        if not group["momentum"]:
            continue
        for p in group["params"]:
            if p.grad is not None and p not in optimizer.state:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
