"""Temperature scaling: one number, fitted on held-out data, that makes all predictions more or less confident."""

import math
from typing import Literal

from scipy.optimize import brentq
from torch import Tensor
from torch.nn import functional as F

from harness.evaluation.metrics import apply_in_chunks, check_predictions, ensemble

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 100.0
"""Temperatures are sought between these. What lies beyond is no calibration: predictions twenty times as confident on
the word of held-out data without an error, or ones that say nothing any more."""


def fit_temperature(logits: Tensor, y: Tensor, average: Literal["probabilities", "logits"] = "probabilities") -> float:
    """Find the temperature at which the combined prediction has the smallest NLL.

    Members are combined first and scaled together: their mean becomes p^(1/T), normalised again. For one member that
    is the softmax of its logits divided by T. Scaling members before they are combined would leave the ensemble of
    calibrated members underconfident, and its NLL may have several minima; in 1/T, the NLL of the combined prediction
    is convex, so its slope has one root, found to machine accuracy.

    Args:
        logits: of held-out examples, (K, N, C).
        y: (N,).
        average: how members are combined.

    Returns:
        T, from `COLDEST` to `HOTTEST`, and one of these if the smallest NLL lies there or beyond: COLDEST where all
        examples are right (the colder the better, without end), HOTTEST where the prediction is worse than none. 1
        where no temperature changes anything, because all classes are equally likely or there is one only.

    Raises:
        ValueError: if a logit is not finite, or labels do not fit.

    References:
        Guo et al., On calibration of modern neural networks, ICML 2017, section 4.2, for one network. Rahaman &
        Thiery, Uncertainty quantification and deep ensembles, NeurIPS 2021 (scale after averaging); so do Ashukha et
        al., Pitfalls of in-domain uncertainty estimation and ensembling in deep learning, ICLR 2020, who fit on half
        of the test set, however.
    """
    check_predictions(logits[0], y)
    if not all(extreme.isfinite() for extreme in logits.aminmax()):
        raise ValueError("a temperature cannot be fitted: some logits of the held-out data are not finite")
    log_p = ensemble(logits, average)
    if (log_p == log_p[:, :1]).all():
        return 1.0

    def slope(log_t: float) -> float:
        return nll_slope(log_p, y, math.exp(-log_t))

    if slope(math.log(MIN_TEMPERATURE)) <= 0:
        return MIN_TEMPERATURE
    if slope(math.log(MAX_TEMPERATURE)) >= 0:
        return MAX_TEMPERATURE
    return math.exp(brentq(slope, math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE), xtol=1e-14))


def nll_slope(log_p: Tensor, y: Tensor, inverse: float) -> float:
    """Give the derivative of the NLL of `scaled(log_p, 1 / inverse)` by `inverse`: E[ln p] − ln p[y], on average."""

    def expected(log_p: Tensor) -> Tensor:
        return (F.softmax(inverse * log_p, dim=-1) * log_p).sum(-1)

    return (apply_in_chunks(expected, log_p) - log_p.gather(1, y[:, None])[:, 0]).mean().item()


def scale_by_temperature(log_p: Tensor, temperature: float) -> Tensor:
    """Scale a prediction: p^(1/T), normalised again. It keeps the order of the classes.

    Args:
        log_p: (N, C).
        temperature: T > 0; above 1 less confident, below 1 more.

    Returns:
        Log-probabilities, (N, C), float64.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"a temperature is a positive number, not {temperature}")
    return apply_in_chunks(lambda part: F.log_softmax(part / temperature, dim=-1), log_p)
