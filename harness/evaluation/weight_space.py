"""Networks at points between others, how far these are apart, and how well they do."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from data import Minibatches
from harness.evaluation import metrics
from methods import Anchor, Batch, Method
from methods.core.batch_norm import batch_norms, reestimate


class Points:
    """Makes the networks at affine combinations of some anchors of a method.

    All weights are combined, BatchNorm's scale and shift too. Running statistics that all anchors share stay as they
    are, as the rest that they share does; else no point has its own yet, and they are re-estimated at each, with one
    pass over the training data (Wortsman et al., ICML 2021, appendix D.3; Garipov et al., NeurIPS 2018).
    """

    # Deviation: Sacramento et al. do not say which statistics a point between their specialists has (Figures 3 and S2).
    # Those figures are of specialists that share theirs, and there nothing is to be re-estimated.

    def __init__(self, method: Method, anchors: Sequence[Anchor], training: Iterable[Batch]) -> None:
        """Take the anchors.

        Args:
            method: runs its network as `method(x, weights)`, in evaluation mode; nothing of it is changed.
            anchors: one or more.
            training: on which statistics are re-estimated; each iteration is one pass over it.
        """
        self.method, self.training = method, training
        buffers = dict(method.net.named_buffers())
        self.weights = [{n: t for n, t in anchor.weights.items() if n not in buffers} for anchor in anchors]
        given = [{n: t for n, t in anchor.weights.items() if n in buffers} for anchor in anchors]
        self.buffers = buffers | given[0]
        self.shared = all(
            own.get(name) is not None and own[name].data_ptr() == first.data_ptr()
            for name, first in self.buffers.items()
            for own in given
        )

    @torch.no_grad()
    def at(self, shares: Sequence[float]) -> dict[str, Tensor]:
        """Give the network at a point, in tensors of its own.

        Args:
            shares: of the first anchors, which sum to one; the rest have none.
        """
        parts = [(share, weights) for share, weights in zip(shares, self.weights, strict=False) if share]
        point = {
            name: torch.stack([share * weights[name] for share, weights in parts]).sum(0) for name in self.weights[0]
        }
        point |= {name: value.clone() for name, value in self.buffers.items()}
        if not self.shared:
            reestimate(self.method, self.training, point)
        return point


class Tally:
    """Accuracy and negative log-likelihood of predictions that come batch by batch."""

    def __init__(self) -> None:
        """Start from nothing."""
        self.right = self.nats = 0.0
        self.examples = 0
        self.text = False

    def add(self, logits: Tensor, y: Tensor, *, logit_average: bool = False) -> None:
        """Count a batch.

        Args:
            logits: of the members, (K, B, C); of text (K, B, C, T).
            y: classes, (B,); of text (B, T). Those below zero are not counted.
            logit_average: combine members by the mean of their logits, not of their probabilities.
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
        """Nats an example."""
        return self.nats / self.examples

    def named(self, prefix: str, nll: str = "nll") -> dict[str, float]:
        """Give the scores as metrics: accuracy (%), NLL (nats) under the name `nll`, and of text bits per character."""
        found = {f"{prefix}/accuracy": self.accuracy, f"{prefix}/{nll}": self.nll}
        return found | ({f"{prefix}/bpc": metrics.bits_per_character(self.nll)} if self.text else {})


@torch.no_grad()
def tally(predict: Callable[[Tensor], Tensor], batches: Iterable[Batch]) -> Tally:
    """Score members that predict together.

    Args:
        predict: gives their logits, (K, B, C), for images (B, …).
        batches: of the examples, at least one.
    """
    total = Tally()
    for x, y in batches:
        total.add(predict(x), y)
    return total


def single(method: Method, weights: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """Give the function that predicts with one network, (1, B, C)."""
    return lambda x: method(x, weights)[None]


def at_most(passes: Minibatches, examples: int | None) -> Iterable[Batch]:
    """Give so many examples, equally spaced over all of them (a set sorted by class is not cut short), or all."""
    if examples is None or examples >= passes.examples:
        return passes
    chosen = torch.arange(examples) * passes.examples // examples
    found, start = [], 0
    for x, y in passes:
        here = (chosen[(chosen >= start) & (chosen < start + len(x))] - start).to(x.device)
        if len(here):
            found.append((x[here], y[here]))
        start += len(x)
    return found


# --- distances ------------------------------------------------------------------------------------------------


def without_batch_norm(net: nn.Module, weights: Mapping[str, Tensor]) -> list[Tensor]:
    """Give a network's weights without BatchNorm's, and without buffers (Wortsman et al., ICML 2021, appendix D.3)."""
    norms = tuple(f"{name}." for name in batch_norms(net))
    buffers = {name for name, _ in net.named_buffers()}
    return [value for name, value in weights.items() if name not in buffers and not name.startswith(norms)]


def vector(tensors: Iterable[Tensor]) -> Tensor:
    """Join tensors into one vector, (D,)."""
    return torch.cat([value.detach().flatten() for value in tensors])


def vectors(net: nn.Module, anchors: Sequence[Anchor]) -> list[Tensor]:
    """Give the numbers in which distances between anchors are measured, (D,) each.

    They are embeddings if all anchors have one, else weights without BatchNorm's.
    """
    embeddings = [anchor.embedding for anchor in anchors if anchor.embedding is not None]
    if len(embeddings) == len(anchors):
        return [vector(embedding) for embedding in embeddings]
    return [vector(without_batch_norm(net, anchor.weights)) for anchor in anchors]


@torch.no_grad()
def distances(net: nn.Module, anchors: Iterable[Anchor]) -> dict[str, float]:
    """Give how far anchors are apart, averaged over their pairs; nothing for fewer than two.

    Returns:
        l2: the Euclidean distance; cosine; squared_cosine: the mean of the squares (Wortsman et al., Figure 16).
    """
    found = [each.cpu() for each in vectors(net, list(anchors))]
    pairs = [metrics.weight_distances(torch.stack(pair)) for pair in combinations(found, 2)]
    if not pairs:
        return {}
    values = {name: [pair[name] for pair in pairs] for name in ("l2", "cosine")}
    values["squared_cosine"] = [cosine**2 for cosine in values["cosine"]]
    return {name: math.fsum(each) / len(pairs) for name, each in values.items()}
