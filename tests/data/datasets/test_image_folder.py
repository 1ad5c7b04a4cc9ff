import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from data.datasets import image_folder as folders
from data.datasets.image_folder import (
    class_names,
    digest_folder,
    files_in_class_folders,
    load_folder,
    measure_channel_statistics,
)
from data.files.decode_image import DecodeJob, ImageError, decode_images
from tests.data.write_image_files import cut_short, write_classes, write_image, write_level


@pytest.fixture
def folder(tmp_path):
    """Classes b, a and c with 8, 4 and 12 training images, and two test images each."""
    write_classes(tmp_path / "train", {"b": 8, "a": 4, "c": 12})
    write_classes(tmp_path / "test", {"c": 2, "a": 2, "b": 2}, first=100)
    return tmp_path


def names(split):
    return [Path(path).relative_to(split.images.folder).as_posix() for path in split.images.paths()]


def test_classes_are_numbered_by_name_and_images_are_found(folder):
    source = load_folder(str(folder), folder)
    assert source.classes == 3
    assert source.train.images.shape == (24, 3, 224, 224)
    assert source.test.images.shape == (6, 3, 224, 224)
    expected = [f"{name}/{i}.png" for name, count in (("a", 4), ("b", 8), ("c", 12)) for i in range(count)]
    assert sorted(names(source.train)) == sorted(expected)
    for split in (source.train, source.test):
        assert [name[0] for name in names(split)] == ["abc"[label] for label in split.labels]
    assert names(source.test) == ["a/0.png", "a/1.png", "b/0.png", "b/1.png", "c/0.png", "c/1.png"]
    assert (source.validation, source.ood) == (0, {})
    assert source.augmentation.flip


def test_every_prefix_of_the_training_set_is_stratified(folder):
    labels = load_folder(str(folder), folder).train.labels
    for n in range(1, 25):
        counts = labels[:n].bincount(minlength=3)
        assert (counts - n * torch.tensor([4, 8, 12]) / 24).abs().max() <= 1.5
    assert not torch.equal(labels, labels.sort().values)
    assert torch.equal(labels, load_folder(str(folder), folder).train.labels)


def test_the_pixels_of_a_class_are_the_labels(folder):
    levels = write_classes(folder / "train", {"b": 8, "a": 4, "c": 12}, first=50)
    source = load_folder(str(folder), folder, image_size=5)
    assert source.train.images.shape == (24, 3, 5, 5)
    pixels = decode_images(DecodeJob(source.train.images.paths(), 5)).amax((1, 2, 3))
    for level, label in zip(pixels.tolist(), source.train.labels.tolist(), strict=True):
        assert level in levels["abc"[label]]


def test_val_takes_the_place_of_test(folder):
    (folder / "test").rename(folder / "val")
    assert load_folder(str(folder), folder).test.images.folder == folder / "val"
    write_classes(folder / "test", {"a": 1, "b": 1, "c": 1})
    assert load_folder(str(folder), folder).test.images.folder == folder / "test"


def test_hidden_files_are_ignored_and_extensions_may_be_in_capitals(folder):
    for place in (folder / "train", folder / "train" / "a"):
        (place / ".DS_Store").write_text("hidden")
    (folder / "train" / ".cache").mkdir()
    (folder / "train" / "labels.txt").write_text("beside the class folders")
    (folder / "train" / "a" / "0.png").rename(folder / "train" / "a" / "0.PNG")
    write_image(folder / "train" / "a" / "x.JPEG")
    assert {"a/0.PNG", "a/x.JPEG"} <= set(names(load_folder(str(folder), folder).train))


def test_links_to_files_and_folders_are_followed(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.move(folder / "train" / "a", elsewhere / "a")
    (folder / "train" / "a").symlink_to(elsewhere / "a")
    (folder / "train" / "b" / "link.png").symlink_to(elsewhere / "a" / "0.png")
    assert len(load_folder(str(folder), folder).train.labels) == 25


def no_train(folder):
    shutil.rmtree(folder / "train")


def no_test(folder):
    shutil.rmtree(folder / "test")


def no_classes(folder):
    for name in "abc":
        shutil.rmtree(folder / "train" / name)


def images_without_a_class(folder):
    write_level(folder / "train" / "x.png", 3)


def an_empty_class(folder):
    for file in (folder / "train" / "b").iterdir():
        file.unlink()


def a_class_in_test_only(folder):
    write_level(folder / "test" / "d" / "0.png", 3)


def a_class_in_train_only(folder):
    shutil.rmtree(folder / "test" / "c")


def a_text_among_images(folder):
    (folder / "train" / "a" / "notes.txt").write_text("notes")


def a_dangling_link(folder):
    (folder / "test" / "a" / "9.png").symlink_to(folder / "gone.png")


def a_dangling_class(folder):
    (folder / "test" / "d").symlink_to(folder / "gone")


def a_folder_among_images(folder):
    (folder / "train" / "a" / "more").mkdir()


def a_folder_named_as_a_image(folder):
    (folder / "train" / "a" / "more.png").mkdir()


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (no_train, FileNotFoundError, r"/train: no such folder; expected one with a folder of images for each class"),
        (no_test, FileNotFoundError, r"no folder test or val in it; expected images to test on, as .*/test/CLASS"),
        (no_classes, ValueError, r"/train: no class folders in it; expected .*/train/CLASS/\*\.jpg"),
        (
            images_without_a_class,
            ValueError,
            r"/train/x\.png: an image of no class; put each image into the folder",
        ),
        (an_empty_class, ValueError, r"/train: 1 problem.*\n  class b: no images in .*/train/b"),
        (a_class_in_test_only, ValueError, r"/test: 1 problem.*\n  class d: not among the classes to train on"),
        (a_class_in_train_only, ValueError, r"/test: 1 problem.*\n  class c: no folder .*/test/c"),
        (
            a_text_among_images,
            ValueError,
            r"/train/a/notes\.txt: a file that is no image by its extension; move it",
        ),
        (
            a_dangling_link,
            ValueError,
            r"/test/a/9\.png: a link to a file that is not there; restore the file or remove",
        ),
        (a_dangling_class, ValueError, r"/test/d: a link to what is not there; restore that or remove the link"),
        (a_folder_among_images, ValueError, r"/train/a/more: a folder; move it out of the folder of its class"),
        (a_folder_named_as_a_image, ValueError, r"/train/a/more\.png: a folder; only images belong into"),
    ],
)
def test_wrong_folder_contents_are_named(folder, damage, kind, message):
    damage(folder)
    with pytest.raises(kind, match=message):
        load_folder(str(folder), folder)


