"""How well a method stands corrupted test data."""

import math


def relative_change(clean: float, corrupted: float) -> float:
    """Give how much of its accuracy a network loses under corruption: (b − a) / a, at most 0 where it loses any.

    The paper takes severity 3 and plots, for each corruption, the difference between two methods: positive where the
    first one loses less.

    Args:
        clean: accuracy a on the clean test set.
        corrupted: accuracy b on the corrupted one, in the same unit.

    Returns:
        The relative change, without unit; NaN if nothing is right on the clean test set.

    References:
        Wortsman et al., Learning neural network subspaces, ICML 2021, appendix G, Figures 19 and 20.
    """
    return (corrupted - clean) / clean if clean else math.nan
