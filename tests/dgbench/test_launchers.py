"""A sweep's launcher is killed, or is not alone: each run is trained once, to the same bits."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from rich.console import Console

from dgbench.claims import claimed
from dgbench.sweep.plan import PlannedRun, plan
from dgbench.sweep.state import state_of, write_failure
from dgbench.sweep.view import Progress
from dgbench.sweep.worker import Outcome, train
from leaderboard import records
from tests.dgbench.test_executors import same_records, started, training, until
from tests.dgbench.test_sweep import Here, sweep
from tests.dgbench.tiny import TINY, command
from tests.leaderboard.make_golden import make_run_json, make_settings

TRIALS = 4
LONG = (*TINY, "--steps", "600", "--check-every", "20")
COUNTED = """
import io
import os
from dgbench.algorithms.erm import ERM


class Counted(ERM):
    def on_fit_start(self):
        super().on_fit_start()
        with open(os.environ["COUNTED"], "a") as file:
            print(os.getpid(), file=file)
"""


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line for each time that ``counted.Counted`` begins to train."""
    (tmp_path / "counted.py").write_text(COUNTED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("COUNTED", str(tmp_path / "starts"))
    (tmp_path / "starts").touch()
    return tmp_path / "starts"


def planned(out: Path) -> list[PlannedRun]:
    return plan(sweep(algos="counted.Counted", trials=TRIALS, flags=LONG), str(out)).runs


def launcher(out: Path, jobs: int) -> subprocess.Popen[str]:
    grid = ("--datasets", "colored_mnist", "--algos", "counted.Counted", "--test-envs", "2")
    # Measuring the cost first would start a run that nobody counts.
    size = ("--trials", str(TRIALS), "--jobs", str(jobs), "--yes")
    return started("sweep", *grid, *size, "--out", str(out), *LONG)


def undisturbed(out: Path) -> list[PlannedRun]:
    runs = planned(out)
    for run in runs:
        train([run.settings])
    return runs


def ended(process: subprocess.Popen[str]) -> str:
    shown, _ = process.communicate(timeout=240)
    assert process.returncode == 0, shown
    return shown


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["the launcher", "everything"])
def test_killed_a_sweep_does_what_is_missing_and_ends_in_the_same_bits(killed, starts, tmp_path):
    runs = planned(tmp_path / "runs")
    folders = [run.folder for run in runs]
    first = launcher(tmp_path / "runs", 2)
    # Two are finished, two under way; in this order, for those under way may finish meanwhile.
    until(
        lambda: [*map(state_of, folders)].count("finished") == 2 and training(runs) == 2,
        first,
    )
    if killed == "everything":
        os.killpg(first.pid, signal.SIGKILL)
    else:
        first.kill()
    first.communicate(timeout=60)
    # Its workers end by themselves, behind their steps.
    end = time.monotonic() + 60
    while "running" in map(state_of, folders) and time.monotonic() < end:
        time.sleep(0.1)
    states = sorted(map(state_of, folders))
    assert states == ["finished", "finished", "interrupted", "interrupted"]
    assert len(starts.read_text().splitlines()) == 4

    shown = ended(launcher(tmp_path / "runs", 2))
    assert "Runs: 4, of which finished: 2" in shown
    assert len(starts.read_text().splitlines()) == 6
    again = ended(launcher(tmp_path / "runs", 2))
    assert "Runs: 4, of which finished: 4" in again
    assert len(starts.read_text().splitlines()) == 6
    assert same_records(runs, undisturbed(tmp_path / "whole"))
    assert not list((tmp_path / "runs").rglob(".*claim*")), "a claim was left behind"


@pytest.mark.slow
def test_two_launchers_on_one_folder_train_each_run_once(starts, tmp_path):
    runs = planned(tmp_path / "runs")
    both = [launcher(tmp_path / "runs", 1), launcher(tmp_path / "runs", 1)]
    shown = [ended(process) for process in both]
    trained_by = starts.read_text().split()
    assert len(trained_by) == TRIALS
    assert len(set(trained_by)) == 2, f"one of them had nothing to do: {shown}"
    assert same_records(runs, undisturbed(tmp_path / "whole"))


