"""The weights of late-phase members: which weights are shared, and how each member's weights are put together."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from methods.core.batch_norm import batch_norms
from methods.core.declarations import Weights
from methods.core.layers import NamedBuffers, check_untied, copy_module
from methods.core.method import Method


class MemberWeights(Method):
    """Keep K copies of some weights, φ_1 … φ_K, beside the base weights θ that all members share.

    The weights of member k are w_k = h(θ, φ_k). φ consists of layers and of factors. A layer of φ_k takes the place of
    the network's layer. `generate` computes further weights from the base weights and the factors. φ0 is the part of
    the plain network that the copies start from: the network's own layers, and one set of factors.

    Attributes:
        K: the number of members.
        names: names of the layers of which each member has a copy.
        factors: the factors of φ0, from which `generate` computes weights.
        late_factors: whether each member has a copy of the factors; otherwise all members share those of φ0.
        late: φ_1 … φ_K; each lists its parts in the order of `plain_parts`.
        member_weight_decay: weight decay of the members' layers.
        member_lr: factor on the members' learning rate.
        member_optimizer: the members' optimizer, as in "optimizer" of `param_groups`.
        cycle_position: the position in the cycle at which the next update begins.
        frozen_base, leftover, prediction, statistics: see `LatePhase`.

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
    member_schedule: str
    member_optimizer: str
    frozen_base: bool
    cycle_position: int
    leftover: str
    prediction: str
    statistics: str

    def replicate(self, names: Sequence[str], factors: Iterable[nn.Module] = (), *, late_factors: bool = True) -> None:
        """Create K copies of the late-phase weights; call this once, in `__init__`.

        Args:
            names: names of the layers of which each member gets a copy.
            factors: the factors of φ0, the modules that `generate` takes.
            late_factors: whether each member gets a copy of the factors.

        Raises:
            ValueError: if there are neither factors nor a late phase; if `member_weight_decay` or `statistics` is set,
                but members lack the layers that it applies to.
        """
        self.names, self.factors, self.late_factors = list(names), nn.ModuleList(factors), late_factors
        layers = ((name, self.net.get_submodule(name)) for name in self.names)
        owned = [
            f"{name}.{key}".lstrip(".") for name, layer in layers for key, _ in layer.named_parameters(recurse=False)
        ]
        check_untied(self.net, owned, "each member gets a copy of whole layers")
        if self.start_epoch == self.epochs and not self.factors:
            raise ValueError("start=None: without a late phase this is plain training, sgd")
        if not self.names and self.member_weight_decay != self.recipe.weight_decay:
            raise ValueError("member_weight_decay applies to the layers that members own, and they own none")
        K = self.K if self.start_epoch < self.epochs else 0
        self.late = nn.ModuleList(nn.ModuleList(map(copy_without_children, self.plain_parts())) for _ in range(K))
        averages = self.prediction == "average" and K > 0
        norms = [name for name in batch_norms(self.net) if averages and name in self.names]
        self.average = NamedBuffers(
            (f"{name}.{key}", value) for name in norms for key, value in self.net.get_submodule(name).named_buffers()
        )
        carries = self.leftover == "carry" and K and self.batches_in_cycle() > 1 and not self.frozen_base
        plain = {id(p) for part in self.plain_parts() for p in part.parameters(recurse=False)}  # no gradient from T0 on
        carried = [(name, p) for name, p in self.shared_weights() if carries and id(p) not in plain]
        self.carried = NamedBuffers((name, torch.zeros_like(p)) for name, p in carried)
        if self.statistics in ("average", "reestimate_members") and not self.own_statistics:
            raise ValueError(f"statistics={self.statistics}: members have no BatchNorm statistics of their own")

    def batches_in_cycle(self) -> int:
        """Return how many minibatches make a full cycle."""
        return self.K

    @property
    def carried_minibatches(self) -> int:
        """How many minibatches of the cycle the epoch before had."""
        return self.cycle_position if self.leftover == "carry" else 0

    def member_for(self, i: int) -> int:
        """Return which member sees minibatch i of the update: the next one in turn, also over the end of an epoch.

        With leftover=drop each epoch begins with the first member.
        """
        return (self.cycle_position + i) % self.K

    def check_minibatches(self, per_epoch: int) -> None:
        """Check that every member gets a minibatch.

        Args:
            per_epoch: minibatches of an epoch, in one order of the data.

        Raises:
            ValueError: if some member would never be trained.
        """
        epochs = self.epochs - self.start_epoch
        late = min(per_epoch, per_epoch * epochs) if self.leftover == "drop" else per_epoch * epochs
        if 0 < late < self.batches_in_cycle():
            where = "an epoch" if self.leftover == "drop" else f"training from epoch {self.start_epoch} on"
            carry = " or leftover=carry" if self.leftover == "drop" else ""
            raise ValueError(
                f"{where} has {late} minibatches, fewer than the {self.K} of a cycle, one for each member: some would "
                f"never be trained; it needs fewer members, an earlier start, smaller minibatches{carry}"
            )

    @property
    def own_statistics(self) -> bool:
        """Whether each member has BatchNorm running statistics of its own."""
        return any(layer.track_running_stats and name in self.names for name, layer in batch_norms(self.net).items())

    @property
    def shared_norms(self) -> set[str]:
        """Names of the BatchNorm layers that all members share."""
        return batch_norms(self.net).keys() - set(self.names)

    def plain_parts(self) -> list[nn.Module]:
        """List the parts of φ0: the network's own late-phase layers, then the factors if each member has some."""
        return [*map(self.net.get_submodule, self.names), *(self.factors if self.late_factors else ())]

    def own_parts(self, k: int) -> list[nn.Module]:
        """List the parts of φ_k, in the order of `plain_parts`."""
        return list(cast(nn.ModuleList, self.late[k]))

    def generate(self, factors: Sequence[nn.Module]) -> dict[str, Tensor]:
        """Compute the weights that depend on factors, by the network's names; the default has none.

        Args:
            factors: those of φ0 or of one member.
        """
        return {}

    def weights_of(self, parts: Sequence[nn.Module]) -> dict[str, Tensor]:
        """Return the weights and running statistics that depend on φ, by the network's names.

        Args:
            parts: of φ_k, in the order of `plain_parts`.
        """
        layers, factors = parts[: len(self.names)], parts[len(self.names) :]
        own = {
            f"{name}.{key}".lstrip("."): tensor
            for name, layer in zip(self.names, layers, strict=True)
            for key, tensor in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
        }
        return own | self.generate(factors or list(self.factors))

    def late_weights(self, k: int) -> dict[str, Tensor]:
        """Return the weights and running statistics that member k does not share, by the network's names."""
        return self.weights_of(self.own_parts(k))

    def member(self, k: int) -> dict[str, Tensor]:
        """Return all weights and running statistics of member k, by the network's names."""
        return {**super().own_weights(), **self.late_weights(k)}

    def own_weights(self) -> dict[str, Tensor]:
        """Return the weights of the plain network, which θ and φ0 form."""
        return {**super().own_weights(), **self.generate(list(self.factors))}

    def base_weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """List θ by name, with the layers of φ0, which get no gradient from T0 on."""
        return ((name, p) for name, p in self.named_parameters() if not name.startswith(("late.", "factors.")))

    def shared_weights(self) -> list[tuple[str, nn.Parameter]]:
        """List all parameters that members share, by name: θ, and the factors unless each member has some."""
        factors = [] if self.late_factors else self.factors.named_parameters(prefix="factors")
        return [*self.base_weights(), *factors]

    def param_groups(self) -> list[dict[str, Any]]:
        """Group the base weights, the factors, the members' layers and the members' factors; factors do not decay."""
        first_factor = len(self.names)
        late = [
            (f"late.{k}.{i}.{name}", p, i < first_factor)
            for k in range(len(self.late))
            for i, part in enumerate(self.own_parts(k))
            for name, p in part.named_parameters()
        ]
        factors = [(f"factors.{name}", p) for name, p in self.factors.named_parameters()]
        own = {"lr_scale": self.member_lr, "optimizer": self.member_optimizer, "schedule": self.member_schedule}
        groups = [
            self.group(self.base_weights(), self.recipe.weight_decay),
            self.group(factors, 0.0),
            self.group([(name, p) for name, p, layer in late if layer], self.member_weight_decay) | own,
            self.group([(name, p) for name, p, layer in late if not layer], 0.0) | own,
        ]
        return [group for group in groups if group["params"]]

    def forward(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """Run the network with `weights`, or as the plain network of θ and φ0 if there are none."""
        return super().forward(x, weights if weights is not None else self.generate(list(self.factors)) or None)


def tensors_of(layer: nn.Module) -> list[Tensor]:
    """List a layer's own parameters and buffers, without those of its child modules."""
    return [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]


def copy_without_children(layer: nn.Module) -> nn.Module:
    """Return a deep copy of a layer without its child modules."""
    own = vars(layer)
    children, own["_modules"] = own["_modules"], {}
    try:
        return copy_module(layer)
    finally:
        own["_modules"] = children
