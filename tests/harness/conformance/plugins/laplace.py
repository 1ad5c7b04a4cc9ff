"""Last-layer Laplace approximation."""

import math
from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

import torch
from optuna.distributions import BaseDistribution, FloatDistribution
from pydantic import Field
from torch import Tensor

from methods import About, Batch, MakeNet, Method, Recipe, Weights, last_layer


class Laplace(Method):
    """Fit a Kronecker-factored Gaussian to the last layer after training.

    References:
        Daxberger et al., Laplace redux: effortless Bayesian deep learning, NeurIPS 2021.
    """

    about = About("sampling", "Daxberger et al. 2021", passes="1")
    space: ClassVar[dict[str, BaseDistribution]] = {"prior": FloatDistribution(0.01, 100.0, log=True)}
    # Not divisible: `prepare` sums over all examples.

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        prior: Annotated[float, Field(gt=0)] = 1.0,
        prediction: Literal["probit", "samples"] = "probit",
        N: Annotated[int, Field(ge=1)] = 10,
    ) -> None:
        """Use a prior of precision `prior`."""
        super().__init__(make_net, recipe)
        self.prior, self.prediction, self.N = prior, prediction, N
        self.last = last_layer(self.net)
        C, D = self.net.get_parameter(f"{self.last}.weight").flatten(1).shape
        # In the eigenbases of A (features) and G (Hessian of the loss): the precision is N·a⊗g + prior.
        for name, size in (("a", D + 1), ("g", C)):
            self.register_buffer(f"{name}_vectors", torch.eye(size))
            self.register_buffer(f"{name}_values", torch.zeros(size))
        self.register_buffer("examples", torch.zeros(()))

    def features(self, x: Tensor, weights: Weights | None = None) -> tuple[Tensor, Tensor]:
        """Give what goes into the last layer, with a one for the bias, (B, D), and the logits, (B, C)."""
        kept: list[Tensor] = []
        layer = self.net.get_submodule(self.last)
        handle = layer.register_forward_pre_hook(lambda module, args: kept.append(args[0].flatten(1)))
        try:
            logits = self(x, weights)
        finally:
            handle.remove()
        return torch.cat([kept[0], torch.ones_like(kept[0][:, :1])], dim=1), logits

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Fit the covariance with one pass."""
        super().prepare(batches)
        A, G, count = torch.zeros_like(self.a_vectors), torch.zeros_like(self.g_vectors), 0
        for x, _ in batches:
            phi, logits = self.features(x)
            p = logits.softmax(1)
            A += phi.T @ phi
            G += torch.diag(p.sum(0)) - p.T @ p
            count += len(x)
        for name, matrix in (("a", A), ("g", G)):
            values, vectors = torch.linalg.eigh(matrix / count)
            self.get_buffer(f"{name}_values").copy_(values.clamp(min=0))
            self.get_buffer(f"{name}_vectors").copy_(vectors)
        self.examples.fill_(count)

    def predict_with(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """Give logits by the probit approximation (1, B, C), or sampled (N, B, C)."""
        phi, logits = self.features(x, weights)
        variance = 1 / (self.examples * self.a_values[:, None] * self.g_values + self.prior)  # (D, C)
        along = (phi @ self.a_vectors) ** 2 @ variance  # (B, C), in the eigenbasis of G
        if self.prediction == "probit":
            diagonal = along @ (self.g_vectors**2).T
            return (logits / torch.sqrt(1 + math.pi / 8 * diagonal))[None]
        noise = torch.randn(self.N, *along.shape, generator=self.generator("posterior")).to(along)
        return logits + (noise * along.sqrt()) @ self.g_vectors.T
