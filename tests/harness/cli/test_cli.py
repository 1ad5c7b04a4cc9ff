"""The command line: what it prints, what it leaves alone, and its exit codes."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def call(run_here, monkeypatch, tmp_path):
    """Run the command line in this process: exit code and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return run_here


@pytest.fixture
def store(tmp_path, empty_store):
    """A default store that need not be made."""
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")


@pytest.mark.alone
def test_help_is_quick(econ, environment):
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([*econ, "--help"], env=environment, capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0
    for command in ("run", "tune", "status", "sync", "leaderboard", "table", "plot", "report", "list", "new-method"):
        assert command in done.stdout


def test_the_help_of_every_command_needs_no_heavy_import(environment):
    program = (
        "import sys; from typer.testing import CliRunner; from harness.cli.app import app\n"
        "names = 'run tune status sync leaderboard table plot report list new-method'.split()\n"
        "for name in names:\n"
        "    assert CliRunner().invoke(app, [name, '--help']).exit_code == 0, name\n"
        "print({'torch', 'mlflow', 'pandas', 'numpy', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr


def test_a_dry_run_starts_nothing(call, tmp_path, write_study):
    study = write_study(
        tmp_path / "s.yaml", methods=["sgd", "late_phase_bn(K=5, start=1, leftover=step)", "deep_ensemble(K=2)"]
    )
    code, out, err = call("run", study, "--dry-run")
    assert (code, err) == (0, "")
    assert "warning: late_phase_bn(K=5, start=1, leftover=step) on rows: an epoch has 4 minibatches" in out
    assert "study s: 4 runs" in out
    rows = [line.replace("│", " ").split() for line in out.splitlines()]
    assert ["total", "3", "12", "8", "5", "8"] in rows  # the late phase goes on from a trunk of one epoch
    assert "after sharing: 8 of 12 epochs as written, 66.7 %" in out
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]


def test_run_status_sync_and_leaderboard(call, tmp_path, write_study, store):
    study = write_study(tmp_path / "s.yaml", methods=["sgd", {"averaged": "swa(start=1)"}], seeds=[0, 1])
    code, out, _ = call("leaderboard", study)
    assert code == 2
    assert call("status", study)[1].startswith("0 finished, 0 running, 0 stopped, 0 failed, 4 to do")
    code, out, err = call("run", study)
    assert code == 0, err
    assert "[6/6] swa(start=1) · lenet5 · rows · seed 1: finished in" in out
    assert out.count("trunk of 1 epochs") == 2, "one a seed"
    assert "study s: all 4 runs are finished" in out
    code, out, _ = call("run", study)
    assert code == 0
    assert "finished in" not in out
    assert call("status", study)[1].startswith("4 finished, 0 running, 0 stopped, 0 failed, 0 to do")
    code, out, _ = call("sync", study)
    assert (code, out) == (0, f"4 runs of study s are in sqlite:///{tmp_path}/runs/mlflow.db\n")
    code, out, err = call("leaderboard", study, "--format", "csv")
    assert code == 0, err
    assert "averaged" in out
    code, out, err = call("leaderboard", study, "--by", "beauty")
    assert code == 2
    assert err.startswith("error: ")
    code, out, _ = call("table", study, "--output", tmp_path / "deep" / "t.tex")
    assert code == 0
    assert r"\toprule" in (tmp_path / "deep" / "t.tex").read_text()


@pytest.mark.long
def test_plots_of_another_study_or_of_a_rehearsal_lie_elsewhere(call, tmp_path, write_study, store):
    study = write_study(tmp_path / "s.yaml", methods=["sgd"], recipe={"epochs": 2})
    other = write_study(tmp_path / "t.yaml", methods=["sgd"], recipe={"epochs": 1})
    small, runs = ("--scale", "epochs=1"), ("--runs", tmp_path / "runs")
    for arguments, folder in (((study,), "s"), ((other,), "t"), ((study, *small), "s-rehearsal")):
        assert call("run", *arguments, *runs)[0] == 0
        code, out, err = call("plot", arguments[0], "cost", *arguments[1:], *runs)
        assert code == 0, err
        assert out.splitlines()[-3:] == [f"wrote results/{folder}/cost.{suffix}" for suffix in ("pdf", "svg", "png")]
    code, out, err = call("plot", study, "cost", "--output", "mine", *runs)
    assert (code, out.splitlines()[-1]) == (0, "wrote mine/cost.png"), err
    write_study(tmp_path / "s.yaml", methods=["sgd"], recipe={"epochs": 2}, figures=[{"plot": "cost", "name": "a"}])
    assert "wrote results/s-a.png" in call("plot", study, *runs)[1]
    assert "wrote results/s/cost.png" in call("plot", study, "cost", *runs)[1]


def test_report(call, tmp_path, write_study, store):
    """A run of the study was trained, another one was not."""
    study = write_study(tmp_path / "s.yaml", methods=["sgd"], recipe={"epochs": 1})
    code, _, err = call("report", study)
    assert (code, err.count(f"train the study with `econ run {study}`")) == (2, 1)
    assert call("run", study)[0] == 0
    write_study(
        tmp_path / "s.yaml", methods=["sgd", {"<late>": "label_smoothing"}], recipe={"epochs": 1}, description="Mine"
    )
    code, out, err = call("report", study)
    assert code == 0, err
    assert "drawing reliability" in out.splitlines()
    assert out.endswith("wrote results/s/report.html\n")
    text = (tmp_path / "results" / "s" / "report.html").read_text()
    assert "<h1>Study s</h1>" in text and "<dd>Mine</dd>" in text
    assert "Not shown, missing: 1 run (&lt;late&gt; · lenet5 · rows · seed 0)." in text
    code, _, err = call("report", study, "--by", "beauty")
    assert (code, err.partition(";")[0]) == (2, "error: no run has 'beauty'")
    code, _, err = call("report", study, "--output", tmp_path / "s.yaml" / "r.html")
    assert (code, err) == (2, f"error: --output {tmp_path}/s.yaml/r.html: File exists\n")
    code, _, err = call("report", "late-phase/figure-1")
    assert code == 2 and err.startswith("error: study late-phase/figure-1 simulates the noisy quadratic problem")


def test_a_method_under_two_labels_has_two_rows(call, tmp_path, write_study, store):
    study = write_study(tmp_path / "s.yaml", methods=["sgd", {"T0 = 3": "sgd"}], recipe={"epochs": 1})
    code, out, _ = call("run", study)
    assert code == 0
    assert "all 1 runs are finished" in out
    code, out, _ = call("leaderboard", study)
    assert code == 0
    rows = [line[3:] for line in out.splitlines() if line.startswith("1  ")]
    assert [row.split("  ")[0] for row in rows] == ["T0 = 3", "sgd"], out
    assert rows[0].split()[-2:] == rows[1].split()[-2:] == ["1.00", "1.00"]


BROKEN = """
from methods import Method
class Broken(Method):
    def begin_epoch(self, epoch):
        raise KeyError("[/red] what [bold]")
"""


def test_failures_give_exit_code_1_and_a_table(call, tmp_path, write_study, store):
    (tmp_path / "broken.py").write_text(BROKEN)
    study = write_study(tmp_path / "s.yaml")
    code, out, _ = call("run", study, "--plugin", tmp_path / "broken.py")
    assert code == 1
    assert "1 of 2 runs did not finish" in out
    assert "[1/2] sgd · lenet5 · rows · seed 0: finished in" in out
    assert "KeyError: '[/red] what [bold]'" in " ".join(out.split("did not finish")[1].split())
    code, out, _ = call("status", study, "--plugin", tmp_path / "broken.py")
    assert code == 0
    assert out.startswith("1 finished, 0 running, 0 stopped, 1 failed, 0 to do")
    assert "KeyError: '[/red] what [bold]'" in out


PEEKING = """
from methods import Method
class Peeking(Method):
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.watches = "test"
"""


def test_what_was_chosen_on_test_data_is_not_ranked_and_that_is_said(call, tmp_path, write_study, store):
    (tmp_path / "peeking.py").write_text(PEEKING)
    study, plugin = write_study(tmp_path / "s.yaml", seeds=[0, 1]), ("--plugin", tmp_path / "peeking.py")
    code, _, err = call("run", study, *plugin)
    assert code == 0, err
    note = "Chosen on test data: not ranked (2 runs: peeking)."
    code, board, _ = call("leaderboard", study, *plugin)
    assert code == 0
    assert note in board.splitlines()
    assert "peeking" not in board.replace(note, "")
    assert " sgd " in board
    code, table, _ = call("table", study, *plugin)
    assert code == 0
    assert note in " ".join(table.split())
    code, out, err = call("plot", study, "cost", "--output", tmp_path / "plots", *plugin)
    assert code == 0, err
    assert note in out
    assert "peeking" not in (tmp_path / "plots" / "cost.svg").read_text()
    alone = write_study(tmp_path / "t.yaml", methods=["peeking"], plugins=["peeking.py"])
    call("run", alone)
    code, _, err = call("leaderboard", alone)
    assert code == 2
    assert "error: there is nothing to rank; Chosen on test data: not ranked (1 run: peeking)." in err


def test_a_store_that_is_away_stops_nothing(call, tmp_path, write_study, empty_store):
    study = write_study(tmp_path / "s.yaml")
    code, out, _ = call("run", study, "--store", "http://127.0.0.1:9")
    assert code == 0
    assert "warning: cannot use the tracking store http://127.0.0.1:9: " in out
    assert out.count("warning: ") == 1
    assert "the tracking store lacks 1 of the runs: cannot use the tracking store http://127.0.0.1:9" in out
    assert "`econ sync" in out
    assert "study s: all 1 runs are finished" in out
    code, _, err = call("sync", study, "--store", "http://127.0.0.1:9")
    assert code == 2
    assert "cannot use the tracking store" in err
    assert "1 of 1 runs were not sent" in err
    shutil.copy(empty_store, tmp_path / "later.db")
    code, out, _ = call("sync", study, "--store", f"sqlite:///{tmp_path / 'later.db'}")
    assert (code, out.split(" of ")[0]) == (0, "1 runs")
    code, out, err = call("leaderboard", study, "--store", f"sqlite:///{tmp_path / 'later.db'}")
    assert code == 0, err
    assert "sgd" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "digts"), "error: unknown study 'digts'; did you mean 'digits'? there are "),
        (("run", "nowhere.yaml"), "error: study nowhere.yaml: no such file"),
        (("status", "digts"), "error: unknown study 'digts'"),
        (
            ("run", "bad.yaml"),
            "error: 1 error in the study; nothing was started\n  bad.yaml:4: methods[0]: unknown meth",
        ),
        (("run", "digits", "--device", "tpu9"), "error: --device tpu9: "),
        (("run", "digits", "--plugin", "no.py"), "no.py: no such file"),
        (("new-method", "My-Method"), "error: 'My-Method' is not a name in snake_case"),
        (("list", "methods", "--plugin", "no.py"), "error: plugin no.py: no such file"),
        (("run", "digits", "--engine", "magic"), "Invalid value for '--engine'"),
        (("run", "digits", "--workers", "0"), "Invalid value for '--workers'"),
        (("run", "digits", "--device", "cpu", "--gpus", "0"), "error: --gpus and --per-gpu share out GPUs with --eng"),
    ],
)
def test_mistakes_of_the_user_give_exit_code_2_and_no_traceback(call, tmp_path, arguments, message):
    text = "datasets: [digits]\narchitectures: [lenet5]\nseeds: [0]\nmethods: [swe]\nrecipe: {epochs: 1}\n"
    (tmp_path / "bad.yaml").write_text(text)
    code, _, err = call(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_lists(call):
    code, out, _ = call("list", "methods")
    assert code == 0
    assert "swa(METHOD)" in out
    assert "Average the weights at the ends of the last epochs" in " ".join(out.split())
    assert "gamma_theta = 1.0 search 1.0 or '1/K'" in " ".join(out.split())
    code, table, _ = call("list", "methods", "--format", "markdown")
    assert code == 0
    assert table.startswith("| method | what it does | paper | training cost | prediction cost |\n| --- |")
    code, _, err = call("list", "models", "--format", "markdown")
    assert (code, err) == (2, "error: --format markdown: only methods are listed so\n")
    for what, name in (("models", "lenet5"), ("datasets", "digits"), ("studies", "digits")):
        code, out, _ = call("list", what)
        assert code == 0
        assert any(line.split()[0] == name and len(line.split()) > 3 for line in out.splitlines())
    code, _, _ = call("list", "nonsense")
    assert code == 2


def test_a_listed_plugin_is_read_again_once_a_module_beside_it_was_edited(call, tmp_path):
    (tmp_path / "mine.py").write_text("from layers import Base\nMETHODS = {'mine': Base}\n")
    for text in ("The first words.", "The other words."):
        (tmp_path / "layers.py").write_text(f"from methods import Method\nclass Base(Method):\n    {text!r}\n")
        for _ in range(2):
            code, out, _ = call("list", "methods", "--plugin", "mine.py")
            assert code == 0 and text.rstrip(".") in out


def test_new_method_writes_and_never_overwrites(call, tmp_path, write_study, store):
    code, out, _ = call("new-method", "my_noise", "--into", "mine")
    assert code == 0
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"my_noise.py", "test_my_noise.py"}
    (tmp_path / "mine" / "my_noise.py").unlink()
    (tmp_path / "mine" / "test_my_noise.py").write_text("mine")
    code, _, err = call("new-method", "my_noise", "--into", "mine")
    assert code == 2
    assert "test_my_noise.py is there already; nothing was written" in err
    assert (tmp_path / "mine" / "test_my_noise.py").read_text() == "mine"
    assert not (tmp_path / "mine" / "my_noise.py").exists()
    (tmp_path / "mine" / "test_my_noise.py").unlink()
    call("new-method", "my_noise", "--into", "mine")
    study = write_study(tmp_path / "s.yaml")
    code, out, _ = call("run", study, "--plugin", "mine/my_noise.py")
    assert code == 0
    assert "my_noise · lenet5 · rows · seed 0: finished in" in out


