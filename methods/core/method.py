"""The one interface of all methods. `Method` itself is plain training of one network."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from optuna.distributions import BaseDistribution
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from methods.core.batch_norm import reestimate_each
from methods.core.declarations import ALONE, About, Anchor, Batch, Need, Sharing, Weights
from methods.core.random_streams import MakeNet, stream
from methods.core.recipe import Recipe


class Method(nn.Module):
    """Train one network with minibatch SGD; a subclass overrides only what its method does differently.

    The hooks are called in this order: `needs`, `receive`; then in each epoch `begin_epoch` (at T0 it calls
    `begin`), `update` for every group of `batches_per_update()` minibatches, `end_epoch`, `watch`; after the last epoch
    `prepare`, and then `predict` as often as wanted. A state saved after any `end_epoch` or after `prepare`
    and loaded into a method built alike continues with the same bits.

    Three rules make that true. All parameters and buffers exist from construction: a phase changes their
    values. What a method does depends on the epoch alone, its learning rate on the position alone, its
    randomness on `generator`. And it leaves devices, precision, logging, files and data loading to others.

    Attributes:
        space: the search space of the keyword hyperparameters, each default inside its range.
        version: raised whenever the results of the method change; part of a run's key.
        about: its family, paper and cost.
        sharing: what of its training other methods' runs have in common with it, so that it need not be done twice.
        epochs: how many epochs the method trains itself; 0 if it only combines what others trained.
        start_epoch: T0, the epoch in which the method departs from plain training and `begin` is called; `epochs`
            if it never does.
        epoch: the current epoch, counted from 0; part of the state.
        watches: the held-out data that `watch` must be shown after every epoch; None for none.
        fusible: whether members may see their minibatches as one batch (see `LatePhase`). A class says so of itself
            alone, as of `sharing`: a subclass may change what members do.
        divisible: whether several processes can share a minibatch, and members see theirs as one batch: whether the
            gradient of its loss is a mean over its examples, by the recipe's criterion, and something that does not
            depend on them. A loss that draws numbers, or sees examples together, is not.
        fuse_up_to: the largest minibatch, in examples, that members which share most of their weights see as one
            batch of all of them, in training and prediction, where their layers let them; 0 for none. That changes
            results by rounding only. Up to where it is faster depends on the device and the network, so that the
            harness says it.
        collected: set on a copy that a wrapper fills from time to time.
        statistics_stale: set on a copy whose weights were averaged or sampled, so that `prepare` must
            re-estimate the running statistics of BatchNorm.
    """

    space: ClassVar[dict[str, BaseDistribution]] = {}
    version: ClassVar[int] = 1
    about: ClassVar[About] = About("", "")
    sharing: ClassVar[Sharing] = ALONE
    fusible: ClassVar[bool] = False

    net: nn.Module
    recipe: Recipe
    seed: int
    epochs: int
    start_epoch: int
    epoch: int
    watches: Literal["validation", "test"] | None
    divisible: bool
    fuse_up_to: int = 0
    collected: bool
    statistics_stale: bool

    def __init__(self, make_net: MakeNet, recipe: Recipe) -> None:
        """Build everything the method will ever hold.

        Args:
            make_net: draws the networks of the run, one a call.
            recipe: how a network is trained plainly.
        """
        super().__init__()
        self.settle(recipe, make_net.seed, epochs=recipe.epochs)
        self.net = make_net()

    def settle(self, recipe: Recipe, seed: int, *, epochs: int) -> None:
        """Set the plain attributes; for `__init__` only."""
        self.recipe, self.seed = recipe, seed
        self.epochs = self.start_epoch = epochs
        self.epoch = 0
        self.watches = None
        self.divisible = True
        self.collected = self.statistics_stale = False

    # --- what the method starts from -----------------------------------------------------------------------

    def needs(self) -> list[Need]:
        """List the runs whose final states `receive` must be given, in this order."""
        return []

    def receive(self, states: Sequence[dict[str, Any]]) -> None:
        """Take the `state_dict` of each needed run; called once before the first epoch, not on resuming."""

    # --- training ------------------------------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """Whether the current epoch is T0 or later."""
        return self.epoch >= self.start_epoch

    def begin_epoch(self, epoch: int) -> None:
        """Enter an epoch, and the method's own phase if this is T0. A wrapper lets its inner method go first."""
        self.epoch = epoch
        if epoch == self.start_epoch:
            self.begin()

    def begin(self) -> None:
        """At T0: give the members their values."""

    def batches_per_update(self) -> int:
        """Say how many minibatches the next update consumes (the last one of an epoch may get fewer)."""
        return 1

    def data_orders(self) -> int:
        """Say how many passes over the training data, each in an order of its own, this epoch makes side by side.

        Minibatch i of the epoch comes from the order i mod `data_orders()`; the first order is plain training's.
        """
        return 1

    def lr(self, epoch: float) -> float:
        """Give the learning rate at a position in training: a pure function.

        Args:
            epoch: whole epochs since the start of training, and the fraction of the current one.
        """
        return self.recipe.rate(epoch)

    def param_groups(self) -> list[dict[str, Any]]:
        """Group the trained parameters for the optimizer.

        Returns:
            One dict a group: "params" a list of (name, parameter), "weight_decay", "lr_scale" (a factor on
            the learning rate), and perhaps "optimizer": "sgd" (without momentum), "nesterov", "adam", or as the
            "recipe" says. Optimizer state is saved by these names, so they must be unique.
        """
        return [self.group(self.named_parameters(), self.recipe.weight_decay)]

    @staticmethod
    def group(named: Iterable[tuple[str, nn.Parameter]], weight_decay: float, lr_scale: float = 1.0) -> dict[str, Any]:
        """Make one parameter group."""
        return {"params": list(named), "weight_decay": weight_decay, "lr_scale": lr_scale}

    def forward(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """Run the network.

        Args:
            x: (B, …).
            weights: parameters and buffers to use in place of the network's own; buffers of BatchNorm
                given here are updated in place in training mode.

        Returns:
            Logits, (B, C).
        """
        if weights is None:
            return self.net(x)  # type: ignore[no-any-return]
        return functional_call(self.net, dict(weights), (x,), tie_weights=False)  # type: ignore[no-any-return]

    def loss(self, x: Tensor, y: Tensor, weights: Weights | None = None) -> Tensor:
        """Give the training loss on one minibatch, a scalar."""
        return self.recipe.criterion(self(x, weights), y)

    def update(self, batches: Sequence[Batch], optimizer: Optimizer) -> Tensor:
        """Take one step.

        Args:
            batches: at most `batches_per_update()` minibatches, at least one.
            optimizer: over `param_groups()`, its learning rates set.

        Returns:
            The mean loss of the minibatches, detached, a scalar.
        """
        optimizer.zero_grad()
        losses = []
        for x, y in batches:
            loss = self.loss(x, y)
            mean = loss if len(batches) == 1 else loss / len(batches)
            mean.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        optimizer.step()
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def end_epoch(self, epoch: int) -> None:
        """Leave an epoch: collect, restart."""

    def watch(self, held_out: Iterable[Batch], training: Iterable[Batch]) -> None:
        """See held-out data after an epoch, in training mode as in `prepare`, if `watches` asks for it.

        Args:
            held_out: that data, not augmented.
            training: augmented training data; each iteration is one pass over it.
        """

    def gradient_sums(self) -> list[Tensor]:
        """List the buffers that hold, between epochs, gradients on which a later step will be taken."""
        return []

    # --- prediction ----------------------------------------------------------------------------------------

    def members(self) -> Iterable[dict[str, Tensor]]:
        """Give each member's weights and running statistics by the network's names, perhaps made one by one."""
        return [self.own_weights()]

    def own_weights(self) -> dict[str, Tensor]:
        """Give the network's own weights and running statistics by its names."""
        return {**dict(self.net.named_parameters()), **dict(self.net.named_buffers())}

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Make ready to predict, once after training; write only buffers, and those that `predict` reads.

        Args:
            batches: augmented training data; each iteration is one pass over it.
        """
        if self.statistics_stale:
            reestimate_each(self, batches, self.members())

    def predict(self, x: Tensor) -> Tensor:
        """Give the logits of every member, (K, B, C), whatever K is. Called in evaluation mode."""
        return torch.stack([self(x, weights) for weights in self.members()])

    # --- the space of its weights --------------------------------------------------------------------------

    def anchors(self) -> Iterable[Anchor]:
        """Give the networks that span the space to look at, perhaps made one by one: the members, unless it has others.

        They may be looked at after any epoch, and nothing is written.
        """
        return (Anchor(weights) for weights in self.members())

    def along(self, alpha: float) -> list[float]:
        """Give the shares of the first anchors at a place on the path from the first one (0) to the second one (1)."""
        return [1.0 - alpha, alpha]

    # --- state ---------------------------------------------------------------------------------------------

    def generator(self, purpose: str) -> torch.Generator:
        """Give the stream of randomness of (seed, purpose, epoch), from its beginning."""
        return stream(self.seed, purpose, self.epoch)

    def get_extra_state(self) -> dict[str, int]:
        """Save the epoch with the weights."""
        return {"epoch": self.epoch}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Load the epoch."""
        self.epoch = state["epoch"]


MakeMethod = Callable[[MakeNet, Recipe], Method]
"""What a composed method is made of: a `Method` subclass, or a `functools.partial` of one."""
