"""Simulates the learners of the noisy quadratic problem in float64, with all seeds, members and dimensions at once."""

from collections.abc import Callable, Sequence

import numpy as np

from harness.quadratic.problem import MEASURE_EVERY, Array, QuadraticRun
from harness.store.outcome import DivergenceError

PROGRESS_REPORTS = 200
"""Number of progress reports of a simulation."""


class NormalStreams:
    """One stream of standard normal numbers a seed. The results of a seed therefore do not depend on other seeds."""

    def __init__(self, seeds: Sequence[int], purpose: int) -> None:
        """Create the streams of one purpose."""
        self.generators = [np.random.Generator(np.random.SFC64([seed, purpose])) for seed in seeds]

    def fill(self, out: Array) -> Array:
        """Fill an array (S, …) with the next numbers and return it."""
        for generator, part in zip(self.generators, out, strict=True):
            generator.standard_normal(out=part)
        return out

    def draw_initial_weights(self, run: QuadraticRun, rows: int) -> Array:
        """Draw initial weights (S, rows, n) at distance 1 from the target, with the target's norm."""
        # Deviation: the paper gives only the distance. With this norm and φ = 1, |θ|² − φ² is 0, as at w*.
        direction = self.fill(np.empty((len(self.generators), rows, run.n)))
        direction -= (direction @ run.target)[..., None] * run.target
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        return np.asarray(run.target / 2 + np.sqrt(0.75) * direction)


class FullEnsembles:
    """Independent learners of plain weights (Eq. 32). The first K learners form an ensemble of K members."""

    def __init__(self, run: QuadraticRun, purpose: int) -> None:
        """Initialize as many learners as the largest ensemble has members."""
        self.streams = NormalStreams(run.seeds, purpose)
        self.w = self.streams.draw_initial_weights(run, max(run.K))  # (S, max K, n)
        self.noise = np.empty_like(self.w)
        self.target = run.target
        self.step_size = run.eta * run.curvature
        self.noise_scale = run.eta / np.sqrt(run.B) * np.sqrt(run.curvature)  # of H ε, where ε ~ N(0, H⁻¹)
        self.first = averaging_matrix(run.K, max(run.K))

    def step(self) -> None:
        """Update each learner with its own minibatch."""
        self.w -= self.step_size * (self.w - self.target)
        self.w += self.noise_scale * self.streams.fill(self.noise)

    def average(self) -> Array:
        """Return the average weights of each ensemble, (S, len(K), n)."""
        return np.asarray(self.first @ self.w)


