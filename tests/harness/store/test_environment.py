"""Tests of the environment that a result records."""

import subprocess

import pytest
import torch

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


def test_what_decides_the_last_bits_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91300)
    found = provenance.describe_environment(torch.device("cuda"))
    assert (found["device"], found["cudnn"]) == ("cuda (NVIDIA H200)", "91300")
    assert found["cuda"] == str(torch.version.cuda)
    assert (found["tf32"], found["deterministic"]) == ("convolutions", "no"), "torch's defaults"
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    found = provenance.describe_environment(torch.device("cuda"))
    assert (found["tf32"], found["deterministic"]) == ("none", "yes")


def test_a_cpu_gives_the_same_bits_again():
    found = provenance.describe_environment(torch.device("cpu"))
    assert (found["tf32"], found["deterministic"]) == ("none", "yes")
    assert not {"cudnn", "cuda"} & found.keys()
