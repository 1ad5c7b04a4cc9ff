"""Weights trained on ImageNet that torchvision publishes, from which the late-phase paper starts its fine-tuning."""

import hashlib
import re
from pathlib import Path
from urllib.parse import urlparse

import torch
from filelock import FileLock
from torch import Tensor, nn

from models.imagenet import TORCHVISION

WEIGHTS = "IMAGENET1K_V1"
"""torchvision's name for the first weights it published of each network, those of that time."""
DIFFERENCES_SHOWN = 4


def load_pretrained(net: nn.Module, architecture: str, root: Path) -> None:
    """Give a network torchvision's weights IMAGENET1K_V1.

    Args:
        net: As `build` makes it for 3 channels and 1000 classes, with any dropout.
        architecture: Its name: one that `check_pretrained_fit` lets pass.
        root: Folder that holds the official file, or gets it by download, with progress on standard error.

    Raises:
        ValueError: If the file is damaged, or does not fit the network.
        FileNotFoundError: If the file is missing and the download fails.

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, section 3.3 and appendix A ("ImageNet
        experiments").
    """
    path = fetch(url_of(architecture), root)
    stored = torch.load(path, map_location="cpu", weights_only=True)
    # Files of DenseNet are older than torch's ban of dots in names: "denselayer1.norm.1" is "denselayer1.norm1" today.
    weights = {re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=\d)", r"\1", name): w for name, w in stored.items()}
    if differences := _differences(net.state_dict(), weights):
        shown = "; ".join(differences[:DIFFERENCES_SHOWN])
        more = len(differences) - DIFFERENCES_SHOWN
        raise ValueError(
            f"{path} does not fit this {architecture}: {shown}{f'; and {more} more' if more > 0 else ''}. Pretrained "
            "weights are for 3 channels and 1000 classes"
        )
    net.load_state_dict(weights)


def check_pretrained_fit(architecture: str, *, in_channels: int | None, classes: int) -> None:
    """Refuse what no pretrained weights fit, before anything is downloaded.

    Args:
        architecture: Its name.
        in_channels: Channels of the images.
        classes: Number of classes.

    Raises:
        ValueError: Naming what does not fit.
    """
    if architecture not in TORCHVISION:
        raise ValueError(f"there are no pretrained weights for {architecture}: only for {', '.join(TORCHVISION)}")
    if (in_channels, classes) != (3, 1000):
        raise ValueError(
            f"pretrained weights of {architecture} are for 3 channels and 1000 classes, the data have {in_channels} "
            f"and {classes}"
        )


def url_of(architecture: str) -> str:
    """Where torchvision publishes the weights; the file's name ends in the beginning of its SHA-256."""
    import torchvision.models  # takes as long as torch itself

    url: str = torchvision.models.get_model_weights(architecture)[WEIGHTS].url
    return url


def fetch(url: str, root: Path) -> Path:
    """The file of a URL in the folder `root`, downloaded if it is not there yet, and checked.

    Raises:
        FileNotFoundError: If it is missing and the download fails.
        ValueError: If its SHA-256 does not begin as its name says.
    """
    path = root.expanduser() / Path(urlparse(url).path).name
    beginning = path.stem.rpartition("-")[2]
    if not path.exists():  # else the folder need not be one that can be written to
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f".{path.name}.lock")):  # several workers may start at once
                if not path.exists():
                    torch.hub.download_url_to_file(url, str(path), hash_prefix=beginning)
        except (RuntimeError, OSError) as error:
            raise FileNotFoundError(
                f"pretrained weights: {path.name} is not in the folder {path.parent.resolve()}, and downloading it "
                f"failed ({error}). To provide it by hand, put there the file {url}"
            ) from error
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(beginning):
        raise ValueError(
            f"{path.resolve()} is damaged: its SHA-256 begins with {digest[: len(beginning)]} and should begin with "
            f"{beginning}. Delete it, and it is downloaded again from {url}"
        )
    return path


def _differences(net: dict[str, Tensor], weights: dict[str, Tensor]) -> list[str]:
    """Say where the tensors of a network and of a file differ in name or shape.

    Counters of BatchNorm may be missing: files older than them have none, and loading sets them to zero.
    """
    missing = [name for name in net if name not in weights and not name.endswith("num_batches_tracked")]
    surplus = [name for name in weights if name not in net]
    shapes = [name for name in net if name in weights and net[name].shape != weights[name].shape]
    return [
        *(f"{name} is {tuple(weights[name].shape)} in the file and {tuple(net[name].shape)} here" for name in shapes),
        *(f"{name} is not in the file" for name in missing),
        *(f"{name} is only in the file" for name in surplus),
    ]
