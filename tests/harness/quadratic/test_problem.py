"""The noisy quadratic problem: theory against linear algebra, updates against the paper, simulation against theory."""

import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov

from harness.quadratic.learners import FullEnsembles, LatePhaseEnsembles, NormalStreams, simulate
from harness.quadratic.problem import (
    MEASURE_EVERY,
    QuadraticRun,
    effective_curvatures,
    late_phase_loss,
    mean_square_late_weight,
    steady_loss,
)
from harness.quadratic.quadratic_study import log_log_slopes, loss_curves
from harness.store.outcome import DivergenceError


def setting(**changes):
    values = {"eta": 0.5, "B": 1e6, "K": (1, 2, 5, 10), "seeds": tuple(range(8)), "n": 20}
    return QuadraticRun(**{**values, "iterations": 2400, "average": 1600, **changes})


# --- theory ---------------------------------------------------------------------------------------------------


def lyapunov_loss(run, P, K):
    """Half the trace of H C, where C is the covariance of w ← w − η P (H w + H ε / √(K B)) at rest."""
    H = np.diag(run.curvature)
    noise = run.eta**2 / (K * run.B) * P @ H @ np.linalg.inv(H) @ H @ P.T
    return 0.5 * np.trace(H @ solve_discrete_lyapunov(np.eye(run.n) - run.eta * P @ H, noise))


@pytest.mark.parametrize(("eta", "B", "K"), [(0.1, 1000, 1), (0.5, 100, 7), (1.9, 3, 25)])
def test_the_closed_form_of_full_ensembles(eta, B, K):
    run = setting(eta=eta, B=B)
    found = steady_loss(run.curvature, eta, B, K)
    np.testing.assert_allclose(found, lyapunov_loss(run, np.eye(run.n), K), rtol=1e-9)
    # Eq. 37, with the factor η² and the inverse that its printed form lacks
    A = np.eye(run.n) - eta * np.diag(run.curvature)
    vec = np.linalg.solve(np.eye(run.n**2) - np.kron(A, A), np.diag(run.curvature).reshape(-1)) * eta**2 / (K * B)
    np.testing.assert_allclose(found, 0.5 * run.curvature @ np.diag(vec.reshape(run.n, run.n)), rtol=1e-9)


def test_it_falls_as_one_over_the_members():
    run = setting()
    np.testing.assert_allclose(
        steady_loss(run.curvature, 0.5, 10, np.array([1, 4])) * [1, 4], steady_loss(run.curvature, 0.5, 10, 1)
    )


def test_a_rate_too_high_has_no_steady_state():
    with pytest.raises(ValueError, match=r"no steady state: the learning rate 2 is 2 / curvature or more \(1\)"):
        steady_loss(np.array([1.0, 0.5]), 2.0, 1.0, 1)


@pytest.mark.parametrize("square", [1.0, 0.3])
def test_late_phase_weights_at_rest_are_a_preconditioner(square):
    run = setting()
    P = square * np.eye(run.n) + np.outer(run.target, run.target) / square  # φ² I + θ θᵀ
    found = steady_loss(effective_curvatures(run, square), run.eta, run.B, 3)
    np.testing.assert_allclose(found, lyapunov_loss(run, P, 3), rtol=1e-9)


def test_the_balance_of_base_and_late_phase_weights():
    run = setting(eta=0.1, B=50.0)
    h, target = run.curvature, run.target
    for K in (1, 4):
        square, step = 1.0, 0.1  # Euler's method, in iterations
        for _ in range(40_000):
            pull = square * h.sum() / K - h @ target**2 / square  # by which |θ|² − φ² = 1 / φ² − φ² grows
            square -= step * run.eta**2 / run.B * pull / (1 + 1 / square**2)
        at_start, after, at_last = mean_square_late_weight(run, K, [0, 4000, 1e8])
        assert at_start == 1.0
        np.testing.assert_allclose(after, square, rtol=1e-4)
        assert 0.1 < after < 0.9, "on its way"
        np.testing.assert_allclose(at_last**2, K * (h @ target**2) / h.sum(), rtol=1e-5)


def test_at_last_the_loss_falls_more_slowly_than_one_over_the_members():
    run = setting(eta=1e-3, B=1.0, n=100)
    h, K = run.curvature, np.array([1, 2, 5, 25])
    root = np.sqrt(h @ run.target**2 / h.sum())
    expected = run.eta / (4 * run.B) * h.sum() * root * (K**-0.5 + K**-1.5)
    np.testing.assert_allclose([late_phase_loss(run, k, [1e12])[0] for k in K], expected, rtol=1e-3)


# --- updates --------------------------------------------------------------------------------------------------


