"""Values of each method against an independent derivation: a naive loop, NumPy, or another library."""

import math
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel

import models
from harness.train import make_optimizer
from methods import SGD, SWA, DeepEnsemble, Dropout, LatePhaseBatchNorm, Line, MakeNet, MCDropout, Recipe, Snapshot
from methods.batch_norm import reestimate
from methods.late_phase import collapse
from tests.conftest import TinyNet, build, separable
from tests.methods.test_conformance import finish, run


def assert_close(one, other, tolerance=1e-6):
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


# --- plain training -----------------------------------------------------------------------------------------


def test_sgd_is_the_loop_everyone_writes(recipe, batches):
    method = build(SGD, recipe)
    net = deepcopy(method.net)
    run(method, make_optimizer(method, recipe), batches)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)
    net.train()
    for _ in range(recipe.epochs):
        for x, y in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    assert_close(method.net.state_dict(), net.state_dict())


# --- SWA ----------------------------------------------------------------------------------------------------


def trajectory(method, recipe, batches):
    """Train, keeping the network's state at the end of every epoch."""
    optimizer = make_optimizer(method, recipe)
    states = []
    for epoch in range(method.epochs):
        run(method, optimizer, batches, first=epoch, last=epoch + 1)
        states.append(deepcopy(method.net.state_dict()))
    return states


def test_swa_is_the_arithmetic_mean(recipe, batches):
    swa = build(SWA, recipe, start=2)
    states = trajectory(swa, recipe, batches)
    for name, p in swa.average.net.named_parameters():
        mean = np.mean([state[name].double().numpy() for state in states[2:]], axis=0)
        np.testing.assert_allclose(p.numpy(), mean, rtol=1e-5, atol=1e-6)


def test_swa_equals_swa_utils(recipe, batches):
    swa = build(SWA, recipe, start=2)
    averaged = AveragedModel(deepcopy(swa.net))
    for state in trajectory(swa, recipe, batches)[2:]:
        net = TinyNet()
        net.load_state_dict(state)
        averaged.update_parameters(net)
    assert_close(dict(swa.average.net.named_parameters()), dict(averaged.module.named_parameters()))


def torchcontrib_swa(optimizer):
    """torchcontrib's SWA around an optimizer; it no longer sets `defaults` in time for today's torch."""
    from torchcontrib import optim

    class Shimmed(optim.SWA):
        defaults: dict = {}  # noqa: RUF012
        _optimizer_step_pre_hooks: dict = {}  # noqa: RUF012
        _optimizer_step_post_hooks: dict = {}  # noqa: RUF012

    return Shimmed(optimizer)


def test_swa_equals_torchcontrib_parameters_and_statistics(recipe, batches):
    swa = build(SWA, recipe, start=2, ratio=None)
    net = deepcopy(swa.net)
    run(swa, make_optimizer(swa, recipe), batches)
    finish(swa, batches)
    theirs = torchcontrib_swa(
        torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)
    )
    net.train()
    for epoch in range(recipe.epochs):
        for x, y in batches:
            theirs.optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            theirs.optimizer.step()
        if epoch >= 2:
            theirs.update_swa()
    theirs.swap_swa_sgd()
    theirs.bn_update(batches, net)
    state = net.state_dict()
    del state["norm.num_batches_tracked"]
    assert_close(state, swa.average.net.state_dict(), 1e-5)


def test_swa_schedule_is_the_published_one():
    swa = build(SWA, Recipe(epochs=200, lr=0.1))
    assert swa.start_epoch == 160
    assert [swa.lr(e) for e in (0, 80, 144, 160, 199)] == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.05])
    assert swa.lr(112) == pytest.approx(0.075)
    assert build(SWA, Recipe(epochs=200, lr=0.1), ratio=None).lr(199.9) == 0.1


def test_swa_schedule_is_held_within_an_epoch():
    swa = build(SWA, Recipe(epochs=200, lr=0.1))
    assert swa.lr(112.9) == swa.lr(112) != swa.lr(113)


def test_before_averaging_starts_swa_predicts_with_the_network(recipe, batches):
    swa = build(SWA, recipe, start=3)
    run(swa, make_optimizer(swa, recipe), batches, last=2)
    (weights,) = swa.eval().members()
    assert_close(dict(swa.inner.net.state_dict()), weights, 0)


