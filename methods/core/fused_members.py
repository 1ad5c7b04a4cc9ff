"""Members that share most of their weights, run as one batch: what they share acts on the rows of all at once.

The batch holds m groups of B rows, one a member, all rows of one after those of another: (m·B, …). A layer that all
members share acts on it as on any batch. BatchNorm, whose statistics are a minibatch's own, and what members do not
share act group by group, as said here. The gradients are those of the groups one by one, to rounding.
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
"""What takes the place of a layer's forward: of (m·B, …)."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
PLAIN = (
    *(nn.Sequential, nn.Identity, nn.Flatten, nn.ReLU),  # a sequence without layers does nothing
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
)
"""Layers without weights that treat every row alike and by itself, and draw nothing."""


def can_fuse(net: nn.Module) -> bool:
    """Say whether groups can share a batch: of the network's layers, only BatchNorm lets rows see each other.

    A network with a layer that is not known here cannot, such as dropout, which would draw other numbers, or one whose
    forward was replaced.
    """
    layers = [layer for layer in net.modules() if next(layer.children(), None) is None]
    known = all(type(layer) in (*BATCH_NORMS, *WEIGHTED, *PLAIN) and "forward" not in vars(layer) for layer in layers)
    norms = [layer for layer in layers if isinstance(layer, BATCH_NORMS)]
    return known and all(norm.affine and norm.track_running_stats and norm.momentum is not None for norm in norms)


@dataclass(frozen=True, eq=False)
class FusedForwards:
    """What layers of a network do, for some groups, in place of what they do by themselves.

    Attributes:
        layers: and their acts.
        repeats: whether all cycles but those that are cut short do just this, so that it is worth compiling.
    """

    layers: Mapping[nn.Module, LayerForward]
    repeats: bool = False


ACTING: WeakKeyDictionary[nn.Module, FusedForwards] = WeakKeyDictionary()
"""Networks of which layers do something else at present."""


@contextmanager
def acting(net: nn.Module, acts: FusedForwards) -> Iterator[None]:
    """Let layers of a network do something else for a while."""
    ACTING[net] = acts
    for layer, act in acts.layers.items():
        vars(layer)["forward"] = act  # which goes before the class's
    try:
        yield
    finally:
        del ACTING[net]
        for layer in acts.layers:
            del vars(layer)["forward"]


def current_forwards(net: nn.Module) -> FusedForwards | None:
    """Say what layers of a network do at present in place of what they do by themselves."""
    return ACTING.get(net)


def alone(layer: nn.Module, x: Tensor) -> Tensor:
    """Let a layer do what it does by itself."""
    return type(layer).forward(layer, x)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Each:
    """A layer of which each group has its own, or BatchNorm that groups share: one after the other."""

    layers: Sequence[nn.Module]

    def __call__(self, x: Tensor) -> Tensor:
        """Run each group through its layer."""
        return torch.cat(
            [alone(layer, rows) for layer, rows in zip(self.layers, x.chunk(len(self.layers)), strict=True)]
        )


@dataclass(frozen=True)
class Linears:
    """A linear layer of which each group has its own."""

    layers: Sequence[nn.Linear]

    def __call__(self, x: Tensor) -> Tensor:
        """Map (m·B, inputs) to (m·B, outputs)."""
        weight = torch.stack([layer.weight for layer in self.layers]).mT  # (m, inputs, outputs)
        groups = grouped(x, len(self.layers))  # (m, B, inputs)
        if self.layers[0].bias is None:
            return torch.bmm(groups, weight).flatten(0, 1)
        bias = torch.stack([layer.bias for layer in self.layers])[:, None]  # (m, 1, outputs)
        return torch.baddbmm(bias, groups, weight).flatten(0, 1)


@dataclass(frozen=True)
class Scaled:
    """A layer of which groups have rank-1 factors, W_k = θ ∘ u_k v_kᵀ, on what goes in and comes out.

    Attributes:
        layer: shared.
        factors: of each group, modules with `u`, (outputs,), and `v`, (inputs,).
    """

    layer: Weighted
    factors: Sequence[nn.Module]

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply, run the layer, multiply, and add the layer's bias.

        Raises:
            ValueError: for an input of a linear layer with more dimensions than (m·B, inputs).
        """
        if isinstance(self.layer, nn.Linear) and x.dim() != 2:
            raise ValueError(
                f"members with rank-1 factors as one batch: {self.layer} sees {tuple(x.shape)}; --fuse never"
            )
        # Of a grouped convolution, an output sees only the inputs of its group.
        groups = 1 if isinstance(self.layer, nn.Linear) else self.layer.groups
        v = torch.stack([cast(Tensor, factor.v) for factor in self.factors]).repeat(1, groups)  # (m, inputs)
        u = torch.stack([cast(Tensor, factor.u) for factor in self.factors])  # (m, outputs)
        y = times(without_bias(self.layer, times(x, v)), u)
        return y if self.layer.bias is None else y + self.layer.bias.to(y.dtype).view(-1, *[1] * (y.dim() - 2))


def without_bias(layer: Weighted, x: Tensor) -> Tensor:
    """Run a layer without its bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, layer.weight)
    return cast(Tensor, layer._conv_forward(x, layer.weight, None))


