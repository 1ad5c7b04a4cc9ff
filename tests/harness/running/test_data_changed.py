"""What a run's key names is what it is trained on: files that change while a study runs are refused."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from data import Augmentation, ImageTask, Split
from data.tasks.image_dataset import OfficialSets
from harness.engines import Inline, Processes
from harness.parsing.plugins import available_methods
from harness.running import lifecycle, run_data
from harness.running.distributed.group import SINGLE_PROCESS
from harness.running.execute import execute
from harness.running.settings import Settings
from harness.store.damaged_files import read_json
from harness.store.run_folder import RunFolder
from harness.studies.run import DatasetSpec
from harness.studies.study import with_digest


def write_npz(path, seed=0, **more):
    draw = np.random.default_rng(seed)
    y = np.arange(60) % 3
    x = draw.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(path, x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:], **more)


def write_images(folder, seed=0):
    draw = np.random.default_rng(seed)
    for part in ("train", "test"):
        for name in "ab":
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            for i in range(4):
                pixels = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.bmp")  # always of the same size


def write_text(path, seed=0):
    path.write_bytes(bytes(np.random.default_rng(seed).integers(97, 105, 3000, dtype=np.uint8)))


class Kind:
    """A dataset of one kind in a folder, and how it is written and replaced."""

    def __init__(self, kind, folder):
        self.path = folder / {"npz": "mine.npz", "imagefolder": "mine", "text": "mine.txt", "ood": "mine.npz"}[kind]
        self.other = folder / "other.npz"
        self.kind, self.edited = kind, self.other if kind == "ood" else self.path
        self.write(0)

    def write(self, seed):
        """Write what `edited` holds; another seed writes a file of the same size."""
        write = {"npz": write_npz, "imagefolder": write_images, "text": write_text, "ood": write_npz}[self.kind]
        write(self.edited, seed)

    def dataset(self):
        if self.kind == "ood":
            write_npz(self.path)
            raw = {"name": f"npz:{self.path}", "ood": (f"npz:{self.other}",)}
        else:
            raw = {"name": f"{self.kind}:{self.path}"}
        raw |= {"image_size": 16} if self.kind == "imagefolder" else {"segment": 20} if self.kind == "text" else {}
        return with_digest(DatasetSpec(**raw, **({} if self.kind == "text" else {"corruptions": "none"})))

    def run(self, make_run, seed=0, **recipe):
        architecture = {"text": "lstm-8", "imagefolder": "wrn-10-1"}.get(self.kind, "lenet5")
        run = make_run(seed=seed, epochs=1, batch_size=4, **recipe)
        return run.model_copy(update={"dataset": self.dataset(), "architecture": architecture})


@pytest.fixture(params=["npz", "imagefolder", "text", "ood"])
def kind(request, tmp_path):
    return Kind(request.param, tmp_path)


@pytest.fixture
def settings(tmp_path):
    return Settings(tmp_path / "runs", decoders=0)


def test_a_run_whose_files_were_replaced_is_refused(kind, make_run, settings):
    run = kind.run(make_run)
    kind.write(1)
    state, reason = execute(run, settings, [])
    assert (state, reason.startswith(f"ValueError: {kind.edited}: was changed after this run was planned;")) == (
        "failed",
        True,
    ), reason
    assert "start the command again, which plans it anew" in reason
    assert not RunFolder(settings.runs, run.key).checkpoint.exists()


def test_a_file_that_is_gone_is_named(kind, make_run, settings):
    run = kind.run(make_run)
    shutil.rmtree(kind.edited) if kind.edited.is_dir() else kind.edited.unlink()
    state, reason = execute(run, settings, [])
    assert state == "failed" and str(kind.edited) in reason


def test_a_file_that_is_replaced_between_two_runs_of_a_process(kind, make_run, settings):
    """The task is cached in the process, and the file it was read from has other content."""
    first, second = kind.run(make_run, seed=0), kind.run(make_run, seed=1)
    assert execute(first, settings, []) == ("finished", "")
    kind.write(1)
    state, reason = execute(second, settings, [])
    assert state == "failed" and f"{kind.edited}: was changed" in reason
    kind.write(0)
    assert execute(second, settings, []) == ("finished", "")


def test_a_task_that_was_refused_is_not_used_when_the_file_is_back(kind, make_run, settings, tmp_path):
    run = kind.run(make_run)
    kind.write(1)
    assert execute(run, settings, []).state == "failed"
    kind.write(0)
    assert execute(run, settings, []) == ("finished", "")
    alone = Settings(tmp_path / "alone", decoders=0)
    run_data.load_cached_task.cache_clear()
    assert execute(run, alone, []) == ("finished", "")
    found = [read_json(RunFolder(each.runs, run.key).result)["metrics"] for each in (settings, alone)]
    assert found[0] == found[1]


def test_image_files_that_change_while_a_run_reads_them(tmp_path, make_run, settings, monkeypatch):
    images = Kind("imagefolder", tmp_path)
    run = images.run(make_run)
    train_epoch = lifecycle.train_epoch

    def edit_then_train(*arguments):
        images.write(1)
        return train_epoch(*arguments)

    monkeypatch.setattr(lifecycle, "train_epoch", edit_then_train)
    state, reason = execute(run, settings, [])
    folder = RunFolder(settings.runs, run.key)
    assert state == "failed" and f"{images.path}: was changed" in reason
    assert not folder.result.exists() and not folder.checkpoint.exists()


def test_ood_images_are_those_that_the_key_names(tmp_path, make_run, settings, monkeypatch):
    """They are evaluated long after the file was read."""
    path = tmp_path / "mine.npz"
    write_npz(path, ood_dark=np.zeros((5, 8, 8), np.uint8))
    run = make_run(epochs=1).model_copy(update={"dataset": with_digest(DatasetSpec(name=f"npz:{path}"))})
    run = run.model_copy(update={"dataset": run.dataset.model_copy(update={"corruptions": "none"})})
    assert execute(run, settings, []) == ("finished", "")
    train_epoch = lifecycle.train_epoch

    def edit_then_train(*arguments):
        write_npz(path, ood_dark=np.random.default_rng(3).integers(0, 256, (5, 8, 8), dtype=np.uint8))
        return train_epoch(*arguments)

    monkeypatch.setattr(lifecycle, "train_epoch", edit_then_train)
    run_data.load_cached_task.cache_clear()
    alone = Settings(tmp_path / "alone", decoders=0)
    assert execute(run, alone, []) == ("finished", "")
    found = [read_json(RunFolder(each.runs, run.key).result)["metrics"] for each in (settings, alone)]
    assert found[0] == found[1]


@pytest.mark.parametrize("engine", [Inline(1), pytest.param(Processes(1, 1), marks=pytest.mark.long)])
def test_the_rest_of_a_study_goes_on(tmp_path, write_study, run_study, engine):
    for name in "ab":
        write_npz(tmp_path / f"{name}.npz", seed=ord(name))

    class Editor:
        """Replaces a file when the first run has ended."""

        def started(self, planned):
            pass

        def ended(self, planned, outcome):
            write_npz(tmp_path / "a.npz", seed=1000)

        def tick(self):
            pass

    datasets = [{"name": f"npz:{tmp_path}/{name}.npz", "corruptions": "none"} for name in "ab"]
    study = write_study(tmp_path / "s.yaml", datasets=datasets, seeds=[0, 1])
    done = run_study(study, tmp_path / "runs", engine, Editor())
    assert {str(done.plan.runs[key].run): outcome.state for key, outcome in done.schedule.failed.items()} == {
        "sgd · lenet5 · a · seed 1": "failed"
    }
    assert len(done.schedule.finished) == 3


def test_a_trunk_is_refused_too(tmp_path, write_study, run_study):
    path = tmp_path / "a.npz"
    write_npz(path)

    class Editor:
        def started(self, planned):
            write_npz(path, seed=5)

        def ended(self, planned, outcome):
            pass

        def tick(self):
            pass

    study = write_study(
        tmp_path / "s.yaml",
        datasets=[{"name": f"npz:{path}", "corruptions": "none"}],
        methods=["swa(start=1)", "swag(start=1, N=2)"],
    )
    done = run_study(study, tmp_path / "runs", observer=Editor(), share=True)
    assert len(done.schedule.failed) == len(done.plan.runs) == 3
    assert all("a.npz: was changed" in outcome.reason for outcome in done.schedule.failed.values())


def test_a_plugin_that_is_edited_after_it_was_checked(tmp_path, make_run, settings, monkeypatch):
    """Its files are checked when the run starts, and loaded again when the method is built."""
    plugin = tmp_path / "mine.py"
    plugin.write_text("from methods import Method\nclass Mine(Method):\n    'Plain.'\n")
    run = make_run("mine", methods=available_methods([plugin]), epochs=1)
    load_task = lifecycle.load_task

    def edit_then_load(*arguments):
        plugin.write_text(plugin.read_text() + "# edited\n")
        return load_task(*arguments)

    monkeypatch.setattr(lifecycle, "load_task", edit_then_load)
    state, reason = execute(run, replace(settings, plugins=(plugin,)), [])
    assert state == "failed" and "mine: the files of its plugin were edited" in reason and str(plugin) in reason


def test_the_official_files_are_named_in_the_result_and_checked_before_it():
    """No key names them, because a study does not know the folder of downloads."""
    images = Split(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    found = ["first"]
    official = OfficialSets(lambda: iter(()), "first", lambda known: found[-1])
    task = ImageTask("c", 1, images, None, images, (0.5,), (0.2,), Augmentation(), {}, (), official)
    state = SimpleNamespace(task=task, group=SINGLE_PROCESS, compile="off", fuse_up_to=1)
    assert lifecycle.RunLifecycle.execution_details(state)["official_corruptions"] == "first"
    run_data.check_official_files(task)
    found.append("second")
    with pytest.raises(ValueError, match="c: the official corrupted files were changed while they were used"):
        run_data.check_official_files(task)
