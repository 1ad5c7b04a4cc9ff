"""The landscape around a method's networks: scores along a path and on a plane, and how flat the loss is.

Nothing of the method is changed, and nothing is counted as its cost.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, product
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from data import Passes
from harness.evaluation.weight_space import Points, Tally, at_most, distances, single, tally, vectors
from harness.studies.extra_measures import Flatness, Measures, PathThrough, Plane
from methods import Anchor, Batch, Method
from methods.core.random_streams import CPU

Array = np.ndarray[tuple[int, ...], np.dtype[Any]]

ON_PATH = 61
"""Points of the path that a plane shows."""


class LeftOutError(Exception):
    """Something that a method cannot give; says why."""


@dataclass(frozen=True)
class Examples:
    """The data that the landscape is measured on.

    Attributes:
        test: each test example once.
        train: each training example once, not augmented.
        statistics: training data on which running statistics are re-estimated, the same at each pass.
        corrupted: gives each test example once under a corruption of a severity; None for text.
    """

    test: Passes
    train: Passes
    statistics: Iterable[Batch]
    corrupted: Callable[[str, int], Iterable[Batch]] | None = None


@dataclass
class Landscape:
    """What was found.

    Attributes:
        metrics: name → value.
        arrays: "path/accuracy" → values.
        left_out: what the method cannot give → why.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """What the arrays belong to, such as "path" and "plane"."""
        return sorted({name.partition("/")[0] for name in self.arrays})

    def save_arrays(self, file: BinaryIO) -> None:
        """Write the arrays as .npz."""
        np.savez_compressed(file, **cast(dict[str, Any], self.arrays))


@torch.no_grad()
def explore(method: Method, asked: Measures, examples: Examples, plain: Anchor | None = None) -> Landscape:
    """Measure what a study asks for, as far as the method can give it.

    Among the metrics are how far the two ends of a path are apart, path/l2, path/cosine and path/squared_cosine.

    Args:
        method: prepared for prediction.
        asked: by the study.
        examples: the data.
        plain: the network of plain training in the same cell, the third anchor of a plane that asks for it.
    """
    method.eval()
    found = Landscape()
    if asked.training_loss:
        total = tally(method.predict, examples.train)
        found.metrics |= total.named("training", nll="loss")
    makers: dict[str, Callable[[], dict[str, Array]]] = {}
    if asked.path:
        makers["path"] = partial(path, method, asked.path, examples)
    if asked.plane:
        makers["plane"] = partial(plane, method, asked.plane, examples, plain)
    if asked.flatness:
        makers["flatness"] = partial(flatness, method, asked.flatness, examples.train)
    for name, make in makers.items():
        try:
            found.arrays |= {f"{name}/{key}": array for key, array in make().items()}
        except LeftOutError as error:
            found.left_out[name] = str(error)
    if "path" in found.names:
        apart = distances(method.net, islice(method.anchors(), 2))
        found.metrics |= {f"path/{name}": value for name, value in apart.items()}
    return found


