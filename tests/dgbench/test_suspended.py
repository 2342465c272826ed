"""A process that is suspended anywhere, and goes on when its run is another's, spoils nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch

from dgbench import claims
from dgbench.claims import ClaimedError, claimed
from dgbench.errors import Interrupted
from dgbench.record import Record
from dgbench.resuming import intact_checkpoint
from dgbench.sweep.state import state_of
from dgbench.training import prepare
from leaderboard import generations, records
from leaderboard.sources import load
from tests.dgbench.tiny import TINY, checks, command
from tests.leaderboard.make_golden import make_check, make_run_json, make_settings

SETTINGS = make_settings(algorithm="erm", test_env=("-90%",))
SETTINGS["steps"] = LAST = 3
SETTINGS["check_every"] = 1


# A training without arithmetic: it writes what one writes, in the same order, by the same functions


def train(
    folder: Path,
    *,
    force: bool = False,
    steps: int = LAST,
    at: Mapping[int, Callable[[], None]] = MappingProxyType({}),
) -> None:
    with claimed(folder) as claim:
        assert claim is not None
        if records.is_finished(folder) and not force:
            return
        checkpoint = None if force else intact_checkpoint(claim.folder, print)
        begun = 0 if checkpoint is None else torch.load(checkpoint)["step"]
        prepare(claim.folder, checkpoint)
        data: Any = None  # of use for measuring alone
        record = Record(claim.folder, make_run_json(SETTINGS), data, {})
        record.open(begun)
        for step in range(begun + 1, steps + 1):
            claim.require()
            at.get(step, int)()
            accuracies = {f"{name}/holdout": step / 10 for name in SETTINGS["train_env"]}
            record.add(make_check(step, accuracies))
            for name in (records.SELECTED_CHECKPOINT, records.LAST_CHECKPOINT):
                save(claim.folder / name, step)
            record.write_status("running", step)
        if steps == LAST:
            record.close(record.checks(), LAST, seconds=1.0)


def save(path: Path, step: int) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    torch.save({"step": step, "state_dict": {"weight": torch.tensor([step])}}, temporary)
    records.replace(temporary, path)


def seen(folder: Path) -> dict[str, bytes]:
    """What a reader finds of a finished run; all of it as its `done.json` says."""
    run = records.read_run(folder, verify_checkpoints=True)
    assert [check["step"] for check in run.checks] == list(range(1, LAST + 1))
    assert run.state == "finished" == state_of(folder)
    (record,), left_out = load([folder.parents[2]])
    assert (record.state, left_out) == ("finished", [])
    assert records.find_runs([folder.parents[2]]) == [run.folder]
    return {path.name: path.read_bytes() for path in run.folder.iterdir()}


# Processes that stop themselves


def started(training: Callable[[], object], store: Path, stop: int) -> int:
    """A process that suspends itself at its n-th act on the files of a store."""
    child = os.fork()
    if child:
        return child
    acts = 0

    def act(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal acts
        changing = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.utime")
        writing = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writing or event in changing) and str(store) in str(arguments[0]):
            acts += 1
            if acts == stop:
                os.kill(os.getpid(), signal.SIGSTOP)

    code = 1
    try:
        sys.addaudithook(act)
        # Behind the opening, before the writing, too.
        opened = open

        def stopping(file: Any, mode: str = "r", *more: Any, **options: Any) -> Any:
            found = opened(file, mode, *more, **options)
            act("os.rename" if "r" not in mode else "", (file,))
            return found

        records.open = stopping  # type: ignore[attr-defined]
        with suppress(ClaimedError, Interrupted):
            training()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def is_stopped(child: int) -> bool:
    """Whether a process has suspended itself; False if it came to its end."""
    _, status = os.waitpid(child, os.WUNTRACED)
    assert os.WIFSTOPPED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSTOPPED(status)


@contextmanager
def ending(child: int) -> Iterator[Callable[[], None]]:
    """Lets a suspended process go on to its end, at the end of the block or when it is asked to."""
    ended = False

    def end() -> None:
        nonlocal ended
        if not ended:
            ended = True
            os.kill(child, signal.SIGCONT)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0

    try:
        yield end
    finally:
        end()


def let_claims_grow_old(store: Path) -> None:
    for claim in store.rglob(".*.claim-*"):
        os.utime(claim, (time.time() - claims.LEASE_SECONDS - 1,) * 2)


BEFORE: dict[str, Callable[[Path], object]] = {
    "anew": lambda folder: None,
    "on resume": lambda folder: train(folder, steps=1),
    "by force": train,
}


class Suspended:
    """Trainings, each in a store of its own and suspended one act, or more, later than the last."""

    def __init__(self, store: Path, before: str, every: int) -> None:
        self.store = store
        self.before = before
        self.every = every

    def __iter__(self) -> Iterator[tuple[int, Path]]:
        for stop in range(1, 1000, self.every):
            store = self.store / str(stop)
            folder = records.run_folder(store, "colored_mnist", "erm", "run")
            BEFORE[self.before](folder)
            training = partial(train, folder, force=self.before == "by force")
            child = started(training, store, stop)
            if not is_stopped(child):
                assert stop > 40  # a training has so many acts at the least
                return
            let_claims_grow_old(store)
            yield child, folder


@pytest.fixture(params=[8, pytest.param(1, marks=pytest.mark.slow)], ids="every {}".format)
def suspended(request, tmp_path) -> Callable[[str], Suspended]:
    return partial(Suspended, tmp_path, every=request.param)


@pytest.mark.parametrize("before", BEFORE)
def test_whoever_goes_on_late_changes_nothing_that_a_reader_sees(before, suspended):
    for child, folder in suspended(before):
        with ending(child):
            train(folder)
            there = seen(folder)
        assert seen(folder) == there
        assert not list(folder.parent.glob(".*"))


def test_whoever_goes_on_while_another_trains_changes_nothing_of_its_record(suspended):
    for child, folder in suspended("on resume"):
        with ending(child) as end:
            train(folder, at={2: end})
        seen(folder)


def test_of_two_that_were_suspended_neither_changes_anything(suspended):
    for first, folder in suspended("on resume"):
        with ending(first):
            second = started(partial(train, folder), folder.parents[2], stop=30)
            if not is_stopped(second):
                continue  # the first one holds no claim yet
            let_claims_grow_old(folder.parents[2])
            with ending(second):
                train(folder)
                there = seen(folder)
        assert seen(folder) == there
        assert not list(folder.parent.glob(".*"))


# Real trainings

STOPPING = """
import os, signal, sys
from leaderboard import records
append, calls = records.append_check, 0