def test_all_problems_are_listed_at_once_but_not_more_than_ten(folder):
    an_empty_class(folder)
    a_text_among_images(folder)
    with pytest.raises(ValueError, match="2 problem") as error:
        load_folder(str(folder), folder)
    assert "notes.txt" in str(error.value)
    assert "class b" in str(error.value)
    for i in range(30):
        (folder / "train" / "c" / f"{i}.txt").touch()
    with pytest.raises(ValueError, match="32 problem") as error:
        load_folder(str(folder), folder)
    assert len(str(error.value).splitlines()) == 12
    assert "and 22 more" in str(error.value)


def test_an_unreadable_image_is_named_when_it_is_decoded(folder):
    cut_short(folder / "train" / "a" / "2.png")
    source = load_folder(str(folder), folder)
    with pytest.raises(ImageError, match=r"/train/a/2\.png: cannot be decoded"):
        list(source.statistics(source.train.images)[0])


def test_folders_of_some_classes_at_their_own_size(folder):
    split = files_in_class_folders(folder / "test", ["c", "b", "a"], 7, resized=False)
    assert names(split) == ["c/0.png", "c/1.png", "b/0.png", "b/1.png", "a/0.png", "a/1.png"]
    assert split.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (split.images.side, split.images.resized) == (7, False)
    assert class_names(folder / "test") == ["a", "b", "c"]


def test_statistics_equal_those_of_all_pixels(folder):
    for i in range(4):
        write_image(folder / "train" / "a" / f"{i}.png", seed=i)
    source = load_folder(str(folder), folder, image_size=9)
    mean, std = source.statistics(source.train.images)
    pixels = decode_images(DecodeJob(source.train.images.paths(), 9)).double().view(-1, 3) / 255
    assert list(mean) == pytest.approx(pixels.mean(0).tolist(), rel=1e-12)
    assert list(std) == pytest.approx(pixels.std(0, correction=0).tolist(), rel=1e-12)
    assert (len(mean), mean[1], mean[:2]) == (3, list(mean)[1], tuple(mean)[:2])


def test_statistics_of_a_constant_channel(tmp_path):
    for i in range(3):
        write_level(tmp_path / "a" / f"{i}.png", 51)
    mean, std = measure_channel_statistics(files_in_class_folders(tmp_path, ["a"], 4).images)
    assert mean == pytest.approx((0.2, 0.2, 0.2), rel=1e-15)
    assert std == (1.0, 1.0, 1.0)


def test_statistics_are_measured_once_when_they_are_needed_and_on_some_images(folder, monkeypatch):
    monkeypatch.setattr(folders, "MEASURED_IMAGES", 5)
    decoded = []
    decode_image_file = folders.decode_image_file
    monkeypatch.setattr(
        folders, "decode_image_file", lambda *job: decoded.append(str(job[0])) or decode_image_file(*job)
    )
    source = load_folder(str(folder), folder, image_size=9)
    mean, std = source.statistics(source.train.images)
    assert decoded == []
    first = (tuple(mean), tuple(std))
    assert sorted(decoded) == sorted(source.train.images.paths()[:5])
    assert first == (tuple(mean), tuple(std))
    assert len(decoded) == 5
    chosen = np.array(
        [decode_image_file(Path(path), DecodeJob([], 9), None) for path in source.train.images.paths()[:5]]
    )
    assert first[0] == pytest.approx(chosen.mean((0, 1, 2)) / 255)


def test_the_digest_changes_with_names_and_contents_only(folder, tmp_path_factory):
    first = digest_folder(str(folder))
    copy = shutil.copytree(folder, tmp_path_factory.mktemp("copy") / "folder")
    (copy / "notes.txt").write_text("not an image to train or test on")
    image = copy / "train" / "a" / "0.png"
    os.utime(image, (0, 0))
    assert digest_folder(str(copy)) == first
    before = image.read_bytes()
    image.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))  # of the same size
    edited = digest_folder(str(copy))
    image.rename(image.with_name("00.png"))
    renamed = digest_folder(str(copy))
    (copy / "test" / "a" / "0.png").rename(copy / "train" / "a" / "0.png")
    assert len({first, edited, renamed, digest_folder(str(copy))}) == 4


def test_the_digest_does_not_depend_on_the_name_of_the_test_folder(folder):
    first = digest_folder(str(folder))
    (folder / "test").rename(folder / "val")
    assert digest_folder(str(folder)) == first
