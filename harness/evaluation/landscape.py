"""The loss landscape around a method's networks: scores along a path and on a plane, and the flatness of the loss.

The method is not changed, and the measurements do not count as its cost.
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

from data import Minibatches
from harness.evaluation.weight_space import (
    AccuracyAndNll,
    AnchorCombinations,
    accuracy_and_nll,
    anchor_distances,
    anchor_vectors,
    single_network_predictor,
    subsample,
)
from harness.studies.extra_measurements import ExtraMeasurements, FlatnessMeasurement, PathMeasurement, PlaneMeasurement
from methods import Anchor, Batch, Method
from methods.core.random_streams import CPU

Array = np.ndarray[tuple[int, ...], np.dtype[Any]]

ROUNDING = 0.05
"""The largest difference, relative to the largest logit, between members fused and one by one, in bfloat16 too."""
PLANE_PATH_POINTS = 61
"""Number of points of the path that is drawn on a plane."""


class UnavailableError(Exception):
    """A method cannot provide a measurement. The message gives the reason."""


@dataclass(frozen=True)
class LandscapeData:
    """The data on which the landscape is measured.

    Attributes:
        test: each test example once.
        train: each training example once, not augmented.
        statistics: training data for re-estimating running statistics, the same at each pass.
        corrupted: returns each test example once under a corruption of a given severity; None for text.
    """

    test: Minibatches
    train: Minibatches
    statistics: Iterable[Batch]
    corrupted: Callable[[str, int], Iterable[Batch]] | None = None


@dataclass
class Landscape:
    """The measured landscape.

    Attributes:
        metrics: name → value.
        arrays: name → values, such as "path/accuracy".
        unavailable: measurement that the method cannot provide → reason.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The measurements that the arrays belong to, such as "path" and "plane"."""
        return sorted({name.partition("/")[0] for name in self.arrays})

    def save_arrays(self, file: BinaryIO) -> None:
        """Write the arrays to an .npz file."""
        np.savez_compressed(file, **cast(dict[str, Any], self.arrays))


@torch.no_grad()
def measure_landscape(
    method: Method, asked: ExtraMeasurements, examples: LandscapeData, plain: Anchor | None = None
) -> Landscape:
    """Make the measurements that a study requests, as far as the method can provide them.

    The metrics include the distances between the ends of a path: path/l2, path/cosine and path/squared_cosine.

    Args:
        method: prepared for prediction.
        asked: requested measurements.
        examples: the data.
        plain: network of plain training with the same seed, for a plane that requests it as third anchor.
    """
    method.eval()
    found = Landscape()
    reason = differs_from_prediction(method, examples.test) if asked.path or asked.plane or asked.flatness else ""
    if asked.training_loss:
        total = accuracy_and_nll(method.predict, examples.train)
        found.metrics |= total.as_metrics("training", nll="loss")
    makers: dict[str, Callable[[], dict[str, Array]]] = {}
    if asked.path:
        makers["path"] = partial(measure_path, method, asked.path, examples)
    if asked.plane:
        makers["plane"] = partial(measure_plane, method, asked.plane, examples, plain)
    if asked.flatness:
        makers["flatness"] = partial(measure_flatness, method, asked.flatness, examples.train)
    for name, make in makers.items():
        if reason:
            found.unavailable[name] = reason
            continue
        try:
            found.arrays |= {f"{name}/{key}": array for key, array in make().items()}
        except UnavailableError as error:
            found.unavailable[name] = str(error)
    if "path" in found.names:
        apart = anchor_distances(method.net, islice(method.anchors(), 2))
        found.metrics |= {f"path/{name}": value for name, value in apart.items()}
    return found


def differs_from_prediction(method: Method, examples: Iterable[Batch]) -> str:
    """Say in which way the networks of a landscape are not what the method predicts with; "" for none.

    A method may predict with more networks than it has members, such as dropout masks; then its members are measured.
    """
    x, _ = next(iter(examples))
    predicted = method.predict(x)
    of_members = torch.cat([method.predict_with(x, weights) for weights in method.members()])
    if of_members.shape[1:] != predicted.shape[1:]:
        return f"its network gives {tuple(of_members.shape[2:])} numbers where it predicts {tuple(predicted.shape[2:])}"
    if len(of_members) == len(predicted):
        difference = (of_members - predicted).abs().max() / predicted.abs().max().clamp(min=1.0)
        if difference > ROUNDING:
            return "`predict` is not what `predict_with` gives for its members"
    return ""


def measure_path(method: Method, asked: PathMeasurement, examples: LandscapeData) -> dict[str, Array]:
    """Score the networks P(α) on a path, and the ensembles of the pairs P(α), P(1 − α).

    Returns:
        Arrays (points,): alpha, accuracy (%), nll (nats), pair_accuracy, pair_nll, logit_pair_accuracy and
        logit_pair_nll. The logit_pair values average a pair's logits instead of its probabilities. Scores under a
        corruption have a prefix, such as fog_3_accuracy.

    Raises:
        UnavailableError: if the method has only one anchor, or if text is to be corrupted.

    References:
        Wortsman et al., Learning neural network subspaces, ICML 2021, section 4.2.
    """
    alphas = np.linspace(-asked.margin, 1.0 + asked.margin, asked.points)
    coefficients = [method.along(float(alpha)) for alpha in alphas]
    anchors = list(islice(method.anchors(), len(coefficients[0])))
    if len(anchors) < len(coefficients[0]):
        raise UnavailableError(f"a path runs between {len(coefficients[0])} networks, and there is {len(anchors)}")
    combinations = AnchorCombinations(method, anchors, examples.statistics)
    sets: dict[str, Callable[[], Iterable[Batch]]] = {"": lambda: examples.test}
    for name, severity in product(asked.corruptions, asked.severities if asked.corruptions else ()):
        if examples.corrupted is None:
            raise UnavailableError("there are no corrupted test examples of text")
        sets[f"{name}_{severity}_"] = partial(examples.corrupted, name, severity)
    scores: dict[str, list[AccuracyAndNll]] = defaultdict(lambda: [AccuracyAndNll() for _ in alphas])
    for i in range((len(alphas) + 1) // 2):
        both = list(dict.fromkeys((i, len(alphas) - 1 - i)))  # indices of α and 1 − α
        networks = [combinations.weights_at(coefficients[k]) for k in both]
        for which, batches in sets.items():
            for x, y in batches():
                predicted = [method.predict_with(x, weights) for weights in networks]  # one or two of (k, B, C)
                logits = torch.cat(predicted)
                for k, own in zip(both, predicted, strict=True):
                    scores[which][k].add(own, y)
                    scores[f"{which}pair_"][k].add(logits, y)
                    scores[f"{which}logit_pair_"][k].add(logits, y, logit_average=True)
    found = {"alpha": alphas}
    for prefix, each in scores.items():
        found[f"{prefix}accuracy"] = np.array([score.accuracy for score in each])
        found[f"{prefix}nll"] = np.array([score.nll for score in each])
    return found


def measure_plane(
    method: Method, asked: PlaneMeasurement, examples: LandscapeData, plain: Anchor | None
) -> dict[str, Array]:
    """Score the networks on the plane through three anchors.

    The first anchor is the origin, and the second anchor lies on the x axis. The axes are orthonormal in the space of
    weights without BatchNorm's, or of embeddings.

    Returns:
        x, (n,), and y, (n,): coordinates of the grid. anchors, (3, 2), and their names, (3,). space, (1,): "weights" or
        "embeddings". path, (61, 2): from the first to the second anchor. accuracy (%), nll and, for training examples,
        train_nll (nats): (n, n) each, one row for each y.

    Raises:
        UnavailableError: if the method has fewer than three anchors, or they lie on one line.

    References:
        Garipov et al., Loss surfaces, mode connectivity and fast ensembling of DNNs, NeurIPS 2018, and its code.
    """
    anchors = list(islice(method.anchors(), 3))
    if asked.third and len(anchors) == 2:
        assert plain is not None
        anchors.append(plain)
    if len(anchors) < 3:
        raise UnavailableError(
            f"a plane goes through three networks, and there {'is 1' if len(anchors) < 2 else 'are 2'}"
        )
    corners = plane_coordinates(anchor_vectors(method.net, anchors))
    xs, ys = (
        np.linspace(low - asked.margin * (high - low), high + asked.margin * (high - low), asked.points)
        for low, high in zip(corners.min(0), corners.max(0), strict=True)
    )
    combinations = AnchorCombinations(method, anchors, examples.statistics)
    scores = score_grid(combinations, [[anchor_coefficients(x, y, corners) for x in xs] for y in ys], asked, examples)
    coefficients = np.array([method.along(alpha) for alpha in np.linspace(0, 1, PLANE_PATH_POINTS)])[:, :3]
    described = {
        "anchors": corners,
        "names": np.array(["1", "2", "3" if anchors[-1] is not plain else "sgd"]),
        "space": np.array(["weights" if any(anchor.embedding is None for anchor in anchors) else "embeddings"]),
        "path": coefficients @ corners[: coefficients.shape[1]],
    }
    return {"x": xs, "y": ys, **described, **scores}


def score_grid(
    combinations: AnchorCombinations, grid: list[list[list[float]]], asked: PlaneMeasurement, examples: LandscapeData
) -> dict[str, Array]:
    """Score the networks of a grid: accuracy (%), nll, train_nll (nats).

    Args:
        combinations: makes the networks.
        grid: coefficients of the anchors for each network, row by row.
        asked: the requested plane.
        examples: the data.
    """
    test = list(subsample(examples.test, asked.examples))
    train = list(subsample(examples.train, asked.train_examples)) if asked.train_examples else []
    rows: dict[str, list[list[float]]] = {"accuracy": [], "nll": [], **({"train_nll": []} if train else {})}
    for line in grid:
        for each in rows.values():
            each.append([])
        for coefficients in line:
            network = single_network_predictor(combinations.method, combinations.weights_at(coefficients))
            total = accuracy_and_nll(network, test)
            rows["accuracy"][-1].append(total.accuracy)
            rows["nll"][-1].append(total.nll)
            if train:
                rows["train_nll"][-1].append(accuracy_and_nll(network, train).nll)
    return {name: np.array(values) for name, values in rows.items()}


def plane_coordinates(vectors: Sequence[Tensor]) -> Array:
    """Return the coordinates of three vectors (D,) in their plane, (3, 2), by Gram–Schmidt orthogonalization.

    Raises:
        UnavailableError: if the vectors lie on one line.
    """
    origin = vectors[0].double()
    u, v = (other.double() - origin for other in vectors[1:])
    length = u.norm().item()
    if length:
        along = (u @ v).item() / length
        across = (v - u * (along / length)).norm().item()
        if across > 1e-6 * v.norm().item():
            return np.array([[0.0, 0.0], [length, 0.0], [along, across]])
    raise UnavailableError("without BatchNorm's weights, the three networks lie on one line")


def anchor_coefficients(x: float, y: float, corners: Array) -> list[float]:
    """Return the coefficients of three anchors at a point (x, y) of their plane. They sum to one."""
    third = y / corners[2, 1]
    second = (x - third * corners[2, 0]) / corners[1, 0]
    return [float(1.0 - second - third), float(second), float(third)]


def measure_flatness(method: Method, asked: FlatnessMeasurement, train: Minibatches) -> dict[str, Array]:
    """Measure how much the training loss increases when noise is added to all weights of a network.

    The noise on a weight w_i is drawn from N(0, |w_i|²σ²) for all weights, including BatchNorm's scale and shift.
    Running statistics stay. The same noise samples are used for every σ. The loss is the negative log-likelihood of
    each single member, averaged over members.

    Returns:
        sigma, (S,); loss without noise, (1,); increase of the loss, (S, draws).

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, section 3.2 and Figure 3; Pittorino et
        al., Entropic gradient descent algorithms and wide flat minima, ICLR 2021 (the local energy).
    """
    batches = subsample(train, asked.examples)
    buffers = {name for name, _ in method.net.named_buffers()}
    loss, losses, members = 0.0, np.zeros((len(asked.sigmas), asked.draws)), 0
    for k, weights in enumerate(method.members()):
        own = accuracy_and_nll(single_network_predictor(method, weights), batches).nll
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
                losses[i, draw] += (
                    accuracy_and_nll(single_network_predictor(method, {**weights, **noisy}), batches).nll
                    if sigma
                    else own
                )
    with np.errstate(invalid="ignore"):  # of an infinite loss there is no increase, and the evaluation says so
        increase = (losses - loss) / members
    return {"sigma": np.array(asked.sigmas), "loss": np.array([loss]) / members, "increase": increase}
