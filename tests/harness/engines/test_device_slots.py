"""Device slots: which slot a run gets, and that a device is reserved for a run that must have it alone."""

import os

import pytest

from harness.cli.options import Refusal
from harness.cli.options.engine import EngineName, EngineOptions, choose_devices, choose_engine
from harness.engines import Inline
from harness.engines.device_slots import DeviceSlots, gpu_slots


def test_runs_are_spread_over_devices():
    slots = DeviceSlots(["cuda:0", "cuda:1", "cuda:0", "cuda:1"])
    taken = []
    while (slot := slots.find_free_slot()) is not None:
        slots.occupy(slot, f"run {slot}")
        taken.append(slots.devices[slot])
    assert taken == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert slots.release(3) == "run 3"
    assert slots.release(2) == "run 2"
    assert slots.release(0) == "run 0"
    assert slots.devices[slots.find_free_slot()] == "cuda:0", "cuda:0 has no run, cuda:1 has one"
    slots.occupy(0, "a")
    slots.occupy(2, "b")
    assert slots.find_free_slot() == 3


def test_slots_of_one_device_are_taken_in_order():
    slots = DeviceSlots(["cpu"] * 3)
    for expected in (0, 1, 2):
        assert slots.find_free_slot() == expected
        slots.occupy(expected, str(expected))
    assert slots.find_free_slot() is None
    slots.release(1)
    assert slots.find_free_slot() == 1


def test_a_device_is_reserved_for_an_exclusive_run_while_others_take_runs():
    slots = DeviceSlots(["cuda:0", "cuda:0", "cuda:1", "cuda:1"])
    for slot in range(4):
        slots.occupy(slot, f"run {slot}")
    assert slots.release(0) == "run 0"
    slots.reserve("cuda:0", "run 0")
    assert slots.find_free_slot() is None, "the free slot is reserved"
    assert slots.occupy_reserved() == [], "run 1 still runs"
    slots.release(2)
    assert slots.find_free_slot() == 2, "the other device takes runs"
    slots.occupy(2, "run 4")
    slots.release(1)
    assert slots.find_free_slot() is None
    assert slots.occupy_reserved() == [(0, "run 0")]
    assert slots.find_free_slot() is None, "slot 1 stays empty while run 0 has the device alone"
    assert slots.occupy_reserved() == []
    assert slots.release(0) == "run 0"
    assert slots.find_free_slot() == 0


def test_exclusive_runs_of_a_device_follow_each_other():
    slots = DeviceSlots(["cuda:0", "cuda:0", "cuda:1"])
    slots.reserve("cuda:0", "a")
    slots.reserve("cuda:0", "b")
    slots.reserve("cuda:1", "c")
    assert slots.occupy_reserved() == [(0, "a"), (2, "c")]
    slots.release(2)
    assert slots.find_free_slot() == 2
    assert slots.occupy_reserved() == []
    slots.release(0)
    assert slots.occupy_reserved() == [(0, "b")]
    slots.release(0)
    assert slots.find_free_slot() == 0


