"""Evaluates a prepared method on all evaluation data of its task.

The test set is only used here, unless a study requests measurements on it.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from data import ImageTask, Minibatches, Task, normalised_batches
from harness.costs.cost import Cost, CostCounter
from harness.costs.parameters import parameters_kept
from harness.evaluation import metrics
from harness.evaluation.ood_detection import detection_metrics
from harness.evaluation.temperature_scaling import fit_temperature, scale_by_temperature
from harness.evaluation.weight_space import flat_vector, weights_without_batch_norm
from methods import Method
from methods.core.random_streams import all_seeded, stream

MAX_BATCH_SIZE = 1024
"""Largest number of examples in an evaluation batch."""
MAX_BATCH_VALUES = 3 * 2**22
"""Largest number of image values in an evaluation batch: 1,024 images of 64 × 64 pixels, about 80 of 224 × 224."""
TOP5_MIN_CLASSES = 100
"""Smallest number of classes for which the top-5 accuracy is reported."""
CHANGE_SEVERITY = 3
"""Severity of the corruptions at which the relative change of the accuracy is measured."""


@dataclass
class Evaluation:
    """The result of an evaluation.

    Attributes:
        metrics: name → value.
        curves: name → values for the first 1 … K members.
        parameters_kept: number of parameters that prediction needs.
        forwards_per_example: number of forward passes of one prediction.
        seconds_per_1000: seconds for 1,000 predictions in batches.
        predictions: arrays to store: for images, probabilities, (N, C) float32, and labels, (N,).
    """

    metrics: dict[str, float]
    curves: dict[str, list[float]]
    parameters_kept: int
    forwards_per_example: float
    seconds_per_1000: float
    predictions: dict[str, np.ndarray]

    def save_predictions(self, file: BinaryIO) -> None:
        """Write the predictions to an .npz file."""
        np.savez_compressed(file, allow_pickle=False, **self.predictions)


def evaluation_batch_size(task: Task) -> int:
    """Return the batch size for the evaluation of a task. It is small for large images, to limit memory."""
    channels, side = task.shape.in_channels, task.shape.image_size
    return (
        MAX_BATCH_SIZE
        if channels is None or side is None
        else max(1, min(MAX_BATCH_SIZE, MAX_BATCH_VALUES // (channels * side**2)))
    )


@torch.no_grad()
def evaluate(method: Method, task: ImageTask, counter: CostCounter, bins: int | None = None) -> Evaluation:
    """Score every test example exactly once, and evaluate OOD datasets and corruptions.

    Args:
        method: prepared for prediction.
        task: provides the test set, OOD datasets and corrupted test images.
        counter: cost counter of the method's networks.
        bins: number of bins of a second calibration error, `ece_<bins>`; None for none.
    """
    method.eval()
    size = evaluation_batch_size(task)
    test = task.part("test", size)
    assert test is not None
    y = task.test.labels.cpu()
    x = next(iter(test))[0]
    kept = parameters_kept(method, x[:2])
    passes = forwards_per_example(method, x, counter)
    warm_up_predictions(method, [x, resize_batch(x, test.examples - len(x) * (len(test) - 1))])
    start = time.perf_counter()
    logits = member_logits(method, (x for x, _ in test))
    seconds = 1000 * (time.perf_counter() - start) / len(y)
    check_shape(method, logits, len(y), task.shape.classes)
    log_p = metrics.ensemble(logits)
    found = prediction_metrics(log_p, y, bins) | {"members": float(len(logits))}
    singles = [prediction_metrics(metrics.ensemble(single[None]), y) for single in logits]
    found |= {f"single/{name}": mean(single[name] for single in singles) for name in ("accuracy", "nll")}
    found |= temperature_scaled_metrics(method, task.part("validation", size), log_p, y)
    found |= ood_metrics(method, task, metrics.entropy(log_p))
    found |= corruption_metrics(method, task, y, found["accuracy"])
    if len(logits) > 1:
        averaged = prediction_metrics(metrics.ensemble(logits, average="logits"), y, bins)
        found |= {f"logit_average/{name}": value for name, value in averaged.items()}
        found |= {f"diversity/{name}": value for name, value in metrics.diversity(logits).items()}
    vectors = weight_vectors(method)
    if len(vectors) > 1:
        found |= {f"diversity/{name}": value for name, value in metrics.weight_distances(vectors).items()}
    return Evaluation(
        found,
        ensemble_size_curves(logits, y),
        kept,
        passes,
        seconds,
        {"probabilities": log_p.exp().float().numpy(), "labels": y.numpy()},
    )


def prediction_metrics(log_p: Tensor, y: Tensor, bins: int | None = None) -> dict[str, float]:
    """Return the metrics of one prediction.

    Args:
        log_p: log-probabilities, (N, C).
        y: classes, (N,).
        bins: number of bins of a second calibration error; None for none.
    """
    further = {} if bins is None else {f"ece_{bins}": metrics.ece(log_p, y, bins)}
    if log_p.shape[1] >= TOP5_MIN_CLASSES:
        further["top5_accuracy"] = metrics.top_k_accuracy(log_p, y, 5)
    return {
        "accuracy": metrics.accuracy(log_p, y),
        "nll": metrics.nll(log_p, y),
        "brier": metrics.brier(log_p, y),
        "ece": metrics.ece(log_p, y),
        "adaptive_ece": metrics.adaptive_ece(log_p, y),
        **further,
    }


def mean(values: Iterable[float]) -> float:
    """Return the arithmetic mean."""
    listed = list(values)
    return sum(listed) / len(listed)


def forwards_per_example(method: Method, x: Tensor, counter: CostCounter) -> float:
    """Return the number of forward passes of one prediction. This also warms up the device before timing."""
    kept, counter.cost, counter.counting = counter.cost, Cost(), True
    method.predict(x)
    count, counter.cost, counter.counting = counter.cost.forward_examples, kept, False
    return count / len(x)


def warm_up_predictions(method: Method, batches: Iterable[Tensor]) -> None:
    """Predict one batch of each shape on a GPU, so that its search for algorithms is no part of the seconds to come.

    A CPU searches nothing.

    Args:
        method: prepared for prediction; random numbers that it draws here are drawn again later.
        batches: batches (B, …) of the shapes to come.
    """
    shapes = {x.shape: x for x in batches if x.is_cuda}
    for x in shapes.values():
        with all_seeded(stream(method.seed, "warm-up"), x.device):
            method.predict(x)


def resize_batch(values: Tensor, rows: int) -> Tensor:
    """Return the first rows of a batch, or rows again if there are too few; at most twice as many as it has."""
    return values[:rows] if rows <= len(values) else torch.cat([values, values])[:rows]


def member_logits(method: Method, batches: Iterable[Tensor]) -> Tensor:
    """Predict in batches and return the members' logits, (K, N, C), on the CPU."""
    return torch.cat([method.predict(x).cpu() for x in batches], dim=1)


