"""torchvision's published ImageNet weights, with which the late-phase paper's fine-tuning begins."""

import hashlib
import re
from pathlib import Path
from urllib.parse import urlparse

import torch
from filelock import FileLock
from torch import Tensor, nn

from models.imagenet import TORCHVISION_NETWORKS

WEIGHTS_NAME = "IMAGENET1K_V1"
"""torchvision's name for its first published weights of each network, those of the paper's time."""
SHOWN_DIFFERENCES = 4


def load_pretrained(net: nn.Module, architecture: str, root: Path) -> None:
    """Load torchvision's weights IMAGENET1K_V1 into a network.

    Args:
        net: A network built for 3 channels and 1000 classes, with any dropout.
        architecture: The network's name, which `check_pretrained_fit` accepts.
        root: Folder with the official file. If it is missing, it is downloaded, with progress on standard error.

    Raises:
        ValueError: If the file is damaged, or does not fit the network.
        FileNotFoundError: If the file is missing and the download fails.

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, section 3.3 and appendix A ("ImageNet
        experiments").
    """
    path = fetch_weights(weights_url(architecture), root)
    stored = torch.load(path, map_location="cpu", weights_only=True)
    # DenseNet's files are older than torch's ban of dots in names: "denselayer1.norm.1" is "denselayer1.norm1" today.
    weights = {re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=\d)", r"\1", name): w for name, w in stored.items()}
    if differences := _list_differences(net.state_dict(), weights):
        shown = "; ".join(differences[:SHOWN_DIFFERENCES])
        more = len(differences) - SHOWN_DIFFERENCES
        raise ValueError(
            f"{path} does not fit this {architecture}: {shown}{f'; and {more} more' if more > 0 else ''}. Pretrained "
            "weights are for 3 channels and 1000 classes"
        )
    net.load_state_dict(weights)


def check_pretrained_fit(architecture: str, *, in_channels: int | None, classes: int) -> None:
    """Check, before any download, that pretrained weights for an architecture and a dataset exist.

    Args:
        architecture: Name of the architecture.
        in_channels: Channels of the images; None for text.
        classes: Number of classes.

    Raises:
        ValueError: If they do not; says what does not fit.
    """
    if architecture not in TORCHVISION_NETWORKS:
        raise ValueError(
            f"there are no pretrained weights for {architecture}: only for {', '.join(TORCHVISION_NETWORKS)}"
        )
    if (in_channels, classes) != (3, 1000):
        raise ValueError(
            f"pretrained weights of {architecture} are for 3 channels and 1000 classes, the data have {in_channels} "
            f"and {classes}"
        )


def weights_url(architecture: str) -> str:
    """Return the URL of torchvision's weights. The file's name ends with the beginning of its SHA-256."""
    import torchvision.models  # takes as long as torch itself

    url: str = torchvision.models.get_model_weights(architecture)[WEIGHTS_NAME].url
    return url


def fetch_weights(url: str, root: Path) -> Path:
    """Download a file to the folder `root` unless it exists already, check it, and return its path.

    Raises:
        FileNotFoundError: If it is missing and the download fails.
        ValueError: If its SHA-256 does not begin as stated in its name.
    """
    path = root.expanduser() / Path(urlparse(url).path).name
    beginning = path.stem.rpartition("-")[2]
    if not path.exists():  # otherwise the folder may be read-only
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


def _list_differences(net: dict[str, Tensor], weights: dict[str, Tensor]) -> list[str]:
    """List where the tensors of a network and of a file differ in name or shape.

    BatchNorm's counters may be missing, because older files do not have them. Loading sets them to zero.
    """
    missing = [name for name in net if name not in weights and not name.endswith("num_batches_tracked")]
    surplus = [name for name in weights if name not in net]
    shapes = [name for name in net if name in weights and net[name].shape != weights[name].shape]
    return [
        *(f"{name} is {tuple(weights[name].shape)} in the file and {tuple(net[name].shape)} here" for name in shapes),
        *(f"{name} is not in the file" for name in missing),
        *(f"{name} is only in the file" for name in surplus),
    ]
