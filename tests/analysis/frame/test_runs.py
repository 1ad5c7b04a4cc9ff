"""What `load_runs` and its sister functions read back from a store."""

from pathlib import Path

import numpy as np
import pytest

from analysis import load_runs, load_series, ranked


def test_only_finished_cells(frame):
    assert len(frame) == 15
    assert set(frame["label"]) == {"sgd", "swa", "deep_ensemble(K=3)", "late_phase_bn(K=5) <&_%$|*"}
    assert 9 not in set(frame["seed"])  # a component
    assert [cell["state"] for cell in frame.attrs["unfinished"]] == ["running", "diverged", "failed"]


def test_columns_and_values(frame):
    row = frame[(frame["label"] == "swa") & (frame["seed"] == 1)].iloc[0]
    assert row["accuracy"] == 94.1
    assert row["nll"] == pytest.approx(0.21)
    assert row["cost/forward_examples"] == 1100.0
    assert row["ood_auroc/svhn"] == pytest.approx(0.91)
    assert np.isnan(row["diversity/disagreement"])
    assert (row["dataset"], row["architecture"], row["study"]) == ("cifar10", "resnet20", "paper")
    assert len(row["key"]) == 64
    assert frame["accuracy"].dtype == float and frame["seed"].dtype == int
    assert not [name for name in frame if name.startswith(("train/", "members/"))]


def test_what_was_chosen_on_test_data_is_kept_with_a_mark_and_not_ranked(store):
    for seed in range(2):
        store.add("chosen", "sgd", seed, metrics={"accuracy": 90.0})
        store.add("chosen", "early", seed, metrics={"accuracy": 99.0}, chosen_on="test")
    frame = load_runs("chosen", store=store.uri)
    assert frame["chosen_on"].tolist() == ["test", "test", "", ""]
    rest = ranked(frame)
    assert rest["label"].tolist() == ["sgd", "sgd"]
    assert rest.index.tolist() == [0, 1]
    assert rest.attrs["notes"] == [rest.attrs["left_out"]] == ["Chosen on test data: not ranked (2 runs: early)."]
    assert rest.attrs["unfinished"] == frame.attrs["unfinished"]
    assert ranked(rest) is rest
    with pytest.raises(LookupError, match=r"nothing to rank; Chosen on test data: not ranked \(2 runs: early\)"):
        ranked(frame[:2])


def test_a_path_is_a_store(store, frame):
    path = store.uri.removeprefix("sqlite:///")
    assert load_runs("paper", store=path)["key"].tolist() == frame["key"].tolist()


def test_keys_restrict(store, frame):
    keys = [*frame["key"][:2], "0" * 64]
    chosen = load_runs("paper", store=store.uri, keys=keys)
    assert sorted(chosen["key"]) == sorted(keys[:2])
    assert chosen.attrs["unfinished"] == [{"state": "missing", "key": "0" * 64}]


def test_no_store(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"nothing\.db does not exist"):
        load_runs("paper", store=f"sqlite:///{tmp_path}/nothing.db")
    assert not list(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"runs/mlflow\.db does not exist"):
        load_runs("paper")


def test_each_folder_has_a_store_of_its_own_in_one_process(store, tmp_path, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name / "runs").mkdir(parents=True)
        own = type(store)(tmp_path / name)
        own.add(name, "sgd", 0, metrics={"accuracy": 90.0})
        monkeypatch.chdir(tmp_path / name)
        database = Path(own.uri.removeprefix("sqlite:///")).relative_to(Path.cwd())
        assert load_runs(name, store=str(database))["study"].tolist() == [name]
        assert load_runs(name, store=f"sqlite:///{database}")["study"].tolist() == [name]


def test_a_file_that_is_no_store_is_said_to_be_none(tmp_path):
    (tmp_path / "runs.db").write_text("no database" * 1000)
    with pytest.raises(ConnectionError, match=r"cannot read the tracking store .*runs\.db: .*not a database"):
        load_runs("paper", store=f"sqlite:///{tmp_path}/runs.db")


def test_no_study_names_those_there(store):
    with pytest.raises(LookupError, match=r"'papre'.*there is: chosen, paper, twice, unfinished"):
        load_runs("papre", store=store.uri)


def test_nothing_finished_says_what_there_is(store):
    with pytest.raises(LookupError, match=r"no finished runs \(1 failed, 1 running\)"):
        load_runs("unfinished", store=store.uri)


def test_nothing_of_these_keys(store):
    with pytest.raises(LookupError, match=r"no finished runs \(0 failed, 1 missing, 0 running\)"):
        load_runs("paper", store=store.uri, keys=["0" * 64])


def test_the_same_key_twice(store):
    with pytest.raises(ValueError, match="f" * 64):
        load_runs("twice", store=store.uri)


def test_series(frame):
    chosen = frame[(frame["label"] == "deep_ensemble(K=3)") & (frame["architecture"] == "resnet20")]
    series = load_series(chosen, "members/accuracy")
    assert series["run_id"].tolist() == [run for run in chosen["run_id"] for _ in range(3)]
    assert series["step"].tolist() == [1, 2, 3] * 3
    assert series["value"].tolist()[:3] == [94.0, 94.5, 95.0]
    assert load_series(chosen, "no/such").empty


def test_the_later_of_two_values_counts(store):
    from mlflow.entities import Metric

    run, _ = store.add("again", "sgd", 0, metrics={"accuracy": 1.0})
    store.client.log_batch(run, metrics=[Metric("members/nll", 3.0, 20, 1), Metric("members/nll", 2.0, 10, 1)])
    series = load_series(load_runs("again", store=store.uri), "members/nll")
    assert series["value"].tolist() == [3.0]
