import struct
import zipfile

import numpy as np
import pytest
import torch

from data import Augmentation, load
from data.corruptions import STANDARD_CORRUPTIONS
from data.files import npz_arrays


def arrays(n=12, size=8, channels=None, classes=3):
    """Contents of a valid file."""
    draw = np.random.default_rng(0)
    shape = (size, size) if channels is None else (size, size, channels)
    return {
        "x_train": draw.integers(0, 256, (n, *shape), dtype=np.uint8),
        "y_train": np.arange(n) % classes,
        "x_test": draw.integers(0, 256, (5, *shape), dtype=np.uint8),
        "y_test": np.arange(5) % classes,
    }


@pytest.fixture
def write(tmp_path):
    def write(contents, **changes):
        file = tmp_path / "images.npz"
        np.savez(file, **{key: value for key, value in {**contents, **changes}.items() if value is not None})
        return f"npz:{file}"

    return write


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_a_good_file(write, channels):
    contents = arrays(channels=channels)
    task = load(write(contents))
    assert (task.classes, task.shape.in_channels, task.shape.image_size) == (3, channels or 1, 8)
    for part, split in (("train", task.train), ("test", task.test)):
        expected = torch.from_numpy(contents[f"x_{part}"]).reshape(-1, 8, 8, channels or 1).movedim(3, 1)
        assert torch.equal(split.images, expected)
        assert torch.equal(split.labels, torch.from_numpy(contents[f"y_{part}"]))
    assert task.validation is None
    pixels = contents["x_train"].reshape(-1, channels or 1) / 255
    assert task.mean == pytest.approx(pixels.mean(0), abs=1e-12)
    assert task.std == pytest.approx(pixels.std(0), abs=1e-12)
    assert task.corruptions == STANDARD_CORRUPTIONS
    assert len(list(task.corrupted(1000))) == 5 * len(task.corruptions)


@pytest.mark.parametrize(
    ("size", "channels", "expected"),
    [
        (32, 3, Augmentation(padding=4, flip=True)),
        (32, None, Augmentation(padding=4)),
        (28, 1, Augmentation(padding=3)),
        (16, 3, Augmentation(padding=2)),
        (4, 3, Augmentation(padding=1)),
    ],
)
def test_augmentation(write, size, channels, expected):
    assert load(write(arrays(size=size, channels=channels))).augmentation == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64, ">i8"])
def test_any_integer_labels(write, dtype):
    contents = arrays()
    task = load(write(contents, y_train=contents["y_train"].astype(dtype)))
    assert task.train.labels.dtype == torch.int64
    assert task.train.labels.tolist() == contents["y_train"].tolist()


def test_validation_is_the_end_of_the_training_set(write):
    contents = arrays()
    task = load(write(contents), validation=4)
    assert torch.equal(task.train.images[:, 0], torch.from_numpy(contents["x_train"][:8]))
    assert torch.equal(task.validation.images[:, 0], torch.from_numpy(contents["x_train"][8:]))
    assert task.mean == pytest.approx([contents["x_train"][:8].mean() / 255], abs=1e-12)


def test_images_sorted_by_class_cannot_be_held_out(write):
    contents = arrays()
    with pytest.raises(ValueError, match=r"last 4 of 12 training images leaves none of class 2; if .* shuffle"):
        load(write(contents, y_train=np.sort(contents["y_train"])), validation=4)


def test_ood_datasets_and_class_names(write):
    other = np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8)
    task = load(write(arrays(), ood_letters=other, classes=np.array(["a", "b", "c"]), comment=np.array("hello")))
    assert list(task.ood) == ["letters"]
    assert torch.equal(task.ood["letters"](), torch.from_numpy(other)[:, None])


def test_constant_images_do_not_divide_by_zero(write):
    task = load(write(arrays(), x_train=np.full((12, 8, 8), 7, dtype=np.uint8)))
    assert task.mean == pytest.approx([7 / 255])
    assert task.std == (1.0,)


