"""What the runs were made with, and the addresses of their pages."""

import pandas as pd
import pytest

from analysis import load_provenance, load_runs
from analysis.frame import run_provenance

PARAMS = {"recipe.lr": "0.1", "method.hyperparameters.K": "5"}


@pytest.fixture(scope="module")
def study(other_store):
    """Two finished runs, of which one has parameters, and one that failed."""
    from mlflow.entities import Param

    tags = {"commit": "abc-dirty", "torch": "2.14", "device": "cpu (x86_64)", "mlflow.user": "me"}
    run_id, _ = other_store.add("made", "sgd", 0, metrics={"accuracy": 90.0}, **tags)
    other_store.client.log_batch(run_id, params=[Param(name, value) for name, value in PARAMS.items()])
    other_store.client.set_terminated(run_id, end_time=1_700_000_000_000)
    other_store.add("made", "swa", 1, metrics={"accuracy": 91.0}, commit="def")
    other_store.add("made", "fge", 2, state="failed", reason="a\nb")
    return load_runs("made", store=other_store.uri)


def test_finished_runs_then_the_others(study):
    made = load_provenance(study)
    assert made["label"].tolist() == ["sgd", "swa", "fge"]
    assert made["state"].tolist() == ["finished", "finished", "failed"]
    assert made["reason"].tolist() == ["", "", "a\nb"]
    assert made["seed"].tolist() == [0, 1, 2]
    assert made["key"].tolist() == [*study["key"], study.attrs["unfinished"][0]["key"]]
    assert made["run_id"].tolist()[:2] == study["run_id"].tolist()


def test_tags_parameters_and_times(study):
    made = load_provenance(study)
    assert made["commit"].tolist() == ["abc-dirty", "def", ""]
    assert made["torch"].tolist() == ["2.14", "", ""]
    assert made["params/recipe.lr"].tolist() == ["0.1", "", ""]
    assert made["params/method.hyperparameters.K"].tolist() == ["5", "", ""]
    assert made["ended"].iloc[0] == pd.Timestamp("2023-11-14 22:13:20", tz="UTC")
    assert made["ended"].isna().tolist() == [False, True, True]
    assert made["started"].notna().all()
    assert not {"mlflow.user", "role", "evaluated_on"} & set(made)


def test_a_run_under_two_labels_is_named_twice(study):
    twice = pd.concat([study, study[:1].assign(label="again")], ignore_index=True)
    assert load_provenance(twice)["label"].tolist()[:3] == ["sgd", "swa", "again"]


def test_links_of_a_server_hold_no_password(study, monkeypatch):
    runs = run_provenance.find_tracked_runs("made", str(study["store"].iloc[0]))
    monkeypatch.setattr(run_provenance, "find_tracked_runs", lambda study, uri: runs)
    made = load_provenance(study.assign(store="https://me:secret@host:5000/mlflow/"))
    number, run = made["experiment_id"].iloc[0], made["run_id"].iloc[0]
    assert made["link"].iloc[0] == f"https://host:5000/mlflow/#/experiments/{number}/runs/{run}"
    assert "secret" not in made.to_csv()


def test_a_database_has_a_command_and_no_links(study):
    assert set(load_provenance(study)["link"]) == {""}
    assert (
        run_provenance.mlflow_ui_command("sqlite:///my runs.db")
        == "mlflow ui --backend-store-uri 'sqlite:///my runs.db'"
    )
    assert run_provenance.mlflow_ui_command("postgresql://me:secret@host/db").endswith("postgresql://host/db")
    assert run_provenance.mlflow_ui_command("http://host") == ""


def test_what_cannot_be_loaded(study):
    with pytest.raises(
        LookupError, match="1 runs of the frame are no longer in study 'made' in sqlite:.*, for example gone"
    ):
        load_provenance(study.assign(run_id=["gone", study["run_id"].iloc[1]]))
    with pytest.raises(ValueError, match="for one study in one store at a time, not for 2"):
        load_provenance(study.assign(study=["a", "b"]))
