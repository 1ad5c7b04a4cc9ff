"""BatchEnsemble against plain loops over its members."""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from harness.costs.cost import CostCounter
from harness.running.optimizers import make_optimizer
from methods import SGD, SWA, MakeNet, Recipe
from methods.batch_ensemble import BatchEnsemble, FastWeights
from tests.conftest import TinyNet, build, separable
from tests.methods.training import finish, train_epochs


class Net(nn.Module):
    """Convolutions with and without a bias, one of them grouped; for (B, 1, 6, 6) images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2, bias=False)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        return self.head(self.grouped(x).relu().mean((2, 3)))


def naive_logits(net, weights, fast, xs):
    """Run K copies of `Net`, member by member; only BatchNorm, in training mode, sees the rows of all together."""
    K = len(xs)

    def weight(layer, k):
        r, s = fast[layer, "r"][k], fast[layer, "s"][k]
        if layer == "grouped":  # 6 × 2: the first 3 outputs see inputs 0 and 1, the others 2 and 3
            outer = torch.stack([s[o] * (r[:2] if o < 3 else r[2:]) for o in range(6)])
        else:
            outer = torch.outer(s, r)
        w = weights[f"{layer}.weight"]
        return w * outer.reshape(*outer.shape, *[1] * (w.dim() - 2))

    hs = [F.conv2d(xs[k], weight("conv", k), fast["conv", "b"][k]) for k in range(K)]
    rows = torch.cat(hs)
    centred = rows - rows.mean((0, 2, 3), keepdim=True)
    normal = centred / (centred.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
    rows = normal * weights["norm.weight"][:, None, None] + weights["norm.bias"][:, None, None]
    hs = [
        F.conv2d(h, weight("grouped", k), padding=2, dilation=2, groups=2) for k, h in enumerate(rows.relu().chunk(K))
    ]
    hs = [h.relu().mean((2, 3)) for h in hs]
    return [F.linear(h, weight("head", k), fast["head", "b"][k]) for k, h in enumerate(hs)]


def test_training_is_that_of_separate_members_with_their_own_rates_and_decay():
    """Three steps of SGD with Nesterov momentum by hand, in float64."""
    recipe = Recipe(epochs=1, lr=0.1, momentum=0.9, weight_decay=0.02)
    K, scale = 3, 0.5
    x, y = separable(24)
    batches = [(part.double(), labels) for part, labels in zip(x.split(8), y.split(8), strict=True)]
    method = BatchEnsemble(MakeNet(Net, 0), recipe, K=K).double()
    assert method.layers == ["conv", "grouped", "head"]
    method.begin_epoch(0)
    weights = {name: p.detach().clone() for name, p in method.net.named_parameters() if p.requires_grad}
    fast = {
        (layer, name): p.detach().clone()
        for layer, f in zip(method.layers, method.fast, strict=True)
        for name, p in f.named_parameters()
    }
    assert set(weights) == {"conv.weight", "norm.weight", "norm.bias", "grouped.weight", "head.weight"}
    assert len({float(factor) for key, f in fast.items() if key[1] in "rs" for factor in f.flatten()}) > 60

    losses = []
    momenta: dict = {}
    for x, y in batches:
        for group in (weights, fast):
            for name in group:
                group[name] = group[name].detach().requires_grad_()
        logits = naive_logits(method.net, weights, fast, [x] * K)
        loss = torch.stack([F.cross_entropy(each, y) for each in logits]).mean()
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for group, rate in ((weights, 0.1), (fast, 0.1 * scale)):
                for name, p in group.items():
                    decay = 0.0 if group is fast and name[1] in ("r", "s") else 0.02
                    step = p.grad + decay * p
                    momenta[name] = 0.9 * momenta.get(name, 0.0) + step
                    group[name] = p - rate * (step + 0.9 * momenta[name])

    mean_loss = train_epochs(method, make_optimizer(method, recipe), batches)[0]
    assert mean_loss == pytest.approx(np.mean(losses), abs=1e-12)
    for name, value in weights.items():
        torch.testing.assert_close(method.net.get_parameter(name).detach(), value.detach())
    for (layer, name), value in fast.items():
        own = method.fast[method.layers.index(layer)].get_parameter(name)
        torch.testing.assert_close(own.detach(), value.detach())


def test_at_ones_it_is_plain_training(recipe, batches):
    """With r = s = 1, members are equal, and the gradient of shared weights is plain training's."""
    method, plain = build(BatchEnsemble, recipe, K=3, sigma=0.0), build(SGD, recipe)
    method.begin_epoch(0)
    x, y = batches[0]
    loss, expected = method.loss(x, y), plain.loss(x, y)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for name, p in plain.net.named_parameters():
        if name != "head.bias":
            torch.testing.assert_close(method.net.get_parameter(name).grad, p.grad)
    own = method.fast[1].b
    torch.testing.assert_close(own.grad.sum(0), plain.net.head.bias.grad)
    assert torch.equal(own[2], plain.net.head.bias)
    torch.testing.assert_close(method.net.norm.running_mean, plain.net.norm.running_mean)
    method.eval(), plain.eval()
    with torch.no_grad():
        torch.testing.assert_close(method.predict(x), plain.predict(x).expand(3, -1, -1))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(4, 6), (5, 4)),
        (nn.Linear(4, 6, bias=False), (5, 7, 4)),
        (nn.Conv1d(4, 6, 3, stride=2), (5, 4, 9)),
        (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (5, 4, 5, 5)),
        (nn.Conv2d(4, 8, (3, 1), groups=4, bias=False), (5, 4, 5, 5)),
        (nn.Conv3d(4, 6, 2, groups=2, dilation=2), (5, 4, 4, 4, 4)),
    ],
    ids=str,
)
def test_a_member_is_a_plain_layer_between_two_multiplications(layer, shape):
    generator = torch.Generator().manual_seed(0)
    fast = FastWeights(layer, K=3)
    with torch.no_grad():
        for p in [*fast.parameters(), *layer.parameters()]:
            p.copy_(torch.randn(p.shape, generator=generator))
    x = torch.randn(shape, generator=generator)
    last = isinstance(layer, nn.Linear)

    def channels(values):
        return values if last else values.view(-1, *[1] * (x.dim() - 2))

    with torch.no_grad():
        own = [layer(x * channels(fast.r[k])) * channels(fast.s[k]) for k in range(3)]
        expected = torch.stack(own if fast.b is None else [y + channels(fast.b[k]) for k, y in enumerate(own)])
        folded = torch.stack([functional_call(layer, fast.fold(layer, k), (x,)) for k in range(3)])
        torch.testing.assert_close(folded, expected, rtol=1e-5, atol=1e-4)
        fast.rows = 15
        tiled = fast.scale_input(layer, (torch.cat([x] * 3),))
        tiled = fast.scale_output(layer, (tiled,), layer(tiled))
        torch.testing.assert_close(tiled.unflatten(0, (3, 5)), expected, rtol=1e-5, atol=1e-4)


