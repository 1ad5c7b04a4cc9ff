import os
import signal
import time

import numpy as np
import pytest
import torch

from data.files.decode_image import DecodeJob, ImageError, decode_images
from data.files.decoder_pool import DecoderPool
from data.files.image_files import ImageFiles
from data.tasks.file_batches import ImageFileBatches, decode_batches
from data.tasks.image_dataset import Augmentation, Split
from data.tasks.image_task import ImageTask, normalised_batches
from tests.data.write_image_files import write_image, write_level

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than CPUs

N = 23
AUGMENTATION = Augmentation(flip=True)
MEAN, STD = (0.2, 0.5, 0.7), (0.1, 0.3, 0.9)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Image files whose label is their index."""
    folder = tmp_path_factory.mktemp("images")
    names = [os.fsencode(write_image(folder / f"{i:02}.png", 30 + i, 50 - i, seed=i).name) for i in range(N)]
    return Split(ImageFiles(folder, np.array(names), 8), torch.arange(N))


def stream(seed=0):
    return lambda: torch.Generator().manual_seed(seed)


def make(split, batch_size=5, workers=0, seed=0, augmentation=AUGMENTATION):
    return ImageFileBatches(
        split,
        batch_size,
        decoder=DecoderPool(workers),
        mean=MEAN,
        std=STD,
        augmentation=augmentation,
        stream=None if seed is None else stream(seed),
    )


def one_pass(batches):
    xs, ys = zip(*batches, strict=True)
    return torch.cat(xs), torch.cat(ys)


def normal(pixels):
    """Normalise (N, S, S, 3) uint8 in float64."""
    levels = pixels.double() / 255
    return ((levels - torch.tensor(MEAN).double()) / torch.tensor(STD).double()).permute(0, 3, 1, 2).float()


def task_of(split, **changes):
    values = {
        "name": "synthetic",
        "classes": N,
        "train": split,
        "validation": None,
        "test": split,
        "mean": MEAN,
        "std": STD,
        "augmentation": Augmentation(flip=True),
        "ood": {},
        "corruptions": (),
        "decoder": DecoderPool(0),
    }
    return ImageTask(**(values | changes))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_training_pass_equals_images_decoded_one_by_one(split, workers):
    generator = stream(3)()
    order = torch.randperm(N, generator=generator)
    seeds = torch.randint(2**63 - 1, (N,), generator=generator)
    paths = split.images.paths()
    naive = [
        decode_images(DecodeJob([paths[i]], 8, [seed], flip=True))[0]
        for i, seed in zip(order, seeds.tolist(), strict=True)
    ]
    x, y = one_pass(make(split, workers=workers, seed=3))
    assert torch.equal(y, order)
    torch.testing.assert_close(x, normal(torch.stack(naive)), rtol=1e-5, atol=1e-5)


def test_the_bits_do_not_depend_on_the_number_of_processes(split):
    for seed in (None, 7):
        expected = list(make(split, seed=seed))
        for workers in (1, 2, 3):
            found = list(make(split, workers=workers, seed=seed))
            assert len(found) == len(expected) == 5
            for (x, y), (x_expected, y_expected) in zip(found, expected, strict=True):
                assert torch.equal(x, x_expected)
                assert torch.equal(y, y_expected)
                assert x.is_contiguous(memory_format=torch.channels_last)
                assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


def test_without_a_stream_images_come_in_order_cropped_for_evaluation(split):
    x, y = one_pass(make(split, seed=None))
    assert torch.equal(y, torch.arange(N))
    torch.testing.assert_close(x, normal(decode_images(DecodeJob(split.images.paths(), 8))), rtol=1e-5, atol=1e-5)


def test_with_a_stream_but_no_augmentation_only_the_order_is_random(split):
    x, y = one_pass(make(split, seed=4, augmentation=None))
    plain, _ = one_pass(make(split, seed=None))
    assert not torch.equal(y, torch.arange(N))
    assert torch.equal(x, plain[y])
    assert torch.equal(y, one_pass(make(split, seed=4))[1]), "cutting leaves the order"


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"), [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (3, 1, [1, 1, 1]), (1, 4, [1])]
)
@pytest.mark.parametrize("workers", [0, 3])
def test_every_image_once_a_pass_and_no_last_batch_of_one(split, n, batch_size, sizes, workers):
    batches = make(Split(split.images[:n], split.labels[:n]), batch_size, workers)
    passed = list(batches)
    assert [len(y) for _, y in passed] == [len(x) for x, _ in passed] == sizes
    assert (len(batches), batches.examples) == (len(sizes), n)
    assert sorted(torch.cat([y for _, y in passed]).tolist()) == list(range(n))


@pytest.mark.parametrize("workers", [0, 2])
def test_concurrent_and_abandoned_passes(split, workers):
    batches = make(split, workers=workers, seed=1)
    expected = one_pass(batches)
    next(iter(batches))  # given up: its processes are at once free for the next pass
    pairs = list(zip(batches, batches.with_stream(stream(2)), strict=True))
    assert torch.equal(torch.cat([first[0] for first, _ in pairs]), expected[0])
    assert torch.equal(torch.cat([second[0] for _, second in pairs]), one_pass(make(split, seed=2))[0])
    assert torch.equal(one_pass(batches)[0], expected[0])


def test_processes_stay_from_pass_to_pass(split):
    decoder = DecoderPool(2)

    def processes():
        return [worker.pid for pool in decoder._idle[False] for worker in pool.loader._iterator._workers]

    batches = ImageFileBatches(split, 5, decoder=decoder, mean=MEAN, std=STD)
    assert processes() == [], "none before they are needed"
    list(batches)
    first = processes()
    list(batches)
    next(iter(batches))
    list(ImageFileBatches(split, 3, decoder=decoder, mean=MEAN, std=STD))
    assert len(first) == 2
    assert processes() == first
    list(zip(batches, batches, strict=True))
    assert len(processes()) == 4


def test_global_randomness_is_not_touched(split):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    list(make(split, workers=2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named_and_the_next_pass_works(tmp_path, workers):
    names = []
    for i in range(8):
        write_level(tmp_path / f"{i}.png", i)
        names.append(f"{i}.png".encode())
    split = Split(ImageFiles(tmp_path, np.array(names), 8), torch.arange(8))
    batches = make(split, 2, workers, seed=None)
    contents = (tmp_path / "5.png").read_bytes()
    (tmp_path / "5.png").write_bytes(contents[:30])
    seen = []
    with pytest.raises(ImageError) as error:
        for _, y in batches:
            seen += y.tolist()
    message = str(error.value)
    del error  # its frames hold the batches; processes that only a collection of garbage finds take ten seconds to end
    assert seen == [0, 1, 2, 3], "what comes before it is there"
    assert message.startswith(f"{tmp_path}/5.png: cannot be decoded")
    assert "put an intact image in its place" in message
    assert "Traceback" not in message
    (tmp_path / "5.png").write_bytes(contents)
    assert one_pass(batches)[1].tolist() == list(range(8))


def test_a_killed_process_is_an_error_that_says_what_to_do(split):
    decoder = DecoderPool(1)
    batches = ImageFileBatches(split, 5, decoder=decoder, mean=MEAN, std=STD)
    list(batches)
    os.kill(decoder._idle[False][0].loader._iterator._workers[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="the processes that decode images failed .*, or 0 to decode without them"):
        list(batches)
    assert one_pass(batches)[1].tolist() == list(range(N)), "new processes take their place"


def test_processes_end_with_their_decoder(split):
    decoder = DecoderPool(2)
    list(ImageFileBatches(split, 5, decoder=decoder, mean=MEAN, std=STD))
    processes = [worker for pool in decoder._idle[False] for worker in pool.loader._iterator._workers]
    del decoder
    deadline = time.monotonic() + 10
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(process.is_alive() for process in processes)


def test_indexing_image_files_gives_image_files(split):
    files = split.images
    assert files.shape == (N, 3, 8, 8)
    assert len(files) == N
    paths = files.paths()
    assert files[:3].paths() == paths[:3]
    assert files[20:].paths() == paths[20:]
    assert files[torch.tensor([4, 2, 4])].paths() == [paths[4], paths[2], paths[4]]
    assert files.to("cpu") is files
    assert Split(files, split.labels).to("cpu").images is files
    with pytest.raises(ValueError, match=r"labels must be int64 \(23,\)"):
        Split(files, split.labels[:3])
    with pytest.raises(ValueError, match="image_size=0"):
        ImageFiles(files.folder, files.names, 0)


def test_names_in_any_encoding(tmp_path):
    names = ["größe.png", "画像.png", os.fsdecode(b"\xff.png"), "a b.png"]
    for i, name in enumerate(names):
        write_level(tmp_path / name, 50 * i)
    files = ImageFiles(tmp_path, np.array([os.fsencode(name) for name in names]), 4)
    for workers in (0, 2):
        (images,) = decode_batches(files, [(0, 4)], DecoderPool(workers), torch.device("cpu"))
        assert images.amax((1, 2, 3)).tolist() == images.amin((1, 2, 3)).tolist() == [0, 50, 100, 150]


def test_a_task_of_files_has_the_passes_of_any_task(split):
    task = task_of(split, validation=Split(split.images[:4], split.labels[:4]))
    assert task.shape == (3, 8, N, N)
    expected = make(split, 6, seed=5)
    assert torch.equal(one_pass(task.training(6, stream(5)))[0], one_pass(expected)[0])
    plain = one_pass(task.part("train", 6))
    unaugmented = one_pass(task.training(6, stream(5), augmented=False))
    assert torch.equal(unaugmented[0], plain[0][unaugmented[1]])
    assert one_pass(task.part("validation", 3))[1].tolist() == [0, 1, 2, 3]
    assert task_of(split).part("validation", 3) is None
    assert torch.equal(one_pass(task.to("cpu").part("test", 7))[0], plain[0])


def test_the_task_sets_the_number_of_processes(split):
    task = task_of(split, decoder=DecoderPool())
    assert task.decoder.workers == len(os.sched_getaffinity(0))
    assert task.with_decoder_workers(3).decoder.workers == 3
    assert task.with_decoder_workers(0).to("cpu").decoder.workers == 0
    assert task.with_decoder_workers(None).decoder.workers == len(os.sched_getaffinity(0))
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        task.with_decoder_workers(-1)
    assert torch.equal(
        one_pass(task.with_decoder_workers(2).part("test", 7))[0],
        one_pass(task.with_decoder_workers(0).part("test", 7))[0],
    )


def test_image_files_without_labels_are_normalised(split):
    task = task_of(split)
    chunks = list(normalised_batches(split.images, task, 10))
    assert [len(chunk) for chunk in chunks] == [10, 10, 3]
    assert torch.equal(torch.cat(chunks), one_pass(task.part("test", 10))[0])
    in_memory = torch.cat(list(task.in_batches(split.images, 10)))
    assert torch.equal(torch.cat(list(normalised_batches(in_memory, task, 10))), torch.cat(chunks))
    other = ImageFiles(split.images.folder, split.images.names, 9)
    with pytest.raises(ValueError, match=r"images have shape \(3, 9, 9\), the task's own \(3, 8, 8\)"):
        next(normalised_batches(other, task, 10))


def test_every_image_is_decoded_once_for_all_corruptions(split, monkeypatch):
    """The corruption of an image gets the image's index in the test set."""

    def corrupt(images, name, severity, *, start=0):
        places = torch.arange(start, start + len(images), dtype=torch.uint8)
        return images ^ (places + 10 * severity + len(name))[:, None, None, None]

    monkeypatch.setattr("data.tasks.image_task.corrupt", corrupt)
    in_memory = torch.cat(list(task_of(split).in_batches(split.images, 100)))
    batches = []
    in_batches = ImageTask.in_batches
    monkeypatch.setattr(
        ImageTask, "in_batches", lambda self, *arguments: batches.append(arguments) or in_batches(self, *arguments)
    )
    for images in (split.images, in_memory):
        task = task_of(Split(images, split.labels), corruptions=("fog", "snow!"))
        found = {}
        largest = 0
        for name, severity, start, images in task.corrupted(10):
            assert start == 10 * (len(found.setdefault((name, severity), [])))
            found[name, severity].append(images.clone())
            largest = max(largest, len(images))
        assert largest == 10
        assert list(found) == [(name, severity) for name in ("fog", "snow!") for severity in range(1, 6)]
        for (name, severity), images in found.items():
            assert torch.equal(torch.cat(images), corrupt(in_memory, name, severity))
    assert len(batches) == 2
    assert not list(task_of(split).corrupted(10))


