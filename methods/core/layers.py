"""Find layers and weights in a network: the last layer, weight matrices, recurrent state."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from itertools import chain
from types import NoneType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Weighted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers with one weight matrix or kernel."""


def last_layer(net: nn.Module) -> str:
    """Return the name of the last layer with a weight matrix: the classifier, a linear layer or a 1×1 convolution.

    Raises:
        ValueError: if there is none.
    """
    names: list[str] = [
        name
        for name, layer in net.named_modules()
        if isinstance(layer, WEIGHTED) or hasattr(layer, "out_features")  # such as a grouped linear layer
    ]
    if not names:
        raise ValueError("this architecture has neither linear layers nor convolutions")
    return names[-1]


def weight_matrices(net: nn.Module, *, recurrent: bool = False) -> list[str]:
    """Return the names of the weight matrices and kernels of linear, convolutional and recurrent layers.

    Args:
        net: the network.
        recurrent: return only the matrices of recurrent layers that map a state to the next state.
    """
    names: list[str] = [
        f"{layer_name}.{name}".lstrip(".")
        for layer_name, layer in net.named_modules()
        if isinstance(layer, (*WEIGHTED, nn.RNNBase))
        for name, p in layer.named_parameters(recurse=False)
        if name.startswith("weight_hh" if recurrent else "weight") and p.ndim > 1
    ]
    return names


def carries_state(net: nn.Module) -> bool:
    """Check whether a network carries a state from one training minibatch to the next, as a language model does.

    Such a network has one state. Each minibatch must continue the one before, and must run through the network once.
    """
    return any(getattr(module, "carries_state", False) for module in net.modules())


TIED_WEIGHTS: WeakKeyDictionary[nn.Module, list[list[str]]] = WeakKeyDictionary()
"""What `find_tied_weights` found for networks that have run with other weights than their own."""


def find_tied_weights(net: nn.Module) -> list[list[str]]:
    """Return all names of each weight that several layers have in common, such as an embedding and the last layer."""
    names: dict[int, list[str]] = {}
    for layer_name, layer in net.named_modules():  # each layer once, also one that stands at several places
        for name, p in layer.named_parameters(recurse=False):
            names.setdefault(id(p), []).append(f"{layer_name}.{name}".lstrip("."))
    return [places for places in names.values() if len(places) > 1]


def check_own_buffers(net: nn.Module) -> None:
    """Refuse a network in which BatchNorm layers share running statistics: they would be written twice.

    Raises:
        ValueError: naming the buffer.
    """
    names: dict[int, str] = {}
    norms = ((name, layer) for name, layer in net.named_modules() if isinstance(layer, _BatchNorm))
    for layer_name, layer in norms:
        for name, buffer in layer.named_buffers(recurse=False):
            found = f"{layer_name}.{name}".lstrip(".")
            if (first := names.setdefault(id(buffer), found)) != found:
                raise ValueError(
                    f"{first} and {found} are one buffer; use one layer at both places, or give each its own"
                )


