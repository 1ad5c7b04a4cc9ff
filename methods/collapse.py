"""The average of K networks that share most of their weights, as one network."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from methods.batch_norm import batch_norms


@torch.no_grad()
def average_layers(
    members: Iterable[Mapping[str, Tensor]], into: Mapping[str, Tensor], net: nn.Module, exactly: bool
) -> None:
    """Write the members' mean weights (von Oswald et al., ICLR 2021, Equation 1).

    Args:
        members: what each of them does not share, by the network's names.
        into: what is written, by the same names.
        net: whose layers they are.
        exactly: make a BatchNorm layer the mean of the K layers' outputs in evaluation mode; else average its
            parameters and statistics one by one.
    """
    norms = {name: norm for name, norm in batch_norms(net).items() if f"{name}.weight" in into}
    layers: dict[str, list[dict[str, Tensor]]] = {name: [] for name in norms}
    sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in into.items()}
    count = 0
    for member in members:
        count += 1
        for name, total in sums.items():
            total.add_(member[name])
        for name in norms:
            layers[name].append(layer_of(member, name))
    for name, total in sums.items():
        into[name].copy_(total / count)
    if exactly:
        for name, norm in norms.items():
            collapse(layers[name], layer_of(into, name), norm.eps)


def layer_of(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Pick one layer's tensors, by their names in the layer."""
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


def collapse(layers: Sequence[Mapping[str, Tensor]], into: Mapping[str, Tensor], eps: float) -> None:
    """Make one BatchNorm layer the mean of K layers' outputs, in evaluation mode.

    With member k's scale γ_k, shift β_k, running mean m_k and variance v_k, the mean output is affine in x: scale
    mean_k γ_k/√(v_k + ε), shift mean_k (β_k − γ_k m_k/√(v_k + ε)). The layer's own statistics become neutral.

    Args:
        layers: the tensors of each layer: weight, bias, running_mean, running_var.
        into: the tensors of the layer that is written.
        eps: ε of all of them.
    """
    scales = [layer["weight"] / (layer["running_var"] + eps).sqrt() for layer in layers]
    shifts = [layer["bias"] - scale * layer["running_mean"] for scale, layer in zip(scales, layers, strict=True)]
    into["weight"].copy_(torch.stack(scales).mean(0))
    into["bias"].copy_(torch.stack(shifts).mean(0))
    into["running_mean"].fill_(0.0)
    into["running_var"].fill_(1.0 - eps)