def test_one_tiled_pass_predicts_as_each_member_alone(recipe, batches):
    method = build(BatchEnsemble, recipe, K=3)
    train_epochs(method, make_optimizer(method, recipe), batches)
    finish(method, batches)
    x, _ = separable(11, seed=5)
    alone = []
    with torch.no_grad():
        for weights in method.members():
            net = TinyNet().eval()  # without hooks
            net.load_state_dict(weights)
            alone.append(net(x))
        together = method.predict(x)
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-5, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_a_deep_copy_has_fast_weights_of_its_own(recipe):
    method = build(BatchEnsemble, recipe).eval()
    method.begin_epoch(0)
    copy = deepcopy(method)
    x, _ = separable(4)
    with torch.no_grad():
        before = method.predict(x)
        assert torch.equal(copy.predict(x), before)
        for fast in copy.fast:
            fast.s.mul_(2)
        changed = copy.predict(x)
        assert (changed - before).abs().max() > 0.1
        assert torch.equal(method.predict(x), before)
        method.fast[1].s.zero_()
        torch.testing.assert_close(method.predict(x), method.fast[1].b[:, None].expand(-1, 4, -1))
        assert torch.equal(copy.predict(x), changed)


def test_members_share_statistics_which_one_tiled_pass_re_estimates(recipe, batches):
    method = build(SWA, recipe, of=partial(BatchEnsemble, K=3), start=3)
    train_epochs(method, make_optimizer(method, recipe), batches)
    average = method.average
    counter = CostCounter()
    average.net.register_forward_pre_hook(counter)
    with counter.training(torch.device("cpu")):
        finish(method, batches)
    assert counter.cost.forward_examples == 3 * sum(len(x) for x, _ in batches)
    fast = average.fast[0]
    with torch.no_grad():
        rows = [
            torch.cat([average.net.conv(x * fast.r[k]) * fast.s[k][:, None, None] for k in range(3)])
            for x, _ in batches
        ]
    sizes = [len(x) for x, _ in batches]
    means = [part.mean((0, 2, 3)).double().numpy() for part in rows]
    variances = [part.double().var((0, 2, 3)).numpy() for part in rows]
    np.testing.assert_allclose(average.net.norm.running_mean, np.average(means, 0, sizes), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(average.net.norm.running_var, np.average(variances, 0, sizes), rtol=1e-4)


def test_fast_weights_start_as_asked(recipe):
    def wide():
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 500), nn.ReLU(), nn.Linear(500, 3))

    for init, sigma in (("gaussian", 0.5), ("gaussian", 0.1), ("sign", 0.5)):
        method = BatchEnsemble(MakeNet(wide, 0), recipe, init=init, sigma=sigma)
        assert all((fast.r == 1).all() for fast in method.fast), "until training starts"
        method.begin_epoch(0)
        r, s = method.fast[1].r.detach(), method.fast[0].s.detach()  # both (4, 500)
        assert abs(np.corrcoef(r.flatten(), s.flatten())[0, 1]) < 0.1
        for values in (r, s):
            if init == "sign":
                assert set(values.flatten().tolist()) == {-1.0, 1.0}
                assert abs(values.mean()) < 0.08
            else:
                assert values.mean() == pytest.approx(1, abs=0.16 * sigma)
                assert values.std() == pytest.approx(sigma, rel=0.06)


