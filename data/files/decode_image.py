"""Decodes an image file to an array of pixels: a pure function of the file, the crop and a seed.

Pillow decodes the files. It is as fast as torchvision's `decode_image`, which is deprecated. Pillow reads more formats,
and it raises an error on damaged files, where `decode_image` can end the process. Cropping and resizing equal
torchvision's `RandomResizedCrop`, `Resize` and `CenterCrop` of Pillow images to the bit. Networks with published
weights therefore see the images that they were trained on.
"""

import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Pixels = NDArray[np.uint8]

CROP_AREA = (0.08, 1.0)
"""Smallest and largest share of the image's area in a random crop."""
CROP_RATIO = (3 / 4, 4 / 3)
"""Smallest and largest aspect ratio (width / height) of a random crop."""
CROP_TRIES = 10
"""Number of random crops that are drawn to find one that fits into the image."""


class ImageError(ValueError):
    """A file holds no image, or a damaged one."""


class DecodeJob(NamedTuple):
    """Images to decode together.

    Attributes:
        files: Paths of the images.
        side: S, the height and width of the results, in pixels.
        seeds: One seed per image, for its random crop and mirroring; None for the centre crop of evaluation.
        flip: Whether half of the images with a seed are mirrored.
        resized: Whether images of any size are cropped and resized; else each image must have S × S pixels.
    """

    files: list[str]
    side: int
    seeds: list[int] | None = None
    flip: bool = False
    resized: bool = True


def decode_images(job: DecodeJob) -> Tensor:
    """Decode the images of a job.

    Returns:
        (B, S, S, 3) uint8.

    Raises:
        ImageError: If a file holds no image, or a damaged one; names the file.
    """
    images = np.empty((len(job.files), job.side, job.side, 3), np.uint8)
    for i, file in enumerate(job.files):
        images[i] = decode_image_file(Path(file), job, None if job.seeds is None else job.seeds[i])
    return torch.from_numpy(images)


def decode_image_file(file: Path, job: DecodeJob, seed: int | None) -> Pixels:
    """Decode one image of a job: (S, S, 3) uint8.

    The orientation in a camera's metadata is not applied, as in the reference pipelines of ImageNet.

    Args:
        file: The image file.
        job: The job, of which the side and the way of cropping are read.
        seed: Seed of the random crop and mirroring; None for the centre crop of evaluation.

    Raises:
        ImageError: If the file holds no image, or a damaged one.
    """
    try:
        with Image.open(file) as image:
            if not job.resized:
                return read_exact_size(image, job.side)
            if seed is None:
                return resize_and_centre_crop(image, job.side)
            return random_resized_crop(image, job.side, Random(seed).random, job.flip)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        raise ImageError(
            f"{file}: cannot be decoded ({type(error).__name__}: {error}); put an intact image in its place, "
            f"or take the file out of the folder"
        ) from error


def read_exact_size(image: Image.Image, side: int) -> Pixels:
    """Return the pixels of an image of S × S pixels: (S, S, 3).

    Raises:
        ValueError: If the image has another size.
    """
    if image.size != (side, side):
        raise ValueError(f"found {image.width} x {image.height} pixels, expected {side} x {side}")
    return np.asarray(to_rgb(image))


def resize_and_centre_crop(image: Image.Image, side: int) -> Pixels:
    """Resize the shorter side to 256 / 224 of S, and crop S × S pixels at the centre: (S, S, 3).

    At S = 224 this is the usual evaluation of ImageNet. Other sizes have the same proportion.
    """
    short = round(side * 256 / 224)
    width, height = image.size
    # The longer side is rounded down and the margins are rounded, as in torchvision.
    wide, high = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    left, top = round((wide - side) / 2), round((high - side) / 2)
    resized = to_rgb(image).resize((wide, high), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + side, top + side)))


def random_resized_crop(image: Image.Image, side: int, draw: Callable[[], float], flip: bool) -> Pixels:
    """Crop a random part of an image, resize it, and mirror it with probability one half: (S, S, 3).

    Args:
        image: An image of any size, not decoded yet.
        side: S, in pixels.
        draw: Returns uniform random numbers in [0, 1).
        flip: Whether half of the images are mirrored.

    References:
        Szegedy et al., Going deeper with convolutions, CVPR 2015, section 6.
    """
    mirrored = draw() < 0.5 and flip
    full = image.size
    left, top, width, height = draw_crop_box(*full, draw)
    decode_smaller(image, 2 * side / min(width, height))
    x0, x1 = (x * image.width / full[0] for x in (left, left + width))
    y0, y1 = (y * image.height / full[1] for y in (top, top + height))
    # Crop whole pixels. `box` is the drawn crop inside them, which differs if the image was decoded at a smaller size.
    first, above = math.floor(x0), math.floor(y0)
    part = image.crop((first, above, math.ceil(x1), math.ceil(y1)))
    box = (x0 - first, y0 - above, x1 - first, y1 - above)
    cut = to_rgb(part).resize((side, side), Image.Resampling.BILINEAR, box=box)
    return np.asarray(cut)[:, ::-1] if mirrored else np.asarray(cut)


def draw_crop_box(width: int, height: int, draw: Callable[[], float]) -> tuple[int, int, int, int]:
    """Draw a random crop of an image: left, top, width and height in pixels.

    Its share of the image's area is uniform in `CROP_AREA`, the logarithm of its aspect ratio uniform in that of
    `CROP_RATIO`. If none of `CROP_TRIES` crops lies inside the image, the largest centred crop with an aspect ratio in
    `CROP_RATIO` is returned.
    """
    low, high = math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])
    for _ in range(CROP_TRIES):
        area = width * height * (CROP_AREA[0] + (CROP_AREA[1] - CROP_AREA[0]) * draw())
        ratio = math.exp(low + (high - low) * draw())
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int((width - w + 1) * draw()), int((height - h + 1) * draw()), w, h
    w, h = min(width, round(height * CROP_RATIO[1])), min(height, round(width / CROP_RATIO[0]))
    return (width - w) // 2, (height - h) // 2, w, h


def decode_smaller(image: Image.Image, factor: float) -> None:
    """Tell Pillow to decode a JPEG at a half, a quarter or an eighth of its size, but at least at `factor` of it.

    Large photographs are decoded several times as fast. The caller's factor leaves two pixels for each pixel of the
    result, so that resizing still averages. A factor above one half changes nothing.
    """
    if factor <= 0.5:
        image.draft(None, (math.ceil(image.width * factor), math.ceil(image.height * factor)))


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB: grey becomes three equal channels, transparency is dropped, 16 bits become 8.

    Raises:
        ValueError: If its pixels are 32-bit numbers, whose range is unknown.
    """
    if image.mode == "RGB":
        return image
    if image.mode in ("I", "F"):
        raise ValueError("its pixels are 32-bit numbers, whose range is not known; save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(np.rint(levels).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
