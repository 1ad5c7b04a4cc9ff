"""Makespans on several GPUs, rates of networks, and the page that combines them."""

import json
import math
import random
import re
import shlex
from graphlib import CycleError
from itertools import permutations
from pathlib import Path

import pytest

from data import DatasetShape
from harness.planning import scaling_forecast, workload
from harness.planning.device_rates import DeviceRates, RatesError, cifar10_cell, paper_rates, read_rates, target_rates
from harness.planning.scaling_forecast import folder_of, predict, render_page
from harness.planning.study_cost import REFERENCE_HOURS, forward_flops, read_costs
from harness.planning.workload import (
    Network,
    TrainingTask,
    Workload,
    count_workload,
    end_of_longest_chain,
    longest_chains,
    makespan,
    merge_workloads,
    read_workloads,
    write_workloads,
)
from harness.studies.study_files import STUDIES, study_names

PAGE = Path(__file__).parents[3] / "docs" / "scaling.md"
WRN = Network("wrn-28-10", (3, 32, 32), 10, 128, forward_flops("wrn-28-10", DatasetShape(3, 32, 10, 1), 0))
SMALL = Network("cresnet20", (3, 32, 32), 10, 128, forward_flops("cresnet20", DatasetShape(3, 32, 10, 1), 0))


def graph(**tasks):
    """Make hours and tasks of `name=(hours, needed, …)`."""
    hours = {key: float(first) for key, (first, *_) in tasks.items()}
    return hours, {key: TrainingTask(WRN, f"label of {key}", 0.0, tuple(after)) for key, (_, *after) in tasks.items()}


def random_graph(seed, most):
    """Make up tasks of a whole number of hours, each after some of the earlier ones."""
    chosen = random.Random(seed)
    return graph(
        **{
            f"t{i}": (chosen.randint(0, 9), *(f"t{j}" for j in range(i) if chosen.random() < 0.25))
            for i in range(chosen.randint(1, most))
        }
    )


def best(hours, tasks, devices):
    """Give the shortest schedule there is: in all orders, each task as early as those before it in the order allow."""
    shortest = math.inf
    for order in permutations(tasks):
        free, ends = [0.0] * devices, {}
        for key in order:
            if not ends.keys() >= set(tasks[key].after):
                break
            free.sort()
            free[0] = ends[key] = max([free[0], *(ends[before] for before in tasks[key].after)]) + hours[key]
        else:
            shortest = min(shortest, max(ends.values()))
    return shortest


