"""The commands `econ tune` and `--tuned`: what they print, write and refuse."""

import errno
import json
import shutil
import signal
import subprocess
import sys
import time
from html import unescape

import pytest
import torch
import typer
import yaml

from harness.cli import options as cli_options
from harness.cli.tune import TunedValuesWriter, conclude
from harness.studies.study import load
from harness.tuning import trial, trial_schedule
from harness.tuning.study_searches import find_searches
from harness.tuning.trial_budget import Budget
from harness.tuning.trial_journal import AtomicJournalFile
from harness.tuning.trial_schedule import TrialSchedule

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def call(run_here, monkeypatch, tmp_path, empty_store):
    """Run the command line in this process, with a store that need not be made: exit code and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    return run_here


@pytest.fixture
def study(tmp_path, write_study, npz):
    held_out = [{"name": f"npz:{npz}", "validation": 15, "corruptions": "none"}]
    methods = ["sgd", {"late": "late_phase_bn(K=2, start=1)"}, "batch_ensemble(K=2)"]
    return write_study(tmp_path / "s.yaml", datasets=held_out, methods=methods)


def test_a_dry_run_says_what_it_would_take_and_starts_nothing(call, study, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    code, out, err = call("tune", study, "--trials", 6, "--dry-run")
    assert (code, err) == (0, "")
    assert "not tuned: sgd: nothing to search (rows validation=15 · lenet5)" in out
    assert "at most 6 trials and 6 plain trainings a method" in out
    rows = [line.replace("│", " ").split() for line in out.splitlines()]
    assert ["late_phase_bn(K=2,", "start=1)", "sigma0,", "gamma_theta", "6", "0", "18", "6.0"] in rows
    assert ["batch_ensemble(K=2)", "init,", "sigma,", "lr_scale", "3", "0", "9", "6.0"] in rows
    assert ["total", "9", "0", "27", "12.0"] in rows
    assert sorted(tmp_path.rglob("*")) == before
    (search,) = find_searches(load(str(study)), "nll", 1000, ["late"]).searches
    (tmp_path / "runs" / "tuning" / search.key).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    assert call("tune", study, "--trials", 6, "--dry-run")[0] == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_refused_begins_no_trial(call, study, tmp_path):
    (tmp_path / "other.yaml").write_text("study: other\ntuned: []\n")
    code, _, err = call("tune", study, "--output", "other.yaml")
    assert (code, "holds the tuned values of study 'other'" in err) == (2, True)
    assert not (tmp_path / "runs" / "tuning").exists()


@pytest.mark.parametrize("compiled", ["off", "default"])
@pytest.mark.parametrize(("fuse", "up_to"), [("never", 0), ("always", sys.maxsize)], ids=["never", "always"])
@pytest.mark.parametrize("command", [("tune", "--trials", 1, "--method", "late"), ("run",)], ids=["tune", "run"])
def test_trials_and_runs_are_fused_and_compiled_as_asked_for(
    call, study, tmp_path, monkeypatch, command, fuse, up_to, compiled
):
    modes, sizes = [], []

    def compile_nothing(function, **options):
        modes.append(options["mode"])

        def run(net, x):
            sizes.append(len(x))
            return function(net, x)

        return run

    monkeypatch.setattr(torch, "compile", compile_nothing)
    code, _, err = call(*command, study, "--threads", 1, "--fuse", fuse, "--compile", compiled)
    assert code == 0, err
    written = [json.loads(path.read_text())["provenance"] for path in tmp_path.glob("runs/**/result.json")]
    assert {(each["compile"], each["fuse_up_to"]) for each in written} == {(compiled, str(up_to))}
    assert set(modes) == ({compiled} - {"off"})
    if command[0] == "tune" and modes:
        assert (2 * 16 in sizes) == (fuse == "always"), "a cycle of two members in one pass"


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device", "the file")


def test_a_full_disk_stops_tuning_and_the_same_command_goes_on(call, study, tmp_path, monkeypatch):
    stopped = (
        "tuning was stopped: no space is left for the file: free some; trials are kept, and the same command goes on"
    )
    command = ("tune", study, "--trials", 2, "--threads", 1, "--method", "late")
    monkeypatch.setattr(trial_schedule, "START_TIMEOUT", 0.0)  # the process that began the trial is this one, and lives
    for place, name in ((trial, "write_json"), (AtomicJournalFile, "append_logs")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            code, out, err = call(*command)
        assert code == 2
        assert stopped in err
        assert "Traceback" not in err
        assert "wrote" not in out
        assert not (tmp_path / "tuned").exists()
    code, out, _ = call(*command)
    assert (code, "trial 0: finished" in out, "trial 1: " in out) == (0, True, True)


def test_a_search_that_is_not_over_is_named_and_no_success(study, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli_options.console, "_width", 200)
    trials = TrialSchedule(
        find_searches(load(str(study)), "nll", 1000, ["late"]).searches, tmp_path / "runs", Budget(1, 1.0)
    )
    trials.ensure_waiting()

    class Mirror:
        unsent: frozenset[str] = frozenset()

    with pytest.raises(typer.Exit) as caught:
        conclude(trials, Mirror(), TunedValuesWriter(trials, tmp_path / "t.yaml", "s", study), "s")
    assert caught.value.exit_code == 1
    assert "not over: late_phase_bn(K=2, start=1) · rows validation=15 · lenet5: " in capsys.readouterr().out


def test_tune_then_run_rank_and_plot(call, study, tmp_path):
    code, out, err = call("tune", study, "--trials", 3, "--threads", 1)
    assert code == 0, err
    assert "[1/3] late_phase_bn(K=2, start=1) · lenet5 · rows validation=15 · seed 1000 · trial 0: finished in" in out
    assert f"`econ run {study} --tuned tuned/s.yaml` uses it" in out
    file = tmp_path / "tuned" / "s.yaml"
    entries = yaml.safe_load(file.read_text())["tuned"]
    assert [entry["method"] for entry in entries] == ["batch_ensemble(K=2)", "late_phase_bn(K=2, start=1)"]
    text = file.read_text()
    code, out, _ = call("tune", study, "--trials", 3, "--threads", 1)
    assert (code, file.read_text()) == (0, text)
    assert "[" not in out.split("trials a method")[0], "nothing is tried again"

    entries[1]["values"]["sigma0"] = 0.125  # as if something else than the defaults had been chosen
    file.write_text(yaml.safe_dump({"study": "s", "tuned": entries}))
    tuned = ("--tuned", file)
    assert call("status", study, *tuned)[1].startswith("0 finished, 0 running, 0 stopped, 0 failed, 3 to do")
    code, out, err = call("run", study, "--threads", 1, *tuned)
    assert code == 0, err
    assert "late_phase_bn(K=2, start=1, sigma0=0.125" in out
    assert "study s · tuned: all 3 runs are finished" in out
    assert call("status", study, *tuned)[1].startswith("3 finished")
    code, out, _ = call("sync", study, *tuned)
    assert (code, out) == (0, f"3 runs of study s · tuned are in sqlite:///{tmp_path}/runs/mlflow.db\n")
    caption = (
        "Tuned on validation data (NLL, at most 3 trials and 3 plain trainings a method, the study's own values in any "
        f"case, seed 1000): late: gamma_theta, sigma0; batch_ensemble(K=2): {', '.join(entries[0]['values'])}. "
        f"Values: {file}. Not tuned: sgd."
    )
    code, out, err = call("leaderboard", study, *tuned)
    assert code == 0, err
    assert caption in out
    assert "late" in out
    code, out, err = call("report", study, *tuned)
    assert code == 0, err
    assert out.endswith("wrote results/s-tuned/report.html\n")
    assert caption in unescape((tmp_path / "results" / "s-tuned" / "report.html").read_text())
    assert caption.replace("_", r"\_") in call("table", study, *tuned)[1].replace("{=}", "=")
    code, _, err = call("leaderboard", study)
    assert code == 2, "the study as written has no such board"
    code, out, err = call("plot", study, "tuning", "--output", "plots", *tuned)
    assert code == 0, err
    assert (tmp_path / "plots" / "tuning.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tune", "digts"), "unknown study 'digts'"),
        (("tune", "late-phase/figure-1"), "it has no methods to tune"),
        (("run", "late-phase/figure-1", "--tuned", "t.yaml"), "has no methods to tune"),
        (("tune", "digits", "--method", "sgs"), "--method sgs: the study has sgd, "),
        (("tune", "digits", "--seed", "8"), "--seed 8 is one of the study's own (0, 1, 2, 3, 4, 5, 6, 7, 8)"),
        (("tune", "digits", "--method", "dropout", "--output", "bad.yaml"), "bad.yaml: expected a mapping with"),
        (
            ("tune", "digits", "--method", "dropout", "--output", "other.yaml"),
            "holds the tuned values of study 'other'",
        ),
        (("tune", "digits", "--method", "dropout", "--device", "tpu9"), "--device tpu9: "),
        (("run", "digits", "--tuned", "no.yaml"), "no.yaml: no such file; `econ tune` writes it"),
        (("leaderboard", "digits", "--tuned", "bad.yaml"), "bad.yaml: expected a mapping with the keys"),
        (("plot", "digits", "tuning"), "tune the study with `econ tune digits`"),
        (("tune", "digits", "--metric", "beauty"), "Invalid value for '--metric'"),
    ],
)
def test_mistakes_of_the_user(call, tmp_path, arguments, message):
    (tmp_path / "bad.yaml").write_text("[1]")
    (tmp_path / "other.yaml").write_text("study: other\ntuned: []\n")
    code, _, err = call(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


FAILING = """
from optuna.distributions import FloatDistribution
from methods import Method
class Failing(Method):
    space = {"a": FloatDistribution(0.0, 1.0)}
    def __init__(self, make_net, recipe, *, a: float = 0.5):
        super().__init__(make_net, recipe)
    def begin_epoch(self, epoch):
        raise KeyError("[/red] what [bold]")
"""


def test_a_search_without_a_finished_trial_is_a_failure(call, study, tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    code, out, _ = call("tune", study, "--plugin", tmp_path / "failing.py", "--method", "failing", "--trials", 2)
    assert code == 1
    assert "nothing: no trial finished" in out
    assert "failed: failing · lenet5 · rows validation=15 · seed 1000: KeyError: '[/red] what [bold]'" in out
    assert not (tmp_path / "tuned").exists()


@pytest.mark.long
def test_ctrl_c_keeps_what_is_done(econ, environment, study, tmp_path, empty_store):
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    process = subprocess.Popen(
        [*econ, "tune", str(study), "--trials", "200"], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/tuning/*/*/result.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; trials are kept, and the same command goes on with the others" in out
