"""What all tests of the data share."""

import os

import pytest

from data.files import download


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Fail at once instead of downloading; do not make the whole machine write its buffers."""

    def refuse(request, timeout):
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(download, "urlopen", refuse)
    monkeypatch.setattr(download, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(os, "sync", lambda: None)
