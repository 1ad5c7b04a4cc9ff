"""Late-phase weights against Algorithm 1, written naively."""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from harness.running.optimizers import make_optimizer
from harness.store import checkpoint
from methods import SGD, HypernetEnsemble, LatePhaseBatchNorm, Line, MakeNet, Recipe
from methods.core.batch_norm import reestimate
from tests.conftest import TinyNet, build, separable
from tests.methods.training import assert_close, finish, train_epochs

pytestmark = pytest.mark.usefixtures("fuse_up_to")


def algorithm_1(method, batches, recipe, update_base, update_member, leftover="carry"):
    """Algorithm 1, naively: an optimizer for each member that steps at once, and one for the base weights.

    With leftover "step" cycles end with the epoch, and the next epoch starts with the next member; with "carry" they
    go on (Algorithm 4); with "drop" the rest of an epoch trains members only.
    """
    net, K, gamma = deepcopy(method.net), method.K, method.gamma_theta
    late = [deepcopy(net.norm) for _ in range(K)]
    heads = [deepcopy(net.head) for _ in range(K)]
    base = [net.conv.weight]
    step_base = update_base(base)
    step_member = [update_member([*late[k].parameters(), *heads[k].parameters()]) for k in range(K)]
    total, used, seen = torch.zeros_like(net.conv.weight), 0, 0
    for _ in range(recipe.epochs):
        for i, (x, y) in enumerate(batches):
            k, seen = seen % K if leftover == "step" else used, seen + 1
            late[k].train()
            hidden = nn.functional.max_pool2d(late[k](net.conv(x)).relu(), 2).flatten(1)
            loss = nn.functional.cross_entropy(heads[k](hidden), y)
            gradients = torch.autograd.grad(loss, [*base, *late[k].parameters(), *heads[k].parameters()])
            total, used = total + gradients[0], used + 1
            for p, g in zip([*late[k].parameters(), *heads[k].parameters()], gradients[1:], strict=True):
                p.grad = g
            step_member[k].step()
            last = i + 1 == len(batches)
            if used == K or (last and leftover == "step"):
                net.conv.weight.grad = total * (1 / used if gamma == "1/K" else gamma)
                step_base.step()
            if used == K or (last and leftover != "carry"):
                total, used = torch.zeros_like(net.conv.weight), 0
    return net, late, heads


def assert_is(method, net, late, heads):
    torch.testing.assert_close(method.net.conv.weight, net.conv.weight, rtol=1e-10, atol=1e-12)
    for k in range(method.K):
        found = method.late_weights(k)
        for prefix, layer in (("norm", late[k]), ("head", heads[k])):
            for name, value in layer.state_dict().items():
                torch.testing.assert_close(found[f"{prefix}.{name}"], value, rtol=1e-10, atol=1e-12)


def nesterov(parameters, momentum=0.9, nesterov=True):
    return torch.optim.SGD(parameters, lr=0.05, momentum=momentum, nesterov=nesterov, weight_decay=1e-2)


