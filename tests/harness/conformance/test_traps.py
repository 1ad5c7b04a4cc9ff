"""Natural ways to write a method that give wrong numbers, and what the checks say of them."""

import re

import pytest

from harness.conformance.check_method import check_case
from harness.conformance.finding import failures
from harness.conformance.fresh_process import FreshProcess
from harness.conformance.small_run import Case, one_thread
from harness.parsing.method_expression import parse_method
from harness.parsing.plugins import available_methods

HEAD = """
import copy, random, time
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from optuna.distributions import FloatDistribution
from methods import *
from methods.core.declarations import PLAIN_TRUNK, Sharing, Trunk

class Trap(Method):
    '''A trap.'''
    divisible = {divisible}
"""

NOISE = """
    def loss(self, x, y, weights=None):
        return super().loss(x + 0.1 * {noise}, y, weights)
"""

TRAPS = {
    "a counter of steps": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.steps = 0
        for i, p in enumerate(self.net.parameters()):
            self.register_buffer(f"slow_{i}", p.detach().clone())
    def update(self, batches, optimizer):
        loss = super().update(batches, optimizer)
        self.steps += 1
        if self.steps % 7 == 0:
            with torch.no_grad():
                for i, p in enumerate(self.net.parameters()):
                    p.copy_(self.get_buffer(f"slow_{i}").lerp_(p, 0.5))
        return loss
""",
        "resume",
        "steps",
    ),
    "a counter that matters late": (
        """
    steps = 0
    def update(self, batches, optimizer):
        self.steps += 1
        if self.steps > 1000:
            self.net.requires_grad_(False)
        return super().update(batches, optimizer)
""",
        "resume",
        "steps",
    ),
    "a list of tensors": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.slow = [p.detach().clone() for p in self.net.parameters()]
    def end_epoch(self, epoch):
        with torch.no_grad():
            for slow, p in zip(self.slow, self.net.parameters()):
                p.copy_(slow.lerp_(p, 0.5))
""",
        "resume",
        "resumed after epoch",
    ),
    "a generator for all epochs": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.noise = self.generator("noise")
"""
        + NOISE.format(noise="torch.randn(x.shape, generator=self.noise)"),
        "resume",
        "noise",
    ),
    "an unseeded generator of NumPy": (
        """
    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        self.noise = np.random.default_rng()
"""
        + NOISE.format(noise="float(self.noise.normal())"),
        "seed",
        "two trainings with one seed differ",
    ),
    "the clock": (NOISE.format(noise="(time.time_ns() % 1000 / 1000)"), "seed", "two trainings with one seed differ"),
    "the hash of a string, which decides the order of sets": (
        NOISE.format(noise="(hash('alpha') % 1000 / 1000)"),
        "process",
        "another process gets other bits",
    ),
    "a network of its own beside": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.big = nn.Sequential(nn.Conv2d(1, 64, 3), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(1024, 10))
    def forward(self, x, weights=None):
        return super().forward(x, weights) + self.big(x)
""",
        "costs",
        "of the operations of `predict` happen outside",
    ),
    "work of its own in training": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.kernel = nn.Parameter(0.1 * torch.randn(64, 1, 3, 3))
        self.mixing = nn.Parameter(0.1 * torch.randn(64, 64, 3, 3))
    def loss(self, x, y, weights=None):
        return super().loss(x, y, weights) + F.conv2d(F.conv2d(x, self.kernel), self.mixing).square().mean()
""",
        "costs",
        "of the operations of `update` happen outside",
    ),
    "two passes that it does not declare": (
        """
    def loss(self, x, y, weights=None):
        return super().loss(x, y, weights) + super().loss(x.flip(-1), y, weights)
""",
        "costs",
        "about declares training = 1, and 2 is counted",
    ),
    "noise of each rank": (
        """
    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        self.noise = self.generator("noise")
"""
        + NOISE.format(noise="torch.randn(x.shape, generator=self.noise).to(x)"),
        "ranks",
        "two ranks with half a minibatch",
    ),
    "examples that are compared": (
        """
    def loss(self, x, y, weights=None):
        logits = self(x, weights)
        return self.recipe.criterion(logits, y) + logits.var(0).mean()
""",
        "ranks",
        "two ranks with half a minibatch",
    ),
    "a fitted number": (
        """
    T = 1.0
    def prepare(self, batches):
        super().prepare(batches)
        self.T = float(sum(self(x).std() for x, _ in batches))
    def predict_with(self, x, weights=None):
        return super().predict_with(x, weights) / self.T
""",
        "prepare",
        "loaded into a new instance, predicts otherwise",
    ),
    "prediction in training mode": (
        """
    def predict(self, x):
        self.train()
        try:
            return super().predict(x)
        finally:
            self.eval()
