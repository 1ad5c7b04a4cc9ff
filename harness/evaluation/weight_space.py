"""Combines networks in weight space, measures distances between them, and scores them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from data import Minibatches
from harness.evaluation import metrics
from methods import Anchor, Batch, Method
from methods.core.batch_norm import batch_norms, reestimate
from methods.core.layers import sum_in_layout


class AnchorCombinations:
    """Makes networks that are affine combinations of some anchors of a method.

    All weights are combined, including BatchNorm's scale and shift. Running statistics that all anchors share are kept.
    Otherwise they are re-estimated for each network with one pass over the training data (Wortsman et al., ICML 2021,
    appendix D.3; Garipov et al., NeurIPS 2018).
    """

    # Deviation: Sacramento et al. do not say which statistics a network between their specialists has (Figures 3 and
    # S2). The specialists of these figures share their statistics, so nothing is re-estimated.

    def __init__(self, method: Method, anchors: Sequence[Anchor], training: Iterable[Batch]) -> None:
        """Store the anchors' weights.

        Args:
            method: predicts with other weights by `predict_with`, in evaluation mode. It is not changed.
            anchors: one anchor or more.
            training: training data for re-estimating statistics; each iteration is one pass.
        """
        self.method, self.training = method, training
        buffers = dict(method.net.named_buffers())
        self.weights = [{n: t for n, t in anchor.weights.items() if n not in buffers} for anchor in anchors]
        given = [{n: t for n, t in anchor.weights.items() if n in buffers} for anchor in anchors]
        self.buffers = buffers | given[0]
        self.shared_statistics = all(
            own.get(name) is not None and own[name].data_ptr() == first.data_ptr()
            for name, first in self.buffers.items()
            for own in given
        )

    @torch.no_grad()
    def weights_at(self, coefficients: Sequence[float]) -> dict[str, Tensor]:
        """Return the weights of one network as new tensors.

        Args:
            coefficients: coefficients of the first anchors, which sum to one. Further anchors have the coefficient 0.
        """
        parts = [(share, weights) for share, weights in zip(coefficients, self.weights, strict=False) if share]
        point = {name: sum_in_layout([share * weights[name] for share, weights in parts]) for name in self.weights[0]}
        point |= {name: value.clone() for name, value in self.buffers.items()}
        if not self.shared_statistics:
            reestimate(self.method, self.training, point)
        return point


class AccuracyAndNll:
    """Accumulates accuracy and negative log-likelihood over batches."""

    def __init__(self) -> None:
        """Start without examples."""
        self.right = self.nats = 0.0
        self.examples = 0
        self.text = False

    def add(self, logits: Tensor, y: Tensor, *, logit_average: bool = False) -> None:
        """Add a batch.

        Args:
            logits: logits of the members, (K, B, C); for text (K, B, C, T).
            y: classes, (B,); for text (B, T). Negative classes are ignored.
            logit_average: average the members' logits instead of their probabilities.
        """
        self.text = y.dim() > 1
        counted = y.flatten() >= 0
        rows = logits.movedim(2, -1).flatten(1, -2)[:, counted]  # (K, n, C)
        classes = y.flatten()[counted]
        log_p = metrics.ensemble(rows, "logits" if logit_average else "probabilities")
        self.nats += metrics.nll(log_p, classes) * len(classes)
        self.right += ((log_p.argmax(-1) == classes) & ~log_p.isnan().any(-1)).sum().item()
        self.examples += len(classes)

    @property
    def accuracy(self) -> float:
        """The share of examples whose likeliest class is right, in %."""
        return 100 * self.right / self.examples

    @property
    def nll(self) -> float:
        """The negative log-likelihood, in nats an example."""
        return self.nats / self.examples

    def as_metrics(self, prefix: str, nll: str = "nll") -> dict[str, float]:
        """Return the scores as metrics: accuracy (%), NLL (nats), and bits per character for text.

        Args:
            prefix: prefix of the metrics' names.
            nll: name of the NLL, such as "loss".
        """
        found = {f"{prefix}/accuracy": self.accuracy, f"{prefix}/{nll}": self.nll}
        return found | ({f"{prefix}/bpc": metrics.bits_per_character(self.nll)} if self.text else {})


@torch.no_grad()
def accuracy_and_nll(predict: Callable[[Tensor], Tensor], batches: Iterable[Batch]) -> AccuracyAndNll:
    """Score the combined prediction of members.

    Args:
        predict: returns the members' logits, (K, B, C), for images (B, …).
        batches: batches of examples, at least one.
    """
    total = AccuracyAndNll()
    for x, y in batches:
        total.add(predict(x), y)
    return total


def single_network_predictor(method: Method, weights: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the function that predicts with one network and gives logits, (k, B, C); k is 1 for most methods."""
    return lambda x: method.predict_with(x, weights)


def subsample(batches: Minibatches, examples: int | None) -> Iterable[Batch]:
    """Return a subset of examples, or all of them.

    The subset is equally spaced, so that it contains all classes even if the examples are sorted by class.

    Args:
        batches: all examples, each once.
        examples: size of the subset; None for all.
    """
    if examples is None or examples >= batches.examples:
        return batches
    chosen = torch.arange(examples) * batches.examples // examples
    found, start = [], 0
    for x, y in batches:
        here = (chosen[(chosen >= start) & (chosen < start + len(x))] - start).to(x.device)
        if len(here):
            found.append((x[here], y[here]))
        start += len(x)
    return found


# --- distances ------------------------------------------------------------------------------------------------


def weights_without_batch_norm(net: nn.Module, weights: Mapping[str, Tensor]) -> list[Tensor]:
    """Return a network's weights without those of BatchNorm and without buffers.

    References:
        Wortsman et al., Learning neural network subspaces, ICML 2021, appendix D.3.
    """
    norms = tuple(f"{name}." for name in batch_norms(net))
    buffers = {name for name, _ in net.named_buffers()}
    return [value for name, value in weights.items() if name not in buffers and not name.startswith(norms)]


def flat_vector(tensors: Iterable[Tensor]) -> Tensor:
    """Flatten and concatenate tensors to one vector, (D,)."""
    return torch.cat([value.detach().flatten() for value in tensors])


def anchor_vectors(net: nn.Module, anchors: Sequence[Anchor]) -> list[Tensor]:
    """Return the vectors between which distances of anchors are measured, (D,) each.

    They are embeddings if all anchors have one, else weights without BatchNorm's.
    """
    embeddings = [anchor.embedding for anchor in anchors if anchor.embedding is not None]
    if len(embeddings) == len(anchors):
        return [flat_vector(embedding) for embedding in embeddings]
    return [flat_vector(weights_without_batch_norm(net, anchor.weights)) for anchor in anchors]


@torch.no_grad()
def anchor_distances(net: nn.Module, anchors: Iterable[Anchor]) -> dict[str, float]:
    """Return the distances between anchors, averaged over their pairs; nothing for fewer than two anchors.

    Returns:
        l2: the Euclidean distance; cosine; squared_cosine: the mean of the squares (Wortsman et al., Figure 16).
    """
    found = [each.cpu() for each in anchor_vectors(net, list(anchors))]
    pairs = [metrics.weight_distances(torch.stack(pair)) for pair in combinations(found, 2)]
    if not pairs:
        return {}
    values = {name: [pair[name] for pair in pairs] for name in ("l2", "cosine")}
    values["squared_cosine"] = [cosine**2 for cosine in values["cosine"]]
    return {name: math.fsum(each) / len(pairs) for name, each in values.items()}
