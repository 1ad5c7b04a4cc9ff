"""Runs that have ended free their memory at once, without Python's collector of garbage, in every engine."""

import gc
import weakref

import pytest

from harness.engines import Inline, Processes, Ray
from harness.engines.ray_cluster import Cluster
from harness.running import lifecycle
from harness.running.execute import execute
from harness.running.settings import Settings

PLUGIN = """
import gc, weakref
from methods import Method
gc.disable()
ALIVE = weakref.WeakSet()

class Counting(Method):
    'Writes at its beginning how many of its kind are alive in its process.'
    def __init__(self, make_net, recipe, *, box: str = ""):
        super().__init__(make_net, recipe)
        self.box = box
        ALIVE.add(self)
    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        if epoch == 0:
            with open(self.box, "a") as file:
                file.write(f"{sum(not next(method.parameters()).is_meta for method in ALIVE)} ")

METHODS = {"counting": Counting}
"""


@pytest.fixture
def without_collector():
    """Only what refers to itself stays, until the end of the test."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def made(monkeypatch):
    """Weak references to the methods and optimizers of all runs of this process."""
    found = []
    real = lifecycle.set_up_method

    def remember(*arguments):
        setup = real(*arguments)
        found.extend(weakref.ref(part) for part in (setup.method, setup.method.net, setup.optimizer))
        return setup

    monkeypatch.setattr(lifecycle, "set_up_method", remember)
    return found


@pytest.mark.parametrize(
    "method",
    [
        "sgd",
        "swa(mc_dropout(K=2), start=1)",
        "swag(start=1, N=2, rank=2)",
        "late_phase_full(K=2, start=1, member_momentum=copy)",
        "late_phase_bn(K=2, start=1, member_optimizer=adam)",
        "hypernet_ensemble(K=2, start=1)",
        "batch_ensemble(K=2)",
        "line",
    ],
)
@pytest.mark.parametrize("settings", [{}, {"fuse": "always"}], ids=["as it is", "fused"])
def test_a_run_leaves_nothing(make_run, tmp_path, made, without_collector, method, settings):
    asked = {"evaluate": {"each_epoch": ["test"], "training_loss": True}, "precision": "bfloat16"}
    run = make_run(method, run=asked)
    assert execute(run, Settings(tmp_path, **settings), []).state == "finished"
    assert len(made) == 3
    assert [part() for part in made] == [None] * 3


def test_a_run_that_diverges_leaves_nothing(make_run, tmp_path, made, without_collector):
    assert execute(make_run("sgd", lr=1e30), Settings(tmp_path), []).state == "diverged"
    assert [part() for part in made] == [None] * 3


@pytest.mark.long
def test_a_compiled_run_leaves_no_network(make_run, tmp_path, made, without_collector):
    assert (
        execute(make_run("late_phase_bn(K=2, start=1)"), Settings(tmp_path, compile="default"), []).state == "finished"
    )
    assert [part() for part in made] == [None] * 3


@pytest.mark.parametrize(
    "engine",
    [
        Inline(1),
        pytest.param(Processes(1, 1), marks=pytest.mark.long),
        pytest.param(Ray(1, 1, Cluster(None, 1.0, 0.0)), marks=pytest.mark.long),
    ],
    ids=["inline", "processes", "ray"],
)
def test_no_run_meets_an_earlier_one(tmp_path, write_study, run_study, without_collector, engine):
    (tmp_path / "counting.py").write_text(PLUGIN)
    methods = [f"counting(box={str(tmp_path / 'box')!r})"]
    study = write_study(tmp_path / "s.yaml", methods=methods, seeds=[0, 1, 2])
    done = run_study(study, tmp_path / "runs", engine, plugins=[tmp_path / "counting.py"])
    assert done.schedule.failed == {}
    assert (tmp_path / "box").read_text().split() == ["1", "1", "1"]
