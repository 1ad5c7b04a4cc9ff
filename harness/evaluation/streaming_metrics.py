"""Metrics of predictions that arrive in parts, because they do not fit into memory together."""

import torch
from torch import Tensor

from harness.evaluation.metrics import (
    CALIBRATION_BINS,
    bin_sums,
    brier_scores,
    calibration_gap,
    check_bins,
    confidences,
    equal_width_bins,
    nll,
)


class StreamingMetrics:
    """Accumulates metrics over parts, such as the windows of a long text.

    The result equals the metrics of all parts together. Adaptive ECE is missing, because its bins depend on all
    confidences.
    """

    def __init__(self, bins: int = CALIBRATION_BINS) -> None:
        """Start without predictions.

        Args:
            bins: number of bins of the ECE.
        """
        check_bins(bins)
        self.bins = bins
        self.nll = 0.0
        self.brier = 0.0
        self.calibration = torch.zeros(3, bins, dtype=torch.float64)

    def add(self, log_p: Tensor, y: Tensor) -> None:
        """Add a part.

        Args:
            log_p: log-probabilities, (n, C).
            y: classes, (n,).
        """
        confidence, right = confidences(log_p, y)
        self.nll += nll(log_p, y) * len(y)
        self.brier += brier_scores(log_p, y).sum().item()
        self.calibration += bin_sums(equal_width_bins(confidence, self.bins), confidence, right, self.bins).cpu()

    def metrics(self) -> dict[str, float]:
        """Return accuracy (%), nll (nats an example), brier and ece of all parts.

        Raises:
            ValueError: if there are no examples.
        """
        count, _, right = self.calibration.sum(1).tolist()
        if not count:
            raise ValueError("there are no examples to score")
        return {
            "accuracy": 100 * right / count,
            "nll": self.nll / count,
            "brier": self.brier / count,
            "ece": calibration_gap(self.calibration),
        }
