"""Plain attributes of a method: what no checkpoint keeps."""

import random
import sys
from collections import deque
from inspect import isclass, ismodule, isroutine
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.cache.user_cache import PACKAGES
from harness.parsing.plugin_sources import is_users_file
from methods import Method
from methods.core.random_streams import DRAWN

SIMPLE = (int, float, str, bytes, complex, type(None))
TORCHS_OWN = {*vars(nn.Module()), DRAWN}
"""Attributes that torch itself gives to every module."""

NOT_THE_USERS = {*PACKAGES, "torch", "torchvision"}
"""Packages whose modules keep what they need."""


class Unknown:
    """Stands for a value that cannot be compared."""


def plain_attributes(method: Method) -> dict[str, Any]:
    """Return the plain attributes of the user's modules in a method, and of their classes, in a comparable form.

    Returns:
        The forms by the attributes' names.
    """
    found = {}
    for name, module in method.named_modules():
        if type(module).__module__.partition(".")[0] in NOT_THE_USERS:
            continue
        for key, value in vars(module).items():
            if key not in TORCHS_OWN:
                found[f"{name}.{key}" if name else key] = comparable(value)
        for cls in type(module).__mro__:
            if cls.__module__.partition(".")[0] not in NOT_THE_USERS and is_of_users(cls):
                values = {key: value for key, value in vars(cls).items() if not key.startswith("__")}
                found |= {f"{cls.__name__}.{key}": comparable(value) for key, value in values.items()}
    return found


def comparable(value: Any, inside: tuple[int, ...] = ()) -> Any:
    """Return a copy of a value that equals another copy if the values are the same.

    Args:
        value: the value.
        inside: the ids of the containers around it.
    """
    if id(value) in inside:
        return "itself"
    if isinstance(value, Tensor):
        return ("tensor", tuple(value.shape), value.detach().cpu().contiguous().flatten().tolist())
    if isinstance(value, np.ndarray | np.generic):
        return ("array", np.shape(value), np.asarray(value).tolist())
    if isinstance(value, torch.Generator):
        return ("generator", value.get_state().tolist())
    if isinstance(value, np.random.Generator):
        return ("generator", comparable(value.bit_generator.state))
    if isinstance(value, random.Random):
        return ("generator", value.getstate())
    if isinstance(value, SIMPLE):
        return value
    around = (*inside, id(value))
    if isinstance(value, list | tuple | deque):
        return [comparable(item, around) for item in value]
    if isinstance(value, set | frozenset):
        return ("set", sorted(map(repr, value)))
    if isinstance(value, dict):
        return {repr(key): comparable(item, around) for key, item in value.items()}
    if isinstance(value, nn.Module) or isclass(value) or isroutine(value) or ismodule(value):
        return Unknown
    if is_of_users(type(value)):
        return (
            type(value).__name__,
            {key: comparable(item, around) for key, item in getattr(value, "__dict__", {}).items()},
        )
    text = repr(value)
    return Unknown if " at 0x" in text else text  # such as itertools.count, which shows its state


def is_of_users(cls: type) -> bool:
    """Return whether the user's own code defines a class whose instances have attributes."""
    module = sys.modules.get(cls.__module__)
    return hasattr(cls, "__dict__") and is_users_file(getattr(module, "__file__", None) or "")


def changed(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names of attributes that one has and the other has not, or with another value."""
    missing = object()
    return [name for name in {**one, **other} if not same(one.get(name, missing), other.get(name, missing))]


def same(one: Any, other: Any) -> bool:
    """Compare what `comparable` returned; NaN equals NaN."""
    return repr(one) == repr(other)
