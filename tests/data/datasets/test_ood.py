"""Which OOD datasets a task has, and the message when one cannot be loaded."""

import numpy as np
import pytest
import torch

from data import STANDARD_OOD_DATASETS, load
from data.datasets import resized_ood
from data.datasets.ood import choose_ood_datasets
from tests.data import official


@pytest.fixture
def colour(monkeypatch, tmp_path):
    """Folder with small files of all OOD datasets of CIFAR's size, and their images."""
    images = {}
    for name in official.CIFAR:
        members, found = official.cifar(monkeypatch, name)
        official.put(tmp_path, members)
        images[name.lower()] = found["test_batch" if name == "CIFAR10" else "test"]
    images["svhn"] = torch.from_numpy(official.svhn(monkeypatch, tmp_path)).permute(3, 2, 0, 1)
    monkeypatch.setattr(resized_ood, "COUNT", 1)
    for name, which in (("lsun_resize", "LSUN"), ("tiny_imagenet_resize", "TINY_IMAGENET")):
        array = official.pixels(len(name), 32, 32, 3)
        official.odin(monkeypatch, tmp_path, which, {"top/top/0.jpg": official.encoded_image(array)})
        images[name] = torch.from_numpy(array).permute(2, 0, 1)[None]
    return tmp_path, images


def found(task):
    return {name: function() for name, function in task.ood.items()}


def same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    return True


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_standard_ood_datasets_of_cifar(colour, name):
    root, images = colour
    del images[name]
    task = load(name, root=root)
    assert tuple(task.ood) == STANDARD_OOD_DATASETS[name]
    assert same(found(task), {each: images[each] for each in STANDARD_OOD_DATASETS[name]})


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_standard_ood_datasets_of_mnist(monkeypatch, tmp_path, name):
    images = {
        key: official.mnist(monkeypatch, folder, tmp_path)["t10k"]
        for key, folder in (("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST"))
    }
    images["emnist_letters"] = torch.from_numpy(official.emnist(monkeypatch, tmp_path)).mT[:, None]
    del images[name]
    assert same(found(load(name, root=tmp_path)), {each: images[each] for each in STANDARD_OOD_DATASETS[name]})


def test_only_the_listed_ood_datasets_are_loaded(colour, tmp_path):
    root, images = colour
    own = official.pixels(0, 4, 32, 32, 3)
    np.savez(tmp_path / "mine.v2.npz", images=own)
    task = load("cifar10", root=root, ood=[f"npz:{tmp_path}/mine.v2.npz", "svhn"])
    assert list(task.ood) == ["mine.v2", "svhn"]
    assert same(found(task), {"mine.v2": torch.from_numpy(own).permute(0, 3, 1, 2), "svhn": images["svhn"]})
    assert dict(load("cifar10", root=root, ood=[]).ood) == {}


def test_ood_arrays_of_a_users_file(colour, tmp_path):
    root, images = colour
    own, labels = official.pixels(0, 6, 32, 32, 3), np.arange(6) % 2
    np.savez(tmp_path / "mine.npz", x_train=own, y_train=labels, x_test=own[:4], y_test=labels[:4], ood_noise=own[4:])
    noise = torch.from_numpy(own[4:]).permute(0, 3, 1, 2)
    task = f"npz:{tmp_path}/mine.npz"
    assert same(found(load(task, root=root)), {"noise": noise})
    assert same(found(load(task, root=root, ood=["svhn", "noise"])), {"svhn": images["svhn"], "noise": noise})
    assert same(found(load(task, root=root, ood=["cifar10"])), {"cifar10": images["cifar10"]})
    test = torch.from_numpy(own[:4]).permute(0, 3, 1, 2)
    assert same(found(load("cifar10", root=root, ood=[task])), {"mine": test})


