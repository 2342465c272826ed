"""A sweep plans each run once, trains what is missing, and is none the worse for a kill."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from dgbench import registry
from dgbench.errors import Interrupted, UsageError
from dgbench.stacked import checkpoints
from dgbench.sweep import design as designs
from dgbench.sweep.command import command_of
from dgbench.sweep.design import Sweep, design
from dgbench.sweep.executors import Done, Executor, Group
from dgbench.sweep.launcher import carry_out
from dgbench.sweep.local import LocalExecutor, slots
from dgbench.sweep.plan import PlannedRun, plan
from dgbench.sweep.state import state_of
from dgbench.sweep.worker import Outcome, train
from tests.dgbench.tiny import TINY, checks, command, fit

# Several data sets have no option in common but the budget.
SMALL = TINY[:6]


def sweep(flags: Sequence[str] = TINY, **content: Any) -> Sweep:
    usual = {"datasets": "colored_mnist", "algos": "erm", "test_envs": [2], "trials": 1}
    return design(usual | content, flags)


def labels(runs: Sequence[PlannedRun]) -> list[tuple]:
    return [
        (
            run.settings.algo["name"],
            tuple(run.settings.test_env),
            run.settings.trial_seed,
            run.settings.hparams_seed,
        )
        for run in runs
    ]


class Here:
    """An executor in this process, which may do something else than train."""

    slots = 1

    def __init__(self, act: Callable[[PlannedRun], Outcome] | None = None) -> None:
        self.act = act or (lambda run: train([run.settings])[0])
        self.done: list[Done] = []
        self.stopped = False

    def submit(self, group: Group) -> None:
        self.done.append(Done(group, [self.act(run) for run in group]))

    def wait(self, seconds: float) -> list[Done]:
        done, self.done = self.done, []
        return done

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None: ...


class Groups(Here):
    """Trains groups in this process."""

    def submit(self, group: Group) -> None:
        self.done.append(Done(group, train([run.settings for run in group])))


class Heard:
    """What a launcher told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, bool]] = []

    def started(self, group: Group) -> None: ...

    def ended(self, run: PlannedRun, outcome: Outcome, *, final: bool) -> None:
        self.events.append((outcome.state, final))

    def looked(self) -> None: ...


def launch(runs: Sequence[PlannedRun], executor: Executor, retries: int = 0) -> tuple:
    heard = Heard()
    return carry_out([(run,) for run in runs], executor, retries, heard), heard.events


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor]
    state = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    return state


def same_weights(one: Path, two: Path) -> bool:
    ours, theirs = weights(one), weights(two)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


# The plan


def test_a_plan_is_the_whole_grid_trial_by_trial():
    found = plan(sweep(algos=["erm", "irm"], test_envs="all", trials=2, draws=2), "runs")
    environments = ("+90%", "+80%", "-90%")
    draws = {0: (0, 1), 1: (0, 1001)}
    assert labels(found.runs) == [
        (algo, (environment,), trial, draw)
        for trial in (0, 1)
        for algo in ("erm", "irm")
        for environment in environments
        for draw in draws[trial]
    ]
    assert len({run.folder for run in found.runs}) == len(found.runs)
    assert (found.to_come, found.left_out) == (0, [])


def test_algorithms_of_a_trial_have_its_data_seed():
    found = plan(sweep(algos="all", trials=3), "runs")
    seeds = {(run.settings.trial_seed, run.settings.data_seed) for run in found.runs}
    assert seeds == {(trial, trial) for trial in range(3)}
    assert {run.settings.algo["name"] for run in found.runs} == set(registry.entries("algorithm"))


def test_pairs_are_what_leave_one_out_needs():
    found = plan(sweep(test_envs="pairs", datasets="rotated_mnist", flags=SMALL), "runs")
    held_out = [run.settings.test_env for run in found.runs]
    names = ("0deg", "15deg", "30deg", "45deg", "60deg", "75deg")
    assert held_out[:6] == [[name] for name in names]
    assert held_out[6:] == [list(pair) for pair in itertools.combinations(names, 2)]


