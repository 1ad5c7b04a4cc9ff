"""Linear hypernetworks that generate a network's convolutions from small embeddings, which members may own."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Annotated, Any, Literal, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from methods.core.batch_norm import batch_norms
from methods.core.declarations import Anchor, Trunk
from methods.core.late_phase import LATE_SHARING, LatePhase
from methods.core.layers import last_layer as name_of_last_layer
from methods.core.random_streams import MakeNet, seeded
from methods.core.recipe import Recipe

Ownership = Literal["own", "shared"]
STEM = 10
"""Embedding size of the network's first convolution (Table S1)."""


class Group(NamedTuple):
    """Convolutions whose kernels come from the same hypernetwork.

    Attributes:
        shape: (out, k, …, in) of what one embedding vector generates, a chunk of a kernel.
        D: size of an embedding vector.
        chunks: of each layer by name, side by side along its input channels.
        fan_in: inputs of a unit in the group's regular layers.
    """

    shape: tuple[int, ...]
    D: int
    chunks: dict[str, int]
    fan_in: int


def group_layers(kernels: Mapping[str, tuple[int, ...]], D: int | None, D_irregular: int | None) -> list[Group]:
    """Group convolutions after the rule behind Table S1, so that hypernetworks are about as large as the kernels.

    Layers of the same shape form a group. Each of its n layers is split in two halves along its input channels, and
    its embeddings have 2n numbers (an odd width is not split, and has n). A layer whose input is one half of that of a
    group with as many input as output channels joins it. A layer that is alone with its shape, but not with its number
    of output channels, is a group with as many numbers as there are such regular layers; the first layer has ten.

    Args:
        kernels: (out, in a group, k, …) by the names of the layers, in the network's order.
        D: embedding size of the groups that are split; None: by the rule.
        D_irregular: of those that are not, but for the first layer; None: by the rule.
    """
    counts = Counter(kernels.values())
    regular = [shape for shape in kernels.values() if shape[0] == shape[1] and max(shape[2:]) > 1]
    first = next(iter(kernels))
    found: dict[tuple[int, ...], Group] = {}
    for name, shape in kernels.items():
        out, channels, *kernel = shape
        whole = (out, 2 * channels, *kernel)
        whole = whole if whole in regular and whole[1] == out else shape
        n, width = counts[whole], whole[1]
        alike = sum(other[0] == out for other in regular)
        if whole == shape and shape not in regular and n == 1 and (name == first or alike):
            size = STEM if name == first else D_irregular or alike
        elif width % 2:
            size = D_irregular or n
        else:
            width //= 2
            size = D or 2 * n
        group = found.setdefault(whole, Group((out, *kernel, width), size, {}, whole[1] * math.prod(kernel)))
        group.chunks[name] = channels // width
    return list(found.values())


class Embedding(nn.Module):
    """The embedding of one layer: a matrix (D, chunks)."""

    def __init__(self, vectors: Tensor) -> None:
        """Take (D, chunks)."""
        super().__init__()
        self.e = nn.Parameter(vectors.clone())


TRUNK_VERSION = 2
"""The version of `LatePhaseHypernet`: until T0 it trains the trunk that both methods share."""
HYPERNETWORK_SHARING = LATE_SHARING._replace(
    trunk=lambda method: Trunk(f"hypernetwork {TRUNK_VERSION}: {method.groups}", method.start_epoch),
    state=("net", "theta", "factors"),
)


