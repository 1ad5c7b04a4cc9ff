import io

import numpy as np
import pytest
import torch
from PIL import Image

from data import Augmentation, load
from data.datasets import tiny_imagenet
from tests.data import official

TOP = "tiny-imagenet-200"
NUMBERS = {"n01": 0, "n02": 1, "n10": 2}


def colours(contents):
    return torch.from_numpy(np.array(Image.open(io.BytesIO(contents)).convert("RGB"))).permute(2, 0, 1)


def test_all_images_with_their_labels(monkeypatch, tmp_path):
    members = official.tiny()
    official.put_tiny(monkeypatch, tmp_path, members)
    task = load("tiny_imagenet", root=tmp_path)
    assert task.shape == (3, 64, 3, 12)
    assert task.augmentation == Augmentation(padding=4, flip=True)
    assert dict(task.ood) == {}
    assert (task.validation, task.classes) == (None, 3)
    expected = {
        (colours(contents).numpy().tobytes(), NUMBERS[name.split("/")[2]])
        for name, contents in members.items()
        if "train/" in name and name.endswith("JPEG")
    }
    found = [(image.numpy().tobytes(), int(y)) for image, y in zip(task.train.images, task.train.labels, strict=True)]
    assert len(found) == len(set(found)) == 12
    assert set(found) == expected
    for i, (image, y) in enumerate(zip(task.test.images, task.test.labels, strict=True)):
        assert torch.equal(image, colours(members[f"{TOP}/val/images/val_{i}.JPEG"]))
        assert y == NUMBERS[official.TINY_CLASSES[i % 3]]


def test_held_out_images_are_stratified(monkeypatch, tmp_path):
    official.put_tiny(monkeypatch, tmp_path, official.tiny())
    for held_out in (3, 6, 9):
        task = load("tiny_imagenet", root=tmp_path, validation=held_out)
        assert task.validation.labels.bincount(minlength=3).tolist() == [held_out // 3] * 3
        assert task.train.labels.bincount(minlength=3).tolist() == [(12 - held_out) // 3] * 3


def test_images_are_decoded_once(monkeypatch, tmp_path, capsys):
    archive = official.put_tiny(monkeypatch, tmp_path, official.tiny())
    first = load("tiny_imagenet", root=tmp_path)
    assert "decoding the images of tiny-imagenet-200.zip" in capsys.readouterr().err
    archive.unlink()
    again = load("tiny_imagenet", root=tmp_path)
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.train.labels, again.train.labels)
    assert torch.equal(first.test.images, again.test.images)
    assert capsys.readouterr().err == ""
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == ["tiny-imagenet-200.npz"]


def test_a_damaged_cache_is_written_again(monkeypatch, tmp_path):
    archive = official.put_tiny(monkeypatch, tmp_path, official.tiny())
    first = load("tiny_imagenet", root=tmp_path)
    cache = tmp_path / f"{TOP}.npz"
    contents = bytearray(cache.read_bytes())
    contents[len(contents) // 2] ^= 1
    cache.write_bytes(contents)
    assert torch.equal(load("tiny_imagenet", root=tmp_path).train.images, first.train.images)
    cache.write_bytes(contents)
    archive.unlink()
    with pytest.raises(FileNotFoundError, match=f"{archive}: not there.*no network"):
        load("tiny_imagenet", root=tmp_path)


def test_a_cut_archive_is_never_used(monkeypatch, tmp_path):
    archive = official.put_tiny(monkeypatch, tmp_path, official.tiny())
    archive.write_bytes(archive.read_bytes()[:-10])
    with pytest.raises(FileNotFoundError, match=f"{archive}: not there.*{tiny_imagenet.URL}: no network.*by hand"):
        load("tiny_imagenet", root=tmp_path)
    assert not (tmp_path / f"{TOP}.npz").exists()


def without(name):
    return lambda members: {key: value for key, value in members.items() if name not in key}


ANNOTATIONS = f"{TOP}/val/val_annotations.txt"
WRONG = {
    "a class too few": (without("train/n10"), r"found 8 training images of 2 classes .*expected 12 of 3"),
    "an image too few": (without("n10_1.JPEG"), "found 11 training images of 3 classes"),
    "no annotations": (without(ANNOTATIONS), r"val_annotations\.txt: missing"),
    "a test image too few": (
        without("val_3.JPEG"),
        r"val_annotations\.txt: found 'val_3.JPEG.*', expected an image",
    ),
    "a line too few": (
        lambda members: {**members, ANNOTATIONS: members[ANNOTATIONS].split(b"val_5")[0]},
        r"val_annotations\.txt: found 5 lines, expected 6",
    ),
    "an unknown class": (
        lambda members: {**members, ANNOTATIONS: members[ANNOTATIONS].replace(b"n10", b"n99", 1)},
        r"found 'val_1.JPEG\\tn99.*', expected an image of val/images and one of the 3 classes",
    ),
    "a line that is none": (lambda members: {**members, ANNOTATIONS: b"text"}, "found 'text', expected an image"),
    "an image that is none": (
        lambda members: {**members, f"{TOP}/train/n02/images/n02_1.JPEG": b"text"},
        r"n02_1\.JPEG: cannot be read as an image",
    ),
    "an image of another size": (
        lambda members: {
            **members,
            f"{TOP}/val/images/val_2.JPEG": official.encoded_image(official.pixels(0, 32, 64, 3)),
        },
        r"val_2\.JPEG: found 64 x 32 pixels, expected 64 x 64",
    ),
}


@pytest.mark.parametrize(("change", "problem"), WRONG.values(), ids=WRONG)
def test_an_archive_with_unexpected_contents(monkeypatch, tmp_path, change, problem):
    archive = official.put_tiny(monkeypatch, tmp_path, change(official.tiny()))
    with pytest.raises(ValueError, match=rf"{archive}: .*{problem}"):
        load("tiny_imagenet", root=tmp_path)
    assert not (tmp_path / f"{TOP}.npz").exists()


def test_a_damaged_member(monkeypatch, tmp_path):
    """The checksums of members are verified, even if the archive's own checksum is right."""
    archive = official.put_tiny(monkeypatch, tmp_path, official.tiny())
    contents = bytearray(archive.read_bytes())
    contents[len(contents) // 2] ^= 1
    archive.write_bytes(contents)
    monkeypatch.setattr(tiny_imagenet, "MD5", official.md5(contents))
    with pytest.raises(ValueError, match=f"{archive}: .*cannot be read"):
        load("tiny_imagenet", root=tmp_path)