def stopping(path, line):
    global calls
    calls += 1
    if calls == 2:
        os.kill(os.getpid(), signal.SIGSTOP)
    append(path, line)

records.append_check = stopping
from dgbench.cli import main
sys.exit(main(sys.argv[1:]))
"""
RUN = ("fit", "--algo", "erm", "--test-env", "2", *TINY, "--steps", "8")


@contextmanager
def stopped_before_a_check(out: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A training that is suspended just before it appends its second check, and its folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPING, *RUN, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert is_stopped(process.pid)
        (folder,) = records.find_runs([out])
        yield process, folder
    finally:
        process.kill()
        process.wait()


def go_on(process: subprocess.Popen[str]) -> str:
    """Lets a suspended training go on to its end, which is that it was taken over."""
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    return errors


@pytest.mark.distributed
def test_a_training_that_was_suspended_ends_and_leaves_its_successor_s_record_as_it_is(tmp_path):
    with stopped_before_a_check(tmp_path) as (process, folder):
        let_claims_grow_old(tmp_path)
        code, shown, errors = command("fit", "--resume", folder)
        assert code == 0, errors
        successor = generations.following(folder)
        assert f"Record: {successor}\n" in shown
        there = {path.name: path.read_bytes() for path in successor.iterdir()}
        assert f"{folder} was taken over by another process" in go_on(process)
    assert {path.name: path.read_bytes() for path in successor.iterdir()} == there
    assert records.read_run(folder, verify_checkpoints=True).state == "finished"
    assert command(*RUN, "--out", tmp_path)[1].endswith(f"Record: {successor}\n")
    assert command("fit", "--resume", folder)[1].endswith(f"Record: {successor}\n")
    code, _, errors = command(*RUN, "--out", tmp_path / "whole")
    assert code == 0, errors
    assert checks(successor) == checks(records.find_runs([tmp_path / "whole"])[0])


@pytest.mark.slow
def test_the_same_by_the_clock_when_the_successor_was_killed(tmp_path):
    with stopped_before_a_check(tmp_path) as (process, folder):
        time.sleep(claims.LEASE_SECONDS + 12)
        killed = [sys.executable, "-c", STOPPING, "fit", "--resume", str(folder)]
        with subprocess.Popen(killed, stdout=subprocess.DEVNULL) as successor:
            assert is_stopped(successor.pid)
            successor.kill()
        assert "was taken over by another process" in go_on(process)
    code, _, errors = command("fit", "--resume", folder)
    assert code == 0, errors
    run = records.read_run(folder, verify_checkpoints=True)
    assert [check["step"] for check in run.checks] == [2, 4, 6, 8]
    assert run.folder == generations.following(folder)
    assert not list(folder.parent.glob(".*"))
