"""What every method must keep to, over the registry and over compositions of it."""

from copy import deepcopy
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from optuna.distributions import BaseDistribution

from harness.parsing.hyperparameters import hyperparameters
from harness.running.optimizers import make_optimizer
from harness.store import checkpoint
from methods import (
    METHODS,
    SWA,
    DeepEnsemble,
    LatePhaseBatchNorm,
    Line,
    MakeMethod,
    MakeNet,
    Method,
    Recipe,
    Snapshot,
)
from tests.conftest import NETS, SETTINGS, TinyNet, build, separable
from tests.methods.training import finish, train_epochs, trained

pytestmark = pytest.mark.usefixtures("fuse_up_to")
FUSED_LATE_ONLY = True

ALL: dict[str, MakeMethod] = {name: partial(make, **SETTINGS.get(name, {})) for name, make in METHODS.items()}
COMPOSED = {
    "swa(late_phase_bn)": partial(SWA, of=partial(LatePhaseBatchNorm, K=3, start=2), start=3),
    "swa(late_phase_bn, members)": partial(
        SWA, of=partial(LatePhaseBatchNorm, K=3, start=2, prediction="members"), start=3
    ),
    "swa(line, pair)": partial(SWA, of=partial(Line, prediction="pair"), start=3),
    "snapshot(late_phase_bn)": partial(Snapshot, of=partial(LatePhaseBatchNorm, K=3, start=2), M=3),
    "snapshot(swa)": partial(Snapshot, of=partial(SWA, start=3), M=3),
}
TRAINED = {name: make for name, make in ALL.items() if name != "deep_ensemble"} | COMPOSED
ENSEMBLES = {
    "deep_ensemble": DeepEnsemble,
    "deep_ensemble(late_phase_bn)": partial(
        DeepEnsemble, of=partial(LatePhaseBatchNorm, K=3, start=2, prediction="members"), K=2
    ),
}
OWN_FROM_THE_START = {"late_phase_rank1", "rank1", "late_phase_hypernet", "hypernet_ensemble"}
"""Methods whose weights are generated from the first epoch on, so that no plain training precedes T0."""


def assert_same_state(one: Method, other: Method) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        same = torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name]
        assert same, name


@torch.no_grad()
def predictions(method: Method) -> torch.Tensor:
    return method.predict(separable(11, seed=5)[0])


def resumed(make: MakeMethod, recipe: Recipe, batches, stop: int, net: str = "tiny") -> Method:
    """Train up to an epoch; go on from there with another instance whose every value was wrong."""
    first = build(make, recipe, net=net)
    optimizer = make_optimizer(first, recipe)
    train_epochs(first, optimizer, batches, last=stop)
    state, momenta = deepcopy(first.state_dict()), deepcopy(checkpoint.optimizer_state(optimizer))
    second = build(make, recipe, net=net)
    with torch.no_grad():
        for tensor in [*second.parameters(), *second.buffers()]:
            tensor.fill_(7)
    second.load_state_dict(state)
    optimizer = make_optimizer(second, recipe)
    checkpoint.load_optimizer_state(optimizer, momenta)
    train_epochs(second, optimizer, batches, first=stop)
    return finish(second, batches)


