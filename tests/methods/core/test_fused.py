"""Members run as one batch against members run one by one."""

import sys
from functools import partial

import pytest
import torch
from torch import nn

import models
from harness.running.optimizers import make_optimizer
from methods import METHODS, SWA, LatePhaseBatchNorm, LatePhaseRank1, MakeNet, Recipe
from methods.core.batch_norm import batch_norms
from methods.core.fused import (
    Acts,
    Each,
    Linears,
    Norms,
    Scaled,
    act_by_group,
    acting,
    can_fuse,
    times_plus,
    what_acts,
)
from methods.core.late_phase import LatePhase
from methods.core.wrapper import methods_within
from methods.late_phase_rank1 import RankOne
from tests.conftest import NETS, TinyNet

K, B = 4, 6
METHODS_THAT_FUSE = {
    "late_phase_bn": {},
    "late_phase_bn, no last layer": {"last_layer": False},
    "late_phase_last_layer": {},
    "late_phase_rank1": {},
    "late_phase_rank1, last layer too": {"last_layer": False},
    "gradient_accumulation": {},
    "hypernet_ensemble": {"embeddings": "shared"},
}
NETWORKS = ("lenet5", "cresnet20", "cresnet20-conv", "wrn-10-1")
SIDE = 12


def make_net(architecture, **options):
    return models.build(architecture, in_channels=3, classes=5, image_size=SIDE, **options).double()


def make(name, architecture, fuse_up_to, recipe=None, **hyperparameters):
    """A method in its late phase, from the first epoch on, in float64."""
    given = {"K": K, "start": 0, "sigma0": 0.3, **METHODS_THAT_FUSE.get(name, {}), **hyperparameters}
    if name == "gradient_accumulation":
        del given["sigma0"]
    method = METHODS[name.partition(",")[0]](
        MakeNet(partial(make_net, architecture), seed=0), recipe or Recipe(epochs=3, lr=0.05), **given
    ).double()
    method.fuse_up_to = fuse_up_to
    method.begin_epoch(0)
    return method.train()


def minibatches(count, size=B, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, 3, SIDE, SIDE, generator=generator, dtype=torch.float64),
            torch.randint(5, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def assert_close(found, expected, name):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9, msg=lambda message: f"{name}: {message}")


def counting_forwards(method):
    """How many examples each forward pass of the network has from now on."""
    sizes = []
    method.net.register_forward_pre_hook(lambda net, arguments: sizes.append(len(arguments[0])))
    return sizes


@pytest.fixture(params=["a kernel a group", "few kernels"])
def kernels(request, monkeypatch):
    """Each of the two ways of BatchNorm by group, of which the second is that of GPUs."""
    if request.param == "few kernels":
        monkeypatch.setattr(
            "methods.core.late_phase.act_by_group",
            lambda layers: (
                Norms(layers) if isinstance(layers[0], nn.modules.batchnorm._BatchNorm) else act_by_group(layers)
            ),
        )


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("name", METHODS_THAT_FUSE)
def test_a_fused_cycle_has_the_gradients_losses_and_statistics_of_the_members_one_by_one(name, architecture):
    recipe = Recipe(epochs=3, lr=0.05, label_smoothing=0.1, weight_decay=1e-3)
    one, other = (make(name, architecture, limit, recipe) for limit in (0, B))
    sizes = counting_forwards(other)
    optimizers = [make_optimizer(method, recipe) for method in (one, other)]
    for count in (K, K, 3):  # the last cycle is a short one: a member is left out
        batches = minibatches(count, seed=count)
        other.load_state_dict(one.state_dict())  # so that rounding of one cycle does not grow in the next
        losses = [method.update(batches, optimizer) for method, optimizer in zip((one, other), optimizers, strict=True)]
        assert_close(losses[0], losses[1], "loss")
        for (key, p), (_, q) in zip(one.named_parameters(), other.named_parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None), key
            if p.grad is not None:
                assert_close(q.grad, p.grad, f"gradient of {key}")
        for (key, p), (_, q) in zip(one.named_buffers(), other.named_buffers(), strict=True):
            assert_close(q, p, key)
    assert sizes == [K * B, K * B, 3 * B], "one pass a cycle"


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("name", [name for name in METHODS_THAT_FUSE if name != "gradient_accumulation"])
def test_members_predict_in_one_pass_what_they_predict_one_by_one(name, architecture):
    method = make(name, architecture, 0, prediction="members")
    method.update(minibatches(K), make_optimizer(method, method.recipe))
    method.eval()
    ((x, _),) = minibatches(1, size=9, seed=5)
    with torch.no_grad():
        expected = method.predict(x)
        method.fuse_up_to = 9
        sizes = counting_forwards(method)
        found = method.predict(x)
    assert found.shape == (K, 9, 5)
    assert sizes == [K * 9]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(found[0], found[1]), "members differ"


