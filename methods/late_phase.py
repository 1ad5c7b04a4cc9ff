"""Late-phase weights: a few weights of the network in K copies, trained together late in training.

Within a cycle the base weights stand still and every member is used at most once. So K backward passes followed by
one step (each member by its own gradient, the base weights by the scaled sum) do exactly what Algorithm 1 of the
paper does with an optimizer per member. Members that were not used have no gradient, and take no step.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from methods.base import Batch, Method
from methods.batch_norm import batch_norms, reestimate
from methods.named_buffers import NamedBuffers
from methods.recipe import Position, Recipe, start_at
from methods.streams import MakeNet


class LatePhase(Method):
    """Train plainly until T0; then give some layers to K members that take turns, one minibatch each.

    A subclass says which layers. Members keep separate copies of them, parameters and running statistics.

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, section 2, Algorithms 1 and 4.
    """

    space: ClassVar[dict[str, BaseDistribution]] = {
        "K": IntDistribution(2, 20),
        "start": FloatDistribution(0.0, 0.9),
        "sigma0": FloatDistribution(0.0, 0.5),
        "gamma_theta": CategoricalDistribution([1.0, "1/K"]),
    }

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        K: Annotated[int, Field(ge=1)] = 10,
        start: Position = 0.6,
        sigma0: Annotated[float, Field(ge=0)] = 0.0,
        gamma_theta: Annotated[float, Field(gt=0)] | Literal["1/K"] = 1.0,
        member_weight_decay: Annotated[float, Field(ge=0)] | None = None,
        member_momentum: Literal["fresh", "copy"] = "fresh",
        prediction: Literal["average", "members"] = "average",
        statistics: Literal["collapse", "average", "reestimate", "reestimate_members"] = "collapse",
    ) -> None:
        """Give the late layers to members.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            K: the number of members.
            start: T0, an epoch or a fraction of all epochs (120 of 200 in the paper).
            sigma0: standard deviation of the noise that tells members apart at T0, relative to the root mean
                square of each tensor (Equation 2).
            gamma_theta: factor γ_θ on the base weights' gradient, summed over the cycle; "1/K" divides by the
                number of minibatches in the cycle.
            member_weight_decay: of the members' weights; None for the recipe's.
            member_momentum: at T0, members' optimizer state is "fresh" (as in the authors' code) or a "copy" of
                the plain layers' state.
            prediction: predict with one network of "average" weights (Equation 1) or with all "members".
            statistics: how the average network gets its BatchNorm statistics: "collapse" makes each layer the
                exact mean of the K layers' outputs (as in the authors' code), "average" averages scale, shift,
                mean and variance one by one, "reestimate" does so and passes over the data once,
                "reestimate_members" passes over the data once a member, then collapses. Where members'
                statistics are stale, as after weight averaging, "collapse" and "average" re-estimate as well.
        """
        if prediction == "members" and statistics != "collapse":
            raise ValueError(f"statistics={statistics} is about the average network, and prediction=members has none")
        super().__init__(make_net, recipe)
        self.start_epoch = start_at(start, self.epochs)
        self.K, self.sigma0, self.gamma_theta = K, sigma0, gamma_theta
        self.member_weight_decay = recipe.weight_decay if member_weight_decay is None else member_weight_decay
        self.member_momentum, self.prediction, self.statistics = member_momentum, prediction, statistics
        self.names = self.late_layer_names()
        self.late = nn.ModuleList(nn.ModuleList(map(deepcopy, self.plain_layers())) for _ in range(K))
        self.average = NamedBuffers(self.late_weights(0).items())

    def late_layer_names(self) -> list[str]:
        """Name the layers that become late-phase weights."""
        raise NotImplementedError

    def plain_layers(self) -> list[nn.Module]:
        """List the network's own late layers, φ0: trained before T0, without a part in anything after it."""
        return [self.net.get_submodule(name) for name in self.names]

    def own_layers(self, k: int) -> list[nn.Module]:
        """List member k's copies of the late layers."""
        return list(cast(nn.ModuleList, self.late[k]))

    def late_weights(self, k: int) -> dict[str, Tensor]:
        """Give member k's own parameters and buffers by the network's names."""
        return {
            f"{name}.{key}": tensor
            for name, layer in zip(self.names, self.own_layers(k), strict=True)
            for key, tensor in [*layer.named_parameters(), *layer.named_buffers()]
        }

    def member(self, k: int) -> dict[str, Tensor]:
        """Give all weights of member k by the network's names."""
        return {**self.own_weights(), **self.late_weights(k)}

    def param_groups(self) -> list[dict[str, Any]]:
        """Group base weights (with φ0, which gets no gradient after T0) and members' weights."""
        base = [(f"net.{name}", p) for name, p in self.net.named_parameters()]
        late = [(f"late.{name}", p) for name, p in self.late.named_parameters()]
        return [self.group(base, self.recipe.weight_decay), self.group(late, self.member_weight_decay)]

    @torch.no_grad()
    def begin(self) -> None:
        """Give every member the plain layers' values, with noise on the parameters (Equation 2)."""
        generator = self.generator("late-phase noise")
        for k in range(self.K):
            for layer, plain in zip(self.own_layers(k), self.plain_layers(), strict=True):
                layer.load_state_dict(plain.state_dict())
                for p in layer.parameters():
                    noise = torch.randn(p.shape, generator=generator).to(p)
                    p.add_(noise * p.square().mean().sqrt(), alpha=self.sigma0)

    def batches_per_update(self) -> int:
        """Consume a cycle: one minibatch a member."""
        return self.K if self.begun else 1

    def update(self, batches: Sequence[Batch], optimizer: Optimizer) -> Tensor:
        """Let members take turns, then step once."""
        if not self.begun:
            return super().update(batches, optimizer)
        if self.member_momentum == "copy" and self.epoch == self.start_epoch:
            self.copy_optimizer_state(optimizer)
        optimizer.zero_grad()
        # Deviation: a cycle ends with the epoch (Algorithm 4 counts minibatches across epochs); the next epoch
        # starts with the next member, so that all are used equally.
        first = self.epoch - self.start_epoch
        losses = []
        for i, (x, y) in enumerate(batches):
            loss = self.loss(x, y, self.late_weights((first + i) % self.K))
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        scale = 1 / len(batches) if self.gamma_theta == "1/K" else float(self.gamma_theta)
        if scale != 1.0:
            for p in self.net.parameters():
                if p.grad is not None:
                    p.grad.mul_(scale)
        optimizer.step()
        return torch.stack(losses).mean()

    def copy_optimizer_state(self, optimizer: Optimizer) -> None:
        """Start every member with the plain layers' optimizer state, if it has none."""
        for k in range(self.K):
            for layer, plain in zip(self.own_layers(k), self.plain_layers(), strict=True):
                for p, source in zip(layer.parameters(), plain.parameters(), strict=True):
                    if source in optimizer.state and p not in optimizer.state:
                        optimizer.state[p] = deepcopy(optimizer.state[source])

    def members(self) -> Iterable[dict[str, Tensor]]:
        """Give the K members, or the one average network (whose late weights `prepare` writes)."""
        if not self.begun:
            return super().members()
        if self.prediction == "members":
            return [self.member(k) for k in range(self.K)]
        return [{**self.own_weights(), **self.average.named()}]

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Make the average network, and re-estimate what must be."""
        if not self.begun or self.prediction == "members":
            super().prepare(batches)
        elif self.statistics == "reestimate_members":
            for k in range(self.K):
                reestimate(self, batches, self.member(k))
            self.average_layers(exactly=True)
        elif self.statistics == "reestimate" or self.statistics_stale:
            self.average_layers(exactly=False)
            reestimate(self, batches, next(iter(self.members())))
        else:
            self.average_layers(exactly=self.statistics == "collapse")

    @torch.no_grad()
    def average_layers(self, *, exactly: bool) -> None:
        """Write the members' mean into the average (Equation 1).

        Args:
            exactly: make a BatchNorm layer the mean of the K layers' outputs in evaluation mode; else average
                its parameters and statistics one by one.
        """
        members = [self.late_weights(k) for k in range(self.K)]
        for name, value in self.average.named().items():
            mean = torch.stack([member[name] for member in members]).double().mean(0)
            value.copy_(mean)
        for name, plain in zip(self.names, self.plain_layers(), strict=True):
            if exactly and isinstance(plain, _BatchNorm):
                collapse(
                    [layer_of(member, name) for member in members], layer_of(self.average.named(), name), plain.eps
                )


def layer_of(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Pick one layer's tensors, by their names in the layer."""
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