def naive_step(run, theta, phi, x):
    """Eqs. 7 and 8 for one ensemble, member by member, where ε_k = Σ^½ x_k."""
    H, K = np.diag(run.curvature), len(phi)
    epsilon = [np.sqrt(np.linalg.inv(H)) @ x[k] for k in range(K)]
    gradients = [H @ (theta * phi[k] - run.target) - H @ epsilon[k] / np.sqrt(run.B) for k in range(K)]
    new_theta = theta - run.eta / K * sum(gradients[k] * phi[k] for k in range(K))
    return new_theta, np.array([phi[k] - run.eta * theta @ gradients[k] for k in range(K)])


def late_phase_at(run, theta, phi):
    """One ensemble at given weights."""
    late = LatePhaseEnsembles(run.model_copy(update={"seeds": (0,)}), [len(phi)], purpose=0)
    late.theta[0, 0], late.phi[0, 0] = theta, phi
    return late


def test_an_update_is_the_papers():
    random = np.random.default_rng(0)
    run = setting(B=2.0, n=6)
    late = LatePhaseEnsembles(run, [1, 4, 3], purpose=0)
    x = random.standard_normal((8, 3, 4, 6))  # each member's own noise, in all seeds and rows
    late.theta, late.phi = random.standard_normal((8, 3, 6)), random.standard_normal((8, 3, 4)) * late.used
    theta, phi = late.theta.copy(), late.phi.copy()
    f = phi / np.linalg.norm(phi, axis=-1, keepdims=True)
    a = np.sqrt(run.curvature) * theta
    own = np.einsum("srkn,srn->srk", x, a) / np.linalg.norm(a, axis=-1, keepdims=True)
    late.step(np.einsum("srk,srkn->srn", f, x), own)
    for s in range(8):
        for row, K in enumerate([1, 4, 3]):
            expected = naive_step(run, theta[s, row], phi[s, row, :K], x[s, row, :K])
            np.testing.assert_allclose(late.theta[s, row], expected[0], rtol=1e-12)
            np.testing.assert_allclose(late.phi[s, row, :K], expected[1], rtol=1e-12)
            assert not late.phi[s, row, K:].any()


def test_fewer_random_numbers_give_the_same_law():
    """An update is linear in its noise: the covariances over unit noise are equal, hence the Gaussian laws."""
    random = np.random.default_rng(1)
    run = setting(B=1.0, n=5)
    theta, phi = random.standard_normal(5), random.standard_normal(3)

    def drawn(noise):  # n + K numbers
        late = late_phase_at(run, theta, phi)
        late.step(noise[:5].reshape(1, 1, 5), noise[5:].reshape(1, 1, 3))
        return np.concatenate([late.theta[0, 0], late.phi[0, 0]])

    def naive(noise):  # K n numbers
        return np.concatenate(naive_step(run, theta, phi, noise.reshape(3, 5)))

    maps = [np.array([update(e) - update(0 * e) for e in np.eye(size)]) for update, size in ((drawn, 8), (naive, 15))]
    covariance, expected = (jacobian.T @ jacobian for jacobian in maps)
    np.testing.assert_allclose(covariance, expected, atol=1e-12)
    np.testing.assert_allclose(drawn(np.zeros(8)), naive(np.zeros(15)), rtol=1e-12)


def test_a_full_ensembles_update_is_the_papers():
    run = setting(B=2.0, n=6)
    full = FullEnsembles(run, purpose=1)
    before = full.w.copy()
    full.step()
    epsilon = full.noise / np.sqrt(run.curvature)  # N(0, H⁻¹)
    for s, k in np.ndindex(8, 10):
        expected = before[s, k] - run.eta * run.curvature * (before[s, k] - run.target)
        expected += run.eta / np.sqrt(run.B) * run.curvature * epsilon[s, k]
        np.testing.assert_allclose(full.w[s, k], expected, rtol=1e-12)
    for i, K in enumerate(run.K):
        np.testing.assert_allclose(full.average()[:, i], full.w[:, :K].mean(1))


def test_the_start_is_at_distance_one():
    run = setting()
    late = LatePhaseEnsembles(run, run.K, purpose=0)
    np.testing.assert_allclose(np.linalg.norm(late.weights() - run.target, axis=-1), 1.0)
    np.testing.assert_allclose(np.linalg.norm(late.theta, axis=-1), 1.0)
    assert (late.phi == late.used).all()
    assert np.unique(late.theta[..., 0]).size == late.theta[..., 0].size, "each from a start of its own"


