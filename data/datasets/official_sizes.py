"""The sizes of official datasets, known before they are downloaded."""

from data.tasks.task import Shape

DOWNLOADED = {
    "cifar10": Shape(3, 32, 10, 50_000),
    "cifar100": Shape(3, 32, 100, 50_000),
    "mnist": Shape(1, 28, 10, 60_000),
    "fashion_mnist": Shape(1, 28, 10, 60_000),
    "tiny_imagenet": Shape(3, 64, 200, 100_000),
    "imagenet": Shape(3, 224, 1000, 1_281_167),
    "enwik8": Shape(None, None, 205, 90_000_000),  # symbols, in the place of examples
}
"""The official sizes of datasets that may have to be downloaded; images hold out nothing unless asked to."""
