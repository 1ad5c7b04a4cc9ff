"""The networks that the methods train. `build` makes one by its name, for example "wrn-28-10"."""

import difflib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from models import imagenet
from models.lenet import LeNet5
from models.lstm import LSTM
from models.pyramidnet import PyramidNet
from models.resnet import CResNet20
from models.wide_resnet import WideResNet

Builder = Callable[..., nn.Module]

MODELS: dict[str, Builder] = {
    "lenet5": LeNet5,
    "cresnet20": CResNet20,
    "wrn": WideResNet,
    "pyramidnet": PyramidNet,
    "tiny_resnet18": imagenet.tiny_resnet18,
    "tiny_resnet50": imagenet.tiny_resnet50,
    "resnet18": imagenet.resnet18,
    "resnet50": imagenet.resnet50,
    "resnet152": imagenet.resnet152,
    "wide_resnet50_2": imagenet.wide_resnet50_2,
    "densenet161": imagenet.densenet161,
    "lstm": LSTM,
}

CONV = "-conv"
"""At the end of a name: the last layer is a 1 x 1 convolution without bias, as in the subspaces paper's networks."""

_WITH_CONV = ("cresnet20", "tiny_resnet18", "tiny_resnet50", "resnet50", "wide_resnet50_2")
_TEXT = ("lstm",)


class _Sized(NamedTuple):
    """A family whose name carries numbers: the pattern of the full name and an example of it."""

    pattern: re.Pattern[str]
    example: str


_SIZED = {
    "wrn": _Sized(re.compile(r"wrn-(?P<depth>\d+)-(?P<width>\d+)"), "wrn-28-10"),
    "pyramidnet": _Sized(re.compile(r"pyramidnet-(?P<depth>\d+)-(?P<alpha>\d+)"), "pyramidnet-110-270"),
    "lstm": _Sized(re.compile(r"lstm-(?P<units>\d+)"), "lstm-500"),
}


def describe_architectures() -> dict[str, str]:
    """Describe, in a line, every name that `build` understands; a sized family is named "wrn-DEPTH-WIDTH"."""
    described = {}
    for name, builder in MODELS.items():
        sizes = list(_SIZED[name].pattern.groupindex) if name in _SIZED else []
        line = (builder.__doc__ or "").strip().splitlines()[0]
        described["-".join([name, *(size.upper() for size in sizes)])] = line
        if name in _WITH_CONV:
            described[f"{name}{CONV}"] = "The same, but its last layer is a 1 x 1 convolution without bias."
    return described


def architecture_names() -> list[str]:
    """The names that `build` understands; a sized family is shown by its pattern, "wrn-DEPTH-WIDTH"."""
    return list(describe_architectures())


def build(
    architecture: str, *, classes: int, in_channels: int | None, image_size: int | None, dropout: float = 0.0
) -> nn.Module:
    """Make a network by its name, its weights drawn from torch's global random numbers.

    Args:
        architecture: One of `architecture_names()`, numbers in place of capitals: "lenet5", "wrn-28-10", "lstm-500".
        classes: Number of classes; of text, the number of symbols.
        in_channels: Channels of the input images; None for text.
        image_size: Side of the square input images, in pixels; None for text.
        dropout: Probability of dropping a unit; at 0 the network holds no dropout modules.

    Returns:
        A network that maps images (B, in_channels, image_size, image_size) to logits (B, classes), or rows of symbols
        (B, T), int64, to logits (B, classes, T).

    Raises:
        ValueError: If the name is unknown, a number does not fit the architecture, or the architecture reads text where
            the data are images or the other way round.
    """
    family, options = _parse(architecture)
    if not 0 <= dropout < 1:
        raise ValueError(f"{architecture}: dropout must be in [0, 1), got {dropout}")
    shape = {} if family in _TEXT else {"in_channels": in_channels, "image_size": image_size}
    _check_kind(architecture, family, in_channels, image_size)
    for what, value in {**shape, "classes": classes}.items():
        if value is None or value < 1:
            raise ValueError(f"{architecture}: {what} must be at least 1, got {value}")
    return MODELS[family](classes=classes, dropout=dropout, **shape, **options)


def _check_kind(architecture: str, family: str, in_channels: int | None, image_size: int | None) -> None:
    """Refuse a network for images where the data are text, and the other way round."""
    text = in_channels is None and image_size is None
    if family in _TEXT and not text:
        raise ValueError(
            f"{architecture} reads text, rows of symbols; the data are images of {image_size} x {image_size} pixels"
        )
    if family not in _TEXT and text:
        raise ValueError(f"{architecture} reads images; the data are text, rows of symbols")


def _parse(architecture: str) -> tuple[str, dict[str, Any]]:
    """The entry of MODELS that a name means, and the options it carries; ValueError if it is not understood."""
    if architecture in MODELS and architecture not in _SIZED:
        return architecture, {}
    base = architecture.removesuffix(CONV)
    if base != architecture and base in _WITH_CONV:
        return base, {"classifier": "conv"}
    family = architecture.split("-")[0]
    if family in _SIZED:
        match = _SIZED[family].pattern.fullmatch(architecture)
        if match is None:
            sizes = " and ".join(_SIZED[family].pattern.groupindex)
            raise ValueError(
                f"architecture {architecture!r}: {family} needs its {sizes}, for example {_SIZED[family].example!r}"
            )
        return family, {size: int(number) for size, number in match.groupdict().items()}
    known = [*MODELS, *(name + CONV for name in _WITH_CONV), *(sized.example for sized in _SIZED.values())]
    close = difflib.get_close_matches(architecture, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"unknown architecture {architecture!r}: known are {', '.join(architecture_names())}{hint}")
