"""Slots: which run goes where, and that a device is left to a run that must be alone."""

import pytest

from harness.cli.engine_options import EngineName, Wish, choose_devices, choose_engine
from harness.cli.options import Refusal
from harness.engines import Inline
from harness.engines.device_slots import Slots, gpu_slots


def test_runs_are_spread_over_the_devices():
    slots = Slots(["cuda:0", "cuda:1", "cuda:0", "cuda:1"])
    taken = []
    while (slot := slots.free()) is not None:
        slots.begin(slot, f"run {slot}")
        taken.append(slots.devices[slot])
    assert taken == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert slots.end(3) == "run 3"
    assert slots.end(2) == "run 2"
    assert slots.end(0) == "run 0"
    assert slots.devices[slots.free()] == "cuda:0", "which has no run, while cuda:1 has one"
    slots.begin(0, "a")
    slots.begin(2, "b")
    assert slots.free() == 3


def test_slots_of_one_device_are_taken_in_order():
    slots = Slots(["cpu"] * 3)
    for expected in (0, 1, 2):
        assert slots.free() == expected
        slots.begin(expected, str(expected))
    assert slots.free() is None
    slots.end(1)
    assert slots.free() == 1


def test_a_device_is_kept_for_a_run_that_must_be_alone_and_others_go_on():
    slots = Slots(["cuda:0", "cuda:0", "cuda:1", "cuda:1"])
    for slot in range(4):
        slots.begin(slot, f"run {slot}")
    assert slots.end(0) == "run 0"
    slots.ask_alone("cuda:0", "run 0")
    assert slots.free() is None, "the free slot is kept"
    assert slots.begin_alone() == [], "run 1 is still there"
    slots.end(2)
    assert slots.free() == 2, "the other device goes on"
    slots.begin(2, "run 4")
    slots.end(1)
    assert slots.free() is None
    assert slots.begin_alone() == [(0, "run 0")]
    assert slots.free() is None, "slot 1 stays empty while it is alone"
    assert slots.begin_alone() == []
    assert slots.end(0) == "run 0"
    assert slots.free() == 0


def test_runs_that_must_be_alone_follow_each_other_on_their_device():
    slots = Slots(["cuda:0", "cuda:0", "cuda:1"])
    slots.ask_alone("cuda:0", "a")
    slots.ask_alone("cuda:0", "b")
    slots.ask_alone("cuda:1", "c")
    assert slots.begin_alone() == [(0, "a"), (2, "c")]
    slots.end(2)
    assert slots.free() == 2
    assert slots.begin_alone() == []
    slots.end(0)
    assert slots.begin_alone() == [(0, "b")]
    slots.end(0)
    assert slots.free() == 0


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
        ("cuda", "0,4", r"^GPU 4 is not there: 4 are visible, counted from 0$"),
        ("cuda:7", None, r"^GPU 7 is not there"),
        ("cuda", "0,0", r"^--gpus 0,0: a GPU is there twice; --per-gpu 2 puts two runs on each$"),
        ("cuda", "0-3", r"^--gpus 0-3: numbers with commas between are needed, as 0,1,3$"),
        ("cuda", "", r"^--gpus : numbers with commas between are needed"),
        ("cuda", "-1", r"^--gpus -1: numbers"),
        ("cuda:1", "0", r"^--gpus 0: --device cuda:1 names one already; use one of the two$"),
    ],
)
def test_what_is_no_list_of_gpus_is_refused(device, gpus, message):
    with pytest.raises(ValueError, match=message):
        gpu_slots(device, gpus, 1, visible=4)


GIVEN = {"engine": EngineName.processes, "device": "cuda", "workers": None, "gpus": None, "per_gpu": None, "cores": 5}


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
def test_the_devices_of_the_processes(two_gpus, options, expected):
    assert choose_devices(**{**GIVEN, **options}) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": "2"}, "^GPU 2 is not there: 2 are visible"),
        ({"workers": 4}, "^--workers 4: on GPUs --gpus and --per-gpu decide, here for 2 runs at once$"),
        ({"device": "cuda:x"}, "^--device cuda:x: a GPU has a number, as cuda:1$"),
        ({"device": "cpu", "gpus": "0"}, "^--gpus and --per-gpu share out GPUs with --engine processes, not cpu proc"),
        ({"device": "cpu", "per_gpu": 1, "engine": EngineName.inline}, "not cpu inline$"),
    ],
)
def test_options_that_do_not_fit_are_refused(two_gpus, options, message):
    with pytest.raises(Refusal, match=message):
        choose_devices(**{**GIVEN, **options})


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Wish(EngineName.inline, workers=4), "^--workers 4: the engine inline trains one run at a time"),
        (Wish(EngineName.processes, ray_address="head:6379"), "^--ray-address head:6379: add --engine ray$"),
        (Wish(EngineName.inline, gpus_per_run=0.5), "add --engine ray$"),
        (Wish(EngineName.ray, ranks=2), "--ranks are for one machine"),
        (Wish(EngineName.processes, gpus="1", ranks=2), "^--ranks 2: each has a GPU of its own, the last one cuda:2"),
    ],
)
def test_what_an_engine_has_no_use_for_is_refused(two_gpus, monkeypatch, wish, message):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(Refusal, match=message):
        choose_engine(wish)


def test_a_cluster_named_in_the_environment_binds_no_other_engine(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    chosen = choose_engine(Wish(EngineName.inline, threads=1, device="cpu", ray_address="head:6379"))
    assert isinstance(chosen.engine, Inline)
