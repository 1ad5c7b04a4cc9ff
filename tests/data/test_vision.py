import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch
from torchvision import datasets

from data import Augmentation, load


def md5(file):
    return hashlib.md5(file.read_bytes()).hexdigest()


def write_cifar(monkeypatch, folder, dataset, batches, key, names):
    """Write tiny batches in CIFAR's own format and make torchvision expect their checksums."""
    folder = folder / dataset.base_folder
    folder.mkdir()
    lists, images = {}, {}
    for name, (n, classes, seed) in batches.items():
        pixels = np.random.default_rng(seed).integers(0, 256, (n, 3072), dtype=np.uint8)
        labels = [i % classes for i in range(n)]
        (folder / name).write_bytes(pickle.dumps({"data": pixels, key: labels}))
        lists[name] = [name, md5(folder / name)]
        images[name] = torch.from_numpy(pixels).view(n, 3, 32, 32)
    (folder / dataset.meta["filename"]).write_bytes(pickle.dumps({dataset.meta["key"]: names}))
    meta = {**dataset.meta, "md5": md5(folder / dataset.meta["filename"])}
    monkeypatch.setattr(dataset, "meta", meta)
    monkeypatch.setattr(dataset, "test_list", [lists.pop(next(name for name in lists if "test" in name))])
    monkeypatch.setattr(dataset, "train_list", list(lists.values()))
    return images


@pytest.fixture
def cifar(monkeypatch, tmp_path):
    """Folder with small CIFAR-10 and CIFAR-100 sets, and the images in them."""
    ten = {f"data_batch_{i}": (20, 10, i) for i in range(1, 6)} | {"test_batch": (30, 10, 6)}
    hundred = {"train": (200, 100, 7), "test": (100, 100, 8)}
    names = [str(i) for i in range(100)]
    images = write_cifar(monkeypatch, tmp_path, datasets.CIFAR10, ten, "labels", names[:10])
    images |= write_cifar(monkeypatch, tmp_path, datasets.CIFAR100, hundred, "fine_labels", names)
    return tmp_path, images


def test_cifar10(cifar):
    root, images = cifar
    task = load("cifar10", root=root)
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
    task = load("cifar100", root=root, validation=50)
    assert task.classes == 100
    assert torch.equal(task.train.images, images["train"][:150])
    assert torch.equal(task.validation.images, images["train"][150:])
    assert task.validation.labels.tolist() == [i % 100 for i in range(150, 200)]
    pixels = images["train"][:150].double() / 255
    assert task.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert torch.equal(task.ood["cifar10"](), images["test_batch"])


def test_the_companion_is_read_only_when_called(cifar):
    root, _ = cifar
    (root / datasets.CIFAR100.base_folder / "test").unlink()
    assert len(load("cifar10", root=root).train.labels) == 100


def test_fashion_mnist(monkeypatch, tmp_path):
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    images = {}
    for part, n in (("train", 40), ("t10k", 20)):
        pixels = np.random.default_rng(n).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        files = {
            f"{part}-images-idx3-ubyte": struct.pack(">4i", 2051, n, 28, 28) + pixels.tobytes(),
            f"{part}-labels-idx1-ubyte": struct.pack(">2i", 2049, n) + bytes(i % 10 for i in range(n)),
        }
        for name, contents in files.items():
            # As a user would put them there by hand: still packed.
            (folder / f"{name}.gz").write_bytes(gzip.compress(contents))
        images[part] = torch.from_numpy(pixels)[:, None]
    resources = [(name, md5(folder / name)) for name, _ in datasets.FashionMNIST.resources]
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    task = load("fashion_mnist", root=tmp_path, validation=10)
    assert torch.equal(task.train.images, images["train"][:30])
    assert torch.equal(task.validation.images, images["train"][30:])
    assert torch.equal(task.test.images, images["t10k"])
    assert task.test.labels.tolist() == [i % 10 for i in range(20)]
    assert (task.classes, task.shape.in_channels, task.shape.image_size) == (10, 1, 28)
    assert task.augmentation == Augmentation(padding=2, flip=True)
    assert "saturate" not in task.corruptions


@pytest.mark.parametrize(
    ("name", "dataset", "by_hand"),
    [
        ("cifar10", datasets.CIFAR10, "cifar-10-python.tar.gz"),
        ("cifar100", datasets.CIFAR100, "cifar-100-python.tar.gz"),
        ("fashion_mnist", datasets.FashionMNIST, "train-images-idx3-ubyte.gz"),
    ],
)
def test_a_failed_download_says_what_to_do(monkeypatch, tmp_path, name, dataset, by_hand):
    nowhere = "http://127.0.0.1:9/"  # nothing listens there
    if name == "fashion_mnist":
        monkeypatch.setattr(dataset, "mirrors", [nowhere])
    else:
        monkeypatch.setattr(dataset, "url", nowhere + by_hand)
    root = tmp_path / "new"
    with pytest.raises(FileNotFoundError) as error:
        load(name, root=root)
    for part in (f"dataset {name}: not found", str(root), "put there", by_hand, nowhere):
        assert part in str(error.value)


def test_damaged_files_are_not_used(cifar, monkeypatch):
    root, _ = cifar
    file = root / datasets.CIFAR10.base_folder / "data_batch_3"
    file.write_bytes(file.read_bytes()[:-1])
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    with pytest.raises(FileNotFoundError, match="dataset cifar10: not found"):
        load("cifar10", root=root)


def test_reading_writes_nothing(cifar):
    root, _ = cifar
    before = sorted(root.rglob("*"))
    load("cifar10", root=root)
    assert sorted(root.rglob("*")) == before
