import errno
import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.corruptions import EXTRA_CORRUPTIONS, STANDARD_CORRUPTIONS
from data.datasets import official_checksums, official_corruptions
from data.datasets.official_corruptions import (
    OFFICIAL,
    check_official_cifar,
    find_official_imagenet,
    load_official_sets,
    read_official_cifar,
)
from data.files.decode_image import DecodeJob, decode_images
from data.files.image_files import ImageFiles
from data.tasks.image_dataset import Augmentation, Split
from data.tasks.image_task import ImageTask
from tests.data.write_image_files import write_level

N = 7  # test images, where the official files have 10,000


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(official_corruptions, "_IMAGES", N)


@pytest.fixture
def labels():
    return torch.arange(N) * 3 % 10


def write(root, labels, name="cifar10", corruptions=STANDARD_CORRUPTIONS, n=N):
    """Write the official format: one file per corruption with all severities in order, and the labels five times."""
    folder = root / OFFICIAL[name].folder
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    images = {}
    for corruption in corruptions:
        images[corruption] = draw.integers(0, 256, (5 * n, 32, 32, 3), dtype=np.uint8)
        np.save(folder / f"{corruption}.npy", images[corruption])
    np.save(folder / "labels.npy", np.tile(labels.numpy().astype(np.uint8), 5))
    return folder, images


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_every_severity_in_order(small, tmp_path, labels, name):
    _, images = write(tmp_path, labels, name, (*STANDARD_CORRUPTIONS, *EXTRA_CORRUPTIONS))
    check_official_cifar(name, tmp_path, labels)
    read = list(read_official_cifar(name, tmp_path, labels))
    assert [(corruption, severity) for corruption, severity, _ in read] == [
        (corruption, severity) for corruption in STANDARD_CORRUPTIONS for severity in range(1, 6)
    ]
    for corruption, severity, found in read:
        expected = images[corruption][(severity - 1) * N : severity * N]
        assert found.dtype == torch.uint8
        assert torch.equal(found, torch.from_numpy(expected).movedim(3, 1))
    (name_of_it, _, _), *others = read_official_cifar(name, tmp_path, labels, corruptions=["spatter"])
    assert (name_of_it, len(others)) == ("spatter", 4)


def test_the_official_size_is_10000(tmp_path, labels):
    write(tmp_path, labels)
    with pytest.raises(ValueError, match=r"expected uint8 \(50000, 32, 32, 3\)"):
        check_official_cifar("cifar10", tmp_path, labels)


def test_one_severity_is_in_memory_at_a_time(tmp_path):
    n = 400
    labels = torch.zeros(n, dtype=torch.int64)
    write(tmp_path, labels, corruptions=("fog", "snow"), n=n)
    one = n * 32 * 32 * 3
    tracemalloc.start()
    for _, _, images in official_corruptions._read("cifar10", tmp_path, labels, ("fog", "snow"), n):
        assert images.shape == (n, 3, 32, 32)
        del images
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert one < peak < 1.5 * one


def test_a_changed_image_does_not_change_the_file(small, tmp_path, labels):
    _, images = write(tmp_path, labels)
    for _, _, found in read_official_cifar("cifar10", tmp_path, labels):
        found.zero_()
    assert np.array_equal(np.load(tmp_path / "CIFAR-10-C" / "fog.npy"), images["fog"])


def test_labels_of_any_integer_type(small, tmp_path, labels):
    folder, _ = write(tmp_path, labels)
    np.save(folder / "labels.npy", np.tile(labels.numpy(), 5))
    check_official_cifar("cifar10", tmp_path, labels)


def test_a_missing_folder(small, tmp_path, labels):
    with pytest.raises(FileNotFoundError) as error:
        check_official_cifar("cifar100", tmp_path / "here", labels)
    message = str(error.value)
    folder = tmp_path / "here" / "CIFAR-100-C"
    assert message.startswith(f"{folder}: no such folder; get CIFAR-100-C.tar (MD5 11f0ed0f1191edbf9fa23466ae6021d3)")
    assert "https://zenodo.org/records/3555552" in message
    assert message.endswith(f"so that the files lie in {folder}")


