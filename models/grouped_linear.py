"""A linear layer in groups: each group of outputs reads only its own group of inputs."""

import torch
from torch import Tensor, nn


class GroupedLinear(nn.Module):
    """Several linear layers of equal size side by side, the counterpart of a grouped convolution.

    The inputs are divided into `groups` blocks of neighbours, and so are the outputs. Block g of the outputs is a
    linear function of block g of the inputs and of nothing else. Initial weights and biases are those of one
    `nn.Linear` for each group: uniform within ±1 / √(inputs of a group).

    Args:
        in_features: Number of inputs, of all groups together.
        out_features: Number of outputs, of all groups together.
        groups: Number of groups.

    Attributes:
        weight: (groups, out_features / groups, in_features / groups).
        bias: (out_features,).

    Raises:
        ValueError: If the inputs or the outputs cannot be divided equally among the groups.
    """

    def __init__(self, in_features: int, out_features: int, groups: int) -> None:
        super().__init__()
        if in_features % groups or out_features % groups:
            raise ValueError(
                f"GroupedLinear: {in_features} inputs and {out_features} outputs cannot both be divided equally among "
                f"{groups} groups"
            )
        self.in_features, self.out_features, self.groups = in_features, out_features, groups
        self.weight = nn.Parameter(torch.empty(groups, out_features // groups, in_features // groups))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights and biases from torch's global random generator."""
        bound = self.weight.shape[2] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (B, out_features) of inputs (B, in_features)."""
        inputs = x.reshape(len(x), self.groups, -1).transpose(0, 1)  # (groups, B, in_features / groups)
        bias = self.bias.view(self.groups, 1, -1)
        outputs = torch.baddbmm(bias, inputs, self.weight.transpose(1, 2))  # (groups, B, out_features / groups)
        return outputs.transpose(0, 1).flatten(1)

    def extra_repr(self) -> str:
        """Return the sizes, for printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}, groups={self.groups}"
