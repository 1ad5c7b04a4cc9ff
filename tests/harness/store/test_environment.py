"""Tests of the environment that a result records."""

import subprocess

import pytest

from harness.store import environment as provenance


@pytest.fixture(autouse=True)
def _fresh():
    provenance.git_commit.cache_clear()
    yield
    provenance.git_commit.cache_clear()


def test_without_git_the_commit_is_unknown(monkeypatch, tmp_path):
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", "")
    assert provenance.git_commit() == "unknown"


def test_installed_inside_of_another_checkout_the_commit_is_unknown(monkeypatch, tmp_path):
    def git(*arguments):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    git("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--allow-empty", "-m", "theirs")
    inside = tmp_path / "site-packages"
    inside.mkdir()
    monkeypatch.setattr(provenance, "ROOT", inside)
    assert provenance.git_commit() == "unknown"
    provenance.git_commit.cache_clear()
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.git_commit() != "unknown"