def assert_members_predict(name: str, method: Method, net: str = "tiny") -> None:
    """Each member is a whole network in the plain one's names, and the prediction is theirs."""
    plain = NETS[net]().state_dict()
    for weights in method.members():
        assert {key: value.shape for key, value in weights.items()} == {key: t.shape for key, t in plain.items()}
    if "mc_dropout" in name:  # whose members share their weights
        return
    x, _ = separable(11, seed=5)
    with torch.no_grad():
        expected = torch.stack([method(x, weights) for weights in method.members()])
    # One pass over the inputs of all members rounds otherwise than one pass a member.
    tolerance = 1e-5 if "batch_ensemble" in name else 0.0
    torch.testing.assert_close(predictions(method), expected, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def kept() -> dict[tuple[object, ...], Method]:
    """Methods that were trained once, for all tests that only read them."""
    return {}


@pytest.fixture
def whole(name, recipe, batches, fuse_up_to, kept) -> Method:
    """The method of this name, trained from beginning to end; not to be changed."""
    key = name, Method.fuse_up_to
    if key not in kept:
        kept[key] = trained(TRAINED[name], recipe, batches)
    return kept[key]


@pytest.mark.parametrize("name", TRAINED)
def test_trains_and_predicts(name, recipe, batches):
    method = build(TRAINED[name], recipe)
    keys = set(method.state_dict())
    losses = train_epochs(method, make_optimizer(method, recipe), batches)
    assert losses[-1] < losses[0], "the loss falls on a separable task"
    finish(method, batches)
    assert set(method.state_dict()) == keys, "structure never changes"
    logits = predictions(method)
    assert logits.shape[1:] == (11, 3)
    assert logits.isfinite().all()
    x, y = separable(60, seed=7)
    with torch.no_grad():
        error = method.predict(x).softmax(-1).mean(0).argmax(-1) != y
    assert error.float().mean() < 0.2


@pytest.mark.parametrize("name", TRAINED)
def test_same_seed_same_bits_other_seed_other_bits(name, whole, recipe, batches):
    one, (same, other) = predictions(whole), (predictions(trained(TRAINED[name], recipe, batches, i)) for i in (0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("name", "stop"), list(product(TRAINED, (1, 3, 5, 6))))
def test_resuming_into_a_spoiled_instance_gives_the_same_bits(name, stop, whole, recipe, batches):
    again = resumed(TRAINED[name], recipe, batches, stop)
    assert_same_state(again, whole)
    assert torch.equal(predictions(again), predictions(whole))


@pytest.mark.parametrize("name", TRAINED)
def test_the_finished_state_predicts_the_same(name, whole, recipe):
    other = build(TRAINED[name], recipe)
    other.load_state_dict(whole.state_dict())
    assert torch.equal(predictions(other.eval()), predictions(whole))


@pytest.mark.parametrize("name", TRAINED)
def test_prediction_changes_nothing(name, whole):
    method = deepcopy(whole)
    state = deepcopy(method.state_dict())
    once = predictions(method)
    assert torch.equal(once, predictions(method))
    for key, value in method.state_dict().items():
        assert value == state[key] if isinstance(value, dict) else torch.equal(value, state[key]), key


@pytest.mark.parametrize("name", TRAINED)
def test_preparing_writes_only_buffers(name, recipe, batches):
    """So that a wrapper that samples weights can keep a sample as its parameters and its buffers."""
    method = build(TRAINED[name], recipe)
    train_epochs(method, make_optimizer(method, recipe), batches)
    before = {key: p.detach().clone() for key, p in method.named_parameters()}
    finish(method, batches)
    assert all(torch.equal(p, before[key]) for key, p in method.named_parameters())


@pytest.mark.parametrize("name", TRAINED)
def test_preparing_a_copy_in_mid_run_leaves_training_alone(name, whole, recipe, batches):
    method = build(TRAINED[name], recipe)
    optimizer = make_optimizer(method, recipe)
    for epoch in range(method.epochs):
        train_epochs(method, optimizer, batches, first=epoch, last=epoch + 1)
        copy = finish(deepcopy(method), batches)
        assert predictions(copy).isfinite().all()
    assert_same_state(finish(method, batches), whole)


@pytest.mark.parametrize("name", TRAINED)
def test_members_are_networks_and_predict_each(name, whole):
    assert_members_predict(name, whole)


@pytest.mark.parametrize("name", TRAINED)
def test_the_rate_is_a_pure_function_and_positive(name, recipe):
    method = build(TRAINED[name], recipe)
    positions = [i / 8 for i in range(8 * recipe.epochs)]
    rates = [method.lr(position) for position in positions]
    method.epoch = 4
    assert [method.lr(position) for position in reversed(positions)] == rates[::-1]
    assert all(rate > 0 for rate in rates)


@pytest.mark.parametrize("name", TRAINED)
def test_every_trained_parameter_is_in_one_group(name, recipe):
    method = build(TRAINED[name], recipe)
    grouped_parameters = [p for group in method.param_groups() for _, p in group["params"]]
    names = [n for group in method.param_groups() for n, _ in group["params"]]
    assert len(set(names)) == len(names)
    assert {id(p) for p in grouped_parameters} == {id(p) for p in method.parameters() if p.requires_grad}
    assert len(grouped_parameters) == len({id(p) for p in grouped_parameters})


@pytest.mark.parametrize("name", METHODS)
def test_defaults_lie_inside_the_search_space(name):
    known = hyperparameters(METHODS[name])
    for key, distribution in METHODS[name].space.items():
        assert isinstance(distribution, BaseDistribution)
        assert distribution._contains(distribution.to_internal_repr(known[key][1])), key
    assert METHODS[name].__doc__
    assert build(METHODS[name], Recipe(epochs=200)).epochs in (0, 200), "its defaults go together"


# --- other networks ----------------------------------------------------------------------------------------

REFUSED_NETS = {
    ("late_phase_bn", "lstm"): "BatchNorm",
    ("late_phase_hypernet", "lstm"): "convolutions",
    ("hypernet_ensemble", "lstm"): "convolutions",
}
"""What a method cannot be trained on, and what it says is missing."""
ON_NETS = [
    (name, net)
    for name, net in product(TRAINED, NETS)
    if name in METHODS and net != "tiny" and (name, net) not in REFUSED_NETS
]


@pytest.fixture
def few(batches):
    return batches[-4:]


@pytest.fixture
def short() -> Recipe:
    return Recipe(epochs=4, lr=0.05, weight_decay=1e-3)


@pytest.mark.long
@pytest.mark.parametrize(("name", "net"), ON_NETS)
def test_on_other_networks_it_trains_and_resumes_with_the_same_bits(name, net, short, few):
    whole = build(TRAINED[name], short, net=net)
    keys = set(whole.state_dict())
    losses = train_epochs(whole, make_optimizer(whole, short), few)
    assert losses[-1] < losses[0]
    finish(whole, few)
    assert set(whole.state_dict()) == keys
    assert_members_predict(name, whole, net)
    again = resumed(TRAINED[name], short, few, 2, net)
    assert_same_state(again, whole)
    assert torch.equal(predictions(again), predictions(whole))


@pytest.mark.parametrize(("name", "net"), [pair for pair in REFUSED_NETS if pair[0] in METHODS])
def test_a_network_that_lacks_what_a_method_needs_is_refused(name, net, recipe):
    with pytest.raises(ValueError, match=REFUSED_NETS[name, net]):
        build(TRAINED[name], recipe, net=net)


def test_weights_given_to_an_lstm_take_effect(recipe):
    """And get their gradients, though an LSTM keeps a list of its weights besides its parameters."""
    method, other = (build(Method, recipe, seed, net="lstm") for seed in (0, 1))
    x, _ = separable(5)
    before = method(x)
    given = {name: value.detach().clone().requires_grad_() for name, value in other.own_weights().items()}
    logits = method(x, given)
    torch.testing.assert_close(logits, other(x), rtol=0, atol=0)
    assert (logits - before).abs().max() > 0.01
    logits.square().sum().backward()
    other(x).square().sum().backward()
    for name, p in other.net.named_parameters():
        assert torch.equal(given[name].grad, p.grad), name
    assert all(p.grad is None for p in method.parameters())
    assert torch.equal(method(x), before), "the network's own weights are back"


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in TRAINED if name in METHODS])
def test_on_a_gpu_it_trains_resumes_and_predicts(name, short, batches):
    there = [(x.cuda(), y.cuda()) for x, y in batches]
    method = build(TRAINED[name], short).cuda()
    optimizer = make_optimizer(method, short)
    train_epochs(method, optimizer, there, last=2)
    second = build(TRAINED[name], short).cuda()
    second.load_state_dict(deepcopy(method.state_dict()))
    again = make_optimizer(second, short)
    checkpoint.load_optimizer_state(again, deepcopy(checkpoint.optimizer_state(optimizer)))
    losses = train_epochs(second, again, there, first=2)
    assert np.isfinite(losses).all()
    finish(second, there)
    with torch.no_grad():
        assert second.predict(there[0][0]).isfinite().all()


