"""What is measured after each epoch, on a copy of the method, so that training goes on with the same bits."""

import math
from collections.abc import Collection, Iterable
from copy import deepcopy

import torch

from harness.evaluation.weight_space import accuracy_and_nll, anchor_distances
from harness.store.outcome import DivergenceError
from methods import Batch, Method


class EpochEvaluator:
    """Measures a method after each of its epochs; nothing of the method depends on it."""

    def __init__(
        self, asked: Collection[str], method: Method, examples: Iterable[Batch], training: Iterable[Batch]
    ) -> None:
        """Copy the method.

        Args:
            asked: "test" or "validation", which names the scores; "distances".
            method: before it is trained.
            examples: each of those that are scored once.
            training: on which running statistics are re-estimated, as before a prediction at the end.
        """
        self.asked, self.examples, self.training = asked, examples, training
        self.copy = deepcopy(method)

    @torch.no_grad()
    def measure(self, method: Method) -> dict[str, float]:
        """Measure the method at the end of an epoch; it is only read.

        Returns:
            test/accuracy (%), test/nll, and of text test/bpc (or validation/…); distance/l2, distance/cosine and
            distance/squared_cosine, where the method has more than one anchor by now.

        Raises:
            DivergenceError: if something is no number.
        """
        found: dict[str, float] = {}
        device = next(method.net.parameters()).device
        self.copy.load_state_dict(method.state_dict())
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if "distances" in self.asked:
                apart = anchor_distances(self.copy.net, self.copy.anchors())
                found |= {f"distance/{name}": value for name, value in apart.items()}
            for scored in {"test", "validation"}.intersection(self.asked):
                self.copy.train()
                self.copy.prepare(self.training)
                self.copy.eval()
                found |= accuracy_and_nll(self.copy.predict, self.examples).as_metrics(scored)
        bad = [name for name, value in found.items() if not math.isfinite(value)]
        if bad:
            raise DivergenceError(f"not a number after epoch {method.epoch + 1}: {', '.join(bad)}")
        return found
