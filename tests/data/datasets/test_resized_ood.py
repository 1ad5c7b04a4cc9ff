"""OOD datasets of CIFAR's size: SVHN, and resized LSUN and TinyImageNet."""

import numpy as np
import pytest
import torch
from torchvision import datasets

from data.datasets import resized_ood
from data.datasets.resized_ood import load_lsun_resize, load_tiny_imagenet_resize
from data.datasets.svhn import load_svhn_test
from tests.data import official

LOADERS = {
    "LSUN": (load_lsun_resize, "LSUN_resize"),
    "TINY_IMAGENET": (load_tiny_imagenet_resize, "Imagenet_resize"),
}


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(resized_ood, "COUNT", 3)


def members(folder, sizes=((32, 32, 3),) * 3):
    """Return three images, and archive members with these images in another order and with other files."""
    arrays = [official.pixels(i, *size) for i, size in enumerate(sizes)]
    images = {f"{folder}/{folder}/{2 - i}.jpg": official.encoded_image(array) for i, array in enumerate(arrays)}
    rest = {folder: None, f"{folder}/.DS_Store": b"x", f"{folder}/{folder}/._1.jpg": b"x", f"{folder}/notes.txt": b"x"}
    return arrays, {**rest, **images}


@pytest.mark.parametrize("which", LOADERS)
def test_images_in_the_order_of_their_names(monkeypatch, tmp_path, few, which):
    load, folder = LOADERS[which]
    arrays, found = members(folder)
    official.odin(monkeypatch, tmp_path, which, found)
    before = sorted(tmp_path.rglob("*"))
    images = load(tmp_path)
    assert torch.equal(images, torch.from_numpy(np.stack(arrays[::-1])).permute(0, 3, 1, 2))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("which", LOADERS)
def test_archives_with_unexpected_contents(monkeypatch, tmp_path, few, which):
    load, folder = LOADERS[which]
    cases = [
        (members(folder, ((32, 32, 3),) * 2)[1], r"found torch.uint8 \(2, 3, 32, 32\), expected .*\(3, 3, 32, 32\)"),
        ({}, r"found torch.uint8 \(0, 3, 32, 32\)"),
        (members(folder, ((32, 32, 3), (32, 36, 3)))[1], r"/1\.jpg: found 36 x 32 pixels, expected 32 x 32"),
        ({f"{folder}/a.jpg": b"no image"}, r"/a\.jpg: cannot be read as an image"),
    ]
    for found, problem in cases:
        archive = official.odin(monkeypatch, tmp_path, which, found)
        with pytest.raises(ValueError, match=rf"{archive}.*{problem}"):
            load(tmp_path)


@pytest.mark.parametrize("which", LOADERS)
def test_a_cut_archive_is_never_used(monkeypatch, tmp_path, few, which):
    load, folder = LOADERS[which]
    archive = official.odin(monkeypatch, tmp_path, which, members(folder)[1])
    archive.write_bytes(archive.read_bytes()[:-10])
    with pytest.raises(FileNotFoundError, match=f"{archive}: not there.*dropbox.*no network.*put {archive.name} .md5"):
        load(tmp_path)


def test_svhn(monkeypatch, tmp_path):
    array = official.svhn(monkeypatch, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    images = load_svhn_test(tmp_path)
    assert images.shape == (5, 3, 32, 32)
    for i, image in enumerate(images):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), array[..., i])
    assert sorted(tmp_path.rglob("*")) == before


def test_svhn_with_another_type(monkeypatch, tmp_path):
    official.svhn(monkeypatch, tmp_path, official.pixels(0, 32, 32, 3, 2).astype(np.float32))
    with pytest.raises(
        ValueError, match=r"test_32x32\.mat: found torch.float32 \(2, 3, 32, 32\), expected torch.uint8"
    ):
        load_svhn_test(tmp_path)


def test_a_file_that_is_no_mat_file(monkeypatch, tmp_path):
    official.put(tmp_path, {"test_32x32.mat": b"text"})
    url, name, _ = datasets.SVHN.split_list["test"]
    monkeypatch.setitem(datasets.SVHN.split_list, "test", [url, name, official.md5(b"text")])
    with pytest.raises(ValueError, match=r"test_32x32\.mat: cannot be read .*remove the file"):
        load_svhn_test(tmp_path)


def test_svhn_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"test_32x32\.mat: not there.*ufldl.*no network.*by hand"):
        load_svhn_test(tmp_path)
