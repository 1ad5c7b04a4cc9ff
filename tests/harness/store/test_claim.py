"""Tests that a claim has one owner at a time, also if owners die, are suspended, or claim simultaneously."""

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
from harness.store import process_identity
from harness.store.claim import (
    AlreadyClaimedError,
    ClaimLostError,
    Owner,
    acquire_claim,
    check_still_owner,
    claim_numbers,
    claim_path,
    free_if_owner_dead,
    read_claim,
    write_claim,
)
from harness.store.claim_observer import ClaimObserver
from harness.store.outcome import ALREADY_FINISHED, Outcome
from harness.store.run_folder import RunFolder, write_json

FORK = multiprocessing.get_context("fork")


def wait_until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def hold(folder, ready):
    acquire_claim(folder, "a driver")
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
    owner = replace(Owner.current_process("its driver"), machine="another machine", host="far", **changes)
    assert write_claim(folder, read_claim(folder).number + 1, json.dumps(asdict(owner)))
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
    assert not folder.is_claimed()
    assert not folder.path.exists(), "looking creates nothing"
    with folder.claim("my driver"):
        owner = folder.owner()
        assert folder.is_claimed()
        with pytest.raises(AlreadyClaimedError, match=rf"^process {os.getpid()} on .+ works on it$"), folder.claim():
            pass
    assert not folder.is_claimed()
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
    assert not folder.is_claimed()
    assert claims.OWN_CLAIMS == {}


def test_another_process_is_kept_out_and_takes_over_when_the_owner_is_killed(tmp_path, holder):
    folder = RunFolder(tmp_path, "k")
    assert folder.is_claimed()
    assert folder.owner().process == holder.pid
    with pytest.raises(AlreadyClaimedError):
        acquire_claim(folder.path)
    os.kill(holder.pid, signal.SIGKILL)
    wait_until(lambda: not folder.is_claimed())  # a zombie has ended: nobody has waited for it
    with folder.claim():
        assert folder.owner().process == os.getpid()


def test_a_reused_process_number_is_no_owner(tmp_path):
    owner = Owner.current_process("")
    assert not owner.is_dead()
    assert replace(owner, started=owner.started - 1).is_dead()
    assert not replace(owner, started=owner.started - 1, machine="another").is_dead(), "it may run there"


def test_starts_of_processes_agree_with_the_system(tmp_path):
    before = float((process_identity.PROC / "uptime").read_text().split()[0])
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        ticks = os.sysconf("SC_CLK_TCK")
        assert before - 0.1 <= process_identity.process_start_ticks(child.pid) / ticks <= before + 30
        assert process_identity.is_process_alive(child.pid, process_identity.process_start_ticks(child.pid))
        assert process_identity.is_process_alive(child.pid, None), "asked by a signal where the start is not known"
    finally:
        child.kill()
    wait_until(lambda: process_identity.process_start_ticks(child.pid) is None)
    child.wait()
    assert not process_identity.is_process_alive(child.pid, None)
    assert not process_identity.is_process_alive(child.pid, 1)


def race(folder, barrier, won, number):
    barrier.wait()
    try:
        if number is None:
            acquire_claim(folder)
        elif not write_claim(folder, number, json.dumps(asdict(Owner.current_process("")))):
            return
    except AlreadyClaimedError:
        return
    won.put(os.getpid())
    time.sleep(60)


@pytest.mark.long
@pytest.mark.parametrize("abandoned", [False, True])
@pytest.mark.parametrize("number", [None, 2])
def test_of_many_who_try_at_once_one_wins(tmp_path, abandoned, number):
    """The run was never claimed, or its owner is dead. All processes read the claim before any of them acts."""
    for i in range(4):
        folder = tmp_path / f"{i}"
        if abandoned or number:
            assert write_claim(folder, 1, json.dumps(asdict(replace(Owner.current_process(""), started=1))))
        barrier, won = FORK.Barrier(6), FORK.Queue()
        processes = [FORK.Process(target=race, args=(folder, barrier, won, number)) for _ in range(6)]
        for process in processes:
            process.start()
        winner = won.get(timeout=30)
        wait_until(lambda processes=processes: sum(process.is_alive() for process in processes) == 1)
        assert won.empty()
        assert read_claim(folder).owner.process == winner
        assert len(claim_numbers(folder)) == 1
        for process in processes:
            process.kill()
            process.join()


