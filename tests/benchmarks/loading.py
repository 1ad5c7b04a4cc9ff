"""Time what brings images to the network: the augmentation in memory, and the decoding of files.

Rates are in images a second. A device that waits stands in for a GPU, which leaves the CPUs to the decoders.
Training on the CPU itself shares the cores with the decoders, so that there the best possible rate is that of doing
one after the other with all cores: 1 / (1 / loader + 1 / training).

Run it by hand on a machine that does nothing else; it takes two minutes: `python -m tests.benchmarks.loading`.
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
from data.files.decoder_pool import DecoderPool, usable_cpus
from data.files.image_files import ImageFiles
from data.tasks.batches import ImageBatches
from data.tasks.file_batches import ImageFileBatches
from data.tasks.image_dataset import Augmentation, Split
from methods.core.random_streams import stream

AUGMENTED, MILLISECONDS, THREADS = 512, 4.0, 2
"""Images of CIFAR's size in a batch, the most time that it may take, and the CPU threads it is given."""

WRITTEN, SIZE = 128, (500, 375)
"""JPEG files, and their width and height: the typical ones of ImageNet."""

BOUND = 0.9
"""The least share of the best possible rate that loading and training reach together."""

ROUNDS = 5


def median_of_batches(cutout: int, batches: int = 200) -> float:
    """Milliseconds that a batch in memory takes, cut out of padded images, mirrored and masked: the median."""
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
        next(iterator)  # what a pass draws at its start is not a batch's
        start = time.perf_counter()
        for _ in iterator:
            times.append(time.perf_counter() - start)
            start = time.perf_counter()
    return 1000 * statistics.median(times)


def write_photographs(folder: Path) -> list[str]:
    """Write JPEG files of ImageNet's typical size: cuts of two photographs."""
    draws = np.random.default_rng(0)
    photographs = [Image.fromarray(image).resize((832, 555)) for image in load_sample_images().images]
    names = []
    for i in range(WRITTEN):
        photograph = photographs[i % len(photographs)]
        x, y = draws.integers(0, (photograph.width - SIZE[0], photograph.height - SIZE[1])).tolist()
        names.append(f"{i}.jpg")
        photograph.crop((x, y, x + SIZE[0], y + SIZE[1])).save(folder / names[-1], quality=90)
    return names


def loader(folder: Path, names: list[str], count: int, side: int, batch_size: int, device: str) -> ImageFileBatches:
    """Training batches of `count` images, the files again and again, decoded by all CPUs."""
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
    """Images a second that pass through `step`."""
    images = 0
    start = time.perf_counter()
    for x, _ in batches:
        step(x)
        images += len(x)
    if isinstance(step, WaitingDevice):
        step.synchronize()
    elif torch.cuda.is_available():
        torch.cuda.synchronize()
    return images / (time.perf_counter() - start)


def trainer(net: nn.Module, device: str) -> Callable[[Tensor], None]:
    """A step of training."""
    net = net.to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, fused=True)

    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = nn.functional.cross_entropy(net(x), torch.zeros(len(x), dtype=torch.int64, device=device))
        loss.backward()
        optimizer.step()

    return step


class WaitingDevice:
    """A device that needs no CPU: a batch takes it the time that its rate asks, while the host prepares the next one.

    Like a GPU it is given work ahead: the host waits only when a whole batch is still queued.
    """

    def __init__(self, images_a_second: float) -> None:
        self.rate = images_a_second
        self.busy_until = 0.0

    def __call__(self, x: Tensor) -> None:
        """Queue a batch."""
        queued = self.busy_until
        self.busy_until = max(queued, time.perf_counter()) + len(x) / self.rate
        sleep_until(queued)

    def synchronize(self) -> None:
        """Wait for all that is queued."""
        sleep_until(self.busy_until)


def sleep_until(moment: float) -> None:
    """Sleep up to a moment of `time.perf_counter`."""
    time.sleep(max(0.0, moment - time.perf_counter()))


def compare(
    batches: ImageFileBatches, step: Callable[[Tensor], object], best: Callable[[float, float], float]
) -> tuple[float, float, float, float]:
    """Time loading alone, the step alone and both together, in turns.

    Returns:
        The three rates, and the rate together as a share of the best possible one of the round: medians.
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


def shared(loading: float, training: float) -> float:
    """The best rate where both need the same cores."""
    return 1 / (1 / loading + 1 / training)


def print_loading(folder: Path) -> bool:
    """Print the rates of decoding, loading and training; say whether all bounds hold."""
    names = write_photographs(folder)
    paths = [str(folder / name) for name in names]
    jobs = [DecodeJob(paths[i : i + 32], 224, list(range(i, i + 32)), flip=True) for i in range(0, WRITTEN, 32)]
    one = statistics.median(rate(((decode_images(job), torch.empty(0)) for job in jobs), len) for _ in range(ROUNDS))
    print(f"{'decoder alone, one process, 224 px':45} {one:6.0f}/s", flush=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    large = loader(folder, names, 40 * 32, 224, 32, "cpu")
    speed = statistics.median(rate(large, lambda x: None) for _ in range(ROUNDS))
    compared = {
        f"a device that waits, {factor:g} x the loader's rate": compare(large, WaitingDevice(factor * speed), min)
        for factor in (0.5, 1.0)
    }
    if device == "cuda":
        on_gpu = loader(folder, names, 100 * 128, 224, 128, device)
        compared["resnet50 on the GPU, 224 px"] = compare(on_gpu, trainer(resnet50(), device), min)
    else:
        small = loader(folder, names, 16 * 32, 64, 32, device)
        compared["resnet18 on the same cores, 64 px"] = compare(small, trainer(resnet18(), device), shared)
    print(f"{f'{usable_cpus()} decoders; images a second':45} {'loader':>7} {'device':>7} {'both':>7} {'of best':>8}")
    for name, (loading, alone, together, share) in compared.items():
        verdict = "" if share >= BOUND else "  below the bound"
        print(f"{name:45} {loading:7.0f} {alone:7.0f} {together:7.0f} {share:8.3f} >= {BOUND}{verdict}", flush=True)
    return all(share >= BOUND for *_, share in compared.values())


def main() -> None:
    """Print every figure beside its bound."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(THREADS, usable_cpus()))
    good = True
    for cutout in (0, 16):
        found = median_of_batches(cutout)
        good &= found <= MILLISECONDS
        verdict = "" if found <= MILLISECONDS else "  above the bound"
        name = f"{AUGMENTED} images in memory, cutout={cutout}, {torch.get_num_threads()} threads"
        print(f"{name:55} {found:6.2f} ms <= {MILLISECONDS} ms{verdict}", flush=True)
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        good &= print_loading(Path(folder))
    if not good:
        sys.exit(1)


if __name__ == "__main__":
    main()
