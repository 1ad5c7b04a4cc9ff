"""Compares epochs of the harness with those of torch-uncertainty's own trainer: same network, images and threads.

Each contestant is a process of its own, as users start it. It trains an epoch in its turn. All contestants are started
twice, because a whole process may be slow. The figures are medians over rounds of the ratios within a round, with
quartiles. The network is torch-uncertainty's ResNet of 8 layers (blocks [1, 1, 1] of 16, 32 and 64 channels). For
BatchEnsemble, torch-uncertainty uses its own form of the network, and the harness uses `batch_ensemble` on the plain
one. The images are random, with the size and number of classes of CIFAR-10, which does not affect the time.

torch-uncertainty 0.13 needs other versions of some packages than this project, so it has an environment of its own.
`make benchmark-peers` creates it and runs this module, in about five minutes on two cores.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import v2

from harness.running.worker_process import keep_freed_memory
from methods import METHODS, SGD, MakeMethod
from tests.benchmarks.device import write_results
from tests.benchmarks.epochs import TrainingSetup, harness_epoch
from tests.benchmarks.timing import BoundChecker, Measurement, Timing

CLASSES, BATCH, K = 10, 128, 4
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
RATE = 0.01
TURN, READY = "go", "ready"
BOUNDS = {
    ("module", "harness"): 2.0,
    ("loader", "harness"): 1.6,
    ("batched", "harness batched"): 1.5,
    ("memory", "bare"): None,
}
"""(theirs, ours) → minimum ratio of the duration of theirs to that of ours.

The last pair has no bound: it compares their trainer with a bare loop, on images that are prepared for both.
"""


def random_images(minibatches: int) -> tuple[Tensor, Tensor]:
    """Return random images, (N, 3, 32, 32) uint8, and classes, (N,)."""
    n = minibatches * BATCH
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return x, torch.randint(CLASSES, (n,), generator=generator)


def normalize(images: Tensor) -> Tensor:
    """Return normalized images, (N, 3, 32, 32) float32."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images / 255 - mean) / std


def plain_net() -> nn.Module:
    """Return torch-uncertainty's ResNet of 8 layers."""
    from torch_uncertainty.models.classification.resnet import std

    torch.manual_seed(0)
    block = std._BasicBlock
    return std._ResNet(block, [1, 1, 1], 3, CLASSES, False, 0.0, 1, std.ResNetStyle.CIFAR, in_planes=16)


def batched_net() -> nn.Module:
    """Return torch-uncertainty's BatchEnsemble of that ResNet, with K members."""
    from torch_uncertainty.models.classification.resnet import batched

    torch.manual_seed(0)
    return batched._BatchedResNet(
        block=batched._BasicBlock,
        num_blocks=[1, 1, 1],
        in_channels=3,
        num_classes=CLASSES,
        num_estimators=K,
        conv_bias=False,
        dropout_rate=0.0,
        groups=1,
        style=batched.ResNetStyle.CIFAR,
        in_planes=16,
        normalization_layer=nn.BatchNorm2d,
        repeat_strategy="legacy",
    )


class PeerNetworkSetup(TrainingSetup):
    """A setup of the harness with torch-uncertainty's network."""

    def network(self, **options: float) -> nn.Module:
        """Make the network, in the memory layout of the harness."""
        return plain_net().to(memory_format=torch.channels_last)


def bare(minibatches: int) -> Iterator[None]:
    """Train epochs with a hand-written loop, on normalized images in memory."""
    net = plain_net()
    images, y = random_images(minibatches)
    x = normalize(images)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    while True:
        for index in torch.randperm(len(y)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[index]), y[index]).backward()
            optimizer.step()
        yield


def harness(minibatches: int, method: MakeMethod = SGD) -> Iterator[None]:
    """Train epochs with the harness. Its images are augmented, as in the contestants "loader" and "module"."""
    keep_freed_memory()
    epoch = harness_epoch(PeerNetworkSetup("resnet8", minibatches, BATCH), method)
    while True:
        epoch()
        yield