def test_missing_files_are_named_together(small, tmp_path, labels):
    folder, _ = write(tmp_path, labels)
    for name in ("snow.npy", "labels.npy"):
        (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"CIFAR-10-C: no file snow.npy, labels.npy; get CIFAR-10-C.tar \(MD5"):
        check_official_cifar("cifar10", tmp_path, labels)
    # Nothing is given out before everything was checked.
    with pytest.raises(FileNotFoundError):
        next(read_official_cifar("cifar10", tmp_path, labels))


def zeros(shape, dtype=np.uint8):
    return lambda file: np.save(file, np.zeros(shape, dtype))


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("name", "harm", "message"),
    [
        ("fog.npy", cut, r"not a whole .npy file \(.*\), expected uint8 \(35, 32, 32, 3\)"),
        ("fog.npy", lambda file: file.write_bytes(b""), "not a whole .npy file"),
        ("fog.npy", lambda file: file.write_bytes(b"<html>sorry</html>"), "not a whole .npy file"),
        ("fog.npy", lambda file: np.savez(file.open("wb"), x=np.zeros(3)), "not a whole .npy file"),
        ("fog.npy", lambda file: np.save(file, np.array([{}]), allow_pickle=True), "not a whole .npy file"),
        ("fog.npy", zeros((35, 32, 32, 3), np.float32), r"found float32 \(35, 32, 32, 3\), expected uint8"),
        ("fog.npy", zeros((35, 3, 32, 32)), r"found uint8 \(35, 3, 32, 32\), expected uint8 \(35, 32, 32, 3\)"),
        ("fog.npy", zeros((7, 32, 32, 3)), r"found uint8 \(7, 32, 32, 3\), expected uint8 \(35, 32, 32, 3\)"),
        ("labels.npy", cut, r"not a whole .npy file \(.*\), expected integer \(35,\)"),
        ("labels.npy", zeros(7), r"found uint8 \(7,\), expected integer \(35,\)"),
        ("labels.npy", zeros(35, np.float64), r"found float64 \(35,\), expected integer \(35,\)"),
    ],
)
def test_a_wrong_file(small, tmp_path, labels, name, harm, message):
    folder, _ = write(tmp_path, labels)
    harm(folder / name)
    with pytest.raises(ValueError, match=message) as error:
        check_official_cifar("cifar10", tmp_path, labels)
    assert str(error.value).startswith(f"{folder / name}: ")
    assert str(error.value).endswith(OFFICIAL["cifar10"].remedy(tmp_path, "fog"))


@pytest.mark.parametrize("place", [2, 3 * N + 2])
def test_other_labels(small, tmp_path, labels, place):
    folder, _ = write(tmp_path, labels)
    stored = np.load(folder / "labels.npy")
    stored[place] = 9
    np.save(folder / "labels.npy", stored)
    with pytest.raises(ValueError, match=rf"labels.npy: 1 of 35 labels differ .* index {place}: found 9, expected 6;"):
        check_official_cifar("cifar10", tmp_path, labels)


def test_a_part_of_the_test_set(small, tmp_path, labels):
    write(tmp_path, labels)
    with pytest.raises(ValueError, match="is for 7 test images, but the task has 6; test on all of them"):
        check_official_cifar("cifar10", tmp_path, labels[:6])


def test_a_dataset_without_official_files(tmp_path, labels):
    with pytest.raises(ValueError, match="official .npy files for cifar10 and cifar100, not for 'digits'"):
        check_official_cifar("digits", tmp_path, labels)


def test_every_corruption_is_in_one_archive():
    for official in OFFICIAL.values():
        held = [name for _, _, names in official.archives for name in names]
        assert sorted(held) == sorted(STANDARD_CORRUPTIONS + EXTRA_CORRUPTIONS)
    remedy = OFFICIAL["imagenet"].remedy
    for corruption, archive in {"glass_blur": "blur", "brightness": "weather", "contrast": "digital"}.items():
        assert remedy(Path(), corruption).startswith(f"get {archive}.tar (MD5 ")


CLASSES = ("n01440764", "n01443537")