def grouped(x: Tensor, m: int) -> Tensor:
    """View a batch, (m·B, …), as its groups, (m, B, …)."""
    return x.view(m, len(x) // m, *x.shape[1:])


def times(x: Tensor, factor: Tensor) -> Tensor:
    """Multiply each group's channels, (m·B, C, …), by its factors, (m, C), in the precision of x."""
    return (grouped(x, len(factor)) * over(factor.to(x.dtype), x.dim())).flatten(0, 1)


def over(values: Tensor, dimensions: int) -> Tensor:
    """Shape values, (m, C), so that they spread over groups, (m, B, C, …), of a batch of so many dimensions."""
    return values.reshape(len(values), 1, -1, *[1] * (dimensions - 2))


@dataclass(frozen=True)
class MemberBatchedNorm:
    """BatchNorm in a few kernels, whatever the number of groups; a group has a layer of its own, or shares one."""

    layers: Sequence[_BatchNorm]

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise (m·B, C, …), and move the running statistics in training."""
        weight, bias, eps = self.of("weight"), self.of("bias"), self.layers[0].eps
        if self.layers[0].training:
            run = plain_norm if torch.compiler.is_compiling() else GroupNorm.apply
            y, mean, var = cast(tuple[Tensor, ...], run(x, weight, bias, eps))
            self.move(mean, var, x.numel() // weight.numel())
            return y
        scale = weight * torch.rsqrt(self.of("running_var") + eps)
        shift = bias - self.of("running_mean") * scale
        groups = grouped(x, len(scale))
        return torch.addcmul(over(shift, x.dim()), groups, over(scale, x.dim())).flatten(0, 1).to(x.dtype)

    def of(self, name: str) -> Tensor:
        """Stack the groups' tensors of a name, (m, C)."""
        return torch.stack([getattr(layer, name) for layer in self.layers])

    @torch.no_grad()
    def move(self, mean: Tensor, var: Tensor, values: int) -> None:
        """Move running statistics towards the groups', (m, C), of so many values each."""
        m, momentum = len(self.layers), cast(float, self.layers[0].momentum)
        shared = m > 1 and self.layers[0] is self.layers[1]
        for name, found in (("running_mean", mean), ("running_var", var * (values / (values - 1)))):
            if shared:  # as if moved by one group after the other, the last one most
                shares = momentum * (1 - momentum) ** torch.arange(m - 1, -1, -1, device=mean.device, dtype=mean.dtype)
                # not as a matrix product, which autocast would compute in bfloat16
                getattr(self.layers[0], name).mul_((1 - momentum) ** m).add_((shares[:, None] * found).sum(0))
            else:
                torch._foreach_lerp_([getattr(layer, name) for layer in self.layers], list(found.unbind()), momentum)
        counts = [cast(Tensor, layer.num_batches_tracked) for layer in self.layers]
        torch._foreach_add_(counts[:1] if shared else counts, m if shared else 1)


def plain_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Do what `GroupNorm` does, in operations that torch compiles into few kernels, forward and backward."""
    groups = grouped(x, len(weight)).to(weight.dtype)
    var, mean = torch.var_mean(groups, [1, *range(3, groups.dim())], correction=0)
    scale = over(weight * torch.rsqrt(var + eps), x.dim())
    y = (groups - over(mean, x.dim())) * scale + over(bias, x.dim())
    return y.flatten(0, 1).to(x.dtype), mean, var


class GroupNorm(torch.autograd.Function):
    """Normalise each group by its own mean and variance, then scale and shift it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """Do it.

        Args:
            ctx: of autograd.
            x: (m·B, C, …).
            weight: (m, C).
            bias: (m, C).
            eps: added to the variance.

        Returns:
            What x becomes, and the groups' means and variances, (m, C) each.
        """
        m = len(weight)
        with torch.autocast(x.device.type, enabled=False):
            groups = grouped(x, m)  # (m, B, C, …)
            ctx.dims = [1, *range(3, groups.dim())]
            var, mean = torch.var_mean(groups.to(weight.dtype), ctx.dims, correction=0)
            scale = weight * torch.rsqrt(var + eps)
            y = times_plus(x, scale, bias - mean * scale)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(var + eps))
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *unused: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Give the gradients of x, weight and bias."""
        x, weight, mean, inverse = ctx.saved_tensors
        m, values = len(weight), x.numel() // weight.numel()
        with torch.autocast(x.device.type, enabled=False):
            dy, normal = dy.to(weight.dtype), times_plus(x.to(weight.dtype), inverse, -mean * inverse)
            d_bias = grouped(dy, m).sum(ctx.dims)
            d_weight = grouped(dy * normal, m).sum(ctx.dims)
            scale = weight * inverse
            dx = grouped(times_plus(dy, scale, -scale * d_bias / values), m)
            dx.addcmul_(grouped(normal, m), over(-scale * d_weight / values, x.dim()))
        return dx.flatten(0, 1).to(x.dtype), d_weight, d_bias, None


def times_plus(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Give x · scale + shift in the precision and layout of x, computed in that of the scale; without gradients.

    Args:
        x: (m·B, C, …).
        scale: (m, C).
        shift: (m, C).
    """
    y = torch.empty_like(x)
    groups, out = (grouped(t, len(scale)) for t in (x, y))
    torch.addcmul(over(shift, x.dim()), groups, over(scale, x.dim()), out=out)
    return y


def member_forward(layers: Sequence[nn.Module]) -> LayerForward:
    """Choose how a layer acts on groups that each have one of these.

    On a CPU a kernel a group is faster than broadcasting; on a GPU few kernels are.
    """
    if isinstance(layers[0], nn.Linear):
        return Linears(cast(Sequence[nn.Linear], layers))
    if isinstance(layers[0], BATCH_NORMS) and layers[0].weight.is_cuda:
        return MemberBatchedNorm(cast(Sequence[_BatchNorm], layers))
    return Each(layers)