def collapse(layers: Sequence[Mapping[str, Tensor]], into: Mapping[str, Tensor], eps: float) -> None:
    """Make one BatchNorm layer the mean of K layers' outputs, in evaluation mode.

    With member k's scale γ_k, shift β_k, running mean m_k and variance v_k, the mean output is affine in x: scale
    mean_k γ_k/√(v_k + ε), shift mean_k (β_k − γ_k m_k/√(v_k + ε)). The layer's own statistics become neutral.

    Args:
        layers: the tensors of each layer: weight, bias, running_mean, running_var.
        into: the tensors of the layer that is written.
        eps: ε of all of them.
    """
    scales = [layer["weight"] / (layer["running_var"] + eps).sqrt() for layer in layers]
    shifts = [layer["bias"] - scale * layer["running_mean"] for scale, layer in zip(scales, layers, strict=True)]
    into["weight"].copy_(torch.stack(scales).mean(0))
    into["bias"].copy_(torch.stack(shifts).mean(0))
    into["running_mean"].fill_(0.0)
    into["running_var"].fill_(1.0 - eps)


class LatePhaseBatchNorm(LatePhase):
    """BatchNorm scale and shift (and the last layer) as late-phase weights.

    Every member keeps its own running statistics; the convolutions stay shared.

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, section 2.2.
    """

    def __init__(self, make_net: MakeNet, recipe: Recipe, *, last_layer: bool = True, **hyperparameters: Any) -> None:
        """Take the BatchNorm layers, and the last layer unless `last_layer` is false; the rest as `LatePhase`."""
        self.last_layer = last_layer
        super().__init__(make_net, recipe, **hyperparameters)

    def late_layer_names(self) -> list[str]:
        """Name the BatchNorm layers and the last one."""
        norms = [name for name, layer in batch_norms(self.net).items() if layer.affine]
        if not norms:
            raise ValueError("late-phase BatchNorm weights need an architecture with BatchNorm layers")
        return norms + ([last_layer(self.net)] if self.last_layer else [])


def last_layer(net: nn.Module) -> str:
    """Name the last layer with a weight matrix: the classifier, a linear layer or a 1×1 convolution."""
    names: list[str] = [name for name, layer in net.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return names[-1]