""",
        "predict",
        "depends on the other examples of its batch",
    ),
    "logits of one member": (
        """
    def predict(self, x):
        return self(x)
""",
        "predict",
        "its shape is",
    ),
    "a prediction that writes": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.register_buffer("asked", torch.zeros(()))
    def predict(self, x):
        self.asked += 1
        return super().predict(x) / self.asked
""",
        "predict",
        "a second prediction differs",
    ),
    "parameters made late": (
        """
    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        if epoch == 4:
            self.extra = nn.Parameter(torch.zeros(3))
""",
        "structure",
        "extra",
    ),
    "modules in a list": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.others = [make_net(), make_net()]
""",
        "state",
        "others keeps parameters in a plain container",
    ),
    "a default outside of the range": (
        """
    space = {"alpha": FloatDistribution(0.5, 1.0)}
    def __init__(self, make_net, recipe, *, alpha: float = 0.1):
        super().__init__(make_net, recipe)
""",
        "space",
        "alpha=0.1",
    ),
    "a range of nothing": (
        """
    space = {"beta": FloatDistribution(0.5, 1.0)}
""",
        "space",
        "'beta' is no hyperparameter",
    ),
    "a preparation that trains": (
        """
    def prepare(self, batches):
        with torch.no_grad():
            for p in self.net.parameters():
                p.mul_(0.5)
""",
        "prepare",
        "changes the parameter",
    ),
    "a rate that counts": (
        """
    asked = 0
    def lr(self, epoch):
        self.asked += 1
        return 0.02 / self.asked
""",
        "lr",
        "another rate",
    ),
    "a step of its own that ranks do not see": (
        """
    def update(self, batches, optimizer):
        loss = self.loss(*batches[0])
        loss.backward()
        with torch.no_grad():
            for p in self.net.parameters():
                p -= 0.01 * p.grad
                p.grad = None
        return loss.detach()
""",
        "ranks",
        "two ranks with half a minibatch",
    ),
    "a loss after the step": (
        """
    def update(self, batches, optimizer):
        loss = super().update(batches, optimizer)
        with torch.no_grad():
            after = self.loss(*batches[0])
            for p in self.net.parameters():
                p.mul_(1 - 0.01 * after)
        return loss
""",
        "ranks",
        "two ranks with half a minibatch",
    ),
    "a trunk that it does not train": (
        """
    sharing = Sharing(lambda method: Trunk(PLAIN_TRUNK, 3))
    def loss(self, x, y, weights=None):
        return 2 * super().loss(x, y, weights)
""",
        "sharing",
        "forked from plain training after 3 epochs",
    ),
    "a prediction with weights that is never asked for": (
        """
    pass
class Trap(BatchEnsemble):
    '''A trap.'''
    def predict_with(self, x, weights=None):
        return super().predict_with(x, weights) / 2
METHODS = {"trap": Trap}
""",
        "hooks",
        "overrides `predict_with`, and its `predict` never calls it",
    ),
    "statistics that nobody refreshes": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.slow = NamedBuffers(self.own_weights().items())
    @torch.no_grad()
    def end_epoch(self, epoch):
        for name, p in self.net.named_parameters():
            self.slow.named()[name].lerp_(p, 0.5)
    def members(self):
        return [self.slow.named()]
""",
        "members",
        "still has the running statistics it began with",
    ),
    "a wrapper that ends no epoch of the inner method": (
        """
    pass
class Trap(Wrapper):
    '''A trap.'''
    def __init__(self, make_net, recipe, *, of: MakeMethod = SGD):
        super().__init__(make_net, recipe, of)
    def end_epoch(self, epoch):
        pass
METHODS = {"trap": Trap}
""",
        "hooks",
        "never calls `end_epoch` of the method inside",
    ),
    "a receive that takes nothing": (
        """
    def needs(self):
        return [Need(seed=5)]
    def receive(self, states):
        self.net.load_state_dict(states[0], strict=False)
""",
        "receive",
        "changes nothing",
    ),
    "a counter in an object": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.state = type("State", (), {})()
        self.state.steps = 0
    def update(self, batches, optimizer):
        self.state.steps += 1
        return super().update(batches, optimizer)
""",
        "resume",
        "the attribute state",
    ),
    "parameters of no group": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.scale = torch.ones((), requires_grad=True)
    def forward(self, x, weights=None):
        return self.scale * super().forward(x, weights)
    def param_groups(self):
        return [self.group([("scale", self.scale), *self.net.named_parameters()], 0.0)]
""",
        "param_groups",
        "are not parameters of the method",
    ),
}