def test_what_failed_is_listed_with_the_command_that_goes_on_with_it(tmp_path, monkeypatch):
    def unlucky(run: PlannedRun) -> Outcome:
        return Outcome("failed", "RuntimeError: no luck")

    monkeypatch.setattr("dgbench.sweep.command._executor", lambda *_: Here(unlucky))
    grid = ("--datasets", "colored_mnist", "--algos", "erm", "--test-envs", "2", "--trials", "1")
    code, shown, _ = command("sweep", *grid, "--retries", 1, "--out", tmp_path, *TINY)
    assert code == 1
    assert shown.count("no luck") == 3, "once retried, once failed, once listed"
    listed = shown.splitlines()
    where = listed.index(
        "Failed: erm on colored_mnist, -90% held out, trial 0: RuntimeError: no luck"
    )
    assert listed[where + 1].startswith("  python -m dgbench fit ")
    (run,) = plan(sweep(), str(tmp_path)).runs
    assert state_of(run.folder) == "failed"
    assert not list(run.folder.parent.glob(".*"))
    with claimed(run.folder):  # another process trains it by now, and has written what it does
        records.write_json_atomic(run.folder / "status.json", {"status": "running", "step": 1})
        write_failure(run.folder, "RuntimeError: no luck")
        assert json.loads((run.folder / "status.json").read_text())["status"] == "running"
    code, _, errors = command(*shlex.split(listed[where + 1])[3:])
    assert code == 0, errors
    assert state_of(run.folder) == "finished"


def test_the_view_tells_progress_speed_and_time_left(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("dgbench.sweep.view.time.monotonic", lambda: now[0])
    runs = plan(sweep(trials=3, flags=("--steps", "100", *TINY[2:])), str(tmp_path)).runs
    console = Console(file=io.StringIO(), width=120)
    # One of four was finished before; two run at a time.
    progress = Progress(console, runs, 1, 2)

    def shown() -> str:
        console.print(progress.picture())
        return str(console.file.getvalue()).splitlines()[-3]  # type: ignore[attr-defined]

    def at(run: PlannedRun, step: int) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        status = {"status": "running", "step": step, "error": None}
        records.write_json_atomic(run.folder / "status.json", status)

    at(runs[0], 50)  # interrupted earlier
    progress.started(runs[:1])
    progress.started(runs[1:2])
    assert "1/4 runs" in shown()
    assert "time left unknown" in shown()
    now[0] = 30.0
    at(runs[0], 80)
    # 100 steps take 100 s: 20 s, 100 s and 100 s are left, two at a time.
    assert "0:01:50 left" in shown()
    now[0] = 60.0
    records.write_json_atomic(runs[0].folder / "run.json", make_run_json(make_settings()))
    records.rewrite_checks(runs[0].folder / "checks.jsonl", [])
    records.write_done(runs[0].folder, status="finished", last_step=100, selected={}, seconds=40.0)
    progress.ended(runs[0], Outcome("finished"), final=True)
    progress.started(runs[2:])
    # 40 s a run, of which two are left.
    assert "2/4 runs" in shown()
    assert "60 runs an hour" in shown()
    assert "0:00:40 left" in shown()


def test_of_a_stack_each_run_takes_its_share_of_the_time_left(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("dgbench.sweep.view.time.monotonic", lambda: now[0])
    runs = plan(sweep(trials=3, flags=("--steps", "100", *TINY[2:])), str(tmp_path)).runs
    console = Console(file=io.StringIO(), width=120)
    progress = Progress(console, runs, 0, 1)
    progress.started(runs[:2])
    now[0] = 30.0
    for run in runs[:2]:
        run.folder.mkdir(parents=True)
        status = {"status": "running", "step": 30, "error": None}
        records.write_json_atomic(run.folder / "status.json", status)
    console.print(progress.picture())
    # Both take 100 s together, of which 70 s are left, and the third takes 50 s.
    assert "0:02:00 left" in console.file.getvalue()  # type: ignore[attr-defined]
