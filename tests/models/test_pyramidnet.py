import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import build
from models.pyramidnet import PyramidNet
from models.shake_drop import ShakeDrop, survival_probability
from tests.models.networks import count, spread

# (depth, alpha, parameters, the same in the millions of the paper's table, features of the last layer)
PUBLISHED = [
    (110, 48, 1_772_706, 1.7, 64),
    (110, 84, 3_904_446, 3.8, 100),
    (110, 270, 28_485_477, 28.3, 286),
    (164, 48, 1_715_442, 1.7, 256),
    (164, 84, 3_757_494, 3.8, 400),
    (164, 270, 27_216_021, 27.0, 1144),
    (200, 240, 26_752_702, 26.6, 1024),
    (236, 220, 26_969_046, 26.8, 944),
    (272, 200, 26_210_842, 26.0, 864),
]


@pytest.mark.parametrize(("depth", "alpha", "parameters", "millions", "features"), PUBLISHED)
def test_published_networks(depth, alpha, parameters, millions, features):
    with torch.device("meta"):
        net = build(f"pyramidnet-{depth}-{alpha}", in_channels=3, classes=10, image_size=32)
    assert net.fc.in_features == features
    assert count(net) == parameters
    # The paper's table is up to 0.2 million below what its code builds; another library (imgclsmob) counts as we do.
    assert -0.05 < parameters / 1e6 - millions < 0.22


def test_widths_grow_by_equal_steps():
    with torch.device("meta"):
        blocks = build("pyramidnet-26-27", in_channels=3, classes=10, image_size=32).blocks
        bottlenecks = build("pyramidnet-164-48", in_channels=3, classes=10, image_size=32).blocks
    # 16 + 27 k / 12: 18.25, 20.5, 22.75, 25, ...; halves go up, also 20.5 and 29.5, which banker's rounding would split
    widths = [18, 21, 23, 25, 27, 30, 32, 34, 36, 39, 41, 43]
    assert [block.branch[-2].out_channels for block in blocks] == widths
    assert [block.stride for block in blocks] == [1, 1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1]
    assert [block.branch[-2].in_channels for block in bottlenecks] == [
        math.floor(16 + 48 * k / 54 + 0.5) for k in range(1, 55)
    ]


