"""Which devices the command line takes, and what it refuses."""

import warnings

import pytest
import torch

from harness.cli.options import Refusal, engine

TOO_OLD = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver by downloading and installing a new version. (Triggered internally at /c10/cuda/CUDAFunctions.cpp:119.)"
)


@pytest.fixture
def gpus(monkeypatch):
    """A function that lets torch see so many GPUs, or warn."""

    def pretend(count, warning=""):
        def is_available():
            if warning:
                warnings.warn(warning, stacklevel=1)
            return bool(count)

        monkeypatch.setattr(torch.cuda, "is_available", is_available)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        engine.unusable_gpus.cache_clear()

    yield pretend
    engine.unusable_gpus.cache_clear()


def choose(device=None, name="inline"):
    return engine.choose_engine(engine.EngineOptions(engine.EngineName(name), device=device))


def test_a_gpu_is_used_if_there_is_one(gpus):
    gpus(2)
    assert choose().device == "cuda"
    gpus(0)
    assert choose().device == "cpu"


@pytest.mark.parametrize("name", ["inline", "processes", "ray"])
def test_a_driver_that_is_too_old_does_not_mean_training_on_the_cpu(gpus, name):
    gpus(0, TOO_OLD)
    with pytest.raises(Refusal) as caught:
        choose(name=name)
    message = str(caught.value)
    assert message.startswith("this machine's GPUs cannot be used: The NVIDIA driver on your system is too old (found")
    assert message.endswith("add --device cpu")
    assert "Triggered" not in message
    assert choose("cpu", "inline").device == "cpu"


def test_a_gpu_that_is_not_there_is_refused_without_a_context_on_one(gpus, monkeypatch):
    gpus(2)
    monkeypatch.setattr(torch, "empty", None)  # would initialize CUDA, in a driver that only hands out runs
    engine.check_device("cuda")
    engine.check_device("cuda:1")
    with pytest.raises(Refusal, match="--device cuda:2: 2 GPUs are visible, counted from 0"):
        engine.check_device("cuda:2")


@pytest.mark.parametrize("device", ["meta", "mps", "tpu9", "cuda:x"])
def test_other_devices_are_refused(gpus, device):
    gpus(0)
    with pytest.raises(Refusal, match=f"--device {device}: "):
        engine.check_device(device)


@pytest.mark.parametrize("command", ["run", "tune"])
def test_commands_take_deterministic(command, run_here):
    code, out, _ = run_here(command, "--help")
    assert code == 0
    assert "--deterministic" in out
