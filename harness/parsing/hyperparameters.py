"""The hyperparameters of a method: the keyword arguments of its class, with their types and defaults."""

import inspect
from typing import Any, get_type_hints

from methods.core.method import Method


def hyperparameters(method: type[Method]) -> dict[str, tuple[Any, Any]]:
    """Return the keyword hyperparameters of a method and its base classes: name → (type, default)."""
    found: dict[str, tuple[Any, Any]] = {}
    for cls in method.__mro__:
        init = vars(cls).get("__init__")
        if init is None:
            continue
        signature, hints = inspect.signature(init), get_type_hints(init, include_extras=True)
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY and name not in found:
                found[name] = (hints.get(name, Any), parameter.default)
        if not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
            break
    return found


def check_hyperparameters(method: type[Method]) -> None:
    """Refuse hyperparameters that no study could write.

    Raises:
        ValueError: for a type that does not exist, or a default that cannot be compared with a value of a study.
    """
    try:
        found = hyperparameters(method)
    except Exception as error:  # an annotation in quotes is executed, and can raise anything
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"the type of a hyperparameter cannot be read ({reason}): define or import it") from error
    for name, (_, default) in found.items():
        if not isinstance(default == default, bool):
            raise ValueError(
                f"the default of {name} is a {type(default).__name__}: write plain values (a number, a text, a tuple), "
                "and make of them what is needed in __init__"
            )
