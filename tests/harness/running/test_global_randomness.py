"""Global random numbers, of torch, NumPy and Python: whatever hook draws them, the same key has the same result."""

# ruff: noqa: NPY002 - the global generators are the subject

import random

import numpy as np
import pytest
import torch

from harness.parsing.plugins import available_methods
from harness.planning.plan import shape
from harness.running.execute import execute
from harness.running.settings import Settings
from harness.store.run_folder import RunFolder
from harness.studies.build_method import build_meta_method, make_method
from methods import METHODS
from methods.core.random_streams import all_seeded, stream

PLUGIN = """
import random
import numpy as np
import torch
from torch import nn
from methods import Method

DRAWS = [lambda: torch.rand(()).item(), np.random.rand, random.random]

class Draws(Method):
    'Draws from the global generators in one hook, and predicts by what it drew.'

    hook = ""

    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.register_buffer("drawn", torch.zeros(3))
        self.draw("construction")
        if self.hook == "construction":
            head = [name for name, layer in self.net.named_modules() if isinstance(layer, nn.Linear)][-1]
            old = self.net.get_submodule(head)
            self.net.set_submodule(head, nn.Linear(old.in_features, old.out_features))

    def draw(self, hook):
        if hook == self.hook:
            self.drawn += torch.tensor([draw() for draw in DRAWS]).to(self.drawn)

    def param_groups(self):
        scale = sum(draw() for draw in DRAWS) if self.hook == "param_groups" else 1.0
        return [self.group(self.named_parameters(), 0.0, scale)]

    def receive(self, states):
        self.draw("receive")

    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        self.draw("begin_epoch")

    def update(self, batches, optimizer):
        self.draw("update")
        return super().update(batches, optimizer)

    def end_epoch(self, epoch):
        self.draw("end_epoch")

    def watch(self, held_out, training):
        self.draw("watch")

    def prepare(self, batches):
        self.draw("prepare")

    def predict(self, x):
        self.draw("predict")
        return super().predict(x) + self.drawn

HOOKS = ["construction", "param_groups", "receive", "begin_epoch", "update", "end_epoch", "watch", "prepare", "predict"]
METHODS = {f"draws_in_{hook}": type(hook, (Draws,), {"hook": hook, "__doc__": hook}) for hook in HOOKS}
METHODS["draws_in_watch"].watches = "test"
"""
HOOKS = ["construction", "param_groups", "receive", "begin_epoch", "update", "end_epoch", "watch", "prepare", "predict"]


@pytest.fixture
def draws(tmp_path, make_run):
    """Return a function that makes a run of the plugin above, and the plugin."""
    path = tmp_path / "draws.py"
    path.write_text(PLUGIN)
    methods = available_methods([path])
    return lambda hook, seed=0: make_run(f"draws_in_{hook}", seed, methods, epochs=2), path


@pytest.mark.parametrize("hook", HOOKS)
def test_the_same_key_has_the_same_result_whatever_the_process_drew_before(hook, draws, tmp_path, read_result):
    make, plugin = draws
    results = []
    for i, seed in enumerate((0, 0, 1)):
        for seed_generator in (torch.manual_seed, np.random.seed, random.seed):
            seed_generator(i)
        run, settings = make(hook, seed), Settings(tmp_path / str(i), plugins=(plugin,))
        assert execute(run, settings, []) == ("finished", "")
        state = torch.load(RunFolder(settings.runs, run.key).checkpoint)["method"]
        results.append((read_result(settings.runs, run.key), state["drawn"].tolist()))
    assert results[0] == results[1]
    assert results[0][0]["predictions"] != results[2][0]["predictions"]
    if hook not in ("predict", "param_groups"):  # which save nothing of what they draw
        assert all(value > 0 for value in results[0][1]), "each of the three generators was drawn from"
        assert results[0][1] != results[2][1], "other seeds draw other numbers"


def test_the_generators_are_independent():
    """NumPy's and torch's are of one kind: seeded alike, they draw alike."""
    with all_seeded(stream(0, "any")):
        ours, theirs = torch.randint(2, (200,)), np.random.randint(2, size=200)
    assert 60 < (ours.numpy() == theirs).sum() < 140


def test_a_member_of_an_ensemble_draws_what_its_own_run_draws(draws, make_run):
    make, plugin = draws
    methods = available_methods([plugin])
    ensemble = make_run("deep_ensemble(draws_in_construction, K=2)", 1, methods)
    parts = make_method(ensemble, methods, shape(ensemble)).run_methods
    for seed, part in zip((2, 3), parts, strict=True):
        alone = make_method(make("construction", seed), methods, shape(ensemble))
        assert torch.equal(part.drawn, alone.drawn)
        assert all(torch.equal(p, q) for p, q in zip(part.parameters(), alone.parameters(), strict=True))


def test_building_a_method_moves_no_generator(make_run):
    def after(build):
        for seed_generator in (torch.manual_seed, np.random.seed, random.seed):
            seed_generator(5)
        build()
        return torch.rand(()).item(), np.random.rand(), random.random()

    run = make_run("late_phase_hypernet(K=2, start=1)")
    assert after(lambda: make_method(run, METHODS, shape(run))) == after(lambda: None)
    assert after(lambda: build_meta_method(run, METHODS, shape(run))) == after(lambda: None)
