"""The noisy quadratic problem, for which the loss of late-phase and full ensembles is known in theory.

The loss is ½ (w − w*)ᵀ H (w − w*) with H = diag(1, 1/2, …, 1/n); a minibatch of B examples moves its target by
ε / √B, ε ~ N(0, H⁻¹). A late-phase member is w_k = θ φ_k with a scalar φ_k of its own.

References:
    von Oswald et al., Neural networks with late-phase weights, ICLR 2021, section 3.1, Figure 1 and appendix C.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from harness.store.run_folder import spec_key
from methods.core.recipe import FrozenModel

Array = NDArray[np.float64]

VERSION = 1
"""Version of the simulation, part of a run's key. It is increased when results change."""
MOST_MEMBERS, MOST_DIMENSIONS = 10_000, 100_000
MEASURE_EVERY = 10
"""Iterations between two measurements of the loss. Consecutive iterations hardly differ."""


class Simulation(FrozenModel):
    """The size and length of a simulation.

    Attributes:
        K: numbers of members.
        seeds: seeds of independent repetitions.
        n: number of dimensions.
        iterations: number of updates of the base weights.
        average: number of iterations at the end over which the loss is averaged.
    """

    K: Annotated[tuple[Annotated[int, Field(ge=1, le=MOST_MEMBERS)], ...], Field(min_length=2)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=2)]
    n: Annotated[int, Field(ge=2, le=MOST_DIMENSIONS)] = 100
    iterations: Annotated[int, Field(ge=1)]
    average: Annotated[int, Field(ge=1, multiple_of=2 * MEASURE_EVERY)]

    @field_validator("K", "seeds")
    @classmethod
    def once(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        """Refuse repeated values."""
        if len(set(values)) < len(values):
            raise ValueError(f"each value once: {', '.join(map(str, values))}")
        return values


class Setting(FrozenModel):
    """The learning rate and batch size, which determine the noise of the updates.

    Attributes:
        eta: learning rate η of the base weights and the late-phase weights.
        B: batch size, which only scales the noise.
    """

    eta: Annotated[float, Field(gt=0)]
    B: Annotated[float, Field(gt=0)]


class QuadraticRun(Simulation, Setting):
    """The simulation of one setting of the noisy quadratic problem."""

    @property
    def curvature(self) -> Array:
        """The diagonal of H, (n,)."""
        return 1 / np.arange(1.0, self.n + 1)

    @property
    def target(self) -> Array:
        """The target w*, (n,)."""
        # Deviation: the paper does not give the target. It must not be 0, because φ scales all of w. Our target has
        # norm 1, the distance of the initial weights from it, and equal components.
        return np.full(self.n, self.n**-0.5)

    def spec(self) -> dict[str, Any]:
        """Return the run as JSON values, without fields equal to their default."""
        return {"noisy_quadratic": {**self.model_dump(mode="json", exclude_defaults=True), "version": VERSION}}

    @property
    def key(self) -> str:
        """The SHA-256 of the canonical spec."""
        return spec_key(self.spec())

    @property
    def label(self) -> str:
        """The setting, for display."""
        return f"η = {self.eta:g}, B = {self.B:g}"

    @property
    def setup(self) -> str:
        """The problem and its size, for display."""
        return f"noisy quadratic problem of {self.n} dimensions"

    def tags(self) -> dict[str, str]:
        """Return the tags of the run for the tracking store."""
        return {"method": "noisy_quadratic", "method_version": str(VERSION)}

    def __str__(self) -> str:
        """Describe the run for display."""
        return f"{self.label} · {self.setup}"


def steady_loss(curvature: Array, eta: float, B: float, K: int | Array) -> Array:
    """Return the exact expected steady-state loss of the average of K learners of plain weights.

    For each direction of curvature h this is the fixed point of Eq. 35, C = η / (K B (2 − η h)), times h / 2.

    Args:
        curvature: curvatures h, (n,). The gradient noise in these directions has variance h / B (Σ = H⁻¹).
        eta: the learning rate.
        B: the batch size.
        K: number of averaged learners; an array of any shape.

    Returns:
        The loss, in the shape of K.

    Raises:
        ValueError: if the learning rate is too large for a curvature, so that there is no steady state.

    References:
        von Oswald et al. 2021, appendix C.3, Eqs. 35 and 37 (whose printed form lacks η² and the inverse).
    """
    if eta * curvature.max() >= 2:
        raise ValueError(f"no steady state: the learning rate {eta:g} is 2 / curvature or more ({curvature.max():g})")
    return np.asarray(eta / (2 * B) * (curvature / (2 - eta * curvature)).sum() / K)


def mean_square_late_weight(run: QuadraticRun, K: int, iterations: Sequence[float] | Array) -> Array:
    """Predict the mean square φ² of the late-phase weights after given numbers of iterations.

    Scaling θ up and φ down does not change w, so no gradient acts on the ratio of the two. Under gradient flow
    |θ|² − φ² is constant. Minibatch noise changes it by η² / B · (φ² tr(H) / K − θᵀ H θ) an iteration: θ receives the
    averaged noise of K minibatches, each φ_k the noise of its own minibatch. With θ = w* / φ this becomes an equation
    for φ² alone. Its fixed point is φ⁴ = K w*ᵀ H w* / tr(H), which is reached after a time that grows as B / η².

    This derivation is not from the paper, whose Eq. 31 treats everything except the leading 1 / K as independent of K.
    It neglects the effect of finite step sizes on |θ|² − φ² at the beginning. With η = 0.5 and n = 20, where the noise
    is weak, this effect lowers the loss by 3 %.

    Args:
        run: the setting; φ is 1 initially.
        K: number of members.
        iterations: numbers of iterations, ascending, the last one above 0.

    Returns:
        φ² after each number of iterations.
    """
    h, target = run.curvature, run.target
    noise, hold, length = h.sum() / K, float(h @ target**2), float(target @ target)

    def rate(_: float, log_square: Array) -> Array:
        fourth = np.exp(2 * log_square)  # φ⁴
        return np.asarray((hold - noise * fourth) / (fourth + length))

    times = run.eta**2 / run.B * np.asarray(iterations, float)
    from scipy.integrate import solve_ivp  # takes half a second

    solved = solve_ivp(rate, (0.0, float(times[-1])), [0.0], method="LSODA", t_eval=times, rtol=1e-9, atol=1e-9)
    return np.asarray(np.exp(solved.y[0]))


def effective_curvatures(run: QuadraticRun, square: float) -> Array:
    """Return the effective curvatures for late-phase weights near their fixed point.

    If members hardly differ, their average follows gradient descent with the preconditioner P = φ² I + θ θᵀ and the
    averaged noise of K minibatches. After a rotation, this is a problem of plain weights whose curvatures are those of
    H^½ P H^½. The noise is in the same proportion to these curvatures.

    Args:
        run: the setting.
        square: φ²; θ is w* / φ.

    Returns:
        The eigenvalues of H^½ P H^½, ascending, (n,).
    """
    a = np.sqrt(run.curvature) * run.target
    return np.asarray(np.linalg.eigvalsh(np.diag(square * run.curvature) + np.outer(a, a) / square))


def late_phase_loss(run: QuadraticRun, K: int, iterations: Sequence[float] | Array) -> Array:
    """Predict the loss of the average of late-phase members, for weak noise.

    The loss is the steady-state loss with the curvatures of `effective_curvatures`, provided that φ² changes slowly
    (`mean_square_late_weight`). For small steps it is η / (4 K B) · (φ² tr(H) + w*ᵀ H w* / φ²). This is the full
    ensemble's loss times a factor that depends on K only through φ². At the fixed point of φ², the loss falls as
    K^(−1/2) + K^(−3/2).

    Args:
        run: the setting.
        K: number of members.
        iterations: numbers of iterations, ascending, the last one above 0.

    Returns:
        The loss after each number of iterations.

    Raises:
        ValueError: if there is no steady state.
    """
    squares = mean_square_late_weight(run, K, iterations)
    return np.array([steady_loss(effective_curvatures(run, square), run.eta, run.B, K) for square in squares])
