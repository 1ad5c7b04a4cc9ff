"""Tensors that a method keeps for its network, by the network's own names."""

from collections.abc import Iterable

from torch import Tensor, nn


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
