"""Members run as one batch against members run one by one."""

import pytest
import torch
from torch import nn

import models
from methods.core.fused_members import (
    FusedForwards,
    MemberBatchedLinear,
    MemberBatchedNorm,
    MemberLoop,
    Rank1ScaledLayer,
    can_fuse,
    current_forwards,
    replaced_forwards,
    scale_and_shift,
)
from methods.late_phase_rank1 import RankOne
from tests.conftest import NETS, TinyNet

K, B = 4, 6
NETWORKS = ("lenet5", "cresnet20", "cresnet20-conv", "wrn-10-1")
SIDE = 12


def make_net(architecture, **options):
    return models.build(architecture, in_channels=3, classes=5, image_size=SIDE, **options).double()


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
    for own, act in zip(layers, (MemberLoop, MemberBatchedNorm), strict=True):
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
        y = MemberBatchedNorm(layers)(x)
    y.backward(given)
    whole = MemberBatchedNorm([nn.BatchNorm2d(3) for _ in range(K)])(exact)
    whole.backward(given.float())
    assert y.dtype == x.grad.dtype == torch.bfloat16
    assert torch.equal(y, whole.bfloat16())
    assert torch.equal(x.grad, exact.grad.bfloat16())


def test_batched_linear_layers_equal_the_members_layers():
    layers = [nn.Linear(3, 2, bias=bias).double() for bias in (True,) * K]
    x = torch.randn(K * B, 3, dtype=torch.float64)
    torch.testing.assert_close(MemberBatchedLinear(layers)(x), MemberLoop(layers)(x))
    bare = [nn.Linear(3, 2, bias=False).double() for _ in range(K)]
    torch.testing.assert_close(MemberBatchedLinear(bare)(x), MemberLoop(bare)(x))


@pytest.mark.parametrize(
    "layer", [nn.Linear(4, 6), nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, 3, groups=2, bias=False)]
)
def test_scaling_what_goes_in_and_out_is_multiplying_the_weight(layer):
    layer = layer.double()
    factors = [RankOne(layer.weight).double() for _ in range(K)]
    x = torch.randn((K * B, 4) if isinstance(layer, nn.Linear) else (K * B, 4, 5, 5), dtype=torch.float64)
    scaled = Rank1ScaledLayer(layer, factors)
    expected = torch.cat(
        [
            torch.func.functional_call(layer, {"weight": factor(layer.weight)}, (rows,))
            for factor, rows in zip(factors, x.chunk(K), strict=True)
        ]
    )
    torch.testing.assert_close(scaled(x), expected)


def test_layers_run_their_own_forward_again_also_after_an_error():
    layer = nn.Linear(2, 2)
    net = nn.Sequential(layer)
    net.acts = ["the network's own"]
    x = torch.ones(1, 2)
    before = net(x)
    acts = FusedForwards({layer: lambda x: 0 * x})
    with pytest.raises(RuntimeError, match="stop"), replaced_forwards(net, acts):
        assert current_forwards(net) is acts
        assert not net(x).any()
        raise RuntimeError("stop")
    assert current_forwards(net) is None
    assert net.acts == ["the network's own"]
    assert torch.equal(net(x), before)


def test_a_layer_whose_forward_was_replaced_is_not_fused():
    net = TinyNet()
    net.conv.forward = lambda x: 2 * type(net.conv).forward(net.conv, x)
    assert not can_fuse(net)


def test_scale_and_shift_keeps_layout_and_precision():
    x = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last).bfloat16()
    scale, shift = torch.randn(2, 3), torch.randn(2, 3)
    y = scale_and_shift(x, scale, shift)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)
    rows = [x[i].float() * scale[i // 2].view(3, 1, 1) + shift[i // 2].view(3, 1, 1) for i in range(4)]
    torch.testing.assert_close(y, torch.stack(rows).bfloat16())


@pytest.mark.parametrize("shared", [True, False])
def test_statistics_under_autocast_are_those_in_float32(shared):
    x = 10 + torch.randn(K * B, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for half in (False, True):
        layers = [nn.BatchNorm2d(3)] * K if shared else [nn.BatchNorm2d(3) for _ in range(K)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            MemberBatchedNorm(layers)(x)
        found.append([statistic for layer in layers for statistic in layer.buffers()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-6, atol=0)


def test_a_linear_layer_with_more_dimensions_is_refused():
    layer = nn.Linear(4, 4)
    with pytest.raises(ValueError, match=r"Linear.* sees \(2, 4, 4\); --fuse never"):
        Rank1ScaledLayer(layer, [RankOne(layer.weight)] * 2)(torch.ones(2, 4, 4))
