"""The archive of the files that a run's methods come from: the same bytes for the same files."""

from io import BytesIO
from zipfile import ZipFile

from harness.store.source_archive import write_zip


def test_an_archive_holds_the_files_and_nothing_of_when_it_was_written():
    files = {"mine/b.py": b"two", "mine/a.py": b"one", "other/empty.py": b""}
    written = [BytesIO(), BytesIO()]
    write_zip(files, written[0])
    write_zip(dict(reversed(files.items())), written[1])
    assert written[0].getvalue() == written[1].getvalue()
    with ZipFile(written[0]) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == files