def test_ood_datasets_of_digits():
    assert list(load("digits").ood) == list(load("digits", ood=["photographs"]).ood) == ["photographs"]
    assert dict(load("digits", ood=[]).ood) == {}
    with pytest.raises(
        ValueError, match="digits: the OOD dataset 'svhn' has .*expected 1 x 8 x 8; those that fit are photo"
    ):
        load("digits", ood=["svhn"])
    with pytest.raises(
        ValueError, match="unknown OOD dataset 'photos': known are photographs, svhn.*mean 'photographs'"
    ):
        load("digits", ood=["photos"])


def test_the_message_for_a_missing_ood_dataset_says_how_to_leave_it_out(colour):
    root, _ = colour
    (root / "LSUN_resize.tar.gz").unlink()
    task = load("cifar10", root=root)
    with pytest.raises(FileNotFoundError) as error:
        task.ood["lsun_resize"]()
    assert str(error.value).startswith(f"OOD dataset lsun_resize of cifar10: {root}/LSUN_resize.tar.gz: not there")
    assert str(error.value).endswith("or leave it out: `ood: [svhn, tiny_imagenet_resize, cifar100]`")


def test_the_message_for_a_wrong_ood_dataset_says_how_to_leave_it_out(colour, monkeypatch):
    root, _ = colour
    official.odin(monkeypatch, root, "LSUN", {"top/0.jpg": b"no image"})
    with pytest.raises(
        ValueError, match=r"OOD dataset lsun_resize of cifar10: .*top/0\.jpg: cannot .*`ood: \[svhn\]`$"
    ):
        load("cifar10", root=root, ood=["svhn", "lsun_resize"]).ood["lsun_resize"]()


def test_images_of_a_loader_are_checked(tmp_path):
    own = {"a": lambda: torch.zeros(2, 3, 8, 8), "b": lambda: torch.zeros(0, 1, 8, 8, dtype=torch.uint8)}
    chosen = choose_ood_datasets("digits", (1, 8), own, None, tmp_path)
    for name in own:
        with pytest.raises(
            ValueError, match=rf"OOD dataset {name} of digits: found images .*expected .*\(N, 1, 8, 8\)"
        ):
            chosen[name]()


WRONG = [
    ({"images": official.pixels(0, 2, 28, 28)}, r"found images torch.uint8 \(2, 1, 28, 28\), expected .*3, 32, 32"),
    ({"images": np.zeros((2, 32, 32, 3))}, "images: found float64 .*, expected uint8 images"),
    (
        {"x_train": official.pixels(0, 2, 32, 32, 3)},
        "holds x_train, expected a .npz file with an array `images` or `x_test`",
    ),
    ({}, "holds no arrays"),
]


@pytest.mark.parametrize(("arrays", "problem"), WRONG)
def test_files_of_the_users_own_that_do_not_fit(tmp_path, arrays, problem):
    file = tmp_path / "mine.npz"
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match=rf"cifar10: OOD dataset 'npz:{file}': .*{problem}"):
        load("cifar10", ood=[f"npz:{file}"])


def test_missing_or_unreadable_files(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"none\.npz: no such file, expected a \.npz file with an array `images`"
    ):
        load("cifar10", ood=[f"npz:{tmp_path}/none.npz"])
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(ValueError, match=r"text\.npz: found something that is not a \.npz file"):
        load("cifar10", ood=[f"npz:{tmp_path}/text.npz"])
    np.savez(tmp_path / "a b.npz", images=official.pixels(0, 2, 32, 32, 3))
    with pytest.raises(ValueError, match="an OOD dataset's name may have letters"):
        load("cifar10", ood=[f"npz:{tmp_path}/a b.npz"])
    file = tmp_path / "cut.npz"
    np.savez_compressed(file, images=official.pixels(0, 9, 32, 32, 3))
    contents = bytearray(file.read_bytes())
    contents[300:400] = bytes(100)
    file.write_bytes(contents)
    with pytest.raises(ValueError, match=r"cut\.npz: images: cannot be read .*as numpy\.savez writes it"):
        load("cifar10", ood=[f"npz:{file}"])
