"""Claims: one owner at a time, whoever dies, is stopped, or tries at the same moment."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, replace

import pytest

from harness.running.execute import execute, record_dead_run, record_failure
from harness.running.settings import Settings
from harness.store import claim as claims
from harness.store.claim import (
    Lookout,
    LostError,
    Owner,
    TakenError,
    confirm,
    free_if_dead,
    numbers,
    place,
    see,
    take,
)
from harness.store.outcome import FOUND, Outcome
from harness.store.run_folder import RunFolder, write_json

FORK = multiprocessing.get_context("fork")


def wait_until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def hold(folder, ready):
    take(folder, "a driver")
    ready.set()
    time.sleep(60)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a claim."""
    ready = FORK.Event()
    process = FORK.Process(target=hold, args=(tmp_path / "k", ready))
    process.start()
    assert ready.wait(30)
    yield process
    process.kill()
    process.join()


def elsewhere(folder, **changes):
    """Claim a folder for a process of another machine."""
    owner = replace(Owner.here("its driver"), machine="another machine", host="far", **changes)
    assert place(folder, see(folder).number + 1, json.dumps(asdict(owner)))
    return owner


def test_what_another_driver_failed_since_this_one_began_is_not_tried_again(tmp_path, make_run):
    run = make_run("sgd")
    before = Settings(tmp_path, began=time.time())
    record_failure(RunFolder(tmp_path, run.key), Outcome("failed", "it broke"))
    assert execute(run, before, []) == ("failed", "it broke (another driver tried it)")
    record_failure(RunFolder(tmp_path, run.key), Outcome("out of memory", "too large"))
    assert execute(run, before, []).state == "finished", "that is tried again, by whoever comes first"
    run = make_run("sgd", seed=1)
    record_failure(RunFolder(tmp_path, run.key), Outcome("failed", "it broke"))
    assert execute(run, Settings(tmp_path, began=time.time()), []).state == "finished", "a new start tries again"


def test_a_claim_keeps_others_out_until_it_is_released(tmp_path):
    folder = RunFolder(tmp_path, "k")
    assert not folder.locked()
    assert not folder.path.exists(), "looking creates nothing"
    with folder.claim("my driver"):
        owner = folder.owner()
        assert folder.locked()
        with pytest.raises(TakenError, match=rf"^process {os.getpid()} on .+ works on it$"), folder.claim():
            pass
    assert not folder.locked()
    assert (owner.process, owner.driver, len(owner.token)) == (os.getpid(), "my driver", 32)
    assert abs(owner.since - time.time()) < 60
    with folder.claim():
        assert folder.owner().token != owner.token
    assert sorted(path.name for path in folder.path.iterdir()) == ["claim.2"], "one small file is left, an empty one"
    assert (folder.path / "claim.2").read_text() == ""


def test_it_is_released_whatever_happens(tmp_path):
    folder = RunFolder(tmp_path, "k")
    with pytest.raises(KeyboardInterrupt), folder.claim():
        raise KeyboardInterrupt
    assert not folder.locked()
    assert claims.HELD == {}


def test_another_process_is_kept_out_and_takes_over_when_the_owner_is_killed(tmp_path, holder):
    folder = RunFolder(tmp_path, "k")
    assert folder.locked()
    assert folder.owner().process == holder.pid
    with pytest.raises(TakenError):
        take(folder.path)
    os.kill(holder.pid, signal.SIGKILL)
    wait_until(lambda: not folder.locked())  # a zombie has ended: nobody has waited for it
    with folder.claim():
        assert folder.owner().process == os.getpid()


def test_a_reused_process_number_is_no_owner(tmp_path):
    owner = Owner.here("")
    assert not owner.dead()
    assert replace(owner, started=owner.started - 1).dead()
    assert not replace(owner, started=owner.started - 1, machine="another").dead(), "it may run there"


