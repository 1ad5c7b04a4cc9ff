"""How well scores tell examples out of distribution, the positive class, from those in distribution."""

import math

import torch
from scipy.stats import rankdata
from torch import Tensor


def detection_metrics(inside: Tensor, outside: Tensor) -> dict[str, float]:
    """Give every metric of detection.

    Args:
        inside: scores of examples in distribution, (N,).
        outside: scores of examples out of distribution, (M,); higher where the score is right.

    Returns:
        auroc, aupr and fpr95, each in [0, 1]; NaN if a score is NaN.

    Raises:
        ValueError: if there are no examples of one kind.
    """
    return {
        "auroc": auroc(inside, outside),
        "aupr": aupr(inside, outside),
        "fpr95": fpr_at_tpr(inside, outside, 0.95),
    }


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Give the area under the ROC curve: how often an example from outside scores higher; a tie counts half.

    Args:
        inside: scores of examples in distribution, (N,).
        outside: scores of examples out of distribution, (M,).
    """
    check_scores(inside, outside)
    ranks = rankdata(torch.cat([inside, outside]).numpy())
    n, m = len(inside), len(outside)
    return float((ranks[n:].sum() - m * (m + 1) / 2) / (n * m))


def aupr(inside: Tensor, outside: Tensor) -> float:
    """Give the area under the precision-recall curve as average precision, without interpolation.

    It is the mean, over the examples from outside, of the precision at the threshold that just lets them in. Scores
    that tell nothing give M / (N + M).

    Args:
        inside: scores of examples in distribution, (N,).
        outside: scores of examples out of distribution, (M,).
    """
    false, true = count_positives(inside, outside)
    return (true.diff(prepend=true.new_zeros(1)) * true / (true + false)).sum().item() / len(outside)


def fpr_at_tpr(inside: Tensor, outside: Tensor, tpr: float = 0.95) -> float:
    """Give the smallest share of examples inside that is taken for outside by a threshold that finds enough of those.

    Args:
        inside: scores of examples in distribution, (N,).
        outside: scores of examples out of distribution, (M,).
        tpr: the share of the examples from outside that must be found, in (0, 1]. No interpolation between thresholds.
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"the rate of true positives must lie in (0, 1], but is {tpr}")
    false, true = count_positives(inside, outside)
    if true.isnan().any():
        return math.nan
    return (false[true / len(outside) >= tpr][0] / len(inside)).item()


def count_positives(inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """Count the examples with at least a score, for every score that occurs, from the highest to the lowest.

    Returns:
        The numbers of false and of true positives, (T,) each, float64; NaN if a score is NaN.
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
    """Refuse to compare with nothing."""
    for name, scores in (("in", inside), ("out of", outside)):
        if scores.dim() != 1 or not len(scores):
            raise ValueError(f"detection needs a score for each example {name} distribution, not {tuple(scores.shape)}")
