"""Late-phase weights: a few weights of the network in K copies, trained together late in training.

Within a cycle the base weights stand still and every member is used at most once. So K backward passes followed by
one step (each member by its own gradient, the base weights by the scaled sum) do exactly what Algorithm 1 of the
paper does with an optimizer per member. Members that were not used have no gradient, and take no step.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Annotated, ClassVar, Literal

import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from methods.core.batch_norm import Member, batch_norms, reestimate, reestimate_each
from methods.core.declarations import PLAIN_TRUNK, About, Anchor, Batch, Sharing, Trunk
from methods.core.fused_members import FusedForwards, LayerForward, acting, can_fuse, grouped, member_forward
from methods.core.member_average import average_layers
from methods.core.member_weights import MemberWeights, tensors_of
from methods.core.random_streams import MakeNet, seeded
from methods.core.recipe import Position, Recipe, start_at

LATE_PHASE = About(
    "late-phase weights",
    "von Oswald et al. 2021",
    passes="K if statistics == 'reestimate_members' else 1 if statistics == 'reestimate' else 0",
    prediction="K if prediction == 'members' else 1",
)
LATE_SHARING = Sharing(
    lambda method: Trunk(PLAIN_TRUNK, method.start_epoch),
    prediction=frozenset({"prediction", "statistics"}),
    prepared=("average",),
)


class LatePhase(MemberWeights):
    """Train plainly until T0; then give some weights to K members that take turns, one minibatch each.

    A subclass says which weights, by calling `replicate`: layers of the network (every member keeps copies of
    their parameters and running statistics), and factors, modules of which `generate` makes weights together with
    the base weights: the interaction w = h(θ, φ) of the paper. Weights and factors before T0 are φ0.

    Members of a class that declares itself `fusible` may run as one batch of all of them. `loss` and `forward` then
    see the rows of all, and of weights only those that `generate` makes for all alike; `weights_of`, `late_weights`,
    `member` and `members` are not asked. A subclass that changes one of these does not declare it, or says in
    `make_acts` what its members do to their rows.

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
        member_momentum: Literal["fresh", "copy"] = "fresh",
        leftover: Literal["step", "carry", "drop"] = "step",
        frozen_base: bool = False,
        prediction: Literal["average", "members"] = "average",
        statistics: Literal["collapse", "average", "reestimate", "reestimate_members"] = "collapse",
    ) -> None:
        """Set the hyperparameters.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            K: the number of members.
            start: T0, an epoch or a fraction of all epochs (120 of 200 in the paper); None: never.
            sigma0: standard deviation of the noise that tells members apart at T0, relative to the root mean
                square of each tensor (Equation 2).
            gamma_theta: factor γ_θ on the base weights' gradient, summed over the cycle; "1/K" divides by the
                number of minibatches in the cycle.
            member_weight_decay: of the members' layers; None for the recipe's. Factors have none.
            member_optimizer: the members' update U_φ: plain "sgd", "nesterov" (with the recipe's momentum),
                "adam", or as the "recipe" says.
            member_lr: factor on the learning rate of the members.
            member_momentum: at T0, members' optimizer state is "fresh" (as in the authors' code) or a "copy" of
                the state of φ0.
            leftover: what an epoch's last minibatches do when they do not fill a cycle: the base weights "step" on
                what there is, and the next epoch begins with the next member; or their gradient is "carried" into
                the next epoch (Algorithm 4) or "dropped", cycles beginning with the first member (the authors'
                code). Members step in any case.
            frozen_base: keep the base weights as they are at T0 (the control of Table 9).
            prediction: predict with one network of "average" weights (Equation 1) or with all "members".
            statistics: how the average network gets its BatchNorm statistics where members have their own:
                "collapse" makes each layer the exact mean of the K layers' outputs (as in the authors' code),
                "average" averages scale, shift, mean and variance one by one, "reestimate" does so and passes over
                the data once, "reestimate_members" passes over the data once a member, then collapses. Where
                members' statistics are stale, as after weight averaging, "collapse" and "average" re-estimate; there
                the authors' code does as "reestimate_members".
        """
        if prediction == "members" and statistics != "collapse":
            raise ValueError(f"statistics={statistics} is about the average network, and prediction=members has none")
        if frozen_base and (gamma_theta, leftover) != (1.0, "step"):
            raise ValueError(
                "gamma_theta and leftover are about the base weights' steps, and frozen_base=True stops these"
            )
        if member_optimizer == "nesterov" and not recipe.momentum:
            raise ValueError("member_optimizer=nesterov needs a recipe with momentum")
        if member_momentum == "copy" and member_optimizer != "recipe":
            raise ValueError(f"member_momentum=copy: {member_optimizer} cannot go on from the plain optimizer's state")
        super().__init__(make_net, recipe)
        self.start_epoch = self.epochs if start is None else start_at(start, self.epochs)
        self.K, self.sigma0, self.gamma_theta = K, sigma0, gamma_theta
        self.member_weight_decay = recipe.weight_decay if member_weight_decay is None else member_weight_decay
        self.member_optimizer, self.member_lr, self.member_momentum = member_optimizer, member_lr, member_momentum
        self.leftover, self.frozen_base = leftover, frozen_base
        self.prediction, self.statistics = prediction, statistics
        self.fresh: set[str] = set()
        self.carrying = 0
        self.acts: dict[tuple[int, ...], FusedForwards] = {}

    # --- training --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def begin(self) -> None:
        """Give every member the values of φ0, with noise on the parameters (Equation 2)."""
        generator = self.generator("late-phase noise")
        for k in range(self.K):
            for part, plain in zip(self.own_parts(k), self.plain_parts(), strict=True):
                for own, value in zip(tensors_of(part), tensors_of(plain), strict=True):
                    own.copy_(value)
                for p in part.parameters() if self.sigma0 else ():
                    noise = torch.randn(p.shape, generator=generator).to(p)
                    p.add_(noise * p.square().mean().sqrt(), alpha=self.sigma0)
            for name in self.fresh:
                with seeded(self.generator(f"{name} of member {k}")):
                    drawn = deepcopy(self.net.get_submodule(name)).cpu()
                    drawn.reset_parameters()  # type: ignore[operator]
                self.own_parts(k)[self.names.index(name)].load_state_dict(drawn.state_dict())

    def batches_per_update(self) -> int:
        """Consume a cycle, one minibatch a member, or what is left of one."""
        return self.batches_in_cycle() - self.carrying if self.begun else 1

    def batches_in_cycle(self) -> int:
        """Say how many minibatches fill a cycle."""
        return self.K

    def turn(self, i: int) -> int:
        """Say which member sees minibatch i of the update.

        Where a cycle ends with the epoch, the next epoch begins with the next member, so that all are used equally.
        """
        # Deviation: Algorithm 4 counts minibatches across epochs; leftover=carry does.
        first = self.epoch - self.start_epoch if self.leftover == "step" else self.carrying
        return (first + i) % self.K

    def update(self, batches: Sequence[Batch], optimizer: Optimizer) -> Tensor:
        """Let members take turns, then step once."""
        if not self.begun:
            return super().update(batches, optimizer)
        if self.member_momentum == "copy" and self.epoch == self.start_epoch:
            self.copy_optimizer_state(optimizer)
        optimizer.zero_grad()
        turns = [self.turn(i) for i in range(len(batches))]
        examples = {len(x) for x, _ in batches}
        alike = len(batches) > 1 and len(examples) == 1
        loss = (self.fused_cycle if alike and self.fuses(examples.pop()) else self.cycle)(batches, turns)
        self.finish_cycle(len(batches))
        optimizer.step()
        return loss

    def cycle(self, batches: Sequence[Batch], turns: Sequence[int]) -> Tensor:
        """Let each minibatch's member add to the gradients; the mean loss."""
        losses = []
        for (x, y), k in zip(batches, turns, strict=True):
            loss = self.loss(x, y, self.late_weights(k))
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    def fused_cycle(self, batches: Sequence[Batch], turns: Sequence[int]) -> Tensor:
        """Do the same in one pass over all minibatches, which must be equally large."""
        pairs = list(zip(turns, batches, strict=True))
        if not self.shared_norms:  # whose statistics move in the order of the minibatches
            pairs.sort(key=lambda pair: pair[0])  # whole cycles are then one and the same program in every epoch
        x, y = (torch.cat(parts) for parts in zip(*(batch for _, batch in pairs), strict=True))
        with self.as_one_batch([k for k, _ in pairs]) as weights:
            loss = self.loss(x, y, weights)
        (loss * len(batches)).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def fuses(self, examples: int) -> bool:
        """Say whether members see so many examples each as one batch: where that is faster, and can be done."""
        declared = vars(type(self)).get("fusible", False)
        own_kernels = bool(self.factors) and self.late_factors and type(self).make_acts is LatePhase.make_acts
        return declared and not own_kernels and examples <= self.fuse_up_to and self.divisible and can_fuse(self.net)

    @contextmanager
    def as_one_batch(self, turns: Sequence[int]) -> Iterator[dict[str, Tensor]]:
        """Let the network see batches of m members, (m·B, …), equally many rows each; give the weights to run it on."""
        key = tuple(turns)
        if key not in self.acts:  # kept, for a compiled program holds for these very objects
            moves_on = self.leftover == "step" and self.shared_norms  # each epoch's cycles begin with another member
            repeats = key == tuple(range(self.K)) and not moves_on
            self.acts[key] = FusedForwards(self.make_acts(turns), repeats)
        with acting(self.net, self.acts[key]):
            yield {} if self.late_factors else self.generate(list(self.factors))

    def make_acts(self, turns: Sequence[int]) -> dict[nn.Module, LayerForward]:
        """Say what layers do to the rows of some members: BatchNorm and those that members own."""
        parts = zip(*(self.own_parts(k)[: len(self.names)] for k in turns), strict=True)
        own = dict(zip(self.names, parts, strict=True))
        shared = {name: [layer] * len(turns) for name, layer in batch_norms(self.net).items()}
        return {self.net.get_submodule(name): member_forward(layers) for name, layers in {**shared, **own}.items()}

    @torch.no_grad()
    def finish_cycle(self, minibatches: int) -> None:
        """Turn the base weights' summed gradient into the one they step on; None where they take no step."""
        used = self.carrying + minibatches
        complete = used >= self.batches_in_cycle()
        scale = 1 / used if self.gamma_theta == "1/K" else float(self.gamma_theta)
        stop = self.frozen_base or (not complete and self.leftover != "step")
        if not stop and scale == 1.0 and self.leftover != "carry":
            return
        carried = self.carried.named()
        for name, p in self.shared_weights():
            if p.grad is None:
                continue
            if name in carried:
                p.grad.add_(carried[name])
                carried[name].copy_(torch.zeros_like(p) if complete else p.grad)
            p.grad = None if stop else p.grad.mul_(scale)
        self.carrying = 0 if complete or self.leftover != "carry" else used

    def gradient_sums(self) -> list[Tensor]:
        """List what is carried into the next epoch."""
        return list(self.carried.buffers())

    def copy_optimizer_state(self, optimizer: Optimizer) -> None:
        """Start every member with the optimizer state of φ0, if it has none; not what was drawn afresh."""
        fresh = {self.names.index(name) for name in self.fresh}
        for k in range(self.K):
            for i, (part, plain) in enumerate(zip(self.own_parts(k), self.plain_parts(), strict=True)):
                for p, source in zip(part.parameters(), plain.parameters(recurse=False), strict=True):
                    if i not in fresh and source in optimizer.state and p not in optimizer.state:
                        optimizer.state[p] = deepcopy(optimizer.state[source])

    # --- prediction ------------------------------------------------------------------------------------------

    @property
    def re_estimates(self) -> bool:
        """Whether `prepare` passes over the data."""
        return self.statistics_stale or self.statistics in ("reestimate", "reestimate_members")

    def members(self) -> Iterable[dict[str, Tensor]]:
        """Give the K members, or the one average network."""
        if not self.begun:
            return super().members()
        if self.prediction == "members":
            return (self.member(k) for k in range(self.K))
        return [self.average_member()]

    def predict(self, x: Tensor) -> Tensor:
        """Give the logits of every member, (K, B, C), from one pass where members are fused."""
        if not (self.begun and self.prediction == "members" and self.fuses(len(x))):
            return super().predict(x)
        with self.as_one_batch(range(self.K)) as weights:
            return grouped(self(torch.cat([x] * self.K), weights), self.K)

    def average_member(self) -> dict[str, Tensor]:
        """Average the members (Equation 1)."""
        statistics: dict[str, Tensor] | None = None
        if self.statistics != "reestimate_members" and self.re_estimates:
            statistics = self.average.named()
        elif self.statistics == "average":
            statistics = {}
        late = average_layers((self.late_weights(k) for k in range(self.K)), self.net, statistics)
        return {**super().own_weights(), **late}

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Re-estimate what must be: the members' statistics where they predict or collapse, else the average's."""
        if not self.begun:
            super().prepare(batches)
        elif self.re_estimates and self.prediction == "average" and self.statistics != "reestimate_members":
            reestimate(self, batches, self.average_member())
        elif self.re_estimates and self.own_statistics:
            reestimate_each(self, batches, map(self.member_to_estimate, range(self.K)))
        elif self.re_estimates:
            reestimate(self, batches, lambda i: self.member(i % self.K))

    def member_to_estimate(self, k: int) -> Member:
        """Give member k; where its weights are made, anew for each batch: those of all would fill the memory."""
        return (lambda batch: self.member(k)) if self.factors else self.member(k)

    def anchors(self) -> Iterable[Anchor]:
        """Give the K members, also where their average predicts."""
        if not self.begun:
            return super().anchors()
        return (Anchor(self.member(k)) for k in range(self.K))

    # --- state -----------------------------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, int]:
        """Save how many minibatches of a cycle the last epoch left over."""
        return {**super().get_extra_state(), "carrying": self.carrying}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Load it."""
        super().set_extra_state(state)
        self.carrying = state.get("carrying", 0)  # a plain trunk, which a late phase may start from, has none
