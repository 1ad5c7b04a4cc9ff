"""Fixtures for all tests of data/."""

import os

import pytest

from data.files import download


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Let downloads fail at once, and skip `os.sync`, which writes the buffers of the whole machine."""

    def refuse(request, timeout):
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(download, "urlopen", refuse)
    monkeypatch.setattr(download, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(os, "sync", lambda: None)