@pytest.mark.parametrize("depth", [14, 164])
def test_forward_from_the_definition(depth):
    torch.manual_seed(0)
    net = build(f"pyramidnet-{depth}-9", in_channels=1, classes=3, image_size=7).double()
    spread(net)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 1.5)
    net.eval()
    w = dict(net.state_dict())

    def bn(h, name):
        mean, var, scale, shift = (
            w[f"{name}.{key}"].view(-1, 1, 1) for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (h - mean) / (var + 1e-5).sqrt() * scale + shift

    x = torch.randn(2, 1, 7, 7, dtype=torch.float64)
    h = bn(F.conv2d(x, w["conv.weight"], padding=1), "bn")
    n = len(net.blocks)
    for i in range(n):
        name, stride = f"blocks.{i}.branch", 2 if i in (n // 3, 2 * n // 3) else 1
        kernels = [w[key] for key in w if key.startswith(name) and w[key].ndim == 4]
        branch = bn(h, f"{name}.0")
        for j, kernel in enumerate(kernels):
            strided = j == (1 if len(kernels) == 3 else 0)
            if j:
                branch = F.relu(bn(branch, f"{name}.{3 * j - 1}"))
            branch = F.conv2d(branch, kernel, stride=stride if strided else 1, padding=kernel.shape[-1] // 2)
        branch = bn(branch, f"{name}.{len(net.blocks[i].branch) - 1}")
        shortcut = torch.zeros_like(branch)
        shortcut[:, : h.shape[1]] = F.avg_pool2d(h, stride, ceil_mode=True)
        h = shortcut + (1 - 0.5 * (i + 1) / n) * branch
    h = F.relu(bn(h, "last_bn")).mean((2, 3))
    torch.testing.assert_close(net(x), h @ w["fc.weight"].T + w["fc.bias"])


@pytest.mark.parametrize("depth", [6, 7, 12, 112, 163, 170, 2])
def test_wrong_depths(depth):
    with pytest.raises(ValueError, match=rf"pyramidnet-{depth}-48: the depth must be 6n \+ 2 below 164"):
        build(f"pyramidnet-{depth}-48", in_channels=3, classes=10, image_size=32)


def test_wrong_alpha():
    with pytest.raises(ValueError, match="pyramidnet-110-0: alpha must be at least 1"):
        PyramidNet(depth=110, alpha=0, in_channels=3, classes=10, image_size=32)


def test_initial_values():
    torch.manual_seed(0)
    net = build("pyramidnet-14-100", in_channels=3, classes=10, image_size=32)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            deviation = 4 * (2 * module.weight.numel()) ** -0.5
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=deviation)
    assert (net.fc.bias == 0).all()


# --- ShakeDrop ---------------------------------------------------------------------------------------------------


def test_survival_falls_linearly_to_one_half():
    net = build("pyramidnet-14-6", in_channels=1, classes=3, image_size=8)
    assert [block.shake_drop.p for block in net.blocks] == pytest.approx([11 / 12, 5 / 6, 3 / 4, 2 / 3, 7 / 12, 1 / 2])
    assert survival_probability(3, 4, last=0.2) == pytest.approx(0.4)


def factors(p, batches=3000, examples=4):
    """Return the forward and backward factors of all examples in many minibatches, (batches, examples) each."""
    torch.manual_seed(0)
    layer = ShakeDrop(p)
    forward, backward = [], []
    for _ in range(batches):
        x = torch.ones(examples, 2, 3, 3, requires_grad=True)
        y = layer(x)
        y.backward(torch.ones_like(y))
        for value in (y, x.grad):  # one factor for all of an example
            assert (value == value[:, :1, :1, :1]).all()
        forward.append(y.detach()[:, 0, 0, 0])
        backward.append(x.grad[:, 0, 0, 0])
    return torch.stack(forward), torch.stack(backward)


def test_factors_forward_and_backward():
    p = 0.7
    forward, backward = factors(p)
    left_alone = (backward == 1).all(1)
    assert ((backward == 1).any(1) == left_alone).all()  # b is one number for the minibatch
    assert (forward[left_alone] == 1).all()
    assert left_alone.float().mean() == pytest.approx(p, abs=4 * (p * (1 - p) / len(forward)) ** 0.5)
    alpha, beta = forward[~left_alone].flatten(), backward[~left_alone].flatten()
    for values, low, high in ((alpha, -1, 1), (beta, 0, 1)):
        assert low <= values.min() < low + 0.01
        assert high - 0.01 < values.max() <= high
        width = high - low
        standard_error = width / 12**0.5 / len(values) ** 0.5
        assert values.mean() == pytest.approx((low + high) / 2, abs=4 * standard_error)
        assert values.std() == pytest.approx(width / 12**0.5, rel=0.05)
    assert abs(torch.corrcoef(torch.stack([alpha, beta]))[0, 1]) < 4 / len(alpha) ** 0.5
    within, across = alpha.view(-1, 4)[:, 0], alpha.view(-1, 4)[:, 1]  # examples have factors of their own
    assert abs(torch.corrcoef(torch.stack([within, across]))[0, 1]) < 4 / len(within) ** 0.5


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_evaluation_is_the_expectation_of_training(p):
    forward, _ = factors(p, batches=2000, examples=8)
    x = torch.ones(1, 2, 3, 3)
    expected = ShakeDrop(p).eval()(x)
    assert expected.unique().item() == pytest.approx(p)
    assert forward.mean() == pytest.approx(p, abs=0.05)
    assert torch.equal(expected, ShakeDrop(p).eval()(x))


def test_shakedrop_keeps_precision_and_follows_the_global_seed():
    x = torch.randn(5, 2, 3, 3)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        assert ShakeDrop(0.5)(x.to(dtype)).dtype == dtype
    net = build("pyramidnet-14-6", in_channels=1, classes=3, image_size=8)

    def run(seed):
        torch.manual_seed(seed)
        return copy.deepcopy(net)(torch.ones(4, 1, 8, 8))

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_training_with_other_weights_and_autocast():
    torch.manual_seed(0)
    net = build("pyramidnet-14-6", in_channels=1, classes=3, image_size=8)
    x = torch.randn(4, 1, 8, 8)
    weights = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = torch.func.functional_call(net, weights, (x,))
    outputs.float().square().sum().backward()
    assert all(p.grad is None for p in net.parameters())
    assert all(w.grad.isfinite().all() and w.grad.abs().max() > 0 for w in weights.values())
    torch.manual_seed(1)
    torch.testing.assert_close(net(x), outputs.float(), rtol=0.1, atol=0.1)


def test_wrong_probability():
    with pytest.raises(ValueError, match=r"ShakeDrop: p must be in \[0, 1\], got 1.5"):
        ShakeDrop(1.5)
