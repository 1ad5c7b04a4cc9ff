"""Archives are unpacked completely or not at all, and never outside the folder."""

import io
import multiprocessing
import os
import signal
import tarfile
import zipfile

import pytest

from data.files import archives
from data.files.archives import unpack
from tests.data.official import tar, zipped

MEMBERS = {"top/a.txt": b"a" * 5000, "top/deep/b.txt": b"b"}
PACKED = {
    "a.tar": lambda members: tar(members, "w"),
    "a.tar.gz": tar,
    "a.tar.xz": lambda members: tar(members, "w:xz"),
    "a.zip": zipped,
}


@pytest.fixture
def box(tmp_path):
    """A folder that all unpacked files must stay in."""
    (tmp_path / "box").mkdir()
    return tmp_path / "box"


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


@pytest.mark.parametrize("name", PACKED)
def test_all_or_a_part(box, name):
    archive = box / name
    archive.write_bytes(PACKED[name]({"top": None, **MEMBERS} if "tar" in name else MEMBERS))
    packed = archive.read_bytes()
    assert unpack(archive, box / "all") == box / "all"
    assert files(box / "all") == MEMBERS
    unpack(archive, box / "part", part="top")
    assert files(box / "part") == {"a.txt": MEMBERS["top/a.txt"], "deep/b.txt": b"b"}
    assert sorted(path.name for path in box.iterdir() if path.suffix != ".lock") == sorted(["all", name, "part"])
    assert archive.read_bytes() == packed


def test_an_existing_folder_is_not_changed(box):
    (box / "all").mkdir()
    assert unpack(box / "none.zip", box / "all") == box / "all"
    assert [path.name for path in box.iterdir()] == ["all"]


def link(kind, target):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo("top/link")
        info.type, info.linkname = kind, target
        archive.addfile(info)
        below = tarfile.TarInfo("top/link/file.txt")
        below.size = 1
        archive.addfile(below, io.BytesIO(b"x"))
    return out.getvalue()


def linked_zip():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("top/link")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "../..")
    return out.getvalue()


OUTSIDE = ["../evil.txt", "top/../../evil.txt", "/evil.txt", "..\\evil.txt", "C:\\evil.txt", "top/..\\../evil.txt"]
EVIL = [(f"{kind} {name}", pack({"top/good.txt": b"g", name: b"x"}), "points outside its folder", name)
        for kind, pack in (("tar", tar), ("zip", zipped)) for name in OUTSIDE]  # fmt: skip
EVIL += [
    ("symbolic link", link(tarfile.SYMTYPE, "../../.."), "is a link or a device", "top/link"),
    ("inner symbolic link", link(tarfile.SYMTYPE, "good.txt"), "is a link or a device", "top/link"),
    ("hard link", link(tarfile.LNKTYPE, "../../evil.txt"), "is a link or a device", "top/link"),
    ("device", link(tarfile.CHRTYPE, ""), "is a link or a device", "top/link"),
    ("link in a zip", linked_zip(), "is a link or a device", "top/link"),
]


@pytest.mark.parametrize(("contents", "problem", "member"), [case[1:] for case in EVIL], ids=[case[0] for case in EVIL])
def test_a_member_that_points_outside(tmp_path, box, contents, problem, member):
    archive = box / "evil.archive"
    archive.write_bytes(contents)
    with pytest.raises(ValueError, match=problem) as error:
        unpack(archive, box / "all")
    assert str(archive) in str(error.value)
    assert repr(member) in str(error.value)
    assert list(files(tmp_path)) == ["box/evil.archive"]


@pytest.mark.parametrize("name", PACKED)
def test_a_damaged_archive_leaves_nothing(box, name):
    archive = box / name
    whole = PACKED[name]({"top/a.bin": bytes(i * i % 251 for i in range(100_000))})
    archive.write_bytes(whole[:-60] if name == "a.zip" else whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{name}: (the archive is damaged|found neither a tar nor a zip)"):
        unpack(archive, box / "all")
    assert list(files(box)) == [name]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
def test_an_altered_archive_leaves_nothing(box, name):
    archive = box / name
    contents = bytearray(PACKED[name]({"top/a.bin": bytes(i * i % 251 for i in range(100_000))}))
    contents[len(contents) // 2] ^= 1
    archive.write_bytes(contents)
    with pytest.raises(ValueError, match="the archive is damaged .*; remove it, and get it again"):
        unpack(archive, box / "all")
    assert list(files(box)) == [name]


def test_a_missing_archive_and_a_missing_part(box):
    (box / "a.txt").write_text("text")
    (box / "a.zip").write_bytes(zipped(MEMBERS))
    with pytest.raises(ValueError, match=r"a\.txt: found neither a tar nor a zip archive"):
        unpack(box / "a.txt", box / "all")
    with pytest.raises(ValueError, match=r"a\.zip: expected a folder 'bottom' in it"):
        unpack(box / "a.zip", box / "all", part="bottom")
    with pytest.raises(FileNotFoundError):
        unpack(box / "none.zip", box / "all")
    assert sorted(files(box)) == ["a.txt", "a.zip"]


def unpack_until_killed(archive, folder):
    def extract(*_):
        (folder.with_name(".all.unpacking") / "half.txt").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)

    archives.check_member = extract
    unpack(archive, folder)


def test_unpacking_starts_again_after_a_kill(box):
    packed = zipped(MEMBERS)
    (box / "a.zip").write_bytes(packed)
    process = multiprocessing.get_context("fork").Process(target=unpack_until_killed, args=(box / "a.zip", box / "all"))
    process.start()
    process.join(30)
    assert process.exitcode == -9
    assert "half.txt" in {path.name for path in box.rglob("*")}
    assert not (box / "all").exists()
    unpack(box / "a.zip", box / "all")
    assert files(box) == {"a.zip": packed} | {f"all/{name}": contents for name, contents in MEMBERS.items()}


def test_a_full_disk(box, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    (box / "a.zip").write_bytes(zipped(MEMBERS))
    monkeypatch.setattr(archives, "check_member", full)
    with pytest.raises(OSError, match=r"a\.zip: cannot be unpacked to .*all .*No space left"):
        unpack(box / "a.zip", box / "all")
    assert list(files(box)) == ["a.zip"]
