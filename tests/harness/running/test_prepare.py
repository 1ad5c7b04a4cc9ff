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