def test_starts_of_processes_agree_with_the_system(tmp_path):
    before = float((claims.PROC / "uptime").read_text().split()[0])
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        ticks = os.sysconf("SC_CLK_TCK")
        assert before - 0.1 <= claims.start_of(child.pid) / ticks <= before + 30
        assert claims.lives(child.pid, claims.start_of(child.pid))
        assert claims.lives(child.pid, None), "asked by a signal where the start is not known"
    finally:
        child.kill()
    wait_until(lambda: claims.start_of(child.pid) is None)
    child.wait()
    assert not claims.lives(child.pid, None)
    assert not claims.lives(child.pid, 1)


def race(folder, barrier, won, number):
    barrier.wait()
    try:
        if number is None:
            take(folder)
        elif not place(folder, number, json.dumps(asdict(Owner.here("")))):
            return
    except TakenError:
        return
    won.put(os.getpid())
    time.sleep(60)


@pytest.mark.parametrize("abandoned", [False, True])
@pytest.mark.parametrize("number", [None, 2])
def test_of_many_who_try_at_once_one_wins(tmp_path, abandoned, number):
    """For a run that was never claimed, or whose owner is dead; even if all have looked before any of them acts."""
    for i in range(4):
        folder = tmp_path / f"{i}"
        if abandoned or number:
            assert place(folder, 1, json.dumps(asdict(replace(Owner.here(""), started=1))))
        barrier, won = FORK.Barrier(6), FORK.Queue()
        processes = [FORK.Process(target=race, args=(folder, barrier, won, number)) for _ in range(6)]
        for process in processes:
            process.start()
        winner = won.get(timeout=30)
        wait_until(lambda processes=processes: sum(process.is_alive() for process in processes) == 1)
        assert won.empty()
        assert see(folder).owner.process == winner
        assert len(numbers(folder)) == 1
        for process in processes:
            process.kill()
            process.join()


def test_turns_follow_each_other_without_overlap(tmp_path):
    """Threads that claim, release and claim again, as processes do; each turn has a number of its own."""
    folder, turns, inside = tmp_path / "k", [], Counter()

    def work():
        for _ in range(15):
            while True:
                try:
                    claim = take(folder)
                    break
                except TakenError:
                    time.sleep(0.001)
            inside["now"] += 1
            assert inside["now"] == 1
            turns.append(int(claim.path.suffix[1:]))
            claim.confirm()
            inside["now"] -= 1
            claim.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert turns == list(range(1, 61))


def test_a_claim_that_could_not_be_freed_is_free_for_its_process(tmp_path, monkeypatch):
    def refuses(*_):
        raise OSError(errno.EROFS, "read-only")

    folder = tmp_path / "k"
    claim = take(folder)
    with pytest.raises(TakenError):
        take(folder)
    with monkeypatch.context() as patch:
        patch.setattr(claims.os, "truncate", refuses)
        claim.release()
    assert see(folder).owner, "others see a claim that gives no sign of life"
    again = take(folder)
    with pytest.raises(TakenError):
        take(folder)
    again.release()


