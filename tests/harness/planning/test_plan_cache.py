"""Plans in the user's cache: the same plan as before, and none once anything that it was made of has changed."""

import json
import subprocess
import sys

import pytest

from harness.cache import user_cache
from harness.cli import options
from harness.cli.options import Refusal, make_plan
from harness.planning.plan import Plan
from harness.planning.plan_cache import CachedRun, with_specs
from harness.planning.planned_runs import Planned
from harness.studies.study import load

PLUGIN = """
from typing import Annotated
from pydantic import Field
from methods import Method

class Mine(Method):
    version = {version}

    def __init__(self, make_net, recipe, *, alpha: tuple[float, ...] = (0.5, 0.5), names: list[str] = []):
        super().__init__(make_net, recipe)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("ECON_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cached(plan) -> bool:
    """Whether a plan comes from the cache."""
    return all(isinstance(planned.run, CachedRun) for planned in plan.runs.values())


@pytest.mark.parametrize(
    "name", ["digits", "landscape", "late-phase/table-15", "late-phase/figure-1", "subspaces/figure-8"]
)
def test_a_plan_comes_back_whole(name):
    first, second = make_plan(name, None, share=True), make_plan(name, None, share=True)
    assert not cached(first) and cached(second)
    assert list(second.runs) == list(first.runs)
    for key, planned in second.runs.items():
        other = first.runs[key]
        assert planned.run.tags() == other.run.tags() and str(planned.run) == str(other.run)
        assert planned.run.setup == other.run.setup and planned.key == other.key == key
        links = [name for name in Planned.__dataclass_fields__ if name != "run"]
        assert [getattr(planned, name) for name in links] == [getattr(other, name) for name in links]
    assert with_specs(second).runs == first.runs
    whole, found = Plan(load(name), share=True).study, second.study
    for field in ("name", "kind", "plugins", "description", "caption", "banner", "figures"):
        assert getattr(found, field) == getattr(whole, field), field
    paper, again = whole.published_values(), found.published_values()
    if paper is None:
        assert again is None
    else:
        assert again.equals(paper) and again.attrs == paper.attrs and (again.dtypes == paper.dtypes).all()


def test_hyperparameters_keep_their_types(tmp_path, write_study):
    (tmp_path / "mine.py").write_text(PLUGIN.format(version=1))
    methods = ["sgd", "mine(alpha=(0.25, 0.75), names=['a', 'b'])", "swa(mine(alpha=(1.0,)))"]
    study = write_study(tmp_path / "s.yaml", plugins=["mine.py"], methods=methods)
    first, second = make_plan(str(study), None, share=True), make_plan(str(study), None, share=True)
    assert cached(second) and with_specs(second).runs == first.runs
    (run,) = (p.run for p in with_specs(second).runs.values() if "names" in str(p.run))
    assert run.method.hyperparameters == {"alpha": (0.25, 0.75), "names": ["a", "b"]}


def test_what_a_plan_was_made_of_is_compared(tmp_path, write_study, npz, monkeypatch):
    data = tmp_path / "own.npz"
    data.write_bytes(npz.read_bytes())
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN.format(version=1))
    study = write_study(tmp_path / "s.yaml", datasets=[f"npz:{data}"])

    def is_cached() -> bool:
        return cached(make_plan(str(study), [plugin], share=True))

    assert [is_cached(), is_cached()] == [False, True]
    plugin.write_text(PLUGIN.format(version=2))
    assert [is_cached(), is_cached()] == [False, True]
    plugin.write_text("import my_layers\n" + PLUGIN.format(version=2))
    plugin.with_name("my_layers.py").write_text("FACTOR = 1\n")
    assert [is_cached(), is_cached()] == [False, True]
    plugin.with_name("my_layers.py").write_text("FACTOR = 2\n")
    assert [is_cached(), is_cached()] == [False, True]
    optional = "try:\n    import my_optional\nexcept ImportError:\n    pass\n"
    plugin.write_text(optional + PLUGIN.format(version=2))
    assert [is_cached(), is_cached()] == [False, True]
    plugin.with_name("my_optional.py").write_text("")
    assert [is_cached(), is_cached()] == [False, True]
    data.write_bytes(npz.read_bytes() + b"\0")  # a zip may be followed by something
    assert [is_cached(), is_cached()] == [False, True]
    study.write_text(study.read_text() + "# a comment\n")
    assert [is_cached(), is_cached()] == [False, True]
    monkeypatch.setattr(user_cache, "code_fingerprint", lambda: "another version")
    assert [is_cached(), is_cached()] == [False, True]


def test_options_have_plans_of_their_own(tmp_path, write_study):
    study = str(write_study(tmp_path / "s.yaml", seeds=[0, 1], methods=["sgd", "swa(start=2)"]))
    plans = [make_plan(study, None, share=share, scale=scale) for share in (False, True) for scale in (None, "seeds=1")]
    again = [make_plan(study, None, share=share, scale=scale) for share in (False, True) for scale in (None, "seeds=1")]
    assert not any(map(cached, plans)) and all(map(cached, again))
    assert [list(plan.runs) for plan in again] == [list(plan.runs) for plan in plans]
    assert again[1].study.banner and not again[0].study.banner


def test_mistakes_are_found_each_time(tmp_path, write_study, cache):
    study = write_study(tmp_path / "s.yaml", methods=["sgd", "nothing"])
    for _ in range(2):
        with pytest.raises(Refusal, match="unknown method 'nothing'"):
            make_plan(str(study), None)
    assert not list(cache.glob("*.json")) if cache.exists() else True


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": {}, "value": null}', '{"files": 3}'])
def test_a_damaged_entry_counts_for_nothing(tmp_path, write_study, cache, content):
    study = str(write_study(tmp_path / "s.yaml"))
    make_plan(study, None)
    (entry,) = cache.glob("plan-*.json")
    entry.write_text(content)
    assert not cached(make_plan(study, None)) and cached(make_plan(study, None))


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, write_study, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ECON_CACHE", str(tmp_path / "file" / "inside"))
    study = str(write_study(tmp_path / "s.yaml"))
    assert make_plan(study, None).runs.keys() == make_plan(study, None).runs.keys()


@pytest.mark.long
def test_commands_that_read_need_no_torch(tmp_path, write_study, environment, cache):
    study = write_study(tmp_path / "s.yaml", methods=["sgd", "swa(start=2)"])
    code = (
        "import sys; from harness.cli.app import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print('\\nloaded', *sys.modules)"
    )
    for arguments in (
        ["status", study, "--json"],
        ["run", study, "--dry-run"],
        ["list", "methods"],
        ["list", "models"],
    ):
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-c", code, *map(str, arguments)],
                capture_output=True,
                text=True,
                check=True,
                cwd=tmp_path,
                env=environment | {"ECON_CACHE": str(cache)},
            )
        said, _, modules = done.stdout.rpartition("\nloaded ")
        assert not {"torch", "mlflow", "pandas"} & set(modules.split()), arguments
        if "--json" in arguments:
            assert json.loads(said)["counts"]["to do"] == 2


def test_a_file_that_is_edited_during_the_checks_leaves_no_entry(tmp_path, write_study, monkeypatch):
    study = write_study(tmp_path / "s.yaml")
    checked = options.check_plan

    def check(*arguments, **keywords):
        plan = checked(*arguments, **keywords)
        study.write_text(study.read_text() + "# edited\n")
        return plan

    monkeypatch.setattr(options, "check_plan", check)
    make_plan(str(study), None)
    monkeypatch.undo()
    assert not cached(make_plan(str(study), None))


def test_datasets_of_one_shape_have_warnings_of_their_own(tmp_path, write_study, npz):
    datasets = [{"name": f"npz:{npz}"}, {"name": f"npz:{npz}", "label_noise": 0.5}]
    study = write_study(tmp_path / "s.yaml", datasets=datasets, methods=["late_phase_bn(K=5, start=1, leftover=step)"])
    said = {planned.warning for planned in make_plan(str(study), None).runs.values()}
    assert len(said) == 2 and all(said)
