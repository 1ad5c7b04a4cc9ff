"""SWAG's moments and samples against NumPy."""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch

from harness.running.optimizers import make_optimizer
from methods import SGD, SWA, LatePhaseBatchNorm, MakeNet
from methods.core.batch_norm import reestimate
from methods.core.random_streams import stream
from methods.core.weight_averaging import flatten
from methods.swag import SWAG, normal
from tests.conftest import TinyNet, build
from tests.methods.training import assert_close, finish, train_epochs, trajectory


def gaussian(recipe, batches, **hyperparameters):
    """A trained SWAG, and the states it has seen, (states, P), in float64."""
    swag = build(SWAG, recipe, **hyperparameters)
    names = [name for name, _ in swag.net.named_parameters()]
    states = trajectory(swag, recipe, batches)
    seen = [flatten(states[end - 1][name] for name in names).double().numpy() for end in swag.cycle_ends]
    return swag, np.stack(seen)


def deviations(states):
    """Each state less the mean of the states up to it."""
    return np.stack([state - states[: i + 1].mean(0) for i, state in enumerate(states)])


def test_moments_are_numpys(recipe, batches):
    swag, states = gaussian(recipe, batches, start=2, rank=4)
    np.testing.assert_allclose(flatten(swag.average.parameters()).numpy(), states.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(swag.variance.numpy(), states.var(0), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(swag.deviations.numpy(), deviations(states), atol=1e-6)


def test_a_small_variance_is_not_lost_in_rounding(recipe):
    """Weights of one that move by 1e-4: the mean of squares less the square of the mean is 10 % off in float32."""
    swag = build(SWAG, recipe, start=0)
    draws = torch.Generator().manual_seed(0)
    states = []
    for i in range(recipe.epochs):
        with torch.no_grad():
            for p in swag.inner.parameters():
                p.copy_(1 + 1e-4 * torch.randn(p.shape, generator=draws))
        states.append(flatten(swag.inner.parameters()).double().numpy())
        swag.collect(i)
    np.testing.assert_allclose(swag.variance.numpy(), np.stack(states).var(0), rtol=0.02)


def test_the_oldest_deviation_makes_way(recipe, batches):
    swag, states = gaussian(recipe, batches, start=1, rank=3)
    expected = deviations(states)[[3, 4, 2]]  # of five states, in the places i mod 3
    np.testing.assert_allclose(swag.deviations.numpy(), expected, atol=1e-6)


def test_no_more_deviations_are_kept_than_there_are_states(recipe):
    assert len(build(SWAG, recipe, start=3).deviations) == 3
    assert len(build(SWAG, recipe, start=3, rank=0).deviations) == 0


def splitmix64(seed, size):
    """The generator in unsigned arithmetic."""
    z = np.uint64(seed) + np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def numpy_normal(seed, size):
    """The Box-Muller transform of the high and the low 24 bits."""
    z = splitmix64(seed, size)
    high, low = (z >> np.uint64(40)).astype(float), (z % np.uint64(2**24)).astype(float)
    return np.sqrt(-2 * np.log((high + 1) / 2**24)) * np.cos(2 * np.pi * low / 2**24)


def test_the_hash_is_splitmix64():
    """Its first numbers for the seed 1234567, as published."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert splitmix64(1234567, 3).tolist() == published


def test_numbers_are_normal_and_the_same_on_every_device():
    drawn = normal(stream(3, "numbers"), torch.empty(200_000)).double().numpy()
    np.testing.assert_allclose(drawn, numpy_normal(stream(3, "numbers").initial_seed(), 200_000), atol=1e-5)
    assert scipy.stats.kstest(drawn, "norm").pvalue > 0.01
    other = normal(stream(4, "numbers"), torch.empty(200_000)).double().numpy()
    for one, two in ((drawn[1:], drawn[:-1]), (drawn, other), (np.abs(drawn[1:]), np.abs(drawn[:-1]))):
        assert abs(np.corrcoef(one, two)[0, 1]) < 4 / np.sqrt(len(one))


@pytest.mark.parametrize(("rank", "ring"), [(0, []), (3, [3, 1, 2]), (4, [0, 1, 2, 3])])
def test_samples_are_equation_1(rank, ring, recipe, batches):
    """`ring` says which of the four states has its deviation in each place."""
    swag, states = gaussian(recipe, batches, start=2, rank=rank, N=3, scale=0.7)
    finish(swag, batches)
    mean = states.mean(0)
    std = np.sqrt(np.clip((states**2).mean(0) - mean**2, 1e-30, None))
    for i, weights in enumerate(swag.members()):
        noise = std * numpy_normal(swag.generator(f"sample {i}: weights").initial_seed(), len(mean))
        if rank:
            z2 = numpy_normal(swag.generator(f"sample {i}: columns").initial_seed(), rank)
            noise += deviations(states)[ring].T @ z2 / np.sqrt(rank - 1)
        sample = flatten(weights[name] for name, _ in swag.net.named_parameters()).numpy()
        np.testing.assert_allclose(sample, mean + np.sqrt(0.7) * noise, atol=2e-4)


def test_samples_have_the_covariance_of_the_gaussian(recipe, batches):
    """Variances and the covariances of one weight with all others, from 4,000 samples."""
    swag, states = gaussian(recipe, batches, start=1, rank=5, scale=0.5)
    mean = flatten(swag.average.parameters())
    samples = torch.stack([swag.point_weights(i, mean) for i in range(4000)]).double().numpy()
    spread = deviations(states)
    covariance = 0.5 * (np.diag(states.var(0)) + spread.T @ spread / 4)
    scales = np.sqrt(np.diag(covariance))
    error = (np.cov(samples.T) - covariance) / np.outer(scales, scales)
    assert np.abs(error).max() < 0.12
    assert np.abs((samples.mean(0) - states.mean(0)) / scales).max() < 0.08


def test_every_sample_gets_statistics_of_its_own(recipe, batches):
    swag, _ = gaussian(recipe, batches, start=2, N=2, scale=3.0)
    finish(swag, batches)
    for weights in swag.members():
        net = TinyNet()
        net.load_state_dict(weights)
        plain = SGD(MakeNet(lambda net=net: net, 0), recipe)
        reestimate(plain, batches)
        assert_close(dict(plain.net.state_dict()), weights)
    one, other = swag.members()
    assert not torch.equal(one["norm.running_mean"], other["norm.running_mean"])


def test_without_scale_it_is_swa(recipe, batches):
    swag, _ = gaussian(recipe, batches, start=2, N=1, scale=0.0, rate="cyclic", checkpoints=2)
    swa = build(SWA, recipe, start=2, rate="cyclic", checkpoints=2)
    train_epochs(swa, make_optimizer(swa, recipe), batches)
    finish(swag, batches)
    finish(swa, batches)
    assert_close(next(iter(swa.members())), next(iter(swag.members())), 0)


def test_it_samples_all_members_of_a_method(recipe, batches):
    inner = partial(LatePhaseBatchNorm, K=3, start=2, sigma0=0.3, prediction="members")
    swag = build(SWAG, recipe, of=inner, start=3, N=2)
    train_epochs(swag, make_optimizer(swag, recipe), batches)
    finish(swag, batches)
    members = list(swag.members())
    assert len(members) == 6
    for sample in (members[:3], members[3:]):
        assert torch.equal(sample[0]["conv.weight"], sample[1]["conv.weight"]), "one sample of what they share"
        assert not torch.equal(sample[0]["head.weight"], sample[1]["head.weight"])
    assert not torch.equal(members[0]["conv.weight"], members[3]["conv.weight"])


def test_until_two_states_are_collected_the_network_predicts(recipe, batches):
    swag = build(SWAG, recipe, start=2, N=2)
    optimizer = make_optimizer(swag, recipe)
    train_epochs(swag, optimizer, batches, last=3)
    (weights,) = finish(deepcopy(swag), batches).members()
    assert_close(dict(swag.inner.net.state_dict()), weights, 0)
    train_epochs(swag, optimizer, batches, first=3, last=4)
    assert len(list(finish(deepcopy(swag), batches).members())) == 2


def test_samples_are_not_kept(recipe):
    def numbers(method):
        return sum(value.numel() for value in method.state_dict().values() if isinstance(value, torch.Tensor))

    few, many = (numbers(build(SWAG, recipe, N=n, start=2)) for n in (2, 12))
    assert many - few == 10 * sum(buffer.numel() for buffer in build(SGD, recipe).net.buffers())


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"start": 5}, "two states or more, but start=5 leaves one"),
        ({"start": 2, "checkpoints": 1}, "two states or more, but checkpoints=1 is one"),
        ({"start": 2, "rank": 1}, "rank=1 is one deviation"),
        ({"start": 2, "of": partial(SWA, start=2)}, "SWAG cannot be made of SWA, which keeps copies of its own"),
    ],
)
def test_what_has_no_spread_is_refused(recipe, hyperparameters, message):
    with pytest.raises(ValueError, match=message):
        build(SWAG, recipe, **hyperparameters)
