"""Small image files for tests."""

from pathlib import Path

import numpy as np
from PIL import Image


def pattern(width, height, seed=0, noise=20):
    """Return a colour image with structure at all scales: (H, W, 3) uint8."""
    draws = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = [np.sin(2 * np.pi * (f * x + g * y) + p) for f, g, p in draws.uniform(-9, 9, (3, 3))]
    noise = draws.normal(0, noise, (height, width, 3))
    return (128 + 70 * np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8)


def write_image(file, width=40, height=30, seed=0, noise=20, mode="RGB", **options):
    """Write the image of `pattern` in the format of the file's extension."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pattern(width, height, seed, noise)).convert(mode).save(file, **options)
    return file


def write_level(file, level, width=12, height=10):
    """Write an image of one grey level, so that all crops of it have that level."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (level, level, level)).save(file)
    return file


def write_classes(folder: Path, counts: dict[str, int], first=0):
    """Write folder/CLASS/I.png with different grey levels from `first` on, and return the levels by class."""
    levels = {}
    for name, count in counts.items():
        levels[name] = list(range(first, first + count))
        for i, level in enumerate(levels[name]):
            write_level(folder / name / f"{i}.png", level)
        first += count
    return levels


def cut_short(file, share=0.5):
    """Truncate a file to a share of its size."""
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    return file
