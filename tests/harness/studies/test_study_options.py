"""Tests of the dataset options of a study, and of the values that are refused before anything starts."""

from pathlib import Path

import pytest

import data
from harness.parsing.yaml_errors import StudyError
from harness.studies.study import load

STUDY = """\
datasets: [{dataset}]
architectures: [{architecture}]
methods: [sgd]
seeds: [0]
recipe: {{epochs: 2, batch_size: 16{recipe}}}
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "poem.txt").write_bytes(b"roses are red " * 400)
    (tmp_path / "short.txt").write_bytes(b"roses are r" * 10)

    def write(dataset, architecture="lenet5", recipe="", more=""):
        path = tmp_path / "s.yaml"
        path.write_text(STUDY.format(dataset=dataset, architecture=architecture, recipe=recipe) + more)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("dataset", "architecture", "reason"),
    [
        ("{name: digits, segment: 10}", "lenet5", "digits has no option segment (=10)"),
        ("{name: cifar10, image_size: 64}", "lenet5", "cifar10 has no option image_size (=64)"),
        ("{name: cifar10, cutout: 32}", "lenet5", "cutout=32 can cover whole images of 32 x 32; at most 31"),
        ("{name: digits, cutout: 9}", "lenet5", "cutout=9 can cover whole images of 8 x 8"),
        ("{name: mnist, corruptions: official}", "lenet5", "mnist has no official corrupted files: only cifar10,"),
        ("{name: digits, corruptions: official}", "lenet5", "digits has no official corrupted files"),
        ("{name: cifar10, ood: svhn}", "lenet5", "expected a list of OOD datasets, as in [svhn]"),
        ("{name: cifar10, ood: [svnh]}", "lenet5", "unknown OOD dataset 'svnh'"),
        ("{name: cifar10, label_noise: 1.5}", "lenet5", "less than or equal to 1"),
        ("{name: cifar10, digest: abc}", "lenet5", "digest: computed from the files; leave it out"),
        ("{name: enwik8, label_noise: 0.5}", "lstm-8", "enwik8 has no option label_noise (=0.5)"),
        ("{name: enwik8, segment: 90000000}", "lstm-8", "the text is too short: that part has 90000000 symbols"),
        ("{name: 'text:poem.txt', cutout: 4}", "lstm-8", "poem.txt has no option cutout (=4)"),
        ("{name: 'text:poem.txt', train_size: 50}", "lstm-8", "train_size=50 symbols are too few, at least 101"),
        ("{name: 'text:poem.txt', validation: 1}", "lstm-8", "validation=1 symbols are too few, at least 2"),
        (
            "{name: 'text:short.txt'}",
            "lstm-8",
            "the text is too short: that part has 99 symbols, at least 101 are needed",
        ),
        ("{name: 'text:nowhere.txt'}", "lstm-8", "nowhere.txt: no such file, expected a text"),
        ("{name: 'text:poem.txt'}", "wrn-10-1", "wrn-10-1 reads images; the data are text"),
        ("digits", "lstm-8", "lstm-8 reads text, rows of symbols; the data are images of 8 x 8 pixels"),
        ("{name: 'imagefolder:nowhere'}", "lenet5", "nowhere/train: no such folder"),
    ],
)
def test_each_mistake_is_one_error(study, dataset, architecture, reason):
    with pytest.raises(StudyError) as caught:
        load(study(dataset, architecture))
    head, *errors = str(caught.value).splitlines()
    assert head.startswith("1 error in the study"), errors
    assert reason in "\n".join(errors)


def test_pretrained_weights_for_the_wrong_data_are_one_error(study):
    with pytest.raises(StudyError) as caught:
        load(study("digits", "resnet18", ", initial: imagenet1k_v1"))
    assert "for 3 channels and 1000 classes, the data have 1 and 10" in str(caught.value)
    assert str(caught.value).startswith("1 error in the study")


@pytest.mark.parametrize("label", [r"\e[31mred", r"nul\0", r"two\nlines", r"\u2028"])
def test_labels_that_cannot_be_printed(study, label):
    path = study("digits")
    text = Path(path).read_text().replace("methods: [sgd]", f'methods: [{{"{label}": sgd}}]')
    Path(path).write_text(text)
    with pytest.raises(StudyError, match="has characters that cannot be printed|the character U[+]") as caught:
        load(path)
    assert "\x1b" not in str(caught.value)


def test_measures_are_a_mapping(study):
    for asked in ("true", "[path]"):
        with pytest.raises(StudyError, match="expected a mapping of what to measure"):
            load(study("digits", more=f"evaluate: {asked}\n"))


def test_what_asks_for_nothing_is_accepted(study):
    load(study("{name: 'text:poem.txt', ood: []}", "lstm-8"))
    load(study("{name: cifar10, ood: [], corruptions: none, label_noise: 0, cutout: 0}"))


def test_a_dataset_s_version_is_part_of_the_key(study, monkeypatch):
    """A new version of a dataset's content gives new runs."""
    monkeypatch.setattr(data, "VERSIONS", {})
    (old,) = load(study("fashion_mnist")).cells()
    monkeypatch.setattr(data, "VERSIONS", {"fashion_mnist": 2})
    (new,) = load(study("fashion_mnist")).cells()
    assert old.run.key != new.run.key
    assert (old.run.spec()["dataset"], new.run.spec()["dataset"]["version"]) == ({"name": "fashion_mnist"}, 2)


