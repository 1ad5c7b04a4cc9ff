"""Measures the speed of data loading: augmentation of images in memory, and decoding of image files.

Speeds are in images a second. A simulated device that only waits replaces a GPU, and leaves the CPU cores to the
decoders. Training on the CPU shares the cores with the decoders. The best possible speed is then that of loading and
training one after the other with all cores: 1 / (1 / loading + 1 / training).

Run it on a machine without other load: `python -m tests.benchmarks.loading`. It takes two minutes.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from data.files.decode_image import DecodeJob, decode_images
from data.files.decoder_pool import DecoderPool
from data.files.image_files import ImageFiles
from data.files.usable_cpus import usable_cpus
from data.tasks.batches import ImageBatches
from data.tasks.file_batches import ImageFileBatches
from data.tasks.image_dataset import Augmentation, Split
from methods.core.random_streams import stream

AUGMENTED, MAX_MILLISECONDS, THREADS = 512, 4.0, 2
"""Images of CIFAR's size in an augmented batch, its maximum duration, and its number of CPU threads."""

FILES, SIZE = 128, (500, 375)
"""Number of JPEG files, and their width and height, which are typical of ImageNet."""

MIN_SHARE = 0.9
"""Minimum share of the best possible speed that loading and training must reach together."""

ROUNDS = 5


def median_batch_milliseconds(cutout: int, batches: int = 200) -> float:
    """Return the median milliseconds of a batch in memory, with random crops, flips and cutout."""
    n = 20 * AUGMENTED
    images = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=stream(0, "images"))
    passes = ImageBatches(
        Split(images, torch.zeros(n, dtype=torch.int64)),
        AUGMENTED,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        augmentation=Augmentation(padding=4, flip=True, cutout=cutout),
        stream=lambda: stream(0, "data"),
    )
    times: list[float] = []
    while len(times) < batches:
        iterator = iter(passes)
        next(iterator)  # not counted: it includes random draws for the whole pass
        start = time.perf_counter()
        for _ in iterator:
            times.append(time.perf_counter() - start)
            start = time.perf_counter()
    return 1000 * statistics.median(times)


def write_photographs(folder: Path) -> list[str]:
    """Write JPEG files of a size typical of ImageNet: crops of two photographs. Return their names."""
    draws = np.random.default_rng(0)
    photographs = [Image.fromarray(image).resize((832, 555)) for image in load_sample_images().images]
    names = []
    for i in range(FILES):
        photograph = photographs[i % len(photographs)]
        x, y = draws.integers(0, (photograph.width - SIZE[0], photograph.height - SIZE[1])).tolist()
        names.append(f"{i}.jpg")
        photograph.crop((x, y, x + SIZE[0], y + SIZE[1])).save(folder / names[-1], quality=90)
    return names


def make_loader(
    folder: Path, names: list[str], count: int, side: int, batch_size: int, device: str
) -> ImageFileBatches:
    """Return training batches of `count` images, which repeat the files. All CPU cores decode."""
    chosen = [names[i % len(names)].encode() for i in range(count)]
    return ImageFileBatches(
        Split(ImageFiles(folder, np.array(chosen), side), torch.zeros(count, dtype=torch.int64)).to(device),
        batch_size,
        decoder=DecoderPool(),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        augmentation=Augmentation(flip=True),
        stream=lambda: stream(0, "data"),
    )


def rate(batches: Iterable[tuple[Tensor, Tensor]], step: Callable[[Tensor], object]) -> float:
    """Return the images a second that pass through `step`."""
    images = 0
    start = time.perf_counter()
    for x, _ in batches:
        step(x)
        images += len(x)
    if isinstance(step, SimulatedDevice):
        step.synchronize()
    elif torch.cuda.is_available():
        torch.cuda.synchronize()
    return images / (time.perf_counter() - start)


def make_training_step(net: nn.Module, device: str) -> Callable[[Tensor], None]:
    """Return a function that trains one step on a batch."""
    net = net.to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, fused=True)

    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = nn.functional.cross_entropy(net(x), torch.zeros(len(x), dtype=torch.int64, device=device))
        loss.backward()
        optimizer.step()

    return step


