"""The interface of all methods: the class `Method`, which itself trains one network plainly."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from optuna.distributions import BaseDistribution
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from methods.core.batch_norm import reestimate_each
from methods.core.declarations import SHARES_NOTHING, About, Anchor, Batch, Need, PreparationData, Sharing, Weights
from methods.core.layers import tie_weights
from methods.core.random_streams import MakeNet, stream
from methods.core.recipe import Recipe


class Method(nn.Module):
    """Train one network with minibatch SGD; a subclass overrides only what its method does differently.

    Example: predict with the network's logits divided by a temperature.

        class Tempered(Method):
            def __init__(self, make_net, recipe, *, temperature: float = 2.0):
                super().__init__(make_net, recipe)
                self.temperature = temperature

            def predict_with(self, x, weights=None):
                return super().predict_with(x, weights) / self.temperature

    Keyword-only arguments of `__init__` are the method's hyperparameters. Study files set them by name.

    The harness calls the hooks in this order:

    1. `needs`, then `receive` if the method starts from the states of other runs.
    2. In each epoch: `begin_epoch`, which calls `begin` at epoch T0 (`start_epoch`); `update`, once for every
       `batches_per_update()` minibatches; `end_epoch`; `watch`, if `watches` asks for it.
    3. After the last epoch: `prepare` once, then `predict` on each batch of test data.

    A method saved after any `end_epoch`, or after `prepare`, continues with exactly the same bits when its state is
    loaded into a new instance. Every subclass must keep three rules for that:

    - Create all parameters and buffers in `__init__`. A later phase changes their values only.
    - Derive behaviour from the epoch, the learning rate from the position in training, and random numbers from
      `generator(purpose)`.
    - Leave devices, precision, logging, files and data loading to the harness.

    What a method declares in `about` and `needs` is described by `help(About)` and `help(Need)` of `methods`.

    Attributes:
        space: the search space of the hyperparameters by name, for tuning. Each default lies inside its range.
        version: a number to raise whenever the method's results change. It is part of a run's key.
        about: the method's family, paper and cost, for lists and tables.
        sharing: which part of the training is the same as in other methods' runs, so that it is trained only once.
        net: the network, drawn by `make_net`.
        recipe: how a network is trained plainly: epochs, learning rate, optimizer, criterion.
        seed: the seed of the run.
        epochs: how many epochs the method trains; 0 if it only combines networks that other runs trained.
        start_epoch: T0, the epoch in which the method departs from plain training and `begin` is called. It equals
            `epochs` if the method never departs.
        epoch: the current epoch, counted from 0. It is part of the saved state.
        watches: the held-out data that `watch` receives after every epoch, and `prepare` after training; None for none.
        fusible: whether members may run as one batch (see `LatePhase`). A subclass does not inherit this permission: it
            must set the attribute itself, as it may change what members do.
        divisible: whether a minibatch may be divided among several processes (`--ranks`). The loss must then be a mean
            over examples by the recipe's criterion, plus terms that do not depend on the examples. It must neither draw
            random numbers nor compare examples. `update` must use gradients only by `optimizer.step()`, which averages
            them. `prepare` and `watch` must use training data only to re-estimate running statistics. A subclass does
            not inherit this permission: it must set the attribute itself. An instance may take it back.
        fuse_up_to: the largest minibatch, in examples, with which members that share most of their weights run as one
            batch, in training and prediction; 0 for never. The harness sets it by the device and the network, because
            they decide which way is faster. Results change by rounding only.
        collected: True in a copy that a wrapper fills with collected states.
        statistics_stale: True in a copy whose weights are averages or samples, so that `prepare` must re-estimate
            BatchNorm's running statistics.
    """

    space: ClassVar[dict[str, BaseDistribution]] = {}
    version: ClassVar[int] = 1
    about: ClassVar[About] = About("", "")
    sharing: ClassVar[Sharing] = SHARES_NOTHING
    fusible: ClassVar[bool] = False

    net: nn.Module
    recipe: Recipe
    seed: int
    epochs: int
    start_epoch: int
    epoch: int
    watches: Literal["validation", "test"] | None = None
    divisible: bool = True
    fuse_up_to: int = 0
    collected: bool
    statistics_stale: bool

    def __init__(self, make_net: MakeNet, recipe: Recipe) -> None:
        """Build all parameters and buffers of the method.

        Args:
            make_net: draws the networks of the run; each call returns a new one.
            recipe: how a network is trained plainly.
        """
        super().__init__()
        self.init_attributes(recipe, make_net.seed, epochs=recipe.epochs)
        self.net = make_net()

    def init_attributes(self, recipe: Recipe, seed: int, *, epochs: int) -> None:
        """Set the attributes that are neither parameters nor buffers; call this only in an `__init__`.

        Only a subclass that does not call `Method.__init__` needs this. What a class sets itself (`epochs = 0`) stays.

        Args:
            recipe: how a network is trained plainly.
            seed: the seed of the run.
            epochs: how many epochs the method trains.
        """
        self.recipe, self.seed = recipe, seed
        self.epochs = getattr(type(self), "epochs", epochs)
        self.start_epoch = getattr(type(self), "start_epoch", self.epochs)
        self.epoch = 0
        self.collected = self.statistics_stale = False

    @property
    def may_be_divided(self) -> bool:
        """Whether its minibatches may be divided: its own class says so, and the instance does not object."""
        return bool(vars(type(self)).get("divisible", False)) and self.divisible

    # --- what the method starts from -----------------------------------------------------------------------

    def needs(self) -> list[Need]:
        """Return the other runs whose states the method starts from; `receive` gets their states in this order."""
        return []

    def receive(self, states: Sequence[dict[str, Any]]) -> None:
        """Load the states of the runs that `needs` listed.

        Called once before the first epoch, and not when a run is resumed.

        Args:
            states: the `state_dict` of each run.
        """

    # --- training ------------------------------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """Whether the current epoch is T0 or later."""
        return self.epoch >= self.start_epoch

    def begin_epoch(self, epoch: int) -> None:
        """Start an epoch, counted from 0; at T0 call `begin`. A wrapper first calls this hook of its inner method."""
        self.epoch = epoch
        if epoch == self.start_epoch:
            self.begin()

    def begin(self) -> None:
        """Start the method's own phase at T0, for example by giving members their initial values."""

    def batches_per_update(self) -> int:
        """Return how many minibatches the next `update` receives; the last one of an epoch may receive fewer."""
        return 1

    def data_orders(self) -> int:
        """Return how many passes over the training data this epoch interleaves, each in an order of its own.

        Minibatch i of the epoch comes from order i mod `data_orders()`. The first order is that of plain training.
        """
        return 1

    def lr(self, epoch: float) -> float:
        """Return the learning rate at a position in training; it must depend on nothing else.

        Args:
            epoch: whole epochs since the start of training, plus the fraction of the current one.
        """
        return self.recipe.learning_rate(epoch)

    def resets_optimizer(self, epoch: int) -> bool:
        """Return whether the optimizer's state is cleared before an epoch; no, if its rate is not that of a stage."""
        return self.recipe.resets_optimizer(epoch)

    def param_groups(self) -> list[dict[str, Any]]:
        """Return the trained parameters in groups for the optimizer.

        Returns:
            One dict a group: "params", a list of (name, parameter); "weight_decay"; "lr_scale", a factor on the
            learning rate; and optionally "optimizer": "sgd" (without momentum), "nesterov", "adam", or the "recipe"'s;
            and "schedule": "constant" for the recipe's highest rate. State is saved by these names: each is unique.
        """
        return [self.group(self.named_parameters(), self.recipe.weight_decay)]

    @staticmethod
    def group(named: Iterable[tuple[str, nn.Parameter]], weight_decay: float, lr_scale: float = 1.0) -> dict[str, Any]:
        """Return one parameter group for `param_groups`."""
        return {"params": list(named), "weight_decay": weight_decay, "lr_scale": lr_scale}

    def forward(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """Run the network on a batch.

        Args:
            x: (B, …).
            weights: parameters and buffers by the network's names, used in place of the network's own. In training
                mode, BatchNorm buffers among them are updated in place. Weights that layers have in common stay tied.

        Returns:
            Logits, (B, C).
        """
        if weights is None:
            return self.net(x)  # type: ignore[no-any-return]
        return functional_call(self.net, tie_weights(self.net, weights), (x,), tie_weights=False)  # type: ignore[no-any-return]

    def loss(self, x: Tensor, y: Tensor, weights: Weights | None = None) -> Tensor:
        """Return the training loss on one minibatch, a scalar.

        Args:
            x: (B, …).
            y: (B,), the class of each example.
            weights: see `forward`.
        """
        return self.recipe.criterion(self(x, weights), y)

    def update(self, batches: Sequence[Batch], optimizer: Optimizer) -> Tensor:
        """Take one step of the optimizer.

        Args:
            batches: the minibatches (x, y) of this update, at least one and at most `batches_per_update()`.
            optimizer: an optimizer of `param_groups()`, with its learning rates set.

        Returns:
            The mean loss of the minibatches, a detached scalar.
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
        """Finish an epoch, counted from 0, for example by collecting the weights."""

    def watch(self, held_out: Iterable[Batch], training: Iterable[Batch]) -> None:
        """Look at held-out data after an epoch, if `watches` asks for it, in training mode and with gradients.

        Args:
            held_out: batches of the held-out data, not augmented.
            training: batches of augmented training data; each iteration is one pass over it.
        """

    def gradient_sums(self) -> list[Tensor]:
        """Return the buffers that carry summed gradients from one epoch into the next."""
        return []

    # --- prediction ----------------------------------------------------------------------------------------

    def members(self) -> Iterable[dict[str, Tensor]]:
        """Return each member's weights and running statistics, by the network's names.

        A generator may create them one by one.
        """
        return [self.own_weights()]

    def own_weights(self) -> dict[str, Tensor]:
        """Return the network's own weights and running statistics, by name."""
        return {**dict(self.net.named_parameters()), **dict(self.net.named_buffers())}

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Prepare for prediction, once after training; write only buffers, and only those that `predict` reads.

        The method is in evaluation mode, and gradients are off: running the network over the data does not move its
        running statistics; `reestimate` sets them. A method that needs more puts its network into another mode, or
        enables gradients, itself. A method of no epochs is prepared too.

        Args:
            batches: batches of augmented training data; each iteration is one pass over it. `batches.held_out` are the
                held-out data that the attribute `watches` names.
        """
        if self.statistics_stale:
            reestimate_each(self, batches, self.members())

    def predict(self, x: Tensor) -> Tensor:
        """Return the logits of every member for x, (B, …), as (K, B, C): of `predict_with` for each of `members()`."""
        return torch.cat([self.predict_with(x, weights) for weights in self.members()])

    def predict_with(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """Return the logits that the network predicts for x with given weights, (k, B, C); by default its output.

        Override it if a network's output is not its prediction: if it has several heads, or is divided by a
        temperature. Landscapes and re-estimated statistics are those of this prediction.
        """
        return self(x, weights)[None]  # type: ignore[no-any-return]

    # --- weight space --------------------------------------------------------------------------------------

    def weights_to_average(self) -> list[Tensor]:
        """Return what SWA and SWAG average over training, in a fixed order: by default the parameters.

        Override it if the method predicts from other tensors: a moving average returns its own buffers. A method of
        which no average makes sense returns an empty list, and is refused inside SWA and SWAG.
        """
        return list(self.parameters())

    def anchors(self) -> Iterable[Anchor]:
        """Return the networks that span the part of weight space to plot; by default the members.

        May be called after any epoch, and must change nothing. A generator may create the networks one by one.
        """
        return (Anchor(weights) for weights in self.members())

    def along(self, alpha: float) -> list[float]:
        """Return the coefficients of the first anchors at α on the path from the first (0) to the second (1)."""
        return [1.0 - alpha, alpha]

    # --- state ---------------------------------------------------------------------------------------------

    def generator(self, purpose: str) -> torch.Generator:
        """Return a new random generator, which depends only on the seed, the current epoch and what it is for."""
        return stream(self.seed, purpose, self.epoch)

    def get_extra_state(self) -> dict[str, int]:
        """Return the epoch, for `state_dict`; other state belongs into buffers."""
        return {"epoch": self.epoch}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Load what `get_extra_state` returned."""
        self.epoch = state["epoch"]


def prepare_for_prediction(method: Method, batches: Iterable[Batch]) -> None:
    """Call `prepare` in evaluation mode and without gradients, and leave the method in evaluation mode.

    Args:
        method: trained.
        batches: batches of augmented training data; each iteration is one pass over it. For a method that reads
            `batches.held_out`, they are a `PreparationData`.
    """
    method.eval()
    with torch.no_grad():
        method.prepare(batches if isinstance(batches, PreparationData) else PreparationData(batches))
    method.eval()


MakeMethod = Callable[[MakeNet, Recipe], Method]
"""A function that builds a method: a `Method` subclass, or a `functools.partial` of one with hyperparameters set."""
