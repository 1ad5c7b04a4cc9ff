"""The names of all metrics that the runs of a study can have, known before anything is trained."""

from collections.abc import Iterable
from pathlib import Path

import data
from data.corruptions import CORRUPTIONS
from data.datasets.downloaded import DOWNLOADED_SHAPES
from data.datasets.ood import choose_ood_datasets
from harness.parsing.yaml_errors import suggest_closest
from harness.studies.grid import CellGroup
from harness.studies.run import DatasetSpec

SCORES = ("accuracy", "nll", "brier", "ece", "adaptive_ece", "top5_accuracy", "bpc")
OTHER_SCORES = (
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
"""Each is tracked as a mean and for every OOD dataset, such as ood_auroc/svhn."""
CORRUPTION = ("corruption_error", "relative_change")
"""Each is tracked as a mean and for every corruption; generated ones as generated/corruption_error/fog."""
TRAINING = ("forward_examples", "backward_examples", "optimizer_steps", "train_seconds", "peak_memory_bytes")
"""Training costs: of the run as if alone (cost/…), and actually spent (spent/…)."""
PREDICTION = ("parameters_trained", "parameters_kept", "forwards_per_example", "seconds_per_1000_predictions")
"""Further costs with the prefix cost/."""


def metric_names(groups: Iterable[CellGroup]) -> list[str]:
    """List the metrics that the runs of a study can have, if the methods and `evaluate` provide them.

    Args:
        groups: cell groups of the study. Their datasets must exist, because their OOD datasets are listed.
    """
    groups = list(groups)
    bins = {group.grid.evaluate.calibration_bins for group in groups} - {None}
    scores = [*SCORES, *(f"ece_{n}" for n in sorted(filter(None, bins)))]
    datasets = {group.dataset.model_dump_json(): group.dataset for group in groups}
    found = {*scores, *OTHER_SCORES, *DETECTION, *(f"logit_average/{name}" for name in scores)}
    found |= {
        f"{name}/{each}" for name in DETECTION for dataset in datasets.values() for each in ood_dataset_names(dataset)
    }
    under = {*CORRUPTION, *(f"{name}/{each}" for name in CORRUPTION for each in CORRUPTIONS)}
    found |= under | {f"generated/{name}" for name in under}
    found |= {f"{group}/{name}" for group in ("cost", "spent") for name in TRAINING}
    return sorted(found | {f"cost/{name}" for name in PREDICTION})


def ood_dataset_names(dataset: DatasetSpec) -> list[str]:
    """Return the names of a dataset's OOD datasets, without downloading anything."""
    known = DOWNLOADED_SHAPES.get(dataset.name)
    if known is None:
        task = data.load(dataset.name, root=Path(), **dataset.options())
        return list(task.ood) if isinstance(task, data.ImageTask) else []
    if known.in_channels is None or known.image_size is None:
        return []
    return list(choose_ood_datasets(dataset.name, (known.in_channels, known.image_size), {}, dataset.ood, Path()))


def check_metric(name: str, known: Iterable[str]) -> None:
    """Check that a metric exists.

    Raises:
        ValueError: naming the most similar metric. The list leaves out metrics of single OOD datasets and corruptions.
    """
    known = set(known)
    if name not in known:
        listed = [each for each in known if each.rpartition("/")[0] not in known]
        raise ValueError(f"unknown metric {name!r}; {suggest_closest(name, known, listed)}")
