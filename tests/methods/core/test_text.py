"""Every method on a language model, whose state goes on from minibatch to minibatch."""

from copy import deepcopy
from functools import partial

import pytest
import torch

from data.tasks.text_task import TextSegments, TextWindows
from harness.evaluation.metrics import ensemble, nll
from harness.running.optimizers import make_optimizer
from harness.running.training_loop import train_epoch
from harness.store import checkpoint
from methods import METHODS, SGD, LatePhaseRank1, Line, MakeNet, Recipe
from methods.core.method import prepare_for_prediction
from methods.core.random_streams import stream
from models.lstm import LSTM
from tests.conftest import SETTINGS

TEXT = torch.tensor([0, 1, 2, 3, 4, 3, 2, 1] * 100, dtype=torch.uint8)  # what follows 1, 2, 3 depends on the past
C, LANES, SEGMENT = 5, 8, 10
RECIPE = Recipe(epochs=6, batch_size=LANES, lr=0.02, optimizer="adam", weight_decay=0.0)
REFUSED = {
    "integral": "three times a minibatch",
    "branched": "an order of its own",
    "late_independent": "an order of its own",
    "late_phase_bn": "BatchNorm",
    "late_phase_hypernet": "convolution",
    "hypernet_ensemble": "convolution",
}
SHARES_NOTHING = {
    name: partial(make, **SETTINGS.get(name, {})) for name, make in METHODS.items() if name != "deep_ensemble"
}
APPLICABLE = {name: make for name, make in SHARES_NOTHING.items() if name not in REFUSED}


def build(make, seed=0):
    return make(MakeNet(lambda **options: LSTM(units=12, classes=C, **options), seed), RECIPE)


def segments(epoch, seed=0):
    return lambda order: TextSegments(TEXT, LANES, SEGMENT, lambda: stream(seed, "data", epoch))


def run(method, optimizer, first=0, last=6):
    losses = []
    for epoch in range(first, last):
        losses.append(train_epoch(method, optimizer, segments(epoch), epoch)[0])
        if method.watches:
            method.watch(TextWindows(TEXT[:101], 4, 30, 10), segments(epoch)(0))
    return losses


def finish(method):
    prepare_for_prediction(method, segments(0)(0))
    return method


def trained(make):
    method = build(make)
    run(method, make_optimizer(method, RECIPE))
    return finish(method)


@torch.no_grad()
def predictions(method):
    return method.predict(TEXT[:60].view(3, 20).long())


@pytest.mark.parametrize("name", APPLICABLE)
def test_trains_and_predicts_the_next_symbol(name):
    method = build(APPLICABLE[name])
    losses = run(method, make_optimizer(method, RECIPE))
    assert losses[-1] < losses[0]
    logits = predictions(finish(method))
    members = method.K if name == "mc_dropout" else len(list(method.members()))
    assert logits.shape == (members, 3, C, 20)
    assert torch.equal(predictions(method), logits), "a prediction leaves no state behind"
    one = predictions(method)[:, 1:2]
    with torch.no_grad():
        alone = method.predict(TEXT[20:40].view(1, 20).long())
    if name != "mc_dropout":  # its masks differ from place to place in the batch
        torch.testing.assert_close(alone, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", APPLICABLE)
def test_resumes_with_the_same_bits(name):
    whole = trained(APPLICABLE[name])
    first = build(APPLICABLE[name])
    optimizer = make_optimizer(first, RECIPE)
    run(first, optimizer, last=3)
    state, moments = deepcopy(first.state_dict()), deepcopy(checkpoint.optimizer_state(optimizer))
    second = build(APPLICABLE[name], seed=0)
    second.load_state_dict(state)
    optimizer = make_optimizer(second, RECIPE)
    checkpoint.load_optimizer_state(optimizer, moments)
    run(second, optimizer, first=3)
    assert torch.equal(predictions(finish(second)), predictions(whole))


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_apply_is_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=REFUSED[name]):
        build(SHARES_NOTHING[name])


def test_groups_of_a_minibatch_are_refused():
    with pytest.raises(ValueError, match=r"samples=2 .* carries its state"):
        build(partial(Line, samples=2))


def test_late_members_take_turns_at_the_recurrent_factors():
    """As in section 3.4: u and v of the recurrent matrix; the state goes from one member to the next."""
    method = build(partial(LatePhaseRank1, K=3, start=2, sigma0=0.35))
    assert method.matrices == ["lstm.weight_hh_l0"]
    run(method, make_optimizer(method, RECIPE))
    factors = [method.own_parts(k)[0].u for k in range(3)]
    assert all(not torch.equal(factors[0], other) for other in factors[1:])


def test_the_past_helps():
    """A network that reads on from the carried state predicts what a segment alone does not tell."""
    method = trained(SGD)
    x, y = next(iter(TextWindows(TEXT[:201], 1, 200, 0)))
    with torch.no_grad():
        log_p = ensemble(method.predict(x).movedim(2, -1)[:, 0])
    assert nll(log_p[10:], y[0, 10:]) < 0.6 * nll(log_p[:1], y[0, :1])


def test_the_carried_state_is_the_stream_s_own():
    """Training on segments of a stream sees the same states as one long forward pass over it."""
    net = LSTM(units=12, classes=C).double().train()
    parts = [net(x) for x, _ in segments(0)(0)]
    net.train()
    whole = net(torch.cat([x for x, _ in segments(0)(0)], 1))
    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=1e-12, atol=1e-12)