@pytest.fixture
def check(tmp_path):
    def check(text, network="wrn-10-1", *, elsewhere=False):
        path = tmp_path / "trap.py"
        path.write_text(text)
        methods = available_methods([path])
        spec, errors = parse_method("trap", methods)
        assert not errors
        with one_thread():
            return check_case(
                Case(spec, methods, network), FreshProcess([path], "trap", network) if elsewhere else None
            )

    return check


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_is_found(name, check):
    body, kind, reason = TRAPS[name]
    network = "wrn-10-1" if kind == "costs" else "lenet5"
    row = check(HEAD.format(divisible=kind == "ranks") + body, network, elsewhere=kind == "process")
    found = [
        each for each in failures(row.findings) if each.check == kind and re.search(re.escape(reason), each.reason)
    ]
    assert found, row
    assert all(each.remedy for each in found)


def test_without_a_trap_nothing_is_found(check):
    row = check(HEAD.format(divisible=True) + "    pass", elsewhere=True)
    assert (row.findings, row.refused) == ([], "")


def test_a_network_that_make_net_did_not_draw_is_refused(check):
    body = """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.Flatten(), nn.Linear(16 * 36, 10))
"""
    assert "is not a network that make_net drew" in check(HEAD.format(divisible=False) + body).refused


def test_a_new_layer_with_default_initialisation_is_seeded(check):
    body = """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        name = last_layer(self.net)
        old = self.net.get_submodule(name)
        self.net.set_submodule(name, nn.Linear(old.in_features, old.out_features))
"""
    row = check(HEAD.format(divisible=True) + body, "lenet5", elsewhere=True)
    assert [(each.level, each.check) for each in row.findings] == [("note", "seed")]
    assert not row.refused


def test_an_error_names_the_line(check):
    body = """
    def end_epoch(self, epoch):
        return [][0]
"""
    (finding,) = check(HEAD.format(divisible=False) + body).findings
    assert "IndexError" in finding.reason
    assert "trap.py, line" in finding.reason


def test_a_gradient_by_the_inputs_is_no_failure(check):
    body = """
    about = About("adversarial training", "Goodfellow et al. 2015", training="2")
    def update(self, batches, optimizer):
        ((x, y),) = batches
        x = x.clone().requires_grad_()
        (by_x,) = torch.autograd.grad(self.loss(x, y), x)
        return super().update([((x + 0.1 * by_x.sign()).detach(), y)], optimizer)
"""
    row = check(HEAD.format(divisible=False) + body)
    assert failures(row.findings) == []
    assert not row.refused


@pytest.mark.parametrize("hook", ["loss(self, x, y, weights=None)", "predict_with(self, x, weights=None)"])
def test_an_override_of_a_wrapper_that_is_never_called_is_refused(hook, check):
    body = f"""
    pass
class Trap(Wrapper):
    '''A trap.'''
    def __init__(self, make_net, recipe, *, of: MakeMethod = SGD):
        super().__init__(make_net, recipe, of)
    def {hook}:
        return 0
METHODS = {{"trap": Trap}}
"""
    assert "would never be called" in check(HEAD.format(divisible=False) + body).refused


def test_a_bug_is_no_refusal(check):
    body = """
    def loss(self, x, y, weights=None):
        return self.recipe.criterion(self(x, weights), y[:3])
"""
    (finding,) = failures(check(HEAD.format(divisible=False) + body).findings)
    assert "ValueError" in finding.reason


def test_a_generator_that_repeats_its_numbers_is_warned_of(check):
    body = NOISE.format(noise="torch.randn(x.shape, generator=self.generator('mix')).to(x)")
    row = check(HEAD.format(divisible=False) + body, "lenet5")
    (warning,) = [each for each in row.findings if each.level == "warning"]
    assert "generator('mix') is asked for more than once in an epoch" in warning.reason
    assert failures(row.findings) == []


def test_random_numbers_of_a_plugins_body_are_the_same_everywhere(check):
    row = check(
        "import torch\nDRAW = float(torch.rand(()))\n" + HEAD.format(divisible=False) + NOISE.format(noise="DRAW"),
        "lenet5",
        elsewhere=True,
    )
    assert failures(row.findings) == []


def test_a_wrapper_may_take_the_step_itself(check):
    body = """
    pass
class Trap(Wrapper):
    '''Steps along the gradient's direction.'''
    def __init__(self, make_net, recipe, *, of: MakeMethod = SGD):
        super().__init__(make_net, recipe, of)
    def update(self, batches, optimizer):
        optimizer.zero_grad()
        loss = self.inner.loss(*batches[0])
        loss.backward()
        nn.utils.clip_grad_norm_(self.inner.net.parameters(), 1.0)
        optimizer.step()
        return loss.detach()
METHODS = {"trap": Trap}
"""
    row = check(HEAD.format(divisible=False) + body, "lenet5")
    assert failures(row.findings) == []
    assert not row.refused