def path(method: Method, asked: PathThrough, examples: Examples) -> dict[str, Array]:
    """Score the networks P(α) on a path, and the pairs P(α), P(1 − α) together.

    Returns:
        alpha, accuracy (%), nll (nats), pair_accuracy, pair_nll, and logit_pair_accuracy and logit_pair_nll, where
        the pair's logits are averaged in place of its probabilities: (points,) each. Under a corruption the same, as
        fog_3_accuracy.

    Raises:
        LeftOutError: if the method has one anchor.

    References:
        Wortsman et al., Learning neural network subspaces, ICML 2021, section 4.2.
    """
    places = np.linspace(-asked.margin, 1.0 + asked.margin, asked.points)
    shares = [method.along(float(alpha)) for alpha in places]
    anchors = list(islice(method.anchors(), len(shares[0])))
    if len(anchors) < len(shares[0]):
        raise LeftOutError(f"a path runs between {len(shares[0])} networks, and there is {len(anchors)}")
    points = Points(method, anchors, examples.statistics)
    sets: dict[str, Callable[[], Iterable[Batch]]] = {"": lambda: examples.test}
    for name, severity in product(asked.corruptions, asked.severities if asked.corruptions else ()):
        if examples.corrupted is None:
            raise LeftOutError("there are no corrupted test examples of text")
        sets[f"{name}_{severity}_"] = partial(examples.corrupted, name, severity)
    tallies: dict[str, list[Tally]] = defaultdict(lambda: [Tally() for _ in places])
    for i in range((len(places) + 1) // 2):
        both = list(dict.fromkeys((i, len(places) - 1 - i)))  # the places α and 1 − α
        networks = [points.at(shares[k]) for k in both]
        for which, batches in sets.items():
            for x, y in batches():
                logits = torch.stack([method(x, weights) for weights in networks])  # (1 or 2, B, C)
                for k, own in zip(both, logits, strict=True):
                    tallies[which][k].add(own[None], y)
                    tallies[f"{which}pair_"][k].add(logits, y)
                    tallies[f"{which}logit_pair_"][k].add(logits, y, logit_average=True)
    found = {"alpha": places}
    for prefix, each in tallies.items():
        found[f"{prefix}accuracy"] = np.array([place.accuracy for place in each])
        found[f"{prefix}nll"] = np.array([place.nll for place in each])
    return found


def plane(method: Method, asked: Plane, examples: Examples, plain: Anchor | None) -> dict[str, Array]:
    """Score the networks on the plane through three anchors.

    The first anchor is the origin, the second one lies on the x axis; axes are orthonormal, in the space of the weights
    without BatchNorm's, or of embeddings.

    Returns:
        x, (n,), and y, (n,), of the grid; anchors, (3, 2), and their names, (3,); space, (1,): "weights" or
        "embeddings"; path, (61, 2), from the first to the second one; accuracy (%), nll and, of training examples,
        train_nll (nats), (n, n) each, a row for each y.

    Raises:
        LeftOutError: if the method has no three anchors, or they lie on one line.

    References:
        Garipov et al., Loss surfaces, mode connectivity and fast ensembling of DNNs, NeurIPS 2018, and its code.
    """
    anchors = list(islice(method.anchors(), 3))
    if asked.third and len(anchors) == 2:
        assert plain is not None
        anchors.append(plain)
    if len(anchors) < 3:
        raise LeftOutError(f"a plane goes through three networks, and there {'is 1' if len(anchors) < 2 else 'are 2'}")
    corners = coordinates(vectors(method.net, anchors))
    xs, ys = (
        np.linspace(low - asked.margin * (high - low), high + asked.margin * (high - low), asked.points)
        for low, high in zip(corners.min(0), corners.max(0), strict=True)
    )
    points = Points(method, anchors, examples.statistics)
    scores = score_grid(points, [[shares_at(x, y, corners) for x in xs] for y in ys], asked, examples)
    shares = np.array([method.along(alpha) for alpha in np.linspace(0, 1, ON_PATH)])[:, :3]
    described = {
        "anchors": corners,
        "names": np.array(["1", "2", "3" if anchors[-1] is not plain else "sgd"]),
        "space": np.array(["weights" if any(anchor.embedding is None for anchor in anchors) else "embeddings"]),
        "path": shares @ corners[: shares.shape[1]],
    }
    return {"x": xs, "y": ys, **described, **scores}


def score_grid(points: Points, grid: list[list[list[float]]], asked: Plane, examples: Examples) -> dict[str, Array]:
    """Score the networks whose shares of the anchors are given, row by row: accuracy (%), nll, train_nll (nats)."""
    test = list(at_most(examples.test, asked.examples))
    train = list(at_most(examples.train, asked.train_examples)) if asked.train_examples else []
    rows: dict[str, list[list[float]]] = {"accuracy": [], "nll": [], **({"train_nll": []} if train else {})}
    for line in grid:
        for each in rows.values():
            each.append([])
        for shares in line:
            network = single(points.method, points.at(shares))
            total = tally(network, test)
            rows["accuracy"][-1].append(total.accuracy)
            rows["nll"][-1].append(total.nll)
            if train:
                rows["train_nll"][-1].append(tally(network, train).nll)
    return {name: np.array(values) for name, values in rows.items()}


def coordinates(places: Sequence[Tensor]) -> Array:
    """Give the coordinates of three vectors (D,) in their plane by Gram and Schmidt, (3, 2).

    Raises:
        LeftOutError: if they lie on one line.
    """
    origin = places[0].double()
    u, v = (other.double() - origin for other in places[1:])
    length = u.norm().item()
    if length:
        along = (u @ v).item() / length
        across = (v - u * (along / length)).norm().item()
        if across > 1e-6 * v.norm().item():
            return np.array([[0.0, 0.0], [length, 0.0], [along, across]])
    raise LeftOutError("without BatchNorm's weights, the three networks lie on one line")


def shares_at(x: float, y: float, corners: Array) -> list[float]:
    """Give the shares of three anchors at a point of their plane; they sum to one."""
    third = y / corners[2, 1]
    second = (x - third * corners[2, 0]) / corners[1, 0]
    return [float(1.0 - second - third), float(second), float(third)]


def flatness(method: Method, asked: Flatness, train: Passes) -> dict[str, Array]:
    """Measure how much the training loss rises when noise is added to all weights of a network.

    The noise on a weight w_i is drawn from N(0, |w_i|²σ²), for every weight, BatchNorm's scale and shift too; running
    statistics stay. Each draw is used at every σ. The loss is the negative log-likelihood, of each member by itself,
    and the mean is taken over members.

    Returns:
        sigma, (S,); loss, (1,), without noise; increase, (S, draws).

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, section 3.2 and Figure 3; Pittorino et
        al., Entropic gradient descent algorithms and wide flat minima, ICLR 2021 (the local energy).
    """
    batches = at_most(train, asked.examples)
    buffers = {name for name, _ in method.net.named_buffers()}
    loss, losses, members = 0.0, np.zeros((len(asked.sigmas), asked.draws)), 0
    for k, weights in enumerate(method.members()):
        own = tally(single(method, weights), batches).nll
        loss, members = loss + own, members + 1
        for draw in range(asked.draws):
            generator = method.generator(f"flatness: draw {draw} of member {k}")
            noise = {
                name: torch.randn(value.shape, generator=generator, device=CPU).to(value)
                for name, value in weights.items()
                if name not in buffers
            }
            for i, sigma in enumerate(asked.sigmas):
                noisy = {name: value * (1 + sigma * noise[name]) for name, value in weights.items() if name in noise}
                losses[i, draw] += tally(single(method, {**weights, **noisy}), batches).nll if sigma else own
    return {"sigma": np.array(asked.sigmas), "loss": np.array([loss]) / members, "increase": (losses - loss) / members}
