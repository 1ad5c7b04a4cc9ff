"""Early stopping of any method."""

import math
from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.core.declarations import About, Batch, PreparationData
from methods.core.method import MakeMethod, Method, prepare_for_prediction
from methods.core.random_streams import MakeNet
from methods.core.recipe import Recipe
from methods.core.wrapper import Wrapper
from methods.sgd import SGD


class EarlyStopping(Wrapper):
    """Predict with the state of the epoch that scored best on held-out data.

    Training continues to the end of the recipe, so that its schedule and cost are those of the inner method. Of equally
    good epochs the earlier one is kept. Every epoch additionally costs a prediction of the held-out data, and the
    passes over the training data that the inner method needs to prepare for prediction.

    References:
        Prechelt, Early stopping - but when?, 1998 (training stops late, and the best state is used).
        Wortsman et al., Learning neural network subspaces, ICML 2021, Figures 8 and 12 ("optimal" early stopping,
        which is `criterion="test"`: a value chosen on test data).
    """

    about: ClassVar[About] = About("regularisation", "Prechelt 1998")
    divisible = True

    best_score: Tensor
    best_epoch: Tensor

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        of: MakeMethod = SGD,
        criterion: Literal["validation", "test"] = "validation",
        metric: Literal["nll", "accuracy"] = "nll",
    ) -> None:
        """Wrap the method `of`.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            of: the method that is trained.
            criterion: the held-out data by which the best epoch is chosen.
            metric: the score: the negative log-likelihood or the accuracy of the members' mean probabilities.

        Raises:
            ValueError: if the inner method watches held-out data itself.
        """
        super().__init__(make_net, recipe, of)
        if self.inner.watches:
            raise ValueError(f"EarlyStopping cannot be made of {type(self.inner).__name__}, which watches data itself")
        self.start_epoch = 0
        self.watches, self.metric = criterion, metric
        self.candidate, self.best = self.copy_inner(), self.copy_inner()
        self.register_buffer("best_score", torch.tensor(math.inf, dtype=torch.float64))
        self.register_buffer("best_epoch", torch.tensor(-1))

    @torch.no_grad()
    def watch(self, held_out: Iterable[Batch], training: Iterable[Batch]) -> None:
        """Prepare and score a copy of the inner method, and keep it if it is the best so far."""
        self.candidate.load_state_dict(self.inner.state_dict())
        mode = self.candidate.training
        prepare_for_prediction(self.candidate, PreparationData(training, held_out))
        score = self.score(held_out)
        self.candidate.train(mode)
        if score < self.best_score:
            self.best.load_state_dict(self.candidate.state_dict())
            self.best_score.copy_(score)
            self.best_epoch.fill_(self.epoch)

    def score(self, held_out: Iterable[Batch]) -> Tensor:
        """Return the candidate's mean negative log-likelihood in nats, or its error rate; lower is better.

        Raises:
            ValueError: if there is no batch.
        """
        total, seen = torch.zeros_like(self.best_score), 0
        for x, y in held_out:
            log_p = self.candidate.predict(x).double().log_softmax(2)  # (K, B, C), of text (K, B, C, T)
            log_p = log_p.logsumexp(0) - math.log(len(log_p))
            wrong = (log_p.argmax(1) != y)[y >= 0]
            nll = F.nll_loss(log_p, y, ignore_index=-1, reduction="sum")
            total += wrong.sum() if self.metric == "accuracy" else nll
            seen += len(wrong)
        if not seen:
            raise ValueError("EarlyStopping was shown no held-out data")
        return total / seen

    def predictors(self) -> list[Method]:
        """Return the best state; before any was scored, the inner method."""
        return [self.best if self.best_epoch >= 0 else self.inner]

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Prepare the inner method if no state was scored; the best state was prepared when it was scored."""
        if self.best_epoch < 0:
            super().prepare(batches)