def test_members_are_fused_up_to_the_given_size_and_where_all_minibatches_are_equally_large():
    method = make("late_phase_bn", "wrn-10-1", B)
    sizes = counting_forwards(method)
    optimizer = make_optimizer(method, method.recipe)
    method.update(minibatches(K, size=B + 1), optimizer)
    assert sizes == [B + 1] * K
    sizes.clear()
    method.update([*minibatches(2), *minibatches(1, size=4)], optimizer)
    assert sizes == [B, B, 4]
    sizes.clear()
    method.update(minibatches(1), optimizer)
    assert sizes == [B]
    sizes.clear()
    method.update(minibatches(2), optimizer)
    assert sizes == [2 * B]


@pytest.mark.parametrize(
    "name", ["late_phase_full", "late_independent", "branched", "hypernet_ensemble", "late_phase_hypernet"]
)
def test_members_that_share_no_convolutions_run_one_by_one(name):
    method = METHODS[name](MakeNet(partial(make_net, "wrn-10-1"), seed=0), Recipe(epochs=3), K=2, start=0).double()
    method.fuse_up_to = sys.maxsize
    method.begin_epoch(0)
    method.train()
    sizes = counting_forwards(method)
    method.update(minibatches(2), make_optimizer(method, method.recipe))
    assert sizes == [B, B]


def test_networks_that_draw_mix_rows_or_keep_a_state_are_not_fused():
    assert can_fuse(TinyNet())
    assert not can_fuse(TinyNet(dropout=0.5))
    assert not can_fuse(NETS["lstm"]())
    assert all(can_fuse(make_net(name)) for name in NETWORKS)
    assert not can_fuse(make_net("pyramidnet-110-4")), "ShakeDrop draws"
    assert not can_fuse(nn.Sequential(nn.Conv2d(1, 1, 1), nn.SyncBatchNorm(1)))
    assert not can_fuse(nn.BatchNorm2d(3, momentum=None)), "a mean over all minibatches moves by another rule"
    assert not can_fuse(nn.LayerNorm(3)), "what is not known is refused"
    assert can_fuse(nn.Sequential(nn.Linear(2, 2), nn.Sequential())), "a sequence without layers does nothing"


def test_a_wrapped_method_is_fused_too():
    def build(limit):
        method = SWA(
            MakeNet(partial(make_net, "wrn-10-1"), seed=0),
            Recipe(epochs=2, lr=0.05),
            of=partial(METHODS["late_phase_bn"], K=K, start=0, prediction="members"),
            start=0,
        ).double()
        for part in methods_within(method):
            part.fuse_up_to = limit
        sizes = counting_forwards(method)
        optimizer = make_optimizer(method, method.recipe)
        for epoch in range(2):
            method.begin_epoch(epoch)
            method.train()
            method.update(minibatches(K, seed=epoch), optimizer)
            method.end_epoch(epoch)
        assert sizes == ([K * B] * 2 if limit else [B] * 2 * K)
        method.prepare(minibatches(2))
        return method.eval()

    fused, one_by_one = build(B), build(0)
    x = minibatches(1)[0][0]
    with torch.no_grad():
        assert_close(fused.predict(x), one_by_one.predict(x), "prediction")


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.BatchNorm2d(3)], ids=["1d", "2d"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
@pytest.mark.parametrize("shared", [True, False])
def test_few_kernels_normalise_as_torch_does(layer, layout, shared):
    """Three updates and an evaluation: outputs, gradients and running statistics."""
    shape = (K * B, 3) if isinstance(layer, nn.BatchNorm1d) else (K * B, 3, 4, 5)
    layers = [[type(layer)(3).double() for _ in range(1 if shared else K)] for _ in range(2)]
    for own in layers:
        for i, each in enumerate(own):
            with torch.no_grad():
                each.weight.copy_(torch.tensor([1.0, 2.0, -0.5]) + i)
                each.bias.copy_(torch.tensor([0.1, 0.0, -1.0]) * i)
    generator = torch.Generator().manual_seed(1)
    found = []
    for own, act in zip(layers, (Each, Norms), strict=True):
        generator.manual_seed(1)
        for _ in range(3):
            x = 5 + 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
            x = (x if len(shape) == 2 else x.contiguous(memory_format=layout)).requires_grad_()
            y = act(own * K if shared else own)(x)
            y.backward(torch.randn(shape, generator=generator, dtype=torch.float64))
        own[0].eval()
        evaluated = act(own * K if shared else own)(x.detach()) if shared else y.detach()
        gradients = [p.grad for each in own for p in each.parameters()]
        statistics = [b for each in own for b in each.buffers()]
        found.append([y.detach(), x.grad, evaluated, *gradients, *statistics])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)


