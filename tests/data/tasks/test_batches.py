import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.tasks.batches import ImageBatches
from data.tasks.image_dataset import Augmentation, Split
from data.tasks.image_task import ImageTask, normalised_batches

LAYOUTS = [torch.channels_last, torch.contiguous_format]


def numbered(n, channels=3, size=6):
    """Return random images whose label is their index, so that a batch shows which images it holds."""
    draw = torch.Generator().manual_seed(n)
    images = torch.randint(1, 256, (n, channels, size, size), dtype=torch.uint8, generator=draw)
    return Split(images, torch.arange(n))


def stream(seed=0):
    return lambda: torch.Generator().manual_seed(seed)


def make(split, batch_size=4, *, augmentation=None, seed=0, layout=torch.channels_last):
    """Batches that are not scaled: x = image, in 0…255."""
    channels = split.images.shape[1]
    return ImageBatches(
        split,
        batch_size,
        mean=[0.0] * channels,
        std=[1 / 255] * channels,
        augmentation=augmentation,
        stream=None if seed is None else stream(seed),
        memory_format=layout,
    )


def one_pass(batches):
    xs, ys = zip(*batches, strict=True)
    return torch.cat(xs), torch.cat(ys)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 12), shuffled=st.booleans())
def test_every_example_once_a_pass(n, batch_size, shuffled):
    batches = make(numbered(n, size=2), batch_size, seed=1 if shuffled else None)
    sizes = [len(y) for _, y in batches]
    assert batches.examples == sum(sizes) == n
    assert len(batches) == len(sizes)
    if batch_size > 1 and n > 1:
        assert min(sizes) > 1
        assert max(sizes) <= max(batch_size, min(n, batch_size + 1))
    _, y = one_pass(batches)
    assert torch.equal(y.sort().values, torch.arange(n))
    assert shuffled or torch.equal(y, torch.arange(n))


def test_sizes_of_the_last_batches():
    assert [len(y) for _, y in make(numbered(10), 4)] == [4, 4, 2]
    assert [len(y) for _, y in make(numbered(9), 4)] == [4, 5]
    assert [len(y) for _, y in make(numbered(8), 4)] == [4, 4]
    assert [len(y) for _, y in make(numbered(1), 4)] == [1]
    assert [len(y) for _, y in make(numbered(3), 1)] == [1, 1, 1]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", [None, 5])
def test_normalisation_layout_and_types(layout, channels, seed):
    split = numbered(20, channels)
    mean, std = [0.2, 0.5, 0.7][:channels], [0.1, 0.3, 0.9][:channels]
    batches = ImageBatches(
        split, 8, mean=mean, std=std, stream=None if seed is None else stream(seed), memory_format=layout
    )
    for x, y in batches:
        expected = (split.images[y].double() / 255 - torch.tensor(mean).double().view(1, -1, 1, 1)) / (
            torch.tensor(std).double().view(1, -1, 1, 1)
        )
        torch.testing.assert_close(x, expected.float(), rtol=1e-5, atol=1e-5)
        assert x.dtype == torch.float32
        assert x.is_contiguous(memory_format=layout)
        assert y.dtype == torch.int64


@pytest.mark.parametrize("source_layout", LAYOUTS)
def test_layout_of_the_source_does_not_matter(source_layout):
    split = numbered(12)
    other = Split(split.images.contiguous(memory_format=source_layout), split.labels)
    augmentation = Augmentation(padding=2, flip=True, cutout=3)
    for layout in LAYOUTS:
        expected, _ = one_pass(make(split, augmentation=augmentation))
        found, _ = one_pass(make(other, augmentation=augmentation, layout=layout))
        assert torch.equal(expected, found)