def test_imagenet_folders(tmp_path):
    for corruption in STANDARD_CORRUPTIONS:
        for severity in range(1, 6):
            for name in (*CLASSES, "n99999999"):
                (tmp_path / "ImageNet-C" / corruption / str(severity) / name).mkdir(parents=True)
    found = find_official_imagenet(tmp_path, CLASSES)
    assert found == [(c, s, tmp_path / "ImageNet-C" / c / str(s)) for c in STANDARD_CORRUPTIONS for s in range(1, 6)]
    assert [c for c, _, _ in find_official_imagenet(tmp_path, CLASSES, corruptions=["fog"])] == ["fog"] * 5

    (tmp_path / "ImageNet-C" / "fog" / "4" / CLASSES[1]).rmdir()
    with pytest.raises(
        FileNotFoundError, match=r"fog/4: .* none for 1 of 2 classes, n01443537 for example; get weather.tar \(MD5"
    ):
        find_official_imagenet(tmp_path, CLASSES)
    with pytest.raises(FileNotFoundError, match=r"C/spatter/1: no such folder; get extra.tar .*records/2235448"):
        find_official_imagenet(tmp_path, CLASSES, corruptions=["spatter"])


def test_a_task_with_official_files_instead_of_generated_ones(small, tmp_path, labels):
    _, images = write(tmp_path, labels)
    test = Split(torch.zeros(N, 3, 32, 32, dtype=torch.uint8), labels)
    sets = load_official_sets("cifar10", tmp_path, test)
    task = ImageTask("c", 10, test, None, test, (0.5,) * 3, (0.2,) * 3, Augmentation(), {}, (), sets)
    found = list(task.corrupted(4))
    assert [start for *_, start, _ in found[:4]] == [0, 4, 0, 4]
    fog = torch.cat([batch for name, severity, _, batch in found if (name, severity) == ("fog", 2)])
    assert torch.equal(fog, torch.from_numpy(images["fog"][N : 2 * N]).movedim(3, 1))
    with pytest.raises(ValueError, match=r"digits has no official corrupted files: only cifar10, cifar100, imagenet"):
        load_official_sets("digits", tmp_path, test)
    with pytest.raises(FileNotFoundError, match="CIFAR-100-C: no such folder"):
        load_official_sets("cifar100", tmp_path, test)


@pytest.fixture
def imagenet_c(tmp_path):
    """Write two classes of two images, whose grey levels encode class, image and severity; val has another order."""
    names = {"n01": ["val_3.JPEG", "val_1.JPEG"], "n02": ["val_2.JPEG", "val_4.JPEG"]}
    for wnid, images in names.items():
        (tmp_path / "imagenet" / "train" / wnid).mkdir(parents=True)
        for i, (corruption, severity) in enumerate((c, s) for c in STANDARD_CORRUPTIONS for s in range(1, 6)):
            for image in images:
                level = 3 * i + int(image[4])
                file = tmp_path / "ImageNet-C" / corruption / str(severity) / wnid / image
                with Image.open(write_level(file, level, 8, 8)) as plain:
                    plain.putpixel((0, 0), (level + 24,) * 3)  # it is not blank
                    plain.save(file)
    order = np.array([b"val_1.JPEG", b"val_2.JPEG", b"val_3.JPEG", b"val_4.JPEG"])
    return Split(ImageFiles(tmp_path / "imagenet" / "val", order, 8), torch.tensor([0, 1, 0, 1]))


def test_imagenet_c_in_the_order_of_the_test_images(imagenet_c, tmp_path):
    listed = list(load_official_sets("imagenet", tmp_path, imagenet_c).read())
    assert len(listed) == 75
    for i, (_, _, files) in enumerate(listed):
        assert [path.rpartition("/")[2] for path in files.paths()] == [f"val_{k}.JPEG" for k in (1, 2, 3, 4)]
        if i in (0, 74):
            levels = decode_images(DecodeJob(files.paths(), 8, resized=False)).float().mean((1, 2, 3))
            torch.testing.assert_close(levels, torch.tensor([3.0 * i + k for k in (1, 2, 3, 4)]), atol=2, rtol=0)


def test_imagenet_c_with_a_missing_or_misplaced_image(imagenet_c, tmp_path):
    wrong = Split(imagenet_c.images, torch.tensor([0, 1, 0, 0]))
    with pytest.raises(ValueError, match="in the folders of other classes"):
        load_official_sets("imagenet", tmp_path, wrong)
    folder = tmp_path / "ImageNet-C" / "fog" / "2" / "n01"
    (folder / "val_1.JPEG").rename(folder / "val_9.JPEG")
    with pytest.raises(ValueError, match=r"fog/2: 1 of 4 test images are not there; get weather.tar"):
        load_official_sets("imagenet", tmp_path, imagenet_c)


