"""Which weights of a network are late-phase weights, and the weights of each member: w = h(θ, φ)."""

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from methods.core.batch_norm import batch_norms
from methods.core.declarations import Weights
from methods.core.layers import NamedBuffers
from methods.core.method import Method


class LateWeights(Method):
    """Keep some weights of the network in K copies, φ_1 … φ_K, beside the base weights θ that members share.

    Attributes:
        K: how many members there are.
        names: the layers of the network that members own.
        factors: φ0 of modules of which `generate` makes weights, together with the base weights.
        late_factors: whether members have factors of their own.
        late: φ_1 … φ_K, each the parts of φ0 in their order.
        member_weight_decay: of the layers that members own.
        member_lr: factor on the learning rate of the members.
        member_optimizer: the members' optimizer, as `param_groups` names it.
        leftover, prediction, statistics: see `LatePhase`.

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, section 2.
    """

    K: int
    names: list[str]
    factors: nn.ModuleList
    late_factors: bool
    late: nn.ModuleList
    member_weight_decay: float
    member_lr: float
    member_optimizer: str
    leftover: str
    prediction: str
    statistics: str

    def replicate(self, names: Sequence[str], factors: Iterable[nn.Module] = (), *, late_factors: bool = True) -> None:
        """Say which weights become late-phase weights; for `__init__` only.

        Args:
            names: layers of the network.
            factors: φ0 of the modules that `generate` takes.
            late_factors: whether members have factors of their own.

        Raises:
            ValueError: where `statistics` or a decay is about what members do not have, or there is no late phase.
        """
        self.names, self.factors, self.late_factors = list(names), nn.ModuleList(factors), late_factors
        if self.start_epoch == self.epochs and not self.factors:
            raise ValueError("start=None: without a late phase this is plain training, sgd")
        if not self.names and self.member_weight_decay != self.recipe.weight_decay:
            raise ValueError("member_weight_decay is about layers that members own, and they own none")
        K = self.K if self.start_epoch < self.epochs else 0
        self.late = nn.ModuleList(nn.ModuleList(map(copy_alone, self.plain_parts())) for _ in range(K))
        averages = self.prediction == "average" and K > 0
        norms = [name for name in batch_norms(self.net) if averages and name in self.names]
        self.average = NamedBuffers(
            (f"{name}.{key}", value) for name in norms for key, value in self.net.get_submodule(name).named_buffers()
        )
        carried = self.shared_weights() if self.leftover == "carry" else []
        self.carried = NamedBuffers((name, torch.zeros_like(p)) for name, p in carried)
        if self.statistics in ("average", "reestimate_members") and not self.own_statistics:
            raise ValueError(f"statistics={self.statistics}: members have no BatchNorm statistics of their own")

    @property
    def own_statistics(self) -> bool:
        """Whether members have running statistics of their own."""
        return not batch_norms(self.net).keys().isdisjoint(self.names)

    @property
    def shared_norms(self) -> set[str]:
        """BatchNorm layers whose statistics all members move, by name."""
        return batch_norms(self.net).keys() - set(self.names)

    def plain_parts(self) -> list[nn.Module]:
        """List φ0: the network's own late layers, then the factors."""
        return [*map(self.net.get_submodule, self.names), *(self.factors if self.late_factors else ())]

    def own_parts(self, k: int) -> list[nn.Module]:
        """List φ_k in the order of φ0."""
        return list(cast(nn.ModuleList, self.late[k]))

    def generate(self, factors: Sequence[nn.Module]) -> dict[str, Tensor]:
        """Make weights, by the network's names, of the base weights and factors."""
        return {}

    def weights_of(self, parts: Sequence[nn.Module]) -> dict[str, Tensor]:
        """Give the weights and statistics that φ decides, by the network's names."""
        layers, factors = parts[: len(self.names)], parts[len(self.names) :]
        own = {
            f"{name}.{key}".lstrip("."): tensor
            for name, layer in zip(self.names, layers, strict=True)
            for key, tensor in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
        }
        return own | self.generate(factors or list(self.factors))

    def late_weights(self, k: int) -> dict[str, Tensor]:
        """Give what member k does not share, by the network's names."""
        return self.weights_of(self.own_parts(k))

    def member(self, k: int) -> dict[str, Tensor]:
        """Give all weights of member k by the network's names."""
        return {**super().own_weights(), **self.late_weights(k)}

    def own_weights(self) -> dict[str, Tensor]:
        """Give the weights of the network of θ and φ0."""
        return {**super().own_weights(), **self.generate(list(self.factors))}

    def base_weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """List θ by name, and φ0 of layers with it, which gets no gradient after T0."""
        return ((name, p) for name, p in self.named_parameters() if not name.startswith(("late.", "factors.")))

    def shared_weights(self) -> list[tuple[str, nn.Parameter]]:
        """List all that members share, by name."""
        factors = [] if self.late_factors else self.factors.named_parameters(prefix="factors")
        return [*self.base_weights(), *factors]

    def param_groups(self) -> list[dict[str, Any]]:
        """Group base weights, members' layers, factors (not decayed) and members' factors."""
        first_factor = len(self.names)
        late = [
            (f"late.{k}.{i}.{name}", p, i < first_factor)
            for k in range(len(self.late))
            for i, part in enumerate(self.own_parts(k))
            for name, p in part.named_parameters()
        ]
        factors = [(f"factors.{name}", p) for name, p in self.factors.named_parameters()]
        own = {"lr_scale": self.member_lr, "optimizer": self.member_optimizer}
        groups = [
            self.group(self.base_weights(), self.recipe.weight_decay),
            self.group(factors, 0.0),
            self.group([(name, p) for name, p, layer in late if layer], self.member_weight_decay) | own,
            self.group([(name, p) for name, p, layer in late if not layer], 0.0) | own,
        ]
        return [group for group in groups if group["params"]]

    def forward(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """Run the network; with the weights of θ and φ0 if none are given."""
        return super().forward(x, weights if weights is not None else self.generate(list(self.factors)) or None)


def tensors_of(layer: nn.Module) -> list[Tensor]:
    """List a layer's own parameters and buffers, not those of layers inside it."""
    return [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]


def copy_alone(layer: nn.Module) -> nn.Module:
    """Copy a layer without the layers inside it."""
    inside, layer._modules = layer._modules, {}
    try:
        return deepcopy(layer)
    finally:
        layer._modules = inside
