"""Networks of one's own: with tied weights, BatchNorm without running statistics, and layers that are never used."""

from functools import partial

import pytest
import torch
from torch import nn

from methods import METHODS, MakeNet
from methods.core.layers import find_tied_weights
from methods.core.member_average import average_members
from tests.conftest import SETTINGS, TinyNet, separable
from tests.methods.training import trained_on

MAKERS = {name: partial(make, **SETTINGS.get(name, {})) for name, make in METHODS.items() if name != "deep_ensemble"}


class TiedNet(TinyNet):
    """Two hidden layers that have one weight."""

    def __init__(self, dropout=0.0):
        super().__init__(dropout)
        self.one, self.two = nn.Linear(36, 36), nn.Linear(36, 36)
        self.two.weight = self.one.weight
        self.head = self._modules.pop("head")  # stays the last layer

    def forward(self, x):
        x = nn.functional.max_pool2d(self.norm(self.conv(x)).relu(), 2).flatten(1)
        return self.head(self.dropout(self.two(self.one(x).relu())))


class TiedConvolutions(TinyNet):
    """Two convolutions that have one kernel."""

    def __init__(self, dropout=0.0):
        super().__init__(dropout)
        self.one, self.two = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.two.weight = self.one.weight
        self.head = self._modules.pop("head")

    def forward(self, x):
        x = self.two(self.one(self.norm(self.conv(x)).relu()).relu())
        return self.head(self.dropout(nn.functional.max_pool2d(x, 2)).flatten(1))


class SharedLayer(TinyNet):
    """One layer that stands at two places."""

    def __init__(self, dropout=0.0):
        super().__init__(dropout)
        self.one = self.two = nn.Linear(36, 36)
        self.head = self._modules.pop("head")

    def forward(self, x):
        x = nn.functional.max_pool2d(self.norm(self.conv(x)).relu(), 2).flatten(1)
        return self.head(self.dropout(self.two(self.one(x).relu())))


class NoStatistics(TinyNet):
    """BatchNorm that normalises by the batch in prediction too."""

    def __init__(self, dropout=0.0):
        super().__init__(dropout)
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)


class UnusedLayers(TinyNet):
    """A convolution and BatchNorm that nothing runs through."""

    def __init__(self, dropout=0.0):
        super().__init__(dropout)
        self.spare_conv, self.spare_norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.head = self._modules.pop("head")  # stays the last layer


REFUSED = {"rank1", "late_phase_rank1", "batch_ensemble", "late_phase_full", "late_independent", "branched"}
"""Methods that give each layer, or each member's layers, something of their own."""
GENERATING = {"late_phase_hypernet", "hypernet_ensemble"}


def check_tied(method, net):
    """What members predict is what the network predicts that holds their weights, tied."""
    x = separable(7, seed=5)[0]
    with torch.no_grad():
        for weights in method.members():
            other = net().eval()
            names = {name for names in find_tied_weights(other) for name in names}
            given = [weights[name] for name in sorted(names) if name in weights]
            state = {name: value for name, value in weights.items() if name not in names}
            other.load_state_dict({**state, **dict.fromkeys(names, given[0])})
            torch.testing.assert_close(method.predict_with(x, weights)[-1], other(x))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("net", [TiedNet, TiedConvolutions])
def test_tied_weights_stay_tied_or_are_refused(name, net, recipe, batches):
    if name in REFUSED or (name in GENERATING and net is TiedConvolutions):
        with pytest.raises(ValueError, match="one.weight and two.weight apart, which are one weight"):
            MAKERS[name](MakeNet(net, seed=0), recipe)
        return
    method = trained_on(net, MAKERS[name], recipe, batches)
    assert method.net.one.weight is method.net.two.weight
    check_tied(method, net)


