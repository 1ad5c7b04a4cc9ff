"""Late-phase methods with members fused into one batch against members run one by one."""

import sys
from functools import partial

import pytest
import torch
from torch import nn

import models
from harness.running.optimizers import make_optimizer
from methods import METHODS, SWA, LatePhaseBatchNorm, LatePhaseRank1, MakeNet, Recipe
from methods.core.batch_norm import batch_norms
from methods.core.fused_members import (
    MemberBatchedNorm,
    member_forward,
)
from methods.core.late_phase import LatePhase
from methods.core.method import prepare_for_prediction
from methods.core.wrapper import methods_within

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
SIDE = 8


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


@pytest.fixture(params=["a kernel a group", pytest.param("few kernels", marks=pytest.mark.long)])
def kernels(request, monkeypatch):
    """Each of the two ways of BatchNorm by group, of which the second is that of GPUs."""
    if request.param == "few kernels":
        monkeypatch.setattr(
            "methods.core.late_phase.member_forward",
            lambda layers: (
                MemberBatchedNorm(layers)
                if isinstance(layers[0], nn.modules.batchnorm._BatchNorm)
                else member_forward(layers)
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
        prepare_for_prediction(method, minibatches(2))
        return method

    fused, one_by_one = build(B), build(0)
    x = minibatches(1)[0][0]
    with torch.no_grad():
        assert_close(fused.predict(x), one_by_one.predict(x), "prediction")


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
    member_forwards = LatePhase.member_forwards


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
