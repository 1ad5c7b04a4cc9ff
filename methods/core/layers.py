"""Which layers of a network are which."""

from collections.abc import Iterable

from torch import Tensor, nn

Weighted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers with one weight matrix or kernel."""


def last_layer(net: nn.Module) -> str:
    """Name the last layer with a weight matrix: the classifier, a linear layer or a 1×1 convolution.

    Raises:
        ValueError: if there is none.
    """
    names: list[str] = [name for name, layer in net.named_modules() if isinstance(layer, WEIGHTED)]
    if not names:
        raise ValueError("this architecture has neither linear layers nor convolutions")
    return names[-1]


def weight_matrices(net: nn.Module, *, recurrent: bool = False) -> list[str]:
    """Name the weight matrices and kernels of linear, convolutional and recurrent layers.

    Args:
        net: the network.
        recurrent: only the matrices of recurrent layers from their state to their next state.
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
    """Say whether a network carries a state from one minibatch of training to the next, as that of a text does.

    Such a network has one state: minibatches must continue each other, and each is to pass through it once.
    """
    return any(getattr(module, "carries_state", False) for module in net.modules())


class NamedBuffers(nn.Module):
    """Copies of some of a network's tensors, kept as buffers under the network's names.

    A module's own buffers may have no dots in their names, and the names of a network's tensors have.
    """

    def __init__(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Copy the tensors.

        Args:
            named: pairs of a name and a tensor.
        """
        super().__init__()
        self.keys: dict[str, str] = {}
        for name, value in named:
            self.keys[name] = name.replace(".", "/")
            self.register_buffer(self.keys[name], value.detach().clone())

    def named(self) -> dict[str, Tensor]:
        """Give the tensors by the network's names."""
        return {name: self.get_buffer(key) for name, key in self.keys.items()}
