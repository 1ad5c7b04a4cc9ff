"""Learned subspaces: lines and curves in weight space whose every point is an accurate network."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
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
from methods.core.layers import NamedBuffers, carries_state, last_layer
from methods.core.method import Method
from methods.core.random_streams import CPU, MakeNet
from methods.core.recipe import Recipe

Place = float | Sequence[float] | Tensor
"""α, a point's place in its subspace: () for a line or curve, (m,) for a simplex; if layerwise, (layers, …)."""
SUBSPACE_SHARING = Sharing(prediction=frozenset({"prediction", "points", "alpha"}), prepared=("statistics",))


class Subspace(Method):
    """Train all networks of a subspace: each minibatch is seen by the one at a random place.

    The subspace is given by m networks ω_1 … ω_m, drawn independently; a penalty β·cos² keeps them apart. A
    subclass says how a place α mixes them. BatchNorm's scale and shift are mixed too; its running statistics are
    re-estimated at every point that predicts.

    Attributes:
        m: how many networks give the subspace; set before `__init__`.

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
        places: Sequence[Place],
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
            places: of the points that predict, unless they are random.
            beta: strength of the penalty on the squared cosine between a random pair of the m networks, over all
                weights but BatchNorm's as one vector (Equation 5).
            layerwise: every layer with parameters of its own draws its own place (section 3), for random points of
                prediction too.
            samples: s, into how many groups a minibatch is split, each seen by a point of its own (appendix B).
                Groups differ by at most one example, and every example counts equally. A minibatch of fewer than
                2s examples makes fewer groups, of two at least.
            lam: λ, strength of the penalty on the similarity of a random pair of groups' features (Equation 13); a
                minibatch that makes one group has none.
            init: the m networks start from "independent" draws, or all from one "point" (appendix E).
            decay: the recipe's weight decay pulls all m networks, the "endpoints" (as in the authors' code), or the
                "point" that sees a minibatch (as in the code of Garipov et al., 2018).
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
            make_net() if init == "independent" else deepcopy(self.net) for _ in range(1, self.m)
        )  # ω_2 … ω_m
        self.beta, self.samples, self.lam, self.decay = beta, samples, lam, decay
        self.names = [name for name, _ in self.net.named_parameters()]
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in self.names))
        self.layer_of = [layers.index(name.rpartition(".")[0]) for name in self.names]
        self.penalised = [not isinstance(self.net.get_submodule(layers[i]), _BatchNorm) for i in self.layer_of]
        self.shape = (len(layers),) if layerwise else ()
        self.alphas, self.pairs = self.generator("alpha"), self.generator("pair")
        if prediction == "random":
            generator = self.generator("random points")
            places = [self.draw(generator) for _ in range(points)]
        self.places = list(places)
        self.statistics = nn.ModuleList(NamedBuffers(self.net.named_buffers()) for _ in self.places)

    # --- the subspace --------------------------------------------------------------------------------------

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw a place uniformly; if layerwise, one for every layer: (*shape, …)."""
        raise NotImplementedError

    def coefficients(self, alpha: Tensor) -> Tensor:
        """Give the shares of ω_1 … ω_m at places: (*shape, m)."""
        raise NotImplementedError

    def distance(self, alpha: Tensor, other: Tensor) -> float:
        """Give the distance |α_j − α_k| of two places (Equation 13)."""
        raise NotImplementedError

    def omegas(self) -> list[list[Tensor]]:
        """Give the parameters of ω_1 … ω_m; ω_1 is the network's own."""
        return [list(net.parameters()) for net in (self.net, *self.others)]

    def at(self, alpha: Place) -> dict[str, Tensor]:
        """Give the parameters P(α) of the network at a place, inside the subspace or beyond it."""
        place = torch.as_tensor(alpha, dtype=torch.float64, device=CPU)
        shares = self.coefficients(place).expand(max(self.layer_of) + 1, -1)[self.layer_of]  # (parameters, m)
        first, *others = (
            torch._foreach_mul(omega, share) for omega, share in zip(self.omegas(), shares.T.tolist(), strict=True)
        )
        for other in others:
            first = torch._foreach_add(first, other)
        return dict(zip(self.names, first, strict=True))

    # --- training ------------------------------------------------------------------------------------------

    def param_groups(self) -> list[dict[str, Any]]:
        """Group all m networks; without decay where it is part of the loss."""
        weight_decay = self.recipe.weight_decay if self.decay == "endpoints" else 0.0
        return [self.group(self.named_parameters(), weight_decay)]

    def begin_epoch(self, epoch: int) -> None:
        """Start the epoch's streams of places and pairs."""
        super().begin_epoch(epoch)
        self.alphas, self.pairs = self.generator("alpha"), self.generator("pair")

    def loss(self, x: Tensor, y: Tensor, weights: Weights | None = None) -> Tensor:
        """Give the loss at random places (or at `weights`) plus the penalty."""
        loss = self.loss_at_random(x, y) if weights is None else self.loss_at(x, y, weights)
        if self.beta:
            omegas = self.omegas()
            j, k = self.pair(self.m)
            vectors = (compress(omegas[i], self.penalised) for i in (j, k))
            loss = loss + self.beta * squared_cosine(*vectors)
        return loss

    def loss_at(self, x: Tensor, y: Tensor, weights: Weights) -> Tensor:
        """Give the loss of one network, with its decay where that is part of the loss."""
        loss = super().loss(x, y, weights)
        if self.decay == "point" and self.recipe.weight_decay:
            squares = torch.stack([weights[name].square().sum() for name in self.names])
            loss = loss + 0.5 * self.recipe.weight_decay * squares.sum()
        return loss

    def loss_at_random(self, x: Tensor, y: Tensor) -> Tensor:
        """Give the mean loss of the minibatch's groups, each seen by the network at a random place (appendix B)."""
        count = max(min(self.samples, len(x) // 2), 1)
        alphas = [self.draw(self.alphas) for _ in range(count)]
        groups = zip(x.tensor_split(count), y.tensor_split(count), alphas, strict=True)
        watched = last_layer(self.net) if self.lam else None
        with inputs_of(self.net, watched) as features:
            losses = [self.loss_at(xs, ys, self.at(alpha)) * (len(xs) / len(x)) for xs, ys, alpha in groups]
        loss = losses[0] if count == 1 else torch.stack(losses).sum()
        if self.lam and count > 1:
            j, k = self.pair(count)
            # Deviation: the paper is silent on how features of different examples are compared; as in the authors'
            # code those of a group are one vector. Of groups of unequal size we leave the last example out.
            size = min(len(features[j]), len(features[k]))
            similarity = squared_cosine([features[j][:size].float()], [features[k][:size].float()])
            loss = loss + self.lam * self.distance(alphas[j], alphas[k]) * similarity
        return loss

    def pair(self, n: int) -> tuple[int, int]:
        """Draw two of n without replacement."""
        j, k = torch.randperm(n, generator=self.pairs, device=CPU)[:2].tolist()
        return j, k

    # --- prediction ----------------------------------------------------------------------------------------

    def members(self) -> list[dict[str, Tensor]]:
        """Give the networks at the places of prediction, each with its own statistics."""
        pairs = zip(self.places, self.statistics, strict=True)
        return [{**self.at(alpha), **statistics.named()} for alpha, statistics in pairs]  # type: ignore[operator]

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Re-estimate the running statistics at every point that predicts (appendix D.3)."""
        reestimate_each(self, batches, self.members())

    def anchors(self) -> Iterable[Anchor]:
        """Give ω_1 … ω_m, which have no running statistics."""
        return (Anchor(dict(zip(self.names, omega, strict=True))) for omega in self.omegas())


class Path(Subspace):
    """A subspace of one dimension: places are numbers, 0 and 1 its ends."""

    def __init__(self, make_net: MakeNet, recipe: Recipe, *, alpha: float = 0.0, **hyperparameters: Any) -> None:
        """Take the place `alpha` of the pair or the point that predicts (0 an end; below 0 and above 1 too)."""
        prediction = hyperparameters.get("prediction", "midpoint")
        if alpha and prediction not in ("pair", "point"):
            raise ValueError(f"alpha={alpha} is the place of a pair or a point; it needs prediction=pair or point")
        places = {"midpoint": [0.5], "pair": [alpha, 1.0 - alpha], "point": [alpha], "random": []}
        super().__init__(make_net, recipe, places[prediction], **hyperparameters)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw from U(0, 1)."""
        return torch.rand(self.shape, generator=generator, device=CPU)

    def distance(self, alpha: Tensor, other: Tensor) -> float:
        """Give |α_j − α_k|; if layerwise, its mean over layers (the paper is silent)."""
        return float((alpha - other).abs().mean())

    def along(self, alpha: float) -> list[float]:
        """Give the shares of ω_1 … ω_m at a place, the same in all layers."""
        shares: list[float] = self.coefficients(torch.tensor(alpha, dtype=torch.float64, device=CPU)).tolist()
        return shares


@contextmanager
def inputs_of(net: nn.Module, name: str | None) -> Iterator[list[Tensor]]:
    """Collect what the layer of that name is given, call by call; nothing if there is no name."""
    seen: list[Tensor] = []
    hooks = [net.get_submodule(name).register_forward_pre_hook(lambda _, x: seen.append(x[0]))] if name else []
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


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
