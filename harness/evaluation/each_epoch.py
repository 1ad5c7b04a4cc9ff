"""Measurements after each epoch. They use a copy of the method, so that training stays bit-identical."""

from collections.abc import Collection, Iterable

import torch

from harness.evaluation.weight_space import accuracy_and_nll, anchor_distances
from harness.store.outcome import check_finite
from methods import Batch, Method, prepare_for_prediction
from methods.core.layers import copy_module


class EpochEvaluator:
    """Evaluates a method after each epoch, without any effect on its training."""

    def __init__(
        self, asked: Collection[str], method: Method, examples: Iterable[Batch], training: Iterable[Batch]
    ) -> None:
        """Copy the method.

        Args:
            asked: requested measurements: "test" or "validation" for scores, "distances".
            method: the method before training.
            examples: the examples to score, each once.
            training: the data with which the method prepares, as before the final prediction.
        """
        self.asked, self.examples, self.training = asked, examples, training
        self.copy = copy_module(method)

    @torch.no_grad()
    def measure(self, method: Method) -> dict[str, float]:
        """Measure the method at the end of an epoch. The method is not changed.

        Returns:
            test/accuracy (%), test/nll, and for text test/bpc (or validation/…). If the method has several anchors,
            also distance/l2, distance/cosine and distance/squared_cosine.

        Raises:
            DivergenceError: if a value is NaN or infinite.
        """
        found: dict[str, float] = {}
        device = next(method.net.parameters()).device
        self.copy.load_state_dict(method.state_dict())
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if "distances" in self.asked:
                apart = anchor_distances(self.copy.net, self.copy.anchors())
                found |= {f"distance/{name}": value for name, value in apart.items()}
            for scored in {"test", "validation"}.intersection(self.asked):
                prepare_for_prediction(self.copy, self.training)
                found |= accuracy_and_nll(self.copy.predict, self.examples).as_metrics(scored)
        check_finite(found, f"after epoch {method.epoch + 1}")
        return found