class SimulatedDevice:
    """A device that processes batches at a given speed without using the CPU.

    Like a GPU, it has a queue: the host prepares the next batch meanwhile, and waits only if a whole batch is queued.
    """

    def __init__(self, images_a_second: float) -> None:
        self.rate = images_a_second
        self.busy_until = 0.0

    def __call__(self, x: Tensor) -> None:
        """Queue a batch. Wait for earlier ones."""
        queued = self.busy_until
        self.busy_until = max(queued, time.perf_counter()) + len(x) / self.rate
        sleep_until(queued)

    def synchronize(self) -> None:
        """Wait for all queued batches."""
        sleep_until(self.busy_until)


def sleep_until(moment: float) -> None:
    """Sleep until a time of `time.perf_counter`."""
    time.sleep(max(0.0, moment - time.perf_counter()))


def compare_speeds(
    batches: ImageFileBatches, step: Callable[[Tensor], object], best: Callable[[float, float], float]
) -> tuple[float, float, float, float]:
    """Measure loading alone, the step alone and both together, in turns.

    Args:
        batches: to load.
        step: processes a batch.
        best: returns the best possible speed from those of loading and of the step.

    Returns:
        The three speeds, and the speed of both together as a share of the best possible one: medians over rounds.
    """
    fixed = next(iter(batches))
    repeated = [fixed] * len(batches)
    rounds = []
    for _ in range(ROUNDS):
        loading = rate(batches, lambda x: None)
        alone = rate(repeated, step)
        together = rate(batches, step)
        rounds.append((loading, alone, together, together / best(loading, alone)))
    loading, alone, together, share = (statistics.median(values) for values in zip(*rounds, strict=True))
    return loading, alone, together, share


def best_shared(loading: float, training: float) -> float:
    """Return the best possible speed if loading and training share the same cores."""
    return 1 / (1 / loading + 1 / training)


def print_loading(folder: Path) -> bool:
    """Print the speeds of decoding, loading and training. Return whether all bounds hold."""
    names = write_photographs(folder)
    paths = [str(folder / name) for name in names]
    jobs = [DecodeJob(paths[i : i + 32], 224, list(range(i, i + 32)), flip=True) for i in range(0, FILES, 32)]
    one = statistics.median(rate(((decode_images(job), torch.empty(0)) for job in jobs), len) for _ in range(ROUNDS))
    print(f"{'decoder alone, one process, 224 px':45} {one:6.0f}/s", flush=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    large = make_loader(folder, names, 40 * 32, 224, 32, "cpu")
    speed = statistics.median(rate(large, lambda x: None) for _ in range(ROUNDS))
    compared = {
        f"a simulated device, {factor:g} x the loader's speed": compare_speeds(
            large, SimulatedDevice(factor * speed), min
        )
        for factor in (0.5, 1.0)
    }
    if device == "cuda":
        on_gpu = make_loader(folder, names, 100 * 128, 224, 128, device)
        compared["resnet50 on the GPU, 224 px"] = compare_speeds(on_gpu, make_training_step(resnet50(), device), min)
    else:
        small = make_loader(folder, names, 16 * 32, 64, 32, device)
        compared["resnet18 on the same cores, 64 px"] = compare_speeds(
            small, make_training_step(resnet18(), device), best_shared
        )
    print(
        f"{f'{usable_cpus().number} decoders; images a second':45} {'loader':>7} {'device':>7} {'both':>7} "
        f"{'of best':>8}"
    )
    for name, (loading, alone, together, share) in compared.items():
        verdict = "" if share >= MIN_SHARE else "  below the bound"
        print(f"{name:45} {loading:7.0f} {alone:7.0f} {together:7.0f} {share:8.3f} >= {MIN_SHARE}{verdict}", flush=True)
    return all(share >= MIN_SHARE for *_, share in compared.values())


def main() -> None:
    """Print every figure with its bound. Exit with an error if a bound does not hold."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(THREADS, usable_cpus().number))
    good = True
    for cutout in (0, 16):
        found = median_batch_milliseconds(cutout)
        good &= found <= MAX_MILLISECONDS
        verdict = "" if found <= MAX_MILLISECONDS else "  above the bound"
        name = f"{AUGMENTED} images in memory, cutout={cutout}, {torch.get_num_threads()} threads"
        print(f"{name:55} {found:6.2f} ms <= {MAX_MILLISECONDS} ms{verdict}", flush=True)
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        good &= print_loading(Path(folder))
    if not good:
        sys.exit(1)


if __name__ == "__main__":
    main()