def cifar_sets(tmp_path, labels):
    """Load the official sets as a task does; their files are those of `write`."""
    test = Split(torch.zeros(N, 3, 32, 32, dtype=torch.uint8), labels)
    return load_official_sets("cifar10", tmp_path, test)


def test_the_files_are_pinned_at_their_first_use(small, tmp_path, labels, capsys):
    folder, _ = write(tmp_path, labels)
    first = cifar_sets(tmp_path, labels)
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == sorted(
        f"{name}.npy" for name in (*STANDARD_CORRUPTIONS, "labels")
    )
    assert f"{hashlib.sha256((folder / 'fog.npy').read_bytes()).hexdigest()}  fog.npy" in lines
    assert f"{folder}: read once from end to end" in capsys.readouterr().err
    again = cifar_sets(tmp_path, labels)
    assert again.digest == first.digest == first.compute_digest(None)
    assert capsys.readouterr().err == ""


def test_a_file_that_changed_since_its_first_use_is_refused(small, tmp_path, labels):
    folder, images = write(tmp_path, labels)
    loaded = cifar_sets(tmp_path, labels)
    images["fog"][0, 0, 0, 0] ^= 1
    np.save(folder / "fog.npy", images["fog"])
    message = (
        r"/fog\.npy: its SHA-256 is [0-9a-f]{64}, not [0-9a-f]{64} as at its first use; get CIFAR-10-C\.tar .*SUMS"
    )
    with pytest.raises(ValueError, match=message):
        cifar_sets(tmp_path, labels)
    with pytest.raises(ValueError, match=message):
        loaded.compute_digest({})
    (folder / "SHA256SUMS").unlink()
    assert cifar_sets(tmp_path, labels).digest != loaded.digest


@pytest.mark.parametrize("severities", [(1, 2, 3, 4, 5), (5,)])
def test_blank_images_are_refused(small, tmp_path, labels, severities):
    folder, images = write(tmp_path, labels)
    for severity in severities:
        images["snow"][(severity - 1) * N : severity * N] = (1, 2, 3)
    np.save(folder / "snow.npy", images["snow"])
    with pytest.raises(
        ValueError, match=r"/snow\.npy: 7 of 7 images are blank, all pixels the same; get CIFAR-10-C\.tar"
    ):
        cifar_sets(tmp_path, labels)
    assert not (folder / "SHA256SUMS").exists()


def test_damaged_checksums_are_named(small, tmp_path, labels):
    folder, _ = write(tmp_path, labels)
    (folder / "SHA256SUMS").write_text("what is this\n")
    with pytest.raises(ValueError, match=r"SHA256SUMS: line 1 is not a SHA-256 and a path"):
        cifar_sets(tmp_path, labels)


def test_a_folder_that_cannot_be_written_to_is_used_without_pinning(small, tmp_path, labels, monkeypatch, capsys):
    write(tmp_path, labels)

    def refuse(file, doing):
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    monkeypatch.setattr(official_checksums, "hold_lock", refuse)
    assert len(cifar_sets(tmp_path, labels).digest) == 64
    assert "SHA256SUMS: cannot be written (Permission denied)" in capsys.readouterr().err


def test_imagenet_c_is_pinned_and_blank_folders_are_refused(imagenet_c, tmp_path):
    first = load_official_sets("imagenet", tmp_path, imagenet_c)
    sums = tmp_path / "ImageNet-C" / "SHA256SUMS"
    assert len(sums.read_text().splitlines()) == 75 and "  fog/3\n" in sums.read_text()
    file = tmp_path / "ImageNet-C" / "fog" / "3" / "n01" / "val_1.JPEG"
    write_level(file, 77, 8, 8)
    with pytest.raises(ValueError, match=r"/fog/3: its SHA-256 is"):
        first.compute_digest(None)
    sums.unlink()
    with pytest.raises(ValueError, match=r"/fog/3: 1 of 4 images are blank, .*; get weather\.tar"):
        load_official_sets("imagenet", tmp_path, imagenet_c)