def test_swa_re_estimates_every_members_statistics(recipe, batches):
    inner = partial(LatePhaseBatchNorm, K=3, start=2, sigma0=0.3, prediction="members")
    method = build(SWA, recipe, of=inner, start=3)
    run(method, make_optimizer(method, recipe), batches)
    finish(method, batches)
    for weights in method.members():
        net = TinyNet()
        net.load_state_dict(weights)
        plain = SGD(MakeNet(lambda net=net: net, 0), recipe)
        reestimate(plain, batches)
        assert_close(dict(plain.net.state_dict()), weights)


def test_swa_averages_each_member_over_time_then_members(recipe, batches):
    method = build(SWA, recipe, of=partial(LatePhaseBatchNorm, K=2, start=1, sigma0=0.1), start=3)
    optimizer = make_optimizer(method, recipe)
    scales = []
    for epoch in range(method.epochs):
        run(method, optimizer, batches, first=epoch, last=epoch + 1)
        scales.append([method.inner.late_weights(k)["norm.weight"].detach().clone() for k in range(2)])
    finish(method, batches)
    expected = torch.stack([torch.stack(members).mean(0) for members in scales[3:]]).mean(0)
    torch.testing.assert_close(method.members()[0]["norm.weight"], expected)


def test_swa_refuses_to_start_before_its_members(recipe):
    with pytest.raises(
        ValueError, match="averaging starts in epoch 1, before LatePhaseBatchNorm itself starts in epoch 2"
    ):
        build(SWA, recipe, of=partial(LatePhaseBatchNorm, start=2), start=1)


@pytest.mark.parametrize("start", [6, 7, -1])
def test_a_start_beyond_the_end_is_refused(recipe, start):
    with pytest.raises(ValueError, match=f"start {start} is epoch {start}, but training has only epochs 0 to 5"):
        build(SWA, recipe, start=start)


# --- BatchNorm re-estimation --------------------------------------------------------------------------------


def test_reestimate_weights_batches_by_their_size(make_net, recipe, batches):
    method = SGD(make_net, recipe)
    reestimate(method, batches)
    with torch.no_grad():
        outputs = [method.net.conv(x).double() for x, _ in batches]
    sizes = np.array([len(x) for x, _ in batches])
    means = np.stack([out.mean((0, 2, 3)).numpy() for out in outputs])
    variances = np.stack([out.var((0, 2, 3)).numpy() for out in outputs])
    np.testing.assert_allclose(method.net.norm.running_mean, np.average(means, 0, sizes), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(method.net.norm.running_var, np.average(variances, 0, sizes), rtol=1e-5)


def test_reestimate_writes_the_given_statistics_and_nothing_else(recipe):
    """On LeNet-5, whose last BatchNorm comes after a dropout layer: with dropout on, its statistics would move."""
    make_net = MakeNet(partial(models.build, "lenet5", in_channels=1, classes=3, image_size=8), 0)
    method = Dropout(make_net, recipe, p=0.5).train()
    x = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batches = [(part, torch.zeros(len(part), dtype=torch.long)) for part in x.split(16)]
    before = deepcopy(method.state_dict())
    weights = {name: tensor.detach().clone() for name, tensor in method.members()[0].items()}
    method.net.register_forward_hook(lambda net, x, out: recorded.append(out.requires_grad))
    recorded: list[bool] = []
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        reestimate(method, batches, weights)
        found.append({name: value.clone() for name, value in weights.items() if "running" in name})
    assert_close(found[0], found[1], 0)
    assert not any(recorded), "no gradients"
    assert all(value.abs().sum() > 0 for value in found[0].values())
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items() if isinstance(v, torch.Tensor))
    assert all(module.training for module in method.net.modules())
    assert {layer.momentum for layer in method.net.modules() if hasattr(layer, "momentum")} == {0.1}


def test_reestimate_recovers_from_statistics_that_are_not_numbers(make_net, recipe, batches):
    method = SGD(make_net, recipe)
    reestimate(method, batches)
    good = deepcopy(method.net.norm.state_dict())
    method.net.norm.running_mean.fill_(float("nan"))
    reestimate(method, batches)
    assert_close(good, method.net.norm.state_dict(), 0)


