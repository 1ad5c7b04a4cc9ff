import random
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from scipy import stats
from torchvision import transforms
from torchvision.transforms import functional as TF

from data.files.decode_image import (
    DecodeJob,
    ImageError,
    decode_image_file,
    decode_images,
    draw_crop_box,
    random_resized_crop,
    resize_and_centre_crop,
)
from tests.data.write_image_files import cut_short, pattern, write_image

SIZES = [(500, 375), (375, 500), (333, 500), (64, 64), (30, 41), (7, 300), (1, 1), (900, 100)]


def noise_image(width, height, seed=0):
    return Image.fromarray(pattern(width, height, seed))


@pytest.mark.parametrize("side", [224, 64, 32, 3])
@pytest.mark.parametrize("size", SIZES)
def test_evaluation_equals_resize_and_centre_crop(size, side):
    image = noise_image(*size)
    expected = TF.center_crop(TF.resize(image, round(side * 256 / 224)), side)
    assert np.array_equal(resize_and_centre_crop(image, side), np.asarray(expected))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", SIZES)
def test_training_equals_crop_and_resize(size, seed):
    image, side = noise_image(*size), 48
    draw = random.Random(seed).random
    mirrored = draw() < 0.5
    left, top, width, height = draw_crop_box(*size, draw)
    expected = TF.resized_crop(image, top, left, height, width, [side, side])
    found = random_resized_crop(image, side, random.Random(seed).random, flip=True)
    assert np.array_equal(found, np.asarray(TF.hflip(expected) if mirrored else expected))
    unmirrored = random_resized_crop(image, side, random.Random(seed).random, flip=False)
    assert np.array_equal(unmirrored, np.asarray(expected)), "mirroring leaves the cut"


@pytest.mark.parametrize("size", [(500, 375), (300, 600)])
def test_random_crops_are_distributed_as_torchvisions(size):
    width, height = size
    torch.manual_seed(0)
    image = noise_image(*size)
    oracle = [transforms.RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(3000)]
    draw = random.Random(0).random
    cuts = [draw_crop_box(width, height, draw) for _ in range(3000)]
    for found, expected in (
        ([w * h for _, _, w, h in cuts], [w * h for _, _, h, w in oracle]),
        ([w / h for _, _, w, h in cuts], [w / h for _, _, h, w in oracle]),
        ([x for x, *_ in cuts], [x for _, x, *_ in oracle]),
        ([y for _, y, *_ in cuts], [y for y, *_ in oracle]),
    ):
        assert stats.ks_2samp(found, expected).pvalue > 0.01
    assert all(x >= 0 and x + w <= width and y >= 0 and y + h <= height for x, y, w, h in cuts)
    assert {x for x, _, w, _ in cuts if x + w == width} and {x for x, *_ in cuts if x == 0}


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000), (100, 80), (3, 4), (39, 30)])
def test_the_crop_of_an_image_that_no_draw_fits_into(size):
    # The largest and widest cut is wider than any of these, and three times the area is too large for all.
    expected = transforms.RandomResizedCrop.get_params(noise_image(*size), (3.0, 3.0), (3 / 4, 4 / 3))
    x, y, w, h = draw_crop_box(*size, lambda: 0.999999)
    assert (y, x, h, w) == expected


def test_half_of_the_images_are_mirrored(tmp_path):
    file = tmp_path / "a.png"
    ramp = np.zeros((8, 8, 3), np.uint8)
    ramp[:, 4:] = 255
    Image.fromarray(ramp).save(file)
    job = DecodeJob([str(file)] * 400, 8, list(range(400)), flip=True)
    mirrored = [bool(image[:, :2].float().mean() > image[:, -2:].float().mean()) for image in decode_images(job)]
    assert 160 < sum(mirrored) < 240  # four standard deviations
    plain = decode_images(job._replace(flip=False)).float()
    assert (plain[:, :, :2].mean((1, 2, 3)) <= plain[:, :, -2:].mean((1, 2, 3))).all()


def test_a_decoded_image_depends_on_its_seed_only(tmp_path):
    files = [str(write_image(tmp_path / f"{i}.jpg", seed=i)) for i in range(3)]
    whole = decode_images(DecodeJob(files, 16, [5, 6, 7], flip=True))
    assert whole.shape == (3, 16, 16, 3)
    assert whole.dtype == torch.uint8
    for i in range(3):
        alone = decode_images(DecodeJob(files[i : i + 1], 16, [5 + i], flip=True))
        assert torch.equal(alone[0], whole[i])
    assert not torch.equal(decode_images(DecodeJob(files, 16, [8, 9, 10], flip=True)), whole)


def grey(image):
    return np.asarray(Image.fromarray(image).convert("L"))


@pytest.mark.parametrize(
    ("name", "mode", "tolerance"),
    [
        ("a.png", "RGB", 0),
        ("a.webp", "RGB", 0),
        ("a.bmp", "RGB", 0),
        ("a.tif", "RGB", 0),
        ("a.png", "RGBA", 0),
        ("a.jpg", "RGB", 3),
        ("a.jpg", "CMYK", 3),
        ("a.gif", "P", 20),
        ("a.png", "P", 20),
    ],
)
def test_colour_in_every_format(tmp_path, name, mode, tolerance):
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(name.rpartition(".")[2], {})
    file = write_image(tmp_path / name, 32, 32, mode=mode, noise=0, **options)
    found = decode_image_file(file, DecodeJob([], 32, resized=False), None)
    assert np.abs(found.astype(int) - pattern(32, 32, noise=0)).mean() <= tolerance


