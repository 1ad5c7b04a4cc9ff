"""Run the tests of late-phase methods twice: with members one by one, and with members fused into one batch."""

import sys

import pytest

from methods import Method

NAMES_WITH_FUSED_MEMBERS = ("late", "rank1", "hyper", "accumulation", "branched", "ensemble(")
"""Parts of the names of test cases whose methods have late-phase members."""


@pytest.fixture(params=[0, sys.maxsize], ids=["", "fused"])
def fuse_up_to(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test twice: with members one by one, and with fused members wherever that is possible.

    A module asks for it with `pytestmark = pytest.mark.usefixtures("fuse_up_to")`.
    """
    monkeypatch.setattr(Method, "fuse_up_to", request.param)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Leave the fused run of the tests over all methods to the long tests; test_late_phase_fused.py is quick."""
    if "fused" in item.name and getattr(item.module, "FUSED_LATE_ONLY", False):  # type: ignore[attr-defined]
        item.add_marker(pytest.mark.long)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Drop the fused run of methods without late-phase members, in modules that set FUSED_LATE_ONLY."""
    items[:] = [
        item
        for item in items
        if not (
            "fused" in item.name
            and getattr(item.module, "FUSED_LATE_ONLY", False)  # type: ignore[attr-defined]
            and not any(part in item.name for part in NAMES_WITH_FUSED_MEMBERS)
        )
    ]
