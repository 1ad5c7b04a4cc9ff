"""Natural ways to write a method that give wrong numbers, and what the checks say of them."""

import re

import pytest

from harness.conformance.check_method import check_case
from harness.conformance.finding import failures
from harness.conformance.fresh_process import FreshProcess
from harness.conformance.small_run import Case, one_thread
from harness.parsing.method_expression import parse_method
from harness.parsing.plugins import available_methods
from tests.harness.conformance.more_traps import MORE
from tests.harness.conformance.traps import COMPOSED, HEAD, NOISE, TRAPS


@pytest.fixture
def check(tmp_path):
    def check(text, network="wrn-10-1", *, expression="trap", elsewhere=False):
        path = tmp_path / "trap.py"
        path.write_text(text)
        methods = available_methods([path])
        spec, errors = parse_method(expression, methods)
        assert not errors
        with one_thread():
            return check_case(
                Case(spec, methods, network), FreshProcess([path], "trap", network) if elsewhere else None
            )

    return check


QUICK = (
    "a counter of steps",
    "an unseeded generator of NumPy",
    "a network of its own beside",
    "noise of each rank",
    "a fitted number",
    "prediction in training mode",
    "parameters made late",
    "a preparation that trains",
)
"""Traps that the quick tests try: one for most of the checks."""


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in TRAPS]
)
def test_a_trap_is_found(name, check):
    body, kind, reason = TRAPS[name]
    network = "wrn-10-1" if kind == "costs" else "lenet5"
    row = check(HEAD.format(divisible=kind == "ranks") + body, network, elsewhere=kind == "process")
    found = [
        each for each in failures(row.findings) if each.check == kind and re.search(re.escape(reason), each.reason)
    ]
    assert found, row
    assert all(each.remedy for each in found)


@pytest.mark.long
@pytest.mark.parametrize("name", COMPOSED)
def test_a_trap_of_compositions_and_declarations_is_found(name, check):
    body, expression, kind, reason = COMPOSED[name]
    row = check(HEAD.format(divisible=False) + body, expression=expression)
    found = [each for each in failures(row.findings) if each.check == kind and reason in each.reason]
    assert found, row
    assert all(each.remedy for each in found)


@pytest.mark.long
@pytest.mark.parametrize("name", MORE)
def test_one_more_trap_is_found(name, check):
    body, expression, network, divisible, kind, reason = MORE[name]
    row = check(HEAD.format(divisible=divisible) + body, network, expression=expression)
    found = [each for each in failures(row.findings) if each.check == kind and reason in each.reason]
    assert found, row
    assert all(each.remedy for each in found)


WARNED = {
    "needs of the same seeds": (
        """
    def needs(self):
        return [Need(seed=5)]
    def receive(self, states):
        self.net.load_state_dict({n[4:]: v for n, v in states[0].items() if n.startswith("net.")})
""",
        "runs of different seeds start from the same runs",
    ),
    "a seed in construction": (
        """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        torch.manual_seed(0)
        self.scale = nn.Parameter(torch.rand(10))
    def predict_with(self, x, weights=None):
        return self.scale * super().predict_with(x, weights)
""",
        "scale begins with the same numbers whatever the seed",
    ),
    "a seed in each epoch": (
        """
    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        self.noise = torch.Generator().manual_seed(0)
"""
        + NOISE.format(noise="torch.randn(x.shape, generator=self.noise)"),
        "the generator noise gives the same numbers whatever the seed",
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", WARNED)
def test_what_does_not_follow_the_seed_is_warned_of(name, check):
    body, reason = WARNED[name]
    row = check(HEAD.format(divisible=False) + body, "lenet5")
    assert [each.reason for each in row.findings if each.level == "warning" and reason in each.reason]


HONEST = {
    "a logger": """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.log = logging.getLogger("mine")
""",
    "a hook of a layer": """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        layer = next(module for module in self.net.modules() if isinstance(module, nn.Linear))
        self.handle = layer.register_forward_pre_hook(lambda *_: None)
""",
    "a tensor in the extra state": """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.seen = torch.zeros(2)
    def get_extra_state(self):
        return super().get_extra_state() | {"seen": self.seen}
    def set_extra_state(self, state):
        super().set_extra_state(state)
        self.seen = state["seen"].clone()
    def end_epoch(self, epoch):
        super().end_epoch(epoch)
        self.seen = self.seen + 1
""",
    "a log of losses": """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.losses = []
    def update(self, batches, optimizer):
        loss = super().update(batches, optimizer)
        self.losses.append(loss.item())
        return loss
""",
}


@pytest.mark.long
@pytest.mark.parametrize("name", HONEST)
def test_what_changes_nothing_is_no_failure(name, check):
    row = check(HEAD.format(divisible=True) + HONEST[name], "lenet5")
    assert failures(row.findings) == []
    assert not row.refused


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


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
def test_a_generator_that_repeats_its_numbers_is_warned_of(check):
    body = NOISE.format(noise="torch.randn(x.shape, generator=self.generator('mix')).to(x)")
    row = check(HEAD.format(divisible=False) + body, "lenet5")
    (warning,) = [each for each in row.findings if each.level == "warning"]
    assert "generator('mix') is asked for more than once in an epoch" in warning.reason
    assert failures(row.findings) == []


@pytest.mark.long
def test_random_numbers_of_a_plugins_body_are_the_same_everywhere(check):
    row = check(
        "import torch\nDRAW = float(torch.rand(()))\n" + HEAD.format(divisible=False) + NOISE.format(noise="DRAW"),
        "lenet5",
        elsewhere=True,
    )
    assert failures(row.findings) == []


@pytest.mark.long
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


LATE_BUFFER = """
    def update(self, batches, optimizer):
        loss = super().update(batches, optimizer)
        self.register_buffer("seen", loss)
        return loss
"""


def test_what_is_made_late_is_said_once(check):
    """No checkpoint fits it, which ten other checks would say in their words."""
    row = check(HEAD.format(divisible=False) + LATE_BUFFER, "lenet5")
    assert [(found.check, found.reason) for found in failures(row.findings)] == [
        ("structure", "training adds ['seen'] and removes [] of the state")
    ]


TEACHER = """
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)
    def loss(self, x, y, weights=None):
        with torch.no_grad():
            target = self.teacher(x).softmax(-1)
        return super().loss(x, y, weights) + F.cross_entropy(self(x, weights), target)
"""


@pytest.mark.long
def test_passes_in_every_epoch_are_declared_by_it(check):
    row = check(HEAD.format(divisible=False) + TEACHER, "lenet5")
    assert any(found.remedy.startswith('set passes="1 * epochs"') for found in failures(row.findings)), row


DRAWN = """
    def __init__(self, make_net, recipe):
        super().__init__(make_net.replace(dropout=0.3), recipe)
    def predict_with(self, x, weights=None):
        for layer in self.net.modules():
            if isinstance(layer, nn.Dropout):
                layer.train()
        return super().predict_with(x, weights)
"""


@pytest.mark.long
def test_a_prediction_that_draws_random_numbers_is_noted(check):
    row = check(HEAD.format(divisible=False) + DRAWN, "lenet5")
    assert [found.remedy for found in row.findings if "draws random numbers" in found.reason] == [
        "nothing, if that is the method, as in MC dropout; otherwise leave its layers in evaluation mode"
    ]
