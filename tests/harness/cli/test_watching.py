"""Methods that watch held-out data: what they are shown, what it costs, and that a choice on test data is marked."""

import json
import re
from typing import ClassVar

import numpy as np
import pytest
import torch

import methods
from harness.parsing.yaml_errors import StudyError
from harness.running.execute import execute
from harness.running.settings import Settings
from harness.store.run_folder import RunFolder
from harness.studies.run import DatasetSpec
from harness.studies.study import load, with_digest
from methods import Method
from methods.core.random_streams import stream
from tests.harness.conftest import N_TEST, N_TRAIN, RECIPE

EPOCHS, HELD_OUT = RECIPE["epochs"], 9


class Watching(Method):
    """Keeps the score of every epoch, and remembers what it is shown."""

    shown: ClassVar[list[dict]] = []

    def __init__(self, make_net, recipe, *, at: str = "validation"):
        super().__init__(make_net, recipe)
        self.watches = at
        self.register_buffer("scores", torch.zeros(recipe.epochs))

    @torch.no_grad()
    def watch(self, held_out, training):
        batches, passes = list(held_out), [list(training), list(training)]
        self.shown.append({"epoch": self.epoch, "held_out": batches, "passes": passes})
        self.eval()
        self.scores[self.epoch] = torch.cat([self(x) for x, _ in batches]).sum()
        self.train()


@pytest.fixture
def make(monkeypatch, make_run, npz):
    monkeypatch.setitem(methods.METHODS, "watching", Watching)
    monkeypatch.setattr(Watching, "shown", [])

    def make(method, validation=HELD_OUT, **changes):
        dataset = with_digest(DatasetSpec(name=f"npz:{npz}", validation=validation))
        return make_run(method, **changes).model_copy(update={"dataset": dataset})

    return make


def normalised(images, train):
    """What a network is given, as NumPy would make it."""
    pixels = train / 255
    return ((images / 255 - pixels.mean()) / pixels.std()).astype(np.float32)[:, None]


@pytest.mark.parametrize("at", ["validation", "test"])
def test_it_sees_the_held_out_data_after_every_epoch(make, npz, tmp_path, at):
    run = make(f"watching(at={at})")
    assert execute(run, Settings(tmp_path), []) == ("finished", "")
    assert [shown["epoch"] for shown in Watching.shown] == list(range(EPOCHS))
    with np.load(npz) as arrays:
        kept, test = arrays["x_train"][: N_TRAIN - HELD_OUT], (arrays["x_test"], arrays["y_test"])
        validation = arrays["x_train"][-HELD_OUT:], arrays["y_train"][-HELD_OUT:]
    images, labels = test if at == "test" else validation
    for shown in Watching.shown:
        ((x, y),) = shown["held_out"]
        np.testing.assert_allclose(x.numpy(), normalised(images, kept), rtol=1e-5, atol=1e-5)
        assert y.tolist() == labels.tolist()


def test_training_data_come_in_a_pass_of_their_own(make, tmp_path):
    execute(make("watching", seed=3), Settings(tmp_path), [])
    n = N_TRAIN - HELD_OUT
    firsts = []
    for epoch, shown in enumerate(Watching.shown):
        one, again = (torch.cat([y for _, y in batches]) for batches in shown["passes"])
        order = torch.randperm(n, generator=stream(3, "watch", epoch))
        assert torch.equal(one, torch.arange(N_TRAIN)[:n][order] % 3), "labels of the fixture are i mod 3"
        assert torch.equal(one, again), "every pass of an epoch is the same"
        firsts.append(one.tolist())
    assert firsts[0] != firsts[1]


