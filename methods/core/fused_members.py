"""Layers that run all members as one batch, where members share most of their weights.

The batch holds the rows of m members, B rows each, member after member: (m·B, …). A layer that all members share runs
on this batch as on any other. BatchNorm and the layers of which each member has its own are replaced for the pass: each
member's rows go through that member's layer, and each member's rows have batch statistics of their own. The gradients
equal those of running the members one by one, to rounding.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from methods.core.layers import WEIGHTED, Weighted

LayerForward = Callable[[Tensor], Tensor]
"""A function that replaces a layer's forward on a fused batch, (m·B, …)."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
ROW_WISE = (
    *(nn.Sequential, nn.Identity, nn.Flatten, nn.ReLU),  # an empty sequence returns its input
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
)
"""Layers without weights that treat each row independently and draw no random numbers."""


def can_fuse(net: nn.Module) -> bool:
    """Check whether a network can run several members as one batch.

    BatchNorm may be the only kind of layer in which rows depend on each other. A network with a layer of any other
    unknown kind is refused. So is one with dropout, which would draw other numbers, and one with a layer whose forward
    was replaced.
    """
    layers = [layer for layer in net.modules() if next(layer.children(), None) is None]
    known = all(
        type(layer) in (*BATCH_NORMS, *WEIGHTED, *ROW_WISE) and "forward" not in vars(layer) for layer in layers
    )
    norms = [layer for layer in layers if isinstance(layer, BATCH_NORMS)]
    return known and all(norm.affine and norm.track_running_stats and norm.momentum is not None for norm in norms)


@dataclass(frozen=True, eq=False)
class FusedForwards:
    """The replacement forwards of a network's layers for one sequence of members.

    Attributes:
        layers: the replacement forward of each replaced layer.
        worth_compiling: whether every full cycle uses these same forwards, so that one compiled program serves them.
    """

    layers: Mapping[nn.Module, LayerForward]
    worth_compiling: bool = False


REPLACED_FORWARDS: WeakKeyDictionary[nn.Module, FusedForwards] = WeakKeyDictionary()
"""The networks whose layers have replaced forwards at this moment."""


@contextmanager
def replaced_forwards(net: nn.Module, forwards: FusedForwards) -> Iterator[None]:
    """Replace the forwards of some layers of a network inside a `with` block."""
    REPLACED_FORWARDS[net] = forwards
    for layer, forward in forwards.layers.items():
        vars(layer)["forward"] = forward  # an instance attribute hides the method of the class
    try:
        yield
    finally:
        del REPLACED_FORWARDS[net]
        for layer in forwards.layers:
            del vars(layer)["forward"]


def current_forwards(net: nn.Module) -> FusedForwards | None:
    """Return the replaced forwards of a network at this moment; None if there are none."""
    return REPLACED_FORWARDS.get(net)


def own_forward(layer: nn.Module, x: Tensor) -> Tensor:
    """Run the forward of a layer's class, whatever replaces it in the instance."""
    return type(layer).forward(layer, x)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class MemberLoop:
    """Run the members' layers one after the other: layers of their own, or one BatchNorm layer that they share."""

    layers: Sequence[nn.Module]

    def __call__(self, x: Tensor) -> Tensor:
        """Run each member's rows through the member's layer."""
        return torch.cat(
            [own_forward(layer, rows) for layer, rows in zip(self.layers, x.chunk(len(self.layers)), strict=True)]
        )


@dataclass(frozen=True)
class MemberBatchedLinear:
    """Run the members' own linear layers as one batched matrix product."""

    layers: Sequence[nn.Linear]

    def __call__(self, x: Tensor) -> Tensor:
        """Map (m·B, inputs) to (m·B, outputs)."""
        weight = torch.stack([layer.weight for layer in self.layers]).mT  # (m, inputs, outputs)
        rows = split_by_member(x, len(self.layers))  # (m, B, inputs)
        if self.layers[0].bias is None:
            return torch.bmm(rows, weight).flatten(0, 1)
        bias = torch.stack([layer.bias for layer in self.layers])[:, None]  # (m, 1, outputs)
        return torch.baddbmm(bias, rows, weight).flatten(0, 1)


