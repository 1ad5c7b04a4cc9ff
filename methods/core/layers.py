"""Find layers and weights in a network: the last layer, weight matrices, recurrent state."""

from collections.abc import Iterable

from torch import Tensor, nn

Weighted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers with one weight matrix or kernel."""


def last_layer(net: nn.Module) -> str:
    """Return the name of the last layer with a weight matrix: the classifier, a linear layer or a 1×1 convolution.

    Raises:
        ValueError: if there is none.
    """
    names: list[str] = [name for name, layer in net.named_modules() if isinstance(layer, WEIGHTED)]
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