def check_shape(method: Method, logits: Tensor, count: int, classes: int) -> None:
    """Check that a method predicts each example, and each class of the dataset.

    Args:
        method: the method.
        logits: what it predicts, which should be (K, N, C).
        count: number of examples, N.
        classes: number of classes, C.

    Raises:
        ValueError: naming the method, with both shapes.
    """
    if logits.dim() != 3 or logits.shape[1:] != (count, classes):
        raise ValueError(
            f"{type(method).__name__}.predict returns logits of shape {tuple(logits.shape)} for {count} examples, "
            f"expected (members, {count}, {classes}): the dataset has {classes} classes"
        )


def temperature_scaled_metrics(
    method: Method, held_out: Minibatches | None, log_p: Tensor, y: Tensor
) -> dict[str, float]:
    """Fit a temperature on held-out data, and return it with NLL and ECE of the scaled test predictions.

    Args:
        method: prepared for prediction.
        held_out: held-out training data; None gives no metrics.
        log_p: log-probabilities of the test examples, (N, C).
        y: classes of the test examples, (N,).
    """
    if held_out is None:
        return {}
    parts = [(method.predict(x).cpu(), classes.cpu()) for x, classes in held_out]
    logits, classes = (torch.cat(part, dim) for part, dim in zip(zip(*parts, strict=True), (1, 0), strict=True))
    temperature = fit_temperature(logits, classes)
    log_p = scale_by_temperature(log_p, temperature)
    return {
        "temperature": temperature,
        "scaled/nll": metrics.nll(log_p, y),
        "scaled/ece": metrics.ece(log_p, y),
    }


