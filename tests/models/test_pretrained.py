import hashlib
import os
import re
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn

from models import build, pretrained
from models.imagenet import TORCHVISION_NETWORKS
from models.pretrained import check_pretrained_fit, load_pretrained


class Small(nn.Module):
    """A small stand-in for a network of torchvision."""

    def __init__(self, classes=3, dropout=0.0):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, 3)
        self.bn1 = nn.BatchNorm2d(2)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.fc = nn.Linear(2, classes)


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Return a function that publishes weights under torchvision's kind of file name and returns the file."""

    def put(weights, name="resnet18"):
        folder = tmp_path / "server"
        folder.mkdir(exist_ok=True)
        torch.save(weights, folder / "new")
        digest = hashlib.sha256((folder / "new").read_bytes()).hexdigest()
        path = (folder / "new").rename(folder / f"{name}-{digest[:8]}.pth")
        monkeypatch.setattr(pretrained, "weights_url", lambda architecture: path.as_uri())
        return path

    return put


def weights_of(net):
    return {name: torch.full_like(tensor, i + 1) for i, (name, tensor) in enumerate(net.state_dict().items())}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_weights_are_downloaded_once_and_loaded(publish, tmp_path, dropout, capsys):
    weights = weights_of(Small())
    official = publish(weights)
    root = tmp_path / "deep" / "folder"
    net = Small(dropout=dropout)
    load_pretrained(net, "resnet18", root)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in net.state_dict().items())
    assert (root / official.name).read_bytes() == official.read_bytes()
    assert "100%" in capsys.readouterr().err
    official.unlink()
    again = Small()
    load_pretrained(again, "resnet18", root)
    assert torch.equal(again.fc.weight, weights["fc.weight"])


def test_a_folder_that_cannot_be_written_to(publish, tmp_path):
    official = publish(weights_of(Small()))
    official.parent.chmod(0o500)
    try:
        load_pretrained(Small(), "resnet18", official.parent)
        assert list(official.parent.iterdir()) == [official]
    finally:
        official.parent.chmod(0o700)


def test_files_older_than_the_counters_of_batch_norm(publish, tmp_path):
    weights = weights_of(Small())
    del weights["bn1.num_batches_tracked"]
    publish(weights)
    net = Small()
    load_pretrained(net, "resnet18", tmp_path)
    assert net.bn1.num_batches_tracked == 0
    assert torch.equal(net.bn1.running_var, weights["bn1.running_var"])


@pytest.mark.long
def test_old_names_of_densenet(publish, tmp_path):
    """The official file has the old names "denselayer1.norm.1" for "denselayer1.norm1"."""
    net = build("densenet161", in_channels=3, classes=2, image_size=32, dropout=0.1)
    small = {name: tensor for name, tensor in net.state_dict().items() if "tracked" not in name}
    old = {re.sub(r"(denselayer\d+\.[a-z]+)([12])\.", r"\1.\2.", name): tensor for name, tensor in small.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    assert "features.norm5.weight" in old
    publish(old, "densenet161")
    other = build("densenet161", in_channels=3, classes=2, image_size=32)
    load_pretrained(other, "densenet161", tmp_path)
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in small.items())


def test_a_damaged_file(publish, tmp_path):
    official = publish(weights_of(Small()))
    root = tmp_path / "root"
    load_pretrained(Small(), "resnet18", root)
    path = root / official.name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"{official.name} is damaged: its SHA-256 begins with .* Delete it") as error:
        load_pretrained(Small(), "resnet18", root)
    assert official.as_uri() in str(error.value)
    path.unlink()
    load_pretrained(Small(), "resnet18", root)


def test_a_damaged_download_leaves_nothing(publish, tmp_path):
    official = publish(weights_of(Small()))
    official.write_bytes(official.read_bytes()[:-100])
    root = tmp_path / "root"
    with pytest.raises(FileNotFoundError, match="invalid hash value"):
        load_pretrained(Small(), "resnet18", root)
    assert [path.name for path in root.iterdir() if not path.name.startswith(".")] == []


def test_a_half_downloaded_file_is_ignored(publish, tmp_path):
    official = publish(weights_of(Small()))
    root = tmp_path / "root"
    root.mkdir()
    (root / f"{official.name}.{'0' * 32}.partial").write_bytes(official.read_bytes()[:100])  # what a kill leaves
    net = Small()
    load_pretrained(net, "resnet18", root)
    assert (net.conv1.weight == 1).all()


def test_no_download(publish, tmp_path):
    official = publish(weights_of(Small()))
    official.unlink()
    with pytest.raises(FileNotFoundError) as error:
        load_pretrained(Small(), "resnet18", tmp_path / "root")
    for part in (official.name, str(tmp_path / "root"), official.as_uri(), "by hand"):
        assert part in str(error.value)


def test_other_classes_and_layers(publish, tmp_path):
    official = publish(weights_of(Small()))
    before = Small(classes=5)
    net = Small(classes=5)
    net.load_state_dict(before.state_dict())
    with pytest.raises(ValueError, match=r"fc.weight is \(3, 2\) in the file and \(5, 2\) here; fc.bias is") as error:
        load_pretrained(net, "resnet18", tmp_path)
    assert official.name in str(error.value)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.state_dict().items())
    net = Small()
    net.extra, net.bn1 = nn.Linear(2, 2, bias=False), nn.Identity()
    with pytest.raises(ValueError, match="extra.weight is not in the file; bn1.weight is only in the file; .* 2 more"):
        load_pretrained(net, "resnet18", tmp_path)


@pytest.mark.parametrize("name", ["resnet50-conv", "tiny_resnet18", "wrn-28-10"])
def test_networks_without_pretrained_weights(name):
    with pytest.raises(ValueError, match=f"no pretrained weights for {name}: only for resnet18, resnet50, resnet152"):
        check_pretrained_fit(name, in_channels=3, classes=1000)


@pytest.mark.parametrize(("channels", "classes"), [(1, 1000), (3, 10), (None, 1000)])
def test_data_that_no_pretrained_weights_fit(channels, classes):
    check_pretrained_fit("resnet50", in_channels=3, classes=1000)
    with pytest.raises(ValueError, match=f"for 3 channels and 1000 classes, the data have {channels} and {classes}"):
        check_pretrained_fit("resnet50", in_channels=channels, classes=classes)


def test_official_files():
    """The file names are those of torchvision's first weights of each network."""
    files = {name: pretrained.weights_url(name).rpartition("/")[2] for name in TORCHVISION_NETWORKS}
    assert files == {
        "resnet18": "resnet18-f37072fd.pth",
        "resnet50": "resnet50-0676ba61.pth",
        "resnet152": "resnet152-394f9c45.pth",
        "wide_resnet50_2": "wide_resnet50_2-95faca4d.pth",
        "densenet161": "densenet161-8d451a50.pth",
    }
    for name in TORCHVISION_NETWORKS:
        assert torchvision.models.get_model_weights(name).IMAGENET1K_V1.meta["num_params"] > 0


@pytest.mark.skipif("ECON_TEST_WEIGHTS" not in os.environ, reason="needs a folder of torchvision's official files")
@pytest.mark.parametrize("name", TORCHVISION_NETWORKS)
def test_the_official_files_fit(name):
    net = build(name, in_channels=3, classes=1000, image_size=224, dropout=0.1)
    drawn = {key: tensor.clone() for key, tensor in net.state_dict().items() if tensor.ndim}
    load_pretrained(net, name, Path(os.environ["ECON_TEST_WEIGHTS"]))
    loaded = net.state_dict()
    assert [key for key, tensor in drawn.items() if torch.equal(tensor, loaded[key])] == []
