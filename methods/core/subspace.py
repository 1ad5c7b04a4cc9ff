"""Base classes of learned subspaces: lines, curves and simplexes in weight space whose every point is trained."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import compress
from typing import Annotated, Any, ClassVar, Literal

import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from methods.core.batch_norm import reestimate_each
from methods.core.declarations import About, Anchor, Batch, Sharing, Weights
from methods.core.layers import NamedBuffers, carries_state, copy_module, last_layer
from methods.core.method import Method
from methods.core.random_streams import CPU, MakeNet
from methods.core.recipe import Recipe

Alpha = float | Sequence[float] | Tensor
"""The coordinates α of a point: () in a line or curve, (m,) in a simplex; (layers, …) if each layer has its own."""
SUBSPACE_SHARING = Sharing(prediction=frozenset({"prediction", "points", "alpha"}), prepared=("statistics",))


class Subspace(Method):
    """Train all networks of a subspace: each minibatch runs through the network at a random point.

    The subspace is defined by m networks ω_1 … ω_m, which are drawn independently. A penalty β·cos² keeps them apart. A
    subclass defines how the coordinates α of a point mix them. The scale and shift of BatchNorm are mixed too. Its
    running statistics are re-estimated at every point that predicts.

    Attributes:
        m: the number of networks that define the subspace; a subclass sets it before `Subspace.__init__`.

    References:
        Wortsman et al., Learning neural network subspaces, ICML 2021, Algorithm 1, Equations 1–5, appendices B and D.
    """

    space: ClassVar[dict[str, BaseDistribution]] = {
        "beta": FloatDistribution(0.0, 4.0),
        "layerwise": CategoricalDistribution([False, True]),
        "samples": IntDistribution(1, 4),
    }
    about: ClassVar[About] = About(
        "learned subspaces",
        "Wortsman et al. 2021",
        passes="2 if prediction == 'pair' else points if prediction == 'random' else 1",
        prediction="2 if prediction == 'pair' else points if prediction == 'random' else 1",
    )

    m: int

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        alphas: Sequence[Alpha],
        *,
        beta: Annotated[float, Field(ge=0)] = 1.0,
        layerwise: bool = False,
        samples: Annotated[int, Field(ge=1)] = 1,
        lam: Annotated[float, Field(ge=0)] = 0.0,
        init: Literal["independent", "point"] = "independent",
        decay: Literal["endpoints", "point"] = "endpoints",
        prediction: Literal["midpoint", "pair", "random", "point"] = "midpoint",
        points: Annotated[int, Field(ge=1)] = 6,
    ) -> None:
        """Draw the m networks.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            alphas: the coordinates of the points that predict, unless these are random.
            beta: strength of the penalty on the squared cosine between two random networks of the m, over all weights
                but BatchNorm's as one vector (Equation 5).
            layerwise: every layer with parameters draws coordinates of its own (section 3), also for random points that
                predict.
            samples: s, the number of groups into which a minibatch is split, each of which runs through a point of its
                own (appendix B). Group sizes differ by at most one, and every example counts equally. A minibatch of
                fewer than 2s examples makes fewer groups, of at least two examples each.
            lam: λ, strength of the penalty on the similarity of two random groups' features (Equation 13). A minibatch
                of one group has no such penalty.
            init: the m networks start from "independent" draws, or all from one "point" (appendix E).
            decay: the recipe's weight decay applies to all m networks, the "endpoints" (as in the authors' code), or to
                the "point" that a minibatch runs through (as in the code of Garipov et al., 2018).
            prediction: predict with the "midpoint"; with the "pair" of points alpha and 1 − alpha; with `points`
                "random" points, drawn as in training (Figure 11); or with the "point" alpha.
            points: the number of random points.

        Raises:
            ValueError: for hyperparameters that contradict each other or have no effect.
        """
        if lam and samples < 2:
            raise ValueError(f"lam={lam} compares groups of a minibatch; it needs samples of 2 or more, not {samples}")
        if samples > 1 and 2 * samples > recipe.batch_size:
            raise ValueError(f"samples={samples} groups of two do not fit into minibatches of {recipe.batch_size}")
        if prediction != "random" and points != 6:
            raise ValueError(f"points={points} is the number of random points; it needs prediction=random")
        super().__init__(make_net, recipe)
        if samples > 1 and carries_state(self.net):
            raise ValueError(
                f"samples={samples} runs groups of a minibatch one after the other, but this architecture carries its "
                "state from one minibatch to the next: use samples=1"
            )
        self.start_epoch = 0
        self.divisible = samples == 1
        self.others = nn.ModuleList(
            make_net() if init == "independent" else copy_module(self.net) for _ in range(1, self.m)
        )  # ω_2 … ω_m
        self.beta, self.samples, self.lam, self.decay = beta, samples, lam, decay
        self.names = [name for name, _ in self.net.named_parameters()]
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in self.names))
        self.layer_of = [layers.index(name.rpartition(".")[0]) for name in self.names]
        self.penalised = [not isinstance(self.net.get_submodule(layers[i]), _BatchNorm) for i in self.layer_of]
        self.shape = (len(layers),) if layerwise else ()
        self.alpha_draws, self.pair_draws = self.generator("alpha"), self.generator("pair")
        if prediction == "random":
            generator = self.generator("random points")
            alphas = [self.draw_alpha(generator) for _ in range(points)]
        self.prediction_alphas = list(alphas)
        self.statistics = nn.ModuleList(NamedBuffers(self.net.named_buffers()) for _ in self.prediction_alphas)

    # --- the subspace --------------------------------------------------------------------------------------

    def draw_alpha(self, generator: torch.Generator) -> Tensor:
        """Draw the coordinates of a uniformly random point; if layerwise, one point for every layer: (*shape, …)."""
        raise NotImplementedError

    def coefficients(self, alpha: Tensor) -> Tensor:
        """Return the coefficients of ω_1 … ω_m at a point, (*shape, m)."""
        raise NotImplementedError

    def distance(self, alpha: Tensor, other: Tensor) -> float:
        """Return the distance |α_j − α_k| of two points (Equation 13)."""
        raise NotImplementedError

    def omegas(self) -> list[list[Tensor]]:
        """Return the parameters of ω_1 … ω_m; ω_1 is `net`."""
        return [list(net.parameters()) for net in (self.net, *self.others)]

    def weights_at(self, alpha: Alpha) -> dict[str, Tensor]:
        """Return the parameters P(α) of the network at a point, inside or outside the subspace, by name."""
        coordinates = torch.as_tensor(alpha, dtype=torch.float64, device=CPU)
        coefficients = self.coefficients(coordinates).expand(max(self.layer_of) + 1, -1)[
            self.layer_of
        ]  # (parameters, m)
        first, *others = (
            torch._foreach_mul(omega, own) for omega, own in zip(self.omegas(), coefficients.T.tolist(), strict=True)
        )
        for other in others:
            first = torch._foreach_add(first, other)
        return dict(zip(self.names, first, strict=True))

    # --- training ------------------------------------------------------------------------------------------

    def param_groups(self) -> list[dict[str, Any]]:
        """Return one group of all m networks, without weight decay if that is part of the loss."""
        weight_decay = self.recipe.weight_decay if self.decay == "endpoints" else 0.0
        return [self.group(self.named_parameters(), weight_decay)]

    def begin_epoch(self, epoch: int) -> None:
        """Start the epoch's random streams of points and pairs."""
        super().begin_epoch(epoch)
        self.alpha_draws, self.pair_draws = self.generator("alpha"), self.generator("pair")

    def loss(self, x: Tensor, y: Tensor, weights: Weights | None = None) -> Tensor:
        """Return the loss at random points, or with `weights`, plus the penalty."""
        loss = self.loss_at_random_points(x, y) if weights is None else self.loss_at(x, y, weights)
        if self.beta:
            omegas = self.omegas()
            j, k = self.draw_pair(self.m)
            vectors = (compress(omegas[i], self.penalised) for i in (j, k))
            loss = loss + self.beta * squared_cosine(*vectors)
        return loss

    def loss_at(self, x: Tensor, y: Tensor, weights: Weights) -> Tensor:
        """Return the loss of one network, plus its weight decay if that is part of the loss."""
        loss = super().loss(x, y, weights)
        if self.decay == "point" and self.recipe.weight_decay:
            squares = torch.stack([weights[name].square().sum() for name in self.names])
            loss = loss + 0.5 * self.recipe.weight_decay * squares.sum()
        return loss

    def loss_at_random_points(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of the minibatch's groups, each run through a random point (appendix B)."""
        count = max(min(self.samples, len(x) // 2), 1)
        alphas = [self.draw_alpha(self.alpha_draws) for _ in range(count)]
        groups = zip(x.tensor_split(count), y.tensor_split(count), alphas, strict=True)
        recorded_layer = last_layer(self.net) if self.lam else None
        with recorded_inputs(self.net, recorded_layer) as features:
            losses = [self.loss_at(xs, ys, self.weights_at(alpha)) * (len(xs) / len(x)) for xs, ys, alpha in groups]
        loss = losses[0] if count == 1 else torch.stack(losses).sum()
        if self.lam and count > 1:
            j, k = self.draw_pair(count)
            # Deviation: the paper does not say how features of different examples are compared. As in the authors'
            # code, a group's features are one vector. Of the larger of two groups we leave the last example out.
            size = min(len(features[j]), len(features[k]))
            similarity = squared_cosine([features[j][:size].float()], [features[k][:size].float()])
            loss = loss + self.lam * self.distance(alphas[j], alphas[k]) * similarity
        return loss

    def draw_pair(self, n: int) -> tuple[int, int]:
        """Draw two different numbers below n."""
        j, k = torch.randperm(n, generator=self.pair_draws, device=CPU)[:2].tolist()
        return j, k

    # --- prediction ----------------------------------------------------------------------------------------

    def members(self) -> list[dict[str, Tensor]]:
        """Return the networks at the points that predict, each with its own running statistics."""
        pairs = zip(self.prediction_alphas, self.statistics, strict=True)
        return [{**self.weights_at(alpha), **statistics.named()} for alpha, statistics in pairs]  # type: ignore[operator]

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Re-estimate the running statistics at every point that predicts (appendix D.3)."""
        reestimate_each(self, batches, self.members())

    def anchors(self) -> Iterable[Anchor]:
        """Return ω_1 … ω_m, without running statistics."""
        return (Anchor(dict(zip(self.names, omega, strict=True))) for omega in self.omegas())


class PathSubspace(Subspace):
    """A one-dimensional subspace: α is a number, which is 0 and 1 at the ends."""

    def __init__(self, make_net: MakeNet, recipe: Recipe, *, alpha: float = 0.0, **hyperparameters: Any) -> None:
        """Set the coordinate of the pair or point that predicts.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            alpha: the coordinate; 0 is an end, and values below 0 or above 1 lie outside the path.
            hyperparameters: those of `Subspace`.

        Raises:
            ValueError: for `alpha` without a pair or a point.
        """
        prediction = hyperparameters.get("prediction", "midpoint")
        if alpha and prediction not in ("pair", "point"):
            raise ValueError(f"alpha={alpha} is the position of a pair or a point; it needs prediction=pair or point")
        alphas = {"midpoint": [0.5], "pair": [alpha, 1.0 - alpha], "point": [alpha], "random": []}
        super().__init__(make_net, recipe, alphas[prediction], **hyperparameters)

    def draw_alpha(self, generator: torch.Generator) -> Tensor:
        """Draw from U(0, 1)."""
        return torch.rand(self.shape, generator=generator, device=CPU)

    def distance(self, alpha: Tensor, other: Tensor) -> float:
        """Return |α_j − α_k|; if layerwise, its mean over layers (the paper does not say)."""
        return float((alpha - other).abs().mean())

    def along(self, alpha: float) -> list[float]:
        """Return the coefficients of ω_1 … ω_m at a point, the same in all layers."""
        coefficients: list[float] = self.coefficients(torch.tensor(alpha, dtype=torch.float64, device=CPU)).tolist()
        return coefficients


@contextmanager
def recorded_inputs(net: nn.Module, name: str | None) -> Iterator[list[Tensor]]:
    """Record the input of a layer at each call, inside a `with` block.

    Args:
        net: the network.
        name: the name of the layer; None to record nothing.

    Yields:
        A list that grows by one input at each call.
    """
    seen: list[Tensor] = []
    hooks = [net.get_submodule(name).register_forward_pre_hook(lambda _, x: seen.append(x[0]))] if name else []
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def squared_cosine(a: Iterable[Tensor], b: Iterable[Tensor]) -> Tensor:
    """Return cos² of the angle between two lists of tensors with the same shapes, each as one vector; a scalar."""
    return SquaredCosine.apply(*a, *b)  # type: ignore[no-any-return]


def inner_product(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Tensor:
    """Return the inner product of two lists of tensors, whatever their memory layouts."""
    return torch.stack([product.sum() for product in torch._foreach_mul(a, b)]).sum()


class SquaredCosine(torch.autograd.Function):
    """The function cos² = (a·b)² / (a·a b·b), with gradient 2 (a·b) / (a·a b·b) · (b − (a·b / a·a) a) in a."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        """Return cos² between the first and the second half of the tensors."""
        a, b = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        ab, aa, bb = inner_product(a, b), inner_product(a, a), inner_product(b, b)
        ctx.save_for_backward(ab, aa, bb, *tensors)
        return ab.square() / (aa * bb)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients with respect to all tensors."""
        ab, aa, bb, *tensors = ctx.saved_tensors
        a, b = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        scale = 2 * gradient * ab / (aa * bb)
        by_a = torch._foreach_sub(torch._foreach_mul(b, scale), torch._foreach_mul(a, scale * ab / aa))
        by_b = torch._foreach_sub(torch._foreach_mul(a, scale), torch._foreach_mul(b, scale * ab / bb))
        return *by_a, *by_b
