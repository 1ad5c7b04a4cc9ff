"""The metrics that runs can have, by the names that they are tracked by: known before anything is trained."""

from collections.abc import Iterable
from pathlib import Path

import data
from data.corruptions import CORRUPTIONS
from data.datasets.downloaded import DOWNLOADED_SHAPES
from data.datasets.ood import choose_ood_datasets
from harness.parsing.method_expression import closest
from harness.studies.grid import Place
from harness.studies.run import DatasetSpec

SCORES = ("accuracy", "nll", "brier", "ece", "adaptive_ece", "top5_accuracy", "bpc")
BESIDE_SCORES = (
    "members",
    "temperature",
    "scaled/nll",
    "scaled/ece",
    *(f"single/{name}" for name in ("accuracy", "nll", "bpc")),
    *(f"training/{name}" for name in ("accuracy", "loss", "bpc")),
    *(f"diversity/{name}" for name in ("disagreement", "total_variation", "kl", "cosine", "l2")),
    *(f"path/{name}" for name in ("l2", "cosine", "squared_cosine")),
)
DETECTION = ("ood_auroc", "ood_aupr", "ood_fpr95")
"""Each also of every OOD dataset: ood_auroc/svhn."""
CORRUPTION = ("corruption_error", "relative_change")
"""Each also of every corruption, and of generated ones: generated/corruption_error/fog."""
TRAINING = ("forward_examples", "backward_examples", "optimizer_steps", "train_seconds", "peak_memory_bytes")
"""What training costs alone (cost/…), and what it took (spent/…)."""
PREDICTION = ("parameters_trained", "parameters_kept", "forwards_per_example", "seconds_per_1000_predictions")
"""What else a cost/… says."""


def metric_names(places: Iterable[Place]) -> list[str]:
    """Name the metrics that the runs of a study can have, if the methods and `evaluate` give them.

    Args:
        places: of the study, whose datasets are there: their OOD datasets, and the bins of a further calibration error.
    """
    places = list(places)
    bins = {place.grid.evaluate.calibration_bins for place in places} - {None}
    scores = [*SCORES, *(f"ece_{n}" for n in sorted(filter(None, bins)))]
    datasets = {place.dataset.model_dump_json(): place.dataset for place in places}
    found = {*scores, *BESIDE_SCORES, *DETECTION, *(f"logit_average/{name}" for name in scores)}
    found |= {f"{name}/{each}" for name in DETECTION for dataset in datasets.values() for each in ood_names(dataset)}
    under = {*CORRUPTION, *(f"{name}/{each}" for name in CORRUPTION for each in CORRUPTIONS)}
    found |= under | {f"generated/{name}" for name in under}
    found |= {f"{group}/{name}" for group in ("cost", "spent") for name in TRAINING}
    return sorted(found | {f"cost/{name}" for name in PREDICTION})


def ood_names(dataset: DatasetSpec) -> list[str]:
    """Name the OOD datasets of a dataset, without downloading anything."""
    known = DOWNLOADED_SHAPES.get(dataset.name)
    if known is None:
        task = data.load(dataset.name, root=Path(), **dataset.options())
        return list(task.ood) if isinstance(task, data.ImageTask) else []
    if known.in_channels is None or known.image_size is None:
        return []
    return list(choose_ood_datasets(dataset.name, (known.in_channels, known.image_size), {}, dataset.ood, Path()))


def check_metric(name: str, known: Iterable[str]) -> None:
    """Refuse a name that no metric has.

    Raises:
        ValueError: with the closest one; of those of single OOD datasets and corruptions, only the mean is listed.
    """
    known = set(known)
    if name not in known:
        listed = [each for each in known if each.rpartition("/")[0] not in known]
        raise ValueError(f"unknown metric {name!r}; {closest(name, known, listed)}")
