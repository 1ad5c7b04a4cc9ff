"""Average the members of an ensemble into one network."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from methods.core.batch_norm import batch_norms


@torch.no_grad()
def average_members(
    members: Iterable[Mapping[str, Tensor]], net: nn.Module, statistics: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return the mean of the members' weights (von Oswald et al., ICLR 2021, Equation 1).

    Args:
        members: the weights of each member by the network's names; weights that all members share may be left out.
        net: the network.
        statistics: the running statistics of the average network's BatchNorm layers, by the network's names. None:
            make each of these layers the mean of the K layers' outputs in evaluation mode.

    Returns:
        New tensors, by the network's names.
    """
    sums: dict[str, Tensor] = {}
    like: dict[str, Tensor] = {}
    layers: dict[str, list[dict[str, Tensor]]] = {}
    count = 0
    for member in members:
        count += 1
        for name, value in member.items():
            sums[name] = sums[name].add_(value) if name in sums else value.to(torch.float64, copy=True)
        if not layers:
            like = dict(member)
            parts = (
                "weight",
                "running_var",
            )  # without running statistics, a layer's outputs are not affine in its input
            layers = {name: [] for name in batch_norms(net) if all(f"{name}.{part}" in member for part in parts)}
        for name, found in layers.items():
            found.append(layer_tensors(member, name))
    mean = {name: (total / count).to(like[name]) for name, total in sums.items()}
    if statistics is not None:
        return {**mean, **statistics}
    for name, found in layers.items():
        eps = batch_norms(net)[name].eps
        mean.update({f"{name}.{key}": value for key, value in collapse_batch_norms(found, eps).items()})
    return mean


def layer_tensors(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return one layer's tensors, by their names in the layer."""
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


def collapse_batch_norms(layers: Sequence[Mapping[str, Tensor]], eps: float) -> dict[str, Tensor]:
    """Return the BatchNorm layer whose output is the mean of K layers' outputs, in evaluation mode.

    Member k has scale γ_k, shift β_k, running mean m_k and variance v_k. The mean output is affine in x, with slope
    s = mean_k γ_k/√(v_k + ε) and offset t = mean_k (β_k − γ_k m_k/√(v_k + ε)). The layer returned has the mean
    statistics m and v of the K layers, the scale s√(v + ε) and the shift t + s·m. Its scale and shift are thus of the
    same kind as those of a trained layer, so that noise added to them (flatness) means the same. A single layer is
    returned unchanged.

    Args:
        layers: the tensors of each layer: weight, bias, running_mean, running_var.
        eps: ε of all layers.
    """
    scales = [layer["weight"] / (layer["running_var"] + eps).sqrt() for layer in layers]
    shifts = [layer["bias"] - scale * layer["running_mean"] for scale, layer in zip(scales, layers, strict=True)]
    slope, offset = torch.stack(scales).mean(0), torch.stack(shifts).mean(0)
    mean, variance = (
        torch.stack([layer[name] for layer in layers]).mean(0) for name in ("running_mean", "running_var")
    )
    return {
        "weight": slope * (variance + eps).sqrt(),
        "bias": offset + slope * mean,
        "running_mean": mean,
        "running_var": variance,
    }
