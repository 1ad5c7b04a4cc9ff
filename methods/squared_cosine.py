"""The squared cosine between two lists of tensors, and its gradient in few operations."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def squared_cosine(a: Iterable[Tensor], b: Iterable[Tensor]) -> Tensor:
    """Give cos² of the angle between two lists of tensors of the same shapes, each as one vector: a scalar."""
    return SquaredCosine.apply(*a, *b)  # type: ignore[no-any-return]


def dot(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Tensor:
    """Give the scalar product of two lists of tensors, whatever their layout in memory."""
    return torch.stack([product.sum() for product in torch._foreach_mul(a, b)]).sum()


class SquaredCosine(torch.autograd.Function):
    """cos² = (a·b)² / (a·a b·b); its gradient by a is 2 (a·b) / (a·a b·b) · (b − (a·b / a·a) a)."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        """Give cos² of the first and the second half of the tensors."""
        a, b = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        ab, aa, bb = dot(a, b), dot(a, a), dot(b, b)
        ctx.save_for_backward(ab, aa, bb, *tensors)
        return ab.square() / (aa * bb)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        """Give the gradients by all tensors."""
        ab, aa, bb, *tensors = ctx.saved_tensors
        a, b = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        scale = 2 * gradient * ab / (aa * bb)
        by_a = torch._foreach_sub(torch._foreach_mul(b, scale), torch._foreach_mul(a, scale * ab / aa))
        by_b = torch._foreach_sub(torch._foreach_mul(a, scale), torch._foreach_mul(b, scale * ab / bb))
        return *by_a, *by_b