def test_what_an_algorithm_cannot_train_on_is_left_out_and_said():
    found = plan(sweep(algos=["erm", "vrex"], test_envs="pairs"), "runs")
    assert len(found.left_out) == 3
    assert "vrex on colored_mnist without +90% and -90%: it needs 2" in found.left_out[1]
    assert {algo for algo, held_out, *_ in labels(found.runs) if len(held_out) == 2} == {"erm"}


def test_more_trials_draws_and_algorithms_move_no_run():
    few = plan(sweep(trials=2, draws=3), "runs").runs
    many = plan(sweep(algos=["irm", "erm"], trials=3, draws=5, test_envs=[0, 2]), "runs").runs
    assert {run.folder for run in few} < {run.folder for run in many}


def test_draws_of_every_trial_are_its_own_or_those_of_the_first():
    again = plan(sweep(trials=2, draws=3), "runs").runs
    rates = [run.settings.algo["learning_rate"] for run in again]
    assert rates[0] == rates[3]
    assert len(set(rates)) == 5


def test_a_planned_run_is_the_one_that_fit_would_train(tmp_path):
    (first, second) = plan(sweep(draws=2), str(tmp_path)).runs
    assert fit(tmp_path) == first.folder
    arguments = shlex.split(command_of(second))[3:]
    code, shown, errors = command(*arguments)
    assert code == 0, errors
    assert f"Record: {second.folder}" in shown
    assert state_of(second.folder) == "finished"


def test_named_values_of_one_option_are_one_run_each():
    varied = {"algo.penalty_weight": [0.0, 1.0, 100.0]}
    found = plan(sweep(algos="irm", vary=varied), "runs").runs
    assert [run.settings.algo["penalty_weight"] for run in found] == [0.0, 1.0, 100.0]
    assert {run.settings.hparams_seed for run in found} == {0}


def test_a_sweep_of_thousands_is_planned_in_moments():
    grid = {"datasets": ["colored_mnist", "rotated_mnist"], "test_envs": "pairs", "flags": ()}
    found = plan(sweep(**grid, trials=3, draws=20, protocol="domainbed"), "runs")
    # DomainBed's 360 for Colored MNIST, and 1,260 where there are six environments.
    assert len(found.runs) == 360 + 1260


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"algos": "emr"}, "Did you mean erm"),
        ({"algo": "erm"}, "no option of a sweep 'algo'. Did you mean algos"),
        ({"trials": 0}, "trials is 0; it must be at least 1"),
        ({"draws": 1001}, "draws is 1001"),
        ({"estimand": "both"}, "search-again or tune-once"),
        ({"draws": 2, "vary": {"steps": [1]}}, "Leave out --vary or --draws"),
        ({"flags": ["--test-env", "2"]}, "use --test-envs"),
        ({"flags": ["--data-seed", "0"]}, "--data-seed is decided by the sweep; use --trials"),
        ({"options": {"data_seed": 0}}, "--data-seed=0 is decided by the sweep; use --trials"),
        ({"vary": {"data_seed": [0, 1]}}, "--data-seed is decided by the sweep; use --trials"),
        ({"flags": ["--step", "2"]}, "There is no option --step"),
        ({"draws": 2, "estimand": "tune-once"}, "Add --selection train_val"),
    ],
)
def test_what_cannot_be_swept_is_refused(content, message):
    with pytest.raises(UsageError) as raised:
        plan(sweep(**content), "runs")
    assert message in str(raised.value)


@pytest.mark.parametrize("name", designs.names())
def test_every_sweep_of_the_suite_can_be_planned(name):
    assert plan(design(designs.read(name)), "runs").runs


# Two estimands


def test_tuned_once_the_preferred_draw_is_repeated(tmp_path):
    once = sweep(draws=3, trials=3, estimand="tune-once", flags=(*TINY, "--selection", "train_val"))
    first = plan(once, str(tmp_path))
    assert [draw for *_, draw in labels(first.runs)] == [0, 1, 2]
    assert first.to_come == 2
    launch(first.runs, Here())

    whole = plan(once, str(tmp_path))
    assert whole.to_come == 0
    best = max(first.runs, key=lambda run: validation(run.folder))
    chosen = best.settings.hparams_seed
    assert [(trial, draw) for *_, trial, draw in labels(whole.runs)][3:] == [
        (1, chosen),
        (2, chosen),
    ]
    rates = {run.settings.algo["learning_rate"] for run in whole.runs[3:]}
    assert rates == {best.settings.algo["learning_rate"]}