def test_what_it_runs_is_counted(make, tmp_path):
    for method, extra in (("watching", HELD_OUT), ("watching(at=test)", N_TEST), ("sgd", 0)):
        run = make(method)
        execute(run, Settings(tmp_path), [])
        cost = json.loads(RunFolder(tmp_path, run.key).result.read_text())["cost"]
        assert cost["forward_examples"] == EPOCHS * (N_TRAIN - HELD_OUT + extra)
        assert cost["backward_examples"] == EPOCHS * (N_TRAIN - HELD_OUT)


class StopError(BaseException):
    """As Ctrl-C: no Exception."""


def stop():
    raise StopError


def test_watching_leaves_training_alone_and_is_resumed_with_the_same_bits(make, tmp_path, read_result):
    run, plain = make("watching"), make("sgd")
    whole, pieces = Settings(tmp_path / "whole"), Settings(tmp_path / "pieces", checkpoint_seconds=0)
    for settings in (whole, pieces):
        for _ in range(EPOCHS if settings is pieces else 0):
            with pytest.raises(StopError):
                execute(run, settings, [], stop)
        assert execute(run, settings, []) == ("finished", "")
    assert [shown["epoch"] for shown in Watching.shown] == 2 * list(range(EPOCHS)), "no epoch is watched twice"
    assert read_result(pieces.runs, run.key) == read_result(whole.runs, run.key)
    one, other = (torch.load(RunFolder(s.runs, run.key).checkpoint)["method"] for s in (whole, pieces))
    assert torch.equal(one["scores"], other["scores"])
    assert len(set(one["scores"].tolist())) == EPOCHS
    execute(plain, whole, [])
    assert read_result(whole.runs, run.key)["predictions"] == read_result(whole.runs, plain.key)["predictions"]


def test_a_run_without_held_out_data_fails_at_once(make, tmp_path):
    run = make("watching", validation=None)
    state, reason = execute(run, Settings(tmp_path), [])
    assert (state, reason) == ("failed", "ValueError: watching: validation data are asked for, but rows holds none out")
    assert not Watching.shown


@pytest.mark.parametrize("method", ["watching", "swa(watching)", "deep_ensemble(watching, K=2)"])
def test_a_study_without_held_out_data_is_refused(make, npz, tmp_path, write_study, method):
    bare = write_study(tmp_path / "s.yaml", methods=["sgd", method])
    reason = f"{method} on lenet5: it watches validation data, but rows holds none out: give the dataset a number"
    with pytest.raises(StudyError, match=re.escape(reason)):
        load(str(bare))
    held = [{"name": f"npz:{npz}", "validation": HELD_OUT}]
    assert len(load(str(write_study(tmp_path / "t.yaml", methods=["sgd", method], datasets=held))).cells()) == 2
    on_test = method.replace("watching", "watching(at=test)")
    assert len(load(str(write_study(tmp_path / "u.yaml", methods=["sgd", on_test]))).cells()) == 2


def test_digits_hold_out_images_unless_told_otherwise(make, tmp_path, write_study):
    study = write_study(tmp_path / "s.yaml", datasets=["digits"], methods=["watching"])
    assert len(load(str(study)).cells()) == 1
    study = write_study(tmp_path / "t.yaml", datasets=[{"name": "digits", "validation": 0}], methods=["watching"])
    with pytest.raises(StudyError, match="it watches validation data, but digits validation=0 holds none out"):
        load(str(study))


def test_a_choice_on_test_data_is_marked_and_inherited(make, tmp_path, write_study, run_study):
    kinds = ["watching(at=test)", "swa(watching(at=test), start=1)", "deep_ensemble(watching(at=test), K=2)"]
    study = write_study(tmp_path / "s.yaml", methods=["sgd", "deep_ensemble(K=2)", *kinds])
    done = run_study(study, tmp_path / "runs")
    assert not done.schedule.failed
    for key, planned in done.plan.runs.items():
        result = json.loads(RunFolder(tmp_path / "runs", key).result.read_text())
        assert result["evaluated_on"] == "test"
        assert result.get("chosen_on") == ("test" if "watching" in str(planned.run.method) else None), planned.run
