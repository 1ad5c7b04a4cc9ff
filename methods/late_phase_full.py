"""The whole network as late-phase weights: a control that keeps K whole networks, and so saves no memory."""

from typing import Any, ClassVar, Literal

from optuna.distributions import BaseDistribution

from methods.core.declarations import About, Sharing
from methods.core.late_phase import LATE_PHASE_ABOUT, LATE_PHASE_SHARING, LatePhase
from methods.core.layers import carries_state
from methods.core.member_weights import tensors_of
from methods.core.random_streams import MakeNet
from methods.core.recipe import Recipe


class LatePhaseFull(LatePhase):
    """Use the whole network as late-phase weights: K networks, each of which sees every K-th minibatch.

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, section 3.2 (late-phase deep ensemble).
    """

    about: ClassVar[About] = LATE_PHASE_ABOUT._replace(
        training="start + K * (1 - start) if data == 'full' else 1",
        passes="0 if prediction == 'members' or statistics in ('collapse', 'average') else 1",
    )
    sharing: ClassVar[Sharing] = LATE_PHASE_SHARING
    space: ClassVar[dict[str, BaseDistribution]] = {name: LatePhase.space[name] for name in ("K", "start", "sigma0")}
    version: ClassVar[int] = 3
    divisible = True

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        statistics: Literal["collapse", "average", "reestimate"] | None = None,
        data: Literal["shared", "full"] = "shared",
        **hyperparameters: Any,
    ) -> None:
        """Set which data the networks see, and how their average gets its statistics.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            statistics: how the average network gets its BatchNorm statistics; see `LatePhase`. None: "reestimate",
                because no network was trained with the average network's activations.
            data: the networks share the minibatches of an epoch ("shared"), or each sees all of them in an order of its
                own ("full").
            hyperparameters: those of `LatePhase`.

        Raises:
            ValueError: for hyperparameters that apply to shared weights.
        """
        defaults = {"gamma_theta": 1.0, "frozen_base": False, **({"leftover": "carry"} if data == "full" else {})}
        for name, default in defaults.items():
            if hyperparameters.get(name, default) != default:
                raise ValueError(
                    f"{name}={hyperparameters[name]} applies to weights that members share, and there are none"
                )
        average = hyperparameters.get("prediction", "average") == "average"
        super().__init__(
            make_net, recipe, statistics=statistics or ("reestimate" if average else "collapse"), **hyperparameters
        )
        if data == "full" and carries_state(self.net):
            raise ValueError(
                "every member would read the text in an order of its own, but this architecture carries its state from "
                "one minibatch to the next and has only one state"
            )
        self.data = data
        self.replicate([name for name, layer in self.net.named_modules() if tensors_of(layer)])

    def check_minibatches(self, per_epoch: int) -> None:
        """Check that every network gets a minibatch, unless each sees all of them."""
        if self.data == "shared":
            super().check_minibatches(per_epoch)

    def data_orders(self) -> int:
        """Return K if each network sees all data in an order of its own, else 1."""
        return self.K if self.begun and self.data == "full" else 1

    def member_for(self, i: int) -> int:
        """Return the member of order i of the data, or the next member in turn if members share the data."""
        return i if self.data == "full" else super().member_for(i)