def test_reestimate_refuses_an_empty_pass(make_net, recipe):
    with pytest.raises(ValueError, match="no batch"):
        reestimate(SGD(make_net, recipe), [])


# --- late-phase weights -------------------------------------------------------------------------------------


def algorithm_1(method, batches, recipe, make_updater):
    """Algorithm 1, naively: an optimizer for each member that steps at once, and one for the base weights.

    Cycles end with the epoch, and the next epoch starts with the next member.
    """
    net, K, gamma = deepcopy(method.net), method.K, method.gamma_theta
    late = [deepcopy(net.norm) for _ in range(K)]
    heads = [deepcopy(net.head) for _ in range(K)]
    base = [net.conv.weight]
    update_base = make_updater(base)
    update_member = [make_updater([*late[k].parameters(), *heads[k].parameters()]) for k in range(K)]
    for epoch in range(recipe.epochs):
        for start in range(0, len(batches), K):
            cycle = batches[start : start + K]
            total = torch.zeros_like(net.conv.weight)
            for i, (x, y) in enumerate(cycle):
                k = (epoch + i) % K
                late[k].train()
                hidden = nn.functional.max_pool2d(late[k](net.conv(x)).relu(), 2).flatten(1)
                loss = nn.functional.cross_entropy(heads[k](hidden), y)
                gradients = torch.autograd.grad(loss, [*base, *late[k].parameters(), *heads[k].parameters()])
                total += gradients[0]
                for p, g in zip([*late[k].parameters(), *heads[k].parameters()], gradients[1:], strict=True):
                    p.grad = g
                update_member[k].step()
            net.conv.weight.grad = total * (1 / len(cycle) if gamma == "1/K" else gamma)
            update_base.step()
    return net, late, heads


