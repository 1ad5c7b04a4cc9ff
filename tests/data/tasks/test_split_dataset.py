"""Label noise and subsets: a noisy label depends on the image alone."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from data import Augmentation, ImageDataset, Split
from data.tasks.split_dataset import add_label_noise, make_image_task

N, C = 5000, 10
LABELS = torch.arange(N) % C


def source(n=N):
    """Return distinguishable images of ten classes in turn."""
    images = torch.stack([torch.arange(n) // 256, torch.arange(n) % 256], dim=1).to(torch.uint8)[:, :, None, None]
    split = Split(images, torch.arange(n) % C)
    return ImageDataset(C, split, split, Augmentation(), 0, {}, ())


def numbers(split):
    """Return the indices of a split's images in the dataset."""
    high, low = split.images[:, :, 0, 0].long().unbind(1)
    return 256 * high + low


def test_nothing_changes_without_noise():
    assert add_label_noise(LABELS, C, 0.0) is LABELS
    assert torch.equal(make_image_task("t", source(), None, None).train.labels, LABELS)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4, 1.0])
def test_a_share_is_replaced_by_uniform_draws(share):
    noisy = add_label_noise(LABELS, C, share)
    assert noisy.dtype == torch.int64
    drawn = round(share * N)
    changed = int((noisy != LABELS).sum())
    # Of the labels drawn, a tenth are the true ones again.
    expected, deviation = 0.9 * drawn, (0.09 * drawn) ** 0.5
    assert abs(changed - expected) < 4 * deviation
    assert changed <= drawn
    new = noisy[noisy != LABELS]
    assert (new.bincount(minlength=C) - changed / C).abs().max() < 4 * (changed / C) ** 0.5


def test_exactly_the_share_is_drawn():
    """With so many classes no draw equals the true class, so that all drawn labels change."""
    labels = torch.zeros(1001, dtype=torch.int64)
    for share, count in ((0.5, 501), (0.1, 100), (0.0004, 0), (1.0, 1001)):
        assert int((add_label_noise(labels, 10**12, share) != 0).sum()) == count


def test_forward_equals_an_independent_implementation():
    raw = np.random.PCG64(20210220).random_raw(2 * N)
    ranks = sorted(range(N), key=lambda i: int(raw[i]))
    expected = LABELS.tolist()
    for i in ranks[: round(0.3 * N)]:
        expected[i] = int(raw[N + i]) % C
    assert add_label_noise(LABELS, C, 0.3).tolist() == expected


def test_the_draws_are_fixed():
    digest = hashlib.sha256(add_label_noise(LABELS, C, 0.4).numpy().tobytes()).hexdigest()
    assert digest[:16] == "2dc71a5b6998d3fc"


def test_noisy_labels_stay_the_same_with_more_noise():
    little, much = add_label_noise(LABELS, C, 0.2), add_label_noise(LABELS, C, 0.6)
    where = little != LABELS
    assert torch.equal(little[where], much[where])


def test_a_subset_without_a_class_is_refused():
    rare = source()
    labels = torch.zeros(N, dtype=torch.int64)
    labels[5], labels[[7, 8]] = 1, 2
    rare = replace(rare, train=Split(rare.train.images, labels))
    with pytest.raises(ValueError, match=rf"t: train_size=40 of {N} training images leaves none of class 1"):
        make_image_task("t", rare, 0, 40)
    whole = make_image_task("t", rare, 0, N)
    assert set(whole.train.labels.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(("validation", "train_size"), [(0, None), (1000, None), (0, 500), (1000, 500), (1000, 4000)])
def test_an_images_label_is_the_same_in_every_subset(validation, train_size):
    noisy = add_label_noise(LABELS, C, 0.4)
    task = make_image_task("t", source(), validation, train_size, 0.4)
    chosen = numbers(task.train)
    assert torch.equal(task.train.labels, noisy[chosen])
    assert len(chosen) == (train_size or N - validation)
    assert 0.3 < (task.train.labels != LABELS[chosen]).double().mean() < 0.42
    plain = make_image_task("t", source(), validation, train_size)
    assert torch.equal(chosen, numbers(plain.train))  # noise does not change which images are chosen
    assert (task.mean, task.std) == (plain.mean, plain.std)


def test_held_out_and_test_labels_stay_clean():
    task = make_image_task("t", source(), 1000, 500, 1.0)
    assert torch.equal(task.validation.labels, LABELS[4000:])
    assert torch.equal(task.test.labels, LABELS)


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan"), float("inf")])
def test_shares_outside_0_to_1_are_refused(share):
    with pytest.raises(ValueError, match="label_noise is the share of training labels drawn at random, 0 to 1; got"):
        add_label_noise(LABELS, C, share)


def test_10_000_of_50_000():
    """The reduced training set of the late-phase paper's Table 15 is stratified."""
    task = make_image_task("t", source(50_000), None, 10_000)
    chosen = numbers(task.train)
    assert len(set(chosen.tolist())) == 10_000
    assert (task.train.labels.bincount() == 1000).all()
    assert len(task.test.labels) == 50_000
    smaller = make_image_task("t", source(50_000), None, 5_000)
    assert set(numbers(smaller.train).tolist()) < set(chosen.tolist())
