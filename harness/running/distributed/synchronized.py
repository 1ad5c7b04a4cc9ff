"""Layers and a criterion that use the whole minibatch although each rank has only a part of it.

The layers keep the names of parameters and buffers. While the ranks do not train together, they act like the plain
layers, because only rank 0 evaluates.
"""

from typing import Any

import torch
from pydantic import PrivateAttr
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from harness.running.distributed.group import SINGLE_PROCESS, Group
from methods import Recipe
from models.shake_drop import ShakeDrop


def synchronize(net: nn.Module, group: Group) -> nn.Module:
    """Return a network, or a method, in which synchronized layers replace those that use the whole minibatch.

    For a group of one process, nothing is changed.

    Raises:
        ValueError: for a layer of another kind that uses the whole minibatch.
    """
    if group.size == 1 or isinstance(net, SynchronizedBatchNorm | SynchronizedDropout | SynchronizedShakeDrop):
        return net
    if isinstance(net, _BatchNorm) and type(net) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        return SynchronizedBatchNorm(net, group)
    if type(net) is nn.Dropout:
        return SynchronizedDropout(net, group)
    if type(net) is ShakeDrop:
        return SynchronizedShakeDrop(net, group)
    if isinstance(net, _BatchNorm | _DropoutNd | ShakeDrop):
        raise ValueError(
            f"{type(net).__name__} uses the whole minibatch, and ranks cannot synchronize it: train it with --ranks 1"
        )
    for name, layer in net.named_children():
        setattr(net, name, synchronize(layer, group))
    return net


# --- BatchNorm ------------------------------------------------------------------------------------------------