def test_a_seeds_numbers_do_not_depend_on_the_others():
    one, other = (NormalStreams(seeds, 3).fill(np.empty((2, 4))) for seeds in ((5, 6), (7, 5)))
    np.testing.assert_array_equal(one[0], other[1])
    assert not np.isclose(one[1], other[0]).any()
    assert not np.isclose(one, NormalStreams((5, 6), 4).fill(np.empty((2, 4)))).any(), "each purpose has its own"
    many = NormalStreams((5, 6), 3).fill(np.empty((2, 100_000)))
    np.testing.assert_allclose([many.mean(), many.std(), np.mean(many[0] * many[1])], [0, 1, 0], atol=0.01)


# --- simulation -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weak():
    run = setting(eta=0.1, n=10, seeds=tuple(range(16)), iterations=6000, average=5000)
    losses = simulate(run)
    return run, losses, loss_curves(run, losses)


def test_full_ensembles_have_the_loss_of_the_closed_form(weak):
    _, _, found = weak
    assert (found["full_se"] < 0.03 * found["full"]).all()
    assert (abs(found["full"] - found["full_closed_form"]) < 3 * found["full_se"]).all()


def test_weak_noise_makes_late_phase_weights_as_good_as_a_full_ensemble(weak):
    run, losses, found = weak
    for name in ("late_phase", "full_multiplicative"):
        assert (found[f"{name}_se"] < 0.03 * found[name]).all()
        assert (abs(found[name] - found["late_phase_prediction"]) < 3 * found[f"{name}_se"]).all(), name
        assert abs(log_log_slopes(run, losses)[f"slope/{name}"] + 1) < 0.1
        assert (abs(found[f"{name}_change"]) < 4 * found[f"{name}_change_se"]).all(), "it is steady"


def test_strong_noise_moves_the_balance_and_with_it_the_slope():
    run = setting(eta=0.1, B=1.0, n=40, iterations=6000, average=5000)
    losses = simulate(run)
    found, slope = loss_curves(run, losses), log_log_slopes(run, losses)
    assert (found["late_phase_se"] < 0.04 * found["late_phase"]).all()
    np.testing.assert_allclose(found["late_phase"], found["late_phase_prediction"], rtol=0.1)
    assert (found["late_phase"] < 0.9 * found["full"]).all()
    assert slope["slope/late_phase"] > -0.85
    assert abs(slope["slope/full"] + 1) < 0.05


def test_what_is_averaged():
    run = setting(n=4, seeds=(3, 8), K=(1, 3), iterations=85, average=60)
    found = simulate(run)
    late, full, single = LatePhaseEnsembles(run, run.K, 0), FullEnsembles(run, 1), LatePhaseEnsembles(run, [1, 1, 1], 2)
    halves = {name: ([], []) for name in found}
    for t in range(1, 86):
        late.draw_and_step()
        full.step()
        single.draw_and_step()
        if t <= 25 or t % MEASURE_EVERY:
            continue
        alone = single.weights()
        averages = {
            "late_phase": [late.theta[:, i] * late.phi[:, i, :K].mean(-1, keepdims=True) for i, K in enumerate((1, 3))],
            "full": [full.w[:, 0], full.w.mean(1)],
            "full_multiplicative": [alone[:, 0], alone.mean(1)],
        }
        for name, average in averages.items():
            distance = np.stack(average, 1) - run.target  # (S, 2, n)
            halves[name][t > 55].append(0.5 * np.einsum("sjn,n,sjn->sj", distance, run.curvature, distance))
    for name, (first, second) in halves.items():
        assert len(first) == len(second) == 3
        np.testing.assert_allclose(found[name], [np.mean(first, 0), np.mean(second, 0)], rtol=1e-12)


def test_the_slope_of_a_power_law_and_its_error():
    run = setting(K=(1, 2, 4), seeds=(0, 1))
    K = np.array(run.K)
    each = np.stack([3.0 * K**-0.9, 3.0 * K**-1.1])  # (S, len(K))
    found = log_log_slopes(run, {"late_phase": np.stack([each, each])})
    np.testing.assert_allclose(found["slope/late_phase_se"], 0.1)  # std(n − 1) of ±0.1 over √2
    np.testing.assert_allclose(found["slope/full_closed_form"], -1.0)
    changed = loss_curves(run, {"late_phase": np.stack([each, 1.5 * each])})
    np.testing.assert_allclose(changed["late_phase"], 1.25 * each.mean(0))
    np.testing.assert_allclose(changed["late_phase_se"], 1.25 * abs(each[0] - each[1]) / 2)
    np.testing.assert_allclose(changed["late_phase_change"], 0.4)


def test_progress_and_divergence_are_reported():
    told = []
    simulate(setting(iterations=450, average=40, seeds=(0, 1), n=3), told.append)
    assert told == [*range(3, 451, 3)]
    with pytest.raises(DivergenceError, match=r"η = 1.5, B = 0.0001 · .* diverged within \d+ iterations"):
        simulate(setting(eta=1.5, B=1e-4))