def test_turns_follow_each_other_without_overlap(tmp_path):
    """Threads claim and release a run repeatedly, as processes do. Each claim has a new number."""
    folder, turns, inside = tmp_path / "k", [], Counter()

    def work():
        for _ in range(15):
            while True:
                try:
                    claim = acquire_claim(folder)
                    break
                except AlreadyClaimedError:
                    time.sleep(0.001)
            inside["now"] += 1
            assert inside["now"] == 1
            turns.append(int(claim.path.suffix[1:]))
            claim.check_still_owner()
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
    claim = acquire_claim(folder)
    with pytest.raises(AlreadyClaimedError):
        acquire_claim(folder)
    with monkeypatch.context() as patch:
        patch.setattr(claims.os, "truncate", refuses)
        claim.release()
    assert read_claim(folder).owner, "others see a claim that gives no sign of life"
    again = acquire_claim(folder)
    with pytest.raises(AlreadyClaimedError):
        acquire_claim(folder)
    again.release()


def test_a_full_disk_is_named_by_the_claim(tmp_path, monkeypatch):
    def refuses(path, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(claims.Path, "write_text", refuses)
    with pytest.raises(OSError) as full:
        acquire_claim(tmp_path / "k")
    assert full.value.filename == str(tmp_path / "k" / "claim.1")


def test_a_process_that_cannot_be_looked_at_counts_as_alive(monkeypatch):
    def refuses(path):
        raise OSError(errno.EMFILE, "Too many open files")

    here = Owner.current_process("")
    assert not here.is_dead()
    monkeypatch.setattr(claims.Path, "read_text", refuses)
    assert not replace(here, machine=process_identity.machine_id()).is_dead()


def test_an_outdated_observation_does_not_replace_a_later_claim(tmp_path):
    """An observer saw claim 1 abandoned. When it acts, claim 3 has another owner and number 2 is used."""
    folder = tmp_path / "k"
    write_claim(folder, 1, json.dumps(asdict(replace(Owner.current_process(""), started=1))))
    acquire_claim(folder).release()
    third = acquire_claim(folder)
    assert third.path.name == "claim.3"
    assert claim_numbers(folder) == {3}
    assert not write_claim(folder, 2, "")
    assert claim_numbers(folder) == {3}
    third.check_still_owner()
    third.release()


def test_an_owner_gives_signs_of_life_until_it_releases(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.02)
    claim = acquire_claim(tmp_path / "k")
    first = read_claim(claim.folder).heartbeat
    wait_until(lambda: read_claim(claim.folder).heartbeat != first)
    claim.release()
    last = read_claim(claim.folder).heartbeat
    time.sleep(0.2)
    assert read_claim(claim.folder).heartbeat == last


def test_missing_heartbeats_are_timed_by_the_observer(tmp_path, monkeypatch):
    """The owner's clock has no effect. Only time without a change counts."""
    folder, now = tmp_path / "k", [1000.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: now[0])
    elsewhere(folder)
    observer = ClaimObserver(timeout=60)
    for clock in (0, 10**10, 5):  # each 59 s after the one before
        os.utime(folder / "claim.1", (clock, clock))
        assert not observer.is_free(folder)
        now[0] += 59
        assert not observer.is_free(folder)
    now[0] += 1
    assert observer.is_free(folder)
    assert read_claim(folder).owner is None
    assert acquire_claim(folder).path.name == "claim.3"


def test_the_timeout_starts_anew_with_a_new_owner(tmp_path, monkeypatch):
    folder, now = tmp_path / "k", [0.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: now[0])
    observer = ClaimObserver()
    elsewhere(folder)
    assert not observer.is_free(folder)
    now[0] = claims.HEARTBEAT_TIMEOUT - 1
    elsewhere(folder)
    assert not observer.is_free(folder)
    now[0] = 2 * claims.HEARTBEAT_TIMEOUT - 2
    assert not observer.is_free(folder)
    now[0] = 2 * claims.HEARTBEAT_TIMEOUT
    assert observer.is_free(folder)


def test_two_observers_release_an_owner_without_heartbeats_once(tmp_path):
    folder = tmp_path / "k"
    elsewhere(folder)
    observers = [ClaimObserver(timeout=0.01) for _ in range(2)]
    assert [observer.is_free(folder) for observer in observers] == [False, False]
    time.sleep(0.02)
    assert [observer.is_free(folder) for observer in observers] == [True, True]
    claim = acquire_claim(folder)
    assert [observer.is_free(folder) for observer in observers] == [False, False]
    claim.check_still_owner()
    claim.release()
    assert [observer.is_free(folder) for observer in observers] == [True, True]


def test_only_a_dead_owner_of_this_machine_is_freed_at_once(tmp_path):
    folder = tmp_path / "k"
    write_claim(folder, 1, json.dumps(asdict(replace(Owner.current_process(""), started=1))))
    free_if_owner_dead(folder)
    assert read_claim(folder) == (2, None, read_claim(folder).heartbeat)
    elsewhere(folder)
    free_if_owner_dead(folder)
    assert read_claim(folder).owner.host == "far"


@pytest.mark.parametrize(
    "spoilt", ["{", "null", '{"colour": "red"}', "\0\0\0", "[1]", '{"process": "x"}', "[" * 10**5, b"\xff\xfe"]
)
def test_a_corrupt_claim_is_released_only_after_the_timeout(tmp_path, spoilt, capsys):
    folder = tmp_path / "k"
    write_claim(folder, 1, "free")
    claim_path(folder, 1).write_bytes(spoilt if isinstance(spoilt, bytes) else spoilt.encode())
    (folder / "claim.\N{SUPERSCRIPT TWO}").touch()  # a digit, but no number
    observer = ClaimObserver(timeout=0.01)
    with pytest.raises(AlreadyClaimedError, match="an unknown machine"):
        acquire_claim(folder)
    assert not observer.is_free(folder)
    time.sleep(0.02)
    assert observer.is_free(folder)
    assert capsys.readouterr().err.startswith(f"{folder}/claim.1: names no owner; whoever holds it is given up after")


def test_a_file_system_without_hard_links_is_named(tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(type(tmp_path), "hardlink_to", refuse)
    with pytest.raises(OSError, match=r"by hard links; choose --runs on a file system that has them: '.*claim\.1'"):
        acquire_claim(tmp_path / "k")


def test_an_owner_that_lost_its_claim_writes_nothing_more(tmp_path):
    folder = RunFolder(tmp_path, "k")
    with folder.claim():
        write_json(folder.progress, {"epoch": 1})
        write_claim(folder.path, 2, "")  # as an observer does
        for path in (folder.progress, folder.result, folder.failure):
            with pytest.raises(ClaimLostError, match="another process took it over"):
                write_json(path, {"epoch": 2})
        with RunFolder(tmp_path, "other").claim():
            write_json(tmp_path / "other" / "x.json", {})
        assert json.loads(folder.progress.read_text()) == {"epoch": 1}
        assert not folder.result.exists()
        assert claim_numbers(folder.path) == {2}
    assert claim_numbers(folder.path) == {2}, "releasing what was lost frees nothing"
    check_still_owner(folder.path)


def test_a_run_that_is_claimed_is_elsewhere_and_left_alone(tmp_path, make_run, holder):
    run = make_run()
    (tmp_path / "k").rename(tmp_path / run.key)
    state, reason = execute(run, Settings(tmp_path), [])
    assert state == "elsewhere"
    assert reason.startswith(f"process {holder.pid} on ")
    assert [path.name for path in (tmp_path / run.key).iterdir()] == ["claim.1"]
    assert record_dead_run(RunFolder(tmp_path, run.key), "boo", Settings(tmp_path)).state == "elsewhere"
    assert not RunFolder(tmp_path, run.key).failure.exists()


def test_a_worker_that_was_killed_may_take_a_moment_to_be_gone(tmp_path, make_run, holder):
    """Its run has failed, and is not taken for one that another driver executes."""
    run = make_run()
    folder = RunFolder(tmp_path, run.key)
    (tmp_path / "k").rename(folder.path)
    timer = threading.Timer(0.3, lambda: (holder.kill(), holder.join()))
    timer.start()
    assert record_dead_run(folder, "killed", Settings(tmp_path, driver="a driver")) == ("failed", "killed")
    timer.join()


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to("nowhere")])
def test_what_lies_where_a_claim_would_is_named(tmp_path, make):
    folder = tmp_path / "k"
    acquire_claim(folder).release()
    for name in ("claim.007", "claim.\u0663", "claim.0", "claim.x"):
        (folder / name).touch()
    obstacle = claim_path(folder, 9)
    make(obstacle)
    assert claim_numbers(folder) == {1}
    assert read_claim(folder).owner is None
    with pytest.raises(FileExistsError, match=r"is in the way of a claim, and no file of ours: remove it: .*claim\.9"):
        acquire_claim(folder)
    obstacle.rmdir() if obstacle.is_dir() else obstacle.unlink()
    acquire_claim(folder).release()