def naive(split, augmentation, seed):
    """Augment the images of one pass one by one, with the same draws."""
    n, _, size, _ = split.images.shape
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=generator)
    places = torch.randint(2 * augmentation.padding + 1, (2, n), generator=generator)
    flips = torch.randint(2, (1, n), generator=generator)
    centres = torch.randint(size, (2, n), generator=generator)
    for i, index in enumerate(order.tolist()):
        image = torch.zeros_like(split.images[index], dtype=torch.float32)
        top, left = (places[:, i] - augmentation.padding).tolist()
        for row in range(size):
            for column in range(size):
                if 0 <= row + top < size and 0 <= column + left < size:
                    image[:, row, column] = split.images[index, :, row + top, column + left]
        if augmentation.flip and flips[0, i]:
            image = image[:, :, list(range(size))[::-1]]
        first_row, first_column = (centres[:, i] - augmentation.cutout // 2).tolist()
        for row in range(first_row, first_row + augmentation.cutout):
            for column in range(first_column, first_column + augmentation.cutout):
                if 0 <= row < size and 0 <= column < size:
                    image[:, row, column] = 0
        yield image, index


@settings(max_examples=25, deadline=None)
@given(
    padding=st.integers(0, 3),
    flip=st.booleans(),
    cutout=st.integers(0, 5),
    channels=st.sampled_from([1, 3]),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 2**32),
)
def test_augmentation_equals_a_loop_over_images(padding, flip, cutout, channels, layout, seed):
    split, augmentation = numbered(7, channels, 5), Augmentation(padding, flip, cutout)
    x, y = one_pass(make(split, 3, augmentation=augmentation, seed=seed, layout=layout))
    for found, label, (image, index) in zip(x, y, naive(split, augmentation, seed), strict=True):
        assert label == index
        torch.testing.assert_close(found, image, rtol=0, atol=1e-4)


def test_cutout_is_the_mean():
    split = numbered(30)
    batches = ImageBatches(
        split, 30, mean=[0.5] * 3, std=[0.2] * 3, augmentation=Augmentation(cutout=4), stream=stream()
    )
    x, _ = one_pass(batches)
    zeros = (x == 0).all(1).sum((1, 2))
    assert zeros.max() == 16  # the whole square inside; no pixel is at the mean 127.5 by chance
    assert zeros.min() >= 4  # a centre in the corner leaves a quarter


def test_draws_are_spread_evenly():
    split = Split(torch.zeros(20_000, 1, 2, 2, dtype=torch.uint8), torch.arange(20_000))
    split.images[:, :, 0, 0] = 255
    batches = make(split, 20_000, augmentation=Augmentation(padding=1, flip=True))
    x, _ = one_pass(batches)
    # The bright corner lands on a given pixel for one of 9 windows, with or without mirroring: 4 of 9 are seen.
    torch.testing.assert_close((x > 0).float().mean((0, 1)), torch.full((2, 2), 1 / 9), rtol=0, atol=0.01)


def test_passes_repeat_with_the_stream_and_differ_between_streams():
    split, augmentation = numbered(50), Augmentation(padding=2, flip=True, cutout=2)
    batches = make(split, 8, augmentation=augmentation, seed=3)
    first, again = one_pass(batches), one_pass(batches)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], one_pass(make(split, 8, augmentation=augmentation, seed=4))[1])
    seeds = iter([1, 2])
    changing = ImageBatches(
        split, 8, mean=[0] * 3, std=[1] * 3, stream=lambda: torch.Generator().manual_seed(next(seeds))
    )
    assert not torch.equal(one_pass(changing)[1], one_pass(changing)[1])


def test_interleaved_passes_do_not_disturb_each_other():
    batches = make(numbered(12), 4, augmentation=Augmentation(padding=1))
    pairs = list(zip(batches, batches, strict=True))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def test_neither_global_randomness_nor_the_images_are_touched():
    split = numbered(12)
    images = split.images.clone()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one_pass(make(split, augmentation=Augmentation(padding=2, flip=True, cutout=3)))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(split.images, images)


def test_without_a_stream_nothing_is_augmented():
    split = numbered(9)
    x, y = one_pass(make(split, augmentation=Augmentation(padding=3, flip=True, cutout=4), seed=None))
    assert torch.equal(y, torch.arange(9))
    torch.testing.assert_close(x, split.images.float(), rtol=0, atol=1e-4)