SLOW = """
import time
from methods import Method
class Slow(Method):
    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        time.sleep(0.2)
"""


@pytest.mark.long
@pytest.mark.parametrize("engine", ["inline", "processes", "ray"])
def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(tmp_path, econ, environment, write_study, engine, store):
    (tmp_path / "slow.py").write_text(SLOW)
    study = write_study(tmp_path / "s.yaml", methods=["slow"], plugins=["slow.py"], recipe={"epochs": 6})
    command = [*econ, "run", str(study), "--engine", engine, "--workers", "1", "--checkpoint-seconds", "0"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    while not list(tmp_path.glob("runs/*/metrics.jsonl")) and process.poll() is None:  # written after the checkpoint
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the driver and to its workers
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert "interrupted; finished runs are kept, and the same command goes on with the others" in out
    assert "Traceback" not in out
    assert not list(tmp_path.glob("runs/*/result.json"))
    assert not list(tmp_path.glob("runs/*/failure.json"))
    (before,) = tmp_path.glob("runs/*/metrics.jsonl")
    trained = before.read_text()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "study s: all 1 runs are finished" in done.stdout
    assert before.read_text().startswith(trained), "it went on from where it stood"
    assert len(before.read_text().splitlines()) == 6


@pytest.mark.parametrize("command", ["run", "status", "sync", "leaderboard", "table", "report", "plot", "tune"])
def test_a_file_in_the_place_of_the_folder_of_runs(tmp_path, write_study, run_here, command):
    study, file = write_study(tmp_path / "s.yaml"), tmp_path / "file"
    file.write_text("not a folder")
    code, out, err = run_here(command, study, "--runs", file)
    said = " ".join((out + err).split())
    assert code == 2 and "Invalid value for '--runs'" in said and "Traceback" not in said


def test_a_folder_of_runs_below_a_file(tmp_path, write_study, run_here):
    study = write_study(tmp_path / "s.yaml")
    for command in ("status", "run"):
        code, out, err = run_here(command, study, "--runs", study / "runs")
        assert code == 2 and "is a file, in which no folder can be" in " ".join((out + err).split())
