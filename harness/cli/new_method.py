"""`econ new-method`: writes the files of a new method, a small working one with a test."""

import importlib.util
import keyword
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Refusal, console, print_or_write

METHOD = '''"""{title}: train on noisy inputs. Replace this by what your method does differently."""

from typing import Annotated, ClassVar

import torch
from optuna.distributions import BaseDistribution, FloatDistribution
from pydantic import Field
from torch import Tensor

from methods import About, MakeNet, Method, Recipe, Weights


class {name}(Method):
    """Add Gaussian noise to the inputs in training.

    References:
        Bishop, Training with noise is equivalent to Tikhonov regularization, Neural Computation 1995.
    """

    about = About("regularisation", "Bishop 1995")  # add training="2" if it trains at twice the cost
    space: ClassVar[dict[str, BaseDistribution]] = {{"sigma": FloatDistribution(0.0, 0.5)}}
    version = 1  # raise it when the results change

    def __init__(
        self, make_net: MakeNet, recipe: Recipe, *, sigma: Annotated[float, Field(ge=0)] = 0.1
    ) -> None:
        """Use noise of standard deviation `sigma`, in units of the normalised inputs."""
        super().__init__(make_net, recipe)
        self.sigma = sigma

    def begin_epoch(self, epoch: int) -> None:
        """Start the epoch's stream of noise: randomness is a function of (seed, purpose, epoch)."""
        super().begin_epoch(epoch)
        self.noise = self.generator("input noise")

    def loss(self, x: Tensor, y: Tensor, weights: Weights | None = None) -> Tensor:
        """Give the loss on noisy inputs."""
        return super().loss(x + self.sigma * torch.randn(x.shape, generator=self.noise).to(x), y, weights)
'''

TEST = '''"""Tests of {stem}."""

from pathlib import Path

import torch
from torch import nn
from {stem} import {name}

from harness.conformance import check_plugin
from methods import MakeNet, Recipe


def make(sigma: float) -> {name}:
    """Build the method on a linear network."""
    make_net = MakeNet(lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), seed=0)
    return {name}(make_net, Recipe(epochs=2), sigma=sigma)


def test_noise_changes_the_loss_and_comes_back_with_the_epoch() -> None:
    """The same epoch draws the same noise; no noise is plain training."""
    x, y = torch.ones(5, 1, 2, 2), torch.zeros(5, dtype=torch.long)
    losses = []
    for sigma in (0.5, 0.5, 0.0):
        method = make(sigma)
        method.begin_epoch(1)
        losses.append(method.loss(x, y).item())
    plain = make(0.0).recipe.criterion(make(0.0)(x), y).item()
    assert losses[0] == losses[1] != losses[2] == plain


def test_it_keeps_what_methods_must() -> None:
    """It resumes, follows its seed, is counted and saved, alone and inside of others; takes half a minute."""
    assert check_plugin(Path(__file__).with_name("{stem}.py")) == []
'''


def files(stem: str) -> dict[str, str]:
    """Give the files of a new method by name.

    Args:
        stem: the method's name in snake_case, which studies will use.

    Raises:
        ValueError: if it is not a name in snake_case, or one that is taken.
    """
    from harness.parsing.plugins import available_methods

    if not stem.isidentifier() or stem != stem.lower() or keyword.iskeyword(stem) or not stem.strip("_"):
        raise ValueError(f"{stem!r} is not a name in snake_case, like my_method")
    if stem in available_methods() or importlib.util.find_spec(stem):
        raise ValueError(f"{stem!r} is the name of a method or of an installed package already")
    name = "".join(word.capitalize() for word in stem.split("_"))
    title = stem.replace("_", " ").capitalize()
    values = {"stem": stem, "name": name, "title": title}
    return {f"{stem}.py": METHOD.format(**values), f"test_{stem}.py": TEST.format(**values)}


def new_method(
    name: Annotated[str, typer.Argument(help="The method's name in snake_case; studies will use it.")],
    into: Annotated[Path, typer.Option(file_okay=False, help="The folder to write to.")] = Path(),
) -> None:
    """Write a small working method of your own, and its test, as a start."""
    try:
        written = files(name)
    except ValueError as error:
        raise Refusal(str(error)) from error
    taken = [file for file in written if (into / file).exists()]
    if taken:
        raise Refusal(f"{into / taken[0]} is there already; nothing was written")
    for file, text in written.items():
        print_or_write(text, into / file)
    path = into / f"{name}.py"
    console.print(f"try: econ check-method {path}, then econ run digits --plugin {path}")