class Hypernetwork(LatePhase):
    """Generate every convolution of the network from embeddings, W = θ e; give the members embeddings late.

    One hypernetwork θ serves a group of layers of the same shape. BatchNorm and the last layer are not generated. The
    network's own kernels are gone: θ takes their place. Embeddings are not decayed.

    References:
        Sacramento et al., Economical ensembles with hypernetworks, 2020, section 2, appendices A and B, Table S1; von
        Oswald et al., ICLR 2021, Table 7; Savarese & Maire, Learning implicitly recurrent CNNs, ICLR 2019.
    """

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        embeddings: Ownership = "own",
        batch_norm: Ownership = "shared",
        last_layer: Ownership = "own",
        head_init: Literal["copy", "fresh"] = "copy",
        nested: bool = True,
        D: Annotated[int, Field(ge=1)] | None = None,
        D_irregular: Annotated[int, Field(ge=1)] | None = None,
        **hyperparameters: Any,
    ) -> None:
        """Build the hypernetworks and the members.

        Args:
            make_net: draws the networks, of which everything but the kernels is used.
            recipe: how a network is trained plainly.
            embeddings: each member's "own", or "shared": one network's kernels for all (the ablations LL + BN and
                LL, Tables S12 and S13).
            batch_norm: each member's "own", or "shared", statistics too.
            last_layer: each member's "own", or "shared".
            head_init: at T0 members' last layers are copies, or drawn afresh in torch's default way (appendix B).
            nested: update the shared weights once a cycle (Algorithm 1); else, with every minibatch, those of one
                random member and the shared ones.
            D: embedding size of the regular groups; None: by the rule of Table S1. 6, with `D_irregular` 4, is the
                version of 15.6 million parameters of a WRN-28-10 (Table S10; the sizes are not stated there).
            D_irregular: embedding size of the other groups.
            hyperparameters: of `LatePhase`.

        Raises:
            ValueError: for a network without convolutions, or without BatchNorm where members should own it; for
                members that own nothing, and for what is about cycles without them.
        """
        super().__init__(make_net, recipe, **hyperparameters)
        if not nested and (self.leftover, self.gamma_theta) != ("step", 1.0):
            raise ValueError("leftover and gamma_theta are about cycles, and nested=False has none")
        if (embeddings, batch_norm, last_layer) == ("shared",) * 3:
            raise ValueError("members that share embeddings, BatchNorm and the last layer are one and the same")
        self.nested = nested
        convolutions = {n: layer for n, layer in self.net.named_modules() if isinstance(layer, nn.Conv1d | nn.Conv2d)}
        last = name_of_last_layer(self.net)
        convolutions.pop(last, None)
        if not convolutions:
            raise ValueError("a hypernetwork needs an architecture with convolutions, which it generates")
        self.groups = group_layers({n: tuple(c.weight.shape) for n, c in convolutions.items()}, D, D_irregular)
        with seeded(self.generator("hypernetwork")):
            device = next(self.net.parameters()).device
            self.theta = nn.ParameterList(self.draw_theta(group, device) for group in self.groups)
            factors = list(chain.from_iterable(self.draw_embeddings(group, device) for group in self.groups))
        for layer in convolutions.values():
            del layer.weight
        norms = [name for name, layer in batch_norms(self.net).items() if layer.affine and layer.track_running_stats]
        if batch_norm == "own" and not norms:
            raise ValueError("members can own BatchNorm only in an architecture with BatchNorm layers")
        names = [*(norms if batch_norm == "own" else []), *([last] if last_layer == "own" else [])]
        self.replicate(names, factors, late_factors=embeddings == "own")
        self.fresh = {last} if head_init == "fresh" and last_layer == "own" else set()
        self.turns = self.generator("specialist")

    @staticmethod
    def draw_theta(group: Group, device: torch.device) -> nn.Parameter:
        """Draw θ, (D, out, k, …, in), Kaiming normal: with embeddings of length one, kernels are so as well."""
        theta = torch.empty(group.D, *group.shape, device=device)
        return nn.Parameter(theta.normal_(std=(2.0 / group.fan_in) ** 0.5))

    @staticmethod
    def draw_embeddings(group: Group, device: torch.device) -> Iterator[Embedding]:
        """Draw pseudo-orthogonal embeddings over a group's layers, (D, chunks) each."""
        vectors = torch.empty(sum(group.chunks.values()), group.D, device=device)
        if device.type != "meta":  # which has no orthogonal vectors
            nn.init.orthogonal_(vectors)
        return (Embedding(part.T) for part in torch.split(vectors, list(group.chunks.values())))

    def generate(self, factors: Sequence[nn.Module]) -> dict[str, Tensor]:
        """Multiply each group's θ by the embeddings of its layers: kernels (out, in, k, …) by name."""
        found = {}
        remaining = iter(factors)
        for group, theta in zip(self.groups, self.theta, strict=True):
            vectors = torch.cat(
                [cast(Embedding, next(remaining)).e for _ in group.chunks], dim=1
            )  # (D, chunks of all layers)
            chunks = (vectors.T @ theta.flatten(1)).reshape(-1, *group.shape)  # (chunks, out, k, …, in)
            for name, own in zip(group.chunks, torch.split(chunks, list(group.chunks.values())), strict=True):
                found[f"{name}.weight"] = own.movedim(0, -2).flatten(-2).movedim(-1, 1)
        return found

    def begin_epoch(self, epoch: int) -> None:
        """Start the epoch's stream of members."""
        super().begin_epoch(epoch)
        self.turns = self.generator("specialist")

    def batches_in_cycle(self) -> int:
        """Step after every minibatch unless updates are nested."""
        return self.K if self.nested else 1

    def turn(self, i: int) -> int:
        """Let members take turns, or draw one if updates are not nested."""
        return super().turn(i) if self.nested else int(torch.randint(self.K, (), generator=self.turns))

    def anchors(self) -> Iterable[Anchor]:
        """Give the members, in the space of their embeddings (Sacramento et al., Figures 3 and S2).

        Kernels are linear in embeddings, so that a mixture of the members' weights is made of mixed embeddings.
        """
        if not (self.begun and self.late_factors):
            return super().anchors()
        first = len(self.names)
        return (
            Anchor(self.member(k), [cast(Embedding, part).e for part in self.own_parts(k)[first:]])
            for k in range(self.K)
        )
