"""The networks that the methods train. `build` makes one by its name, for example "wrn-28-10"."""

import difflib
import re
from collections.abc import Callable

from torch import nn

from models.lenet import LeNet5
from models.resnet import CResNet20
from models.wide_resnet import WideResNet

Builder = Callable[..., nn.Module]

MODELS: dict[str, Builder] = {
    "lenet5": LeNet5,
    "cresnet20": CResNet20,
    "wrn": WideResNet,
}

# Families whose name carries numbers: the pattern of the full name and an example of it.
_SIZED = {"wrn": (re.compile(r"wrn-(?P<depth>\d+)-(?P<width>\d+)"), "wrn-28-10")}


def architecture_names() -> list[str]:
    """The names that `build` understands; a sized family is shown by its pattern, "wrn-DEPTH-WIDTH"."""
    names = []
    for name in MODELS:
        sizes = list(_SIZED[name][0].groupindex) if name in _SIZED else []
        names.append("-".join([name, *(size.upper() for size in sizes)]))
    return names


def build(
    architecture: str, *, in_channels: int | None, classes: int, image_size: int | None, dropout: float = 0.0
) -> nn.Module:
    """Make a network by its name, its weights drawn from torch's global random numbers.

    Args:
        architecture: "lenet5", "cresnet20" or "wrn-DEPTH-WIDTH", for example "wrn-28-10" or "wrn-10-1".
        in_channels: Channels of the input images.
        classes: Number of classes.
        image_size: Side of the square input images, in pixels.
        dropout: Probability of dropping a unit; at 0 the network holds no dropout modules.

    Returns:
        A network that maps images (B, in_channels, image_size, image_size) to logits (B, classes).

    Raises:
        ValueError: If the name is unknown or a number does not fit the architecture.
    """
    sizes = _parse(architecture)
    for what, value in (("in_channels", in_channels), ("classes", classes), ("image_size", image_size)):
        if value is None or value < 1:
            raise ValueError(f"{architecture}: {what} must be at least 1, got {value}")
    if not 0 <= dropout < 1:
        raise ValueError(f"{architecture}: dropout must be in [0, 1), got {dropout}")
    builder = MODELS[architecture.split("-")[0]]
    return builder(in_channels=in_channels, classes=classes, image_size=image_size, dropout=dropout, **sizes)


def _parse(architecture: str) -> dict[str, int]:
    """The numbers carried by an architecture's name; ValueError if the name is not understood."""
    if architecture in MODELS and architecture not in _SIZED:
        return {}
    family = architecture.split("-")[0]
    if family in _SIZED:
        pattern, example = _SIZED[family]
        match = pattern.fullmatch(architecture)
        if match is None:
            sizes = " and ".join(pattern.groupindex)
            raise ValueError(f"architecture {architecture!r}: {family} needs its {sizes}, for example {example!r}")
        return {size: int(number) for size, number in match.groupdict().items()}
    close = difflib.get_close_matches(architecture, [*MODELS, *(example for _, example in _SIZED.values())], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"unknown architecture {architecture!r}: known are {', '.join(architecture_names())}{hint}")