@dataclass(frozen=True)
class Rank1ScaledLayer:
    """Run a shared layer with each member's rank-1 factors, W_k = θ ∘ u_k v_kᵀ, applied to its input and output.

    Attributes:
        layer: the shared layer, with weight θ.
        factors: one module a member, with `u`, (outputs,), and `v`, (inputs,).
    """

    layer: Weighted
    factors: Sequence[nn.Module]

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply the input by v, run the layer, multiply the output by u, and add the layer's bias.

        Raises:
            ValueError: for an input of a linear layer with more dimensions than (m·B, inputs).
        """
        if isinstance(self.layer, nn.Linear) and x.dim() != 2:
            raise ValueError(
                f"members with rank-1 factors as one batch: {self.layer} sees {tuple(x.shape)}; --fuse never"
            )
        # In a grouped convolution, an output channel sees only the input channels of its group.
        groups = 1 if isinstance(self.layer, nn.Linear) else self.layer.groups
        v = torch.stack([cast(Tensor, factor.v) for factor in self.factors]).repeat(1, groups)  # (m, inputs)
        u = torch.stack([cast(Tensor, factor.u) for factor in self.factors])  # (m, outputs)
        y = scale_channels(without_bias(self.layer, scale_channels(x, v)), u)
        return y if self.layer.bias is None else y + self.layer.bias.to(y.dtype).view(-1, *[1] * (y.dim() - 2))


def without_bias(layer: Weighted, x: Tensor) -> Tensor:
    """Run a layer without its bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, layer.weight)
    return cast(Tensor, layer._conv_forward(x, layer.weight, None))


