"""Studies of one name in different folders do not replace each other's results."""

import shutil

import pytest
import yaml

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def call(run_here, monkeypatch, tmp_path, empty_store, write_study):
    """Run the command line beside two studies called s, which differ in their number of epochs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    for folder, epochs in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        write_study(tmp_path / folder / "s.yaml", methods=["dropout"], recipe={"epochs": epochs})
    return run_here


@pytest.mark.long
@pytest.mark.parametrize("command", [("report",), ("plot",)])
def test_reports_and_plots(call, tmp_path, command):
    command, *rest = command
    for folder in ("a", "b"):
        assert call("run", f"{folder}/s.yaml", "--threads", 1)[0] == 0
    code, out, err = call(command, "a/s.yaml", *rest)
    assert (code, "wrote results/s/" in out) == (0, True), err
    before = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.*")}
    code, _, err = call(command, "b/s.yaml", *rest)
    message = (
        "error: results/s holds the results of another study of this name, a/s.yaml: give --output, or rename one\n"
    )
    assert (code, err) == (2, message)
    assert {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.*")} == before
    assert call(command, "b/s.yaml", "--output", "mine")[0] == 0
    assert call(command, "a/s.yaml", *rest)[0] == 0, "the study's own may be replaced"
    (tmp_path / "a").rename(tmp_path / "c")
    assert call(command, "c/s.yaml", *rest)[0] == 0, "a study that was moved keeps its results"


def test_tuned_values(call, tmp_path, write_study):
    for folder in ("a", "b"):
        data = yaml.safe_load((tmp_path / folder / "s.yaml").read_text())["datasets"][0]
        write_study(
            tmp_path / folder / "s.yaml",
            datasets=[data | {"validation": 15}],
            methods=["dropout"],
            recipe={"epochs": 1},
        )
    tune = ("--trials", 1, "--threads", 1)
    code, _, err = call("tune", "a/s.yaml", *tune)
    assert code == 0, err
    written = (tmp_path / "tuned" / "s.yaml").read_text()
    assert yaml.safe_load(written)["file"] == "../a/s.yaml"
    code, _, err = call("tune", "b/s.yaml", *tune)
    assert (code, err.partition(": holds")[0]) == (2, "error: --output tuned/s.yaml")
    assert "another study of this name, a/s.yaml" in err
    assert (tmp_path / "tuned" / "s.yaml").read_text() == written


def test_a_run_that_another_study_only_needs_stays_a_cell(call, tmp_path, write_study):
    for folder, method in (("a", "sgd"), ("b", "deep_ensemble(K=2)")):
        write_study(tmp_path / folder / "s.yaml", methods=[method], recipe={"epochs": 1})
        assert call("run", f"{folder}/s.yaml", "--threads", 1)[0] == 0
    for folder, method in (("a", "sgd"), ("b", "deep_ensemble(K=2)")):
        code, out, err = call("leaderboard", f"{folder}/s.yaml")
        assert (code, method in out) == (0, True), err


def test_the_end_of_a_file_name_chooses_the_format(call, tmp_path):
    assert call("run", "a/s.yaml", "--threads", 1)[0] == 0
    for command in ("leaderboard", "table"):
        assert call(command, "a/s.yaml", "-o", "t.CSV")[0] == 0
        assert len((tmp_path / "t.CSV").read_text().splitlines()[0].split(",")) > 3
        code, _, err = call(command, "a/s.yaml", "-o", "t.json")
        assert code == 2 and "t.json: no format ends in .json; there are .tex, .md, .csv, .txt" in err
        assert not (tmp_path / "t.json").exists()