def test_few_kernels_normalise_bfloat16_in_float32():
    """As torch does: the result is that of the rounded input in float32, rounded once."""
    layers = [nn.BatchNorm2d(3) for _ in range(K)]
    x = (10 + torch.randn(K * B, 3, 8, 8)).bfloat16().requires_grad_()
    exact = x.detach().float().requires_grad_()
    given = torch.randn(x.shape).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = Norms(layers)(x)
    y.backward(given)
    whole = Norms([nn.BatchNorm2d(3) for _ in range(K)])(exact)
    whole.backward(given.float())
    assert y.dtype == x.grad.dtype == torch.bfloat16
    assert torch.equal(y, whole.bfloat16())
    assert torch.equal(x.grad, exact.grad.bfloat16())


def test_linear_layers_of_groups_are_those_layers():
    layers = [nn.Linear(3, 2, bias=bias).double() for bias in (True,) * K]
    x = torch.randn(K * B, 3, dtype=torch.float64)
    torch.testing.assert_close(Linears(layers)(x), Each(layers)(x))
    bare = [nn.Linear(3, 2, bias=False).double() for _ in range(K)]
    torch.testing.assert_close(Linears(bare)(x), Each(bare)(x))


@pytest.mark.parametrize(
    "layer", [nn.Linear(4, 6), nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, 3, groups=2, bias=False)]
)
def test_scaling_what_goes_in_and_out_is_multiplying_the_weight(layer):
    layer = layer.double()
    factors = [RankOne(layer.weight).double() for _ in range(K)]
    x = torch.randn((K * B, 4) if isinstance(layer, nn.Linear) else (K * B, 4, 5, 5), dtype=torch.float64)
    scaled = Scaled(layer, factors)
    expected = torch.cat(
        [
            torch.func.functional_call(layer, {"weight": factor(layer.weight)}, (rows,))
            for factor, rows in zip(factors, x.chunk(K), strict=True)
        ]
    )
    torch.testing.assert_close(scaled(x), expected)


def test_layers_act_as_always_again_also_after_an_error():
    layer = nn.Linear(2, 2)
    net = nn.Sequential(layer)
    net.acts = ["the network's own"]
    x = torch.ones(1, 2)
    before = net(x)
    acts = Acts({layer: lambda x: 0 * x})
    with pytest.raises(RuntimeError, match="stop"), acting(net, acts):
        assert what_acts(net) is acts
        assert not net(x).any()
        raise RuntimeError("stop")
    assert what_acts(net) is None
    assert net.acts == ["the network's own"]
    assert torch.equal(net(x), before)


def test_a_layer_whose_forward_was_replaced_is_not_fused():
    net = TinyNet()
    net.conv.forward = lambda x: 2 * type(net.conv).forward(net.conv, x)
    assert not can_fuse(net)