class TestMakespan:
    @pytest.mark.parametrize(("devices", "hours"), [(1, 21), (2, 12), (3, 9), (7, 3), (100, 3)])
    def test_alike_and_independent(self, devices, hours):
        assert makespan(*graph(**{f"t{i}": (3,) for i in range(7)}), devices) == hours

    @pytest.mark.parametrize("devices", [1, 2, 64])
    def test_a_chain_takes_its_length(self, devices):
        assert makespan(*graph(a=(1,), b=(2, "a"), c=(4, "b")), devices) == 7

    @pytest.mark.parametrize(("devices", "hours"), [(1, 20), (2, 13), (3, 11), (4, 10), (64, 10)])
    def test_a_trunk_and_its_forks(self, devices, hours):
        forks = {f"fork{i}": (2 if i else 5, "trunk") for i in range(6)}
        assert makespan(*graph(trunk=(5,), **forks), devices) == hours

    def test_the_longest_chain_starts_first(self):
        """Four short ones first would take six hours, as they stand in the plan."""
        hours, tasks = graph(a=(1,), b=(1,), c=(1,), d=(1,), first=(2,), last=(2, "first"))
        assert makespan(hours, tasks, 2) == 4

    def test_all_that_end_at_once_make_room_before_anything_starts(self):
        """Else x and y would take the first two places, and z2 would wait for them until hour 16."""
        hours, tasks = graph(a=(2,), b=(2,), c=(2,), x=(4, "a"), y=(4, "b"), z1=(10, "c"), z2=(10, "c"))
        assert makespan(hours, tasks, 3) == 12

    def test_what_takes_no_time_delays_nothing(self):
        members = {f"member{i}": (2,) for i in range(4)}
        assert makespan(*graph(**members, ensemble=(0, *members)), 2) == 4
        assert makespan(*graph(first=(0,), second=(0, "first"), third=(3, "second")), 1) == 3

    def test_nothing_takes_no_time(self):
        assert makespan({}, {}, 8) == 0

    @pytest.mark.parametrize("seed", range(40))
    def test_bounds(self, seed):
        """Neither the longest chain nor the whole work is beaten; Graham's bound holds, here in its sharper form."""
        hours, tasks = random_graph(seed, 40)
        total, chain = sum(hours.values()), max(longest_chains(hours, tasks).values())
        assert makespan(hours, tasks, 1) == total
        assert makespan(hours, tasks, len(tasks)) == chain
        for n in (2, 3, 8):
            assert max(chain, total / n) <= makespan(hours, tasks, n) <= total / n + (1 - 1 / n) * chain + 1e-9

    @pytest.mark.parametrize("seed", range(25))
    def test_against_the_best_of_all_schedules(self, seed):
        hours, tasks = random_graph(seed, 6)
        for n in (2, 3):
            shortest = best(hours, tasks, n)
            assert shortest <= makespan(hours, tasks, n) <= (2 - 1 / n) * shortest

    @pytest.mark.parametrize("seed", range(10))
    def test_work_three_times_as_long_takes_three_times_as_long(self, seed):
        hours, tasks = random_graph(seed, 40)
        longer = {key: 3 * each for key, each in hours.items()}
        for n in (1, 4):
            assert makespan(longer, tasks, n) == 3 * makespan(hours, tasks, n)

    @pytest.mark.parametrize("seed", range(10))
    def test_more_work_is_never_less(self, seed):
        """Of the whole and of the longest chain; between them, greedy schedules know anomalies (Graham 1969)."""
        hours, tasks = random_graph(seed, 40)
        for key in tasks:
            more = hours | {key: hours[key] + 1}
            assert makespan(more, tasks, 1) == makespan(hours, tasks, 1) + 1
            assert makespan(more, tasks, len(tasks)) >= makespan(hours, tasks, len(tasks))

    def test_refusals(self):
        with pytest.raises(ValueError, match="at least one device, not 0"):
            makespan(*graph(a=(1,)), 0)
        with pytest.raises(CycleError):
            makespan(*graph(a=(1, "b"), b=(1, "a")), 2)


def test_the_longest_chain_and_its_end():
    hours, tasks = graph(trunk=(5,), a=(4, "trunk"), b=(1, "trunk"), c=(3, "b", "a"), alone=(11,))
    assert longest_chains(hours, tasks) == {"trunk": 12, "a": 7, "b": 4, "c": 3, "alone": 11}
    assert end_of_longest_chain(hours, tasks) == "c"
    assert end_of_longest_chain(*graph(late=(2,), later=(2,))) == "late"


