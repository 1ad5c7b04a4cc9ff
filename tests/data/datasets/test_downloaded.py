import io
import os
import re

import numpy as np
import pytest
import torch
from PIL import Image

from data.datasets import downloaded as stored
from data.datasets.downloaded import check_images, decode_image_bytes, load_or_make_arrays, make_split
from tests.data.official import encoded_image, pixels


@pytest.mark.parametrize(("kind", "shape"), [("PNG", (4, 4, 3)), ("PNG", (4, 4)), ("BMP", (4, 4, 3))])
def test_decoding(kind, shape):
    array = pixels(1, *shape)
    expected = array if array.ndim == 3 else np.stack([array] * 3, axis=2)
    assert np.array_equal(decode_image_bytes(encoded_image(array, kind), 4, "x"), expected)


def test_a_palette_becomes_colours():
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    out = io.BytesIO()
    image.save(out, "PNG")
    assert decode_image_bytes(out.getvalue(), 2, "x").tolist() == [
        [[10, 20, 30], [40, 50, 60]],
        [[40, 50, 60], [10, 20, 30]],
    ]


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        (b"no image", "cannot be read as an image"),
        (b"", "cannot be read as an image"),
        (encoded_image(pixels(1, 4, 4, 3), "JPEG")[:-30], "cannot be read as an image"),
        (encoded_image(pixels(1, 4, 4, 3))[:-30], "cannot be read as an image"),
        (encoded_image(pixels(1, 4, 5, 3)), "found 5 x 4 pixels, expected 4 x 4"),
    ],
)
def test_images_with_wrong_contents(contents, problem):
    with pytest.raises(ValueError, match=rf"a\.zip: b\.png: {problem}"):
        decode_image_bytes(contents, 4, "a.zip: b.png")


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (torch.zeros(2, 3, 4, 4), "torch.float32 (2, 3, 4, 4)"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), "torch.uint8 (2, 1, 4, 4)"),
        (torch.zeros(3, 3, 4, 4, dtype=torch.uint8), "torch.uint8 (3, 3, 4, 4)"),
        (torch.zeros(2, 3, 4, dtype=torch.uint8), "torch.uint8 (2, 3, 4)"),
    ],
)
def test_other_images(images, found):
    expected = f"file: found {found}, expected torch.uint8 (2, 3, 4, 4); remove the file, and get it again"
    with pytest.raises(ValueError, match=re.escape(expected)):
        check_images(images, "file", channels=3, side=4, count=2)
    right = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    assert check_images(right, "file", channels=3, side=4, count=2) is right
    with pytest.raises(ValueError, match=r"found torch.uint8 \(0, 3, 4, 4\), expected torch.uint8 \(N, 3, 4, 4\)"):
        check_images(right[:0], "file", channels=3, side=4)


@pytest.mark.parametrize(
    ("labels", "found"),
    [([0, 1, 3], "3 labels from 0 to 3"), ([-1, 0, 0], "3 labels from -1 to 0"), ([0], "1 labels from 0 to 0")],
)
def test_other_labels(labels, found):
    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"file: found {found}, expected 3 from 0 to 2; remove the file"):
        make_split(images, torch.tensor(labels), 3, "file")
    assert make_split(images, torch.tensor([0, 1, 2]), 3, "file").labels.tolist() == [0, 1, 2]


class Maker:
    """Counts how often arrays are made."""

    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1
        return {"a": pixels(self.times, 1000), "b": np.arange(3)}


@pytest.fixture
def make():
    return Maker()


def same(found, expected):
    return found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in found)


def test_arrays_are_made_once(tmp_path, make):
    first = load_or_make_arrays(tmp_path / "new" / "kept.npz", "v1", make)
    assert same(load_or_make_arrays(tmp_path / "new" / "kept.npz", "v1", make), first)
    assert make.times == 1
    assert [path.name for path in (tmp_path / "new").iterdir() if path.suffix != ".lock"] == ["kept.npz"]


def test_the_cache_is_written_again_for_another_source(tmp_path, make, capsys):
    load_or_make_arrays(tmp_path / "kept.npz", "v1", make)
    second = load_or_make_arrays(tmp_path / "kept.npz", "v2", make)
    assert make.times == 2
    assert same(load_or_make_arrays(tmp_path / "kept.npz", "v2", make), second)
    assert "kept.npz: it has another version; made anew" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "altered", "empty", "other"])
def test_a_damaged_file_is_never_used(tmp_path, make, damage, capsys):
    file = tmp_path / "kept.npz"
    first = load_or_make_arrays(file, "v1", make)
    contents = bytearray(file.read_bytes())
    at = contents.index(first["a"].tobytes()[:50])
    contents[at + 500] ^= 1
    file.write_bytes({"cut": contents[:-100], "altered": contents, "empty": b"", "other": b"text"}[damage])
    second = load_or_make_arrays(file, "v1", make)
    assert make.times == 2
    assert not same(first, second)
    assert same(load_or_make_arrays(file, "v1", make), second)
    assert "kept.npz: it cannot be read" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written(tmp_path, make, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may write everywhere
    first = load_or_make_arrays(tmp_path / "kept.npz", "v1", make)
    assert same(first, {"a": pixels(1, 1000), "b": np.arange(3)})
    assert list(tmp_path.iterdir()) == []
    assert "kept.npz: its folder cannot be written to" in capsys.readouterr().err


def test_a_cache_on_a_full_disk(tmp_path, make, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored.np, "savez", full)
    first = load_or_make_arrays(tmp_path / "kept.npz", "v1", make)
    assert same(first, {"a": pixels(1, 1000), "b": np.arange(3)})
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    assert "kept.npz: cannot be written (No space left on device)" in capsys.readouterr().err
