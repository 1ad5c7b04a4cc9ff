"""The user's cache: which entries are kept, and when they hold."""

import os

import pytest

from harness.cache import user_cache


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("ECON_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_oldest_entries_go_first(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(user_cache, "MOST", 2)
    for i in range(3):
        user_cache.write_entry(f"list-{i}", i)
        os.utime(cache / f"list-{i}.json", (i, i))
        if i == 1:
            assert user_cache.read_entry("list-0") == 0  # used again, so that the other one is older
    user_cache.write_entry("list-3", 3)
    assert {path.name for path in cache.glob("*.json")} == {"list-0.json", "list-3.json"}


def test_others_files_in_the_folder_stay(cache, monkeypatch):
    monkeypatch.setattr(user_cache, "MOST", 1)
    cache.mkdir()
    (cache / "precious.json").write_text("{}")
    for i in range(3):
        user_cache.write_entry(f"plan-{i}", i)
    assert (cache / "precious.json").exists() and len(list(cache.glob("plan-*.json"))) == 1


def test_a_value_that_json_cannot_hold_is_not_kept(cache):
    user_cache.write_entry("plan-0", {1, 2})
    assert user_cache.read_entry("plan-0") is None


def test_a_folder_with_a_dangling_link_is_still_looked_at(tmp_path, cache):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "nothing")
    (folder / "a.png").write_bytes(b"1")
    user_cache.write_entry("plan-0", 1, [folder])
    assert user_cache.read_entry("plan-0") == 1
    (folder / "a.png").write_bytes(b"22")
    assert user_cache.read_entry("plan-0") is None
