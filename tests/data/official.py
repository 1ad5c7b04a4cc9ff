"""Writes small files in the official formats of the datasets, and replaces the expected checksums."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from data.datasets import resized_ood, tiny_imagenet


def md5(contents):
    return hashlib.md5(contents).hexdigest()


def pixels(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def tar(members, mode="w:gz"):
    """Return a tar archive of {name: contents}, with None for a folder."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, contents in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(contents or b"")
            info.type = tarfile.DIRTYPE if contents is None else tarfile.REGTYPE
            info.mode = 0o755 if contents is None else 0o644
            archive.addfile(info, io.BytesIO(contents or b""))
    return out.getvalue()


def zipped(members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, contents in members.items():
            archive.writestr(name, contents)
    return out.getvalue()


def encoded_image(array, kind="PNG"):
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind)
    return out.getvalue()


def idx(array):
    """Return a gzip-compressed file in MNIST's format."""
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.tobytes(), mtime=0)


CIFAR = {
    "CIFAR10": ({f"data_batch_{i}": (20, 10, i) for i in range(1, 6)} | {"test_batch": (30, 10, 6)}, "labels"),
    "CIFAR100": ({"train": (200, 100, 7), "test": (100, 100, 8)}, "fine_labels"),
}


def cifar(monkeypatch, name, largest_label=None):
    """Return the members of a small CIFAR archive and their images, and make torchvision expect their checksums."""
    reader, (batches, key) = getattr(datasets, name), CIFAR[name]
    members, lists, images = {}, {}, {}
    for batch, (n, classes, seed) in batches.items():
        data = pixels(seed, n, 3072)
        labels = [i % classes for i in range(n)]
        labels[0] = labels[0] if largest_label is None else largest_label
        contents = pickle.dumps({"data": data, key: labels})
        members[f"{reader.base_folder}/{batch}"] = contents
        lists[batch] = [batch, md5(contents)]
        images[batch] = torch.from_numpy(data).view(n, 3, 32, 32)
    meta = pickle.dumps({reader.meta["key"]: [str(i) for i in range(classes)]})
    members[f"{reader.base_folder}/{reader.meta['filename']}"] = meta
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": md5(meta)})
    monkeypatch.setattr(reader, "test_list", [lists.pop(next(batch for batch in lists if "test" in batch))])
    monkeypatch.setattr(reader, "train_list", list(lists.values()))
    return members, images


def put(folder, members):
    """Write files {name: contents} into a folder."""
    for name, contents in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(contents)


def mnist(monkeypatch, name, root, sizes=(40, 20), labels=10):
    """Write four small archives of MNIST, Fashion-MNIST or KMNIST, and return the images of each part."""
    reader, folder = getattr(datasets, name), root / name / "raw"
    images, files = {}, {}
    for part, n in zip(("train", "t10k"), sizes, strict=True):
        array = pixels(n + len(name), n, 28, 28)
        images[part] = torch.from_numpy(array)[:, None]
        files[f"{part}-images-idx3-ubyte.gz"] = idx(array)
        files[f"{part}-labels-idx1-ubyte.gz"] = idx(np.arange(n, dtype=np.uint8) % labels)
    put(folder, files)
    monkeypatch.setattr(reader, "resources", [(file, md5(files[file])) for file, _ in reader.resources])
    return images


def emnist(monkeypatch, root):
    """Write a small archive of EMNIST's letters, and return the images as they are stored."""
    array = pixels(26, 7, 28, 28)
    contents = zipped({"gzip/emnist-letters-test-images-idx3-ubyte.gz": idx(array), "gzip/other.gz": b""})
    put(root, {"EMNIST/raw/gzip.zip": contents})
    monkeypatch.setattr(datasets.EMNIST, "md5", md5(contents))
    return array


def svhn(monkeypatch, root, array=None):
    """Write a small SVHN file, and return its images, (32, 32, 3, N)."""
    array = pixels(10, 32, 32, 3, 5) if array is None else array
    out = io.BytesIO()
    savemat(out, {"X": array, "y": np.arange(1, array.shape[3] + 1)[:, None]})
    put(root, {"test_32x32.mat": out.getvalue()})
    url, name, _ = datasets.SVHN.split_list["test"]
    monkeypatch.setitem(datasets.SVHN.split_list, "test", [url, name, md5(out.getvalue())])
    return array


def odin(monkeypatch, root, which, members):
    """Write a small archive of resized images."""
    archive, contents = getattr(resized_ood, which), tar(members)
    put(root, {archive.name: contents})
    monkeypatch.setattr(resized_ood, which, archive._replace(md5=md5(contents)))
    return root / archive.name


TINY_CLASSES, TINY_TRAIN, TINY_TEST = ("n02", "n10", "n01"), 4, 6


def tiny(seed=64):
    """Return the members of a small TinyImageNet archive, as lossless PNG; some images are grey."""
    top, members, annotations = "tiny-imagenet-200", {"tiny-imagenet-200/wnids.txt": b"n02\nn10\nn01\n"}, []
    for c, name in enumerate(TINY_CLASSES):
        for i in range(TINY_TRAIN):
            shape = (64, 64) if i == 2 else (64, 64, 3)
            members[f"{top}/train/{name}/images/{name}_{i}.JPEG"] = encoded_image(pixels(seed + 10 * c + i, *shape))
        members[f"{top}/train/{name}/{name}_boxes.txt"] = b"boxes"
    for i in range(TINY_TEST):
        members[f"{top}/val/images/val_{i}.JPEG"] = encoded_image(pixels(i, 64, 64, 3))
        annotations.append(f"val_{i}.JPEG\t{TINY_CLASSES[i % 3]}\t0\t32\t44\t62\n")
    members[f"{top}/val/val_annotations.txt"] = "".join(annotations).encode()
    members[f"{top}/test/images/test_0.JPEG"] = encoded_image(pixels(99, 64, 64, 3))
    return members


def put_tiny(monkeypatch, root, members):
    """Write a small TinyImageNet archive, and make the loader expect its checksum and sizes."""
    contents = zipped(members)
    put(root, {"tiny-imagenet-200.zip": contents})
    monkeypatch.setattr(tiny_imagenet, "MD5", md5(contents))
    monkeypatch.setattr(tiny_imagenet, "CLASSES", len(TINY_CLASSES))
    monkeypatch.setattr(tiny_imagenet, "TRAIN", len(TINY_CLASSES) * TINY_TRAIN)
    monkeypatch.setattr(tiny_imagenet, "TEST", TINY_TEST)
    return root / "tiny-imagenet-200.zip"