def theirs(minibatches: int, data: Callable[[int], dict[str, Any]], *, batched: bool = False) -> None:
    """Train with torch-uncertainty's trainer, which waits for its turn before every epoch."""
    from lightning.pytorch.callbacks import Callback
    from torch_uncertainty import TUTrainer
    from torch_uncertainty.routines import ClassificationRoutine
    from torch_uncertainty.transforms import RepeatTarget

    class Turns(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch:
                report_and_wait(time.perf_counter() - self.start)
            else:
                report_and_wait(READY)
            self.start = time.perf_counter()

    net = batched_net() if batched else plain_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    routine = ClassificationRoutine(
        model=net,
        loss=nn.CrossEntropyLoss(),
        num_classes=CLASSES,
        optim_recipe=optimizer,
        is_ensemble=batched,
        format_batch_fn=RepeatTarget(K) if batched else nn.Identity(),
    )
    trainer = TUTrainer(
        accelerator="cpu",
        max_epochs=10_000,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[Turns()],
    )
    trainer.fit(routine, **data(minibatches))


def make_loader(minibatches: int, *, augmented: bool = True) -> Iterable[Any]:
    """Return a DataLoader of images in memory that works in the trainer's process, as by default.

    Torchvision augments the images one by one; the harness augments whole batches in the same way. Without
    augmentation, the images are normalized beforehand.
    """
    images, y = random_images(minibatches)
    if not augmented:
        return DataLoader(TensorDataset(normalize(images), y), BATCH, shuffle=True)
    change = v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return DataLoader([*zip(images, y, strict=True)], BATCH, shuffle=True, collate_fn=partial(collate, change))


def collate(change: Callable[[Tensor], Tensor], examples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Augment each image, and make a minibatch."""
    return torch.stack([change(x) for x, _ in examples]), torch.stack([y for _, y in examples])


def data_module(minibatches: int) -> Any:
    """Return torch-uncertainty's data module of CIFAR-10, with its default settings, on random images."""
    from PIL import Image
    from torch_uncertainty.datamodules import CIFAR10DataModule

    images, y = random_images(minibatches)
    stored, classes = images.permute(0, 2, 3, 1).numpy(), y.tolist()

    class Images(Dataset[Any]):
        """Images in the form of torchvision's CIFAR10, already in memory."""

        def __init__(self, root: object, transform: Callable[[Any], Any], **_: object) -> None:
            self.transform = transform

        def __len__(self) -> int:
            return len(classes)

        def __getitem__(self, i: int) -> tuple[Any, int]:
            return self.transform(Image.fromarray(np.ascontiguousarray(stored[i]))), classes[i]

    module = CIFAR10DataModule("unused", batch_size=BATCH)
    module.dataset = Images
    module.prepare_data = lambda: None
    return module


CONTESTANTS: dict[str, Callable[[int], Any]] = {
    "bare": bare,
    "harness": harness,
    "memory": partial(theirs, data=lambda n: {"train_dataloaders": make_loader(n, augmented=False)}),
    "loader": partial(theirs, data=lambda n: {"train_dataloaders": make_loader(n)}),
    "module": partial(theirs, data=lambda n: {"datamodule": data_module(n)}),
    "harness batched": lambda n: harness(n, lambda make_net, recipe: METHODS["batch_ensemble"](make_net, recipe, K=K)),
    "batched": partial(theirs, data=lambda n: {"train_dataloaders": make_loader(n)}, batched=True),
}


def report_and_wait(message: object) -> None:
    """Print a message to the parent process, then wait for the next turn. Exit if there is none."""
    print(message, flush=True)
    if sys.stdin.readline().strip() != TURN:
        sys.exit()


def train_in_turns(name: str, minibatches: int) -> None:
    """Train an epoch at each turn, and print its seconds."""
    epochs = CONTESTANTS[name](minibatches)  # those of torch-uncertainty never return
    report_and_wait(READY)
    while True:
        start = time.perf_counter()
        next(epochs)
        report_and_wait(time.perf_counter() - start)


class Contestant:
    """The process of a contestant, as its parent sees it."""

    def __init__(self, name: str, minibatches: int, threads: int) -> None:
        command = [sys.executable, "-W", "ignore", "-m", __spec__.name, "--contestant", name]
        options = ["--minibatches", str(minibatches), "--threads", str(threads)]
        self.process = subprocess.Popen(
            [*command, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.wait_for(lambda line: line == READY)

    def wait_for(self, found: Callable[[str], Any]) -> str:
        assert self.process.stdout is not None and self.process.stderr is not None
        for line in self.process.stdout:
            if found(line.strip()):
                return line.strip()
        raise RuntimeError(f"a contestant ended: {self.process.stderr.read()[-2000:]}")

    def epoch(self) -> float:
        """Let the contestant train an epoch. Return its seconds."""
        assert self.process.stdin is not None
        print(TURN, file=self.process.stdin, flush=True)
        return float(self.wait_for(lambda line: line.replace(".", "", 1).replace("e-", "").isdigit()))

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def time_contestants(names: list[str], minibatches: int, rounds: int, threads: int) -> Timing:
    """Time the epochs of all contestants in turns, after one epoch each to warm up."""
    contestants: dict[str, Contestant] = {}
    try:
        for name in names:
            contestants[name] = Contestant(name, minibatches, threads)
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for i in range(rounds + 1):
            for name in names if i % 2 else reversed(names):
                taken = contestants[name].epoch()
                if i:
                    seconds[name].append(taken)
        return Timing(seconds)
    finally:
        for contestant in contestants.values():
            contestant.end()


def main() -> None:
    """Print the seconds and speed of each contestant, and the ratios with their bounds."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--minibatches", type=int, default=30, help="Of an epoch, 128 images each.")
    parser.add_argument("--rounds", type=int, default=3, help="Of each of two sets of processes.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    if options.contestant:
        torch.set_num_threads(options.threads)
        train_in_turns(options.contestant, options.minibatches)
    checker = BoundChecker()
    seconds: dict[str, list[float]] = {}
    ratios: dict[str, Measurement] = {}
    for names in (["bare", "memory", "loader", "module", "harness"], ["batched", "harness batched"]):
        part = options.minibatches if len(names) > 2 else max(1, options.minibatches // 3)
        start = partial(time_contestants, names, part, options.rounds, options.threads)
        timing = start() + start()
        seconds |= timing.seconds
        for name in names:
            taken = timing.median(name)
            print(f"{name:16} {taken:7.2f} s an epoch, {part * BATCH / taken:7.0f} images/s", flush=True)
        for (other, own), bound in BOUNDS.items():
            if own in names:
                what = f"{other} / {own}"
                ratios[what] = Measurement.of(timing.ratios(other, own), bound, at_least=True)
                print(f"{what:26} {checker(what, ratios[what])}", flush=True)
    versions = {name: version(name) for name in ("torch-uncertainty", "lightning", "torchvision")}
    results = {"versions": versions, "seconds": seconds, "ratios": ratios}
    write_results(Path("results/speed-peers.json"), "cpu", results)
    checker.exit_if_violated()


if __name__ == "__main__":
    main()