@pytest.mark.parametrize("name", [name for name in TRAINED if name not in OWN_FROM_THE_START])
def test_before_its_start_a_method_trains_plainly(name, recipe, batches):
    """The trunk: with plain rates, the network up to T0 has the bits of plain training (a fork = alone)."""
    method = build(TRAINED[name], recipe)
    start = min(part.start_epoch for part in method.modules() if isinstance(part, Method) and not part.collected)
    plain = build(METHODS["sgd"], recipe)
    plain.lr = method.lr
    train_epochs(method, make_optimizer(method, recipe), batches, last=start)
    train_epochs(plain, make_optimizer(plain, recipe), batches, last=start)
    for key, value in plain.net.state_dict().items():
        assert torch.equal(method.net.state_dict()[key], value), key


def test_every_method_starts_from_the_same_weights(recipe):
    plain = Method(MakeNet(TinyNet, 3), recipe)
    for name, make in TRAINED.items():
        own = build(make, recipe, 3).net.state_dict()  # without the weights that it generates
        assert "norm.weight" in own
        for key, value in own.items():
            assert torch.equal(plain.net.state_dict()[key], value), name


def test_hooks_are_called_in_order(recipe, batches):
    calls: list[str] = []

    class Spy(Method):
        def __init__(self, make_net: MakeNet, recipe: Recipe) -> None:
            super().__init__(make_net, recipe)
            self.start_epoch = 1

        def begin(self):
            calls.append("begin")

        def begin_epoch(self, epoch):
            calls.append(f"epoch {epoch}")
            super().begin_epoch(epoch)

        def update(self, batches, optimizer):
            calls.append("update")
            return super().update(batches, optimizer)

        def end_epoch(self, epoch):
            calls.append(f"end {epoch}")

    method = build(Spy, recipe)
    train_epochs(method, make_optimizer(method, recipe), batches[:2], last=2)
    assert calls == ["epoch 0", "update", "update", "end 0", "epoch 1", "begin", "update", "update", "end 1"]