class TestWorkload:
    def write(self, tmp_path, methods, **more):
        lines = {"datasets": "[cifar10]", "architectures": "[wrn-28-10]", "seeds": "[0]", "recipe": "late-phase/sgd"}
        path = tmp_path / "s.yaml"
        path.write_text("".join(f"{k}: {v}\n" for k, v in (lines | more).items()) + f"methods: [{methods}]\n")
        return str(path)

    def test_a_trunk_and_what_goes_on_from_it(self, tmp_path):
        counted = count_workload(self.write(tmp_path, "sgd, 'late_independent(K=5, start=120)'"))
        (trunk, common), (_, plain), (_, late) = counted.tasks.items()
        assert trunk.startswith("trunks/") and counted.runs == 2
        assert common == TrainingTask(WRN, "trunk · wrn-28-10 · cifar10", 120 * 50_000, ())
        assert plain == TrainingTask(WRN, "sgd · wrn-28-10 · cifar10", 80 * 50_000, (trunk,))
        assert late.examples == 5 * 80 * 50_000 and late.after == (trunk,)

    def test_an_ensemble_trains_nothing_and_waits_for_its_members(self, tmp_path):
        counted = count_workload(self.write(tmp_path, "deep_ensemble(K=3)"))
        *members, ensemble = counted.tasks
        assert [task.examples for task in counted.tasks.values()] == [1e7, 1e7, 1e7, 0]
        assert counted.tasks[ensemble].after == tuple(members)

    def test_passes_after_training_count(self, tmp_path):
        (task,) = count_workload(self.write(tmp_path, "swag(N=30)")).tasks.values()
        assert task.examples == pytest.approx((200 + 30 / 3) * 50_000)

    def test_text_is_counted_in_segments(self):
        networks = {task.network for task in read_workloads()["late-phase/table-6"].tasks.values()}
        assert {(network.architecture, network.image) for network in networks} == {("lstm-500", None)}

    def test_stored_workloads_are_read_back(self, tmp_path, monkeypatch):
        known = {name: count_workload(name) for name in ("landscape", "late-phase/table-17", "late-phase/figure-1")}
        write_workloads(known, tmp_path / "workloads.json")
        assert read_workloads(tmp_path / "workloads.json") == known
        monkeypatch.setattr(
            workload, "study_digest", lambda name: "edited" if name == "landscape" else known[name].digest
        )
        assert read_workloads(tmp_path / "workloads.json").keys() == known.keys() - {"landscape"}

    def test_only_edited_studies_are_counted_again(self, tmp_path, monkeypatch):
        known, path = read_workloads(), tmp_path / "workloads.json"
        written = []
        monkeypatch.setattr(workload, "read_workloads", lambda: {k: v for k, v in known.items() if k != "digits"})
        monkeypatch.setattr(
            workload, "write_workloads", lambda workloads: written.append(write_workloads(workloads, path))
        )
        monkeypatch.setattr(workload, "count_workload", {"digits": known["digits"]}.__getitem__)
        assert workload.load_workloads() == known and written == [None]
        assert read_workloads(path) == known
        monkeypatch.setattr(workload, "read_workloads", lambda: known)
        assert workload.load_workloads() == known and written == [None]

    def test_the_stored_workloads_are_up_to_date(self):
        """Count it anew by `python -m harness.planning.scaling_forecast --output docs/scaling.md`."""
        assert set(read_workloads()) == set(study_names())

    @pytest.mark.parametrize("name", ["late-phase/table-17", "late-phase/table-6", "digits"])
    def test_stored_workloads_are_correct(self, name):
        assert read_workloads()[name] == count_workload(name)

    def test_a_run_of_two_studies_is_trained_once(self):
        t, u, r, e = "trunks/t", "trunks/u", "r", "e"
        first = Workload("", {t: task(4), r: task(1, t), "s": task(2, t)})
        second = Workload("", {u: task(3), r: task(2, u), "new": task(2, u), e: task(0, r, "new")})
        assert merge_workloads([first, second]) == first.tasks | {k: second.tasks[k] for k in (u, "new", e)}
        assert list(merge_workloads([first, second])) == [t, r, "s", u, "new", e]

    def test_a_trunk_that_nothing_goes_on_from_is_not_trained(self):
        first = Workload("", {"a": task(5), "b": task(5)})
        second = Workload("", {"trunks/t": task(4), "a": task(1, "trunks/t"), "b": task(1, "trunks/t")})
        assert merge_workloads([first, second]) == first.tasks
        assert merge_workloads([second, first]) == second.tasks


def task(examples, *after):
    return TrainingTask(WRN, "label", examples, after)


class TestRates:
    def test_the_papers_run_takes_its_hours(self):
        assert 200 * 50_000 / paper_rates().rate_of(WRN).images_per_second / 3600 == pytest.approx(REFERENCE_HOURS)
        assert pytest.approx(17_714, rel=2e-4) == REFERENCE_HOURS * 3600

    def test_a_measured_network_has_its_own_rate_whatever_its_classes(self):
        assert target_rates().rate_of(WRN) == (9000, "target", "wrn-28-10")
        assert target_rates().rate_of(WRN._replace(classes=100, forward_flops=1.001 * WRN.forward_flops))[0] == 9000

    def test_another_one_is_scaled_from_the_nearest(self):
        near = Network("wrn-28-14", (3, 32, 32), 10, 128, 2 * WRN.forward_flops)
        assert target_rates().rate_of(near) == (4500, "from FLOPs", "wrn-28-10")
        tiny = Network("lenet5", (3, 32, 32), 10, 128, SMALL.forward_flops / 100)
        assert target_rates().rate_of(tiny) == pytest.approx((100 * 8e6 / 180, "from FLOPs (optimistic)", "cresnet20"))
        assert paper_rates().rate_of(SMALL).origin == "from FLOPs (optimistic)"
        other_images = WRN._replace(image=(1, 28, 28), forward_flops=WRN.forward_flops / 1.25)
        assert target_rates().rate_of(other_images) == (9000 * 1.25, "from FLOPs", "wrn-28-10")

    def test_the_nearest_batch_size_and_the_fastest_of_it(self):
        base = cifar10_cell("wrn-28-10", "float32", 1000)
        sizes = [(128, 1000), (1024, 5000), (256, 2000), (256, 2500)]
        cells = [base.model_copy(update={"batch_size": b, "images_per_second": r}) for b, r in sizes]
        rates = DeviceRates("x", "measured", "", tuple(cells))
        chosen = [rates.rate_of(WRN._replace(batch_size=size)).images_per_second for size in (1, 128, 255, 4000)]
        assert chosen == [1000, 1000, 2500, 5000]


