import hashlib
import io
import shutil
import tarfile

import numpy as np
import pytest
import scipy.io
import torch
from torchvision.datasets import imagenet as torchvision_imagenet
from torchvision.models import ResNet50_Weights

from data.datasets import imagenet
from data.datasets.imagenet import ImageCounts, load_imagenet
from tests.data.write_image_files import write_image, write_level

WNIDS = ["n01440764", "n01443537", "n01484850"]
COUNTS = ImageCounts(classes=3, train=12, least=3, test=2)
TRAIN = {"n01440764": 4, "n01443537": 3, "n01484850": 5}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A set of three classes in the official layout, its validation images in class folders."""
    monkeypatch.setattr(imagenet, "OFFICIAL", COUNTS)
    for wnid, count in TRAIN.items():
        for i in range(count):
            write_level(tmp_path / "imagenet" / "train" / wnid / f"{wnid}_{i}.JPEG", 40)
    for i in range(6):
        write_level(tmp_path / "imagenet" / "val" / WNIDS[i % 3] / f"ILSVRC2012_val_{i + 1:08}.JPEG", 40 * i)
    return tmp_path


def flatten(root):
    """Move the validation images out of their class folders, as in the official archive."""
    val = root / "imagenet" / "val"
    for wnid in WNIDS:
        for file in (val / wnid).iterdir():
            file.rename(val / file.name)
        (val / wnid).rmdir()


def write_kit(root, monkeypatch, truth):
    """Write a development kit in the official format, which numbers the classes in another order."""
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    leaves = [(1, WNIDS[2], "white shark", "", 0), (2, WNIDS[0], "tench", "", 0), (3, WNIDS[1], "goldfish", "", 0)]
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": np.array([*leaves, (4, "n00001740", "entity", "", 3)], dtype=fields)})
    number = {leaf[1]: leaf[0] for leaf in leaves}
    lines = "".join(f"{number[wnid]}\n" for wnid in truth)
    contents = {"meta.mat": meta.getvalue(), "ILSVRC2012_validation_ground_truth.txt": lines.encode()}
    file = root / "imagenet" / "ILSVRC2012_devkit_t12.tar.gz"
    with tarfile.open(file, "w:gz") as kit:
        for name, data in contents.items():
            member = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{name}")
            member.size = len(data)
            kit.addfile(member, io.BytesIO(data))
    checksum = hashlib.md5(file.read_bytes()).hexdigest()
    archives = {**torchvision_imagenet.ARCHIVE_META, "devkit": (file.name, checksum)}
    monkeypatch.setattr(torchvision_imagenet, "ARCHIVE_META", archives)
    return file


def listed(split):
    return {
        path.rpartition("/")[2]: label for path, label in zip(split.images.paths(), split.labels.tolist(), strict=True)
    }


def test_class_folders(root):
    source = load_imagenet("", root)
    assert source.classes == 3
    assert source.train.images.shape == (12, 3, 224, 224)
    expected = {f"{wnid}_{i}.JPEG": WNIDS.index(wnid) for wnid, count in TRAIN.items() for i in range(count)}
    assert listed(source.train) == expected
    assert listed(source.test) == {f"ILSVRC2012_val_{i + 1:08}.JPEG": i % 3 for i in range(6)}
    assert not torch.equal(source.train.labels, source.train.labels.sort().values), "the order is stratified"


def test_statistics_are_those_of_the_published_weights(root):
    source = load_imagenet("", root)
    preset = ResNet50_Weights.IMAGENET1K_V1.transforms()
    assert [list(numbers) for numbers in source.statistics(source.train.images)] == [preset.mean, preset.std]
    assert (preset.crop_size, preset.resize_size) == ([imagenet.SIDE], [256])


def test_flat_validation_images_get_their_labels_from_the_kit(root, monkeypatch):
    by_folder = listed(load_imagenet("", root).test)
    flatten(root)
    write_kit(root, monkeypatch, [WNIDS[i % 3] for i in range(6)])
    before = sorted(root.rglob("*"))
    test = load_imagenet("", root).test
    assert listed(test) == by_folder
    assert test.images.folder == root / "imagenet" / "val"
    assert sorted(root.rglob("*")) == before, "nothing is written there"


def no_folder(root):
    shutil.rmtree(root / "imagenet")


def no_val(root):
    shutil.rmtree(root / "imagenet" / "val")


def a_class_less(root):
    shutil.rmtree(root / "imagenet" / "train" / WNIDS[1])


def half_a_class(root):
    for i in (1, 2):
        (root / "imagenet" / "train" / WNIDS[0] / f"{WNIDS[0]}_{i}.JPEG").unlink()


def an_image_less(root):
    (root / "imagenet" / "train" / WNIDS[2] / f"{WNIDS[2]}_0.JPEG").unlink()


def a_packed_class(root):
    (root / "imagenet" / "train" / WNIDS[0] / "n01440764.tar").touch()


def a_test_image_less(root):
    (root / "imagenet" / "val" / WNIDS[1] / "ILSVRC2012_val_00000002.JPEG").unlink()


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (no_folder, FileNotFoundError, r"no folders train and val in .*/imagenet"),
        (no_val, FileNotFoundError, r"no folders train and val in .*/imagenet"),
        (a_class_less, ValueError, r"train: found 2 class folders, expected 3"),
        (half_a_class, ValueError, r"train: found 10 images, expected 12; .* at least 3, but here n01440764 has 2\n"),
        (
            an_image_less,
            ValueError,
            r"train: found 11 images, expected 12; .* at least 3, but here n01443537 has 3\n",
        ),
        (a_packed_class, ValueError, r"n01440764\.tar: a file that is no image"),
        (a_test_image_less, ValueError, r"val: every class has 2 images, but here n01443537 has 1\n"),
    ],
)
def test_an_incomplete_dataset_says_what_to_do(root, damage, kind, message):
    damage(root)
    with pytest.raises(kind, match=message) as error:
        load_imagenet("", root)
    assert str(error.value).startswith("dataset imagenet: ")
    assert f"put them into {root}/imagenet" in str(error.value)
    assert "https://image-net.org" in str(error.value)


def test_flat_validation_images_without_the_kit(root):
    flatten(root)
    with pytest.raises(FileNotFoundError, match=r"devkit_t12\.tar\.gz: no such file; the images of .*val lie in no"):
        load_imagenet("", root)


def test_a_damaged_kit(root, monkeypatch):
    flatten(root)
    file = write_kit(root, monkeypatch, [WNIDS[i % 3] for i in range(6)])
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"devkit_t12\.tar\.gz: damaged, or not the official file; get it again"):
        load_imagenet("", root)


def test_incomplete_flat_validation_images(root, monkeypatch):
    flatten(root)
    write_kit(root, monkeypatch, [WNIDS[i % 3] for i in range(6)])
    (root / "imagenet" / "val" / "ILSVRC2012_val_00000003.JPEG").unlink()
    with pytest.raises(ValueError, match="val: found 5 images, expected 6, as the kit has labels"):
        load_imagenet("", root)


def test_the_official_counts():
    assert imagenet.OFFICIAL == (1000, 1_281_167, 732, 50)


def test_an_image_whose_format_differs_from_its_extension(root):
    """Decode PNG and CMYK images, which the official dataset contains."""
    file = root / "imagenet" / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG"
    write_image(file, format="PNG")
    write_image(file.with_name(f"{WNIDS[0]}_1.JPEG"), mode="CMYK")
    source = load_imagenet("", root)
    from data.files.decode_image import DecodeJob, decode_images

    assert decode_images(DecodeJob(source.train.images.paths(), 224)).shape == (12, 224, 224, 3)
