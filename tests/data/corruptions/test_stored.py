"""Generated corruptions are made once, and kept on disk."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import data
from data.corruptions import corrupt, stored
from data.corruptions.stored import StoredCorruptions
from data.tasks import image_task


@pytest.fixture
def images():
    return torch.randint(256, (40, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.fixture
def made(monkeypatch):
    """What was corrupted."""
    found = []

    def remember(images, name, severity, *, start=0):
        found.append((name, severity, start, len(images)))
        return corrupt(images, name, severity, start=start)

    for module in (stored, image_task):
        monkeypatch.setattr(module, "corrupt", remember)
    return found


def test_a_corruption_is_made_once_whichever_part_is_asked_for(tmp_path, images, made):
    expected = corrupt(images, "gaussian_noise", 3)
    for start, stop in ((32, 40), (0, 32), (5, 6)):
        part = StoredCorruptions(tmp_path, images).part("gaussian_noise", 3, start, stop)
        assert torch.equal(part, expected[start:stop])
        part.zero_()  # is a copy, which changes nothing on the disk
    assert made == [("gaussian_noise", 3, 0, 40)]


@pytest.mark.parametrize("damage", [b"", b"no", None])
def test_a_damaged_file_is_made_again(tmp_path, images, made, damage):
    before = StoredCorruptions(tmp_path, images).part("contrast", 1, 0, 40)
    (path,) = tmp_path.glob("*/contrast_1.npy")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage is None else damage)
    assert torch.equal(StoredCorruptions(tmp_path, images).part("contrast", 1, 0, 40), before)
    assert len(made) == 2
    assert path.read_bytes() == content


def test_a_file_with_other_contents_is_made_again(tmp_path, images, made):
    """A disk that lost its contents leaves the header, and images of zeros."""
    before = StoredCorruptions(tmp_path, images).part("contrast", 1, 0, 40)
    (path,) = tmp_path.glob("*/contrast_1.npy")
    content = path.read_bytes()
    path.write_bytes(content[:128] + bytes(len(content) - 128))
    assert torch.equal(StoredCorruptions(tmp_path, images).part("contrast", 1, 0, 40), before)
    assert len(made) == 2


def test_other_images_and_other_programs_have_other_folders(tmp_path, images, monkeypatch):
    other = images.clone()
    other[0, 0, 0, 0] += 1
    found = {StoredCorruptions(tmp_path, each).folder for each in (images, other, images[:39])}
    monkeypatch.setattr(stored, "programs", lambda: "edited")
    assert len(found | {StoredCorruptions(tmp_path, images).folder}) == 4


def test_a_folder_that_cannot_be_written_to_stops_nothing(tmp_path, images, capsys):
    (tmp_path / "file").write_text("")
    part = StoredCorruptions(tmp_path / "file", images).part("contrast", 1, 4, 9)
    assert torch.equal(part, corrupt(images, "contrast", 1)[4:9])
    assert "generated corruptions are not kept, and made again by each run: " in capsys.readouterr().err


def test_the_runs_of_a_study_share_them(tmp_path, images, made, monkeypatch):
    np.savez(
        tmp_path / "d.npz", x_train=images.movedim(1, -1), y_train=np.arange(40) % 2, x_test=images.movedim(1, -1),
        y_test=np.arange(40) % 2,
    )  # fmt: skip
    monkeypatch.setattr(image_task, "CACHED_VALUES_LIMIT", 1000)
    tasks = [data.load(f"npz:{tmp_path / 'd.npz'}", root=tmp_path / "downloads") for _ in range(2)]
    assert tasks[0].corruption_folder == tmp_path / "downloads" / "generated_corruptions"
    tasks = [replace(task, corruptions=("contrast", "brightness")) for task in tasks]
    found = [[(*where, x) for *where, x in task.corrupted(16)] for task in tasks]
    assert [each[:3] for each in found[0]] == [each[:3] for each in found[1]]
    assert all(torch.equal(one[3], other[3]) for one, other in zip(*found, strict=True))
    assert len(made) == 2 * 5
    without = [x for *_, x in replace(tasks[0], corruption_folder=None).corrupted(16)]
    assert all(torch.equal(each[3], x) for each, x in zip(found[0], without, strict=True))


def test_large_test_sets_are_not_kept():
    assert StoredCorruptions.fits(torch.empty(10_000, 3, 32, 32, device="meta"))
    assert not StoredCorruptions.fits(torch.empty(50_000, 3, 224, 224, device="meta"))
