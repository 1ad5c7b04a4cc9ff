"""What makes training fast on a GPU, and that it computes the same there. None of this runs without one."""

from contextlib import contextmanager
from functools import partial
from itertools import chain

import pytest
import torch

import models
from harness.compilation import compile_forward, own_gradients
from harness.optimizers import make_optimizer
from harness.precision import use_bfloat16
from harness.train import grouped
from methods import METHODS, MakeNet, Method, Recipe
from tests.conftest import SETTINGS, build, separable

pytestmark = pytest.mark.gpu
RECIPE = Recipe(epochs=4, lr=0.05)
TRAINED = [name for name in METHODS if name != "deep_ensemble"]
LATE = {"K": 4, "start": 0, "sigma0": 0.3}


@contextmanager
def no_waiting():
    """An operation that waits for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def on_gpu(make, architecture, mode="off", dtype=torch.float64, *, half=False):
    """A method on a network for pictures of 16 pixels, in training."""

    def network(**options):
        net = models.build(architecture, in_channels=3, classes=5, image_size=16, **options)
        net = net.to(memory_format=torch.channels_last)
        if mode != "off":
            compile_forward(net, mode)
        if half:
            use_bfloat16(net, "cuda")
        return net

    method = make(MakeNet(network, seed=0), RECIPE).to("cuda", dtype)
    if mode == "reduce-overhead":
        own_gradients(method)
    method.begin_epoch(0)
    return method.train()


def minibatches(count, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count * 32, 3, 16, 16, generator=generator, dtype=dtype)
    y = torch.randint(5, (count * 32,), generator=generator)
    return [
        (a.cuda().contiguous(memory_format=torch.channels_last), b.cuda())
        for a, b in zip(x.split(32), y.split(32), strict=True)
    ]


def compare(one, other, tolerance):
    for (key, p), (_, q) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        if isinstance(p, torch.Tensor):
            torch.testing.assert_close(q, p, rtol=tolerance, atol=tolerance, msg=lambda m, n=key: f"{n}: {m}")


@pytest.mark.parametrize("fuse_up_to", [0, 16], ids=["", "fused"])
@pytest.mark.parametrize("name", TRAINED)
def test_updates_do_not_wait_for_the_device(name, fuse_up_to, monkeypatch):
    monkeypatch.setattr(Method, "fuse_up_to", fuse_up_to)
    method = build(partial(METHODS[name], **SETTINGS.get(name, {})), RECIPE).cuda()
    optimizer = make_optimizer(method, RECIPE)
    x, y = (t.cuda() for t in separable(7 * 16))
    batches = list(zip(x.split(16), y.split(16), strict=True))
    for epoch in range(RECIPE.epochs):
        method.begin_epoch(epoch)
        method.train()
        orders = [batches] * method.data_orders()
        groups = list(grouped(chain.from_iterable(zip(*orders, strict=True)), method.batches_per_update))
        method.update(groups[0], optimizer)  # which may make what it needs once
        with no_waiting():
            for group in groups[1:]:
                method.update(group, optimizer)
        method.end_epoch(epoch)


@pytest.mark.parametrize("architecture", ["lenet5", "cresnet20"])
@pytest.mark.parametrize(
    "name", ["late_phase_bn", "late_phase_last_layer", "late_phase_rank1", "gradient_accumulation"]
)
def test_a_fused_cycle_is_the_cycle(name, architecture):
    given = {key: value for key, value in LATE.items() if name != "gradient_accumulation" or key != "sigma0"}
    one, other = (on_gpu(partial(METHODS[name], **given), architecture) for _ in range(2))
    other.fuse_up_to = 32
    losses = [method.update(minibatches(4), make_optimizer(method, RECIPE)) for method in (one, other)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=1e-9)
    compare(one, other, 1e-9)


def test_members_predict_in_one_pass_what_they_predict_one_by_one():
    method = on_gpu(partial(METHODS["late_phase_bn"], **LATE, prediction="members"), "cresnet20").eval()
    x = minibatches(1)[0][0]
    with torch.no_grad():
        expected = method.predict(x)
        method.fuse_up_to = 32
        torch.testing.assert_close(method.predict(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize(
    ("name", "given"), [("sgd", {}), ("late_phase_bn", LATE), ("batch_ensemble", {"K": 2}), ("line", {})]
)
def test_compiled_steps_are_the_plain_steps(name, given, mode):
    make = partial(METHODS[name], **given)
    one, other = (on_gpu(make, "lenet5", compiled, torch.float32) for compiled in ("off", mode))
    for method in (one, other):
        optimizer = make_optimizer(method, RECIPE)
        size = method.batches_per_update()
        batches = minibatches(4, torch.float32)
        for i in range(0, 4, size):
            method.update(batches[i : i + size], optimizer)
    compare(one, other, 1e-3)


@pytest.mark.parametrize("name", ["late_phase_bn", "late_phase_last_layer", "late_phase_rank1"])
def test_a_fused_cycle_in_bfloat16_is_as_near_to_float32_as_the_cycle(name):
    """Running statistics and losses, after one cycle from the same weights."""
    make = partial(METHODS[name], **LATE)
    exact, one, fused = (on_gpu(make, "cresnet20", dtype=torch.float32, half=half) for half in (False, True, True))
    fused.fuse_up_to = 32
    for method in (exact, one, fused):
        method.update(minibatches(4, torch.float32), make_optimizer(method, RECIPE))

    def distance(method):
        pairs = zip(method.named_buffers(), exact.buffers(), strict=True)
        return max(((a - b).norm() / b.norm()).item() for (key, a), b in pairs if "running" in key)

    assert distance(fused) < 2 * distance(one)
