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


def test_digests_are_kept_and_damaged_ones_are_not_believed(cache):
    known = user_cache.DigestCache()
    assert known.get("f" * 64) is None
    known["f" * 64] = "0" * 64
    assert known.get("f" * 64) == "0" * 64
    (entry,) = cache.glob("digest-*.json")
    for damaged in ("", '{"value": 1, "files": {}}', '{"value": "00", "files": {}}'):
        entry.write_text(damaged)
        assert known.get("f" * 64) is None


@pytest.mark.parametrize("size", [1, 2 << 20])
def test_a_file_that_is_replaced_by_an_older_one_of_its_size_is_another(tmp_path, cache, size):
    path, other = tmp_path / "data.npz", tmp_path / "other.npz"
    path.write_bytes(bytes(size))
    os.utime(path, (1, 1))
    user_cache.write_entry("plan-0", 1, [path])
    assert user_cache.read_entry("plan-0") == 1
    other.write_bytes(b"1" * size)
    os.utime(other, (1, 1))
    path.write_bytes(other.read_bytes())
    os.utime(path, (1, 1))
    assert user_cache.read_entry("plan-0") is None
