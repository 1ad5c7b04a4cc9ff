"""Evaluate a prepared method on a text: bits per character and the other metrics, summed up window by window."""

import time
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from data import Minibatches, TextTask
from harness.costs.cost import Counter
from harness.costs.parameters import parameters_kept
from harness.evaluation import metrics
from harness.evaluation.evaluate import BATCH, Evaluation, forwards_per_example, mean, weight_vectors
from harness.evaluation.streaming_metrics import RunningScore
from harness.evaluation.temperature_scaling import fit_temperature, scaled
from methods import Method

HELD_OUT = 2
"""Minibatches of held-out text to which a temperature is fitted: some 100,000 symbols for one number."""


class TextScores:
    """The running scores of a method's members, together and alone."""

    def __init__(self, temperature: float | None, bins: int | None) -> None:
        """Start from nothing.

        Args:
            temperature: by which the combined prediction is scaled too; None for no such column.
            bins: of a second calibration error; None for none.
        """
        self.second = None if bins is None else RunningScore(bins)
        self.temperature = temperature
        self.symbols = 0
        self.growing: list[RunningScore] = []  # of the first 1 … K members
        self.singles: list[RunningScore] = []
        self.logits, self.scaled = RunningScore(), RunningScore()
        self.diversity: dict[str, float] = {}
        self.log_likelihoods: list[Tensor] = []

    def add(self, logits: Tensor, y: Tensor) -> None:
        """Count predictions, member logits (K, n, C), of the symbols y, (n,)."""
        if not self.growing:
            self.growing, self.singles = ([RunningScore() for _ in logits] for _ in range(2))
        for score, log_p in zip(self.growing, metrics.growing_ensembles(logits), strict=True):
            score.add(log_p, y)
        together = log_p
        self.log_likelihoods.append(together.gather(1, y[:, None])[:, 0].float())
        if self.second:
            self.second.add(together, y)
        if self.temperature is not None:
            self.scaled.add(scaled(together, self.temperature), y)
        if len(logits) > 1:
            for score, single in zip(self.singles, logits, strict=True):
                score.add(metrics.ensemble(single[None]), y)
            self.logits.add(metrics.ensemble(logits, average="logits"), y)
            for name, value in metrics.diversity(logits).items():
                self.diversity[name] = self.diversity.get(name, 0.0) + value * len(y)
        self.symbols += len(y)

    def metrics(self) -> dict[str, float]:
        """Give the metrics of all that was counted."""
        members = [with_bits(score.metrics()) for score in (self.singles if len(self.singles) > 1 else self.growing)]
        found = with_bits(self.growing[-1].metrics()) | {"members": float(len(members))}
        found |= {f"single/{name}": mean(member[name] for member in members) for name in ("accuracy", "nll", "bpc")}
        if self.second:
            found[f"ece_{self.second.bins}"] = self.second.metrics()["ece"]
        if self.temperature is not None:
            cooled = self.scaled.metrics()
            found |= {"temperature": self.temperature, "scaled/nll": cooled["nll"], "scaled/ece": cooled["ece"]}
        if len(members) > 1:
            found |= {f"logit_average/{name}": value for name, value in with_bits(self.logits.metrics()).items()}
            found |= {f"diversity/{name}": total / self.symbols for name, total in self.diversity.items()}
        return found

    def curves(self) -> dict[str, list[float]]:
        """Give the metrics of the first 1 … K members together."""
        listed = [with_bits(score.metrics()) for score in self.growing]
        return {name: [found[name] for found in listed] for name in ("accuracy", "nll", "ece", "bpc")}


@torch.no_grad()
def evaluate_text(method: Method, task: TextTask, counter: Counter, bins: int | None = None) -> Evaluation:
    """Score every symbol of the test text but its first, exactly once.

    Of the predictions, which are too many to keep, ln p of each right symbol is kept.

    Args:
        method: prepared for prediction.
        task: its test text.
        counter: of the method's networks.
        bins: of a second calibration error, `ece_<bins>`; None for none.
    """
    # Deviation: there is no adaptive ECE of text, whose bins depend on all confidences at once.
    method.eval()
    test = task.part("test", BATCH)
    assert test is not None
    held_out = task.part("validation", BATCH)
    x = next(iter(test))[0]
    kept = parameters_kept(method, x[:2])
    passes = forwards_per_example(method, x[:2], counter)
    scores = TextScores(None if held_out is None else temperature(method, held_out), bins)
    seconds = 0.0
    for logits, y, spent in predictions(method, test):
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


def predictions(method: Method, passes: Minibatches) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Predict window by window: member logits (K, n, C) and symbols (n,) on the CPU, and the seconds it took."""
    for x, y in passes:
        start = time.perf_counter()
        logits = method.predict(x).cpu()  # (K, B, C, T)
        seconds = time.perf_counter() - start
        y = y.cpu()
        yield logits.movedim(2, -1)[:, y >= 0], y[y >= 0], seconds


def temperature(method: Method, held_out: Minibatches) -> float:
    """Fit a temperature to the beginning of held-out text."""
    parts = [(logits, y) for logits, y, _ in islice(predictions(method, held_out), HELD_OUT)]
    return fit_temperature(torch.cat([logits for logits, _ in parts], dim=1), torch.cat([y for _, y in parts]))


def with_bits(found: dict[str, float]) -> dict[str, float]:
    """Add the bits per character, which are the NLL in other units."""
    return found | {"bpc": metrics.bits_per_character(found["nll"])}
