"""Sending in a background thread: a slow or unavailable store delays nobody, and nothing is lost."""

import threading
import time
from types import SimpleNamespace

import pytest

from harness.tracking import background_mirror
from harness.tracking.background_mirror import BackgroundMirror

pytestmark = pytest.mark.alone


class FakeMirror:
    """A fake `Mirror`: it records what it is sent, and can be slow, unavailable or defective."""

    def __init__(self):
        self.problem, self.unsent, self.retry_at, self.runs = "", set(), 0.0, None
        self.sent, self.left_to_others = [], {}
        self.answers = threading.Event()
        self.answers.set()
        self.unavailable = False
        self.defect = None

    def open(self):
        self.answers.wait(30)

    def leave_to_other_driver(self, planned):
        self.left_to_others[planned.key] = planned

    def close(self):
        self.answers.wait(30)
        for planned in self.left_to_others.values():
            self.send(planned)
        self.left_to_others.clear()

    def send(self, planned, *, live=False):
        self.answers.wait(30)
        if self.defect:
            raise self.defect
        if self.unavailable:
            self.unsent.add(planned.key)
            self.problem = "unavailable"
            return
        self.sent.append((planned.key, live))
        self.unsent.discard(planned.key)
        self.problem = self.problem if self.unsent else ""


@pytest.fixture
def store():
    return FakeMirror()


def run(key):
    return SimpleNamespace(key=key)


def seconds(action):
    start = time.monotonic()
    action()
    return time.monotonic() - start


def test_a_healthy_store_has_everything_when_send_returns(store):
    mirror = BackgroundMirror(store)
    for key in "abc":
        mirror.send(run(key))
        assert store.sent[-1] == (key, False)
        assert mirror.unsent == set()
    assert len(store.sent) == 3


def test_a_store_that_does_not_answer_delays_once_and_gets_everything_later(store):
    mirror = BackgroundMirror(store, send_seconds=0.3)
    store.answers.clear()
    assert 0.25 < seconds(lambda: mirror.send(run("a"))) < 2
    assert seconds(lambda: [mirror.send(run(key)) for key in "bcd"]) < 0.2, "it is behind already"
    assert mirror.unsent == set("abcd")
    assert 0.25 < seconds(lambda: mirror.finish(0.3)) < 2, "nor for ever at the end"
    store.answers.set()
    mirror.finish(10)
    assert [key for key, _ in store.sent] == list("abcd")
    assert mirror.unsent == set()


def test_waiting_for_the_store_to_open_is_limited(store):
    store.answers.clear()
    assert 0.15 < seconds(lambda: BackgroundMirror(store, open_seconds=0.2)) < 2
    store.answers.set()


def test_queued_updates_of_a_run_become_one_and_a_final_one_stays_final(store):
    mirror = BackgroundMirror(store, send_seconds=0.05)
    store.answers.clear()
    mirror.send(run("first"))
    for live in (True, False, True):
        mirror.send(run("a"), live=live)
    mirror.send(run("b"), live=True)
    store.answers.set()
    mirror.finish(10)
    assert store.sent == [("first", False), ("a", False), ("b", True)]


def test_runs_the_store_did_not_accept_are_sent_again_at_the_end(store):
    mirror = BackgroundMirror(store)
    store.unavailable = True
    for key in "ab":
        mirror.send(run(key))
    assert (mirror.problem, mirror.unsent) == ("unavailable", {"a", "b"})
    mirror.finish(10)
    assert mirror.unsent == {"a", "b"}
    store.unavailable, store.retry_at = False, time.monotonic() + 60
    mirror.finish(10)
    assert sorted(store.sent) == [("a", False), ("b", False)]
    assert (mirror.problem, mirror.unsent) == ("", set())
    assert store.retry_at == 0.0, "however long it was to be left alone"


def test_a_defect_in_the_thread_is_raised(store):
    mirror = BackgroundMirror(store)
    store.defect = ZeroDivisionError("a defect")
    with pytest.raises(ZeroDivisionError, match="a defect"):
        mirror.send(run("a"))
    with pytest.raises(ZeroDivisionError, match="a defect"):
        mirror.send(run("b"))


def test_the_waits_are_short():
    assert background_mirror.SEND_SECONDS <= 2 < background_mirror.OPEN_SECONDS <= 15
    assert 15 < background_mirror.FINISH_SECONDS <= 30


def test_runs_of_other_drivers_count_as_unsent_while_the_store_is_unavailable(store):
    mirror = BackgroundMirror(store)
    store.unavailable = True
    mirror.leave_to_other_driver(run("a"))
    assert mirror.unsent == {"a"}
    mirror.finish(1.0)
    assert mirror.unsent == {"a"}
    store.unavailable = False
    mirror.finish(1.0)
    assert (mirror.unsent, store.sent) == (set(), [("a", False)])