@pytest.mark.parametrize("leftover", ["step", "carry", "drop"])
@pytest.mark.parametrize("gamma", [1.0, 0.3, "1/K"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_late_phase_is_algorithm_1(optimizer, gamma, leftover, batches):
    """Seven minibatches in cycles of three: short cycles leave members without a step."""
    batches = [(x.double(), y) for x, y in batches]
    recipe = Recipe(epochs=5, lr=0.05 if optimizer == "sgd" else 0.005, weight_decay=1e-2, optimizer=optimizer)
    if optimizer == "adam":
        recipe = recipe.model_copy(update={"weight_decay": 0.0})
    hyperparameters = {"gamma_theta": gamma, "leftover": leftover, "prediction": "members"}
    method = build(LatePhaseBatchNorm, recipe, K=3, start=0, **hyperparameters).double()
    update = nesterov if optimizer == "sgd" else partial(torch.optim.Adam, lr=0.005)
    naive = algorithm_1(method, batches, recipe, update, update, leftover)
    train_epochs(method, make_optimizer(method, recipe), batches)
    assert_is(method, *naive)


@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adam"])
def test_members_can_have_another_optimizer(kind, batches):
    """The base weights keep the recipe's momentum without Nesterov; members run at a tenth of the rate."""
    batches = [(x.double(), y) for x, y in batches]
    recipe = Recipe(epochs=5, lr=0.05, weight_decay=1e-2, nesterov=False)
    hyperparameters = {"member_optimizer": kind, "member_lr": 0.1, "prediction": "members"}
    method = build(LatePhaseBatchNorm, recipe, K=3, start=0, **hyperparameters).double()

    def update_member(parameters):
        decay = {"lr": 0.005, "weight_decay": 1e-2}
        if kind == "adam":
            return torch.optim.Adam(parameters, **decay)
        return torch.optim.SGD(parameters, momentum=0.0 if kind == "sgd" else 0.9, nesterov=kind == "nesterov", **decay)

    naive = algorithm_1(method, batches, recipe, partial(nesterov, nesterov=False), update_member)
    optimizer = make_optimizer(method, recipe)
    train_epochs(method, optimizer, batches, last=3)
    state = deepcopy(checkpoint.optimizer_state(optimizer))  # two optimizers are saved as one
    optimizer = make_optimizer(method, recipe)
    checkpoint.load_optimizer_state(optimizer, state)
    train_epochs(method, optimizer, batches, first=3)
    assert_is(method, *naive)


def test_another_optimizer_cannot_copy_momentum(recipe):
    with pytest.raises(ValueError, match="adam cannot continue from the state of the recipe's optimizer"):
        build(LatePhaseBatchNorm, recipe, member_momentum="copy", member_optimizer="adam")


def test_a_frozen_base_stays_as_it_is_at_t0(recipe, batches):
    method = build(LatePhaseBatchNorm, recipe, K=3, start=2, frozen_base=True)
    optimizer = make_optimizer(method, recipe)
    train_epochs(method, optimizer, batches, last=2)
    kernel, scale = method.net.conv.weight.detach().clone(), method.net.norm.weight.detach().clone()
    train_epochs(method, optimizer, batches, first=2)
    assert torch.equal(method.net.conv.weight, kernel)
    assert all(not torch.equal(method.late_weights(k)["norm.weight"], scale) for k in range(3))


@pytest.mark.parametrize(("leftover", "seen"), [("carry", [3, 3, 3, 3, 2]), ("step", [3, 3, 3, 3, 2])])
def test_every_member_is_trained_if_there_are_minibatches_enough(leftover, seen, batches):
    """Two minibatches an epoch, seven late epochs and five members: 14 minibatches."""
    method = build(LatePhaseBatchNorm, Recipe(epochs=8, lr=0.05), K=5, start=1, leftover=leftover)
    counts, turn = [0] * 5, method.member_for

    def counting(i):
        counts[turn(i)] += 1
        return turn(i)

    method.member_for = counting
    train_epochs(method, make_optimizer(method, method.recipe), batches[:2])
    assert counts == seen


@pytest.mark.parametrize(
    ("leftover", "per_epoch", "right"),
    [
        ("carry", 2, True),
        ("carry", 1, False),
        ("step", 2, True),
        ("step", 1, False),
        ("drop", 5, True),
        ("drop", 4, False),
    ],
)
def test_too_few_minibatches_for_the_members_are_refused(leftover, per_epoch, right):
    method = build(LatePhaseBatchNorm, Recipe(epochs=4), K=5, start=1, leftover=leftover)
    if right:
        method.check_minibatches(per_epoch)
        return
    with pytest.raises(
        ValueError, match="fewer than the 5 of a cycle, one for each member: some would never be"
    ) as error:
        method.check_minibatches(per_epoch)
    assert ("leftover=carry" in str(error.value)) == (leftover == "drop")


@pytest.mark.parametrize("leftover", ["carry", "step", "drop"])
def test_one_specialist_throughout_needs_no_cycle_of_many(leftover):
    build(HypernetEnsemble, Recipe(epochs=4), K=5, start=None, leftover=leftover).check_minibatches(1)


def test_members_can_keep_the_highest_rate(batches):
    recipe = Recipe(epochs=4, lr=0.1, schedule={"kind": "step", "milestones": [2], "ratio": 0.1})
    method = build(LatePhaseBatchNorm, recipe, K=2, start=1, member_schedule="constant", member_lr=0.5)
    optimizer = make_optimizer(method, recipe)
    for epoch, base in enumerate((0.1, 0.1, 0.01, 0.01)):
        train_epochs(method, optimizer, batches, first=epoch, last=epoch + 1)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([base, 0.05])


def test_members_that_keep_the_highest_rate_are_warmed_up(batches):
    stages = [{"epochs": 4, "ratio": 0.1, "schedule": {"kind": "cosine", "warmup": 2}}, {"epochs": 2, "ratio": 0.01}]
    recipe = Recipe(epochs=6, lr=1.0, schedule={"kind": "stages", "stages": stages})
    method = build(LatePhaseBatchNorm, recipe, K=2, start=0, member_schedule="constant", member_lr=0.5)
    optimizer = make_optimizer(method, recipe)
    rates = []
    for epoch in range(6):
        train_epochs(method, optimizer, batches, first=epoch, last=epoch + 1)
        rates.append([group["lr"] for group in optimizer.param_groups][1])
    assert rates == pytest.approx([0.025, 0.05, 0.05, 0.05, 0.05, 0.05])


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_carried_gradient_survives_a_checkpoint(stop, recipe, batches):
    """Seven minibatches in cycles of four leave three, two, one and none."""
    make = partial(LatePhaseBatchNorm, K=4, start=1, leftover="carry")
    whole, first, second = (build(make, recipe) for _ in range(3))
    train_epochs(whole, make_optimizer(whole, recipe), batches)
    optimizer = make_optimizer(first, recipe)
    train_epochs(first, optimizer, batches, last=stop + 1)
    assert first.carried_minibatches == first.cycle_position == 7 * stop % 4
    again = make_optimizer(second, recipe)
    second.load_state_dict(deepcopy(first.state_dict()))
    checkpoint.load_optimizer_state(again, deepcopy(checkpoint.optimizer_state(optimizer)))
    train_epochs(second, again, batches, first=stop + 1)
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(("start", "momentum"), [(0, "fresh"), (0, "copy"), (3, "copy")])
def test_one_late_phase_member_without_noise_is_plain_training_bitwise(start, momentum, recipe, batches):
    plain = build(SGD, recipe)
    train_epochs(plain, make_optimizer(plain, recipe), batches)
    late = build(LatePhaseBatchNorm, recipe, K=1, start=start, member_momentum=momentum, prediction="members")
    train_epochs(late, make_optimizer(late, recipe), batches)
    expected = plain.own_weights()
    for name, value in next(iter(late.members())).items():
        assert torch.equal(value, expected[name]), name


def test_fresh_member_momentum_differs_from_plain_training(recipe, batches):
    plain = build(SGD, recipe)
    train_epochs(plain, make_optimizer(plain, recipe), batches)
    late = build(LatePhaseBatchNorm, recipe, K=1, start=3, prediction="members")
    train_epochs(late, make_optimizer(late, recipe), batches)
    assert not torch.equal(next(iter(late.members()))["norm.weight"], plain.net.norm.weight)


def test_keywords_without_effect_are_refused(recipe):
    with pytest.raises(ValueError, match="statistics=average applies to the average network"):
        build(LatePhaseBatchNorm, recipe, prediction="members", statistics="average")
    with pytest.raises(ValueError, match="alpha=0.3 is the position of a pair"):
        build(Line, recipe, alpha=0.3)


def test_members_are_used_equally(recipe, batches):
    """Seven minibatches an epoch, four members, four epochs: each member takes seven steps."""
    method = build(LatePhaseBatchNorm, Recipe(epochs=4, lr=0.01), K=4, start=0)
    train_epochs(method, make_optimizer(method, method.recipe), batches)
    assert [int(method.late_weights(k)["norm.num_batches_tracked"]) for k in range(4)] == [7, 7, 7, 7]


def test_the_first_cycle_starts_with_the_first_member_at_t0(recipe, batches):
    """Seven minibatches, K = 4, T0 = 2: in epoch 2 members 0–2 are used twice; then 3, 0–3 and 0–1."""
    method = build(LatePhaseBatchNorm, recipe, K=4, start=2)
    optimizer = make_optimizer(method, recipe)
    train_epochs(method, optimizer, batches, last=2)
    before = int(method.net.norm.num_batches_tracked)
    train_epochs(method, optimizer, batches, first=2, last=3)
    assert [int(method.late_weights(k)["norm.num_batches_tracked"]) - before for k in range(4)] == [2, 2, 2, 1]
    train_epochs(method, optimizer, batches, first=3, last=4)
    assert [int(method.late_weights(k)["norm.num_batches_tracked"]) - before for k in range(4)] == [4, 4, 3, 3]


def test_the_reported_loss_is_the_mean_over_minibatches(recipe, batches):
    """With a rate of almost zero nothing moves, so that every minibatch's loss can be found again."""
    recipe = recipe.model_copy(update={"lr": 1e-12})
    method = build(LatePhaseBatchNorm, recipe, K=3, start=0)
    (loss,) = train_epochs(method, make_optimizer(method, recipe), batches, last=1)
    net = build(SGD, recipe).train().net
    expected = np.mean([nn.functional.cross_entropy(net(x), y).item() for x, y in batches])
    assert loss == pytest.approx(expected, rel=1e-5)


def test_without_shared_gradients_gamma_has_nothing_to_scale(recipe, batches):
    method = build(LatePhaseBatchNorm, recipe, K=2, start=0, gamma_theta=0.5)
    method.net.conv.weight.requires_grad_(False)
    kernel = method.net.conv.weight.clone()
    losses = train_epochs(method, make_optimizer(method, recipe), batches)
    assert losses[-1] < losses[0]
    assert torch.equal(method.net.conv.weight, kernel)


def test_noise_has_the_scale_of_equation_2(recipe):
    net = nn.Sequential(nn.Conv2d(1, 4000, 1), nn.BatchNorm2d(4000), nn.Flatten(), nn.Linear(4000, 50))
    method = LatePhaseBatchNorm(MakeNet(lambda: net, 0), recipe, K=3, sigma0=0.5, start=1)
    with torch.no_grad():
        net[1].weight.fill_(2.0)
        net[1].bias.zero_()
    method.begin_epoch(1)
    noise = [method.late_weights(k)["1.weight"] - 2.0 for k in range(3)]
    for one in noise:
        assert one.std().item() == pytest.approx(0.5 * 2.0, rel=0.05)
        assert one.mean().item() == pytest.approx(0.0, abs=0.06)
    assert not torch.equal(noise[0], noise[1])
    assert method.late_weights(0)["1.bias"].abs().sum() == 0, "noise is relative: none on zeros"
    head = method.late_weights(1)["3.weight"] - net[3].weight
    assert head.std().item() == pytest.approx(0.5 * net[3].weight.square().mean().sqrt().item(), rel=0.05)


def test_the_average_network_is_one_plain_network(recipe, batches):
    method = build(LatePhaseBatchNorm, recipe, K=3, start=2, sigma0=0.2)
    train_epochs(method, make_optimizer(method, recipe), batches)
    finish(method, batches).double()  # so that only the layers' average can differ
    (weights,) = method.members()
    plain = TinyNet().double().eval()
    plain.load_state_dict(weights)
    x = separable(9, 3)[0].double()
    heads = [method.late_weights(k) for k in range(3)]
    with torch.no_grad():
        norms = [
            functional_call(
                plain.norm, {key[5:]: t for key, t in head.items() if key.startswith("norm")}, plain.conv(x)
            )
            for head in heads
        ]
        hidden = nn.functional.max_pool2d(torch.stack(norms).mean(0).relu(), 2).flatten(1)
        expected = torch.stack([hidden @ head["head.weight"].T + head["head.bias"] for head in heads]).mean(0)
        torch.testing.assert_close(plain(x), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(method.predict(x)[0], plain(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("statistics", ["average", "reestimate", "reestimate_members"])
def test_other_ways_to_the_averages_statistics(statistics, recipe, batches):
    method = build(LatePhaseBatchNorm, recipe, K=3, start=2, sigma0=0.2, statistics=statistics)
    train_epochs(method, make_optimizer(method, recipe), batches)
    members = [{key: value.clone() for key, value in method.late_weights(k).items()} for k in range(3)]
    finish(method, batches)
    found = {key: value.detach() for key, value in next(iter(method.members())).items()}
    mean = {key: torch.stack([member[key].float() for member in members]).mean(0) for key in members[0]}
    if statistics == "average":
        assert_close({key: found[key] for key, value in mean.items() if "num_batches" not in key}, mean)
        return
    reference = deepcopy(method)
    if statistics == "reestimate":
        assert_close({key: found[key] for key in ("norm.weight", "norm.bias", "head.weight")}, mean)
        weights = {key: value.clone() for key, value in found.items()}
        reestimate(reference, batches, weights)
        assert_close(weights, {**weights, **found}, 0)
        assert not torch.allclose(found["norm.running_mean"], mean["norm.running_mean"], rtol=1e-3)
    else:
        scales = []
        for k in range(3):
            weights = {**reference.member(k), **members[k]}
            reestimate(reference, batches, weights)
            scales.append(weights["norm.weight"] / (weights["norm.running_var"] + method.net.norm.eps).sqrt())
        slope = found["norm.weight"] / (found["norm.running_var"] + method.net.norm.eps).sqrt()
        torch.testing.assert_close(slope, torch.stack(scales).mean(0))


def test_averaging_leaves_the_members_alone(recipe):
    """In float64 too, where a copy in double precision is no copy."""
    method = build(LatePhaseBatchNorm, recipe, K=3, start=0).double()
    method.begin_epoch(0)
    with torch.no_grad():
        for k in range(3):
            method.late_weights(k)["head.weight"].fill_(k + 1.0)
    for _ in range(2):
        (weights,) = method.members()
        assert weights["head.weight"].unique().tolist() == [2.0]
    assert [method.late_weights(k)["head.weight"].unique().item() for k in range(3)] == [1.0, 2.0, 3.0]


def test_contradictions_are_refused(recipe):
    for hyperparameters, message in (
        ({"start": None}, "start=None: without a late phase this is plain training"),
        ({"frozen_base": True, "gamma_theta": 0.5}, "frozen_base=True takes none"),
        ({"member_optimizer": "nesterov"}, "member_optimizer=nesterov needs a recipe with momentum"),
    ):
        with pytest.raises(ValueError, match=message):
            build(LatePhaseBatchNorm, recipe.model_copy(update={"momentum": 0.0}), **hyperparameters)
    bare = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.Linear(64, 3)
    )
    with pytest.raises(ValueError, match="with a scale, a shift and running statistics"):
        LatePhaseBatchNorm(MakeNet(lambda: bare, 0), recipe)
