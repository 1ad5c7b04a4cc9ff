"""Metrics of predictions. Probabilities are averaged over members in one place, in log space.

N examples, C classes, K members; logarithms are natural, computed in float64.
"""

import math
from itertools import combinations
from typing import Literal

import torch
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F

BINS = 15


def ensemble(logits: Tensor, average: Literal["probabilities", "logits"] = "probabilities") -> Tensor:
    """Combine members.

    Args:
        logits: (K, N, C).
        average: the mean of probabilities, or of logits as an option.

    Returns:
        Log-probabilities, (N, C), float64.
    """
    logits = logits.double()
    if average == "logits":
        return F.log_softmax(logits.mean(0), dim=-1)
    return torch.logsumexp(F.log_softmax(logits, dim=-1), dim=0) - math.log(len(logits))


def accuracy(log_p: Tensor, y: Tensor) -> float:
    """Give the share of examples whose likeliest class is right, in %."""
    return 100 * (log_p.argmax(-1) == y).double().mean().item()


def nll(log_p: Tensor, y: Tensor) -> float:
    """Give the negative log-likelihood, in nats an example."""
    return F.nll_loss(log_p, y).item()


def brier(log_p: Tensor, y: Tensor) -> float:
    """Give the Brier score: the mean of Σ_c (p_c − [c = y])², between 0 and 2."""
    return (log_p.exp() - F.one_hot(y, log_p.shape[-1])).square().sum(-1).mean().item()


def calibration_bins(log_p: Tensor, y: Tensor, bins: int = BINS) -> tuple[Tensor, Tensor, Tensor]:
    """Sort examples into equal-width bins of the likeliest class's probability; a bin includes its upper edge.

    Returns:
        For each bin: the share of the examples, their mean confidence, their accuracy (0 in an empty bin).
    """
    confidence, prediction = log_p.exp().max(-1)
    return summarise((confidence * bins).ceil().long().clamp(1, bins) - 1, confidence, prediction == y, bins)


def summarise(bin_of: Tensor, confidence: Tensor, correct: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give share, mean confidence and accuracy of each bin."""
    count = torch.bincount(bin_of, minlength=bins).double()
    some = count.clamp(min=1)
    mean = torch.bincount(bin_of, weights=confidence, minlength=bins) / some
    right = torch.bincount(bin_of, weights=correct.double(), minlength=bins) / some
    return count / len(bin_of), mean, right


def ece(log_p: Tensor, y: Tensor, bins: int = BINS) -> float:
    """Give the expected calibration error over equal-width bins, of the top label, in [0, 1].

    References:
        Guo et al., On calibration of modern neural networks, ICML 2017, Equation 3.
    """
    share, confidence, right = calibration_bins(log_p, y, bins)
    return (share * (confidence - right).abs()).sum().item()


def adaptive_ece(log_p: Tensor, y: Tensor, bins: int = BINS) -> float:
    """Give the expected calibration error over bins of equal mass (their sizes differ by one at most)."""
    confidence, prediction = log_p.exp().max(-1)
    order = confidence.argsort(stable=True)
    bin_of = torch.empty_like(order)
    bin_of[order] = torch.arange(len(order)) * bins // len(order)
    share, mean, right = summarise(bin_of, confidence, prediction == y, bins)
    return (share * (mean - right).abs()).sum().item()


def entropy(log_p: Tensor) -> Tensor:
    """Give the entropy of each prediction, (N,), in nats: the score by which OOD examples are told."""
    entropies: Tensor = torch.special.entr(log_p.exp()).sum(-1)
    return entropies


def auroc(negatives: Tensor, positives: Tensor) -> float:
    """Give the area under the ROC curve: how often a positive scores higher; a tie counts half.

    Args:
        negatives: scores of examples in distribution, (N,).
        positives: scores of examples out of distribution, (M,).
    """
    ranks = rankdata(torch.cat([negatives, positives]).numpy())
    n, m = len(negatives), len(positives)
    return float((ranks[n:].sum() - m * (m + 1) / 2) / (n * m))


def diversity(logits: Tensor) -> dict[str, float]:
    """Compare members' predictions pair by pair, and average over the pairs.

    Args:
        logits: (K, N, C), K at least 2.

    Returns:
        disagreement: share of examples with different likeliest classes; total_variation: mean ½Σ|p_i − p_j|;
        kl: mean KL divergence, both ways, in nats.
    """
    log_p = F.log_softmax(logits.double(), dim=-1)
    p, top = log_p.exp(), log_p.argmax(-1)
    pairs = list(combinations(range(len(logits)), 2))
    sums = {"disagreement": 0.0, "total_variation": 0.0, "kl": 0.0}
    for i, j in pairs:
        sums["disagreement"] += (top[i] != top[j]).double().mean().item()
        sums["total_variation"] += 0.5 * (p[i] - p[j]).abs().sum(-1).mean().item()
        sums["kl"] += 0.5 * ((p[i] - p[j]) * (log_p[i] - log_p[j])).sum(-1).mean().item()
    return {name: value / len(pairs) for name, value in sums.items()}


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
