import gzip
import struct

import numpy as np
import pytest
import torch
from torchvision import datasets

from data import Augmentation, load
from data.datasets.mnist import load_emnist_letters_test, load_kmnist_test, read_idx
from tests.data import official


@pytest.mark.parametrize(
    ("name", "folder", "augmentation"),
    [
        ("mnist", "MNIST", Augmentation(padding=2)),
        ("fashion_mnist", "FashionMNIST", Augmentation(padding=4, flip=True)),
    ],
)
def test_tasks(monkeypatch, tmp_path, name, folder, augmentation):
    images = official.mnist(monkeypatch, folder, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    task = load(name, root=tmp_path, validation=10)
    assert torch.equal(task.train.images, images["train"][:30])
    assert torch.equal(task.validation.images, images["train"][30:])
    assert torch.equal(task.test.images, images["t10k"])
    assert task.test.labels.tolist() == [i % 10 for i in range(20)]
    assert task.shape == (1, 28, 10, 30)
    pixels = images["train"][:30].double() / 255
    assert task.mean == pytest.approx([pixels.mean().item()], abs=1e-12)
    assert task.std == pytest.approx([pixels.std(correction=0).item()], abs=1e-12)
    assert task.augmentation == augmentation
    assert "saturate" not in task.corruptions
    assert sorted(tmp_path.rglob("*")) == before


def test_kmnist(monkeypatch, tmp_path):
    images = official.mnist(monkeypatch, "KMNIST", tmp_path)
    assert torch.equal(load_kmnist_test(tmp_path), images["t10k"])


def test_letters_are_upright(monkeypatch, tmp_path):
    array = official.emnist(monkeypatch, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    images = load_emnist_letters_test(tmp_path)
    assert images.shape == (7, 1, 28, 28)
    for stored, image in zip(array, images, strict=True):
        assert np.array_equal(image[0].numpy(), stored.T)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_letters_archive_without_the_file(monkeypatch, tmp_path):
    contents = official.zipped({"gzip/other.gz": b""})
    official.put(tmp_path, {"EMNIST/raw/gzip.zip": contents})
    monkeypatch.setattr(datasets.EMNIST, "md5", official.md5(contents))
    with pytest.raises(ValueError, match=r"gzip\.zip: gzip/emnist-letters-test.*cannot be read .*remove the archive"):
        load_emnist_letters_test(tmp_path)


@pytest.mark.parametrize("array", [official.pixels(0, 3), official.pixels(0, 2, 3), official.pixels(0, 2, 3, 4)])
def test_idx(array):
    assert np.array_equal(read_idx(official.idx(array), "x").numpy(), array)


WHOLE = gzip.decompress(official.idx(official.pixels(0, 5, 28, 28)))


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        (official.idx(official.pixels(0, 5, 28, 28))[:-20], "cannot be read"),
        (b"not packed", "cannot be read"),
        (gzip.compress(b""), "cannot be read"),
        (gzip.compress(WHOLE[:6]), "cannot be read"),
        (gzip.compress(WHOLE[:-1]), r"found type 8 and 3919 values, expected type 8 .* shape \(5, 28, 28\)"),
        (gzip.compress(WHOLE + b"x"), "found type 8 and 3921 values"),
        (gzip.compress(struct.pack(">HBBI", 0, 13, 1, 1) + bytes(4)), "found type 13 and 4 values"),
    ],
    ids=["cut", "not packed", "empty", "half a header", "a byte less", "a byte more", "floats"],  # gzip tells the time
)
def test_files_that_are_not_idx(contents, problem):
    with pytest.raises(ValueError, match=rf"a\.gz: {problem}.*remove the file"):
        read_idx(contents, "a.gz")


def test_an_altered_archive_is_never_used(monkeypatch, tmp_path):
    official.mnist(monkeypatch, "MNIST", tmp_path)
    file = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    file.write_bytes(official.idx(np.zeros(20, np.uint8)))
    with pytest.raises(
        FileNotFoundError, match=f"{file}: not there, .*{datasets.MNIST.mirrors[0]}{file.name}: no network"
    ):
        load("mnist", root=tmp_path)
    assert not file.exists()


def test_labels_out_of_range(monkeypatch, tmp_path):
    official.mnist(monkeypatch, "MNIST", tmp_path, (10, 20), labels=11)
    with pytest.raises(ValueError, match="t10k: found 20 labels from 0 to 10, expected 20 from 0 to 9"):
        load("mnist", root=tmp_path)


def test_images_of_another_size(monkeypatch, tmp_path):
    official.mnist(monkeypatch, "MNIST", tmp_path)
    file, other = "train-images-idx3-ubyte.gz", official.idx(official.pixels(0, 40, 20, 20))
    official.put(tmp_path, {f"MNIST/raw/{file}": other})
    resources = [(name, official.md5(other) if name == file else md5) for name, md5 in datasets.MNIST.resources]
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    with pytest.raises(ValueError, match=r"train: found torch.uint8 \(40, 1, 20, 20\), expected .*1, 28, 28.*remove"):
        load("mnist", root=tmp_path)
