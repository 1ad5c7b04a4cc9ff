"""Metrics of OOD detection by a score. Out-of-distribution examples are the positive class."""

import math

import torch
from torch import Tensor


def detection_metrics(inside: Tensor, outside: Tensor) -> dict[str, float]:
    """Return all metrics of OOD detection.

    Args:
        inside: scores of in-distribution examples, (N,).
        outside: scores of out-of-distribution examples, (M,), which should be higher.

    Returns:
        auroc, aupr and fpr95, each in [0, 1]; NaN if a score is NaN.

    Raises:
        ValueError: if either kind has no examples.
    """
    return {
        "auroc": auroc(inside, outside),
        "aupr": aupr(inside, outside),
        "fpr95": fpr_at_tpr(inside, outside, 0.95),
    }


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Return the area under the ROC curve: how often an OOD example has the higher score. A tie counts half.

    Args:
        inside: scores of examples in distribution, (N,).
        outside: scores of examples out of distribution, (M,).
    """
    check_scores(inside, outside)
    from scipy.stats import rankdata  # takes half a second

    ranks = rankdata(torch.cat([inside, outside]).numpy())
    n, m = len(inside), len(outside)
    return float((ranks[n:].sum() - m * (m + 1) / 2) / (n * m))


def aupr(inside: Tensor, outside: Tensor) -> float:
    """Return the area under the precision-recall curve as average precision, without interpolation.

    It is the mean precision over the OOD examples, each at the highest threshold that detects it. Uninformative scores
    give M / (N + M).

    Args:
        inside: scores of examples in distribution, (N,).
        outside: scores of examples out of distribution, (M,).
    """
    false, true = count_positives(inside, outside)
    return (true.diff(prepend=true.new_zeros(1)) * true / (true + false)).sum().item() / len(outside)


def fpr_at_tpr(inside: Tensor, outside: Tensor, tpr: float = 0.95) -> float:
    """Return the false-positive rate at the highest threshold whose true-positive rate is at least `tpr`.

    Args:
        inside: scores of examples in distribution, (N,).
        outside: scores of examples out of distribution, (M,).
        tpr: share of OOD examples to detect, in (0, 1]. Thresholds are not interpolated.
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"the rate of true positives must lie in (0, 1], but is {tpr}")
    false, true = count_positives(inside, outside)
    if true.isnan().any():
        return math.nan
    return (false[true / len(outside) >= tpr][0] / len(inside)).item()


def count_positives(inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """Count false and true positives at every threshold, from the highest score to the lowest.

    Returns:
        The numbers of false positives and true positives, (T,) each, float64; NaN if a score is NaN.
    """
    check_scores(inside, outside)
    scores = torch.cat([inside, outside])
    values, place = torch.unique(scores, return_inverse=True)
    false, true = (
        torch.bincount(part, minlength=len(values)).flip(0).cumsum(0).double()
        for part in (place[: len(inside)], place[len(inside) :])
    )
    if scores.isnan().any():
        return false * math.nan, true * math.nan
    return false, true


def check_scores(inside: Tensor, outside: Tensor) -> None:
    """Check that there is one score an example, and at least one example of each kind."""
    for name, scores in (("in", inside), ("out of", outside)):
        if scores.dim() != 1 or not len(scores):
            raise ValueError(f"detection needs a score for each example {name} distribution, not {tuple(scores.shape)}")
