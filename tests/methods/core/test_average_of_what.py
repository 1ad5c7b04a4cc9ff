"""What SWA and SWAG average is what the inner method predicts from; a method may say what that is, or refuse."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch

from methods import SWA, SWAG, Method, NamedBuffers, Snapshot, Wrapper
from methods.core.weight_averaging import check_averages, depends_on
from tests.conftest import build, separable
from tests.methods.training import make_optimizer, train_epochs, trained


class Halfway(Method):
    """Predict with weights that follow the network's at half the distance, each epoch."""

    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.behind = NamedBuffers(self.own_weights().items())

    @torch.no_grad()
    def end_epoch(self, epoch):
        for name, value in self.behind.named().items():
            new = self.own_weights()[name]
            value.copy_(value.lerp(new, 0.5) if value.is_floating_point() else new)

    def members(self):
        return [self.behind.named()]


class Told(Halfway):
    """Say so."""

    def weights_to_average(self):
        parameters = dict(self.net.named_parameters())
        return [value for name, value in self.behind.named().items() if name in parameters]


class Never(Halfway):
    """Refuse to be averaged."""

    def weights_to_average(self):
        return []


class Around(Wrapper):
    """Change nothing."""


def states_of(make, recipe, batches, start):
    """Give what `Told` predicts with after each epoch from `start` on, at the learning rate of the recipe."""
    method = build(make, recipe)
    optimizer = make_optimizer(method, recipe)
    states = []
    for epoch in range(recipe.epochs):
        train_epochs(method, optimizer, batches, first=epoch, last=epoch + 1)
        states.append({name: value.clone() for name, value in method.behind.named().items()})
    return states[start:]


@pytest.mark.parametrize("inner", [Told, partial(Around, of=Told)], ids=["itself", "inside of a wrapper"])
def test_swa_averages_what_a_method_says(inner, recipe, batches):
    swa = trained(partial(SWA, of=inner, start=3, ratio=None), recipe, batches)
    states = states_of(Told, recipe, batches, 3)
    (average,) = swa.members()
    for name, _ in swa.net.named_parameters():
        expected = torch.stack([state[name] for state in states]).mean(0)
        torch.testing.assert_close(average[name], expected, rtol=1e-5, atol=1e-6)
    x, _ = separable(11, seed=5)
    with torch.no_grad():
        torch.testing.assert_close(swa.predict(x)[0], swa.average(x, average))


def test_the_statistics_of_that_average_are_its_own(recipe, batches):
    swa = trained(partial(SWA, of=Told, start=3), recipe, batches)
    (average,) = swa.members()
    x = torch.cat([x for x, _ in batches])
    features = torch.nn.functional.conv2d(x, average["conv.weight"], padding=1)
    torch.testing.assert_close(average["norm.running_mean"], features.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_swag_samples_around_what_a_method_says(recipe, batches):
    swag = trained(partial(SWAG, of=Told, start=3, rank=2, N=4, ratio=None), recipe, batches)
    states = states_of(Told, recipe, batches, 3)
    members = list(swag.members())
    weights = torch.stack([member["conv.weight"] for member in members])
    assert (weights.std(0) > 0).all()
    spread = torch.stack([state["conv.weight"] for state in states]).std(0)
    mean = torch.stack([state["conv.weight"] for state in states]).mean(0)
    assert ((weights - mean).abs() < 10 * spread).all()
    x, _ = separable(11, seed=5)
    with torch.no_grad():
        logits = swag.predict(x)
        for member, own in zip(members, logits, strict=True):
            torch.testing.assert_close(swag.average(x, member), own)


def test_a_state_with_an_average_of_buffers_is_saved_whole(recipe, batches):
    make = partial(SWAG, of=Told, start=3, rank=2, N=2)
    swag = trained(make, recipe, batches)
    other = build(make, recipe)
    other.load_state_dict(swag.state_dict())
    x, _ = separable(11, seed=5)
    with torch.no_grad():
        assert torch.equal(other.eval().predict(x), swag.predict(x))


@pytest.mark.parametrize("outer", [SWA, SWAG])
@pytest.mark.parametrize("inner", [Never, partial(Around, of=Never)], ids=["itself", "inside of a wrapper"])
def test_a_method_of_which_no_average_makes_sense_is_refused(outer, inner, recipe):
    with pytest.raises(ValueError, match="of which no average makes sense"):
        build(partial(outer, of=inner, start=3), recipe)


@pytest.mark.parametrize("outer", [SWA, SWAG])
def test_an_average_in_vain_is_noticed(outer, recipe, batches):
    method = trained(partial(outer, of=Halfway, start=3), recipe, batches)
    with pytest.raises(ValueError, match="averages Halfway in vain.*weights_to_average"):
        check_averages(method, separable(2)[0])


@pytest.mark.parametrize("outer", [SWA, SWAG])
def test_an_average_that_counts_passes_and_stays_as_it_is(outer, recipe, batches):
    seen, unseen = (trained(partial(outer, of=Told, start=3), recipe, batches) for _ in range(2))
    check_averages(seen, separable(2)[0])
    assert not seen.training
    for name, value in seen.state_dict().items():
        expected = unseen.state_dict()[name]
        assert torch.equal(value, expected) if isinstance(value, torch.Tensor) else value == expected, name


def test_plain_training_depends_on_its_parameters(recipe, batches):
    for make, expected in ((Method, True), (Halfway, False), (Told, True)):
        method = trained(make, recipe, batches)
        assert depends_on(method, method.weights_to_average(), separable(2)[0]) is expected


@pytest.mark.parametrize(("prediction", "in_vain"), [("checkpoints", False), ("simplex", True)])
def test_checkpoints_are_whole_states_and_points_between_them_are_not(prediction, in_vain, recipe, batches):
    swa = trained(partial(SWA, of=Halfway, start=3, checkpoints=3, prediction=prediction), recipe, batches)
    with pytest.raises(ValueError, match="in vain") if in_vain else nullcontext():
        check_averages(swa, separable(2)[0])


def test_averages_that_have_not_begun_are_not_looked_at(recipe, batches):
    snapshot = trained(partial(Snapshot, of=partial(SWA, start=4), M=2), recipe, batches)
    check_averages(snapshot, separable(2)[0])
