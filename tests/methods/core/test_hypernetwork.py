"""Hypernetworks against the papers' tables, NumPy and naive loops."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import models
from harness.running.optimizers import make_optimizer
from methods import SGD, HypernetEnsemble, LatePhaseHypernet, MakeNet, Recipe
from methods.core.batch_norm import reestimate
from methods.core.hypernetwork import group_layers
from tests.conftest import TinyNet, build, separable
from tests.methods.training import assert_close, finish, train_epochs

pytestmark = pytest.mark.usefixtures("fuse_up_to")

LARGE = Recipe(epochs=200)


def build_meta(architecture, make=HypernetEnsemble, classes=10, **hyperparameters):
    """A large method without memory."""
    with torch.device("meta"):
        build_net = partial(models.build, architecture, in_channels=3, classes=classes, image_size=32)
        return make(MakeNet(build_net, 0), LARGE, **hyperparameters)


def size(module):
    return sum(p.numel() for p in module.parameters())


def test_shapes_are_those_of_table_s1():
    """Hypernetworks (out, k, k, in) and their embedding size by group, and how many of their chunks make a kernel."""
    method = build_meta("wrn-28-10")
    found = [(group.shape, group.D, list(group.chunks.values())) for group in method.groups]
    assert found == [
        ((16, 3, 3, 3), 10, [1]),
        ((160, 3, 3, 16), 7, [1]),
        ((160, 3, 3, 80), 14, [2] * 7),
        ((160, 1, 1, 16), 7, [1]),
        ((320, 3, 3, 160), 14, [1] + [2] * 7),
        ((320, 1, 1, 160), 7, [1]),
        ((640, 3, 3, 320), 14, [1] + [2] * 7),
        ((640, 1, 1, 320), 7, [1]),
    ]
    assert [tuple(theta.shape) for theta in method.theta] == [(D, *shape) for shape, D, _ in found]
    shapes = [tuple(e.shape) for e in method.factors.parameters()]
    chunks = [(D, c) for _, D, chunks in found for c in chunks]
    assert shapes == chunks


def test_parameters_are_counted_as_in_table_s1():
    method = build_meta("wrn-28-10")
    assert size(method.factors) == 654
    assert size(method.late[0]) == 654 + 17_952 + 6_410 == 25_016
    plain = sum(p.numel() for part in method.plain_parts() for p in part.parameters())
    assert size(method) - 10 * size(method.late[0]) - plain == 35_844_320
    weights = method.own_weights()
    trained = [weights[name] for name in weights if "running" not in name and "num_batches" not in name]
    assert sum(p.numel() for p in trained) == 36_479_194, "the network they make is a plain WRN-28-10"


def test_the_small_version_has_15_6_million_parameters():
    assert size(build_meta("wrn-28-10", D=6, D_irregular=4).theta) == 15_645_920


@pytest.mark.parametrize("architecture", ["cresnet20", "lenet5", "wrn-10-1", "wrn-16-4"])
def test_any_convolutional_network_is_generated(architecture):
    method = build_meta(architecture)
    net = models.build(architecture, in_channels=3, classes=10, image_size=32)
    assert {n: t.shape for n, t in method.own_weights().items()} == {n: t.shape for n, t in net.state_dict().items()}
    for embedding in method.factors:
        assert min(embedding.e.shape) >= 1


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121", "resnext50_32x4d", "mobilenet_v2", "vgg16"])
def test_hypernetworks_are_about_as_large_as_what_they_make(name):
    """Bottlenecks, grouped and depthwise convolutions, layers that are alone with their shape."""
    with torch.device("meta"):
        net = getattr(torchvision.models, name)()
    kernels = {n: tuple(layer.weight.shape) for n, layer in net.named_modules() if isinstance(layer, nn.Conv2d)}
    groups = group_layers(kernels, None, None)
    made = {
        n: (*group.shape[:1], chunks * group.shape[-1], *group.shape[1:-1])
        for group in groups
        for n, chunks in group.chunks.items()
    }
    assert made == kernels
    assert sum(group.D * math.prod(group.shape) for group in groups) < 1.1 * sum(map(math.prod, kernels.values()))


def test_kernels_are_embeddings_times_hypernetwork():
    """W[o, i] = Σ_d e[d, chunk] θ[d, o, …, i − chunk·width], by loops."""
    torch.manual_seed(0)
    make_net = MakeNet(partial(models.build, "wrn-10-1", in_channels=1, classes=3, image_size=8), 0)
    method = HypernetEnsemble(make_net, Recipe(epochs=5))
    weights = {name: value.detach().numpy() for name, value in method.generate(list(method.factors)).items()}
    factors = iter(method.factors)
    for group, theta in zip(method.groups, method.theta, strict=True):
        templates = theta.detach().numpy()
        for name, chunks in group.chunks.items():
            e = next(factors).e.detach().numpy()
            parts = [sum(e[d, c] * templates[d] for d in range(group.D)) for c in range(chunks)]
            expected = np.concatenate([np.moveaxis(part, -1, 1) for part in parts], axis=1)
            np.testing.assert_allclose(weights[f"{name}.weight"], expected, rtol=1e-4, atol=1e-6)


def test_embeddings_are_orthogonal_and_kernels_start_at_kaiming_scale():
    make_net = MakeNet(partial(models.build, "wrn-16-4", in_channels=3, classes=10, image_size=32), 0)
    method = HypernetEnsemble(make_net, Recipe(epochs=5))
    factors = iter(method.factors)
    for group in method.groups:
        vectors = torch.cat([next(factors).e for _ in group.chunks], dim=1).T.detach()  # (chunks, D)
        gram = vectors @ vectors.T if len(vectors) <= group.D else vectors.T @ vectors * group.D / len(vectors)
        torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-5, rtol=0)
        assert vectors.square().sum(1).mean().item() == pytest.approx(1.0)
    weight = method.own_weights()["blocks.3.conv2.weight"]
    assert weight.shape == (128, 128, 3, 3)
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.1)


@pytest.mark.parametrize(("D", "D_irregular"), [(6, 4), (3, 2), (40, 40)])
def test_small_hypernetworks_start_at_kaiming_scale_too(D, D_irregular):
    """With fewer dimensions than embeddings, as in Tables S10 and S11, kernels began at 0.62 of this."""
    make_net = MakeNet(partial(models.build, "wrn-16-4", in_channels=3, classes=10, image_size=32), 0)
    method = HypernetEnsemble(make_net, Recipe(epochs=5), D=D, D_irregular=D_irregular)
    kernels = {name: w for name, w in method.own_weights().items() if w.ndim == 4}
    energy = sum(w.square().sum().item() for w in kernels.values())
    kaiming = sum(w.numel() * 2 / w[0].numel() for w in kernels.values())
    assert energy == pytest.approx(kaiming, rel=0.1)


def test_embeddings_are_not_decayed(recipe):
    recipe = recipe.model_copy(update={"weight_decay": 0.25})
    method = build(HypernetEnsemble, recipe, K=2, start=0)
    decays = {name: group["weight_decay"] for group in method.param_groups() for name, _ in group["params"]}
    embeddings = {name for name in decays if name.endswith(".e")}
    assert embeddings == {"factors.0.e", "late.0.2.e", "late.1.2.e"}
    assert all((decay == 0.0) == (name in embeddings) for name, decay in decays.items())


def test_specialists_begin_around_the_base(recipe, batches):
    """Embeddings and BatchNorm are perturbed by σ times their root mean square; last layers are drawn afresh."""
    make_net = MakeNet(partial(models.build, "wrn-16-4", in_channels=1, classes=3, image_size=8), 0)
    method = HypernetEnsemble(make_net, Recipe(epochs=5), K=2, start=1, sigma0=0.25)
    method.begin_epoch(1)
    for k in range(2):
        changes, heads = [], []
        for part, plain in zip(method.own_parts(k), method.plain_parts(), strict=True):
            for p, p0 in zip(part.parameters(), plain.parameters(), strict=True):
                if isinstance(part, nn.Linear):
                    heads.append(p.detach().flatten())
                elif p0.abs().sum():
                    changes.append(((p - p0) / p0.square().mean().sqrt()).detach().flatten())
        assert torch.cat(changes).std().item() == pytest.approx(0.25, rel=0.05)
        bound = 1 / 256**0.5  # torch's default for a linear layer of 256 inputs: uniform in ± 1/√in
        assert heads[0].abs().max() <= bound
        assert heads[0].std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert not torch.equal(method.late_weights(0)["fc.weight"], method.late_weights(1)["fc.weight"])
    copied = build(HypernetEnsemble, recipe, K=2, start=1, sigma0=0.0, head_init="copy")
    copied.begin_epoch(1)
    assert torch.equal(copied.late_weights(1)["head.weight"], copied.net.head.weight)


@pytest.mark.parametrize("nested", [True, False])
def test_training_is_algorithm_1_or_one_random_specialist_a_minibatch(nested, batches):
    """In float64, with an optimizer for each specialist and one for what they share."""
    batches = [(x.double(), y) for x, y in batches]
    recipe = Recipe(epochs=3, lr=0.02, weight_decay=1e-2)
    method = build(HypernetEnsemble, recipe, K=3, start=0, nested=nested, sigma0=0.3).double()
    reference = build(HypernetEnsemble, recipe, K=3, start=0, nested=nested, sigma0=0.3).double()
    reference.begin_epoch(0)

    def update(parameters, decay=1e-2):
        return torch.optim.SGD(parameters, lr=0.02, momentum=0.9, nesterov=True, weight_decay=decay)

    shared = list(reference.theta.parameters())
    own = [[p for p in part.parameters() if p.requires_grad] for part in reference.late]
    steps = [
        [update([p for p in parameters if p.ndim != 2 or p.shape[1] != 1]), update(parameters[-1:], 0.0)]
        for parameters in own
    ]
    step_shared = update(shared)
    reference.train()
    used = []
    sums = [torch.zeros_like(p) for p in shared]
    for epoch in range(3):
        reference.epoch = epoch
        turns = reference.generator("specialist")
        for x, y in batches:
            k = len(used) % 3 if nested else int(torch.randint(3, (), generator=turns))
            used.append(k)
            loss = nn.functional.cross_entropy(reference(x, reference.late_weights(k)), y)
            found = torch.autograd.grad(loss, [*shared, *own[k]])
            sums = [total + g for total, g in zip(sums, found, strict=False)]
            for p, g in zip(own[k], found[len(shared) :], strict=True):
                p.grad = g
            for step in steps[k]:
                step.step()
            if not nested or len(used) % 3 == 0:
                for p, total in zip(shared, sums, strict=True):
                    p.grad = total
                step_shared.step()
                sums = [torch.zeros_like(p) for p in shared]
    train_epochs(method, make_optimizer(method, recipe), batches)
    assert set(used) == {0, 1, 2}
    for name, value in reference.state_dict().items():
        if isinstance(value, torch.Tensor) and name.startswith(("theta", "late")):
            torch.testing.assert_close(method.state_dict()[name], value, rtol=1e-9, atol=1e-11, msg=name)


def test_the_average_network_has_the_mean_embeddings(recipe, batches):
    """Linear hypernetworks: the mean of the kernels is the kernel of the mean embedding; one network of plain size."""
    method = build(LatePhaseHypernet, recipe, K=3, start=2, sigma0=0.3)
    train_epochs(method, make_optimizer(method, recipe), batches)
    finish(method, batches)
    (weights,) = method.members()
    mean = torch.stack([method.own_parts(k)[1].e for k in range(3)]).mean(0)
    method.factors[0].e.data.copy_(mean)
    torch.testing.assert_close(weights["conv.weight"], method.generate(list(method.factors))["conv.weight"])
    plain = TinyNet()
    plain.load_state_dict(weights)
    x, _ = separable(9, 3)
    with torch.no_grad():
        torch.testing.assert_close(method.predict(x)[0], plain.eval()(x))


@pytest.mark.parametrize(
    ("shared", "late"),
    [
        ([], ["norm", "head", "e"]),
        (["embeddings"], ["norm", "head"]),
        (["embeddings", "batch_norm"], ["head"]),
        (["batch_norm", "last_layer"], ["e"]),
    ],
)
def test_ablations_share_the_rest(shared, late, recipe, batches):
    """LL + BN and LL (Tables S12 and S13): one set of embeddings, trained with the shared weights."""
    method = build(HypernetEnsemble, recipe, K=3, start=2, **dict.fromkeys(shared, "shared"))
    assert method.names + (["e"] if method.late_factors else []) == late
    optimizer = make_optimizer(method, recipe)
    train_epochs(method, optimizer, batches, last=2)
    before = method.factors[0].e.detach().clone()
    train_epochs(method, optimizer, batches, first=2)
    assert torch.equal(method.factors[0].e, before) == ("embeddings" not in shared)
    finish(method, batches)
    kernels = {weights["conv.weight"].detach().numpy().tobytes() for weights in method.members()}
    assert len(kernels) == (1 if "embeddings" in shared else 3)


def test_shared_statistics_are_re_estimated_in_rotation(recipe, batches):
    """One pass, a specialist a minibatch; specialists with their own take a pass each."""
    for batch_norm, passes in (("shared", 1), ("own", 3)):
        method = build(HypernetEnsemble, recipe, K=3, start=2, batch_norm=batch_norm)
        train_epochs(method, make_optimizer(method, recipe), batches)
        method.statistics_stale = True
        seen = []
        method.net.register_forward_pre_hook(lambda net, args, seen=seen: seen.append(len(args[0])))
        finish(method, batches)
        assert sum(seen) == passes * sum(len(x) for x, _ in batches)
        if passes == 3:
            continue
        weighted = torch.zeros(4)
        net = TinyNet().train()
        for i, (x, _) in enumerate(batches):
            net.load_state_dict({name: value.detach() for name, value in method.member(i % 3).items()})
            with torch.no_grad():
                weighted += len(x) * net.conv(x).mean((0, 2, 3))
        torch.testing.assert_close(method.net.norm.running_mean, weighted / sum(seen), rtol=1e-4, atol=1e-5)


def test_one_specialist_throughout_has_no_late_phase(recipe, batches):
    method = build(HypernetEnsemble, recipe, start=None)
    assert len(method.late) == 0
    losses = train_epochs(method, make_optimizer(method, recipe), batches)
    finish(method, batches)
    assert losses[-1] < losses[0]
    assert method.predict(separable(5)[0]).shape == (1, 5, 3)


def test_what_cannot_be_generated_is_refused(recipe):
    with pytest.raises(ValueError, match="needs an architecture with convolutions"):
        HypernetEnsemble(MakeNet(lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), 0), recipe)
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ValueError, match="own BatchNorm only in an architecture with BatchNorm"):
        HypernetEnsemble(MakeNet(lambda: plain, 0), recipe)
    for hyperparameters in ({"leftover": "step"}, {"gamma_theta": "1/K"}):
        with pytest.raises(ValueError, match="apply to cycles, and nested=False has none"):
            build(HypernetEnsemble, recipe, nested=False, **hyperparameters)
    with pytest.raises(ValueError, match="are one and the same"):
        build(HypernetEnsemble, recipe, embeddings="shared", batch_norm="shared", last_layer="shared")


def test_statistics_of_each_specialist_after_averaging(recipe, batches):
    method = build(HypernetEnsemble, recipe, K=2, start=2)
    train_epochs(method, make_optimizer(method, recipe), batches)
    method.statistics_stale = True
    finish(method, batches)
    for weights in method.members():
        net = TinyNet()
        net.load_state_dict({name: value.detach() for name, value in weights.items()})
        plain = SGD(MakeNet(lambda net=net: net, 0), recipe)
        reestimate(plain, batches)
        assert_close(plain.own_weights(), {name: value.detach() for name, value in weights.items()}, 1e-5)


def test_fresh_heads_have_no_momentum_to_copy(recipe, batches):
    """The other weights of a member go on with that of the base."""
    method = build(HypernetEnsemble, recipe, K=3, start=2, member_momentum="copy")
    optimizer = make_optimizer(method, recipe)
    train_epochs(method, optimizer, batches, last=2)
    method.begin_epoch(2)
    method.update(batches[:1], optimizer)
    norm, head, embedding = method.own_parts(1)  # which was not used yet
    assert torch.equal(
        optimizer.state[norm.weight]["momentum_buffer"], optimizer.state[method.net.norm.weight]["momentum_buffer"]
    )
    assert embedding.e in optimizer.state
    assert head.weight not in optimizer.state
