"""Sending in a thread: nobody waits for a store that is slow or away, and nothing is lost."""

import threading
import time
from types import SimpleNamespace

import pytest

from harness.tracking import background_mirror as sender_module
from harness.tracking.background_mirror import BackgroundMirror

pytestmark = pytest.mark.alone


class Store:
    """Stands in for a mirror: remembers what it is sent, and is slow, away or defective when told."""

    def __init__(self):
        self.problem, self.unsent, self.retry_at, self.runs = "", set(), 0.0, None
        self.sent, self.left = [], {}
        self.answers = threading.Event()
        self.answers.set()
        self.away = False
        self.defect = None

    def open(self):
        self.answers.wait(30)

    def leave_to_other_driver(self, planned):
        self.left[planned.key] = planned

    def close(self):
        self.answers.wait(30)
        for planned in self.left.values():
            self.send(planned)
        self.left.clear()

    def send(self, planned, *, live=False):
        self.answers.wait(30)
        if self.defect:
            raise self.defect
        if self.away:
            self.unsent.add(planned.key)
            self.problem = "away"
            return
        self.sent.append((planned.key, live))
        self.unsent.discard(planned.key)
        self.problem = self.problem if self.unsent else ""


@pytest.fixture
def store():
    return Store()


def run(key):
    return SimpleNamespace(key=key)


def seconds(action):
    start = time.monotonic()
    action()
    return time.monotonic() - start


def test_a_healthy_store_has_everything_when_send_returns(store):
    sender = BackgroundMirror(store)
    for key in "abc":
        sender.send(run(key))
        assert store.sent[-1] == (key, False)
        assert sender.unsent == set()
    assert len(store.sent) == 3


def test_a_store_that_does_not_answer_is_waited_for_once_and_gets_all_later(store):
    sender = BackgroundMirror(store, moment=0.3)
    store.answers.clear()
    assert 0.25 < seconds(lambda: sender.send(run("a"))) < 2
    assert seconds(lambda: [sender.send(run(key)) for key in "bcd"]) < 0.2, "it is behind already"
    assert sender.unsent == set("abcd")
    assert 0.25 < seconds(lambda: sender.finish(0.3)) < 2, "nor for ever at the end"
    store.answers.set()
    sender.finish(10)
    assert [key for key, _ in store.sent] == list("abcd")
    assert sender.unsent == set()


def test_the_opening_is_not_waited_for_for_ever(store):
    store.answers.clear()
    assert 0.15 < seconds(lambda: BackgroundMirror(store, opening=0.2)) < 2
    store.answers.set()


def test_updates_that_wait_become_one_and_the_last_one_is_no_passing_one(store):
    sender = BackgroundMirror(store, moment=0.05)
    store.answers.clear()
    sender.send(run("first"))
    for live in (True, False, True):
        sender.send(run("a"), live=live)
    sender.send(run("b"), live=True)
    store.answers.set()
    sender.finish(10)
    assert store.sent == [("first", False), ("a", False), ("b", True)]


def test_what_was_refused_is_tried_again_at_the_end(store):
    sender = BackgroundMirror(store)
    store.away = True
    for key in "ab":
        sender.send(run(key))
    assert (sender.problem, sender.unsent) == ("away", {"a", "b"})
    sender.finish(10)
    assert sender.unsent == {"a", "b"}
    store.away, store.retry_at = False, time.monotonic() + 60
    sender.finish(10)
    assert sorted(store.sent) == [("a", False), ("b", False)]
    assert (sender.problem, sender.unsent) == ("", set())
    assert store.retry_at == 0.0, "however long it was to be left alone"


def test_a_defect_is_not_hidden(store):
    sender = BackgroundMirror(store)
    store.defect = ZeroDivisionError("a defect")
    with pytest.raises(ZeroDivisionError, match="a defect"):
        sender.send(run("a"))
    with pytest.raises(ZeroDivisionError, match="a defect"):
        sender.send(run("b"))


def test_the_waits_are_short():
    assert sender_module.MOMENT <= 2 < sender_module.OPENING <= 15 < sender_module.FAREWELL <= 30


def test_what_other_drivers_trained_is_unsent_too_while_the_store_is_away(store):
    sender = BackgroundMirror(store)
    store.away = True
    sender.leave_to_other_driver(run("a"))
    assert sender.unsent == {"a"}
    sender.finish(1.0)
    assert sender.unsent == {"a"}
    store.away = False
    sender.finish(1.0)
    assert (sender.unsent, store.sent) == (set(), [("a", False)])
