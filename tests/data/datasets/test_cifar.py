import hashlib

import pytest
import torch
from torchvision import datasets

from data import Augmentation, load
from tests.data import official


@pytest.fixture
def cifar(monkeypatch, tmp_path):
    """Folder with small CIFAR-10 and CIFAR-100 sets, unpacked, and the images in them."""
    images = {}
    for name in official.CIFAR:
        members, found = official.cifar(monkeypatch, name)
        official.put(tmp_path, members)
        images |= found
    return tmp_path, images


def test_cifar10(cifar):
    root, images = cifar
    task = load("cifar10", root=root, ood=["cifar100"])
    expected = torch.cat([images[f"data_batch_{i}"] for i in range(1, 6)])
    assert torch.equal(task.train.images, expected)
    assert torch.equal(task.test.images, images["test_batch"])
    assert task.train.labels.tolist() == [i % 10 for i in range(20)] * 5
    assert (task.classes, task.shape.in_channels, task.shape.image_size, task.validation) == (10, 3, 32, None)
    assert task.augmentation == Augmentation(padding=4, flip=True)
    pixels = expected.double().movedim(1, 0).flatten(1) / 255
    assert task.mean == pytest.approx(pixels.mean(1).tolist(), abs=1e-12)
    assert task.std == pytest.approx(pixels.std(1, correction=0).tolist(), abs=1e-12)
    assert list(task.ood) == ["cifar100"]
    assert torch.equal(task.ood["cifar100"](), images["test"])


def test_cifar100_with_held_out_images(cifar):
    root, images = cifar
    task = load("cifar100", root=root, validation=50, ood=["cifar10"])
    assert task.classes == 100
    assert torch.equal(task.train.images, images["train"][:150])
    assert torch.equal(task.validation.images, images["train"][150:])
    assert task.validation.labels.tolist() == [i % 100 for i in range(150, 200)]
    pixels = images["train"][:150].double() / 255
    assert task.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert torch.equal(task.ood["cifar10"](), images["test_batch"])


def test_the_ood_dataset_is_read_only_when_called(cifar):
    root, _ = cifar
    (root / datasets.CIFAR100.base_folder / "test").unlink()
    assert len(load("cifar10", root=root).train.labels) == 100


def test_reading_writes_nothing(cifar):
    root, _ = cifar
    before = sorted(root.rglob("*"))
    load("cifar10", root=root)
    assert sorted(root.rglob("*")) == before


@pytest.fixture
def packed(monkeypatch, tmp_path):
    """Folder with the archive of a small CIFAR-10, and the images in it."""
    members, images = official.cifar(monkeypatch, "CIFAR10")
    contents = official.tar(members)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(contents)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", official.md5(contents))
    return tmp_path, images


def test_the_archive_is_unpacked_once(packed):
    root, images = packed
    for _ in range(2):
        assert torch.equal(load("cifar10", root=root).test.images, images["test_batch"])
        (root / "cifar-10-python.tar.gz").unlink(missing_ok=True)
    assert [path.name for path in root.iterdir() if path.suffix != ".lock"] == ["cifar-10-batches-py"]


@pytest.mark.parametrize("change", [lambda whole: whole[: len(whole) // 2], lambda whole: b"x" + whole[1:]])
def test_a_cut_or_altered_archive_is_never_used(packed, change):
    root, _ = packed
    archive = root / "cifar-10-python.tar.gz"
    contents = change(archive.read_bytes())
    archive.write_bytes(contents)
    found = f"had the md5 {official.md5(contents)}, expected {datasets.CIFAR10.tgz_md5}"
    with pytest.raises(FileNotFoundError, match=f"{found}.*no network in tests.*put cifar-10-python.tar.gz .*by hand"):
        load("cifar10", root=root)
    assert [path.name for path in root.iterdir() if path.suffix != ".lock"] == ["cifar-10-python.tar.gz.bad"]


@pytest.mark.parametrize(("name", "number"), [("cifar10", 10), ("cifar100", 100)])
def test_a_failed_download_says_what_to_do(tmp_path, name, number):
    with pytest.raises(FileNotFoundError) as error:
        load(name, root=tmp_path / "new")
    reader = datasets.CIFAR10 if number == 10 else datasets.CIFAR100
    archive = f"{tmp_path / 'new'}/cifar-{number}-python.tar.gz: not there"
    for part in (archive, reader.url, reader.tgz_md5, "by hand"):
        assert part in str(error.value)


def test_a_damaged_file_is_named(cifar):
    root, _ = cifar
    folder = root / datasets.CIFAR10.base_folder
    file = folder / "data_batch_3"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    found, expected = (hashlib.md5(contents).hexdigest() for contents in (whole[:-1], whole))
    with pytest.raises(
        ValueError, match=f"{file}: found the md5 {found}, expected {expected}; remove the folder {folder}"
    ):
        load("cifar10", root=root)
    file.unlink()
    with pytest.raises(ValueError, match=f"{file}: missing; remove the folder {folder}"):
        load("cifar10", root=root)


def test_labels_out_of_range(monkeypatch, tmp_path):
    members, _ = official.cifar(monkeypatch, "CIFAR10", largest_label=10)
    official.put(tmp_path, members)
    with pytest.raises(
        ValueError, match="cifar-10-batches-py: found 100 labels from 0 to 10, expected 100 from 0 to 9"
    ):
        load("cifar10", root=tmp_path)
