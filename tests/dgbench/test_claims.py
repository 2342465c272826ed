"""Of several processes that want a run, one trains it; from a dead one another takes it over."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from dgbench import claims
from dgbench.claims import ClaimedError, claimed, holder
from dgbench.errors import Interrupted, UsageError
from leaderboard import generations, records
from leaderboard.errors import RecordError
from leaderboard.sources import load
from tests.dgbench.crowd import RUNS, checks_of, folder_of
from tests.dgbench.tiny import TINY, command, fit


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "data" / "algo" / "0123456789abcdef"


@pytest.fixture
def other() -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def claim_of(process: int, folder: Path, generation: int = 1, **changes: object) -> Path:
    """The claim that another process would have made."""
    path = folder.with_name(f".{folder.name}.claim-{generation}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**claims._identity(process), **changes}))
    return path


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_a_run_is_claimed_once_and_given_back(folder):
    with claimed(folder):
        assert holder(folder) == f"process {os.getpid()} on {os.uname().nodename}"
        with (
            pytest.raises(ClaimedError, match=f"right now by process {os.getpid()}"),
            claimed(folder),
        ):
            pass
    assert holder(folder) is None
    with claimed(folder):
        pass


def test_a_run_that_could_not_begin_leaves_nothing_behind(folder, tmp_path):
    with claimed(folder):
        assert folder.parent.exists()
    assert list(tmp_path.iterdir()) == []


def test_the_claim_of_a_living_process_holds_and_that_of_a_dead_one_does_not(folder, other):
    claim_of(other.pid, folder)
    with pytest.raises(ClaimedError), claimed(folder):
        pass
    other.kill()
    deadline = time.monotonic() + 10
    while holder(folder) is not None and time.monotonic() < deadline:
        time.sleep(0.01)  # it is a zombie now: nobody has waited for it
    with claimed(folder) as claim:
        assert claim is not None
        assert claim.path.name.endswith("claim-2")
    assert list(folder.parent.iterdir()) == []


def test_a_number_of_a_process_that_is_used_again_does_not_keep_a_claim_alive(folder, other):
    claim_of(other.pid, folder, started="1")
    with claimed(folder):
        pass


def test_from_another_machine_only_the_lease_tells(folder):
    path = claim_of(2**22 + 1, folder, machine="elsewhere", host="elsewhere")
    with pytest.raises(ClaimedError, match="on elsewhere"), claimed(folder):
        pass
    age(path, claims.LEASE_SECONDS + 1)
    assert holder(folder) is None
    with claimed(folder) as claim:
        assert claim is not None
        assert claim.folder == generations.following(folder)
        assert holder(folder) == f"process {os.getpid()} on {os.uname().nodename}"
    assert [path for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_who_takes_over_from_a_silent_one_has_copies_of_what_is_there_and_leaves_the_rest(folder):
    folder.mkdir(parents=True)
    there = ("run.json", "checks.jsonl", "selected.ckpt", "last.ckpt")
    for name in (*there, "status.json", ".last.ckpt.tmp"):
        (folder / name).write_text(name)
    age(claim_of(1, folder, machine="elsewhere"), claims.LEASE_SECONDS + 1)
    with claimed(folder) as claim:
        assert claim is not None
        assert {path.name: path.read_text() for path in claim.folder.iterdir()} == {
            name: name for name in there
        }
        (folder / "checks.jsonl").write_text("what its owner writes as it wakes")
        assert (claim.folder / "checks.jsonl").read_text() == "checks.jsonl"
    # It is all in the second generation: the first one keeps no disk for it.
    assert list(folder.iterdir()) == []
    with claimed(folder) as again:
        assert again is not None
        assert again.folder == claim.folder


def test_who_went_on_from_a_dead_one_keeps_it_from_those_who_cannot_see_that_it_is_dead(folder):
    """On another machine the first claim has only grown old: the second one tells."""
    age(claim_of(1, folder, machine="elsewhere"), claims.LEASE_SECONDS + 1)
    claim_of(1, folder, 2, machine="elsewhere", host="elsewhere")
    with pytest.raises(ClaimedError, match="on elsewhere"), claimed(folder):
        pass
    assert not generations.following(folder).exists()


PIDS: tuple[object, ...] = (-1, 0, True, 1.5, 10**40, "1", None, [])
ANYTHING: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"\xff{",
    "no owner": b"[1]",
    "a lack": b'{"pid": 1}',
    "depth": b"[" * 100_000,
    "much": b" " * 10_000_000,
    **{
        f"pid {pid}": json.dumps({**claims._identity(os.getpid()), "pid": pid}).encode()
        for pid in PIDS
    },
    "a host": json.dumps({**claims._identity(os.getpid()), "host": "\x1b[2J"}).encode(),
}


@pytest.mark.parametrize("content", ANYTHING)
def test_a_claim_of_any_content_holds_for_the_lease(content, folder):
    path = claim_of(os.getpid(), folder)
    path.write_bytes(ANYTHING[content])
    with pytest.raises(ClaimedError, match="by another process, in"), claimed(folder):
        pass
    assert holder(folder) == "another process"
    age(path, claims.LEASE_SECONDS + 1)
    assert holder(folder) is None
    with claimed(folder):
        pass


def test_a_claim_that_is_no_file_is_read_by_nobody(folder):
    path = claim_of(os.getpid(), folder)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ClaimedError, match="by another process, in"), claimed(folder):
        pass


def test_a_claim_of_a_time_to_come_does_not_hold_until_then(folder):
    path = claim_of(1, folder, machine="elsewhere")
    age(path, -claims.LEASE_SECONDS / 2)  # clocks differ
    with pytest.raises(ClaimedError), claimed(folder):
        pass
    age(path, -1e9)
    with claimed(folder):
        pass


def test_what_a_kill_left_beside_a_run_goes_with_the_next_claim(folder):
    claim_of(2**22 + 1, folder, started="1")
    litter = [folder.with_name(name) for name in (".now-killed.tmp", f".{folder.name}.copies-x")]
    litter[0].touch()
    litter[1].mkdir()
    for path in litter:
        age(path, claims.LEASE_SECONDS + 1)
    living = folder.with_name(".now-living.tmp")
    living.touch()
    with claimed(folder):
        assert [path.exists() for path in (*litter, living)] == [False, False, True]


def test_of_many_that_find_a_stale_claim_one_takes_it_over(folder):
    for attempt in range(20):
        age(claim_of(1, folder, machine="elsewhere"), claims.LEASE_SECONDS + 1)
        barrier, done = Barrier(8), Barrier(8)

        def contend(barrier: Barrier = barrier, done: Barrier = done) -> int:
            barrier.wait()
            try:
                with claimed(folder):
                    done.wait()
                    return 1
            except ClaimedError:
                done.wait()
                return 0

        with ThreadPoolExecutor(8) as pool:
            winners = [each.result() for each in [pool.submit(contend) for _ in range(8)]]
        assert sum(winners) == 1, f"attempt {attempt}"


@pytest.mark.parametrize("generations", [1, 2])
def test_who_finds_a_claim_given_back_meanwhile_begins_anew(
    folder, other, monkeypatch, generations
):
    """Else it would hold a later generation, and the next process the first: both would train."""
    dead = subprocess.Popen(["sleep", "60"])
    there = [claim_of(dead.pid, folder, 1), claim_of(other.pid, folder, generations)]
    first, last = there[0], there[-1]
    dead.kill()
    dead.wait()
    look, make = claims._state, claims._create

    def give_back() -> None:
        while there:
            there.pop(0).unlink(missing_ok=True)

    def state(path: Path) -> str:
        if generations == 1 and path == last:
            give_back()  # after it stood in the way, before it is looked at
        return look(path)

    def create(path: Path) -> bool:
        if generations == 2 and path == last:
            give_back()  # after the dead one before it was looked at
        return make(path)

    monkeypatch.setattr("dgbench.claims._state", state)
    monkeypatch.setattr("dgbench.claims._create", create)
    with claimed(folder) as claim:
        assert claim is not None
        assert claim.path == first
        assert [path.name for path in folder.parent.glob(".*")] == [claim.path.name]
        assert holder(folder) is not None
        with pytest.raises(ClaimedError), claimed(folder):
            pass
    assert not list(folder.parent.glob(".*"))


def test_a_handle_that_went_stale_is_a_claim_that_was_given_back(folder, other, monkeypatch):
    path = claim_of(other.pid, folder)
    read = claims._owner

    def stale(claim: Path) -> dict | None:
        if claim == path and path.exists():
            path.unlink()
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return read(claim)

    monkeypatch.setattr("dgbench.claims._owner", stale)
    with claimed(folder) as claim:
        assert claim is not None
        assert claim.path == path


def test_a_heartbeat_keeps_a_claim_alive(folder, monkeypatch):
    monkeypatch.setattr(claims, "_HEARTBEAT_SECONDS", 0.01)
    with claimed(folder) as claim:
        assert claim is not None
        age(claim.path, claims.LEASE_SECONDS + 1)
        deadline = time.monotonic() + 10
        while holder(folder) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert holder(folder) is not None


def test_who_slept_longer_than_the_lease_and_lost_the_run_stops(folder):
    with contextlib.suppress(Interrupted), claimed(folder) as claim:  # as it ends it says so again
        assert claim is not None
        claim.require()
        claim._renewed -= claims.LEASE_SECONDS + 1
        claim.require()  # nobody has taken it over: it goes on
        generations.following(folder).mkdir()
        claim.require()  # the clock says that nobody can have: it looks at nothing
        claim._renewed -= claims.LEASE_SECONDS + 1
        with pytest.raises(Interrupted, match="taken over by another process"):
            claim.require()


def test_who_lost_a_run_is_told_as_it_ends_at_the_latest(folder):
    with pytest.raises(Interrupted, match="taken over by another process"), claimed(folder):
        generations.following(folder).mkdir()


def test_who_finds_no_claim_any_more_has_lost_it(folder):
    with (
        pytest.raises(Interrupted, match=r"its claim \S+ was removed"),
        claimed(folder),
    ):
        next(claims._chain(folder)).unlink()


def test_a_place_that_cannot_be_written_is_one_error():
    with pytest.raises(UsageError, match="cannot be written"), claimed(Path("/proc/nowhere/a/b/c")):
        pass


def test_processes_that_train_along_claim_nothing(folder, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with claimed(folder) as claim:
        assert claim is None
    assert not folder.parent.exists()


def test_who_gets_a_claim_makes_its_file_system_look_at_the_run_anew(folder, monkeypatch):
    # A client of NFS knows of files made elsewhere at the latest when it changes the folder itself.
    folder.mkdir(parents=True)
    changed = folder.stat().st_mtime_ns
    with claimed(folder):
        assert folder.stat().st_mtime_ns > changed
        assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_hundreds_of_processes_share_a_store_that_can_be_read_at_any_time(tmp_path):
    store, count = tmp_path / "store", 200
    store.mkdir()
    crowd = subprocess.Popen([sys.executable, "-m", "tests.dgbench.crowd", str(store), str(count)])
    folders = [folder_of(store, settings) for settings in RUNS]
    readings, readings_of_runs, finished = 0, 0, 0
    while crowd.poll() is None:
        for folder in 3 * [
            folder for folder in folders if not (folder / records.DONE_FILE).exists()
        ]:
            if (folder / records.RUN_FILE).exists():
                records.read_run(folder)
                readings_of_runs += 1
        with contextlib.suppress(RecordError):  # there is no run yet
            found, left_out = load([store])
            assert [each for each in left_out if each.kind != "partial"] == []
            ended = sum(record.state == "finished" for record in found)
            assert ended >= finished
            readings, finished = readings + 1, ended
    assert crowd.returncode == 0
    trained = [note.read_text().split() for note in (tmp_path / "notes").iterdir()]
    assert [len(processes) for processes in trained] == [1] * len(RUNS)
    assert min(readings, readings_of_runs) > 0
    for settings, folder in zip(RUNS, folders, strict=True):
        run = records.read_run(folder)
        assert (run.state, list(run.checks)) == ("finished", checks_of(settings))
    left = [path.name for path in store.rglob(".*")]
    assert left == []


# Runs


def test_fit_refuses_a_run_that_another_process_trains(tmp_path, other):
    folder = fit(tmp_path)
    (folder / "done.json").unlink()
    claim = claim_of(other.pid, folder)
    for more in ((), ("--resume", folder), ("--force",)):
        code, _, errors = command(
            "fit", "--algo", "erm", "--test-env", 2, *TINY, "--out", tmp_path, *more
        )
        assert code == 2
        assert f"trained right now by process {other.pid}" in errors
    claim.unlink()
    fit(tmp_path, "--resume", folder)
    assert not list(folder.parent.glob(".*"))


def test_a_run_that_was_finished_meanwhile_is_returned(tmp_path, monkeypatch):
    folder = fit(tmp_path)
    done, hidden = folder / "done.json", folder / "hidden"
    done.rename(hidden)

    def late(place: Path) -> object:
        hidden.rename(done)
        return claimed(place)

    monkeypatch.setattr("dgbench.training.claimed", late)
    written = (folder / "last.ckpt").stat().st_mtime_ns
    assert fit(tmp_path) == folder
    assert records.read_run(folder).state == "finished"
    assert (folder / "last.ckpt").stat().st_mtime_ns == written
