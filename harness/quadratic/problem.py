"""The noisy quadratic problem: late-phase weights and full ensembles where the loss of their average is known.

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
from scipy.integrate import solve_ivp

from harness.store.run_folder import key_of
from methods.core.recipe import FrozenModel

Array = NDArray[np.float64]

VERSION = 1
"""Raised when results change; part of a run's key."""
EVERY = 10
"""Iterations from one measurement of the loss to the next; those between would hardly differ."""


class Simulation(FrozenModel):
    """What is simulated, and for how long.

    Attributes:
        K: numbers of members.
        seeds: independent repetitions.
        n: dimensions.
        iterations: updates of the base weights in all.
        average: over how many of them, at the end, the loss is averaged.
    """

    K: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=2)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=2)]
    n: Annotated[int, Field(ge=2)] = 100
    iterations: Annotated[int, Field(ge=1)]
    average: Annotated[int, Field(ge=1, multiple_of=2 * EVERY)]

    @field_validator("K", "seeds")
    @classmethod
    def once(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        """Refuse a value that is written twice."""
        if len(set(values)) < len(values):
            raise ValueError(f"each value once: {', '.join(map(str, values))}")
        return values


class Setting(FrozenModel):
    """How noisy the updates are.

    Attributes:
        eta: the learning rate η of the base and of the late-phase weights.
        B: the batch size; it only scales the noise.
    """

    eta: Annotated[float, Field(gt=0)]
    B: Annotated[float, Field(gt=0)]


class QuadraticRun(Simulation, Setting):
    """One setting of the noisy quadratic problem, simulated."""

    @property
    def curvature(self) -> Array:
        """The diagonal of H, (n,)."""
        return 1 / np.arange(1.0, self.n + 1)

    @property
    def target(self) -> Array:
        """The target w*, (n,)."""
        # Deviation: the paper does not give it, but that it must not be 0, since φ scales all of w. Ours is as long as
        # the start is far from it, 1, and the same in all directions.
        return np.full(self.n, self.n**-0.5)

    def spec(self) -> dict[str, Any]:
        """Give the run as JSON values, without fields equal to their default."""
        return {"noisy_quadratic": {**self.model_dump(mode="json", exclude_defaults=True), "version": VERSION}}

    @property
    def key(self) -> str:
        """The SHA-256 of the canonical spec."""
        return key_of(self.spec())

    @property
    def label(self) -> str:
        """Name the setting."""
        return f"η = {self.eta:g}, B = {self.B:g}"

    @property
    def place(self) -> str:
        """Name what is simulated."""
        return f"noisy quadratic problem of {self.n} dimensions"

    def tags(self) -> dict[str, str]:
        """Describe the run to the tracking store."""
        return {"method": "noisy_quadratic", "method_version": str(VERSION)}

    def __str__(self) -> str:
        """Name the run for people."""
        return f"{self.label} · {self.place}"


def steady_loss(curvature: Array, eta: float, B: float, K: int | Array) -> Array:
    """Give the expected steady-state loss of the average of K learners of the plain weights, exactly.

    For each direction of curvature h this is the fixed point of Eq. 35, C = η / (K B (2 − η h)), times h / 2.

    Args:
        curvature: (n,), in directions where the noise of a gradient has variance h / B too (Σ = H⁻¹).
        eta: the learning rate.
        B: the batch size.
        K: how many learners are averaged; an array of any shape.

    Returns:
        The loss, in the shape of K.

    Raises:
        ValueError: if a direction is too steep for the learning rate: there is no steady state.

    References:
        von Oswald et al. 2021, appendix C.3, Eqs. 35 and 37 (whose printed form lacks η² and the inverse).
    """
    if eta * curvature.max() >= 2:
        raise ValueError(f"no steady state: the learning rate {eta:g} is 2 / curvature or more ({curvature.max():g})")
    return np.asarray(eta / (2 * B) * (curvature / (2 - eta * curvature)).sum() / K)


def balance(run: QuadraticRun, K: int, iterations: Sequence[float] | Array) -> Array:
    """Give the mean square of the late-phase weights, after some numbers of iterations.

    θ and φ may be scaled against each other without changing w, so that no gradient holds them in balance: under
    gradient flow |θ|² − φ² never changes. Minibatch noise changes it, by η² / B · (φ² tr(H) / K − θᵀ H θ) an iteration:
    θ sees the noise of K minibatches averaged, each φ_k that of its own. With θ = w* / φ this is an equation for φ²
    alone; it rests where φ⁴ = K w*ᵀ H w* / tr(H), after a time that grows as B / η².

    This is ours, not the paper's, whose Eq. 31 takes everything but its leading 1 / K as independent of K. It leaves
    out what steps of a finite size do to |θ|² − φ² on the way from the start; with η = 0.5 and n = 20, where noise is
    weak, the loss is 3 % lower by that.

    Args:
        run: the setting; φ is 1 at its start.
        K: the number of members.
        iterations: ascending, the last one above 0.

    Returns:
        φ² after each of them.
    """
    h, target = run.curvature, run.target
    noise, hold, length = h.sum() / K, float(h @ target**2), float(target @ target)

    def rate(_: float, log_square: Array) -> Array:
        fourth = np.exp(2 * log_square)  # φ⁴
        return np.asarray((hold - noise * fourth) / (fourth + length))

    times = run.eta**2 / run.B * np.asarray(iterations, float)
    solved = solve_ivp(rate, (0.0, float(times[-1])), [0.0], method="LSODA", t_eval=times, rtol=1e-9, atol=1e-9)
    return np.asarray(np.exp(solved.y[0]))


def curvature_around(run: QuadraticRun, square: float) -> Array:
    """Give the curvatures that late-phase weights feel where they rest.

    Where members hardly differ, their average follows gradient descent with the preconditioner P = φ² I + θ θᵀ, and the
    noise of K minibatches averaged. Rotated, this is a problem of plain weights with the curvatures of H^½ P H^½, and
    with noise in the same proportion to them.

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

    It is the steady state with the curvatures of `curvature_around`, as long as the balance of θ and φ (`balance`)
    moves slowly; for small steps, η / (4 K B) · (φ² tr(H) + w*ᵀ H w* / φ²). This is the full ensemble's loss times a
    factor that depends on K only through φ². Once the balance rests, the loss falls as K^(−1/2) + K^(−3/2).

    Args:
        run: the setting.
        K: the number of members.
        iterations: ascending, the last one above 0.

    Returns:
        The loss after each of them.

    Raises:
        ValueError: if there is no steady state.
    """
    squares = balance(run, K, iterations)
    return np.array([steady_loss(curvature_around(run, square), run.eta, run.B, K) for square in squares])
