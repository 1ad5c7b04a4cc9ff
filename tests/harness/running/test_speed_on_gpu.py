"""What makes training fast on a GPU, and that it computes the same there. None of this runs without one."""

from contextlib import contextmanager
from functools import partial
from itertools import chain

import pytest
import torch
from torch._dynamo.utils import counters

import models
from harness.running.compilation import clone_gradients, compile_forward
from harness.running.optimizers import make_optimizer
from harness.running.precision import use_bfloat16
from harness.running.training_loop import group_batches
from methods import METHODS, MakeNet, Method, Recipe
from tests.conftest import SETTINGS, build, separable

pytestmark = pytest.mark.gpu
RECIPE = Recipe(epochs=4, lr=0.05)
TRAINED = [name for name in METHODS if name != "deep_ensemble"]
K, B = 4, 32
LATE = {"K": K, "start": 0, "sigma0": 0.3}
RECORDED = "cudagraph_recorded_non_static_inputs"
"""What torch counts wherever it records a CUDA graph: at least a minibatch, or the gradient of its logits."""


@contextmanager
def no_waiting():
    """An operation that waits for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def on_gpu(make, architecture, mode="off", dtype=torch.float64, *, half=False):
    """A method on a network for images of 16 pixels, in training."""

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
        clone_gradients(method)
    method.begin_epoch(0)
    return method.train()


def minibatches(count, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count * B, 3, 16, 16, generator=generator, dtype=dtype)
    y = torch.randint(5, (count * B,), generator=generator)
    return [
        (a.cuda().contiguous(memory_format=torch.channels_last), b.cuda())
        for a, b in zip(x.split(B), y.split(B), strict=True)
    ]


def counting_forwards(method):
    """How many examples each forward pass of the network has from now on."""
    sizes = []
    method.net.register_forward_pre_hook(lambda net, arguments: sizes.append(len(arguments[0])))
    return sizes


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
        groups = list(group_batches(chain.from_iterable(zip(*orders, strict=True)), method.batches_per_update))
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
    other.fuse_up_to = B
    sizes = [counting_forwards(method) for method in (one, other)]
    losses = [method.update(minibatches(K), make_optimizer(method, RECIPE)) for method in (one, other)]
    assert sizes == [[B] * K, [K * B]]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=1e-9)
    compare(one, other, 1e-9)


def test_members_predict_in_one_pass_what_they_predict_one_by_one():
    method = on_gpu(partial(METHODS["late_phase_bn"], **LATE, prediction="members"), "cresnet20").eval()
    x = minibatches(1)[0][0]
    with torch.no_grad():
        expected = method.predict(x)
        method.fuse_up_to = B
        sizes = counting_forwards(method)
        torch.testing.assert_close(method.predict(x), expected, rtol=1e-9, atol=1e-9)
    assert sizes == [K * B]


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize(
    ("name", "given", "fuse_up_to"),
    [
        ("sgd", {}, 0),
        ("late_phase_bn", LATE, 0),
        ("late_phase_bn", LATE, B),
        ("batch_ensemble", {"K": 2}, 0),
        ("line", {}, 0),
    ],
    ids=["sgd", "late_phase_bn", "late_phase_bn fused", "batch_ensemble", "line"],
)
def test_compiled_steps_are_the_plain_steps(name, given, fuse_up_to, mode):
    """Each update from the same state; enough of them that each member's CUDA graph is recorded and replayed."""
    torch.compiler.reset()
    counters.clear()
    one, other = (on_gpu(partial(METHODS[name], **given), "lenet5", compiled) for compiled in ("off", mode))
    optimizers = [make_optimizer(method, RECIPE) for method in (one, other)]
    for method in (one, other):
        method.fuse_up_to = fuse_up_to
    for seed in range(5):
        before = counters["inductor"][RECORDED]
        batches = minibatches(one.batches_per_update(), seed=seed)
        other.load_state_dict(one.state_dict())  # so that rounding of one update does not grow in the next
        losses = [method.update(batches, optimizer) for method, optimizer in zip((one, other), optimizers, strict=True)]
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-9, atol=1e-9)
        compare(one, other, 1e-9)
    assert counters["stats"]["unique_graphs"], "compiled"
    if mode == "reduce-overhead":
        assert counters["inductor"][RECORDED], "recorded"
        # A line's weights are made anew at each update. torch takes what a module holds to stay where it is, and
        # records another graph wherever it does not; whether it does is up to the allocator.
        if name != "line":
            assert counters["inductor"][RECORDED] == before, "replayed by the last update"


@pytest.mark.parametrize("name", ["late_phase_bn", "late_phase_last_layer", "late_phase_rank1"])
def test_a_fused_cycle_in_bfloat16_is_as_near_to_float32_as_the_cycle(name):
    """Running statistics, gradients and the loss of a cycle, from the same weights."""
    make = partial(METHODS[name], **LATE)
    exact, one, fused = (on_gpu(make, "cresnet20", dtype=torch.float32, half=half) for half in (False, True, True))
    fused.fuse_up_to = B
    sizes = counting_forwards(fused)
    moved = "late." if exact.own_statistics else "net."

    def cycle(method):
        loss = method.update(minibatches(K, torch.float32), make_optimizer(method, RECIPE))
        statistics = [b for key, b in method.named_buffers() if "running" in key and key.startswith(moved)]
        gradients = [p.grad.flatten() for p in method.parameters() if p.grad is not None]
        return loss, statistics, torch.cat(gradients)

    loss, statistics, gradients = cycle(exact)
    distances = []
    for method in (one, fused):
        found = cycle(method)
        torch.testing.assert_close(found[0], loss, rtol=0.01, atol=0)
        farthest = torch.stack(list(map(distance, found[1], statistics))).max()  # NaN if one is
        distances.append((farthest.item(), distance(found[2], gradients).item()))
    assert sizes == [K * B]
    assert all(far < 2 * plain for plain, far in zip(*distances, strict=True)), distances


def distance(found, exact):
    return (found - exact).norm() / exact.norm()
