"""What is measured after each epoch, on a copy of the method, so that training goes on with the same bits."""

import math
from collections.abc import Collection, Iterable
from copy import deepcopy

import torch

from harness.points import distances, tally
from harness.train import DivergenceError
from methods import Batch, Method


class EachEpoch:
    """Measures a method after each of its epochs; nothing is selected by it."""

    def __init__(
        self, asked: Collection[str], method: Method, test: Iterable[Batch], training: Iterable[Batch]
    ) -> None:
        """Copy the method.

        Args:
            asked: "test", "distances".
            method: before it is trained.
            test: each test example once.
            training: on which running statistics are re-estimated, as before a prediction at the end.
        """
        self.asked, self.test, self.training = asked, test, training
        self.copy = deepcopy(method)

    @torch.no_grad()
    def measure(self, method: Method) -> dict[str, float]:
        """Measure the method at the end of an epoch; it is only read.

        Returns:
            test/accuracy (%), test/nll, and of text test/bpc; distance/l2, distance/cosine and
            distance/squared_cosine, where the method has more than one anchor by now.

        Raises:
            DivergenceError: if something is no number.
        """
        found: dict[str, float] = {}
        device = next(method.net.parameters()).device
        self.copy.load_state_dict(method.state_dict())
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if "distances" in self.asked:
                apart = distances(self.copy.net, self.copy.anchors())
                found |= {f"distance/{name}": value for name, value in apart.items()}
            if "test" in self.asked:
                self.copy.train()
                self.copy.prepare(self.training)
                self.copy.eval()
                total = tally(self.copy.predict, self.test)
                found |= total.named("test")
        bad = [name for name, value in found.items() if not math.isfinite(value)]
        if bad:
            raise DivergenceError(f"not a number after epoch {method.epoch + 1}: {', '.join(bad)}")
        return found
