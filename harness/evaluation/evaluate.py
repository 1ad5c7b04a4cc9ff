"""Evaluate a prepared method on everything its task holds; only here is the test set opened, unless a method asks."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from data import ImageTask, Minibatches, Task, normalised_batches
from harness.costs.cost import Cost, Counter
from harness.costs.parameters import parameters_kept
from harness.evaluation import metrics
from harness.evaluation.ood_detection import detection
from harness.evaluation.temperature_scaling import fit_temperature, scaled
from harness.evaluation.weight_space import vector, without_batch_norm
from methods import Method

BATCH = 1024
"""Examples predicted at once, if they are small."""
VALUES = 3 * 2**22
"""Values of images predicted at once, at most: a thousand of 64 pixels, some eighty of 224."""
MANY_CLASSES = 100
"""From so many on, the top-5 accuracy says something."""
CHANGE_SEVERITY = 3
"""Of the corruptions under which the relative change of the accuracy is measured."""


@dataclass
class Evaluation:
    """What evaluation found.

    Attributes:
        metrics: name → value.
        curves: name → values for the first 1 … K members.
        parameters_kept: how many parameters prediction needs.
        forwards_per_example: forward passes that one prediction takes.
        seconds_per_1000: seconds for 1,000 predictions, in batches.
        predictions: what is kept of the predictions: of images the probabilities, (N, C) float32, and labels, (N,).
    """

    metrics: dict[str, float]
    curves: dict[str, list[float]]
    parameters_kept: int
    forwards_per_example: float
    seconds_per_1000: float
    predictions: dict[str, np.ndarray]

    def save_predictions(self, file: BinaryIO) -> None:
        """Write the predictions as .npz."""
        np.savez_compressed(file, allow_pickle=False, **self.predictions)


def at_once(task: Task) -> int:
    """Say how many examples of a task are predicted at once, so that memory holds what a network makes of them."""
    channels, side = task.shape.in_channels, task.shape.image_size
    return BATCH if channels is None or side is None else max(1, min(BATCH, VALUES // (channels * side**2)))


@torch.no_grad()
def evaluate(method: Method, task: ImageTask, counter: Counter, bins: int | None = None) -> Evaluation:
    """Score every test example exactly once, and the OOD datasets of the task.

    Args:
        method: prepared for prediction.
        task: gives its test set, OOD datasets and corrupted test images.
        counter: of the method's networks.
        bins: of a second calibration error, `ece_<bins>`; None for none.
    """
    method.eval()
    size = at_once(task)
    test = task.part("test", size)
    assert test is not None
    y = task.test.labels.cpu()
    x = next(iter(test))[0]
    kept = parameters_kept(method, x[:2])
    passes = forwards_per_example(method, x, counter)
    start = time.perf_counter()
    logits = member_logits(method, (x for x, _ in test))
    seconds = 1000 * (time.perf_counter() - start) / len(y)
    log_p = metrics.ensemble(logits)
    found = score(log_p, y, bins) | {"members": float(len(logits))}
    singles = [score(metrics.ensemble(single[None]), y) for single in logits]
    found |= {f"single/{name}": mean(single[name] for single in singles) for name in ("accuracy", "nll")}
    found |= after_temperature_scaling(method, task.part("validation", size), log_p, y)
    found |= out_of_distribution(method, task, metrics.entropy(log_p))
    found |= corruption(method, task, y, found["accuracy"])
    if len(logits) > 1:
        averaged = score(metrics.ensemble(logits, average="logits"), y, bins)
        found |= {f"logit_average/{name}": value for name, value in averaged.items()}
        found |= {f"diversity/{name}": value for name, value in metrics.diversity(logits).items()}
    vectors = weight_vectors(method)
    if len(vectors) > 1:
        found |= {f"diversity/{name}": value for name, value in metrics.weight_distances(vectors).items()}
    return Evaluation(
        found,
        curves(logits, y),
        kept,
        passes,
        seconds,
        {"probabilities": log_p.exp().float().numpy(), "labels": y.numpy()},
    )


def score(log_p: Tensor, y: Tensor, bins: int | None = None) -> dict[str, float]:
    """Give the metrics of one prediction, (N, C) log-probabilities, of the classes y, (N,)."""
    further = {} if bins is None else {f"ece_{bins}": metrics.ece(log_p, y, bins)}
    if log_p.shape[1] >= MANY_CLASSES:
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
    """Give the arithmetic mean."""
    listed = list(values)
    return sum(listed) / len(listed)


def forwards_per_example(method: Method, x: Tensor, counter: Counter) -> float:
    """Count the forward passes of one prediction; also warms the device up before timing."""
    kept, counter.cost, counter.counting = counter.cost, Cost(), True
    method.predict(x)
    count, counter.cost, counter.counting = counter.cost.forward_examples, kept, False
    return count / len(x)


def member_logits(method: Method, batches: Iterable[Tensor]) -> Tensor:
    """Predict batch by batch: (K, N, C) on the CPU."""
    return torch.cat([method.predict(x).cpu() for x in batches], dim=1)


def after_temperature_scaling(
    method: Method, held_out: Minibatches | None, log_p: Tensor, y: Tensor
) -> dict[str, float]:
    """Give NLL and ECE at the temperature that suits held-out data best, and that temperature; nothing without such.

    Args:
        method: prepared for prediction.
        held_out: data that it was not trained on.
        log_p: its prediction of the test examples, (N, C).
        y: their classes, (N,).
    """
    if held_out is None:
        return {}
    parts = [(method.predict(x).cpu(), classes.cpu()) for x, classes in held_out]
    logits, classes = (torch.cat(part, dim) for part, dim in zip(zip(*parts, strict=True), (1, 0), strict=True))
    temperature = fit_temperature(logits, classes)
    log_p = scaled(log_p, temperature)
    return {
        "temperature": temperature,
        "scaled/nll": metrics.nll(log_p, y),
        "scaled/ece": metrics.ece(log_p, y),
    }


def out_of_distribution(method: Method, task: ImageTask, inside: Tensor) -> dict[str, float]:
    """Give AUROC, AUPR and FPR at 95 % TPR of telling each OOD dataset by entropy, and their means."""
    found: dict[str, float] = {}
    for name, load in task.ood.items():
        logits = member_logits(method, normalised_batches(load(), task, at_once(task)))
        for metric, value in detection(inside, metrics.entropy(metrics.ensemble(logits))).items():
            found[f"ood_{metric}/{name}"] = value
    names = dict.fromkeys(name.partition("/")[0] for name in found)
    return {name: mean(found[f"{name}/{each}"] for each in task.ood) for name in names} | found


def corruption(method: Method, task: ImageTask, y: Tensor, clean: float) -> dict[str, float]:
    """Give the error (%) under each corruption, averaged over severities, and the mean over corruptions.

    And the relative change of the accuracy, (b - a) / a, at severity 3 (Wortsman et al., ICML 2021, appendix G), where
    any clean image is right. What was measured on corruptions that are generated here is called so.

    Args:
        method: prepared for prediction.
        task: gives its corrupted test images.
        y: the classes, (N,).
        clean: accuracy a without corruption, in %.
    """
    right: dict[tuple[str, int], int] = {}
    size = at_once(task)
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


def curves(logits: Tensor, y: Tensor) -> dict[str, list[float]]:
    """Give the metrics of the first 1 … K members together."""
    found: dict[str, list[float]] = {"accuracy": [], "nll": [], "ece": []}
    for log_p in metrics.growing_ensembles(logits):
        for name, metric in (("accuracy", metrics.accuracy), ("nll", metrics.nll), ("ece", metrics.ece)):
            found[name].append(metric(log_p, y))
    return found


def weight_vectors(method: Method) -> Tensor:
    """Give every member's weights as a vector, without BatchNorm's: (K, D), on the CPU as each member is made."""
    return torch.stack([vector(without_batch_norm(method.net, weights)).cpu() for weights in method.members()])


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