def test_it_keeps_one_network_and_few_more_numbers(recipe):
    method = build(BatchEnsemble, recipe, K=10)
    size = sum(p.numel() for p in method.parameters())
    assert size == sum(p.numel() for p in TinyNet().parameters()) + 10 * ((1 + 4) + (36 + 3 + 3))


def test_it_costs_k_networks_in_time(recipe, batches):
    method = build(BatchEnsemble, recipe, K=3)
    counter = CostCounter()
    method.net.register_forward_pre_hook(counter)
    with counter.training(torch.device("cpu")):
        train_epochs(method, make_optimizer(method, recipe), batches, last=1)
    assert counter.cost.forward_examples == counter.cost.backward_examples == 3 * (7 * 16 - 5)


def test_bfloat16_stays_bfloat16_between_layers(recipe):
    method = build(BatchEnsemble, recipe)
    dtypes = []
    method.net.norm.register_forward_pre_hook(lambda layer, arguments: dtypes.append(arguments[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        method(separable(4)[0])
    assert dtypes == [torch.bfloat16]


def test_what_cannot_be_an_ensemble_is_refused(recipe):
    with pytest.raises(ValueError, match="linear layers or convolutions"):
        BatchEnsemble(MakeNet(lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36)), 0), recipe)

    class TimeFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 3)

        def forward(self, x):
            return self.head(x[:, 0].transpose(0, 1)).mean(0)

    with pytest.raises(ValueError, match=r"first axis: of 12 examples, Linear.* sees 6"):
        BatchEnsemble(MakeNet(TimeFirst, 0), recipe)(separable(3)[0])


def test_a_spread_of_signs_is_refused(recipe):
    with pytest.raises(ValueError, match="sigma=0.2 is the standard deviation of init=gaussian"):
        build(BatchEnsemble, recipe, init="sign", sigma=0.2)