class SynchronizedBatchNorm(_BatchNorm):
    """BatchNorm with the statistics of the whole minibatch in training.

    torch's own `nn.SyncBatchNorm` works only on GPUs.
    """

    def __init__(self, layer: _BatchNorm, group: Group) -> None:
        """Replace a BatchNorm layer, and use its parameters and buffers."""
        super().__init__(layer.num_features, layer.eps, layer.momentum, affine=False, track_running_stats=False)
        self.affine, self.track_running_stats = layer.affine, layer.track_running_stats
        self.weight, self.bias = layer.weight, layer.bias
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        self.num_batches_tracked = layer.num_batches_tracked
        self.training, self.group = layer.training, group

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept an input of any dimension, because the replaced layer fitted its network."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (B, C, …)."""
        if not (self.training and self.group.joint):
            return super().forward(x)
        y, mean, variance, count = Normalization.apply(x, self.weight, self.bias, self.eps, self.group)
        if self.track_running_stats:
            self.track(mean, variance * (count / (count - 1)))
        return y  # type: ignore[no-any-return]

    @torch.no_grad()
    def track(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, in place, towards a minibatch's mean and unbiased variance, (C,) each."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, found in ((self.running_mean, mean), (self.running_var, variance)):
            running.mul_(1 - share).add_(found, alpha=share)


class Normalization(torch.autograd.Function):
    """y = γ (x − μ)/√(v + ε) + β, with mean μ and variance v of the whole minibatch, in float32 at least.

    The ranks exchange count, mean and variance. Those of the whole minibatch are computed from them without the
    cancellation that sums of squares suffer (Chan et al., Updating formulae and a pairwise algorithm for computing
    sample variances, 1979). The gradient by a rank's x is that of the sum of all ranks' losses. The gradients by γ and
    β are those of the rank's own loss.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: Group
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normalize x.

        Args:
            ctx: stores what the backward pass needs.
            x: (B, C, …).
            weight: γ, (C,); None for 1.
            bias: β, (C,); None for 0.
            eps: ε.
            group: the ranks.

        Returns:
            y, of x's type; μ and v, (C,); the number of values per channel, (1,). Only y has a gradient.
        """
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean, variance = torch.batch_norm_update_stats(wide, None, None, 0.0)  # `var_mean` is slow on a CPU
        rows = mean.new_full((1,), x.numel() // x.shape[1])
        shown = group.gather(torch.cat([mean, variance, rows]))
        means, variances, counts = torch.split(shown, [len(mean), len(mean), 1], 1)  # (R, C), (R, C), (R, 1)
        count = counts.sum(0)
        shares = counts / count
        mean = (shares * means).sum(0)
        variance = (shares * (variances + (means - mean).square())).sum(0)
        y = F.batch_norm(x, mean, variance, weight, bias, eps=eps)
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.group, ctx.eps = group, eps
        ctx.mark_non_differentiable(mean, variance, count)
        return y, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by x, γ and β.

        With x̂ = (x − μ)/√(v + ε), the gradient by x is γ/√(v + ε) (dy − mean dy − x̂ mean(x̂ dy)). Its first term is
        the gradient if μ and v were constants. The other two terms have the form of a normalization of x.
        """
        x, weight, mean, variance, count = ctx.saved_tensors
        own = (dy, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True])
        by_x, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(*own)
        if ctx.needs_input_grad[0]:
            mean_product, mean_dy = ctx.group.sum(torch.stack([by_weight, by_bias])) / count  # (C,), (C,)
            scale = (variance + ctx.eps).rsqrt()
            scale = scale if weight is None else scale * weight
            by_x = by_x + F.batch_norm(x, mean, variance, -scale * mean_product, -scale * mean_dy, eps=ctx.eps)
        wanted = zip((by_x, by_weight, by_bias), ctx.needs_input_grad, strict=False)
        return *(gradient if needed else None for gradient, needed in wanted), None, None


# --- randomness -----------------------------------------------------------------------------------------------


class SynchronizedDropout(nn.Dropout):
    """Dropout whose mask is drawn for the whole minibatch, so that the ranks' rows have different random numbers.

    All ranks draw the same mask from generators in the same state, and each uses its own rows. On the CPU, the mask is
    the one that a single process draws, unless the minibatch is tiled, as in BatchEnsemble: then the rows have another
    order. On GPUs this is not guaranteed.
    """

    def __init__(self, layer: nn.Dropout, group: Group) -> None:
        """Replace a dropout layer."""
        super().__init__(layer.p)
        self.training, self.group = layer.training, group

    def forward(self, x: Tensor) -> Tensor:
        """Apply dropout to x, (B, …)."""
        if not (self.training and self.group.joint):
            return super().forward(x)
        rows, whole = own_rows(self.group, len(x))
        last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        ones = torch.ones(whole, *x.shape[1:], dtype=x.dtype, device=x.device)
        ones = ones.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        return x * F.dropout(ones, self.p)[rows]


class SynchronizedShakeDrop(ShakeDrop):
    """ShakeDrop whose factors are drawn for the whole minibatch, like the mask of `SynchronizedDropout`."""

    def __init__(self, layer: ShakeDrop, group: Group) -> None:
        """Replace a ShakeDrop layer."""
        super().__init__(layer.p)
        self.training, self.group = layer.training, group

    def factors(self, examples: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the factors of the whole minibatch, and return those of this rank's rows, (B, 1, 1, 1) each."""
        if not self.group.joint:
            return super().factors(examples, like)
        rows, whole = own_rows(self.group, examples)
        forward, backward = super().factors(whole, like)
        return forward[rows], backward[rows]


def own_rows(group: Group, own: int) -> tuple[slice, int]:
    """Return which rows of the whole minibatch this rank has, and how many rows there are in all.

    Args:
        group: the ranks.
        own: the number of rows that this rank has.
    """
    counts = group.exchange(own)
    first = sum(counts[: group.rank])
    return slice(first, first + own), sum(counts)


# --- the criterion --------------------------------------------------------------------------------------------


class DividedRecipe(Recipe):
    """A recipe whose criterion is weighted by the size of the rank's part of the minibatch."""

    _group: Group = PrivateAttr(default=SINGLE_PROCESS)

    @classmethod
    def of(cls, recipe: Recipe, group: Group) -> Recipe:
        """Return a recipe's version for a group of ranks; for one process, the recipe itself."""
        if group.size == 1:
            return recipe
        made = cls(**recipe.model_dump())
        made._group = group
        return made

    def criterion(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the loss of this rank's rows. Its mean over ranks is the loss of the whole minibatch."""
        loss = super().criterion(logits, y)
        return loss * (self._group.size * len(y) / self.count_examples(y)) if self._group.joint else loss

    def count_examples(self, x: Tensor) -> int:
        """Return the number of examples in the whole minibatch."""
        return sum(self._group.exchange(len(x))) if self._group.joint else len(x)
