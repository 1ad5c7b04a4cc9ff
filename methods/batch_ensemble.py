"""BatchEnsemble: members share all weights except rank-1 factors and biases."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field
from torch import Tensor, nn

from methods.core.batch_norm import reestimate
from methods.core.declarations import About, Batch, Weights
from methods.core.layers import WEIGHTED, Weighted, check_untied
from methods.core.method import Method
from methods.core.random_streams import MakeNet
from methods.core.recipe import Recipe


class FastWeights(nn.Module):
    """The K members' own weights in one layer: y = s_k ∘ layer(r_k ∘ x) + b_k.

    `scale_input` and `scale_output` are registered as hooks of the layer. They act on a batch that holds the rows of
    all members, and do nothing while `rows` is 0. They are bound methods, so that they refer to the copied module in a
    deep copy of a method.

    Attributes:
        r: (K, inputs), one factor per input channel.
        s: (K, outputs), one factor per output channel.
        b: (K, outputs), the biases; None if the layer has no bias.
        rows: the number of rows of the tiled batch that is running, K·B; 0 if none is.
    """

    def __init__(self, layer: Weighted, K: int) -> None:
        super().__init__()
        outputs = layer.weight.shape[0]
        inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
        self.r = nn.Parameter(layer.weight.new_ones(K, inputs))
        self.s = nn.Parameter(layer.weight.new_ones(K, outputs))
        self.b = None if layer.bias is None else nn.Parameter(layer.weight.new_zeros(K, outputs))
        self.rows = 0

    def scale_input(self, layer: nn.Module, arguments: tuple[Tensor, ...]) -> Tensor | None:
        """Multiply each input channel, before the layer runs."""
        (x,) = arguments
        return x * self.broadcast(self.r, layer, x) if self.rows else None

    def scale_output(self, layer: nn.Module, arguments: tuple[Tensor, ...], y: Tensor) -> Tensor | None:
        """Multiply each output channel and add the bias, after the layer has run."""
        if not self.rows:
            return None
        s = self.broadcast(self.s, layer, y)
        return y * s if self.b is None else torch.addcmul(self.broadcast(self.b, layer, y), y, s)

    def broadcast(self, fast: Tensor, layer: nn.Module, x: Tensor) -> Tensor:
        """Return each row's fast weights, in a shape and precision that match the batch.

        Args:
            fast: (K, channels).
            layer: the layer that receives or returned the batch.
            x: (rows, …, channels) for a linear layer, (rows, channels, …) for a convolution. The number of rows may be
                a multiple of K·B, with all rows of a member next to each other.

        Raises:
            ValueError: if the first axis of x cannot be that of the batch.
        """
        if len(x) % self.rows:
            raise ValueError(
                f"BatchEnsemble needs the examples on the first axis: of {self.rows} examples, {layer} sees {len(x)}"
            )
        shape = [len(x)] + [1] * (x.dim() - 1)
        shape[-1 if isinstance(layer, nn.Linear) else 1] = fast.shape[1]
        return fast.to(x.dtype).repeat_interleave(len(x) // len(fast), 0).view(shape)

    def fold(self, layer: Weighted, k: int) -> dict[str, Tensor]:
        """Return the weight and bias of the plain layer that computes what the layer computes for member k."""
        # In a grouped convolution, an output channel sees only the input channels of its group.
        groups = 1 if isinstance(layer, nn.Linear) else layer.groups
        r = self.r[k].view(groups, -1).repeat_interleave(len(layer.weight) // groups, 0)  # (outputs, inputs a group)
        outer = self.s[k][:, None] * r
        folded = {"weight": layer.weight * outer.view(*outer.shape, *[1] * (layer.weight.dim() - 2))}
        if self.b is not None and layer.bias is not None:
            folded["bias"] = torch.addcmul(self.b[k], self.s[k], layer.bias)
        return folded


class BatchEnsemble(Method):
    """Train K members in one batch; they share all weights except vectors r and s and a bias in every layer.

    Member k's weight matrix is W ∘ (s_k r_kᵀ): the input of the layer is multiplied by r_k and its output by s_k. This
    applies to every `nn.Linear` and convolution, but not to subclasses of them, which may compute something else.
    Members share all other layers, such as BatchNorm. All members see each minibatch: its rows are repeated K times in
    a batch of K·B rows. BatchNorm takes its statistics over all these rows.

    References:
        Wen et al., BatchEnsemble: an alternative approach to efficient ensemble and lifelong learning, ICLR 2020,
        section 3. Where the paper leaves a choice, we follow its authors' code (edward2 and uncertainty-baselines): all
        members see the whole minibatch; r and s start from N(1, 0.5²); the members' own weights have half the learning
        rate; r and s do not decay. The recipe for WRN-28-10: 250 epochs, rate 0.1, times 0.2 at epochs 100, 200 and
        225, decay 6e-4.
    """

    space: ClassVar[dict[str, BaseDistribution]] = {
        "K": IntDistribution(2, 20),
        "init": CategoricalDistribution(["gaussian", "sign"]),
        "sigma": FloatDistribution(0.0, 1.0),
        "lr_scale": FloatDistribution(0.1, 2.0, log=True),
    }
    about: ClassVar[About] = About("implicit ensembles", "Wen et al. 2020", training="K", prediction="K")
    divisible = True

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        K: Annotated[int, Field(ge=1)] = 4,
        init: Literal["gaussian", "sign"] = "gaussian",
        sigma: Annotated[float, Field(ge=0)] = 0.5,
        lr_scale: Annotated[float, Field(gt=0)] = 0.5,
    ) -> None:
        """Add K sets of fast weights to every layer.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            K: the number of members.
            init: the initial entries of r and s: drawn from N(1, sigma²) ("gaussian"), or 1 and −1 with equal
                probability ("sign").
            sigma: standard deviation of the Gaussian.
            lr_scale: factor on the learning rate of r, s and the members' biases. The authors multiply the gradients
                instead, which is the same in SGD; in Adam that would have no effect.

        Raises:
            ValueError: for a network without linear layers and convolutions; for a `sigma` with init=sign.
        """
        if init == "sign" and sigma != 0.5:
            raise ValueError(f"sigma={sigma} is the standard deviation of init=gaussian; init=sign has none")
        super().__init__(make_net, recipe)
        self.start_epoch = 0
        self.K, self.init, self.sigma, self.lr_scale = K, init, sigma, lr_scale
        self.layers = [name for name, layer in self.net.named_modules() if type(layer) in WEIGHTED]
        if not self.layers:
            raise ValueError("BatchEnsemble needs an architecture with linear layers or convolutions")
        changed = [f"{name}.{key}" for name in self.layers for key in ("weight", "bias")]
        check_untied(self.net, changed, "BatchEnsemble gives each layer factors and biases of its own")
        self.fast = nn.ModuleList(FastWeights(layer, K) for layer in self.plain_layers())
        for layer, fast in self.layers_with_fast_weights():
            layer.register_forward_pre_hook(fast.scale_input)
            layer.register_forward_hook(fast.scale_output)
            if layer.bias is not None:
                layer.bias.requires_grad_(False)  # `begin` moves its value to the members

    def plain_layers(self) -> list[Weighted]:
        """Return the network's layers that have fast weights."""
        return [cast(Weighted, self.net.get_submodule(name)) for name in self.layers]

    def layers_with_fast_weights(self) -> list[tuple[Weighted, FastWeights]]:
        """Return these layers, each with its fast weights."""
        return list(zip(self.plain_layers(), cast(Iterable[FastWeights], self.fast), strict=True))

    @torch.no_grad()
    def begin(self) -> None:
        """Draw r and s, and move each layer's bias to the members."""
        generator = self.generator("fast weights")
        for layer, fast in self.layers_with_fast_weights():
            for p in (fast.r, fast.s):
                if self.init == "gaussian":
                    p.copy_(1 + self.sigma * torch.randn(p.shape, generator=generator))
                else:
                    p.copy_(2 * torch.randint(2, p.shape, generator=generator) - 1)
            if fast.b is not None and layer.bias is not None:
                fast.b.add_(layer.bias)
                layer.bias.zero_()

    def param_groups(self) -> list[dict[str, Any]]:
        """Group the shared weights, the members' biases, and r and s, which do not decay."""
        shared = [(f"net.{name}", p) for name, p in self.net.named_parameters() if p.requires_grad]
        fast = [(f"fast.{name}", p) for name, p in self.fast.named_parameters()]
        biases = [(name, p) for name, p in fast if name.endswith(".b")]
        factors = [(name, p) for name, p in fast if not name.endswith(".b")]
        decay = self.recipe.weight_decay
        groups = [self.group(shared, decay), self.group(factors, 0.0, self.lr_scale)]
        return groups + ([self.group(biases, decay, self.lr_scale)] if biases else [])

    def forward(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """Run all members on the same batch, or one plain network.

        Args:
            x: (B, …).
            weights: the weights of one network, by the network's names. None: run all members.

        Returns:
            Logits: (K·B, C) of all members, the B rows of each next to each other; or (B, C) of one network.
        """
        if weights is not None:
            return super().forward(x, weights)
        with self.tiled(self.K * len(x)):
            return self.net(torch.cat([x] * self.K))  # type: ignore[no-any-return]

    @contextmanager
    def tiled(self, rows: int) -> Iterator[None]:
        """Apply the fast weights to a tiled batch of `rows` rows, inside a `with` block."""
        for _, fast in self.layers_with_fast_weights():
            fast.rows = rows
        try:
            yield
        finally:
            for _, fast in self.layers_with_fast_weights():
                fast.rows = 0

    def loss(self, x: Tensor, y: Tensor, weights: Weights | None = None) -> Tensor:
        """Return the mean loss of all members on one minibatch, or the loss of the network with `weights`."""
        if weights is not None:
            return super().loss(x, y, weights)
        return self.recipe.criterion(self(x), torch.cat([y] * self.K))

    def members(self) -> Iterable[dict[str, Tensor]]:
        """Yield the weights of the plain network that equals each member."""
        for k in range(self.K):
            own = {
                f"{name}.{key}": tensor
                for name, (layer, fast) in zip(self.layers, self.layers_with_fast_weights(), strict=True)
                for key, tensor in fast.fold(layer, k).items()
            }
            yield {**self.own_weights(), **own}

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Re-estimate stale running statistics, which members share, in one tiled pass."""
        if self.statistics_stale:
            reestimate(self, batches)

    def predict(self, x: Tensor) -> Tensor:
        """Return the logits of all members, (K, B, C), in one tiled pass."""
        return self(x).unflatten(0, (self.K, -1))  # type: ignore[no-any-return]