CELL = {
    "architecture": "wrn-28-10",
    "image": [3, 32, 32],
    "classes": 10,
    "batch_size": 128,
    "precision": "float32",
    "method": "sgd",
    "images_per_second": 3000.0,
}


def rates_file(tmp_path, *cells, **changes):
    path = tmp_path / "speed.json"
    raw = {"device": {"name": "NVIDIA H200", "type": "cuda", "gib": 139}, "command": "make benchmark", "commit": "abc"}
    path.write_text(json.dumps({**raw, "cells": [CELL | cell for cell in cells], **changes}))
    return path


class TestRatesFile:
    def test_plain_training_in_each_precision(self, tmp_path):
        half = {"precision": "bfloat16", "images_per_second": 9500, "peak": 0.4}
        path = rates_file(tmp_path, half, {}, {"method": "late_phase_bn", "images_per_second": None})
        full, bfloat = read_rates(path)
        assert [full.name, bfloat.name] == ["NVIDIA H200, float32", "NVIDIA H200, bfloat16"]
        assert full.rate_of(WRN) == (3000, "measured", "wrn-28-10")
        assert bfloat.rate_of(WRN) == (9500, "measured", "wrn-28-10")
        assert full.about == f"measured by `make benchmark` at commit abc (`{path}`)"

    def test_a_cpu(self, tmp_path):
        (rates,) = read_rates(rates_file(tmp_path, {}, device={"name": "two cores", "type": "cpu"}))
        assert rates.unit == "CPU"

    @pytest.mark.parametrize(
        ("cells", "changes", "message"),
        [
            ([], {}, r"none of its 0 cells is of the method sgd"),
            ([{"method": "swa"}], {}, r"none of its 1 cells is of the method sgd"),
            ([{}, {"images_per_second": -1.0}], {}, r"cells\.1\.images_per_second: .*greater than 0 \(got -1\.0\)"),
            ([{"images_per_second": 0}], {}, r"cells\.0\.images_per_second: .*greater than 0"),
            ([{"images_per_second": math.nan}], {}, r"cells\.0\.images_per_second: .*finite"),
            ([{"images_per_second": None}], {}, r"cells\.0\.images_per_second: .*number \(got None\)"),
            ([{"architecture": "wrn-28"}], {}, r"cells\.0: .*wrn needs its depth and width"),
            ([{"architecture": "vgg"}], {}, r"cells\.0: .*unknown architecture 'vgg': known are lenet5"),
            ([{"image": [3, 32]}], {}, r"cells\.0\.image"),
            ([{"image": [3, 32, 64]}], {}, r"cells\.0: .*as high as wide, got \[3, 32, 64\]"),
            ([{"precision": "float16"}], {}, r"cells\.0\.precision: .*'float32' or 'bfloat16' \(got 'float16'\)"),
            ([{}], {"device": {"name": "x", "type": "tpu"}}, r"device\.type: .*'cuda' or 'cpu' \(got 'tpu'\)"),
            ([{}], {"commit": None}, r"commit: "),
        ],
    )
    def test_mistakes(self, tmp_path, cells, changes, message):
        path = rates_file(tmp_path, *cells, **changes)
        with pytest.raises(RatesError, match=rf"^{re.escape(str(path))}: {message}"):
            read_rates(path)

    @pytest.mark.parametrize(
        ("text", "message"),
        [("{", "not readable as JSON: "), ("[]", "Input should be .*dictionary"), ("{}", "device: Field required\n")],
    )
    def test_no_such_form(self, tmp_path, text, message):
        (tmp_path / "speed.json").write_text(text)
        with pytest.raises(RatesError, match=rf"speed\.json: {message}"):
            read_rates(tmp_path / "speed.json")

    def test_no_such_file(self, tmp_path):
        with pytest.raises(RatesError, match=r"missing\.json: no such file"):
            read_rates(tmp_path / "missing.json")