def ood_metrics(method: Method, task: ImageTask, inside: Tensor) -> dict[str, float]:
    """Return AUROC, AUPR and FPR at 95 % TPR of detecting each OOD dataset by entropy, and their means.

    Args:
        method: prepared for prediction.
        task: provides the OOD datasets.
        inside: entropies of the test predictions, (N,).
    """
    found: dict[str, float] = {}
    for name, load in task.ood.items():
        logits = member_logits(method, normalised_batches(load(), task, evaluation_batch_size(task)))
        for metric, value in detection_metrics(inside, metrics.entropy(metrics.ensemble(logits))).items():
            found[f"ood_{metric}/{name}"] = value
    names = dict.fromkeys(name.partition("/")[0] for name in found)
    return {name: mean(found[f"{name}/{each}"] for each in task.ood) for name in names} | found


def corruption_metrics(method: Method, task: ImageTask, y: Tensor, clean: float) -> dict[str, float]:
    """Return the error (%) under each corruption, averaged over severities, and the mean over corruptions.

    If the clean accuracy is above 0, also return the relative change of the accuracy, (b - a) / a, at severity 3
    (Wortsman et al., ICML 2021, appendix G). Metrics on corruptions generated by this project start with "generated/".

    Args:
        method: prepared for prediction.
        task: provides the corrupted test images.
        y: classes, (N,).
        clean: accuracy a without corruption, in %.
    """
    right: dict[tuple[str, int], int] = {}
    size = evaluation_batch_size(task)
    for name, severity, start, images in task.corrupted(size):
        log_p = metrics.ensemble(member_logits(method, normalised_batches(images, task, size)))
        hits = int((log_p.argmax(-1) == y[start : start + len(log_p)]).sum())
        right[name, severity] = right.get((name, severity), 0) + hits
    accuracies = {key: 100 * count / len(y) for key, count in right.items()}
    kind = "" if task.official else "generated/"
    names = list(dict.fromkeys(name for name, _ in accuracies))
    found = {
        f"{kind}corruption_error/{name}": mean(100 - b for (each, _), b in accuracies.items() if each == name)
        for name in names
    }
    if found:
        found = {f"{kind}corruption_error": mean(found.values()), **found}
    if found and clean:
        changes = {name: relative_change(clean, accuracies[name, CHANGE_SEVERITY]) for name in names}
        found[f"{kind}relative_change"] = mean(changes.values())
        found |= {f"{kind}relative_change/{name}": change for name, change in changes.items()}
    return found


def ensemble_size_curves(logits: Tensor, y: Tensor) -> dict[str, list[float]]:
    """Return accuracy, NLL and ECE of the ensembles of the first 1 … K members."""
    found: dict[str, list[float]] = {"accuracy": [], "nll": [], "ece": []}
    for log_p in metrics.growing_ensembles(logits):
        for name, metric in (("accuracy", metrics.accuracy), ("nll", metrics.nll), ("ece", metrics.ece)):
            found[name].append(metric(log_p, y))
    return found


def weight_vectors(method: Method) -> Tensor:
    """Return the members' weights as vectors without BatchNorm's, (K, D), on the CPU."""
    return torch.stack(
        [flat_vector(weights_without_batch_norm(method.net, weights)).cpu() for weights in method.members()]
    )


def relative_change(clean: float, corrupted: float) -> float:
    """Return the relative change of accuracy under corruption, (b − a) / a, which is negative if accuracy is lost.

    The paper uses severity 3. It plots the difference between two methods for each corruption, which is positive if the
    first method loses less.

    Args:
        clean: accuracy a on the clean test set.
        corrupted: accuracy b on the corrupted one, in the same unit.

    Returns:
        The relative change, without unit; NaN if the clean accuracy is 0.

    References:
        Wortsman et al., Learning neural network subspaces, ICML 2021, appendix G, Figures 19 and 20.
    """
    return (corrupted - clean) / clean if clean else math.nan