@pytest.mark.parametrize("gamma", [1.0, 0.3, "1/K"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_late_phase_is_algorithm_1(optimizer, gamma, batches):
    """Seven minibatches in cycles of three: short cycles leave members without a step."""
    batches = [(x.double(), y) for x, y in batches]
    recipe = Recipe(epochs=5, lr=0.05 if optimizer == "sgd" else 0.005, weight_decay=1e-2, optimizer=optimizer)
    if optimizer == "adam":
        recipe = recipe.model_copy(update={"weight_decay": 0.0})
    method = build(LatePhaseBatchNorm, recipe, K=3, start=0, gamma_theta=gamma, prediction="members").double()
    make_updater = (
        partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-2)
        if optimizer == "sgd"
        else partial(torch.optim.Adam, lr=0.005)
    )
    net, late, heads = algorithm_1(method, batches, recipe, make_updater)
    run(method, make_optimizer(method, recipe), batches)
    torch.testing.assert_close(method.net.conv.weight, net.conv.weight, rtol=1e-10, atol=1e-12)
    for k in range(3):
        found = method.late_weights(k)
        for prefix, layer in (("norm", late[k]), ("head", heads[k])):
            for name, value in layer.state_dict().items():
                torch.testing.assert_close(found[f"{prefix}.{name}"], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("start", "momentum"), [(0, "fresh"), (0, "copy"), (3, "copy")])
def test_one_late_phase_member_without_noise_is_plain_training_bitwise(start, momentum, recipe, batches):
    plain = build(SGD, recipe)
    run(plain, make_optimizer(plain, recipe), batches)
    late = build(LatePhaseBatchNorm, recipe, K=1, start=start, member_momentum=momentum, prediction="members")
    run(late, make_optimizer(late, recipe), batches)
    expected = plain.members()[0]
    for name, value in late.members()[0].items():
        assert torch.equal(value, expected[name]), name


def test_fresh_member_momentum_differs_from_plain_training(recipe, batches):
    plain = build(SGD, recipe)
    run(plain, make_optimizer(plain, recipe), batches)
    late = build(LatePhaseBatchNorm, recipe, K=1, start=3, prediction="members")
    run(late, make_optimizer(late, recipe), batches)
    assert not torch.equal(late.members()[0]["norm.weight"], plain.net.norm.weight)


def test_keywords_without_effect_are_refused(recipe):
    with pytest.raises(ValueError, match="statistics=average is about the average network"):
        build(LatePhaseBatchNorm, recipe, prediction="members", statistics="average")
    with pytest.raises(ValueError, match="alpha=0.3 is the place of a pair"):
        build(Line, recipe, alpha=0.3)


def test_members_are_used_equally(recipe, batches):
    """Seven minibatches an epoch, four members, four epochs: each member takes seven steps."""
    method = build(LatePhaseBatchNorm, Recipe(epochs=4, lr=0.01), K=4, start=0)
    run(method, make_optimizer(method, method.recipe), batches)
    assert [int(method.late_weights(k)["norm.num_batches_tracked"]) for k in range(4)] == [7, 7, 7, 7]


def test_the_first_cycle_starts_with_the_first_member_at_t0(recipe, batches):
    """Seven minibatches, K = 4, T0 = 2: in epoch 2 members 0–2 are used twice and member 3 once; then 1–3 and 0."""
    method = build(LatePhaseBatchNorm, recipe, K=4, start=2)
    optimizer = make_optimizer(method, recipe)
    run(method, optimizer, batches, last=2)
    before = int(method.net.norm.num_batches_tracked)
    run(method, optimizer, batches, first=2, last=3)
    assert [int(method.late_weights(k)["norm.num_batches_tracked"]) - before for k in range(4)] == [2, 2, 2, 1]
    run(method, optimizer, batches, first=3, last=4)
    assert [int(method.late_weights(k)["norm.num_batches_tracked"]) - before for k in range(4)] == [3, 4, 4, 3]


def test_the_reported_loss_is_the_mean_over_minibatches(recipe, batches):
    """With a rate of almost zero nothing moves, so that every minibatch's loss can be found again."""
    recipe = recipe.model_copy(update={"lr": 1e-12})
    method = build(LatePhaseBatchNorm, recipe, K=3, start=0)
    (loss,) = run(method, make_optimizer(method, recipe), batches, last=1)
    net = build(SGD, recipe).train().net
    expected = np.mean([nn.functional.cross_entropy(net(x), y).item() for x, y in batches])
    assert loss == pytest.approx(expected, rel=1e-5)


def test_an_update_of_several_minibatches_is_one_of_their_mean(recipe, batches):
    """What a method gets that only asks for more minibatches: gradient accumulation."""
    batches = batches[:2]
    one, other = (build(SGD, recipe) for _ in range(2))
    one.batches_per_update = lambda: 2
    run(one, make_optimizer(one, recipe), batches, last=1)
    optimizer = make_optimizer(other, recipe)
    other.train()
    for x, y in batches:
        (nn.functional.cross_entropy(other.net(x), y) / 2).backward()
    optimizer.step()
    assert_close(one.net.state_dict(), other.net.state_dict())


def test_without_shared_gradients_gamma_has_nothing_to_scale(recipe, batches):
    method = build(LatePhaseBatchNorm, recipe, K=2, start=0, gamma_theta=0.5)
    method.net.conv.weight.requires_grad_(False)
    losses = run(method, make_optimizer(method, recipe), batches)
    assert losses[-1] < losses[0]


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


def test_collapse_is_the_mean_of_the_layers_outputs():
    torch.manual_seed(0)
    layers = [nn.BatchNorm2d(5).eval() for _ in range(4)]
    for layer in layers:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.1, 3)
    one = nn.BatchNorm2d(5).eval()
    with torch.no_grad():
        collapse([layer.state_dict() for layer in layers], one.state_dict(), one.eps)
        x = torch.randn(7, 5, 3, 3)
        torch.testing.assert_close(one(x), torch.stack([layer(x) for layer in layers]).mean(0), rtol=0, atol=1e-6)


