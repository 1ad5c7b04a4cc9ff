"""Temperature scaling: one number, fitted on held-out data, makes all predictions more or less confident."""

import math
from typing import Literal

from scipy.optimize import brentq
from torch import Tensor
from torch.nn import functional as F

from harness.evaluation.metrics import apply_in_chunks, check_predictions, ensemble
from harness.store.outcome import DivergenceError

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 100.0
"""Bounds of the temperature. Values beyond them are no calibration: held-out data without errors would make predictions
arbitrarily confident, and useless predictions would become uniform."""


def fit_temperature(logits: Tensor, y: Tensor, average: Literal["probabilities", "logits"] = "probabilities") -> float:
    """Return the temperature that minimizes the NLL of the combined prediction.

    Members are combined first and then scaled: their mean p becomes p^(1/T), normalized. For one member this is the
    softmax of its logits divided by T. The NLL of the combined prediction is convex in 1/T. Its slope therefore has one
    root, which is found to machine accuracy. Scaling the members before combining them would leave the ensemble
    underconfident, and the NLL could have several minima.

    Args:
        logits: logits of held-out examples, (K, N, C).
        y: classes, (N,).
        average: whether probabilities or logits of the members are averaged.

    Returns:
        T, from `MIN_TEMPERATURE` to `MAX_TEMPERATURE`. It is the lower bound if all examples are right, because the NLL
        then decreases with T without end. It is the upper bound if the prediction is worse than a uniform one. It is 1
        if the temperature has no effect, because there is one class or all classes are equally likely.

    Raises:
        DivergenceError: if a logit is not finite.
        ValueError: if labels do not fit.

    References:
        Guo et al., On calibration of modern neural networks, ICML 2017, section 4.2, for one network. Rahaman &
        Thiery, Uncertainty quantification and deep ensembles, NeurIPS 2021 (scale after averaging); so do Ashukha et
        al., Pitfalls of in-domain uncertainty estimation and ensembling in deep learning, ICLR 2020, who fit on half
        of the test set, however.
    """
    check_predictions(logits[0], y)
    if not all(extreme.isfinite() for extreme in logits.aminmax()):
        raise DivergenceError(
            "not a number at evaluation: some logits of the held-out data, to which a temperature is fitted"
        )
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
    """Return the derivative of the NLL with respect to the inverse temperature: the mean of E[ln p] − ln p[y].

    Args:
        log_p: log-probabilities before scaling, (N, C).
        y: classes, (N,).
        inverse: inverse temperature 1 / T. The expectation E is over the scaled prediction.
    """

    def expected(log_p: Tensor) -> Tensor:
        return (F.softmax(inverse * log_p, dim=-1) * log_p).sum(-1)

    return (apply_in_chunks(expected, log_p) - log_p.gather(1, y[:, None])[:, 0]).mean().item()


def scale_by_temperature(log_p: Tensor, temperature: float) -> Tensor:
    """Scale a prediction: p^(1/T), normalized. The order of the classes stays the same.

    Args:
        log_p: log-probabilities, (N, C).
        temperature: T > 0. Predictions become less confident above 1, and more confident below 1.

    Returns:
        Log-probabilities, (N, C), float64.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"a temperature is a positive number, not {temperature}")
    return apply_in_chunks(lambda part: F.log_softmax(part / temperature, dim=-1), log_p)
