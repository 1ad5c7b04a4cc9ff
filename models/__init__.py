"""The network architectures. `build` returns a network by its name, for example "wrn-28-10"."""

import difflib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from models import imagenet
from models.lenet import LeNet5
from models.lstm import LSTM
from models.packing import Packing
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

CONV_SUFFIX = "-conv"
"""Suffix of the names of networks that end in a 1 x 1 convolution without bias, as in the subspaces paper."""

_CONV_FAMILIES = ("cresnet20", "tiny_resnet18", "tiny_resnet50", "resnet50", "wide_resnet50_2")
_TEXT_FAMILIES = ("lstm",)
_UNPACKED_FAMILIES = ("densenet161", "lstm")
"""Architectures with neither `width` nor `groups`."""


_SIZE = "0|[1-9][0-9]*"
_MOST = {"depth": 2000, "width": 1000, "alpha": 10_000, "units": 100_000}
"""Largest sizes. Beyond them a network would take minutes to lay out, or have more weights than any memory."""


class _SizedFamily(NamedTuple):
    """A family of architectures whose names contain sizes.

    Attributes:
        pattern: Pattern of a full name, with a group for each size.
        example: Example of a full name.
    """

    pattern: re.Pattern[str]
    example: str


_SIZED_FAMILIES = {
    "wrn": _SizedFamily(re.compile(rf"wrn-(?P<depth>{_SIZE})-(?P<width>{_SIZE})"), "wrn-28-10"),
    "pyramidnet": _SizedFamily(re.compile(rf"pyramidnet-(?P<depth>{_SIZE})-(?P<alpha>{_SIZE})"), "pyramidnet-110-270"),
    "lstm": _SizedFamily(re.compile(rf"lstm-(?P<units>{_SIZE})"), "lstm-500"),
}


def describe_architectures() -> dict[str, str]:
    """Map each name that `build` accepts to a one-line description. Sizes are written as in "wrn-DEPTH-WIDTH"."""
    described = {}
    for name, builder in MODELS.items():
        sizes = list(_SIZED_FAMILIES[name].pattern.groupindex) if name in _SIZED_FAMILIES else []
        line = (builder.__doc__ or "").strip().splitlines()[0]
        described["-".join([name, *(size.upper() for size in sizes)])] = line
        if name in _CONV_FAMILIES:
            described[f"{name}{CONV_SUFFIX}"] = "The same, but its last layer is a 1 x 1 convolution without bias."
    return described


def architecture_names() -> list[str]:
    """List the names that `build` accepts. Sizes are written as in "wrn-DEPTH-WIDTH"."""
    return list(describe_architectures())


def build(
    architecture: str,
    *,
    classes: int,
    in_channels: int | None,
    image_size: int | None,
    dropout: float = 0.0,
    width: float = 1.0,
    groups: int = 1,
) -> nn.Module:
    """Build a network by its name. Its weights are drawn from torch's global random generator.

    Args:
        architecture: One of `architecture_names()` with numbers for its sizes: "lenet5", "wrn-28-10", "lstm-500".
        classes: Number of classes; for text, of symbols.
        in_channels: Channels of the input images; None for text.
        image_size: Side of the square input images, in pixels; None for text.
        dropout: Probability of dropping a unit; 0 for no dropout modules.
        width: Factor on the number of channels, or units, of every hidden layer.
        groups: Number of independent subnetworks side by side, which share only the images. Each has 1 / groups of the
            channels of every layer and of the logits: `logits.unflatten(1, (groups, -1))` has those of subnetwork k at
            [:, k].

    Returns:
        A network that maps images (B, in_channels, image_size, image_size) to logits (B, classes), or rows of symbols
        (B, T), int64, to logits (B, classes, T).

    Raises:
        ValueError: If the name is unknown, a number does not fit the architecture, the architecture reads text and
            the data are images or the other way round, or it cannot have this width or number of groups.
    """
    family, options = _parse_name(architecture)
    if not 0 <= dropout < 1:
        raise ValueError(f"{architecture}: dropout must be in [0, 1), got {dropout}")
    shape = {} if family in _TEXT_FAMILIES else {"in_channels": in_channels, "image_size": image_size}
    _check_input_kind(architecture, family, in_channels, image_size)
    for what, value in {**shape, "classes": classes}.items():
        if value is None or value < 1:
            raise ValueError(f"{architecture}: {what} must be at least 1, got {value}")
    if (width, groups) != (1, 1):
        options["packing"] = _make_packing(architecture, family, classes, width, groups)
    return MODELS[family](classes=classes, dropout=dropout, **shape, **options)


def _make_packing(architecture: str, family: str, classes: int, width: float, groups: int) -> Packing:
    """Check that the architecture and the classes permit a width and a number of groups, and return both together."""
    if family in _UNPACKED_FAMILIES:
        packed = [name for name in architecture_names() if name.split("-")[0] not in _UNPACKED_FAMILIES]
        raise ValueError(f"{architecture} cannot be built with width or groups; these can: {', '.join(packed)}")
    packing = Packing(width, groups, architecture)
    if classes % groups:
        raise ValueError(f"{architecture}: {classes} classes cannot be divided equally among {groups} groups")
    return packing


def _check_input_kind(architecture: str, family: str, in_channels: int | None, image_size: int | None) -> None:
    """Check that the architecture and the data are both for images or both for text."""
    text = in_channels is None and image_size is None
    if family in _TEXT_FAMILIES and not text:
        raise ValueError(
            f"{architecture} reads text, rows of symbols; the data are images of {image_size} x {image_size} pixels"
        )
    if family not in _TEXT_FAMILIES and text:
        raise ValueError(f"{architecture} reads images; the data are text, rows of symbols")


def _parse_name(architecture: str) -> tuple[str, dict[str, Any]]:
    """Return the key of MODELS and the options that a name stands for.

    Raises:
        ValueError: If the name is unknown or lacks a size.
    """
    if architecture in MODELS and architecture not in _SIZED_FAMILIES:
        return architecture, {}
    base = architecture.removesuffix(CONV_SUFFIX)
    if base != architecture and base in _CONV_FAMILIES:
        return base, {"classifier": "conv"}
    family = architecture.split("-")[0]
    if family in _SIZED_FAMILIES:
        match = _SIZED_FAMILIES[family].pattern.fullmatch(architecture)
        if match is None:
            sizes = " and ".join(_SIZED_FAMILIES[family].pattern.groupindex)
            raise ValueError(
                f"architecture {architecture!r}: {family} needs its {sizes}, "
                f"for example {_SIZED_FAMILIES[family].example!r}"
            )
        for size, number in match.groupdict().items():
            if len(number) > 9 or int(number) > _MOST[size]:
                raise ValueError(f"architecture {architecture!r}: {size} may be {_MOST[size]:,} at most")
        return family, {size: int(number) for size, number in match.groupdict().items()}
    known = [
        *MODELS,
        *(name + CONV_SUFFIX for name in _CONV_FAMILIES),
        *(sized.example for sized in _SIZED_FAMILIES.values()),
    ]
    close = difflib.get_close_matches(architecture, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"unknown architecture {architecture!r}: known are {', '.join(architecture_names())}{hint}")
