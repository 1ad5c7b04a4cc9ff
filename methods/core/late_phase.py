"""Late-phase weights: K copies of a few weights of the network, trained together late in training.

Within a cycle the base weights are fixed and each member is used at most once. Therefore K backward passes and one step
of the optimizer compute exactly what Algorithm 1 of the paper computes with one optimizer per member: each member steps
by its own gradient, and the base weights step by the scaled sum. A member that was not used has no gradient, and takes
no step.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Annotated, Any, ClassVar, Literal

import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from methods.core.batch_norm import NetworkWeights, batch_norms, reestimate, reestimate_each
from methods.core.declarations import PLAIN_TRUNK, About, Anchor, Batch, Sharing, Trunk
from methods.core.fused_members import (
    FusedForwards,
    LayerForward,
    can_fuse,
    member_forward,
    replaced_forwards,
    split_by_member,
)
from methods.core.member_average import average_members
from methods.core.member_weights import MemberWeights, tensors_of
from methods.core.random_streams import MakeNet, seeded
from methods.core.recipe import Position, Recipe, start_epoch_at

LATE_PHASE_ABOUT = About(
    "late-phase weights",
    "von Oswald et al. 2021",
    passes="K if statistics == 'reestimate_members' else 1 if statistics == 'reestimate' else 0",
    prediction="K if prediction == 'members' else 1",
)
LATE_PHASE_SHARING = Sharing(
    lambda method: Trunk(PLAIN_TRUNK, method.start_epoch),
    prediction=frozenset({"prediction", "statistics"}),
    prepared=("average",),
)


class LatePhase(MemberWeights):
    """Train plainly until T0, then train K members that differ in some weights, each on its own minibatches.

    Members take turns: each minibatch of a cycle goes to the next member. A subclass calls `replicate` to say which
    weights members own: layers of the network, with their running statistics, and factors. Factors are modules from
    which `generate` computes weights, together with the base weights: the function w = h(θ, φ) of the paper. φ0 are
    these weights and factors before T0.

    A class that sets `fusible` allows its members to run as one batch. `loss` and `forward` then see the rows of all
    members, and of the weights only those that `generate` computes for all members alike. `weights_of`, `late_weights`,
    `member` and `members` are not called in training then. So a subclass that overrides one of these must not set
    `fusible`, or must override `member_forwards` as well.

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, section 2, Algorithms 1 and 4.
    """

    space: ClassVar[dict[str, BaseDistribution]] = {
        "K": IntDistribution(2, 20),
        "start": FloatDistribution(0.0, 0.9),
        "sigma0": FloatDistribution(0.0, 0.5),
        "gamma_theta": CategoricalDistribution([1.0, "1/K"]),
    }

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        K: Annotated[int, Field(ge=1)] = 10,
        start: Position | None = 0.6,
        sigma0: Annotated[float, Field(ge=0)] = 0.0,
        gamma_theta: Annotated[float, Field(gt=0)] | Literal["1/K"] = 1.0,
        member_weight_decay: Annotated[float, Field(ge=0)] | None = None,
        member_optimizer: Literal["recipe", "sgd", "nesterov", "adam"] = "recipe",
        member_lr: Annotated[float, Field(gt=0)] = 1.0,
        member_schedule: Literal["recipe", "constant"] = "recipe",
        member_momentum: Literal["fresh", "copy"] = "fresh",
        leftover: Literal["carry", "step", "drop"] = "carry",
        frozen_base: bool = False,
        prediction: Literal["average", "members"] = "average",
        statistics: Literal["collapse", "average", "reestimate", "reestimate_members"] = "collapse",
    ) -> None:
        """Set the hyperparameters; a subclass must then call `replicate`.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            K: the number of members.
            start: T0, an epoch or a fraction of all epochs (120 of 200 in the paper). None: there is no late phase.
            sigma0: standard deviation of the noise added to each member at T0, relative to the root mean square of
                each tensor (Equation 2).
            gamma_theta: factor γ_θ on the base weights' gradient, which is summed over the cycle. "1/K" divides the sum
                by the number of minibatches in the cycle.
            member_weight_decay: weight decay of the members' layers. None: the recipe's. Factors do not decay.
            member_optimizer: the members' update U_φ: "sgd" without momentum, "nesterov" with the recipe's momentum,
                "adam", or the optimizer of the "recipe".
            member_lr: factor on the learning rate of the members.
            member_schedule: whether the members' rate follows that of the base weights ("recipe"), or stays at the
                recipe's highest ("constant"), but for the warm-up.
            member_momentum: the members' optimizer state at T0: "fresh" (empty, as in the authors' code) or a "copy" of
                that of φ0.
            leftover: what happens to the base weights when the minibatches at the end of an epoch do not fill a cycle.
                "carry": the sum is kept for the first cycle of the next epoch (Algorithm 4). "step": they step on the
                shorter sum, and the next epoch begins with the next member. "drop": the sum is discarded, and every
                epoch begins with the first member (the authors' code). Members step in any case.
            frozen_base: keep the base weights as they are at T0 (the control of Table 9).
            prediction: predict with one network of "average" weights (Equation 1), or with all "members".
            statistics: how the average network gets its BatchNorm statistics, if each member has its own. "collapse"
                makes each layer the exact mean of the K layers' outputs (as in the authors' code). "average" averages
                scale, shift, mean and variance separately. "reestimate" does the same and then re-estimates the
                statistics in one pass over the data. "reestimate_members" re-estimates each member in one pass over
                the data a member, then collapses. If the members' statistics are stale, as after weight averaging,
                "collapse" and "average" re-estimate too; the authors' code does "reestimate_members" then.

        Raises:
            ValueError: for hyperparameters that contradict each other or have no effect.
        """
        if prediction == "members" and statistics != "collapse":
            raise ValueError(f"statistics={statistics} applies to the average network, and prediction=members has none")
        if frozen_base and (gamma_theta, leftover) != (1.0, "carry"):
            raise ValueError(
                "gamma_theta and leftover apply to the steps of the base weights, and frozen_base=True takes none"
            )
        if member_optimizer == "nesterov" and not recipe.momentum:
            raise ValueError("member_optimizer=nesterov needs a recipe with momentum")
        if member_momentum == "copy" and member_optimizer != "recipe":
            raise ValueError(
                f"member_momentum=copy: {member_optimizer} cannot continue from the state of the recipe's optimizer"
            )
        super().__init__(make_net, recipe)
        self.start_epoch = self.epochs if start is None else start_epoch_at(start, self.epochs)
        self.K, self.sigma0, self.gamma_theta = K, sigma0, gamma_theta
        self.member_weight_decay = recipe.weight_decay if member_weight_decay is None else member_weight_decay
        self.member_optimizer, self.member_momentum = member_optimizer, member_momentum
        self.member_lr, self.member_schedule = member_lr, member_schedule
        self.leftover, self.frozen_base = leftover, frozen_base
        self.prediction, self.statistics = prediction, statistics
        self.redrawn: set[str] = set()  # names of the layers that members draw anew at T0
        self.cycle_position = 0
        self.carrying: list[str] = []  # names of the base weights of which a sum of gradients is carried
        self.fused_forwards: dict[tuple[int, ...], FusedForwards] = {}

    # --- training --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def begin(self) -> None:
        """Copy φ0 to every member, and add noise to the parameters (Equation 2)."""
        generator = self.generator("late-phase noise")
        for k in range(self.K):
            for part, plain in zip(self.own_parts(k), self.plain_parts(), strict=True):
                for own, value in zip(tensors_of(part), tensors_of(plain), strict=True):
                    own.copy_(value)
                for p in part.parameters() if self.sigma0 else ():
                    noise = torch.randn(p.shape, generator=generator).to(p)
                    p.add_(noise * p.square().mean().sqrt(), alpha=self.sigma0)
            for name in self.redrawn:
                with seeded(self.generator(f"{name} of member {k}")):
                    drawn = deepcopy(self.net.get_submodule(name)).cpu()
                    drawn.reset_parameters()  # type: ignore[operator]
                self.own_parts(k)[self.names.index(name)].load_state_dict(drawn.state_dict())

    def batches_per_update(self) -> int:
        """Return the number of minibatches left in the cycle: one a member, less those carried over."""
        return self.batches_in_cycle() - self.carried_minibatches if self.begun else 1

    def update(self, batches: Sequence[Batch], optimizer: Optimizer) -> Tensor:
        """Run a cycle: a backward pass for each minibatch, then one step of the optimizer."""
        if not self.begun:
            return super().update(batches, optimizer)
        if self.member_momentum == "copy" and self.epoch == self.start_epoch:
            self.copy_optimizer_state(optimizer)
        optimizer.zero_grad()
        members = [self.member_for(i) for i in range(len(batches))]
        sizes = {len(x) for x, _ in batches}
        equal = len(batches) > 1 and len(sizes) == 1
        run_cycle = self.run_fused_cycle if equal and self.should_fuse(sizes.pop()) else self.run_cycle
        loss = run_cycle(batches, members)
        self.finish_base_gradients(len(batches))
        optimizer.step()
        return loss

    def run_cycle(self, batches: Sequence[Batch], members: Sequence[int]) -> Tensor:
        """Add up the gradients of the minibatches, each seen by its member, and return their mean loss."""
        losses = []
        for (x, y), k in zip(batches, members, strict=True):
            loss = self.loss(x, y, self.late_weights(k))
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    def run_fused_cycle(self, batches: Sequence[Batch], members: Sequence[int]) -> Tensor:
        """Do the same as `run_cycle` in one pass over all minibatches, which must have the same size."""
        pairs = list(zip(members, batches, strict=True))
        if not self.shared_norms:  # the order decides how shared statistics move
            pairs.sort(key=lambda pair: pair[0])  # every full cycle then runs the same compiled program
        x, y = (torch.cat(parts) for parts in zip(*(batch for _, batch in pairs), strict=True))
        with self.fused([k for k, _ in pairs]) as weights:
            loss = self.loss(x, y, weights)
        (loss * len(batches)).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def should_fuse(self, examples: int) -> bool:
        """Check whether members with minibatches of this size can, and by `fuse_up_to` should, run as one batch."""
        declared = vars(type(self)).get("fusible", False)
        own_kernels = (
            bool(self.factors) and self.late_factors and type(self).member_forwards is LatePhase.member_forwards
        )
        return declared and not own_kernels and examples <= self.fuse_up_to and self.divisible and can_fuse(self.net)

    @contextmanager
    def fused(self, members: Sequence[int]) -> Iterator[dict[str, Tensor]]:
        """Let the network run a batch of m members' rows, (m·B, …), inside a `with` block.

        The rows are in the order of `members`. The yielded weights are those that all members share.
        """
        key = tuple(members)
        if key not in self.fused_forwards:  # kept: a compiled program is valid for these very objects only
            moves_on = self.leftover == "step" and self.shared_norms  # each epoch begins with another member
            worth_compiling = key == tuple(range(self.K)) and not moves_on
            self.fused_forwards[key] = FusedForwards(self.member_forwards(members), worth_compiling)
        with replaced_forwards(self.net, self.fused_forwards[key]):
            yield {} if self.late_factors else self.generate(list(self.factors))

    def member_forwards(self, members: Sequence[int]) -> dict[nn.Module, LayerForward]:
        """Return the replacement forwards for these members' rows: of BatchNorm and of layers that members own."""
        parts = zip(*(self.own_parts(k)[: len(self.names)] for k in members), strict=True)
        own = dict(zip(self.names, parts, strict=True))
        shared = {name: [layer] * len(members) for name, layer in batch_norms(self.net).items()}
        return {self.net.get_submodule(name): member_forward(layers) for name, layers in {**shared, **own}.items()}

    @torch.no_grad()
    def finish_base_gradients(self, minibatches: int) -> None:
        """Scale the base weights' summed gradient by γ_θ, or carry or drop it; a gradient of None means no step.

        A weight has none if no minibatch of the whole cycle used it. The sum has `minibatches` minibatches besides
        those carried over.
        """
        before = self.carried_minibatches
        used = before + minibatches
        complete = used >= self.batches_in_cycle()
        if self.leftover == "step":  # the next member has the next turn
            self.cycle_position = (self.cycle_position + minibatches) % self.K
        elif self.leftover == "carry":
            self.cycle_position = 0 if complete else used
        scale = 1 / used if self.gamma_theta == "1/K" else float(self.gamma_theta)
        stop = self.frozen_base or (not complete and self.leftover != "step")
        if not stop and scale == 1.0 and (self.leftover != "carry" or (complete and not before)):
            return
        sums, carrying = self.carried.named(), []
        for name, p in self.shared_weights():
            if name in self.carrying:
                p.grad = sums[name].clone() if p.grad is None else p.grad.add_(sums[name])
                sums[name].zero_()
            if p.grad is None:
                continue
            if name in sums and not complete:
                sums[name].copy_(p.grad)
                carrying.append(name)
            p.grad = None if stop else p.grad.mul_(scale)
        self.carrying = carrying

    def gradient_sums(self) -> list[Tensor]:
        """List the gradient sums that are carried into the next epoch."""
        return list(self.carried.buffers())

    def copy_optimizer_state(self, optimizer: Optimizer) -> None:
        """Copy the optimizer state of φ0 to every member that has none, but for layers that were drawn anew."""
        redrawn = {self.names.index(name) for name in self.redrawn}
        for k in range(self.K):
            for i, (part, plain) in enumerate(zip(self.own_parts(k), self.plain_parts(), strict=True)):
                for p, source in zip(part.parameters(), plain.parameters(recurse=False), strict=True):
                    if i not in redrawn and source in optimizer.state and p not in optimizer.state:
                        optimizer.state[p] = deepcopy(optimizer.state[source])

    # --- prediction ------------------------------------------------------------------------------------------

    @property
    def reestimates(self) -> bool:
        """Whether `prepare` passes over the data to re-estimate BatchNorm statistics."""
        return self.statistics_stale or self.statistics in ("reestimate", "reestimate_members")

    def members(self) -> Iterable[dict[str, Tensor]]:
        """Return the K members or the one average network; before T0 the plain network."""
        if not self.begun:
            return super().members()
        if self.prediction == "members":
            return (self.member(k) for k in range(self.K))
        return [self.average_network()]

    def predict(self, x: Tensor) -> Tensor:
        """Return the logits of every member, (K, B, C), in one pass if members are fused."""
        if not (self.begun and self.prediction == "members" and self.should_fuse(len(x))):
            return super().predict(x)
        with self.fused(range(self.K)) as weights:
            return split_by_member(self(torch.cat([x] * self.K), weights), self.K)

    def average_network(self) -> dict[str, Tensor]:
        """Return the network of the members' average weights (Equation 1)."""
        statistics: dict[str, Tensor] | None = None
        if self.statistics != "reestimate_members" and self.reestimates:
            statistics = self.average.named()
        elif self.statistics == "average":
            statistics = {}
        late = average_members((self.late_weights(k) for k in range(self.K)), self.net, statistics)
        return {**super().own_weights(), **late}

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Re-estimate the statistics of the average network, or those of the members if these predict or collapse."""
        if not self.begun:
            super().prepare(batches)
        elif self.reestimates and self.prediction == "average" and self.statistics != "reestimate_members":
            reestimate(self, batches, self.average_network())
        elif self.reestimates and self.own_statistics:
            reestimate_each(self, batches, map(self.member_for_reestimation, range(self.K)))
        elif self.reestimates:
            reestimate(self, batches, lambda i: self.member(i % self.K))

    def member_for_reestimation(self, k: int) -> NetworkWeights:
        """Return the weights of member k, or a function that computes generated weights for each batch."""
        # The generated weights of all members at once would fill the memory.
        return (lambda batch: self.member(k)) if self.factors else self.member(k)

    def anchors(self) -> Iterable[Anchor]:
        """Return the K members, even if their average predicts."""
        if not self.begun:
            return super().anchors()
        return (Anchor(self.member(k)) for k in range(self.K))

    # --- state -----------------------------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """Return the epoch, the position in the cycle at which the next update begins, and what is carried to it."""
        return {**super().get_extra_state(), "cycle_position": self.cycle_position, "carrying": self.carrying}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Load what `get_extra_state` returned."""
        super().set_extra_state(state)
        self.cycle_position = state.get("cycle_position", 0)  # the state of a plain trunk has neither
        unnamed = self.carried.named() if self.carried_minibatches else ()  # in a checkpoint of an earlier version
        self.carrying = list(state.get("carrying", unnamed))
