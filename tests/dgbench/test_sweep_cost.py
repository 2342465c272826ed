"""A sweep says what it costs before it starts, and asks where that is much."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from rich.console import Console
from rich.prompt import Confirm

from datamodules.streams import EnvironmentBatch
from dgbench.algorithms.erm import ERM
from dgbench.errors import UsageError
from dgbench.settings import Settings
from dgbench.sweep import cost
from dgbench.sweep.cost import estimate
from dgbench.sweep.measuring import Cost, measure
from dgbench.sweep.plan import plan
from dgbench.sweep.worker import train
from leaderboard import records
from tests.dgbench.test_sweep import SMALL, sweep
from tests.dgbench.tiny import TINY, command


def nothing_measured(settings: Sequence[Settings]) -> list[Cost | str]:
    raise AssertionError("there are records")


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def test_what_is_left_costs_what_its_finished_runs_did(tmp_path):
    runs = plan(sweep(algos="irm", trials=5), str(tmp_path)).runs
    for run in runs[:3]:
        train([run.settings])
    (line,) = estimate(runs, nothing_measured)
    assert (line.dataset, line.algo, line.runs, line.pairs) == ("colored_mnist", "irm", 5, 0)
    assert list(line.todo) == runs[3:]
    assert line.source == "3 records"
    found = [records.read_run(run.folder).done for run in runs[:3]]
    seconds = [done["seconds"] / done["last_step"] for done in found if done is not None]
    assert line.seconds == pytest.approx(2 * 4 * median(seconds))
    sizes = [size_of(run.folder) for run in runs[:3]]
    assert line.bytes == pytest.approx(2 * sum(sizes) / 3)
    # Of another network nothing is known.
    wide = plan(sweep(algos="irm", flags=(*TINY, "--network.width", "9")), str(tmp_path)).runs
    (line,) = estimate(wide, lambda settings: [Cost(7.0, 100.0) for _ in settings])
    assert line.seconds == pytest.approx(7)
    assert (line.bytes, line.source) == (100, "measuring")


def test_between_the_smallest_and_the_largest_batch_a_step_costs_in_proportion():
    runs = plan(sweep(draws=9, flags=(*TINY, "--search-space", "domainbed")), "runs").runs[1:]
    asked: list[int] = []

    def proportional(settings: Sequence[Settings]) -> list[Cost | str]:
        sizes = [each.data["batch_size"] for each in settings]
        asked.extend(sizes)
        return [Cost(4.0 * (1 + 0.5 * size), 0.0) for size in sizes]

    (line,) = estimate(runs, proportional)
    sizes = [run.settings.data["batch_size"] for run in runs]
    assert asked == [min(sizes), max(sizes)]
    assert line.seconds == pytest.approx(sum(4.0 * (1 + 0.5 * size) for size in sizes))


def test_what_cannot_be_measured_is_said_and_hides_nothing_else():
    runs = plan(sweep(algos=["erm", "irm"]), "runs").runs

    calls = []

    def only_irm(settings: Sequence[Settings]) -> list[Cost | str]:
        calls.append(len(settings))
        return ["no images" if each.algo["name"] == "erm" else Cost(3600, 2e9) for each in settings]

    lines = estimate(runs, only_irm)
    assert calls == [2], "one process can measure all"
    assert [line.seconds for line in lines] == [None, pytest.approx(3600)]
    assert lines[0].source == "not known: no images"
    assert cost.total(lines, 2) == timedelta(minutes=30)
    console = Console(record=True, width=120)
    cost.show(lines, 2, "runs", console)
    shown = console.export_text()
    assert "not known: no images" in shown
    assert "Left: 2 runs in 0:30:00 and what is not known, 2 at a time; 2.0 GB" in shown


def test_a_measured_run_is_the_size_of_a_real_one(tmp_path):
    (run,) = plan(sweep(flags=(*TINY, "--selection", "train_val")), str(tmp_path)).runs
    expected = measure(run.settings)
    assert not list(tmp_path.iterdir())
    train([run.settings])
    assert expected.bytes == pytest.approx(size_of(run.folder), rel=0.1)
    assert expected.seconds > 0


def test_a_dry_run_shows_everything_and_writes_nothing(tmp_path, monkeypatch):
    out = tmp_path / "runs"
    monkeypatch.setattr(
        cost, "measured_here", lambda *_: lambda settings: [Cost(90.0, 1e6) for _ in settings]
    )
    call = ["sweep", "--datasets", "colored_mnist,rotated_mnist", "--algos", "erm,vrex"]
    call += ["--test-envs", "pairs", "--trials", "2", "--out", str(out), "--jobs", "4", *SMALL]
    code, shown, errors = command(*call, "--dry-run")
    assert code == 0, errors
    assert not out.exists()
    assert "Runs: 102, of which finished: 0" in shown
    assert "Left out: vrex on colored_mnist without" in shown
    assert [re.split(r"\s{2,}", line.strip()) for line in shown.splitlines() if "MB  " in line] == [
        ["colored_mnist", "erm", "12", "6", "0", "0:18:00", "12 MB", "measuring"],
        ["colored_mnist", "vrex", "6", "0", "0", "0:09:00", "6 MB", "measuring"],
        ["rotated_mnist", "erm", "42", "30", "0", "1:03:00", "42 MB", "measuring"],
        ["rotated_mnist", "vrex", "42", "30", "0", "1:03:00", "42 MB", "measuring"],
    ]
    assert "66 of the runs hold out a pair, for leave-one-out selection alone." in shown
    assert "102 runs in 0:38:15, 4 at a time; 102 MB on the disk" in shown


def test_a_long_sweep_asks_first(tmp_path, monkeypatch):
    monkeypatch.setattr(
        cost, "measured_here", lambda *_: lambda settings: [Cost(3700.0, 1e6) for _ in settings]
    )
    call = ["sweep", "--datasets", "colored_mnist", "--algos", "erm", "--test-envs", "2"]
    call += ["--trials", "1", "--jobs", "1", "--out", str(tmp_path / "runs"), *TINY]
    code, shown, errors = command(*call, "--steps", 1000)
    assert code == 2
    assert errors == (
        "dgbench: This sweep takes about 1:01:40, more than 1:00:00. Add --yes to begin, or see "
        "what it is made of with --dry-run.\n"
    )
    assert "1:01:40" in shown
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("answer", [True, False])
def test_on_a_terminal_the_question_is_put(answer, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(Confirm, "ask", lambda question, **_: answer)
    console = Console(force_terminal=True)
    if answer:
        cost.ask(timedelta(hours=2), console)
    else:
        with pytest.raises(UsageError, match="Nothing was begun"):
            cost.ask(timedelta(hours=2), console)


def test_few_steps_begin_unasked(tmp_path):
    runs = plan(sweep(trials=3, flags=(*TINY, "--steps", "400")), str(tmp_path)).runs
    assert cost.is_small(runs[:2])
    assert not cost.is_small(runs)


class Deadly(ERM):
    """Ends the process that would train it."""

    def objective(self, batch: EnvironmentBatch) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}


@pytest.mark.slow
def test_a_process_of_its_own_measures_and_says_what_is_wrong(tmp_path):
    (run,) = plan(sweep(), str(tmp_path)).runs
    (deadly,) = plan(sweep(algos=f"{__name__}.Deadly"), "runs").runs
    (refused,) = plan(sweep(flags=(*TINY, "--trainer.accelerator", "abacus")), "runs").runs
    here = cost.measured_here({"OMP_NUM_THREADS": "1"}, None)
    found = here([refused.settings, run.settings, deadly.settings, run.settings])
    problem, cost_of_one, death, cost_of_two = found
    assert isinstance(cost_of_one, Cost)
    assert isinstance(cost_of_two, Cost)
    assert "Lightning refuses" in str(problem)
    assert "terminated abruptly" in str(death)