WRONG = [
    ({"x_train": None}, r"x_train: missing, the file holds y_train, x_test, y_test"),
    ({"x_train": np.zeros((12, 8, 8))}, r"x_train: found float64 \(12, 8, 8\), expected uint8 .*; scale to 0…255"),
    ({"x_train": np.zeros((12, 64), np.uint8)}, r"x_train: found uint8 \(12, 64\), expected uint8 images"),
    ({"x_train": np.zeros((0, 8, 8), np.uint8), "y_train": np.zeros(0, int)}, r"x_train: found uint8 \(0, 8, 8\)"),
    ({"x_train": np.zeros((12, 3, 8, 8), np.uint8)}, r"x_train: found uint8 \(12, 3, 8, 8\).*channels come last"),
    ({"x_train": np.zeros((12, 8, 9), np.uint8)}, r"x_train: found uint8 \(12, 8, 9\), expected square images"),
    ({"x_test": np.zeros((5, 9, 9), np.uint8)}, r"x_test: found .* \(9, 9, 1\) .*expected x_train's \(8, 8, 1\)"),
    ({"x_test": np.zeros((5, 8, 8, 3), np.uint8)}, r"x_test: found .* \(8, 8, 3\)"),
    ({"x_test": np.zeros((4, 8, 8), np.uint8)}, "y_test: found 5 labels, expected 4, one an image of x_test"),
    ({"y_train": np.zeros(12)}, r"y_train: found float64 \(12,\), expected integer labels"),
    ({"y_train": np.zeros((12, 1), int)}, r"y_train: found int64 \(12, 1\), expected integer labels \(N,\)"),
    ({"y_train": np.arange(12) % 3 - 1}, "y_train: found a label -1, expected labels from 0 on"),
    ({"y_train": np.arange(12) % 3 + 1}, "y_train: found 3 classes with labels up to 3, .* missing are 0"),
    ({"y_train": np.arange(12) % 3 * 2}, "y_train: found 3 classes with labels up to 4, .*missing are 1"),
    ({"y_test": np.array([0, 1, 2, 3, 0])}, "y_test: found a label 3, expected 0 to 2, the classes of y_train"),
    ({"classes": np.array(["a"])}, r"classes: found shape \(1,\), expected \(3,\)"),
    ({"ood_x": np.zeros((5, 8, 8), np.int16)}, r"ood_x: found int16 \(5, 8, 8\), expected uint8"),
    ({"ood_x": np.zeros((5, 8, 8, 3), np.uint8)}, r"ood_x: found images of shape \(8, 8, 3\)"),
    ({"y_train": np.array([None] * 12)}, "y_train: cannot be read"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_each_problem_is_named(write, changes, message):
    name = write(arrays(), **changes)
    with pytest.raises(ValueError, match=message) as error:
        load(name)
    first, *problems = str(error.value).splitlines()
    assert first == f"{name.removeprefix('npz:')}: 1 problem(s)"
    assert len(problems) == 1


def test_all_problems_together(write):
    name = write(
        arrays(),
        x_train=np.zeros((12, 8, 9), np.uint8),
        y_train=np.zeros(11, float),
        y_test=np.array([-1, 0, 0, 0, 0]),
        ood_a=np.zeros(3),
        classes=None,
    )
    with pytest.raises(ValueError, match="4 problem") as error:
        load(name)
    problems = [line.strip().split(":")[0] for line in str(error.value).splitlines()[1:]]
    assert sorted(problems) == ["ood_a", "x_train", "y_test", "y_train"]


def test_files_that_are_not_npz(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz: no such file, expected a \.npz file with x_train"):
        load(f"npz:{tmp_path / 'none.npz'}")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load(f"npz:{tmp_path}")
    text, single = tmp_path / "text.npz", tmp_path / "single.npy"
    text.write_text("not an archive")
    np.save(single, np.zeros(3))
    for file in (text, single):
        with pytest.raises(ValueError, match=r"not a \.npz file; write it with numpy.savez"):
            load(f"npz:{file}")


def test_a_damaged_file(tmp_path):
    file = tmp_path / "damaged.npz"
    np.savez_compressed(file, **arrays(n=200))
    contents = bytearray(file.read_bytes())
    contents[300:400] = bytes(100)
    file.write_bytes(contents)
    with pytest.raises(ValueError, match="x_train: cannot be read"):
        load(f"npz:{file}")


def replace_member(file, name, content, compression=zipfile.ZIP_STORED):
    """Write one member of an archive again, with any bytes."""
    with zipfile.ZipFile(file) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    members.pop(f"{name}.npy")
    with zipfile.ZipFile(file, "w") as archive:
        for each, kept in members.items():
            archive.writestr(each, kept)
        archive.writestr(f"{name}.npy", content, compression)


def npy(shape, descr="|u1", payload=b"", version=b"\x01\x00"):
    """Return a .npy file with any header."""
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + payload


def patch(file, signature, offset, value):
    """Overwrite two bytes in every header of an archive that begins with a signature."""
    content, start = bytearray(file.read_bytes()), 0
    while (start := content.find(signature, start)) >= 0:
        content[start + offset : start + offset + 2] = struct.pack("<H", value)
        start += 4
    file.write_bytes(content)


UNUSABLE = {
    "encrypted": r"x_train: cannot be read \(.*encrypted",
    "compressed in another way": r"x_train: cannot be read \(.*compression",
    "no array": r"x_train: cannot be read \(it is not an array in the .npy format\)",
    "empty": r"x_train: cannot be read \(it is not an array in the .npy format\)",
    "a later format": r"x_train: cannot be read \(it is not an array in the .npy format\)",
    "10^10 pixels": r"x_train: cannot be read \(it holds 0 bytes, and its header describes another number",
    "a negative size": r"x_train: cannot be read \(it holds 8 bytes, and its header describes another number",
    "a number of 4,000 digits": r"x_train: cannot be read \(it holds 0 bytes, and its header describes another number",
    "objects": r"x_train: cannot be read \(it holds Python objects\)",
    "another header": r"x_train: cannot be read \(",
    "cut": r"x_train: cannot be read \(it holds 5 bytes, and its header describes another number",
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_arrays_that_cannot_be_used(write, kind, tmp_path):
    name, file = write(arrays()), tmp_path / "images.npz"
    whole = npy((12, 8, 8), payload=bytes(12 * 64))
    content = {
        "no array": b"<html>",
        "empty": b"",
        "a later format": npy((12, 8, 8), payload=bytes(12 * 64), version=b"\x09\x00"),
        "10^10 pixels": npy((10_000, 1000, 1000)),
        "a negative size": npy((-2, -2, 2), payload=bytes(8)),
        "a number of 4,000 digits": npy((10**3999, 8, 8)),
        "objects": npy((12,), descr="|O", payload=bytes(96)),
        "another header": b"\x93NUMPY\x01\x00\x02\x00{]",
        "cut": npy((12, 8, 8), payload=bytes(5)),
    }.get(kind, whole)
    replace_member(file, "x_train", content)
    if kind == "encrypted":
        patch(file, b"PK\x01\x02", 8, 1)
        patch(file, b"PK\x03\x04", 6, 1)
    if kind == "compressed in another way":
        patch(file, b"PK\x01\x02", 10, 97)  # WavPack
        patch(file, b"PK\x03\x04", 8, 97)
    with pytest.raises(ValueError, match=UNUSABLE[kind]) as error:
        load(name)
    assert str(error.value).startswith(f"{file}: ")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_that_python_can_read(write, tmp_path, compression):
    name, contents = write(arrays()), arrays()
    replace_member(
        tmp_path / "images.npz", "x_train", npy((12, 8, 8), payload=contents["x_train"].tobytes()), compression
    )
    assert torch.equal(load(name).train.images[:, 0], torch.from_numpy(contents["x_train"]))


def test_arrays_that_fill_the_memory_are_not_read(write, monkeypatch):
    monkeypatch.setattr(npz_arrays, "MOST_BYTES", 2**10)
    monkeypatch.setattr(npz_arrays.npy, "read_array", lambda *arguments, **options: pytest.fail("it was read"))
    with pytest.raises(ValueError, match=r"images\.npz: its arrays have more than .* imagefolder:PATH"):
        load(write(arrays()))


def test_an_array_that_stands_in_the_file_twice(write, tmp_path):
    name = write(arrays())
    with zipfile.ZipFile(tmp_path / "images.npz", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("x_test.npy", npy((5, 8, 8), payload=bytes(320)))
    with pytest.raises(ValueError, match="x_test: stands in the file twice"):
        load(name)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", ".x", "é", "a b", "a\n", "a\x1b[31m"])
def test_names_of_ood_datasets_that_cannot_stand_in_tables(write, name):
    with pytest.raises(ValueError, match="an OOD dataset's name may have letters") as error:
        load(write(arrays(), **{f"ood_{name}": np.zeros((2, 8, 8), np.uint8)}))
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize("name", ["images\x1b[31m.npz", "im\udce9.npz", "two\nlines.npz", "nul\0.npz"])
def test_names_of_files_that_cannot_be_printed(tmp_path, name):
    for dataset, ood in ((f"npz:{tmp_path}/{name}", None), ("digits", [f"npz:{tmp_path}/{name}"])):
        with pytest.raises(ValueError, match=r"has control characters, or bytes that are no text; rename") as error:
            load(dataset, ood=ood)
        assert str(error.value).isprintable()
