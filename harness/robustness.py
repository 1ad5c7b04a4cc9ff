"""How well a method stands corrupted test data."""

import math
from collections.abc import Iterable, Mapping

STANDARD_CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""Those of CIFAR-10-C and ImageNet-C; their four extra ones (speckle_noise, gaussian_blur, spatter, saturate) are meant
for validation, and never enter a mean."""
SEVERITIES = (1, 2, 3, 4, 5)


def is_complete(measured: Iterable[tuple[str, int]]) -> bool:
    """Say whether every standard corruption was measured at every severity, so that there is an mCE."""
    return not missing(measured)


def missing(measured: Iterable[tuple[str, int]]) -> list[str]:
    """List the standard corruptions, with their severities, that were not measured."""
    found = set(measured)
    return [f"{name} {s}" for name in STANDARD_CORRUPTIONS for s in SEVERITIES if (name, s) not in found]


def mean_corruption_error(errors: Mapping[tuple[str, int], float]) -> float:
    """Give the mCE: the mean error of the 15 standard corruptions at 5 severities.

    It is not divided by another network's errors, as the mCE of ImageNet-C is by AlexNet's: so the late-phase paper
    has it.

    Args:
        errors: (corruption, severity) → error, in %. Extra corruptions are left out.

    Returns:
        The mean of 75 errors, in %.

    Raises:
        ValueError: if one of them is missing: a mean of fewer is another quantity.

    References:
        Hendrycks & Dietterich, Benchmarking neural network robustness to common corruptions and perturbations, ICLR
        2019. von Oswald et al., Neural networks with late-phase weights, ICLR 2021, Table 16.
    """
    if lacking := missing(errors):
        shown = ", ".join(lacking[:5]) + (" …" if len(lacking) > 5 else "")
        raise ValueError(f"mCE is the mean over 15 corruptions × 5 severities, but {len(lacking)} are missing: {shown}")
    cells = [errors[name, severity] for name in STANDARD_CORRUPTIONS for severity in SEVERITIES]
    return math.fsum(cells) / len(cells)


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