@pytest.mark.parametrize(("name", "mode"), [("a.png", "L"), ("a.png", "LA"), ("a.jpg", "L"), ("a.pgm", "L")])
def test_grey_becomes_three_equal_colours(tmp_path, name, mode):
    file = write_image(tmp_path / name, 32, 32, mode=mode, noise=0, quality=100)
    found = decode_image_file(file, DecodeJob([], 32, resized=False), None)
    assert (found == found[:, :, :1]).all()
    difference = found[:, :, 0].astype(int) - grey(pattern(32, 32, noise=0))
    assert np.abs(difference).mean() <= (3 if name.endswith("jpg") else 0)


def test_a_palette_with_transparent_colours(tmp_path, recwarn):
    image = Image.fromarray(pattern(32, 32)).quantize(16)
    image.save(tmp_path / "a.png", transparency=bytes([0, 128, 255]))
    found = decode_image_file(tmp_path / "a.png", DecodeJob([], 32, resized=False), None)
    assert np.array_equal(found, np.asarray(image.convert("RGB")))
    assert not recwarn.list


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_grey_bits_keep_their_range(tmp_path, name):
    levels = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / name)
    found = decode_image_file(tmp_path / name, DecodeJob([], 32, resized=False), None)
    assert np.array_equal(found[:, :, 0], np.rint(levels / 257).astype(np.uint8))


def test_sixteen_bits_in_colour(tmp_path):
    levels = pattern(32, 32).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0), b"IDAT": zlib.compress(rows), b"IEND": b""}
    contents = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks.items():
        contents += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    (tmp_path / "a.png").write_bytes(contents)
    found = decode_image_file(tmp_path / "a.png", DecodeJob([], 32, resized=False), None)
    assert np.abs(found.astype(int) - pattern(32, 32)).max() <= 1


def test_camera_orientation_is_not_applied(tmp_path):
    image = noise_image(40, 30)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    image.save(tmp_path / "b.png")
    job = DecodeJob([], 16)
    assert np.array_equal(
        decode_image_file(tmp_path / "a.png", job, None), decode_image_file(tmp_path / "b.png", job, None)
    )


def test_large_jpegs_are_decoded_smaller_to_nearly_the_same(tmp_path, monkeypatch):
    file = write_image(tmp_path / "a.jpg", 512, 384, noise=5, quality=95)
    job = DecodeJob([], 16)
    fast = np.array([decode_image_file(file, job, seed) for seed in range(30)]).astype(int)
    drafts = []
    monkeypatch.setattr(JpegImageFile, "draft", lambda self, mode, size: drafts.append(size))
    full = np.array([decode_image_file(file, job, seed) for seed in range(30)]).astype(int)
    monkeypatch.undo()
    assert len(drafts) == 30, "every cut of a twelfth is reduced to a quarter or less"
    assert 0 < np.abs(full - fast).mean() < 1.5
    moderate = DecodeJob([], 120)  # less than four times as small: to the bit as torchvision
    image = Image.open(file).convert("RGB")
    for seed in range(5):
        expected = random_resized_crop(image, 120, random.Random(seed).random, flip=False)
        assert np.array_equal(decode_image_file(file, moderate, seed), expected)


def missing(file):
    return file


def a_directory(file):
    file.mkdir()
    return file


def a_text(file):
    file.write_text("no image at all")
    return file


def an_empty_file(file):
    file.touch()
    return file


def a_dangling_link(file):
    file.symlink_to(file.with_name("gone.jpg"))
    return file


def half_a_jpeg(file):
    return cut_short(write_image(file))


def a_jpeg_without_its_end(file):
    return cut_short(write_image(file, 200, 150), 0.95)


def half_a_png(file):
    return cut_short(write_image(file, format="PNG"))


def an_altered_png(file):
    write_image(file, format="PNG")
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 0xFF
    file.write_bytes(contents)
    return file


def pixels_without_a_range(file):
    Image.fromarray(np.ones((20, 20), np.float32)).save(file, format="TIFF")
    return file


DAMAGE = [
    missing,
    a_directory,
    a_text,
    an_empty_file,
    a_dangling_link,
    half_a_jpeg,
    a_jpeg_without_its_end,
    half_a_png,
    an_altered_png,
    pixels_without_a_range,
]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("seed", [None, 3])
def test_damaged_images_are_named(tmp_path, damage, seed):
    file = damage(tmp_path / "an image.jpg")
    with pytest.raises(ImageError, match=r"an image\.jpg: cannot be decoded .*; put an intact image in its place"):
        decode_image_file(file, DecodeJob([], 8), seed)


def test_an_image_that_must_have_the_exact_size(tmp_path):
    file = write_image(tmp_path / "a.png", 32, 32)
    assert np.array_equal(decode_image_file(file, DecodeJob([], 32, resized=False), None), pattern(32, 32))
    with pytest.raises(ImageError, match=r"a\.png: .*found 32 x 32 pixels, expected 28 x 28"):
        decode_image_file(file, DecodeJob([], 28, resized=False), None)
