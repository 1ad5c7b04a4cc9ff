"""Tests of methods that have a fast path hold on it too."""

import sys

import pytest

from methods import Method

FUSED = {
    "test_conformance",
    "test_gradient_accumulation",
    "test_hypernetwork",
    "test_late_networks",
    "test_late_phase",
    "test_rank1",
    "test_trunk",
}
"""Modules whose tests run twice: with members one by one, and as one batch wherever they can be."""
LATE = ("late", "rank1", "hyper", "accumulation", "branched", "ensemble(")
"""In the names of cases with such members, of tests over all methods."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in FUSED:
        metafunc.fixturenames.append("fuse_up_to")
        metafunc.parametrize("fuse_up_to", [0, sys.maxsize], indirect=True, ids=["", "fused"])


@pytest.fixture
def fuse_up_to(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Method, "fuse_up_to", request.param)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the second run of tests over all methods of those without such members."""
    items[:] = [
        item
        for item in items
        if not (
            "fused" in item.name
            and item.module.__name__.endswith(("test_conformance", "test_trunk"))  # type: ignore[attr-defined]
            and not any(part in item.name for part in LATE)
        )
    ]
