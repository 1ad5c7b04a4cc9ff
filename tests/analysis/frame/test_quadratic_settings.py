"""Settings of the noisy quadratic problem, loaded from a store."""

import pytest

from analysis import load_settings


def test_settings_come_by_their_noise(settings):
    assert list(zip(settings["eta"], settings["B"], strict=True)) == [(0.1, 1e8), (0.1, 1e3), (0.5, 100.0)]
    assert set(settings["slope/late_phase"]) == {-0.75}
    assert not [column for column in settings if column.startswith("members/")]
    assert [run["state"] for run in settings.attrs["unfinished"]] == ["diverged"]


def test_only_the_settings_asked_for(settings, quadratic_store):
    store = quadratic_store
    key = settings["key"][1]
    found = load_settings("quadratic", store=store.uri, keys=[key, "f" * 64])
    assert list(found["key"]) == [key]
    assert found.attrs["unfinished"] == [{"state": "missing", "key": "f" * 64}]
    with pytest.raises(LookupError, match="no study 'nothing'"):
        load_settings("nothing", store=store.uri)