def validation(folder: Path) -> float:
    """The highest mean holdout accuracy of the two training environments, by hand."""
    splits: list[dict] = [line["splits"] for line in checks(folder)]
    return max(s["+90%/holdout"]["accuracy"] + s["+80%/holdout"]["accuracy"] for s in splits)


# Carrying out


def test_a_sweep_does_what_is_missing_and_nothing_twice(tmp_path):
    call = ["sweep", "--datasets", "colored_mnist", "--algos", "erm,irm", "--test-envs", "2"]
    call += ["--trials", "1", "--out", tmp_path, *TINY]
    first, _ = plan(sweep(algos=["erm", "irm"]), str(tmp_path)).runs
    train([first.settings])
    written = (first.folder / "last.ckpt").stat().st_mtime_ns
    code, shown, errors = command(*call, "--jobs", 1)
    assert code == 0, errors
    assert "Runs: 2, of which finished: 1" in shown
    assert "[2/2] irm on colored_mnist, -90% held out, trial 0: finished" in shown
    code, shown, _ = command(*call)
    assert code == 0
    assert "Runs: 2, of which finished: 2" in shown
    assert (first.folder / "last.ckpt").stat().st_mtime_ns == written

    code, shown, _ = command("sweep", "status", "--out", tmp_path)
    assert code == 0
    assert "2 of 2 runs finished" in shown
    assert "│ irm       │  1/1 │" in shown


def test_failures_are_retried_as_often_as_said_and_then_listed():
    runs = plan(sweep(algos=["erm", "irm"]), "runs").runs
    attempts: list[str] = []

    def act(run: PlannedRun) -> Outcome:
        attempts.append(run.settings.algo["name"])
        fine = run.settings.algo["name"] == "erm" and len(attempts) > 2
        return Outcome("finished") if fine else Outcome("failed", "RuntimeError: no luck")

    failures, events = launch(runs, Here(act), retries=2)
    assert attempts == ["erm", "irm", "erm", "irm", "irm"]
    assert [(failure.run, failure.message) for failure in failures] == [
        (runs[1], "RuntimeError: no luck")
    ]
    assert events.count(("failed", True)) == 1


def test_what_cannot_succeed_is_not_retried(tmp_path):
    flags = (*TINY, "--trainer.accelerator", "abacus")
    (run,) = plan(sweep(flags=flags), str(tmp_path)).runs
    ((failure,), events) = launch([run], Here(), retries=5)
    assert events == [("refused", True)]
    assert "Lightning refuses" in failure.message
    assert state_of(run.folder) == "failed"


