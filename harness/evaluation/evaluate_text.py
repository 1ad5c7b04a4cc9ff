"""Evaluates a prepared method on a text: bits per character and other metrics, accumulated window by window."""

import time
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from data import Minibatches, TextTask
from harness.costs.cost import CostCounter
from harness.costs.parameters import parameters_kept
from harness.evaluation import metrics
from harness.evaluation.evaluate import (
    MAX_BATCH_SIZE,
    Evaluation,
    check_shape,
    forwards_per_example,
    mean,
    warm_up_predictions,
    weight_vectors,
)
from harness.evaluation.streaming_metrics import StreamingMetrics
from harness.evaluation.temperature_scaling import fit_temperature, scale_by_temperature
from methods import Method

TEMPERATURE_BATCHES = 2
"""Number of batches of held-out text for fitting a temperature, which are about 100,000 symbols."""


class TextScores:
    """Accumulates the metrics of an ensemble and of its single members."""

    def __init__(self, temperature: float | None, bins: int | None) -> None:
        """Start without predictions.

        Args:
            temperature: temperature for scaling the combined prediction; None for no scaled metrics.
            bins: number of bins of a second calibration error; None for none.
        """
        self.second = None if bins is None else StreamingMetrics(bins)
        self.temperature = temperature
        self.symbols = 0
        self.growing: list[StreamingMetrics] = []  # of the first 1 … K members
        self.singles: list[StreamingMetrics] = []
        self.logits, self.scaled = StreamingMetrics(), StreamingMetrics()
        self.diversity: dict[str, float] = {}
        self.log_likelihoods: list[Tensor] = []

    def add(self, logits: Tensor, y: Tensor) -> None:
        """Add predictions.

        Args:
            logits: logits of the members, (K, n, C).
            y: symbols, (n,).
        """
        if not self.growing:
            self.growing, self.singles = ([StreamingMetrics() for _ in logits] for _ in range(2))
        for score, log_p in zip(self.growing, metrics.growing_ensembles(logits), strict=True):
            score.add(log_p, y)
        together = log_p
        self.log_likelihoods.append(together.gather(1, y[:, None])[:, 0].float())
        if self.second:
            self.second.add(together, y)
        if self.temperature is not None:
            self.scaled.add(scale_by_temperature(together, self.temperature), y)
        if len(logits) > 1:
            for score, single in zip(self.singles, logits, strict=True):
                score.add(metrics.ensemble(single[None]), y)
            self.logits.add(metrics.ensemble(logits, average="logits"), y)
            for name, value in metrics.diversity(logits).items():
                self.diversity[name] = self.diversity.get(name, 0.0) + value * len(y)
        self.symbols += len(y)

    def metrics(self) -> dict[str, float]:
        """Return the metrics of all predictions so far."""
        members = [
            add_bits_per_character(score.metrics())
            for score in (self.singles if len(self.singles) > 1 else self.growing)
        ]
        found = add_bits_per_character(self.growing[-1].metrics()) | {"members": float(len(members))}
        found |= {f"single/{name}": mean(member[name] for member in members) for name in ("accuracy", "nll", "bpc")}
        if self.second:
            found[f"ece_{self.second.bins}"] = self.second.metrics()["ece"]
        if self.temperature is not None:
            cooled = self.scaled.metrics()
            found |= {"temperature": self.temperature, "scaled/nll": cooled["nll"], "scaled/ece": cooled["ece"]}
        if len(members) > 1:
            found |= {
                f"logit_average/{name}": value for name, value in add_bits_per_character(self.logits.metrics()).items()
            }
            found |= {f"diversity/{name}": total / self.symbols for name, total in self.diversity.items()}
        return found

    def curves(self) -> dict[str, list[float]]:
        """Return accuracy, NLL, ECE and bits per character of the ensembles of the first 1 … K members."""
        listed = [add_bits_per_character(score.metrics()) for score in self.growing]
        return {name: [found[name] for found in listed] for name in ("accuracy", "nll", "ece", "bpc")}


@torch.no_grad()
def evaluate_text(method: Method, task: TextTask, counter: CostCounter, bins: int | None = None) -> Evaluation:
    """Score every symbol of the test text except the first, exactly once.

    The full predictions are too large to store. Only ln p of each true symbol is stored.

    Args:
        method: prepared for prediction.
        task: provides the test text.
        counter: cost counter of the method's networks.
        bins: number of bins of a second calibration error, `ece_<bins>`; None for none.
    """
    # Deviation: text has no adaptive ECE, because its bins depend on all confidences at once.
    method.eval()
    test = task.part("test", MAX_BATCH_SIZE)
    assert test is not None
    held_out = task.part("validation", MAX_BATCH_SIZE)
    x = next(iter(test))[0]
    kept = parameters_kept(method, x[:2])
    passes = forwards_per_example(method, x[:2], counter)
    warm_up_predictions(method, (x for x, _ in test))
    scores = TextScores(None if held_out is None else fit_text_temperature(method, held_out), bins)
    seconds = 0.0
    for logits, y, spent in predict_windows(method, test):
        check_shape(method, logits, len(y), task.shape.classes)
        scores.add(logits, y)
        seconds += spent
    found = scores.metrics()
    vectors = weight_vectors(method)
    if len(vectors) > 1:
        found |= {f"diversity/{name}": value for name, value in metrics.weight_distances(vectors).items()}
    return Evaluation(
        found,
        scores.curves(),
        kept,
        passes,
        1000 * seconds / scores.symbols,
        {"log_likelihoods": torch.cat(scores.log_likelihoods).numpy()},
    )


def predict_windows(method: Method, windows: Minibatches) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Predict window by window.

    Yields:
        The members' logits, (K, n, C), and the symbols, (n,), both on the CPU, and the seconds of the prediction.
    """
    for x, y in windows:
        start = time.perf_counter()
        logits = method.predict(x).cpu()  # (K, B, C, T)
        seconds = time.perf_counter() - start
        y = y.cpu()
        yield logits.movedim(2, -1)[:, y >= 0], y[y >= 0], seconds


def fit_text_temperature(method: Method, held_out: Minibatches) -> float:
    """Fit a temperature on the beginning of the held-out text."""
    parts = [(logits, y) for logits, y, _ in islice(predict_windows(method, held_out), TEMPERATURE_BATCHES)]
    return fit_temperature(torch.cat([logits for logits, _ in parts], dim=1), torch.cat([y for _, y in parts]))


def add_bits_per_character(found: dict[str, float]) -> dict[str, float]:
    """Add the bits per character, which are the NLL in another unit."""
    return found | {"bpc": metrics.bits_per_character(found["nll"])}
