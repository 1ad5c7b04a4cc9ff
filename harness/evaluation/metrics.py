"""Metrics of predictions. Only `ensemble` and `growing_ensembles` average the members' probabilities, in log space.

N is the number of examples, C of classes, K of members. Logarithms are natural. Values are computed in float64, a few
examples at a time, to save memory: 50,000 examples of 1,000 classes by ten members are never copied as a whole. A NaN
prediction counts as wrong. It makes every metric NaN except accuracy and disagreement.
"""

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

CALIBRATION_BINS = 15
"""Number of bins of the expected calibration error."""
CHUNK_VALUES = 2**16
"""Number of values in a chunk: half a megabyte in float64, so that intermediate results stay in the CPU's cache."""
ROUNDING = 1e-12
"""How far a probability that is computed from logits may lie from its exact value: a few units in the last place."""
DECIMALS = 12
"""Decimal places of entropies."""


def apply_in_chunks(function: Callable[..., Tensor], predictions: Tensor, *others: Tensor) -> Tensor:
    """Apply a function to chunks of examples in float64, and concatenate the results along the first dimension.

    Args:
        function: called with a chunk of the predictions, in float64, and the chunks of the other tensors.
        predictions: predictions, (K, N, C) or (N, C).
        others: further tensors with one row an example, (N, …).
    """
    rows = max(1, CHUNK_VALUES * predictions.shape[-2] // max(1, predictions.numel()))
    parts = zip(torch.split(predictions, rows, dim=-2), *(torch.split(other, rows) for other in others), strict=True)
    return torch.cat([function(part.double(), *rest) for part, *rest in parts])


def ensemble(logits: Tensor, average: Literal["probabilities", "logits"] = "probabilities") -> Tensor:
    """Combine the members' predictions.

    Args:
        logits: logits of the members, (K, N, C).
        average: whether probabilities or logits are averaged.

    Returns:
        Log-probabilities, (N, C), float64.
    """
    if average == "logits":
        return apply_in_chunks(lambda part: F.log_softmax(part.mean(0), dim=-1), logits)
    k = math.log(len(logits))
    return apply_in_chunks(lambda part: torch.logsumexp(F.log_softmax(part, dim=-1), dim=0) - k, logits)


def growing_ensembles(logits: Tensor) -> Iterator[Tensor]:
    """Average the probabilities of the first 1 … K members, in one pass over the members.

    Args:
        logits: logits of the members, (K, N, C).

    Yields:
        Log-probabilities of the first k members, (N, C), float64, equal to `ensemble`.
    """
    total = torch.full((), -math.inf, dtype=torch.float64)
    for k, member in enumerate(logits, start=1):
        total = torch.logaddexp(total, F.log_softmax(member.double(), dim=-1))
        yield total - math.log(k)


def check_predictions(log_p: Tensor, y: Tensor) -> None:
    """Check that predictions and labels can be scored.

    Raises:
        ValueError: if there are no examples, shapes do not fit, or a label is no class.
    """
    if log_p.dim() != 2 or y.shape != log_p.shape[:1]:
        shapes = f"{tuple(log_p.shape)} and {tuple(y.shape)}"
        raise ValueError(f"log-probabilities must be (N, C) and labels (N,), but they are {shapes}")
    if not len(y):
        raise ValueError("there are no examples to score")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= log_p.shape[1]:
        raise ValueError(f"labels must lie in 0 … {log_p.shape[1] - 1}, but they lie in {low} … {high}")


def accuracy(log_p: Tensor, y: Tensor) -> float:
    """Return the share of examples whose likeliest class is right, in %. Of equally likely classes the first counts."""
    return top_k_accuracy(log_p, y, 1)


def top_k_accuracy(log_p: Tensor, y: Tensor, k: int = 5) -> float:
    """Return the share of examples whose class is among the k likeliest, in %.

    Equally likely classes rank by their number, lowest first, as in `argmax`. (scikit-learn ranks the highest number
    first, and torchmetrics relies on `topk`; for k = 1 torchmetrics agrees.)

    Args:
        log_p: log-probabilities, (N, C).
        y: classes, (N,).
        k: number of classes, from 1 to C.

    Raises:
        ValueError: if there are fewer than k classes.
    """
    check_predictions(log_p, y)
    classes = log_p.shape[1]
    if not 1 <= k <= classes:
        raise ValueError(f"the {k} likeliest of {classes} classes cannot be given: k must be from 1 to {classes}")

    def right(log_p: Tensor, y: Tensor) -> Tensor:
        log_p = log_p.round(decimals=DECIMALS)  # equally likely classes tie, whatever the order of the members
        own = log_p.gather(1, y[:, None])
        later = torch.arange(classes, device=y.device) > y[:, None]
        behind = (log_p < own) | ((log_p == own) & later)  # none are behind a NaN
        return behind.sum(-1) >= classes - k

    return 100 * apply_in_chunks(right, log_p, y).double().mean().item()


def nll(log_p: Tensor, y: Tensor) -> float:
    """Return the mean negative log-likelihood, in nats an example. It is infinite if a true class has probability 0."""
    check_predictions(log_p, y)
    return -log_p.gather(1, y[:, None]).double().mean().item() + 0.0  # never -0.0


def bits_per_character(nll: float) -> float:
    """Convert a negative log-likelihood, in nats a character, to bits a character."""
    return nll / math.log(2)


def brier_scores(log_p: Tensor, y: Tensor) -> Tensor:
    """Return Σ_c (p_c − [c = y])² of each example, (N,), float64."""

    def squares(log_p: Tensor, y: Tensor) -> Tensor:
        p = log_p.exp()
        return p.scatter_add_(1, y[:, None], -torch.ones_like(p)).square_().sum(-1)

    return apply_in_chunks(squares, log_p, y)


def brier(log_p: Tensor, y: Tensor) -> float:
    """Return the Brier score: the mean of Σ_c (p_c − [c = y])², between 0 and 2."""
    check_predictions(log_p, y)
    return brier_scores(log_p, y).mean().item()


def confidences(log_p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability of the likeliest class, (N,), float64, and whether that class is right, (N,)."""
    check_predictions(log_p, y)
    highest, prediction = log_p.max(-1)
    return highest.double().exp(), prediction == y


def check_bins(bins: int) -> None:
    """Check that there is at least one bin."""
    if bins < 1:
        raise ValueError(f"a calibration error needs at least one bin, not {bins}")


def equal_width_bins(confidence: Tensor, bins: int) -> Tensor:
    """Return the bin m of each confidence, 0 … bins − 1, with m / bins < confidence ≤ (m + 1) / bins.

    A confidence that lies above an edge by rounding alone, as that of 11 of 15 votes may, counts as on it. In
    torchmetrics, bins include their lower edge instead, and confidences of exactly 1 form a separate bin.
    """
    check_bins(bins)
    edges = torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins
    return torch.bucketize(confidence, edges + ROUNDING)


def bin_sums(bin_of: Tensor, confidence: Tensor, right: Tensor, bins: int) -> Tensor:
    """Return the number of examples, sum of confidences and number of right ones of each bin, (3, bins), float64."""
    rows = (torch.ones_like(confidence), confidence, right.double())
    return torch.stack([torch.bincount(bin_of, weights=row, minlength=bins) for row in rows])


def calibration_gap(sums: Tensor) -> float:
    """Return the mean of |accuracy − mean confidence| over bins, weighted by their sizes, from `bin_sums`."""
    count, confidence, right = sums
    return float((confidence - right).abs().sum() / count.sum())


def ece(log_p: Tensor, y: Tensor, bins: int = CALIBRATION_BINS) -> float:
    """Return the expected calibration error of the likeliest class over equal-width bins, in [0, 1].

    References:
        Guo et al., On calibration of modern neural networks, ICML 2017, Equation 3.
    """
    confidence, right = confidences(log_p, y)
    return calibration_gap(bin_sums(equal_width_bins(confidence, bins), confidence, right, bins))


def adaptive_ece(log_p: Tensor, y: Tensor, bins: int = CALIBRATION_BINS) -> float:
    """Return the expected calibration error over bins of equal mass, whose sizes differ by at most one.

    Examples of equal confidence may fall into different bins. Each of them then counts with their mean accuracy, so
    that the order of the examples has no effect.
    """
    check_bins(bins)
    confidence, right = confidences(log_p, y)
    confidence = confidence.round(decimals=DECIMALS)  # equal votes tie, whatever the order of the members
    _, same = torch.unique(confidence, return_inverse=True)
    right = (torch.bincount(same, weights=right.double()) / torch.bincount(same))[same]
    order = confidence.argsort()
    bin_of = torch.arange(len(order), device=order.device) * bins // len(order)
    return calibration_gap(bin_sums(bin_of, confidence[order], right[order], bins))


def entropy(log_p: Tensor) -> Tensor:
    """Return the entropy of each prediction, (N,), in nats. It is the score for OOD detection.

    It is rounded, so that equal predictions tie, whatever the order of their members or classes.
    """
    return apply_in_chunks(lambda part: torch.special.entr(part.exp()).sum(-1), log_p).round(decimals=DECIMALS) + 0.0


def diversity(logits: Tensor) -> dict[str, float]:
    """Compare the members' predictions pairwise, and average over the pairs.

    Args:
        logits: logits of the members, (K, N, C), K at least 2.

    Returns:
        disagreement: share of examples with different likeliest classes. total_variation: mean of ½Σ|p_i − p_j|.
        kl: mean KL divergence in both directions, in nats; infinite if only one member of a pair gives a class
        probability 0.

    Raises:
        ValueError: if there is only one member.
    """
    k, n, _ = logits.shape
    if k < 2:
        raise ValueError("diversity compares members, but there is one only")
    pairs = k * (k - 1) / 2
    differ, variation, divergence = apply_in_chunks(pairwise_sums, logits).view(-1, 3).sum(0).div(n * pairs).tolist()
    return {"disagreement": differ, "total_variation": variation / 2, "kl": divergence / 2}


def pairwise_sums(logits: Tensor) -> Tensor:
    """Sum three quantities over examples and pairs of members, (3,).

    The quantities are: whether the likeliest classes differ, Σ|p_i − p_j|, and the KL divergence in both directions.
    The last is Σ_c (p_i − p_j)(l_i − l_j) with l = ln p. Its sum over pairs is a covariance, so the time does not grow
    with the square of K. Differences to the first member make it exactly 0 for equal members.
    """
    log_p = F.log_softmax(logits, dim=-1)
    p, top = log_p.exp(), log_p.argmax(-1).double()
    ruled_out = log_p.isneginf()
    log_p.masked_fill_(ruled_out, 0)  # 0 · ln 0 = 0
    dp, dl = p - p[0], log_p - log_p[0]
    divergence = len(p) * (dp * dl).sum() - (dp.sum(0) * dl.sum(0)).sum()
    if (p.amax(0)[ruled_out.any(0)] > 0).any():
        divergence.fill_(math.inf)
    return torch.stack([F.pdist(top, p=0).sum(), F.pdist(p.flatten(1), p=1).sum(), divergence])


def weight_distances(vectors: Tensor) -> dict[str, float]:
    """Compare the members' weights pairwise, and average over the pairs.

    Args:
        vectors: weights of the members, (K, D), K at least 2.

    Returns:
        cosine: cosine similarity; l2: Euclidean distance.
    """
    k = len(vectors)
    products = torch.zeros(k, k, dtype=torch.float64)
    squares = torch.zeros(k, k, dtype=torch.float64)
    for part in torch.split(vectors, 2**20, dim=1):  # in float64, a part at a time: D may be many millions
        part = part.double()
        products += part @ part.T
        squares += torch.cdist(part, part, compute_mode="donot_use_mm_for_euclid_dist").square()
    norms = products.diagonal().sqrt()
    above = torch.ones(k, k).triu(1).bool()
    return {
        "cosine": (products / norms.outer(norms))[above].mean().item(),
        "l2": squares.sqrt()[above].mean().item(),
    }
