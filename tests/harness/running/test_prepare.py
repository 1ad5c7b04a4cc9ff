"""How a run calls `prepare`: in evaluation mode, without gradients, and for methods that train nothing too."""

import pytest
import torch

from harness.parsing.plugins import available_methods
from harness.running.execute import execute
from harness.running.settings import Settings
from harness.store.run_folder import RunFolder

PLUGIN = """
import torch
from methods import DeepEnsemble, Method

class Seen:
    def see(self, batches):
        examples = sum(len(self(x)) for x, _ in batches)
        self.seen += torch.tensor([self.training, torch.is_grad_enabled(), examples]).to(self.seen)

class Passes(Seen, Method):
    'Runs the network over the data, as an estimate of features would.'

    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.register_buffer("seen", torch.zeros(3))

    def prepare(self, batches):
        super().prepare(batches)
        self.see(batches)

class Untrained(Passes):
    'Trains nothing.'
    epochs = 0

METHODS = {"passes": Passes, "untrained": Untrained}
"""


@pytest.fixture
def finished(tmp_path, make_run):
    """Return a function that trains a method of the plugin, or of ours, and returns its state."""
    path = tmp_path / "passes.py"
    path.write_text(PLUGIN)
    methods = available_methods([path])

    def run(method, **changes):
        spec = make_run(method, 0, methods, epochs=2).model_copy(update=changes)
        settings = Settings(tmp_path / "runs", plugins=(path,))
        assert execute(spec, settings, []) == ("finished", "")
        return torch.load(RunFolder(settings.runs, spec.key).checkpoint)["method"]

    return run


@pytest.mark.parametrize("method", ["passes", "untrained"])
def test_it_is_called_in_evaluation_mode_without_gradients(finished, method):
    assert finished(method)["seen"].tolist() == [0, 0, 60]


def test_a_pass_over_the_data_moves_no_running_statistics(finished):
    plain, passes = (finished(method, architecture="wrn-10-1") for method in ("sgd", "passes"))
    names = [name for name in plain if "running" in name or "num_batches" in name]
    assert names
    assert all(torch.equal(plain[name], passes[name]) for name in names)


HELD_OUT = """
import torch
from methods import SGD, Method, Wrapper

class Scaled(Wrapper):
    'Counts the held-out examples when it prepares, and divides by their number.'
    watches = "validation"
    divisible = True

    def __init__(self, make_net, recipe, *, of=SGD):
        super().__init__(make_net, recipe, of)
        self.register_buffer("examples", torch.zeros(()))

    def prepare(self, batches):
        super().prepare(batches)
        self.examples += sum(len(self.inner.predict(x)[0]) for x, _ in batches.held_out)

    def predict(self, x):
        return super().predict(x) / self.examples

class Unasked(Method):
    'Reads held-out data without saying so.'
    def prepare(self, batches):
        list(batches.held_out)

METHODS = {"scaled": Scaled, "unasked": Unasked}
"""


@pytest.fixture
def held_out(tmp_path, make_run):
    """Return a function that trains a method of this plugin: its outcome and its state."""
    path = tmp_path / "held_out.py"
    path.write_text(HELD_OUT)
    methods = available_methods([path])

    def run(method, **changes):
        spec = make_run(method, 0, methods, epochs=2)
        held_out = {"dataset": spec.dataset.model_copy(update={"validation": 20})}
        spec = spec.model_copy(update=held_out | changes)
        settings = Settings(tmp_path / "runs", plugins=(path,))
        outcome = execute(spec, settings, [])
        folder = RunFolder(settings.runs, spec.key)
        return outcome, torch.load(folder.checkpoint)["method"] if folder.finished else {}

    return run


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("scaled", "examples"),
        ("scaled(late_phase_bn(K=2, start=0.5))", "examples"),
        ("swa(scaled)", "average.examples"),
    ],
)
def test_a_method_that_watches_held_out_data_prepares_with_them(held_out, method, name):
    outcome, state = held_out(method, architecture="wrn-10-1")
    assert outcome == ("finished", "")
    assert state[name] == 20


def test_held_out_data_that_were_not_asked_for_are_refused(held_out):
    outcome, _ = held_out("unasked")
    assert outcome.state == "failed"
    assert 'watches = "validation"' in outcome.reason
