"""Digests of files: content decides, and files that have not changed are not read again."""

import hashlib
import os
import time

import pytest

from data.files import digests
from data.files.digests import digest_file, digest_files

OLD = 10.0  # seconds


@pytest.fixture
def later(monkeypatch):
    """Let the files that a test writes be old."""
    now = time.time_ns
    monkeypatch.setattr(digests.time, "time_ns", lambda: now() + int(OLD * 1e9))


@pytest.fixture
def count_reads(monkeypatch):
    """Return the list of paths that are read."""
    read, hash_file = [], digests._hash_file
    monkeypatch.setattr(digests, "_hash_file", lambda path: read.append(path) or hash_file(path))
    return read


def write(folder, count=5):
    """Write some files; return their names and paths."""
    paths = [folder / f"{i}.bin" for i in range(count)]
    for i, path in enumerate(paths):
        path.write_bytes(b"%d" % i)
    return [path.name.encode() for path in paths], [str(path) for path in paths]


def test_the_digest_of_a_file_is_its_sha_256(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"content")
    expected = hashlib.sha256(b"content").hexdigest()
    assert digest_file(file) == digest_file(file, {}) == expected


def test_files_that_have_not_changed_are_read_once(tmp_path, later, count_reads, monkeypatch):
    monkeypatch.setattr(digests, "CHUNK", 2)
    names, paths = write(tmp_path)
    known = {}
    first = digest_files(names, paths, known)
    assert (digest_files(names, paths, known), sorted(count_reads)) == (first, paths)
    assert digest_files(names, paths) == first


def replaced_by_an_older_file(path):
    other = path.with_name("other")
    other.write_bytes(b"X")
    os.utime(other, (0, 0))
    other.replace(path)


def written_with_its_old_time(path):
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(b"X")
    os.utime(path, ns=times)


@pytest.mark.parametrize("edit", [replaced_by_an_older_file, written_with_its_old_time])
def test_an_edit_that_keeps_the_size_is_noticed(tmp_path, later, edit):
    names, paths = write(tmp_path)
    known = {}
    before = digest_files(names, paths, known), digest_file(tmp_path / "3.bin", known)
    time.sleep(0.02)  # a step of the file system's clock
    edit(tmp_path / "3.bin")
    after = digest_files(names, paths, known), digest_file(tmp_path / "3.bin", known)
    assert before[0] != after[0] and after[1] == hashlib.sha256(b"X").hexdigest() != before[1]


def test_a_file_that_was_just_written_is_not_relied_on(tmp_path, count_reads):
    names, paths = write(tmp_path, count=1)
    known = {}
    digest_files(names, paths, known)
    digest_files(names, paths, known)
    assert (known, len(count_reads)) == ({}, 2)


def test_a_file_alone_and_a_folder_of_it_have_different_digests(tmp_path, later):
    names, paths = write(tmp_path, count=1)
    known = {}
    assert digest_files(names, paths, known) != digest_file(tmp_path / "0.bin", known)


def test_a_missing_file_is_named(tmp_path):
    for known in (None, {}):
        with pytest.raises(FileNotFoundError, match="none"):
            digest_file(tmp_path / "none", known)


@pytest.mark.long
def test_many_files_are_looked_at_quickly(tmp_path, later, count_reads):
    """A fifth of 100,000 files in a fifth of 2 seconds."""
    names, paths = write(tmp_path, count=20_000)
    known = {}
    first = digest_files(names, paths, known)
    del count_reads[:]
    began = time.perf_counter()
    again = digest_files(names, paths, known)
    seconds = time.perf_counter() - began
    assert (again, count_reads) == (first, []) and seconds < 0.4
