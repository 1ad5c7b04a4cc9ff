import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from methods import LatePhaseRank1, MakeNet, Recipe
from methods.core.layers import last_layer, weight_matrices
from models import build
from tests.models.networks import count


def make(symbols=5, units=7, **options):
    torch.manual_seed(0)
    net = build(f"lstm-{units}", classes=symbols, in_channels=None, image_size=None, **options)
    for p in net.parameters():
        nn.init.normal_(p, std=0.7)  # as drawn, everything is nearly linear
    return net


def text(rows=3, length=12, symbols=5, seed=1):
    return torch.randint(symbols, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_parameter_count_of_the_paper():
    with torch.device("meta"):
        net = build("lstm-500", classes=205, in_channels=None, image_size=None)
    assert count(net) == 1_556_730
    gates = 4 * 500 * (205 + 500 + 1)  # one bias a gate
    assert count(net) == 205 * 205 + gates + 500 * 205 + 205
    assert list(net.buffers()) == []


def test_initial_values():
    torch.manual_seed(0)
    net = build("lstm-100", classes=50, in_channels=None, image_size=None)
    for name, p in net.named_parameters():
        assert p.abs().max() <= 0.01, name
        assert p.std().item() == pytest.approx(0.01 / 3**0.5, rel=4 / p.numel() ** 0.5), name
        assert p.max() > 0.009, name


def naive(net, x):
    """Compute the logits from the definition, symbol by symbol and gate by gate, from a zero state: (B, C, T)."""
    w = {name: p.detach().double() for name, p in net.named_parameters()}
    units = w["lstm.weight_hh_l0"].shape[1]
    inputs, bias = w["lstm.weight_ih_l0"][:, :-1], w["lstm.weight_ih_l0"][:, -1]
    h = c = torch.zeros(len(x), units, dtype=torch.float64)
    logits = []
    for symbols in x.T:
        gates = w["embedding.weight"][symbols] @ inputs.T + h @ w["lstm.weight_hh_l0"].T + bias
        i, f, g, o = gates.split(units, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        logits.append(h @ w["head.weight"].T + w["head.bias"])
    return torch.stack(logits, dim=2)


def test_forward_from_the_definition():
    net, x = make(), text()
    logits = net.eval()(x)
    assert logits.shape == (3, 5, 12)
    torch.testing.assert_close(logits.double(), naive(net, x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(make().double().eval()(x), naive(make().double(), x))
    y = text(seed=2)
    loss = F.cross_entropy(logits, y)
    probabilities = torch.stack([logits[b, :, t].softmax(0)[y[b, t]] for b in range(3) for t in range(12)])
    torch.testing.assert_close(loss, -probabilities.log().mean())


def test_a_gradient_for_every_parameter():
    net, x = make(dropout=0.2), text()
    F.cross_entropy(net(x), text(seed=2)).backward()
    assert all(p.grad.abs().max() > 0 for p in net.parameters())
    bias = net.lstm.weight_ih_l0.grad[:, -1]
    assert (bias.abs() > 0).all()


def test_the_state_joins_minibatches_to_one_long_text():
    net, x = make(), text(length=30)
    net.train()
    pieces = torch.cat([net(part) for part in x.split([7, 11, 12], dim=1)], dim=2)
    torch.testing.assert_close(pieces, net.eval()(x))


def test_gradients_stop_at_the_minibatch():
    net, x = make(), text(length=10)
    net.train()(x[:, :6])
    h, c = net.state
    assert not h.requires_grad
    net(x[:, 6:]).square().sum().backward()
    carried = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    inputs = F.pad(net.embedding(x[:, 6:]), (0, 1), value=1.0)
    outputs, _ = net.lstm(inputs, (h, c))
    net.head(outputs).square().sum().backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, carried[name])


@pytest.mark.parametrize("forget", [lambda net: net.train(), lambda net: net.eval().train(), copy.deepcopy])
def test_the_state_is_discarded(forget):
    net, x = make(), text()
    first = net.train()(x)
    assert not torch.equal(net(x), first)
    assert torch.equal(forget(net)(x), first)


def test_a_method_around_the_network_discards_the_state():
    net, x = nn.ModuleDict({"net": make()}), text()
    first = net["net"](x)
    net.train()
    assert torch.equal(net["net"](x), first)


def test_evaluation_is_a_pure_function():
    net, x = make(), text()
    first = net.eval()(x)
    assert net.state is None
    assert torch.equal(net(x), first)
    torch.testing.assert_close(net(x[:1]), first[:1])
    net.train()(x)
    net.training = False  # as re-estimation of statistics does, which enters and leaves modes of its own
    assert torch.equal(net(x), first)


def test_the_state_is_not_in_the_state_dict():
    net = make()
    before = net.state_dict()
    net.train()(text())
    assert net.state_dict().keys() == before.keys()
    assert net.state is not None
    assert copy.deepcopy(net).state is None
    assert net.state is not None


def test_another_number_of_rows():
    net = make().train()
    net(text(rows=4))
    with pytest.raises(ValueError, match="a state of 4 rows from the last minibatch, but this one has 3"):
        net(text(rows=3))
    net.train()(text(rows=3))


def test_other_weights_share_the_state():
    net, other, x = make(), make(), text(length=10)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.3)
    net(x[:, :4])
    other.state = net.state
    logits = torch.func.functional_call(net, dict(other.named_parameters()), (x[:, 4:],))
    assert torch.equal(logits, other(x[:, 4:]))
    assert torch.equal(net.state[1], other.state[1])
    assert torch.equal(net.train()(x), make()(x))  # its own weights are back


def runs_in_bfloat16():
    """Whether torch's own LSTM layer runs under autocast: with oneDNN it needs AVX-512."""
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            nn.LSTM(3, 2)(torch.zeros(1, 1, 3))
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("onednn", [True, False])
def test_autocast(onednn, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", onednn)
    if onednn and not runs_in_bfloat16():
        pytest.skip("torch has no bfloat16 LSTM in oneDNN on this CPU")
    net, x = make(units=32), text(rows=8, length=40)
    exact = net.train()(x)
    net.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = [net(part) for part in x.split(20, dim=1)]
    rough = torch.cat(parts, dim=2).float()
    assert (rough - exact).abs().max() > 0
    assert (rough - exact).norm() < 0.05 * exact.norm()
    full = net(x[:, :20])  # from a state that autocast left in its own precision
    assert full.dtype == torch.float32


def test_dropout_stands_before_the_head():
    net, plain, x = make(dropout=0.5), make(), text(rows=20)
    assert net.state_dict().keys() == plain.state_dict().keys()
    assert [module.p for module in net.modules() if isinstance(module, nn.Dropout)] == [0.5]
    assert not any(isinstance(module, nn.Dropout) for module in plain.modules())
    seen = []
    net.head.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    net.train()(x)
    assert (seen[0] == 0).float().mean() == pytest.approx(0.5, abs=0.05)
    assert torch.equal(net.eval()(x), plain.eval()(x))


def test_layers_that_methods_look_for():
    net = make()
    assert last_layer(net) == "head"
    assert weight_matrices(net, recurrent=True) == ["lstm.weight_hh_l0"]
    assert weight_matrices(net) == ["lstm.weight_ih_l0", "lstm.weight_hh_l0", "head.weight"]


def test_wrong_numbers():
    with pytest.raises(ValueError, match="lstm-0: the number of units must be at least 1"):
        build("lstm-0", classes=5, in_channels=None, image_size=None)
    with pytest.raises(ValueError, match="lstm-3: classes must be at least 1, got 0"):
        build("lstm-3", classes=0, in_channels=None, image_size=None)


def test_rank_one_factors_of_its_recurrent_matrix():
    """The late-phase rank-one method multiplies only the state-to-state matrix: W ∘ u vᵀ."""
    size = {"classes": 5, "in_channels": None, "image_size": None}
    method = LatePhaseRank1(MakeNet(partial(build, "lstm-7", **size), 0), Recipe(epochs=2), K=2, start=1)
    assert method.matrices == ["lstm.weight_hh_l0"]
    x = text(length=6)
    (u, v), plain = (p.detach() for p in method.factors[0].parameters()), copy.deepcopy(method.net)
    with torch.no_grad():
        plain.lstm.weight_hh_l0.mul_(torch.outer(u, v))
    method.train()
    plain.train()
    for part in x.split(3, dim=1):
        torch.testing.assert_close(method(part, method.own_weights()), plain(part))
