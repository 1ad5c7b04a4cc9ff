"""Linear hypernetworks: they generate a network's convolution kernels from small embeddings, one set a member."""

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
from methods.core.late_phase import LATE_PHASE_SHARING, LatePhase
from methods.core.layers import check_untied
from methods.core.layers import last_layer as name_of_last_layer
from methods.core.random_streams import MakeNet, seeded
from methods.core.recipe import Recipe

Ownership = Literal["own", "shared"]
"""Whether each member has weights of its own, or all members share them."""
FIRST_LAYER_D = 10
"""Size of the embedding vector of the network's first convolution (Table S1)."""


class Group(NamedTuple):
    """Convolutions whose kernels the same hypernetwork generates.

    Attributes:
        shape: the shape (out, k, …, in) of the chunk of a kernel that one embedding vector generates.
        D: the size of an embedding vector.
        chunks: by layer name, the number of chunks that form the kernel, side by side along its input channels.
        fan_in: the number of inputs of a unit in the group's regular layers.
    """

    shape: tuple[int, ...]
    D: int
    chunks: dict[str, int]
    fan_in: int


def group_layers(kernels: Mapping[str, tuple[int, ...]], D: int | None, D_irregular: int | None) -> list[Group]:
    """Group convolutions by the rule behind Table S1, which makes hypernetworks about as large as the kernels.

    A regular layer has as many input as output channels, and a kernel larger than one. The rule has these parts:

    - Layers of the same shape form a group.
    - Each of the n layers of a group is split in two halves along its input channels. Its embedding vectors have 2n
      numbers. A layer with an odd number of input channels is not split; its embedding vector has n numbers.
    - A layer joins a group of regular layers if it differs from them only by having half the input channels.
    - A layer that is the only one with its shape forms a group of its own if regular layers have as many output
      channels as it has. Its embedding vector has as many numbers as there are such layers.
    - The embedding vector of the first layer has ten numbers.

    Args:
        kernels: the kernel shapes (out, in per group, k, …) by layer name, in the network's order.
        D: embedding size of the groups that are split. None: by the rule.
        D_irregular: embedding size of the other groups, except the first layer's. None: by the rule.
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
            size = FIRST_LAYER_D if name == first else D_irregular or alike
        elif width % 2:
            size = D_irregular or n
        else:
            width //= 2
            size = D or 2 * n
        group = found.setdefault(whole, Group((out, *kernel, width), size, {}, whole[1] * math.prod(kernel)))
        group.chunks[name] = channels // width
    return list(found.values())


class Embedding(nn.Module):
    """The embedding of one layer: one vector a chunk, (D, chunks)."""

    def __init__(self, vectors: Tensor) -> None:
        """Copy the initial vectors, (D, chunks)."""
        super().__init__()
        self.e = nn.Parameter(vectors.clone())


TRUNK_VERSION = 4
"""The version of `LatePhaseHypernet`, which both methods name in their common trunk."""
HYPERNETWORK_SHARING = LATE_PHASE_SHARING._replace(
    trunk=lambda method: Trunk(f"hypernetwork {TRUNK_VERSION}: {method.groups}", method.start_epoch),
    state=("net", "theta", "factors"),
)


class Hypernetwork(LatePhase):
    """Generate every convolution of the network from embeddings, W = θ e; each member has embeddings of its own late.

    One hypernetwork θ serves a group of layers of the same shape. BatchNorm and the last layer are not generated. The
    convolutions have no kernels of their own; θ takes their place. Embeddings do not decay.

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
            make_net: draws the networks; everything but their kernels is used.
            recipe: how a network is trained plainly.
            embeddings: each member's "own", or "shared": all members then have the same kernels (the ablations LL + BN
                and LL, Tables S12 and S13).
            batch_norm: each member's "own", or "shared", with its running statistics.
            last_layer: each member's "own", or "shared".
            head_init: the members' last layers at T0: "copy" copies the plain network's, "fresh" draws new ones in
                torch's default way (appendix B).
            nested: update the shared weights once a cycle (Algorithm 1). Otherwise each minibatch updates the shared
                weights and those of one random member.
            D: embedding size of the regular groups. None: by the rule of Table S1. 6, with `D_irregular` 4, is the
                version of a WRN-28-10 with 15.6 million parameters (Table S10, which does not state the sizes).
            D_irregular: embedding size of the other groups.
            hyperparameters: those of `LatePhase`.

        Raises:
            ValueError: for a network without convolutions, or without BatchNorm that members should own; for members
                that own nothing; for hyperparameters of cycles with nested=False.
        """
        super().__init__(make_net, recipe, **hyperparameters)
        if not nested and (self.leftover, self.gamma_theta) != ("carry", 1.0):
            raise ValueError("leftover and gamma_theta apply to cycles, and nested=False has none")
        if (embeddings, batch_norm, last_layer) == ("shared",) * 3:
            raise ValueError("members that share embeddings, BatchNorm and the last layer are one and the same")
        self.nested = nested
        convolutions = {n: layer for n, layer in self.net.named_modules() if isinstance(layer, nn.Conv1d | nn.Conv2d)}
        last = name_of_last_layer(self.net)
        convolutions.pop(last, None)
        if not convolutions:
            raise ValueError("a hypernetwork needs an architecture with convolutions, which it generates")
        for name, layer in convolutions.items():
            if "weight" not in layer._parameters or not layer.weight.requires_grad:
                raise ValueError(
                    f"a hypernetwork generates kernels that are trained, and that of {name} is computed from others "
                    "(such as by weight_norm) or frozen; let it be an ordinary parameter, or take another method"
                )
        check_untied(
            self.net, [f"{name}.weight" for name in convolutions], "a hypernetwork generates each kernel by itself"
        )
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
        self.redrawn = {last} if head_init == "fresh" and last_layer == "own" else set()
        self.member_draws = self.generator("specialist")

    @staticmethod
    def draw_theta(group: Group, device: torch.device) -> nn.Parameter:
        """Draw θ, (D, out, k, …, in), from a normal distribution.

        With embedding vectors of length one, the kernels have the variance of Kaiming initialisation.
        """
        theta = torch.empty(group.D, *group.shape, device=device)
        return nn.Parameter(theta.normal_(std=(2.0 / group.fan_in) ** 0.5))

    @staticmethod
    def draw_embeddings(group: Group, device: torch.device) -> Iterator[Embedding]:
        """Draw one embedding a layer, (D, chunks), with vectors as orthogonal as possible over the group.

        Their squared length is one on average.
        """
        chunks = sum(group.chunks.values())
        vectors = torch.empty(chunks, group.D, device=device)
        if device.type != "meta":  # torch draws no orthogonal vectors there
            nn.init.orthogonal_(vectors)
            vectors *= max(chunks / group.D, 1.0) ** 0.5  # more vectors than dimensions would be shorter than one
        return (Embedding(part.T) for part in torch.split(vectors, list(group.chunks.values())))

    def generate(self, factors: Sequence[nn.Module]) -> dict[str, Tensor]:
        """Return the kernels (out, in, k, …) by name: each group's θ times the embeddings of its layers."""
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
        """Start the epoch's random stream of members."""
        super().begin_epoch(epoch)
        self.member_draws = self.generator("specialist")

    def batches_in_cycle(self) -> int:
        """Return K, or 1 if updates are not nested: the optimizer then steps after every minibatch."""
        return self.K if self.nested else 1

    def member_for(self, i: int) -> int:
        """Return the next member in turn, or a random one if updates are not nested."""
        return super().member_for(i) if self.nested else int(torch.randint(self.K, (), generator=self.member_draws))

    def anchors(self) -> Iterable[Anchor]:
        """Return the members with their embeddings (Sacramento et al., Figures 3 and S2).

        Kernels are linear in the embeddings: a mixture of members' kernels has the same mixture of embeddings.
        """
        if not (self.begun and self.late_factors):
            return super().anchors()
        first = len(self.names)
        return (
            Anchor(self.member(k), [cast(Embedding, part).e for part in self.own_parts(k)[first:]])
            for k in range(self.K)
        )