@pytest.mark.parametrize(
    ("device", "gpus", "per_gpu", "expected"),
    [
        ("cuda", None, 1, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("cuda", "0,1,3", 1, ["cuda:0", "cuda:1", "cuda:3"]),
        ("cuda", "3, 0", 2, ["cuda:3", "cuda:0", "cuda:3", "cuda:0"]),
        ("cuda:2", None, 3, ["cuda:2", "cuda:2", "cuda:2"]),
    ],
)
def test_slots_on_gpus(device, gpus, per_gpu, expected):
    assert gpu_slots(device, gpus, per_gpu, visible=4) == expected


@pytest.mark.parametrize(
    ("device", "gpus", "message"),
    [
        ("cuda", "0,4", r"^there is no GPU 4: 4 are visible, counted from 0$"),
        ("cuda:7", None, r"^there is no GPU 7"),
        ("cuda", "0,0", r"^--gpus 0,0: a GPU is repeated; --per-gpu 2 executes two runs at once on each$"),
        ("cuda", "0-3", r"^--gpus 0-3: write numbers separated by commas, such as 0,1,3$"),
        ("cuda", "", r"^--gpus : write numbers separated by commas"),
        ("cuda", "-1", r"^--gpus -1: write numbers"),
        ("cuda:1", "0", r"^--gpus 0: --device cuda:1 already names a GPU; use one of the two options$"),
    ],
)
def test_invalid_gpu_lists_are_refused(device, gpus, message):
    with pytest.raises(ValueError, match=message):
        gpu_slots(device, gpus, 1, visible=4)


GIVEN = {"engine": EngineName.processes, "device": "cuda", "workers": None, "gpus": None, "per_gpu": None, "room": 5}


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["cuda:0", "cuda:1"]),
        ({"per_gpu": 2}, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]),
        ({"gpus": "1"}, ["cuda:1"]),
        ({"gpus": "1", "per_gpu": 2, "workers": 2}, ["cuda:1", "cuda:1"]),
        ({"device": "cpu"}, ["cpu"] * 5),
        ({"device": "cpu", "workers": 3}, ["cpu"] * 3),
        ({"device": "cpu", "workers": 3, "engine": EngineName.inline}, ["cpu"]),
    ],
)
def test_devices_of_processes(two_gpus, options, expected):
    assert choose_devices(**{**GIVEN, **options}) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": "2"}, "^there is no GPU 2: 2 are visible"),
        ({"workers": 4}, "^--workers 4: on GPUs --gpus and --per-gpu decide, here for 2 runs at once$"),
        ({"device": "cuda:x"}, "^--device cuda:x: write the number of a GPU, such as cuda:1$"),
        ({"device": "cpu", "gpus": "0"}, "^--gpus and --per-gpu share out GPUs with --engine processes, not cpu proc"),
        ({"device": "cpu", "per_gpu": 1, "engine": EngineName.inline}, "not cpu inline$"),
    ],
)
def test_conflicting_device_options_are_refused(two_gpus, options, message):
    with pytest.raises(Refusal, match=message):
        choose_devices(**{**GIVEN, **options})


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (EngineOptions(EngineName.inline, workers=4), "^--workers 4: the engine inline trains one run at a time"),
        (EngineOptions(EngineName.processes, ray_address="head:6379"), "^--ray-address head:6379: add --engine ray$"),
        (EngineOptions(EngineName.inline, gpus_per_run=0.5), "add --engine ray$"),
        (EngineOptions(EngineName.ray, ranks=2), "--ranks are for one machine"),
        (
            EngineOptions(EngineName.processes, gpus="1", ranks=2),
            "^--ranks 2: each has a GPU of its own, the last one cuda:2",
        ),
    ],
)
def test_options_of_other_engines_are_refused(two_gpus, monkeypatch, wish, message):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(Refusal, match=message):
        choose_engine(wish)


def test_other_engines_ignore_a_cluster_in_the_environment(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    chosen = choose_engine(EngineOptions(EngineName.inline, threads=1, device="cpu", ray_address="head:6379"))
    assert isinstance(chosen.engine, Inline)


@pytest.mark.parametrize(
    ("variables", "asked", "threads", "workers"),
    [
        ({}, EngineOptions(EngineName.inline, device="cpu"), 8, 1),
        ({}, EngineOptions(EngineName.processes, device="cpu"), 1, 8),
        ({}, EngineOptions(EngineName.processes, device="cpu", workers=4), 2, 4),
        ({}, EngineOptions(EngineName.processes, device="cpu", threads=4), 4, 2),
        ({"OMP_NUM_THREADS": "3"}, EngineOptions(EngineName.inline, device="cpu"), 3, 1),
        ({"OMP_NUM_THREADS": "3"}, EngineOptions(EngineName.inline, device="cpu", threads=2), 2, 1),
        ({"OMP_NUM_THREADS": "3"}, EngineOptions(EngineName.processes, device="cpu"), 3, 2),
        ({"SLURM_CPUS_PER_TASK": "4"}, EngineOptions(EngineName.inline, device="cpu"), 4, 1),
        ({"SLURM_CPUS_PER_TASK": "4"}, EngineOptions(EngineName.processes, device="cpu"), 1, 4),
        ({"SLURM_CPUS_PER_TASK": "4", "OMP_NUM_THREADS": "2"}, EngineOptions(EngineName.inline, device="cpu"), 2, 1),
    ],
)
def test_threads_by_openmp_slurm_and_cores(monkeypatch, variables, asked, threads, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr("data.files.usable_cpus.cpu_quota", lambda root: None)
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    engine = choose_engine(asked).engine
    assert (engine.threads, getattr(engine, "workers", 1)) == (threads, workers)
