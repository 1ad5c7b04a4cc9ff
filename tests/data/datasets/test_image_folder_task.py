"""The task of an image folder: held-out images, subsets and channel statistics."""

import pytest
import torch

from data import dataset_shape, load, normalised_batches
from data.files.decode_image import DecodeJob, decode_images
from data.tasks.file_batches import ImageFileBatches
from tests.data.write_image_files import write_classes


@pytest.fixture
def folder(tmp_path):
    write_classes(tmp_path / "train", {"a": 12, "b": 12})
    write_classes(tmp_path / "val", {"a": 3, "b": 3}, first=100)
    return tmp_path


def test_images_are_held_out_and_chosen_as_in_memory(folder):
    task = load(f"imagefolder:{folder}", validation=6, train_size=10, image_size=8).with_decoder_workers(0)
    assert (
        task.shape == dataset_shape(f"imagefolder:{folder}", validation=6, train_size=10, image_size=8) == (3, 8, 2, 10)
    )
    parts = [task.train, task.validation, task.test]
    assert [len(part.labels) for part in parts] == [10, 6, 6]
    assert [part.labels.bincount().tolist() for part in parts] == [[5, 5], [3, 3], [3, 3]]
    chosen = [path for part in parts for path in part.images.paths()]
    assert len(set(chosen)) == 22
    for part in parts:
        assert [f"/{'ab'[label]}/" in path for label, path in zip(part.labels, part.images.paths(), strict=True)]
    levels = decode_images(DecodeJob(task.train.images.paths(), 8)).double() / 255
    assert list(task.mean) == pytest.approx(levels.mean((0, 1, 2)).tolist())
    assert list(task.std) == pytest.approx(levels.std((0, 1, 2), correction=0).tolist())


def test_passes_of_a_folder_task(folder):
    task = load(f"imagefolder:{folder}", image_size=8).with_decoder_workers(2)
    batches = task.training(5, lambda: torch.Generator().manual_seed(0))
    assert isinstance(batches, ImageFileBatches)
    seen = torch.cat([y for _, y in batches])
    assert seen.bincount().tolist() == [12, 12]
    assert task.part("validation", 5) is None
    x = torch.cat([x for x, _ in task.part("test", 4)])
    levels = (x * torch.tensor(list(task.std)).view(3, 1, 1) + torch.tensor(list(task.mean)).view(3, 1, 1)) * 255
    assert levels.mean((1, 2, 3)).round().int().tolist() == list(range(100, 106))


def test_the_real_corruptions_of_files_and_of_the_same_images_in_memory(folder):
    task = load(f"imagefolder:{folder}", image_size=32).with_decoder_workers(0)
    whole = next(iter(task.in_batches(task.test.images, 100)))
    from data.corruptions import corrupt

    for name, severity, start, images in task.corrupted(4):
        if severity == 5:
            assert torch.equal(images, corrupt(whole, name, severity)[start : start + 4]), name


def test_the_default_size_and_wrong_names(folder):
    assert load(f"imagefolder:{folder}").shape == (3, 224, 2, 24)
    with pytest.raises(ValueError, match="a path must follow, as in 'imagefolder:PATH'"):
        load("imagefolder")
    with pytest.raises(ValueError, match="digits has no option image_size"):
        load("digits", image_size=32)
    assert dataset_shape("imagenet", validation=50_000) == (3, 224, 1000, 1_231_167)


def test_one_corruption_as_examples(folder):
    """`corrupted_part` yields the images of `corrupted`, normalised, with the labels of the test set."""
    task = load(f"imagefolder:{folder}", image_size=32).with_decoder_workers(0)
    parts = list(task.corrupted_part("fog", 3, 4))
    assert torch.equal(torch.cat([y for _, y in parts]), task.test.labels)
    expected = [
        x
        for name, severity, _, images in task.corrupted(4)
        for x in normalised_batches(images, task, 4)
        if (name, severity) == ("fog", 3)
    ]
    assert torch.equal(torch.cat([x for x, _ in parts]), torch.cat(expected))