def test_a_claim_that_is_removed_meanwhile_counts_as_one():
    """It is in nobody's way; and the run is not free, for a higher number took its place."""

    class Removed:
        name = "claim.3"

        def stat(self, *, follow_symlinks):
            raise FileNotFoundError(errno.ENOENT, "gone")

    assert claims.is_claim_file(Removed())


@pytest.mark.parametrize("after", ["an epoch", "an error"])
def test_a_run_that_was_taken_over_is_elsewhere_and_no_failure(tmp_path, make_run, after, read_result):
    """Another process takes over after an epoch. This process continues until its next write, or fails before."""
    run, settings = make_run(), Settings(tmp_path / "runs", checkpoint_seconds=0)
    folder, there = RunFolder(settings.runs, run.key), []

    def taken_over():
        if there:
            return
        write_claim(folder.path, read_claim(folder.path).number + 1, "")
        there.append({path.name: path.read_bytes() for path in folder.path.iterdir()})
        if after == "an error":
            raise ValueError("boo")

    state, reason = execute(run, settings, [], taken_over)
    assert state == "elsewhere"
    assert reason.startswith("another process took it over")
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == there[0]
    assert execute(run, settings, []) == ("finished", "")
    assert execute(run, settings, []) == ("finished", ALREADY_FINISHED)
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
    """Hold a claim, send heartbeats often, and write; stop between two writes on request.

    A write that was begun before a stop is finished after it: there, the claim is confirmed already.
    """
    claims.HEARTBEAT_SECONDS = 0.02
    run = RunFolder(folder.parent, folder.name)
    with run.claim():
        ready.set()
        for i in range(10**6):
            if stop.is_set():
                os.kill(os.getpid(), signal.SIGSTOP)
            try:
                write_json(run.progress, {"epoch": i}, durable=False)
            except ClaimLostError:
                done.set()
                time.sleep(60)
            time.sleep(0.01)


def test_a_suspended_process_loses_its_claim_and_notices_when_it_resumes(tmp_path):
    folder, ready, stop, done = tmp_path / "k", FORK.Event(), FORK.Event(), FORK.Event()
    process = FORK.Process(target=beating, args=(folder, ready, stop, done))
    process.start()
    try:
        assert ready.wait(30)
        observer = ClaimObserver(timeout=5.0)
        time.sleep(0.3)
        assert not observer.is_free(folder), "it lives"
        stop.set()
        impatient = ClaimObserver(timeout=0.3)
        wait_until(lambda: impatient.is_free(folder))
        claim = acquire_claim(folder)
        write_json(folder / "progress.json", {"epoch": "mine"})
        stop.clear()
        os.kill(process.pid, signal.SIGCONT)
        assert done.wait(30)
        assert json.loads((folder / "progress.json").read_text()) == {"epoch": "mine"}
        claim.check_still_owner()
        claim.release()
    finally:
        process.kill()
        process.join()