def test_wrong_arguments(split):
    in_memory = Split(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.arange(3))
    with pytest.raises(TypeError, match="the images are in memory"):
        make(in_memory)
    with pytest.raises(ValueError, match="padding and cutout must be 0"):
        make(split, augmentation=Augmentation(padding=4))
    with pytest.raises(ValueError, match="batch size must be at least 1, got 0"):
        make(split, 0)
    with pytest.raises(ValueError, match="empty split"):
        make(Split(split.images[:0], split.labels[:0]))
    with pytest.raises(ValueError, match="without a stream"):
        make(split, seed=None).with_stream(stream())


@pytest.mark.gpu
def test_batches_come_on_the_gpu(split):
    x, y = one_pass(make(split.to("cuda"), workers=2, seed=1))
    expected, labels = one_pass(make(split, seed=1))
    assert x.is_cuda and y.is_cuda
    assert torch.equal(y.cpu(), labels)
    torch.testing.assert_close(x.cpu(), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_of_batches_join_to_whole_batches(split, workers):
    whole = make(split, 6)
    divided = [make(split, 6, workers).shard(part, 2) for part in range(2)]
    assert [each.examples for each in divided] == [11, 12]
    for (x, y), *own in zip(whole, *divided, strict=True):
        assert torch.equal(torch.cat([x for x, _ in own]), x)
        assert torch.equal(torch.cat([y for _, y in own]), y)
