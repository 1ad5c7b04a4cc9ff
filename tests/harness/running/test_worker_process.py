"""How a process prepares its device for a run."""

import os

import pytest
import torch

from harness.running import worker_process
from harness.running.execute import execute
from harness.running.settings import Settings
from harness.running.worker_process import CUBLAS_WORKSPACE, set_up_device
from harness.store.damaged_files import read_json
from harness.store.run_folder import RunFolder
from methods import Recipe

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """Leave the settings of this process as they were."""
    monkeypatch.setenv(CUBLAS_WORKSPACE, "")
    monkeypatch.delenv(CUBLAS_WORKSPACE)
    yield
    set_up_device(CPU, deterministic=False)


def test_deterministic_algorithms_are_chosen_and_given_up_again():
    set_up_device(CPU, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (True, False)
    assert os.environ[CUBLAS_WORKSPACE] == ":4096:8"
    set_up_device(CPU, deterministic=False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (False, True)


def test_a_workspace_that_the_user_chose_stays(monkeypatch):
    monkeypatch.setenv(CUBLAS_WORKSPACE, ":16:8")
    set_up_device(CPU, deterministic=True)
    assert os.environ[CUBLAS_WORKSPACE] == ":16:8"


def test_the_device_of_a_run_is_the_current_one(monkeypatch):
    """Libraries that are called without a device, and the generators of plugins, use it."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(worker_process, "warm_up", lambda device: None)
    for name in ("cuda:1", "cpu", "cuda:0"):
        set_up_device(torch.device(name), deterministic=False)
    assert chosen == [torch.device("cuda:1"), torch.device("cuda:0")]


def test_a_run_on_the_cpu_has_the_same_bits_either_way(make_run, tmp_path, read_result):
    run = make_run("late_phase_bn(K=2, start=1)")
    for deterministic in (False, True):
        settings = Settings(tmp_path / str(deterministic), deterministic=deterministic)
        assert execute(run, settings, []).state == "finished"
        provenance = read_json(RunFolder(settings.runs, run.key).result)["provenance"]
        assert provenance["deterministic"] == "yes"
    assert read_result(tmp_path / "True", run.key) == read_result(tmp_path / "False", run.key)


def test_the_loss_of_text_on_a_gpu_is_that_of_rows(monkeypatch):
    """torch has no deterministic algorithm for a loss of several dimensions there; that of rows is the same mean."""
    logits, y = torch.randn(4, 5, 7, dtype=torch.float64), torch.randint(5, (4, 7))
    for smoothing in (0.0, 0.1):
        recipe = Recipe(epochs=1, label_smoothing=smoothing)
        expected = recipe.criterion(logits, y)
        set_up_device(CPU, deterministic=True)
        claimed = logits.as_subclass(ClaimsCuda)
        torch.testing.assert_close(recipe.criterion(claimed, y).as_subclass(torch.Tensor), expected)
        set_up_device(CPU, deterministic=False)


class ClaimsCuda(torch.Tensor):
    """A tensor of the CPU that says otherwise."""

    is_cuda = True