class TestPage:
    def test_a_prediction(self):
        tasks = {"trunks/t": task(9000 * 3600), "a": task(9000 * 3600, "trunks/t"), "b": task(18000 * 3600, "trunks/t")}
        found = predict(tasks, target_rates(), devices=(1, 2))
        assert (found.hours, found.hours_on, found.chain, found.rates) == (4, {1: 4, 2: 3}, 3, "target")
        slow = predict(
            tasks, DeviceRates("x", "measured", "", (cifar10_cell("wrn-28-10", "float32", 90),)), devices=(2,)
        )
        assert (slow.hours, slow.hours_on, slow.rates) == (400, {2: 300}, "measured")

    def test_hours_in_bold_are_the_longest_chains(self):
        hour = 9000 * 3600
        workloads = {
            "paper/two": Workload("", {f"run{i}": task(hour) for i in range(8)}),
            "paper/one": Workload("", {f"run{i}": task(hour) for i in range(9)}),
            "paper/none": Workload("", {}),
            "leaderboard": Workload("", {"long": task(2 * hour)}),
            "before": Workload("", {"small": TrainingTask(SMALL, "label", 1, ())}),
        }
        lines = render_page(workloads, [target_rates()], "command").splitlines()
        rows = [line for line in lines if re.match(r"\| (`|\*\*total)", line)]
        assert rows == [
            "| `leaderboard` | 1 | 2 | **2** | **2** | 2 | target | label |",
            "| `before` | 1 | under 0.1 | **under 0.1** | **under 0.1** | under 0.1 | target | label |",
            "| `paper/two` | 8 | 8 | **1** | **1** | 1 | target | label |",
            "| `paper/one` | 9 | 9 | 2 | **1** | 1 | target | label |",
            "| **total** | 9 | 9 | 2 | **1** | 1 | target | label |",
        ]
        assert "- Not listed, because they train nothing (simulated on a CPU in minutes): `paper/none`." in lines

    def test_one_run_on_many_gpus(self, tmp_path):
        path = TestWorkload().write(tmp_path, "'batch_ensemble(K=4)'")
        found = predict(count_workload(path).tasks, paper_rates())
        assert found.hours == found.chain == found.hours_on[64] == pytest.approx(4 * REFERENCE_HOURS)

    def test_the_paper_says_what_the_list_of_studies_says(self):
        """GPU-hours from the paper's rate are those of `econ list studies`, after sharing."""
        costs = read_costs()
        for name, found in read_workloads().items():
            assert found.runs == costs[name].runs, name
            if found.tasks:
                assert predict(found.tasks, paper_rates(), ()).hours == pytest.approx(
                    costs[name].hours_shared, rel=1e-3, abs=1e-3
                )

    def test_the_page_is_what_its_command_writes(self, monkeypatch):
        """After a change of a study or of this page: the command that stands in it."""
        text = PAGE.read_text(encoding="utf-8")
        (command,) = re.findall(r"Written by `(.*?)`", text)
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "harness.planning.scaling_forecast"] and words[-2:] == [
            "--output",
            "docs/scaling.md",
        ]
        given = dict(zip(words[3::2], words[4::2], strict=True))
        monkeypatch.chdir(PAGE.parents[1])
        rates = read_rates(Path(given["--rates"])) if "--rates" in given else [target_rates()]
        assert render_page(read_workloads(), [paper_rates(), *rates], command) == text

    def test_the_command(self, tmp_path, monkeypatch, capsys):
        known = {"late-phase/table-17": count_workload("late-phase/table-17")}
        monkeypatch.setattr(scaling_forecast, "load_workloads", lambda: known)
        rates, output = rates_file(tmp_path, {}), tmp_path / "page.md"
        scaling_forecast.main(rates, output)
        text = output.read_text(encoding="utf-8")
        assert f"`python -m harness.planning.scaling_forecast --rates {rates} --output {output}`" in text
        assert "| wrn-28-10 | 3×32×32 | 10 | 128 | 10 | 565 | measured | 3,000 | measured |" in text
        assert "target" not in text
        scaling_forecast.main(None, None)
        assert "| H200, bfloat16, target | 9,000 | 0.31 | target |" in capsys.readouterr().out
        with pytest.raises(SystemExit, match="no such file"):
            scaling_forecast.main(tmp_path / "missing.json", None)

    def test_the_studies_train_in_float32_as_the_page_says(self):
        assert not [path for path in STUDIES.rglob("*.yaml") if "precision" in path.read_text(encoding="utf-8")]

    def test_every_folder_of_studies_is_a_paper(self):
        assert {folder_of(name) for name in study_names()} == set(scaling_forecast.PAPERS)