class FullDisk(io.StringIO):
    """What a worker prints to, on a disk without room."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_an_error_of_one_run_ends_no_other(tmp_path, monkeypatch):
    runs = plan(sweep(algos=["irm", "erm"]), str(tmp_path)).runs

    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("dgbench.algorithms.irm.IRM.objective", broken)
    with contextlib.redirect_stderr(FullDisk()):
        failures, events = launch(runs, Here(), retries=1)
    assert [each.message for each in failures] == ["RuntimeError: out of memory"]
    assert events == [("failed", False), ("finished", True), ("failed", True)]
    assert [state_of(run.folder) for run in runs] == ["failed", "finished"]


def test_a_full_disk_stops_the_launcher_and_the_same_sweep_goes_on(tmp_path, monkeypatch):
    import pytorch_lightning as pl

    runs = plan(sweep(algos=["irm", "erm"]), str(tmp_path)).runs
    save, calls = pl.Trainer.save_checkpoint, 0

    def full(trainer: pl.Trainer, path: Path, **options: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(trainer, path, **options)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", full)
    executor = Here()
    with pytest.raises(UsageError, match=r"No space left on device.*same command goes on"):
        launch(runs, executor)
    assert executor.stopped
    assert [state_of(run.folder) for run in runs] == ["failed", "missing"]
    assert launch(runs, Here())[0] == []
    whole = plan(sweep(algos="irm"), str(tmp_path / "whole")).runs
    launch(whole, Here())
    assert same_weights(runs[0].folder, whole[0].folder)


@pytest.mark.parametrize("stacked", [1, 2])
def test_wherever_a_disk_fills_up_one_message_says_so_and_the_same_sweep_goes_on(
    stacked, small_disk, tmp_path
):
    flags = (*TINY, "--steps", "6", "--data.batch_size", "8")
    whole, runs = (
        plan(sweep(algos="irm", trials=stacked, flags=flags), str(out)).runs
        for out in (tmp_path / "whole", small_disk)
    )
    assert carry_out([tuple(whole)], Groups(), 0, Heard()) == []
    last, filler = runs[0].folder / "last.ckpt", small_disk / "filler"
    reached, said = [0], []
    for room in range(0, 400_000, 4096):
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - room))
        executor = Groups()
        try:
            assert carry_out([tuple(runs)], executor, 0, Heard()) == []
            break
        except UsageError as error:
            said.append(str(error))
        reached.append(checkpoints.step_of(last))
        filler.unlink()
    assert all(re.search("No space left on device.*same command goes on", each) for each in said)
    assert all(str(small_disk) in each for each in said)
    assert reached == sorted(reached), "a checkpoint was lost"
    assert set(reached) == {0, 2}, "it filled up both before and behind a checkpoint"
    assert all(same_weights(r.folder, w.folder) for r, w in zip(runs, whole, strict=True))
    assert all(checks(r.folder) == checks(w.folder) for r, w in zip(runs, whole, strict=True))
    assert not list(small_disk.rglob(".*")), "something was left behind"


def test_a_run_that_another_launcher_trains_is_asked_for_again(monkeypatch):
    monkeypatch.setattr("dgbench.sweep.launcher._SECONDS_TO_DEFER", 0.0)
    monkeypatch.setattr("dgbench.sweep.launcher._SECONDS_BETWEEN_LOOKS", 0.0)
    (run,) = plan(sweep(), "runs").runs
    answers = iter([Outcome("claimed"), Outcome("claimed"), Outcome("finished")])
    failures, events = launch([run], Here(lambda _: next(answers)))
    assert failures == []
    assert events == [("claimed", False), ("claimed", False), ("finished", True)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_it_with_what_is_under_way(number, tmp_path):
    runs = plan(sweep(algos=["irm", "erm"]), str(tmp_path)).runs

    def act(run: PlannedRun) -> Outcome:
        os.kill(os.getpid(), number)
        return Outcome("interrupted", f"stopped by {number.name} after step 3")

    executor = Here(act)
    with pytest.raises(Interrupted, match="the same command goes on"):
        launch(runs, executor)
    assert executor.stopped
    assert not (runs[1].folder).exists()


# Workers


def test_cores_and_gpus_are_shared_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5})
    halves = slots(2, [], 1)
    assert [(each.cores, each.gpu, each.threads) for each in halves] == [
        ((0, 1, 2), "", 3),
        ((3, 4, 5), "", 3),
    ]
    assert len(slots(None, [], 1)) == 6
    shared = slots(None, ["0", "1"], 2)
    assert [each.gpu for each in shared] == ["0", "1", "0", "1"]
    assert {each.threads for each in shared} == {1}
    assert len({core for each in slots(9, [], 1) for core in each.cores or ()}) == 6


def test_a_killed_worker_is_replaced_and_its_run_ends_in_the_same_bits(tmp_path):
    budget = (*TINY, "--steps", "600", "--check-every", "20")
    (whole,) = plan(sweep(flags=budget), str(tmp_path / "whole")).runs
    (broken,) = plan(sweep(flags=budget), str(tmp_path / "broken")).runs
    train([whole.settings])
    executor = LocalExecutor(slots(1, [], 1), tmp_path)
    killed: list[int] = []

    class Killer(Heard):
        def looked(self) -> None:
            (worker,) = executor._workers
            if not killed and worker is not None and (broken.folder / "last.ckpt").exists():
                killed.append(worker.process.pid or 0)
                os.kill(killed[0], signal.SIGKILL)

    monkey = Killer()
    try:
        failures = carry_out([(broken,)], executor, 1, monkey)
    finally:
        executor.close()
    assert failures == []
    assert monkey.events == [("failed", False), ("finished", True)], "it was not killed in time"
    assert same_weights(whole.folder, broken.folder)
    assert not list(broken.folder.parent.glob(".*")), "a claim was left behind"
