"""Plain attributes of a method: what no checkpoint keeps."""

import random
from collections import deque
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.cache.user_cache import PACKAGES
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
    """Return the plain attributes of the user's modules in a method, by name, in a form that can be compared."""
    found = {}
    for name, module in method.named_modules():
        if type(module).__module__.partition(".")[0] in NOT_THE_USERS:
            continue
        for key, value in vars(module).items():
            if key not in TORCHS_OWN:
                found[f"{name}.{key}" if name else key] = comparable(value)
    return found


def comparable(value: Any) -> Any:
    """Return a copy of a value that equals another copy if the values are the same."""
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
    if isinstance(value, list | tuple | deque):
        return [comparable(item) for item in value]
    if isinstance(value, set | frozenset):
        return ("set", sorted(map(repr, value)))
    if isinstance(value, dict):
        return {repr(key): comparable(item) for key, item in value.items()}
    if hasattr(value, "__dict__") and not callable(value) and not isinstance(value, nn.Module | ModuleType):
        return (type(value).__name__, {key: comparable(item) for key, item in vars(value).items()})
    return Unknown


def changed(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names of attributes that one has and the other has not, or with another value."""
    missing = object()
    return [name for name in {**one, **other} if not same(one.get(name, missing), other.get(name, missing))]


def same(one: Any, other: Any) -> bool:
    """Compare what `comparable` returned; NaN equals NaN."""
    return repr(one) == repr(other)
