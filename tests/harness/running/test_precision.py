"""bfloat16 inside a network, float32 outside."""

import copy
import json

import pytest
import torch
from torch import nn

from harness.running.execute import execute
from harness.running.precision import use_bfloat16
from harness.running.settings import Settings
from harness.store.run_folder import RunFolder
from tests.conftest import separable


class TypeRecorder(nn.Module):
    """A layer that records the type it computes in."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.types = []

    def forward(self, x):
        y = self.linear(x)
        self.types.append(y.dtype)
        if x.isnan().any():
            raise ValueError("nan")
        return y


def test_inside_bfloat16_outside_float32():
    net = TypeRecorder()
    use_bfloat16(net, "cpu")
    x = torch.randn(4, 8)
    y = net(x)
    assert net.types == [torch.bfloat16]
    assert (y.dtype, net.linear.weight.dtype) == (torch.float32, torch.float32)
    assert not torch.is_autocast_enabled("cpu")
    expected = nn.functional.linear(x.bfloat16(), net.linear.weight.bfloat16(), net.linear.bias.bfloat16()).float()
    assert torch.equal(y, expected)
    y.sum().backward()
    assert net.linear.weight.grad.dtype == torch.float32


def test_the_next_forward_uses_the_weights_after_a_step():
    """Autocast around a whole update would use the old cast of the weight."""
    net = TypeRecorder()
    use_bfloat16(net, "cpu")
    x = torch.randn(4, 8)
    first = net(x)
    with torch.no_grad():
        net.linear.weight.zero_()
        net.linear.bias.zero_()
    assert not torch.equal(net(x), first)
    assert torch.equal(net(x), torch.zeros(4, 8))


def test_autocast_is_left_after_an_error():
    net = TypeRecorder()
    use_bfloat16(net, "cpu")
    with pytest.raises(ValueError, match="nan"):
        net(torch.full((1, 8), float("nan")))
    assert not torch.is_autocast_enabled("cpu")
    net(torch.zeros(1, 8))
    assert not torch.is_autocast_enabled("cpu")


def test_a_copied_network_has_hooks_of_its_own():
    net = TypeRecorder()
    use_bfloat16(net, "cpu")
    other = copy.deepcopy(net)
    x = torch.randn(4, 8)
    assert torch.equal(net(x), other(x))
    assert other.types == [torch.bfloat16]
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("method", ["sgd", "swa(late_phase_bn(K=2, start=1), start=2)", "deep_ensemble(K=1)"])
def test_a_run_in_bfloat16_has_another_key(make_run, tmp_path, method):
    if method.startswith("deep"):
        part = make_run("sgd", run={"precision": "bfloat16"})
        needed = [part.key]
        assert execute(part, Settings(tmp_path), []).state == "finished"
    else:
        needed = []
    run = make_run(method, run={"precision": "bfloat16"})
    assert execute(run, Settings(tmp_path), needed) == ("finished", "")
    assert run.key != make_run(method).key
    state = torch.load(RunFolder(tmp_path, run.key).checkpoint)["method"]
    assert {v.dtype for v in state.values() if isinstance(v, torch.Tensor) and v.is_floating_point()} == {torch.float32}
    result = json.loads(RunFolder(tmp_path, run.key).result.read_text())
    assert result["spec"]["precision"] == "bfloat16"


class Recurrent(nn.Module):
    """A convolution, a recurrent layer that reads rows, and a classifier."""

    def __init__(self, kind):
        super().__init__()
        self.conv = nn.Conv1d(6, 6, 3, padding=1)
        self.layer = getattr(nn, kind)(6, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        y = self.conv(x.flatten(1, 2).mT).mT  # bfloat16
        states, _ = self.layer(y)
        return self.head(states[:, -1])


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_compute_in_float32(kind):
    """cuDNN's would compute in float16, and those of a CPU cannot at all."""
    net = Recurrent(kind)
    use_bfloat16(net, "cpu")
    x, y = separable(16)
    for _ in range(2):
        logits = net(x)
    assert logits.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")
    nn.functional.cross_entropy(logits, y).backward()
    gradients = [p.grad for p in net.layer.parameters()]
    assert all(g.dtype == torch.float32 and g.isfinite().all() and g.any() for g in gradients)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden, _ = net.layer(net.conv(x.flatten(1, 2).mT).mT)
        assert hidden.dtype == torch.float32
        assert net.head(hidden).dtype == torch.bfloat16


@pytest.mark.parametrize("method", ["sgd", "late_phase_rank1(K=2, start=1, prediction=members)"])
def test_a_language_model_in_bfloat16(tmp_path, write_study, run_study, method):
    (tmp_path / "t.txt").write_text("the quick brown fox jumps over the lazy dog. " * 30)
    dataset = {"name": f"text:{tmp_path / 't.txt'}", "segment": 12, "validation": 60}
    recipe = {"epochs": 2, "batch_size": 16, "lr": 0.05}
    options = {"datasets": [dataset], "architectures": ["lstm-8"], "precision": "bfloat16", "recipe": recipe}
    done = run_study(write_study(tmp_path / "s.yaml", methods=[method], **options), tmp_path / "runs")
    assert done.schedule.failed == {}
