"""Downloads from a local server whose faults can be set."""

import errno
import hashlib
import multiprocessing
import resource
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import urlopen

import pytest

from data.files import download
from data.files.download import DownloadError, fetch

CONTENTS = bytes(i * i % 251 for i in range(300_000))
MD5 = hashlib.md5(CONTENTS).hexdigest()
SHA256 = hashlib.sha256(CONTENTS).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves one file. Its attributes set its faults."""

    daemon_threads = True
    contents = CONTENTS
    status: int | None = None
    ranges = True
    announce = True
    shift = 0  # of a range that is sent instead of the one asked for

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []  # the ranges asked for
        self.cuts = []  # how many bytes each of the next answers sends before the connection is cut

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file.bin"

    def handle_error(self, request, client_address):
        pass


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server, asked = self.server, self.headers["Range"]
        server.asked.append(asked)
        if server.status:
            self.send_error(server.status)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        if start >= len(server.contents):
            self.send_error(416)
            return
        start += server.shift if start else 0
        body, end = server.contents[start:], len(server.contents)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        if server.announce:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cuts.pop(0) if server.cuts else None])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "urlopen", urlopen)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize("checksum", [{"md5": MD5}, {"sha256": SHA256}])
def test_a_file_arrives_whole(server, tmp_path, checksum, capsys):
    file = tmp_path / "new" / "folder" / "file.bin"
    assert fetch(server.url, file, **checksum) == file
    assert file.read_bytes() == CONTENTS
    assert names(file.parent) == ["file.bin"]
    assert capsys.readouterr().err == f"downloading file.bin (0.3 MB) from {server.url}\n"


def test_an_existing_file_is_only_read(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENTS)
    fetch(server.url, tmp_path / "file.bin", md5=MD5)
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]
    assert server.asked == []


def test_no_length_is_announced(server, tmp_path):
    server.announce = False
    assert fetch(server.url, tmp_path / "file.bin", md5=MD5).read_bytes() == CONTENTS


@pytest.mark.parametrize("checksums", [{}, {"md5": MD5, "sha256": SHA256}])
def test_exactly_one_checksum(tmp_path, checksums):
    with pytest.raises(ValueError, match=r"file\.bin: give one checksum"):
        fetch("http://x", tmp_path / "file.bin", **checksums)


def test_a_cut_connection_is_resumed(server, tmp_path):
    server.cuts = [100_000, 150_000]
    assert fetch(server.url, tmp_path / "file.bin", md5=MD5).read_bytes() == CONTENTS
    assert server.asked == [None, "bytes=100000-", "bytes=250000-"]


def test_a_later_call_resumes(server, tmp_path, capsys):
    server.cuts = [100_000, 0, 0, 0]
    with pytest.raises(DownloadError) as error:
        fetch(server.url, tmp_path / "file.bin", md5=MD5)
    for part in (f"{tmp_path / 'file.bin'}: not there", server.url, "closed before the end", "try again", MD5):
        assert part in str(error.value)
    assert names(tmp_path) == ["file.bin.part"]
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENTS[:100_000]
    server.asked.clear()
    assert fetch(server.url, tmp_path / "file.bin", md5=MD5).read_bytes() == CONTENTS
    assert server.asked == ["bytes=100000-"]
    assert names(tmp_path) == ["file.bin"]
    assert "from byte 100000 on" in capsys.readouterr().err


def test_a_server_that_ignores_ranges_sends_the_whole_file(server, tmp_path):
    server.ranges, server.cuts = False, [100_000]
    assert fetch(server.url, tmp_path / "file.bin", md5=MD5).read_bytes() == CONTENTS
    assert server.asked == [None, "bytes=100000-"]


def test_a_server_that_sends_another_range_is_asked_for_the_whole_file(server, tmp_path):
    server.shift = 7
    (tmp_path / "file.bin.part").write_bytes(CONTENTS[:100_000])
    assert fetch(server.url, tmp_path / "file.bin", md5=MD5).read_bytes() == CONTENTS
    assert server.asked == ["bytes=100000-", None]
    assert names(tmp_path) == ["file.bin"]


def test_a_complete_partial_file_is_used(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENTS)
    assert fetch(server.url, tmp_path / "file.bin", md5=MD5).read_bytes() == CONTENTS
    assert server.asked == ["bytes=300000-"]


@pytest.mark.parametrize("part", [b"of another file", CONTENTS + b"and more"])
def test_a_partial_file_of_something_else_is_replaced(server, tmp_path, part):
    (tmp_path / "file.bin.part").write_bytes(part)
    assert fetch(server.url, tmp_path / "file.bin", md5=MD5).read_bytes() == CONTENTS
    assert server.asked[-1] is None


@pytest.mark.parametrize("status", [404, 403, 503])
def test_http_errors_are_reported(server, tmp_path, status):
    server.status = status
    with pytest.raises(DownloadError, match=f"HTTP Error {status}.*put file.bin .md5 {MD5}. there by hand, from http"):
        fetch(server.url, tmp_path / "file.bin", md5=MD5)
    assert names(tmp_path) == []
    assert len(server.asked) == (3 if status == 503 else 1)  # only a server's own trouble may pass


def test_another_address_is_tried(server, tmp_path):
    nowhere = "http://127.0.0.1:9/file.bin"  # nothing listens there
    assert fetch([nowhere, server.url], tmp_path / "file.bin", md5=MD5).read_bytes() == CONTENTS
    (tmp_path / "file.bin").unlink()
    server.status = 404
    with pytest.raises(DownloadError, match=rf"{nowhere}: .*; {server.url}: HTTP Error 404"):
        fetch([nowhere, server.url], tmp_path / "file.bin", md5=MD5)


def test_wrong_contents_are_never_used(server, tmp_path):
    server.contents = b"an error page"
    with pytest.raises(DownloadError) as error:
        fetch(server.url, tmp_path / "file.bin", md5=MD5)
    found = hashlib.md5(b"an error page").hexdigest()
    assert f"md5 {found}, expected {MD5}; put aside as file.bin.bad" in str(error.value)
    assert names(tmp_path) == ["file.bin.bad"]
    server.contents = CONTENTS
    assert fetch(server.url, tmp_path / "file.bin", md5=MD5).read_bytes() == CONTENTS
    assert server.asked == [None, None]


def test_an_existing_wrong_file_is_moved_away(server, tmp_path, capsys):
    (tmp_path / "file.bin").write_bytes(CONTENTS[:-1])
    assert fetch(server.url, tmp_path / "file.bin", md5=MD5).read_bytes() == CONTENTS
    assert (tmp_path / "file.bin.bad").read_bytes() == CONTENTS[:-1]
    found = hashlib.md5(CONTENTS[:-1]).hexdigest()
    said = f"what was there had the md5 {found}, expected {MD5}; put aside as file.bin.bad"
    assert f"{tmp_path / 'file.bin'}: {said}; downloading it anew\n" in capsys.readouterr().err
    (tmp_path / "file.bin").write_bytes(CONTENTS[:-1])
    server.status = 404
    with pytest.raises(DownloadError, match=said):
        fetch(server.url, tmp_path / "file.bin", md5=MD5)
    assert names(tmp_path) == ["file.bin.bad"]


@pytest.mark.parametrize(("contents", "found"), [(None, "it is not there"), (b"x", "its md5 is wrong")])
def test_a_folder_that_cannot_be_written_to(monkeypatch, tmp_path, contents, found):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(download, "hold_lock", refuse)  # the superuser may write everywhere
    if contents:
        (tmp_path / "file.bin").write_bytes(contents)
    with pytest.raises(
        DownloadError, match=rf"file\.bin: {found}, and it cannot be downloaded.*Permission denied.*hand"
    ):
        fetch("http://x", tmp_path / "file.bin", md5=MD5)


def test_no_space_left(server, tmp_path):
    """The bytes received before the disk was full are kept, and the download is resumed."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limit[1]))
        with pytest.raises(DownloadError) as error:
            fetch([server.url, server.url], tmp_path / "file.bin", md5=MD5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert f"{tmp_path / 'file.bin.part'}: cannot be written beyond its 200000 bytes (" in str(error.value)
    assert "make room and start again" in str(error.value)
    assert fetch(server.url, tmp_path / "file.bin", md5=MD5).read_bytes() == CONTENTS
    assert server.asked == [None, "bytes=200000-"]


def test_a_full_disk_is_named(server, tmp_path):
    (tmp_path / "file.bin.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match="No space left on device"):
        fetch(server.url, tmp_path / "file.bin", md5=MD5)


def fetch_in_a_process(url, file):
    fetch(url, file, md5=MD5)
    assert file.read_bytes() == CONTENTS


def test_one_of_several_processes_downloads(server, tmp_path):
    context = multiprocessing.get_context("fork")  # the server's thread is not needed in them
    processes = [context.Process(target=fetch_in_a_process, args=(server.url, tmp_path / "file.bin")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(server.asked) == 1


def test_waiting_processes_print_a_message(tmp_path, capsys):
    def hold():
        with download.hold_lock(tmp_path / "file.bin", "downloads file.bin"):
            held.set()
            time.sleep(0.2)

    held, thread = threading.Event(), threading.Thread(target=hold)
    thread.start()
    held.wait()
    with download.hold_lock(tmp_path / "file.bin", "downloads file.bin"):
        assert not thread.is_alive() or thread.join(1) is None
    assert "waiting for another process that downloads file.bin" in capsys.readouterr().err


class Terminal:
    """A stand-in for the stderr of a terminal."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


def test_a_bar_on_a_terminal(server, tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    fetch(server.url, tmp_path / "file.bin", md5=MD5)
    assert "file.bin" in terminal.text
    assert "300.0/300.0 kB" in terminal.text.replace("\n", "")


def test_no_progress_bar_inside_another_one(server, tmp_path, monkeypatch):
    terminal = Terminal()
    terminal.rich_proxied_file = None
    monkeypatch.setattr("sys.stderr", terminal)
    fetch(server.url, tmp_path / "file.bin", md5=MD5)
    assert terminal.text == f"downloading file.bin (0.3 MB) from {server.url}\n"
