"""Tasks of language modelling: the symbols of training segments and of test windows."""

import hashlib
import urllib.request
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import data.datasets.text_files
import data.files.download
from data.datasets.text_files import load_enwik8, load_text
from data.tasks.text_task import CONTEXT_LENGTH, WINDOW_LENGTH, TextSegments, TextWindows
from methods.core.random_streams import stream


def numbered(n):
    """Return a text whose symbols are their index modulo 251."""
    return (torch.arange(n) % 251).to(torch.uint8)


def passing(epoch=0, seed=0):
    return lambda: stream(seed, "data", epoch)


@pytest.mark.parametrize(
    ("n", "lanes", "segment"), [(1000, 4, 10), (1003, 7, 100), (107, 1, 100), (12, 3, 9), (64, 5, 1)]
)
def test_lanes_are_read_segment_by_segment(n, lanes, segment):
    segments = TextSegments(numbered(n), lanes, segment, passing())
    xs, ys = zip(*segments, strict=True)
    assert len(segments) == len(xs)
    assert segments.examples == lanes * len(xs)
    assert [x.shape[1] for x in xs[:-1]] == [segment] * (len(xs) - 1)
    x, y = torch.cat(xs, 1), torch.cat(ys, 1)
    assert x.dtype == y.dtype == torch.int64
    assert x.shape == (lanes, (n - segment) // lanes)
    torch.testing.assert_close(x[:, 1:], y[:, :-1])  # each symbol is the next one's past
    read = torch.cat([x.flatten(), y[-1, -1:]])  # lanes follow each other in the text
    first = int(read[0])
    assert first < segment
    torch.testing.assert_close(read, (first + torch.arange(len(read))) % 251)
    assert n - len(read) < segment + lanes


def test_passes_begin_at_random_places_that_the_stream_decides():
    segments = TextSegments(numbered(1000), 4, 50, passing())
    first = [next(iter(segments.with_stream(passing(epoch))))[0][0, 0].item() for epoch in range(20)]
    assert len(set(first)) > 10
    assert max(first) < 50
    again = [next(iter(segments.with_stream(passing(epoch))))[0][0, 0].item() for epoch in range(20)]
    assert first == again
    assert len({len(list(segments.with_stream(passing(epoch)))) for epoch in range(20)}) == 1


def test_a_text_too_short_for_its_lanes():
    with pytest.raises(ValueError, match="109 symbols is too short for 10 lanes, .* segments of 100 symbols"):
        TextSegments(numbered(109), 10, 100, passing())


@given(st.integers(2, 400), st.integers(1, 5), st.integers(1, 60), st.integers(0, 70))
def test_every_symbol_but_the_first_is_predicted_once(n, rows, window, context):
    windows = TextWindows(numbered(n), rows, window, context)
    batches = list(windows)
    assert len(windows) == len(batches)
    assert all(x.shape == y.shape and len(x) <= rows and x.shape[1] == min(window, n - 1) for x, y in batches)
    x, y = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    torch.testing.assert_close(y[y >= 0], torch.arange(1, n) % 251)
    assert ((y == -1) | (y == (x + 1) % 251)).all()  # what is predicted is what follows
    led = (y >= 0).int().argmax(1)  # how many symbols lead up to the first predicted one
    assert led[0] == 0
    if window > context:
        assert (led[1:] >= context).all()
    assert windows.examples == n - 1


def test_a_text_without_anything_to_predict():
    with pytest.raises(ValueError, match="a text of 1 symbols"):
        TextWindows(numbered(1), 4)


@pytest.fixture
def poem(tmp_path):
    """A file of 1,000 bytes with three different values."""
    path = tmp_path / "poem.txt"
    path.write_bytes(b"zab" * 333 + b"z")
    return path


def test_a_file_as_a_text(poem):
    task = load_text(str(poem), poem.parent)
    assert task.symbols == b"abz"
    assert [len(part) for part in (task.train, task.validation, task.test)] == [900, 50, 50]
    whole = torch.cat([task.train, task.validation, task.test])
    assert bytes(task.symbols[code] for code in whole.tolist()) == poem.read_bytes()
    assert task.shape == (None, None, 3, 8)  # 8 segments of 100 and a random beginning in 100
    assert len(task.training(1, passing())) == 8
    assert task.part("test", 1024).examples == 49
    assert task.to("cpu").segment == 100


def test_parts_of_a_text(poem):
    task = load_text(str(poem), poem.parent, validation=0, train_size=300, segment=7)
    assert (len(task.train), task.validation, task.segment) == (300, None, 7)
    assert task.part("validation", 16) is None
    assert len(load_text(str(poem), poem.parent, validation=20).validation) == 20
    with pytest.raises(ValueError, match=r"cannot take validation=51 symbols; that part of the text has 50"):
        load_text(str(poem), poem.parent, validation=51)
    with pytest.raises(ValueError, match=r"cannot take train_size=901 symbols; that part of the text has 900"):
        load_text(str(poem), poem.parent, train_size=901)


def test_a_missing_text(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.txt: no such file"):
        load_text(str(tmp_path / "gone.txt"), tmp_path)
    (tmp_path / "short.txt").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"short.txt: found 5 bytes, expected a text of at least 100"):
        load_text(str(tmp_path / "short.txt"), tmp_path)


def test_windows_begin_with_context():
    x, y = next(iter(TextWindows(numbered(3000), 64)))
    assert x.shape == (4, WINDOW_LENGTH)
    assert (y[0] >= 0).all()
    assert (y[1] >= 0).sum() == WINDOW_LENGTH - CONTEXT_LENGTH


@pytest.fixture
def enwik8(tmp_path, monkeypatch):
    """A small archive at enwik8's address, in place of the official one."""
    contents = ("<page>" + "Anarchism ä " * 80 + "</page>").encode()
    archive = tmp_path / "official" / "enwik8.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("enwik8", contents)
    monkeypatch.setattr(data.files.download, "urlopen", urllib.request.urlopen)  # which opens file:// too
    monkeypatch.setattr(data.datasets.text_files, "ENWIK8_URL", archive.as_uri())
    monkeypatch.setattr(data.datasets.text_files, "ENWIK8_MD5", hashlib.md5(contents).hexdigest())
    monkeypatch.setattr(data.datasets.text_files, "ENWIK8_ZIP_SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    return archive


def test_enwik8_is_downloaded_once(enwik8, tmp_path):
    root = tmp_path / "downloads"
    task = load_enwik8("", root)
    assert task.name == "enwik8"
    assert task.classes == len(task.symbols) == len(set(("<page>" + "Anarchism ä " + "</").encode()))
    enwik8.unlink()
    (root / "enwik8.zip").unlink()
    assert torch.equal(load_enwik8("", root).train, task.train)


def test_another_enwik8_is_refused(enwik8, tmp_path):
    root = tmp_path / "downloads"
    load_enwik8("", root)
    file = root / "enwik8" / "enwik8"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"enwik8/enwik8: found [\d,]+ bytes that are not enwik8's .* remove"):
        load_enwik8("", root)


def test_a_wrong_archive_is_refused(enwik8, tmp_path):
    enwik8.write_bytes(enwik8.read_bytes()[:-1])
    with pytest.raises(FileNotFoundError, match=r"enwik8.zip: not there, .* sha256"):
        load_enwik8("", tmp_path / "downloads")
    assert not (tmp_path / "downloads" / "enwik8").exists()


def test_shards_of_segments_are_lanes():
    text = torch.arange(200, dtype=torch.uint8)
    whole = TextSegments(text, 5, 7, lambda: torch.Generator().manual_seed(1))
    divided = [whole.shard(part, 2) for part in range(2)]
    assert [each.examples for each in divided] == [2 * len(whole), 3 * len(whole)]
    for (x, y), *own in zip(whole, *divided, strict=True):
        assert torch.equal(torch.cat([x for x, _ in own]), x)
        assert torch.equal(torch.cat([y for _, y in own]), y)
        assert [len(x) for x, _ in own] == [2, 3]
    with pytest.raises(ValueError, match="5 examples cannot be divided into 6 parts"):
        whole.shard(0, 6)
    with pytest.raises(ValueError, match="windows of a text are not divided"):
        TextWindows(text, 2).shard(0, 2)
