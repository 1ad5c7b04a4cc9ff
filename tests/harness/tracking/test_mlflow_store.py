"""The URIs of tracking stores: what of a path is quoted, and that no password is shown."""

import shutil
from pathlib import Path

import pytest

from analysis.frame.tracking_store import resolve_store_uri
from harness.tracking.mlflow_store import (
    TrackingError,
    hide_passwords,
    sqlite_path,
    sqlite_uri,
    store_uri,
    tracking_errors,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("name", ["a%20b", "a%2Fb", "a?b", "a#b", "a b", "ηθ", "a&b=c;d", "plain"])
def test_the_path_of_a_file_comes_back_from_its_uri(name, monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / name / "mlflow.db"
    uri = store_uri(None, tmp_path / name)
    assert sqlite_path(uri) == path
    assert not set(uri.removeprefix("sqlite:///")) & set("?# ")
    assert resolve_store_uri(uri) == resolve_store_uri(str(path)) == store_uri(uri, Path()) == sqlite_uri(path) == uri


def test_options_of_a_uri_stay(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked, uri = "sqlite:///a%20b.db?timeout=9", f"sqlite:///{tmp_path}/a%20b.db?timeout=9"
    assert store_uri(asked, Path()) == resolve_store_uri(asked) == uri
    assert sqlite_path(uri) == tmp_path / "a b.db"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("https://me:se@cr/et:1@host:5000/x is away", "https://me:***@host:5000/x is away"),
        ("http://:secret@host", "http://:***@host"),
        ("mysql://host/db?user=me&password=secret&ssl=1", "mysql://host/db?user=me&password=***&ssl=1"),
        ("https://host/?access_token=secret", "https://host/?access_token=***"),
        ("sqlite:////a/b@c.db", "sqlite:////a/b@c.db"),
        ("nothing: to@hide", "nothing: to@hide"),
        ("http://h?api-key-id=a b", "http://h?api-key-id=*** b"),
        ("postgresql://h/d?password=x: connection refused", "postgresql://h/d?password=*** connection refused"),
        ("http://localhost:5000: no such user me@x", "http://localhost:5000: no such user me@x"),
        ("http://tok3n@h/ refused", "http://***@h/ refused"),
        (
            "postgresql://h/d?passphrase=a&api_key=b&options=-cpassword%3Dc",
            "postgresql://h/d?passphrase=***&api_key=***&options=***",
        ),
        ("http://localhost:5000 gave nothing", "http://localhost:5000 gave nothing"),
    ],
)
def test_passwords_are_hidden(text, shown):
    assert hide_passwords(text) == shown


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://u:p w@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:p w@x@h/d", "postgresql://u:***@h/d"),
        ("postgresql://h/d?password=a b&x=1", "postgresql://h/d?password=***&x=1"),
    ],
)
def test_the_store_is_shown_without_what_is_secret_and_the_reason_stays(uri, shown):
    with pytest.raises(TrackingError) as error, tracking_errors(uri):
        raise OSError(f"{uri}: connection refused")
    assert str(error.value) == f"cannot use the tracking store {shown}: {shown}: connection refused"


def test_runs_at_a_path_that_a_uri_must_quote(run_here, monkeypatch, tmp_path, write_study, empty_store):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = Path("job%20a?b#c")
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    write_study(tmp_path / "s.yaml", recipe={"epochs": 1})
    code, out, err = run_here("run", "s.yaml", "--runs", folder, "--threads", 1)
    assert (code, "the tracking store lacks" in out) == (0, False), err
    code, out, err = run_here("leaderboard", "s.yaml", "--runs", folder)
    assert (code, "sgd" in out) == (0, True), err
    assert [path.name for path in tmp_path.glob("job*") if path.is_file()] == []
