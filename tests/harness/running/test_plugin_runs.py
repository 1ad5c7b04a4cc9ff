"""Runs of plugin methods: the files that made them are kept with them, and no others may."""

import zipfile

import pytest

from harness.engines import Inline, Processes
from harness.parsing.plugins import available_methods
from harness.running.execute import execute
from harness.running.settings import Settings
from harness.store.damaged_files import read_json
from harness.store.run_folder import RunFolder

PLUGIN = """
from methods import Method

class Mine(Method):
    'Uses a module beside it when it is trained.'
    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        from my_layers import FACTOR
        assert FACTOR == 1
"""
FAILING = PLUGIN.replace("assert FACTOR == 1", "raise ValueError('boo')")


@pytest.fixture
def plugin(tmp_path):
    """The path of a plugin with a module beside it."""
    path = tmp_path / "plugin" / "mine.py"
    path.parent.mkdir()
    path.write_text(PLUGIN)
    path.with_name("my_layers.py").write_text("FACTOR = 1\n")
    return path


@pytest.mark.parametrize("engine", [Inline(1), pytest.param(Processes(1, 1), marks=pytest.mark.long)])
def test_the_files_of_a_method_are_kept_with_its_runs(tmp_path, plugin, write_study, run_study, engine):
    other = tmp_path / "other.py"
    other.write_text("import methods\nMETHODS = {'averaged': methods.SWA}\n")
    study = write_study(tmp_path / "s.yaml", methods=["sgd", "averaged(mine, start=1)", "swa(mine, start=1)"])
    done = run_study(study, tmp_path / "runs", engine, plugins=[plugin, other])
    assert done.schedule.failed == {}
    mine, both = {"mine/mine.py", "mine/my_layers.py"}, {"mine/mine.py", "mine/my_layers.py", "averaged/other.py"}
    expected = {
        "sgd": None,
        "averaged(mine, start=1)": both,
        "swa(mine, start=1)": mine,
        "averaged": {"averaged/other.py"},
        "mine": mine,
    }
    for key, planned in done.plan.runs.items():
        kept = RunFolder(tmp_path / "runs", key).source
        names = set(zipfile.ZipFile(kept).namelist()) if kept.exists() else None
        assert names == expected[str(planned.run.method)], planned.run


def test_the_kept_files_give_the_same_key(tmp_path, plugin, make_run):
    settings = Settings(tmp_path / "runs", plugins=(plugin,))
    run = make_run("mine", methods=available_methods([plugin]))
    assert execute(run, settings, []) == ("finished", "")
    zipfile.ZipFile(RunFolder(settings.runs, run.key).source).extractall(tmp_path / "kept")
    again = make_run("mine", methods=available_methods([tmp_path / "kept" / "mine" / "mine.py"]))
    assert again.key == run.key


def test_the_files_of_a_run_that_fails_are_kept(tmp_path, plugin, make_run):
    plugin.write_text(FAILING)
    settings = Settings(tmp_path / "runs", plugins=(plugin,))
    run = make_run("mine", methods=available_methods([plugin]))
    assert execute(run, settings, []) == ("failed", "ValueError: boo")
    assert zipfile.ZipFile(RunFolder(settings.runs, run.key).source).read("mine/mine.py") == FAILING.encode()


@pytest.mark.parametrize("edited", ["mine.py", "my_layers.py"])
def test_a_plugin_that_was_edited_since_the_run_was_planned_trains_nothing(tmp_path, plugin, make_run, edited):
    settings = Settings(tmp_path / "runs", plugins=(plugin,))
    run = make_run("mine", methods=available_methods([plugin]))
    path = plugin.with_name(edited)
    path.write_text(path.read_text() + "# edited\n")
    state, reason = execute(run, settings, [])
    assert state == "failed"
    assert reason.startswith("ValueError: mine: the files of its plugin were edited after this run was planned")
    folder = RunFolder(settings.runs, run.key)
    assert read_json(folder.failure)["reason"] == reason
    assert not folder.source.exists() and not folder.checkpoint.exists()


@pytest.mark.parametrize("engine", [Inline(1), pytest.param(Processes(1, 1), marks=pytest.mark.long)])
def test_a_method_that_ends_the_program_fails_and_the_others_go_on(tmp_path, plugin, write_study, run_study, engine):
    plugin.write_text(PLUGIN.replace("assert FACTOR == 1", "raise SystemExit(0)"))
    study = write_study(tmp_path / "s.yaml", methods=["mine", "sgd"])
    ran = run_study(study, tmp_path / "runs", engine, plugins=(plugin,))
    assert sorted(ran.log.ends) == [("mine", "failed"), ("sgd", "finished")]
    (failed,) = ran.schedule.failed.values()
    assert failed.reason == "SystemExit: 0"
