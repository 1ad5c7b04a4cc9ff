"""The measurement on a GPU, rehearsed on the CPU: what it writes, how it merges files, and how it reports errors."""

import json
import sys
import tempfile
import weakref
from contextlib import contextmanager

import pytest
import torch

from harness.planning.device_rates import read_rates
from methods import SGD
from tests.benchmarks import compile_modes, gpu
from tests.benchmarks.compile_modes import ModeTimes, time_modes
from tests.benchmarks.epochs import TrainingSetup
from tests.benchmarks.gpu import sharing_gain
from tests.benchmarks.gpu_report import Report, other_parts, rehearsal_sizes
from tests.benchmarks.shared_gpu import RATE, READY, TrainingProcess, shared_gpu_rate

pytestmark = pytest.mark.long
TINY = TrainingSetup("lenet5", minibatches=2, batch_size=4, channels=1, side=8)


@contextmanager
def started(program):
    """Start a process that shares the device, with the given program."""
    with tempfile.TemporaryFile("w+") as errors:
        worker = TrainingProcess([sys.executable, "-c", program], errors)
        try:
            yield worker
        finally:
            worker.end()


@pytest.fixture
def rehearse(tmp_path, monkeypatch):
    """Return a function that rehearses some parts into one file, and returns the contents and the path of the file."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)

    def run(*parts):
        only = ["--only", *parts] if parts else []
        path = tmp_path / "gpu.json"
        monkeypatch.setattr(sys, "argv", ["gpu", "--rehearse", "--output", str(path), *only])
        gpu.main()
        return json.loads(path.read_text()), path

    return run


def test_parts_of_several_commands_are_merged(rehearse):
    first, _ = rehearse("loops")
    second, path = rehearse("methods")
    assert list(second["parts"]) == ["loops", "methods"] and first["parts"].items() <= second["parts"].items()
    assert [about["failed"] for about in second["parts"].values()] == [None, None]
    assert first["rows"] + second["rows"][1:] == second["rows"] and len(second["rows"]) == 1 + len(gpu.COMPARED)
    assert [cell["method"] for cell in second["cells"]] == ["sgd", *gpu.COMPARED]
    second["parts"]["loops"]["command"] = second["rows"][0]["name"] = second["cells"][0]["method"] = "earlier"
    path.write_text(json.dumps(second))
    again, _ = rehearse("loops")
    assert [row["part"] for row in again["rows"]] == ["methods"] * len(gpu.COMPARED) + ["loops"]
    assert "earlier" not in json.dumps(again)
    (rates,) = read_rates(path)
    assert [cell.images_per_second for cell in rates.cells] == [again["cells"][-1]["images_per_second"]]
    cell = again["cells"][-1]
    assert cell["over_bare_loop"]["rounds"] == rehearsal_sizes().rounds and cell["over_bare_loop"]["bound"] == 1.02
    assert cell["ms_per_update"] == pytest.approx(1e3 * cell["batch_size"] / cell["images_per_second"])


def test_results_of_another_commit_are_not_merged(tmp_path):
    path, parts = tmp_path / "gpu.json", {"loops": {}, "small": {}}
    rows = [{"part": "loops", "name": "a"}, {"part": "small", "name": "b"}]
    path.write_text(json.dumps({"commit": "abc", "device": {}, "parts": parts, "rows": rows, "cells": []}))
    found = other_parts(path, ["small"], {"commit": "abc", "device": {}})
    assert found == {"parts": {"loops": {}}, "rows": rows[:1], "cells": []}
    with pytest.raises(SystemExit, match="its parts loops were measured with another commit; move it away"):
        other_parts(path, ["small"], {"commit": "def", "device": {}})
    assert other_parts(path, ["small", "loops"], {"commit": "def"}) == {"parts": {}, "rows": [], "cells": []}
    assert other_parts(tmp_path / "none.json", ["small"], {}) == {"parts": {}, "rows": [], "cells": []}


@pytest.mark.parametrize("parts", [["loops", "small"], ["small"]], ids=["all parts", "some"])
@pytest.mark.parametrize("rehearsal", [False, True])
def test_a_rehearsal_and_a_measurement_do_not_overwrite_each_other(parts, rehearsal, tmp_path):
    path, made = tmp_path / "gpu.json", {"commit": "abc", "rehearsal": rehearsal}
    path.write_text(json.dumps({**made, "parts": {"loops": {}, "small": {}}, "rows": [], "cells": []}))
    assert list(other_parts(path, parts, made)["parts"]) == [part for part in ["loops"] if part not in parts]
    with pytest.raises(SystemExit, match="gpu.json: a measurement and a rehearsal do not write to the same file; move"):
        other_parts(path, parts, {"commit": "abc", "rehearsal": not rehearsal})


def test_a_rehearsal_has_a_file_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(sys, "argv", ["gpu", "--rehearse", "--only", "loops"])
    monkeypatch.setitem(gpu.PARTS, "loops", lambda sizes, report: None)
    gpu.main()
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["speed-gpu-rehearsed.json"]


def test_a_part_that_fails_is_named_and_others_are_measured(rehearse, monkeypatch):
    def fail(sizes, report):
        raise ValueError("no kernel")

    monkeypatch.setitem(gpu.PARTS, "large", fail)
    found, _ = rehearse("large", "loops")
    assert found["parts"]["large"]["failed"] == "ValueError: no kernel"
    assert [row["part"] for row in found["rows"]] == ["loops"]


class TestModes:
    def test_a_mode_that_fails_is_named(self, monkeypatch):
        whole = compile_modes.harness_epoch

        def epoch(cell, make):
            if cell.compile == "default":
                raise RuntimeError("no compiler")
            return whole(cell, make)

        monkeypatch.setattr(compile_modes, "harness_epoch", epoch)
        tried = time_modes(TINY, SGD, ("default", "off"))
        assert tried.found["default"] == "RuntimeError: no compiler"
        assert tried.fastest == TINY and tried.seconds == tried.found["off"] > 0

    def test_a_mode_is_freed_before_the_next(self, monkeypatch):
        whole, made, alive = compile_modes.harness_epoch, [], []

        def epoch(cell, make):
            made.append(weakref.ref(run := whole(cell, make)))
            return run

        monkeypatch.setattr(compile_modes, "harness_epoch", epoch)
        monkeypatch.setattr(compile_modes, "free_compiled", lambda: alive.append([ref() is not None for ref in made]))
        time_modes(TINY, SGD, ("off", "off"), rounds=1)
        assert alive == [[False], [False, False]]

    def test_the_fastest_mode(self):
        assert (
            ModeTimes(TINY, SGD, {"off": 2.0, "default": 1.0, "reduce-overhead": "too large"}).fastest.compile
            == "default"
        )

    def test_no_mode_can_be_trained(self):
        tried = ModeTimes(TINY, SGD, {"off": "too large"})
        assert tried.seconds == float("inf")
        with pytest.raises(RuntimeError, match=r"lenet5: no mode trains: \{'off': 'too large'\}"):
            _ = tried.fastest


class TestPacked:
    def test_the_gain_is_relative_to_the_fastest_single_run(self):
        rates = {"off": {1: 100.0, 4: 330.0, 8: "out of memory"}, "default": {1: 110.0, 4: "out of memory"}}
        found = sharing_gain(rates)
        assert (found.value, found.bound, found.kept) == (3, 3, True)
        with pytest.raises(RuntimeError, match="no run trains alone: .*out of memory"):
            sharing_gain({"off": {1: "out of memory", 4: 1.0}})

    def test_two_processes(self):
        with tempfile.TemporaryFile("w+") as errors:
            assert shared_gpu_rate(TINY, 2, 0.1, errors) > 0

    def test_output_of_libraries_is_skipped(self):
        with started("print('a notice\\n\\nready'); print('images/s: many\\nimages/s 2.5')") as worker:
            assert (worker.read(READY), worker.read(RATE)) == ("", "2.5")
            with pytest.raises(RuntimeError, match="a process that shares the device ended: it said nothing"):
                worker.read(RATE)

    def test_the_exception_is_named_and_not_the_advice_after_it(self):
        raised = "raise torch.OutOfMemoryError('CUDA: 3 GiB\\n\\nSet TORCH_LOGS to see more')"
        with started(f"import torch; print('ready', flush=True); {raised}") as worker:
            worker.read(READY)
            worker.process.wait()
            for ask in (worker.go, lambda: worker.read(RATE)):
                with pytest.raises(RuntimeError, match="device ended: torch.OutOfMemoryError: CUDA: 3 GiB$"):
                    ask()

    def test_each_speed_and_each_error_is_printed_at_once(self, monkeypatch, capsys):
        def rate(cell, count, duration, errors):
            if count == 2:
                raise ValueError("no number")
            return 1234.5

        monkeypatch.setattr(gpu, "shared_gpu_rate", rate)
        report = Report({})
        gpu.measure_packed(rehearsal_sizes(), report)
        assert report.rows[0]["images_per_second"] == {"off": {1: 1234.5, 2: "ValueError: no number"}}
        shown = capsys.readouterr().out.splitlines()[:2]
        assert shown == ["compile off, at once 1: 1,234 images/s", "compile off, at once 2: ValueError: no number"]

    def test_a_process_that_ends_is_reported_with_its_error(self):
        with tempfile.TemporaryFile("w+") as errors, pytest.raises(RuntimeError, match="ended: .*unknown architecture"):
            shared_gpu_rate(TrainingSetup("vgg"), 1, 0.1, errors)


@pytest.mark.slow
def test_the_whole_rehearsal(rehearse):
    found, _ = rehearse()
    assert list(found["parts"]) == list(gpu.PARTS)
    assert [about["failed"] for about in found["parts"].values()] == [None] * len(gpu.PARTS)
    assert len(found["rows"]) == 5 + 1 + len(gpu.COMPARED) + 5 + 1