def tie_weights(net: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights by name, in which tied weights stand under all their names; of several values, the first counts.

    Args:
        net: the network. Its layers keep the weights that they have in common.
        weights: weights to run it with, by its names; of tied weights, one name is enough.
    """
    if net not in TIED_WEIGHTS:
        TIED_WEIGHTS[net] = find_tied_weights(net)
    tied = dict(weights)
    for names in TIED_WEIGHTS[net]:
        given = [tied[name] for name in names if name in tied]
        tied.update(dict.fromkeys(names, given[0]) if given else {})
    return tied


def check_untied(net: nn.Module, weights: Iterable[str], what: str) -> None:
    """Refuse to change weights one by one that layers have in common.

    Args:
        net: the network.
        weights: the names of the weights that are to be changed.
        what: what changes them, for the message.

    Raises:
        ValueError: naming the first of them that has several names.
    """
    changed = set(weights)
    for names in find_tied_weights(net):
        if changed.intersection(names):
            raise ValueError(f"{what}, and would tell {' and '.join(names)} apart, which are one weight (tied)")


Copied = TypeVar("Copied", bound=nn.Module)
PLAIN_STATE = (nn.Module.__setstate__, nn.Conv2d.__setstate__)
"""The ways in which modules take their state that leave a whole one as it is."""
IMMUTABLE = {bool, int, float, str, bytes, NoneType, torch.dtype, torch.device, torch.Size}
CONTAINERS = {dict, OrderedDict, set}
TENSORS = {Tensor, nn.Parameter}


def copy_module(module: Copied) -> Copied:
    """Copy a module as `copy.deepcopy` does, several times as fast: most of what a network holds never changes."""
    if is_on_meta_device(module):
        with torch._C.DisableTorchFunction():  # modes would look at each tensor, and there is nothing to see
            return copy_part(module, {})
    return copy_part(module, {})


def is_on_meta_device(module: nn.Module) -> bool:
    """Check whether the first tensor of a module has no memory."""
    own = chain(module._parameters.values(), module._buffers.values())  # quicker to find than by `parameters()`
    with torch._C.DisableTorchFunction():
        for tensor in chain(own, module.parameters(), module.buffers()):
            if tensor is not None:
                return tensor.is_meta
    return False


def copy_part(module: Copied, memo: dict[int, Any]) -> Copied:
    """Copy a module; one with a way of its own to be copied is copied in that way.

    Args:
        module: the module.
        memo: what was copied before, as for `copy.deepcopy`.
    """
    cls = type(module)
    if id(module) in memo or hasattr(cls, "__deepcopy__") or cls.__setstate__ not in PLAIN_STATE:
        other = deepcopy(module, memo)
        if isinstance(other, nn.RNNBase):
            other.flatten_parameters()  # cuDNN wants its weights in one piece of memory; on a CPU nothing happens
        return other
    copied = cls.__new__(cls)
    memo[id(module)] = copied
    state = module.__getstate__()  # type: ignore[no-untyped-call]
    vars(copied).update(state)
    for name, value in state.items():
        kind = type(value)
        if kind in IMMUTABLE:
            continue
        if kind in CONTAINERS and not value:  # most are hooks that nobody has registered
            vars(copied)[name] = kind()
        elif name in ("_modules", "_parameters", "_buffers"):
            vars(copied)[name] = kind((key, copy_value(part, memo)) for key, part in value.items())
        else:
            vars(copied)[name] = copy_value(value, memo)
    return copied


def copy_value(value: Any, memo: dict[int, Any]) -> Any:
    """Copy what a module holds: another module, a tensor, or a setting."""
    kind = type(value)
    if kind in IMMUTABLE or (kind is tuple and all(type(part) in IMMUTABLE for part in value)):
        return value
    if kind in TENSORS and value.is_meta and id(value) not in memo:
        copied = value.detach()  # it has no memory that two could share
        memo[id(value)] = nn.Parameter(copied, value.requires_grad) if kind is nn.Parameter else copied
        return memo[id(value)]
    return copy_part(value, memo) if isinstance(value, nn.Module) else deepcopy(value, memo)


def sum_in_layout(tensors: Sequence[Tensor]) -> Tensor:
    """Return the sum of tensors of one shape in the memory layout of the first; stacking alone would lose it."""
    return torch.empty_like(tensors[0]).copy_(torch.stack(list(tensors)).sum(0))


class NamedBuffers(nn.Module):
    """Hold copies of some tensors of a network as buffers, and return them by the network's names.

    Dots in the names become slashes in the buffers' names, where torch allows no dots.
    """

    def __init__(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Copy the tensors.

        Args:
            named: pairs of a name in the network and a tensor.
        """
        super().__init__()
        self.keys: dict[str, str] = {}
        for name, value in named:
            self.keys[name] = name.replace(".", "/")
            self.register_buffer(self.keys[name], value.detach().clone())

    def named(self) -> dict[str, Tensor]:
        """Return the tensors by the network's names."""
        return {name: self.get_buffer(key) for name, key in self.keys.items()}
