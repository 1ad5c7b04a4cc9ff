"""Test-time augmentation of any method for images."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from methods import SGD, About, MakeMethod, MakeNet, Recipe, Wrapper

SHIFTS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))


class TTA(Wrapper):
    """Predict K shifted views of each image.

    References:
        Krizhevsky et al., ImageNet classification with deep convolutional neural networks, NIPS 2012, section 4.1.
    """

    about = About("test-time augmentation", "Krizhevsky et al. 2012", prediction="K")
    divisible = True
    prediction_only = True

    def __init__(
        self, make_net: MakeNet, recipe: Recipe, *, of: MakeMethod = SGD, K: Annotated[int, Field(ge=1, le=5)] = 5
    ) -> None:
        """Shift by a pixel at most."""
        super().__init__(make_net, recipe, of)
        self.K = K

    def predict(self, x: Tensor) -> Tensor:
        """Return the logits of every member for every view, (K·members, B, C)."""
        return torch.cat([self.inner.predict(x.roll(shift, (-2, -1))) for shift in SHIFTS[: self.K]])