def test_paths_are_not_in_the_key_and_contents_are(study, tmp_path):
    def key(**moved):
        (cell,) = load(study("{name: 'text:poem.txt'}", "lstm-8")).cells()
        return cell.run.key

    first = key()
    (tmp_path / "poem.txt").write_bytes(b"violets are blue" * 400)
    assert key() != first
    (tmp_path / "poem.txt").write_bytes(b"roses are red " * 400)
    assert key() == first


@pytest.mark.parametrize(
    ("dataset", "architecture", "batch_size", "reason"),
    [
        ("digits", "lenet5", 1, "lenet5 has BatchNorm layers, which normalise over a minibatch"),
        ("digits", "wrn-10-1", 1, "single examples (batch_size: 1)"),
        ("cifar10", "cresnet20", 1, "single examples (batch_size: 1)"),
        ("{name: 'text:poem.txt'}", "lstm-8", 5000, "a text of 5040 symbols is too short for 5000 lanes"),
        ("{name: 'text:poem.txt', train_size: 120}", "lstm-8", 30, "a text of 120 symbols is too short for 30 lanes"),
        ("{name: enwik8, train_size: 120}", "lstm-8", 30, "a text of 120 symbols is too short for 30 lanes"),
        ("{name: 'text:poem.txt', segment: 5000}", "lstm-8", 41, "and segments of 5000 symbols"),
    ],
)
def test_minibatches_that_nothing_can_be_trained_on(study, dataset, architecture, batch_size, reason):
    path = study(dataset, architecture)
    text = Path(path).read_text().replace("batch_size: 16", f"batch_size: {batch_size}")
    Path(path).write_text(text)
    with pytest.raises(StudyError) as caught:
        load(path)
    head, *errors = str(caught.value).splitlines()
    assert head.startswith("1 error in the study"), errors
    assert "architectures[0]: " in errors[0]
    assert reason in errors[0]


@pytest.mark.parametrize(
    ("dataset", "architecture", "batch_size"),
    [("digits", "lenet5", 2), ("{name: 'text:poem.txt'}", "lstm-8", 1), ("{name: 'text:poem.txt'}", "lstm-8", 4940)],
)
def test_the_smallest_and_the_largest_minibatches(study, dataset, architecture, batch_size):
    path = study(dataset, architecture)
    Path(path).write_text(Path(path).read_text().replace("batch_size: 16", f"batch_size: {batch_size}"))
    assert load(path)