def test_times_plus_keeps_layout_and_precision():
    x = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last).bfloat16()
    scale, shift = torch.randn(2, 3), torch.randn(2, 3)
    y = times_plus(x, scale, shift)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)
    rows = [x[i].float() * scale[i // 2].view(3, 1, 1) + shift[i // 2].view(3, 1, 1) for i in range(4)]
    torch.testing.assert_close(y, torch.stack(rows).bfloat16())


def trained(method_class, limit):
    """The loss of an update that begins with member 1, the state after it, and a prediction."""
    make_it = partial(method_class, K=K, start=0, sigma0=0.3, prediction="members")
    method = make_it(MakeNet(partial(make_net, "wrn-10-1"), seed=0), Recipe(epochs=3)).double()
    method.fuse_up_to = limit
    method.begin_epoch(0)
    method.begin_epoch(1)
    method.train()
    sizes = counting_forwards(method)
    loss = method.update(minibatches(K), make_optimizer(method, method.recipe))
    with torch.no_grad():
        predicted = method.eval().predict(minibatches(1)[0][0])
    state = {key: value.clone() for key, value in method.state_dict().items() if isinstance(value, torch.Tensor)}
    return {"loss": loss, "prediction": predicted, **state}, sizes


def assert_fused_alike(method_class):
    one, _ = trained(method_class, 0)
    other, sizes = trained(method_class, B)
    assert sizes == [K * B] * 2
    for name, value in one.items():
        assert_close(other[name], value, name)


class Penalised(LatePhaseBatchNorm):
    """A loss of the weights that a member has."""

    def loss(self, x, y, weights=None):
        late = [weights[name] for name in weights or () if name.endswith(".weight")]
        return super().loss(x, y, weights) + 0.1 * sum(w.square().sum() for w in late)


class Bounded(LatePhaseBatchNorm):
    """Scales between -1 and 1."""

    def late_weights(self, k):
        return {n: w.tanh() if n.endswith(".weight") else w for n, w in super().late_weights(k).items()}


class Mixed(LatePhaseBatchNorm):
    """A loss that mixes the rows of a minibatch."""

    def loss(self, x, y, weights=None):
        return super().loss((x + x.roll(1, 0)) / 2, y, weights)


class Halved(LatePhaseBatchNorm):
    """Members are not what they are trained as."""

    def member(self, k):
        return {n: w / 2 if n.endswith("bias") else w for n, w in super().member(k).items()}


class Grown(LatePhaseRank1):
    """Members of whose factors nothing says how rows see them, though it is declared."""

    fusible = True
    make_acts = LatePhase.make_acts


@pytest.mark.parametrize("method_class", [Penalised, Bounded, Mixed, Halved, Grown])
def test_members_of_a_subclass_that_does_not_say_how_run_one_by_one(method_class):
    one, _ = trained(method_class, 0)
    other, sizes = trained(method_class, B)
    assert max(sizes) == B
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_shared_statistics_move_in_the_order_of_the_minibatches_beside_own_ones():
    class HalfOfTheNorms(LatePhase):
        fusible = True

        def __init__(self, make_net, recipe, **given):
            super().__init__(make_net, recipe, **given)
            self.replicate(list(batch_norms(self.net))[::2])

    assert_fused_alike(HalfOfTheNorms)


def test_what_a_subclass_that_declares_it_does_in_forward_and_loss_holds_for_fused_members_too():
    class Doubled(LatePhaseBatchNorm):
        fusible = True

        def forward(self, x, weights=None):
            return super().forward(2 * x, weights)

        def loss(self, x, y, weights=None):
            return 3 * super().loss(x, y, weights)

    assert_fused_alike(Doubled)


def test_members_whose_loss_sees_examples_together_run_one_by_one():
    method = make("late_phase_bn", "wrn-10-1", B)
    method.divisible = False
    sizes = counting_forwards(method)
    method.update(minibatches(2), make_optimizer(method, method.recipe))
    assert sizes == [B, B]


@pytest.mark.parametrize("shared", [True, False])
def test_statistics_under_autocast_are_those_in_float32(shared):
    x = 10 + torch.randn(K * B, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for half in (False, True):
        layers = [nn.BatchNorm2d(3)] * K if shared else [nn.BatchNorm2d(3) for _ in range(K)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            Norms(layers)(x)
        found.append([statistic for layer in layers for statistic in layer.buffers()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-6, atol=0)


def test_a_linear_layer_with_more_dimensions_is_refused():
    layer = nn.Linear(4, 4)
    with pytest.raises(ValueError, match=r"Linear.* sees \(2, 4, 4\); --fuse never"):
        Scaled(layer, [RankOne(layer.weight)] * 2)(torch.ones(2, 4, 4))
