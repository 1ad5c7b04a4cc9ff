"""Metrics of predictions. Probabilities are averaged over members in one place, in log space.

N examples, C classes, K members; logarithms are natural, computed in float64, a few examples at a time, so that 50,000
examples of 1,000 classes by ten members need no copy of all members. A prediction that is NaN is never right, and
makes every metric NaN but accuracy and disagreement.
"""

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

CALIBRATION_BINS = 15
"""Of the expected calibration error."""
CHUNK_VALUES = 2**16
"""Numbers computed with at once: half a megabyte, which with what is made of it stays in a processor's cache."""


def apply_in_chunks(function: Callable[..., Tensor], predictions: Tensor, *others: Tensor) -> Tensor:
    """Apply a function to a few examples at a time, in float64, and join its results along their first dimension.

    Args:
        function: of a part of the predictions, in float64, and of the others.
        predictions: (K, N, C) or (N, C).
        others: (N, …).
    """
    rows = max(1, CHUNK_VALUES * predictions.shape[-2] // max(1, predictions.numel()))
    parts = zip(torch.split(predictions, rows, dim=-2), *(torch.split(other, rows) for other in others), strict=True)
    return torch.cat([function(part.double(), *rest) for part, *rest in parts])


def ensemble(logits: Tensor, average: Literal["probabilities", "logits"] = "probabilities") -> Tensor:
    """Combine members.

    Args:
        logits: (K, N, C).
        average: the mean of probabilities, or of logits as an option.

    Returns:
        Log-probabilities, (N, C), float64.
    """
    if average == "logits":
        return apply_in_chunks(lambda part: F.log_softmax(part.mean(0), dim=-1), logits)
    k = math.log(len(logits))
    return apply_in_chunks(lambda part: torch.logsumexp(F.log_softmax(part, dim=-1), dim=0) - k, logits)


def growing_ensembles(logits: Tensor) -> Iterator[Tensor]:
    """Combine the first member, the first two … all K, by the mean of their probabilities, in one pass over them.

    Args:
        logits: (K, N, C).

    Yields:
        Log-probabilities, (N, C), float64: `ensemble` of the first k members.
    """
    total = torch.full((), -math.inf, dtype=torch.float64)
    for k, member in enumerate(logits, start=1):
        total = torch.logaddexp(total, F.log_softmax(member.double(), dim=-1))
        yield total - math.log(k)


def check_predictions(log_p: Tensor, y: Tensor) -> None:
    """Refuse what cannot be scored: no examples, shapes that do not fit, labels of classes that are not there."""
    if log_p.dim() != 2 or y.shape != log_p.shape[:1]:
        shapes = f"{tuple(log_p.shape)} and {tuple(y.shape)}"
        raise ValueError(f"log-probabilities must be (N, C) and labels (N,), but they are {shapes}")
    if not len(y):
        raise ValueError("there are no examples to score")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= log_p.shape[1]:
        raise ValueError(f"labels must lie in 0 … {log_p.shape[1] - 1}, but they lie in {low} … {high}")


def accuracy(log_p: Tensor, y: Tensor) -> float:
    """Give the share of examples whose likeliest class is right, in %; of equally likely classes the first counts."""
    return top_k_accuracy(log_p, y, 1)


def top_k_accuracy(log_p: Tensor, y: Tensor, k: int = 5) -> float:
    """Give the share of examples whose class is one of the k likeliest, in %.

    Equally likely classes rank by their number, the first one first, as `argmax` has it. (scikit-learn puts the last
    one first, and torchmetrics leaves it to `topk`; for k = 1 torchmetrics agrees.)

    Args:
        log_p: (N, C).
        y: (N,).
        k: from 1 to C; all C are always right.

    Raises:
        ValueError: if there are fewer than k classes.
    """
    check_predictions(log_p, y)
    classes = log_p.shape[1]
    if not 1 <= k <= classes:
        raise ValueError(f"the {k} likeliest of {classes} classes cannot be given: k must be from 1 to {classes}")

    def right(log_p: Tensor, y: Tensor) -> Tensor:
        own = log_p.gather(1, y[:, None])
        later = torch.arange(classes, device=y.device) > y[:, None]
        behind = (log_p < own) | ((log_p == own) & later)  # none are behind a NaN
        return behind.sum(-1) >= classes - k

    return 100 * apply_in_chunks(right, log_p, y).double().mean().item()


def nll(log_p: Tensor, y: Tensor) -> float:
    """Give the negative log-likelihood, in nats an example; infinite if a class that occurs had probability 0."""
    check_predictions(log_p, y)
    return -log_p.gather(1, y[:, None]).double().mean().item()


def bits_per_character(nll: float) -> float:
    """Convert a negative log-likelihood, in nats a character, to bits a character."""
    return nll / math.log(2)


def brier_scores(log_p: Tensor, y: Tensor) -> Tensor:
    """Give each example's Σ_c (p_c − [c = y])², (N,), float64."""

    def squares(log_p: Tensor, y: Tensor) -> Tensor:
        p = log_p.exp()
        return p.scatter_add_(1, y[:, None], -torch.ones_like(p)).square_().sum(-1)

    return apply_in_chunks(squares, log_p, y)


def brier(log_p: Tensor, y: Tensor) -> float:
    """Give the Brier score: the mean of Σ_c (p_c − [c = y])², between 0 and 2."""
    check_predictions(log_p, y)
    return brier_scores(log_p, y).mean().item()


def confidences(log_p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Give the likeliest class's probability, (N,), float64, and whether that class is right, (N,)."""
    check_predictions(log_p, y)
    highest, prediction = log_p.max(-1)
    return highest.double().exp(), prediction == y


def check_bins(bins: int) -> None:
    """Refuse to sort into no bins."""
    if bins < 1:
        raise ValueError(f"a calibration error needs at least one bin, not {bins}")


def equal_width_bins(confidence: Tensor, bins: int) -> Tensor:
    """Give the bin m of each confidence, 0 … bins − 1: m / bins < confidence ≤ (m + 1) / bins.

    torchmetrics counts a lower edge to its bin instead, and confidences of exactly 1 as a bin of their own.
    """
    check_bins(bins)
    edges = torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins
    return torch.bucketize(confidence, edges)


def bin_sums(bin_of: Tensor, confidence: Tensor, right: Tensor, bins: int) -> Tensor:
    """Give each bin's number of examples, sum of confidences and number of right ones: (3, bins), float64."""
    rows = (torch.ones_like(confidence), confidence, right.double())
    return torch.stack([torch.bincount(bin_of, weights=row, minlength=bins) for row in rows])


def calibration_gap(sums: Tensor) -> float:
    """Give the mean of |accuracy − mean confidence| over bins, weighted by their sizes, from `bin_sums`."""
    count, confidence, right = sums
    return float((confidence - right).abs().sum() / count.sum())


def ece(log_p: Tensor, y: Tensor, bins: int = CALIBRATION_BINS) -> float:
    """Give the expected calibration error over equal-width bins, of the top label, in [0, 1].

    References:
        Guo et al., On calibration of modern neural networks, ICML 2017, Equation 3.
    """
    confidence, right = confidences(log_p, y)
    return calibration_gap(bin_sums(equal_width_bins(confidence, bins), confidence, right, bins))


def adaptive_ece(log_p: Tensor, y: Tensor, bins: int = CALIBRATION_BINS) -> float:
    """Give the expected calibration error over bins of equal mass (their sizes differ by one at most).

    Equal confidences may fall into several bins. Each of them then counts as right as often as all of them are, so
    that the order of the examples has no say.
    """
    check_bins(bins)
    confidence, right = confidences(log_p, y)
    _, same = torch.unique(confidence, return_inverse=True)
    right = (torch.bincount(same, weights=right.double()) / torch.bincount(same))[same]
    order = confidence.argsort()
    bin_of = torch.arange(len(order), device=order.device) * bins // len(order)
    return calibration_gap(bin_sums(bin_of, confidence[order], right[order], bins))


def entropy(log_p: Tensor) -> Tensor:
    """Give the entropy of each prediction, (N,), in nats: the score by which OOD examples are told."""
    return apply_in_chunks(lambda part: torch.special.entr(part.exp()).sum(-1), log_p)


def diversity(logits: Tensor) -> dict[str, float]:
    """Compare members' predictions pair by pair, and average over the pairs.

    Args:
        logits: (K, N, C), K at least 2.

    Returns:
        disagreement: share of examples with different likeliest classes; total_variation: mean ½Σ|p_i − p_j|;
        kl: mean KL divergence, both ways, in nats; infinite if a member rules a class out and another does not.

    Raises:
        ValueError: if there is one member only.
    """
    k, n, _ = logits.shape
    if k < 2:
        raise ValueError("diversity compares members, but there is one only")
    pairs = k * (k - 1) / 2
    differ, variation, divergence = apply_in_chunks(pairwise_sums, logits).view(-1, 3).sum(0).div(n * pairs).tolist()
    return {"disagreement": differ, "total_variation": variation / 2, "kl": divergence / 2}


def pairwise_sums(logits: Tensor) -> Tensor:
    """Sum over examples and pairs of members: whether the likeliest classes differ, Σ|p_i − p_j|, KL both ways; (3,).

    KL both ways is Σ_c (p_i − p_j)(l_i − l_j), l = ln p, whose sum over the pairs is a covariance: the time does not
    grow with the square of K. Differences to the first member make it exactly 0 for equal members.
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
    """Compare members' weights pair by pair, and average over the pairs.

    Args:
        vectors: (K, D), K at least 2.

    Returns:
        cosine: similarity; l2: Euclidean distance.
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