def test_a_line_between_tied_networks_trains_both_places(recipe, batches):
    """Before, the second layer ran with the weights of the first end, whatever the point."""
    method = trained_on(TiedNet, METHODS["line"], recipe, batches)
    (midpoint,) = method.members()
    ends = [net.one.weight for net in (method.net, *method.others)]
    torch.testing.assert_close(midpoint["one.weight"], (ends[0] + ends[1]) / 2)
    seen = {}
    for layer in ("one", "two"):
        module = method.net.get_submodule(layer)
        module.register_forward_pre_hook(lambda m, _, layer=layer: seen.__setitem__(layer, m.weight.clone()))
    with torch.no_grad():
        method.predict(separable(5)[0])
    assert torch.equal(seen["one"], seen["two"])
    assert torch.equal(seen["one"], midpoint["one.weight"])


@pytest.mark.parametrize("name", MAKERS)
def test_a_layer_at_two_places(name, recipe, batches):
    method = trained_on(SharedLayer, MAKERS[name], recipe, batches)
    assert method.predict(separable(5)[0]).isfinite().all()


@pytest.mark.parametrize("name", MAKERS)
def test_batch_norm_without_running_statistics(name, recipe, batches):
    if name in ("late_phase_bn", "hypernet_ensemble"):  # members have statistics of their own
        with pytest.raises(ValueError, match="architecture with BatchNorm layers"):
            MAKERS[name](MakeNet(NoStatistics, seed=0), recipe)
        return
    method = trained_on(NoStatistics, MAKERS[name], recipe, batches)
    with torch.no_grad():
        assert method.predict(separable(9, seed=5)[0]).isfinite().all()
        assert not method.predict(separable(9, seed=5)[0])[:, :4].equal(method.predict(separable(4, seed=5)[0]))


@pytest.mark.parametrize("statistics", ["average", "reestimate_members"])
def test_statistics_that_no_member_has_are_refused(statistics, recipe):
    with pytest.raises(ValueError, match="members have no BatchNorm statistics of their own"):
        METHODS["late_phase_full"](MakeNet(NoStatistics, seed=0), recipe, K=2, start=3, statistics=statistics)


def test_the_average_of_layers_without_statistics_is_that_of_their_weights():
    nets = [NoStatistics() for _ in range(2)]
    for value, net in enumerate(nets):
        net.norm.weight.data.fill_(value)
    average = average_members([dict(net.named_parameters()) for net in nets], nets[0])
    assert torch.equal(average["norm.weight"], torch.full((4,), 0.5))


@pytest.mark.parametrize("name", MAKERS)
def test_layers_that_are_never_used(name, recipe, batches):
    method = trained_on(UnusedLayers, MAKERS[name], recipe, batches)
    with torch.no_grad():
        assert method.predict(separable(9, seed=5)[0]).isfinite().all()


def test_layers_that_share_statistics_are_refused():
    """Their mean would be written twice; an average and its statistics know one name only."""

    class SharedStatistics(TinyNet):
        def __init__(self, dropout=0.0):
            super().__init__(dropout)
            self.other = nn.BatchNorm2d(4)
            self.other.running_mean = self.norm.running_mean

    with pytest.raises(ValueError, match=r"norm\.running_mean and other\.running_mean are one buffer; use one layer"):
        MakeNet(SharedStatistics, 0)()


def test_layers_may_share_a_constant():
    class SharedMask(TinyNet):
        def __init__(self, dropout=0.0):
            super().__init__(dropout)
            self.register_buffer("mask", torch.ones(3))
            self.head.register_buffer("mask", self.mask)

    assert MakeNet(SharedMask, 0)().mask.sum() == 3


@pytest.mark.parametrize("kind", ["computed", "frozen"])
@pytest.mark.parametrize("name", ["late_phase_hypernet", "hypernet_ensemble"])
def test_a_hypernetwork_generates_no_kernel_that_is_computed_or_frozen(name, kind, recipe):
    def make_net(dropout=0.0):
        net = TinyNet(dropout)
        if kind == "computed":
            nn.utils.parametrizations.weight_norm(net.conv)
        else:
            net.conv.requires_grad_(False)
        return net

    with pytest.raises(ValueError, match="that of conv is computed from others"):
        MAKERS[name](MakeNet(make_net, 0), recipe)