def test_cutout_leaves_order_and_windows_alone():
    split = numbered(16)
    plain, y = one_pass(make(split, augmentation=Augmentation(padding=2, flip=True)))
    cut, y_cut = one_pass(make(split, augmentation=Augmentation(padding=2, flip=True, cutout=3)))
    assert torch.equal(y, y_cut)
    assert torch.equal(torch.where(cut == 0, 0, plain), cut)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_bits_on_the_gpu():
    split, augmentation = numbered(40), Augmentation(padding=2, flip=True, cutout=3)
    x, y = one_pass(make(split, 8, augmentation=augmentation))
    x_gpu, y_gpu = one_pass(make(split.to("cuda"), 8, augmentation=augmentation))
    assert x_gpu.is_cuda
    assert torch.equal(y, y_gpu.cpu())
    torch.testing.assert_close(x, x_gpu.cpu(), rtol=1e-6, atol=1e-4)


def test_images_without_labels_are_normalised():
    split = numbered(10)
    task = ImageTask("t", 10, split, None, split, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), Augmentation(), {}, ())
    chunks = list(normalised_batches(split.images, task, 4))
    assert [len(chunk) for chunk in chunks] == [4, 4, 2]
    expected, _ = one_pass(ImageBatches(split, 4, mean=task.mean, std=task.std))
    assert torch.equal(torch.cat(chunks), expected)
    assert all(chunk.is_contiguous(memory_format=torch.channels_last) for chunk in chunks)
    with pytest.raises(ValueError, match=r"t: images have shape \(1, 6, 6\), the task's own \(3, 6, 6\)"):
        next(normalised_batches(split.images[:, :1], task, 4))


def test_wrong_arguments():
    split = numbered(4)
    with pytest.raises(ValueError, match="batch size must be at least 1, got 0"):
        make(split, 0)
    with pytest.raises(ValueError, match="empty split"):
        make(Split(split.images[:0], split.labels[:0]))
    with pytest.raises(ValueError, match="3 channels, but there are 1 means"):
        ImageBatches(split, 2, mean=[0.0], std=[1.0])
    with pytest.raises(ValueError, match="padding must not be negative, got -1"):
        Augmentation(padding=-1)
    with pytest.raises(ValueError, match="images must be uint8"):
        Split(split.images.float(), split.labels)
    with pytest.raises(ValueError, match="labels must be int64"):
        Split(split.images, split.labels[:2])


def test_other_streams_share_the_images():
    batches = make(numbered(20), augmentation=Augmentation(padding=1), seed=1)
    other = batches.with_stream(stream(2))
    assert other._row_windows is batches._row_windows
    expected = make(numbered(20), augmentation=Augmentation(padding=1), seed=2)
    for found, wanted in zip(one_pass(other), one_pass(expected), strict=True):
        assert torch.equal(found, wanted)
    again = make(numbered(20), augmentation=Augmentation(padding=1), seed=1)
    assert torch.equal(one_pass(batches)[1], one_pass(again)[1]), "the first stream is what it was"
    with pytest.raises(ValueError, match="without a stream"):
        make(numbered(3), seed=None).with_stream(stream())


# --- shared among processes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize("parts", [2, 3])
def test_shards_of_batches_join_to_whole_batches(parts, seed):
    whole = make(numbered(15), 6, augmentation=Augmentation(padding=1, flip=True, cutout=2), seed=seed)
    divided = [whole.shard(part, parts) for part in range(parts)]
    assert sum(each.examples for each in divided) == whole.examples == 15
    assert {len(each) for each in divided} == {len(whole)}
    for (x, y), *own in zip(whole, *divided, strict=True):
        assert torch.equal(torch.cat([x for x, _ in own]), x)
        assert torch.equal(torch.cat([y for _, y in own]), y)
        sizes = [len(y) for _, y in own]
        assert max(sizes) - min(sizes) <= 1


def test_a_batch_with_too_few_images_is_not_divided():
    batches = make(numbered(15), 6)
    with pytest.raises(ValueError, match=r"^a minibatch of 3 examples cannot be divided into 4 parts: take fewer"):
        batches.shard(0, 4)