def split_by_member(x: Tensor, m: int) -> Tensor:
    """View a fused batch, (m·B, …), as (m, B, …)."""
    return x.view(m, len(x) // m, *x.shape[1:])


def scale_channels(x: Tensor, factor: Tensor) -> Tensor:
    """Multiply the channels of x, (m·B, C, …), by each member's factors, (m, C), in the precision of x."""
    return (split_by_member(x, len(factor)) * broadcast_over_rows(factor.to(x.dtype), x.dim())).flatten(0, 1)


def broadcast_over_rows(values: Tensor, dimensions: int) -> Tensor:
    """Reshape values, (m, C), so that they broadcast over (m, B, C, …).

    Args:
        values: one number a member and channel.
        dimensions: the number of dimensions of the fused batch, (m·B, C, …).
    """
    return values.reshape(len(values), 1, -1, *[1] * (dimensions - 2))


@dataclass(frozen=True)
class MemberBatchedNorm:
    """Run BatchNorm by member in a few kernels, whatever the number of members.

    Attributes:
        layers: one layer a member, or the same layer m times if members share it.
    """

    layers: Sequence[_BatchNorm]

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise x, (m·B, C, …); in training mode also update the running statistics."""
        weight, bias, eps = self.stacked("weight"), self.stacked("bias"), self.layers[0].eps
        if self.layers[0].training:
            run = normalise_per_member if torch.compiler.is_compiling() else NormalisePerMember.apply
            y, mean, var = cast(tuple[Tensor, ...], run(x, weight, bias, eps))
            self.update_statistics(mean, var, x.numel() // weight.numel())
            return y
        scale = weight * torch.rsqrt(self.stacked("running_var") + eps)
        shift = bias - self.stacked("running_mean") * scale
        rows = split_by_member(x, len(scale))
        shift, scale = broadcast_over_rows(shift, x.dim()), broadcast_over_rows(scale, x.dim())
        return torch.addcmul(shift, rows, scale).flatten(0, 1).to(x.dtype)

    def stacked(self, name: str) -> Tensor:
        """Stack one named tensor of all layers, (m, C)."""
        return torch.stack([getattr(layer, name) for layer in self.layers])

    @torch.no_grad()
    def update_statistics(self, mean: Tensor, var: Tensor, values: int) -> None:
        """Move the running statistics towards those of the batch.

        Args:
            mean: of each member and channel, (m, C).
            var: biased variance, (m, C).
            values: over how many values a mean was taken.
        """
        m, momentum = len(self.layers), cast(float, self.layers[0].momentum)
        shared = m > 1 and self.layers[0] is self.layers[1]
        for name, found in (("running_mean", mean), ("running_var", var * (values / (values - 1)))):
            if shared:  # equal to m updates in turn: the last member counts most
                shares = momentum * (1 - momentum) ** torch.arange(m - 1, -1, -1, device=mean.device, dtype=mean.dtype)
                # not as a matrix product, which autocast would compute in bfloat16
                getattr(self.layers[0], name).mul_((1 - momentum) ** m).add_((shares[:, None] * found).sum(0))
            else:
                torch._foreach_lerp_([getattr(layer, name) for layer in self.layers], list(found.unbind()), momentum)
        counts = [cast(Tensor, layer.num_batches_tracked) for layer in self.layers]
        torch._foreach_add_(counts[:1] if shared else counts, m if shared else 1)


def normalise_per_member(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `NormalisePerMember` in operations that torch compiles into few kernels, forward and backward."""
    rows = split_by_member(x, len(weight)).to(weight.dtype)
    var, mean = torch.var_mean(rows, [1, *range(3, rows.dim())], correction=0)
    scale = broadcast_over_rows(weight * torch.rsqrt(var + eps), x.dim())
    y = (rows - broadcast_over_rows(mean, x.dim())) * scale + broadcast_over_rows(bias, x.dim())
    return y.flatten(0, 1).to(x.dtype), mean, var


class NormalisePerMember(torch.autograd.Function):
    """Normalise each member's rows by their own mean and variance, then scale and shift them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise, scale and shift x.

        Args:
            ctx: the context of autograd.
            x: (m·B, C, …).
            weight: (m, C).
            bias: (m, C).
            eps: added to the variance.

        Returns:
            The result, shaped as x, and each member's mean and biased variance, (m, C) each.
        """
        m = len(weight)
        with torch.autocast(x.device.type, enabled=False):
            rows = split_by_member(x, m)  # (m, B, C, …)
            ctx.dims = [1, *range(3, rows.dim())]
            var, mean = torch.var_mean(rows.to(weight.dtype), ctx.dims, correction=0)
            scale = weight * torch.rsqrt(var + eps)
            y = scale_and_shift(x, scale, bias - mean * scale)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(var + eps))
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *unused: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients with respect to x, weight and bias."""
        x, weight, mean, inverse = ctx.saved_tensors
        m, values = len(weight), x.numel() // weight.numel()
        with torch.autocast(x.device.type, enabled=False):
            dy, normal = dy.to(weight.dtype), scale_and_shift(x.to(weight.dtype), inverse, -mean * inverse)
            d_bias = split_by_member(dy, m).sum(ctx.dims)
            d_weight = split_by_member(dy * normal, m).sum(ctx.dims)
            scale = weight * inverse
            dx = split_by_member(scale_and_shift(dy, scale, -scale * d_bias / values), m)
            dx.addcmul_(split_by_member(normal, m), broadcast_over_rows(-scale * d_weight / values, x.dim()))
        return dx.flatten(0, 1).to(x.dtype), d_weight, d_bias, None


def scale_and_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return x · scale + shift in the precision and memory layout of x; no gradient flows through it.

    The arithmetic is done in the precision of the scale.

    Args:
        x: (m·B, C, …).
        scale: (m, C).
        shift: (m, C).
    """
    y = torch.empty_like(x)
    rows, out = (split_by_member(t, len(scale)) for t in (x, y))
    torch.addcmul(broadcast_over_rows(shift, x.dim()), rows, broadcast_over_rows(scale, x.dim()), out=out)
    return y


def member_forward(layers: Sequence[nn.Module]) -> LayerForward:
    """Choose the replacement forward of a layer on a fused batch.

    BatchNorm on a CPU runs in a loop over members, which is faster there than broadcasting; on a GPU, few kernels are
    faster.

    Args:
        layers: one layer a member, or the same layer m times if members share it.
    """
    if isinstance(layers[0], nn.Linear):
        return MemberBatchedLinear(cast(Sequence[nn.Linear], layers))
    if isinstance(layers[0], BATCH_NORMS) and layers[0].weight.is_cuda:
        return MemberBatchedNorm(cast(Sequence[_BatchNorm], layers))
    return MemberLoop(layers)