def test_the_average_network_is_one_plain_network(recipe, batches):
    method = build(LatePhaseBatchNorm, recipe, K=3, start=2, sigma0=0.2)
    run(method, make_optimizer(method, recipe), batches)
    finish(method, batches)
    (weights,) = method.members()
    plain = TinyNet().eval()
    plain.load_state_dict(weights)
    x, _ = separable(9, 3)
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
        torch.testing.assert_close(plain(x), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(method.predict(x)[0], plain(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("statistics", ["average", "reestimate", "reestimate_members"])
def test_other_ways_to_the_averages_statistics(statistics, recipe, batches):
    method = build(LatePhaseBatchNorm, recipe, K=3, start=2, sigma0=0.2, statistics=statistics)
    run(method, make_optimizer(method, recipe), batches)
    members = [{key: value.clone() for key, value in method.late_weights(k).items()} for k in range(3)]
    finish(method, batches)
    found = method.average.named()
    mean = {key: torch.stack([member[key].float() for member in members]).mean(0) for key in members[0]}
    if statistics == "average":
        assert_close({key: value for key, value in found.items() if value.is_floating_point()}, mean)
        return
    reference = deepcopy(method)
    if statistics == "reestimate":
        assert_close({key: found[key] for key in ("norm.weight", "norm.bias", "head.weight")}, mean)
        weights = {**reference.member(0), **{key: value.clone() for key, value in found.items()}}
        reestimate(reference, batches, weights)
        assert_close(weights, {**weights, **found}, 0)
        assert not torch.allclose(found["norm.running_mean"], mean["norm.running_mean"], rtol=1e-3)
    else:
        scales = []
        for k in range(3):
            weights = {**reference.member(k), **members[k]}
            reestimate(reference, batches, weights)
            scales.append(weights["norm.weight"] / (weights["norm.running_var"] + method.net.norm.eps).sqrt())
        torch.testing.assert_close(found["norm.weight"], torch.stack(scales).mean(0))


def test_late_phase_needs_batch_norm(recipe):
    with pytest.raises(ValueError, match="need an architecture with BatchNorm"):
        LatePhaseBatchNorm(MakeNet(lambda: nn.Linear(2, 2), 0), recipe)


def test_member_weight_decay_reaches_members_only(recipe):
    groups = build(LatePhaseBatchNorm, recipe, member_weight_decay=0.5).param_groups()
    assert [group["weight_decay"] for group in groups] == [recipe.weight_decay, 0.5]


def test_the_last_layer_can_stay_shared(recipe):
    names = set(build(LatePhaseBatchNorm, recipe, last_layer=False).late_weights(0))
    assert not any(name.startswith("head") for name in names)


# --- lines --------------------------------------------------------------------------------------------------


def test_line_ends_and_midpoint(recipe):
    line = build(Line, recipe)
    for name, value in line.at(0.0).items():
        assert torch.equal(value, dict(line.net.named_parameters())[name])
        other = dict(line.end.named_parameters())[name]
        assert torch.equal(line.at(1.0)[name], other)
        torch.testing.assert_close(line.at(0.5)[name], (value + other) / 2)
    assert not torch.equal(line.net.conv.weight, line.end.conv.weight), "the ends are drawn independently"
    assert torch.equal(line.net.norm.weight, line.end.norm.weight)


def test_line_gradients_are_scaled_by_the_point(recipe):
    """Equation 4: the ends' gradients are (1 − α) and α times the gradient at the point."""
    line = build(Line, recipe, beta=0.0)
    x, y = separable(12)
    line.loss(x, y, line.at(0.3)).backward()
    point = {name: value.detach().requires_grad_() for name, value in line.at(0.3).items()}
    loss = nn.functional.cross_entropy(functional_call(line.net, point, (x,)), y)
    gradient = torch.autograd.grad(loss, point["conv.weight"])[0]
    torch.testing.assert_close(line.net.conv.weight.grad, 0.7 * gradient)
    torch.testing.assert_close(line.end.conv.weight.grad, 0.3 * gradient)


def test_line_penalty_is_the_squared_cosine_without_batch_norm(recipe):
    line = build(Line, recipe, beta=2.0)
    with torch.no_grad():
        line.net.norm.weight.fill_(9.0)
    vectors = [
        np.concatenate([p.detach().double().numpy().ravel() for n, p in net.named_parameters() if "norm" not in n])
        for net in (line.net, line.end)
    ]
    a, b = vectors
    cosine = a @ b / math.sqrt((a @ a) * (b @ b))
    assert line.squared_cosine().item() == pytest.approx(cosine**2, rel=1e-5)
    x, y = separable(12)
    plain = line.recipe.criterion(line(x, line.at(0.4)), y)
    assert line.loss(x, y, line.at(0.4)).item() == pytest.approx(plain.item() + 2 * cosine**2, rel=1e-5)


def test_line_sees_uniform_points_that_come_back_with_the_epoch(recipe, monkeypatch):
    line = build(Line, recipe)
    seen = []
    monkeypatch.setattr(line, "at", lambda alpha, at=line.at: seen.append(float(alpha)) or at(alpha))
    x, y = separable(6)
    for epoch in (4, 4, 5):
        line.begin_epoch(epoch)
        for _ in range(200):
            line.loss(x, y)
    assert seen[:200] == seen[200:400] != seen[400:]
    assert np.mean(seen) == pytest.approx(0.5, abs=0.05)
    assert np.std(seen) == pytest.approx(math.sqrt(1 / 12), abs=0.03)


def test_line_pair_and_its_statistics(recipe, batches):
    line = build(Line, recipe, prediction="pair", alpha=0.2)
    run(line, make_optimizer(line, recipe), batches)
    finish(line, batches)
    for alpha, weights in zip((0.2, 0.8), line.members(), strict=True):
        net = TinyNet()
        net.load_state_dict(
            {
                name: (1 - alpha) * p + alpha * dict(line.end.named_parameters())[name]
                for name, p in line.net.named_parameters()
            },
            strict=False,
        )
        plain = SGD(MakeNet(lambda net=net: net, 0), recipe)
        reestimate(plain, batches)
        assert_close({k: v for k, v in plain.members()[0].items()}, weights, 1e-5)


# --- snapshots, dropout, deep ensembles ---------------------------------------------------------------------


def test_snapshots_are_the_states_at_the_cycles_ends(batches):
    recipe = Recipe(epochs=7, lr=0.05)
    method = build(Snapshot, recipe, M=3)
    assert method.ends == [2, 5, 7]
    states = trajectory(method, recipe, batches)
    for end, weights in zip(method.ends, method.members(), strict=True):
        assert_close(states[end - 1], weights, 0)


def test_a_snapshot_of_an_average_re_estimates_its_statistics(recipe, batches):
    """The last snapshot of an averaged run is the average itself, statistics and all."""
    method = build(Snapshot, recipe, of=partial(SWA, start=3), M=2)
    run(method, make_optimizer(method, recipe), batches)
    reference = deepcopy(method.inner)
    finish(method, batches)
    finish(reference, batches)
    assert_close(reference.members()[0], method.members()[-1], 0)
    assert not torch.equal(method.members()[-1]["norm.running_mean"], method.inner.net.norm.running_mean)


def test_snapshot_schedule_is_equation_2():
    method = build(Snapshot, Recipe(epochs=40, lr=0.2), M=4)
    for epoch in np.arange(0, 40, 0.25):
        expected = 0.2 / 2 * (math.cos(math.pi * (epoch % 10) / 10) + 1)
        assert method.lr(epoch) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="M = 5 cycles do not fit into 4 epochs"):
        build(Snapshot, Recipe(epochs=4), M=5)


def test_mc_dropout_is_k_forwards_with_dropout_on_and_batch_norm_still(recipe):
    method = build(MCDropout, recipe, K=4, p=0.5).eval()
    x, _ = separable(500, 3)
    with torch.no_grad():
        logits = method.predict(x)
        hidden = nn.functional.max_pool2d(method.net.norm(method.net.conv(x)).relu(), 2)
        torch.manual_seed(method.generator("dropout at test time").initial_seed())
        expected = [method.net.head(nn.functional.dropout(hidden, 0.5).flatten(1)) for _ in range(4)]
    assert torch.equal(logits, torch.stack(expected))
    assert not torch.equal(logits[0], logits[1])
    assert not any(module.training for module in method.modules())


def test_mc_dropout_leaves_the_global_generator_alone(recipe):
    method = build(MCDropout, recipe).eval()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    method.predict(separable(4)[0])
    assert torch.equal(torch.rand(1), expected)


def test_dropout_predicts_with_the_whole_network(recipe):
    method = build(Dropout, recipe, p=0.3).eval()
    assert method.net.dropout.p == 0.3
    x, _ = separable(5)
    assert torch.equal(method.predict(x)[0], method.net(x))
    with pytest.raises(ValueError, match="no place for dropout"):
        Dropout(MakeNet(lambda dropout=0.0: nn.Linear(2, 2), 0), recipe)


def test_a_deep_ensemble_trains_nothing(recipe):
    ensemble = build(DeepEnsemble, recipe, K=2)
    assert ensemble.epochs == 0
    assert ensemble.param_groups() == []