class LatePhaseEnsembles:
    """Late-phase ensembles w_k = θ φ_k with scalar φ_k (Eqs. 7 and 8, γ_θ = 1 / K). The members of a row share one θ.

    An update uses only two combinations of the K n noise numbers: the sum Σ φ_k ε_k in θ, and θᵀ H ε_k in φ_k. They
    are Gaussian. `step` draws them from n + K numbers, which has exactly the same distribution.
    """

    def __init__(self, run: QuadraticRun, members: Sequence[int], purpose: int) -> None:
        """Initialize one ensemble a row.

        Args:
            run: the setting.
            members: number of members of each row.
            purpose: number of the random streams.
        """
        self.streams = NormalStreams(run.seeds, purpose)
        self.K = np.array(members, float)[:, None]  # (rows, 1)
        self.used = (np.arange(max(members)) < self.K).astype(float)  # (rows, max K)
        self.theta = self.streams.draw_initial_weights(run, len(members))  # (S, rows, n)
        self.phi = np.broadcast_to(self.used, (*self.theta.shape[:2], max(members))).copy()  # (S, rows, max K)
        self.h, self.root, self.target = run.curvature, np.sqrt(run.curvature), run.target
        self.eta, self.noise_scale = run.eta, run.eta / np.sqrt(run.B)
        self.noise = np.empty_like(self.theta), np.empty_like(self.phi)

    def draw_and_step(self) -> None:
        """Draw a minibatch for each member, and update."""
        common, own = self.noise
        self.step(self.streams.fill(common), self.streams.fill(own))

    def step(self, common: Array, own: Array) -> None:
        """Update the members and the base weights of each row. Both updates use the same old θ and φ.

        Write ε_k = H^(−1/2) x_k, a = H^(1/2) θ and f = φ / |φ|. Then Σ f_k x_k is standard normal. The components of
        the (a · x_k) / |a| orthogonal to f are standard normal as well, and independent of that sum.

        Args:
            common: Σ f_k x_k, standard normal, (S, rows, n).
            own: (a · x_k) / |a| of each member, standard normal, (S, rows, max K). The component along f has no effect.
        """
        shaken = self.root * common  # H Σ f_k ε_k
        steep = self.h * self.theta  # H θ
        square = (self.phi * self.phi).sum(-1, keepdims=True)  # |φ|²
        curvature = (steep * self.theta).sum(-1, keepdims=True)  # θᵀ H θ = |a|²
        along = (self.theta * shaken).sum(-1, keepdims=True)  # a · Σ f_k x_k
        size, length = np.sqrt(square), np.sqrt(curvature)
        across = along / size - length * (self.phi * own).sum(-1, keepdims=True) / square
        noise = self.phi * across + length * own  # θᵀ H ε_k
        pull = steep * square - self.h * self.target * self.phi.sum(-1, keepdims=True)
        gradient = curvature * self.phi - (steep @ self.target)[..., None]
        self.theta -= self.eta / self.K * pull - self.noise_scale / self.K * size * shaken
        self.phi -= self.used * (self.eta * gradient - self.noise_scale * noise)

    def weights(self) -> Array:
        """Return the average weights of each row, θ times the mean of φ_k, (S, rows, n)."""
        return np.asarray(self.theta * (self.phi.sum(-1, keepdims=True) / self.K))


def averaging_matrix(K: Sequence[int], rows: int) -> Array:
    """Return the matrix (len(K), rows) that averages the first K rows."""
    sizes = np.array(K, float)[:, None]
    return np.asarray((np.arange(rows) < sizes) / sizes)


def simulate(run: QuadraticRun, report: Callable[[int], None] = lambda _: None) -> dict[str, Array]:
    """Simulate late-phase ensembles, full ensembles of plain weights, and full ensembles of the model θ φ.

    The third kind is K independent late-phase models of one member each, which is the fairer comparison. (The paper's
    baseline is such a model. It does not say whether its ensemble consists of these, or of plain weights as in Eq. 32.)

    Args:
        run: the setting.
        report: called from time to time with the number of finished iterations.

    Returns:
        "late_phase", "full" and "full_multiplicative" → loss of the average weights, (2, S, len(K)): its mean over the
        first and over the second half of the last `average` iterations.

    Raises:
        DivergenceError: if a loss is not finite.
    """
    late, full = LatePhaseEnsembles(run, run.K, purpose=0), FullEnsembles(run, purpose=1)
    single = LatePhaseEnsembles(run, [1] * max(run.K), purpose=2)  # rows of one member
    averages: dict[str, Callable[[], Array]] = {
        "late_phase": late.weights,
        "full": full.average,
        "full_multiplicative": lambda: np.asarray(full.first @ single.weights()),
    }
    totals = {name: np.zeros((2, len(run.seeds), len(run.K))) for name in averages}
    burn_in, every = run.iterations - run.average, -(-run.iterations // PROGRESS_REPORTS)
    with np.errstate(over="ignore", invalid="ignore"):  # reported as a divergence below
        for t in range(1, run.iterations + 1):
            late.draw_and_step()
            full.step()
            single.draw_and_step()
            if t > burn_in and t % MEASURE_EVERY == 0:
                half = int(2 * (t - burn_in - 1) >= run.average)
                for name, average in averages.items():
                    totals[name][half] += 0.5 * (average() - run.target) ** 2 @ run.curvature
            if t % every == 0 or t == run.iterations:
                report(t)
                if not all(np.isfinite(part).all() for part in (late.theta, late.phi, single.theta, single.phi)):
                    raise DivergenceError(f"{run} diverged within {t} iterations; a smaller η · 1/√B may help")
    return {name: total * (2 * MEASURE_EVERY / run.average) for name, total in totals.items()}