def test_a_full_disk_is_named_by_the_claim(tmp_path, monkeypatch):
    def refuses(path, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(claims.Path, "write_text", refuses)
    with pytest.raises(OSError) as full:
        take(tmp_path / "k")
    assert full.value.filename == str(tmp_path / "k" / "claim.1")


def test_a_process_that_cannot_be_looked_at_counts_as_alive(monkeypatch):
    def refuses(path):
        raise OSError(errno.EMFILE, "Too many open files")

    here = Owner.here("")
    assert not here.dead()
    monkeypatch.setattr(claims.Path, "read_text", refuses)
    assert not replace(here, machine=claims.machine()).dead()


def test_who_looked_long_ago_does_not_hit_a_later_claim(tmp_path):
    """One saw claim 1 abandoned, and acts only when claim 3 is another's: number 2 is there no more."""
    folder = tmp_path / "k"
    place(folder, 1, json.dumps(asdict(replace(Owner.here(""), started=1))))
    take(folder).release()
    third = take(folder)
    assert third.path.name == "claim.3"
    assert numbers(folder) == {3}
    assert not place(folder, 2, "")
    assert numbers(folder) == {3}
    third.confirm()
    third.release()


def test_an_owner_gives_signs_of_life_until_it_releases(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.02)
    claim = take(tmp_path / "k")
    first = see(claim.folder).beat
    wait_until(lambda: see(claim.folder).beat != first)
    claim.release()
    last = see(claim.folder).beat
    time.sleep(0.2)
    assert see(claim.folder).beat == last


def test_silence_is_measured_by_the_observer(tmp_path, monkeypatch):
    """However far the owner's clock is off; and only time in which nothing changed counts."""
    folder, now = tmp_path / "k", [1000.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: now[0])
    elsewhere(folder)
    lookout = Lookout(silence=60)
    for clock in (0, 10**10, 5):  # each 59 s after the one before
        os.utime(folder / "claim.1", (clock, clock))
        assert not lookout.free(folder)
        now[0] += 59
        assert not lookout.free(folder)
    now[0] += 1
    assert lookout.free(folder)
    assert see(folder).owner is None
    assert take(folder).path.name == "claim.3"


def test_a_new_owner_is_not_given_up_for_the_silence_of_the_one_before(tmp_path, monkeypatch):
    folder, now = tmp_path / "k", [0.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: now[0])
    lookout = Lookout()
    elsewhere(folder)
    assert not lookout.free(folder)
    now[0] = claims.SILENCE - 1
    elsewhere(folder)
    assert not lookout.free(folder)
    now[0] = 2 * claims.SILENCE - 2
    assert not lookout.free(folder)
    now[0] = 2 * claims.SILENCE
    assert lookout.free(folder)


def test_two_observers_of_a_silent_owner_give_it_up_once(tmp_path):
    folder = tmp_path / "k"
    elsewhere(folder)
    lookouts = [Lookout(silence=0.01) for _ in range(2)]
    assert [lookout.free(folder) for lookout in lookouts] == [False, False]
    time.sleep(0.02)
    assert [lookout.free(folder) for lookout in lookouts] == [True, True]
    claim = take(folder)
    assert [lookout.free(folder) for lookout in lookouts] == [False, False]
    claim.confirm()
    claim.release()
    assert [lookout.free(folder) for lookout in lookouts] == [True, True]


def test_only_a_dead_owner_of_this_machine_is_freed_at_once(tmp_path):
    folder = tmp_path / "k"
    place(folder, 1, json.dumps(asdict(replace(Owner.here(""), started=1))))
    free_if_dead(folder)
    assert see(folder) == (2, None, see(folder).beat)
    elsewhere(folder)
    free_if_dead(folder)
    assert see(folder).owner.host == "far"


@pytest.mark.parametrize("spoilt", ["{", "null", '{"colour": "red"}', "\0\0\0"])
def test_of_a_spoilt_claim_only_the_silence_counts(tmp_path, spoilt):
    folder = tmp_path / "k"
    place(folder, 1, spoilt)
    lookout = Lookout(silence=0.01)
    with pytest.raises(TakenError, match="an unknown machine"):
        take(folder)
    assert not lookout.free(folder)
    time.sleep(0.02)
    assert lookout.free(folder)


def test_a_file_system_without_hard_links_is_named(tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(type(tmp_path), "hardlink_to", refuse)
    with pytest.raises(OSError, match=r"by hard links; choose --runs on a file system that has them: '.*claim\.1'"):
        take(tmp_path / "k")


def test_an_owner_that_lost_its_claim_writes_nothing_more(tmp_path):
    folder = RunFolder(tmp_path, "k")
    with folder.claim():
        write_json(folder.progress, {"epoch": 1})
        place(folder.path, 2, "")  # as an observer does
        for path in (folder.progress, folder.result, folder.failure):
            with pytest.raises(LostError, match="another process took it over"):
                write_json(path, {"epoch": 2})
        with RunFolder(tmp_path, "other").claim():
            write_json(tmp_path / "other" / "x.json", {})
        assert json.loads(folder.progress.read_text()) == {"epoch": 1}
        assert not folder.result.exists()
        assert numbers(folder.path) == {2}
    assert numbers(folder.path) == {2}, "releasing what was lost frees nothing"
    confirm(folder.path)


def test_a_run_that_is_claimed_is_elsewhere_and_left_alone(tmp_path, make_run, holder):
    run = make_run()
    (tmp_path / "k").rename(tmp_path / run.key)
    state, reason = execute(run, Settings(tmp_path), [])
    assert state == "elsewhere"
    assert reason.startswith(f"process {holder.pid} on ")
    assert [path.name for path in (tmp_path / run.key).iterdir()] == ["claim.1"]
    assert record_dead_run(RunFolder(tmp_path, run.key), "boo", Settings(tmp_path)).state == "elsewhere"
    assert not RunFolder(tmp_path, run.key).failure.exists()


@pytest.mark.parametrize("after", ["an epoch", "an error"])
def test_a_run_that_was_taken_over_is_elsewhere_and_no_failure(tmp_path, make_run, after, read_result):
    """Another process takes it over after an epoch; this one goes on until its next write, or fails before."""
    run, settings = make_run(), Settings(tmp_path / "runs", checkpoint_seconds=0)
    folder, there = RunFolder(settings.runs, run.key), []

    def taken_over():
        if there:
            return
        place(folder.path, see(folder.path).number + 1, "")
        there.append({path.name: path.read_bytes() for path in folder.path.iterdir()})
        if after == "an error":
            raise ValueError("boo")

    state, reason = execute(run, settings, [], taken_over)
    assert state == "elsewhere"
    assert reason.startswith("another process took it over")
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == there[0]
    assert execute(run, settings, []) == ("finished", "")
    assert execute(run, settings, []) == ("finished", FOUND)
    whole = Settings(tmp_path / "whole")
    assert execute(run, whole, []) == ("finished", "")
    assert read_result(settings.runs, run.key) == read_result(whole.runs, run.key)


def test_giving_up_a_run_records_its_failure_unless_it_finished(tmp_path, make_run):
    run, settings = make_run(), Settings(tmp_path)
    folder = RunFolder(tmp_path, run.key)
    assert record_dead_run(folder, "its process died", settings) == ("failed", "its process died")
    assert json.loads(folder.failure.read_text())["reason"] == "its process died"
    assert execute(run, settings, []) == ("finished", "")
    assert record_dead_run(folder, "its process died", settings) == ("finished", "")
    assert not folder.failure.exists()


def beating(folder, ready, stop, done):
    """Hold a claim, give signs of life often, and write; stop between two writes when told.

    A write that was begun before a stop is finished after it: there, the claim is confirmed already.
    """
    claims.BEAT = 0.02
    run = RunFolder(folder.parent, folder.name)
    with run.claim():
        ready.set()
        for i in range(10**6):
            if stop.is_set():
                os.kill(os.getpid(), signal.SIGSTOP)
            try:
                write_json(run.progress, {"epoch": i}, durable=False)
            except LostError:
                done.set()
                time.sleep(60)
            time.sleep(0.01)


def test_a_process_that_was_stopped_is_given_up_and_notices_when_it_goes_on(tmp_path):
    folder, ready, stop, done = tmp_path / "k", FORK.Event(), FORK.Event(), FORK.Event()
    process = FORK.Process(target=beating, args=(folder, ready, stop, done))
    process.start()
    try:
        assert ready.wait(30)
        lookout = Lookout(silence=5.0)
        time.sleep(0.3)
        assert not lookout.free(folder), "it lives"
        stop.set()
        impatient = Lookout(silence=0.3)
        wait_until(lambda: impatient.free(folder))
        claim = take(folder)
        write_json(folder / "progress.json", {"epoch": "mine"})
        stop.clear()
        os.kill(process.pid, signal.SIGCONT)
        assert done.wait(30)
        assert json.loads((folder / "progress.json").read_text()) == {"epoch": "mine"}
        claim.confirm()
        claim.release()
    finally:
        process.kill()
        process.join()
