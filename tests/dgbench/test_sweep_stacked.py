"""A sweep that trains stacked leaves the records that it would leave without, and loses nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.streams import EnvironmentBatch
from dgbench.algorithms.erm import ERM
from dgbench.algorithms.irm import IRM
from dgbench.claims import claimed
from dgbench.stacked.plan import data_bytes, operations_per_row
from dgbench.sweep import manifest
from dgbench.sweep.design import Stack
from dgbench.sweep.executors import Done, Group
from dgbench.sweep.launcher import carry_out
from dgbench.sweep.local import LocalExecutor, slots
from dgbench.sweep.plan import PlannedRun, plan
from dgbench.sweep.stacking import Grouping, grouped
from dgbench.sweep.state import seconds_of, state_of
from dgbench.sweep.worker import train
from leaderboard import records
from tests.dgbench.test_stacked import close, without_time
from tests.dgbench.test_sweep import Groups, Heard, same_weights, sweep
from tests.dgbench.tiny import TINY, command

SMALL = (*TINY, "--data.batch_size", "8")
EXACT = (*SMALL, "--trainer.precision", "64-true", "--network.logits", "all")
DRAWN = (*EXACT, "--search-space", "domainbed-stackable")


def stacks(runs: Sequence[PlannedRun], stack: Stack, at_a_time: int = 1) -> Grouping:
    return grouped(runs, stack, at_a_time)


def members(groups: Sequence[Group]) -> list[tuple[tuple[str, int], ...]]:
    return [
        tuple((run.settings.algo["name"], run.settings.trial_seed) for run in group)
        for group in groups
    ]


def launched(groups: Sequence[Group], retries: int = 0) -> list[tuple[str, bool]]:
    heard = Heard()
    assert carry_out(groups, Groups(), retries, heard) == []
    return heard.events


# Which runs are trained together


def test_runs_that_differ_in_seeds_and_numbers_are_stacked_in_equal_parts():
    runs = plan(sweep(algos=["erm", "irm"], trials=5, flags=SMALL), "runs").runs
    found = stacks(runs, 3)
    assert found.alone == []
    assert members(found.groups) == [
        (("erm", 0), ("erm", 1)),
        (("irm", 0), ("irm", 1)),
        (("erm", 2), ("erm", 3), ("erm", 4)),
        (("irm", 2), ("irm", 3), ("irm", 4)),
    ]
    assert [len(group) for group in stacks(runs, 1).groups] == [1] * 10
    # As many stacks as are trained at a time.
    assert [len(group) for group in stacks(runs, "auto", 2).groups] == [5, 5]
    assert [len(group) for group in stacks(runs, "auto", 4).groups] == [2, 2, 3, 3]


def test_no_more_than_a_third_of_a_stacks_rows_is_masked():
    runs = plan(sweep(draws=40, flags=(*TINY, "--search-space", "domainbed")), "runs").runs
    found = stacks(runs, 40)
    sizes = [[run.settings.data["batch_size"] for run in group] for group in found.stacks]
    assert len(sizes) > 1
    for each in sizes:
        assert sum(each) >= 2 / 3 * len(each) * max(each)
    widths = sum(len(each) * max(each) for each in sizes)
    assert found.masked == pytest.approx(1 - sum(map(sum, sizes)) / widths)
    assert sorted(run.folder for group in found.groups for run in group) == sorted(
        run.folder for run in runs
    )
    powers = plan(sweep(draws=40, flags=(*TINY, "--search-space", "domainbed-stackable")), "runs")
    assert len(stacks(powers.runs, 40).groups) < len(found.groups)


def test_what_cannot_be_stacked_is_said_once_and_trained_by_itself():
    runs = plan(sweep(algos=["icp", "erm"], trials=3, flags=SMALL), "runs").runs
    found = stacks(runs, 8)
    (reason,) = found.alone
    assert reason.startswith("icp on colored_mnist: icp has steps of its own (")
    assert sorted(len(group) for group in found.groups) == [1, 1, 1, 3]


def test_auto_leaves_those_alone_that_arithmetic_binds():
    def found(*flags: str) -> Grouping:
        return stacks(plan(sweep(trials=2, flags=(*TINY, *flags)), "runs").runs, "auto")

    assert found().alone == ["erm on colored_mnist: full batches are bound by arithmetic"]
    small, large = ("--data.batch_size", "64"), ("--data.batch_size", "2048", "--network.width")
    assert [len(group) for group in found(*small).groups] == [2]
    heavy = found(*large, "64")
    assert [len(group) for group in heavy.groups] == [1, 1]
    assert "its steps are bound by arithmetic" in heavy.alone[0]
    # Forward, and backward by weights and, behind the first layer, by activations.
    (run,) = plan(sweep(flags=(*SMALL, "--network.logits", "all")), "runs").runs
    by_hand = 2 * (392 * 8 * 2 + 8 * 8 * 3 + 8 * 2 * 3) * 2
    assert operations_per_row(run.settings) == by_hand


def test_auto_stacks_no_more_data_than_memory_holds(monkeypatch):
    draws = (*SMALL, "--data.batch_size", "8", "--search-space", "signatures")
    runs = plan(sweep(algos="irm", trials=4, draws=2, flags=draws), "runs").runs
    # 250 samples an environment, 200 of them for training in two, of 2 x 14 x 14 floats.
    each = (3 * 250 + 2 * 200) * 2 * 14 * 14 * 4
    assert data_bytes(runs[0].settings) == each

    def seeds(memory: float | None, stack: Stack = "auto") -> list[list[int]]:
        monkeypatch.setattr("dgbench.sweep.stacking.memory_gb", lambda: memory)
        return [[r.settings.data_seed for r in group] for group in stacks(runs, stack).groups]

    whole = [[0, 0, 1, 1, 2, 2, 3, 3]]
    assert seeds(None) == seeds(24) == whole
    assert seeds(4.1 * each / 2**30) == [[0, 0, 1, 1], [2, 2, 3, 3]]
    assert seeds(2.1 * each / 2**30) == seeds(0) == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert seeds(0, 8) == whole
    monkeypatch.setattr("dgbench.sweep.stacking.memory_gb", lambda: 0.0)
    assert stacks(runs, "auto", 2).bounded == [
        "irm on colored_mnist: memory holds the data of 1 trials for each of 2 stacks at a time"
    ]


def test_how_a_sweep_is_trained_is_no_part_of_what_it_is(tmp_path):
    assert manifest.name_of(sweep(stack="auto"), None) == manifest.name_of(sweep(), None)
    file = tmp_path / "small.yaml"
    file.write_text("datasets: colored_mnist\nalgos: erm\nstack: many\n")
    code, _, errors = command("sweep", file)
    assert (code, errors) == (2, "dgbench: stack is many; it must be auto or at least 1.\n")
    call = ("sweep", "--datasets", "colored_mnist", "--algos", "erm", "--executor", "commands")
    code, _, errors = command(*call, "--stack", 4, "--out", tmp_path)
    assert code == 2
    assert "nothing is trained stacked. Add --stack 1" in errors


# What they leave


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> list[PlannedRun]:
    """Two trials of two draws, trained stacked by the sweep."""
    out = tmp_path_factory.mktemp("stacked")
    runs = plan(sweep(algos="irm", trials=2, draws=2, flags=DRAWN), str(out)).runs
    found = stacks(runs, 8)
    assert max(len(group) for group in found.groups) > 1
    assert {event for event in launched(found.groups)} == {("finished", True)}
    return runs


def test_stacked_or_not_the_records_are_the_same(whole, tmp_path):
    alone = plan(sweep(algos="irm", trials=2, draws=2, flags=DRAWN), str(tmp_path)).runs
    launched([(run,) for run in alone])
    counts = []
    for together, separate in zip(whole, alone, strict=True):
        ours, theirs = records.read_run(together.folder), records.read_run(separate.folder)
        counts.append(ours.run["hardware"].get("stacked", 1))
        assert together.folder.name == separate.folder.name
        assert without_time(ours.run) == without_time(theirs.run)
        assert close(without_time(list(ours.checks)), without_time(list(theirs.checks)))
        states = [
            torch.load(run.folder / "last.ckpt", weights_only=True)["state_dict"]
            for run in (together, separate)
        ]
        assert close(*states)
    assert max(counts) > 1
    drawn = [records.read_run(run.folder).run.get("search", {}) for run in whole]
    assert [search.get("space") for search in drawn] == [None, "domainbed-stackable"] * 2
    shares = [seconds_of(run.folder) or 0.0 for run in whole]
    dones = [records.read_run(run.folder).done for run in whole]
    taken = [done["seconds"] for done in dones if done is not None]
    assert shares == [total / count for total, count in zip(taken, counts, strict=True)]


def test_of_a_stack_that_is_finished_in_part_the_rest_is_trained(whole, tmp_path):
    runs = plan(sweep(algos="irm", trials=2, draws=2, flags=DRAWN), str(tmp_path)).runs
    train([runs[1].settings])
    written = (runs[1].folder / "last.ckpt").stat().st_mtime_ns
    assert {event for event in launched(stacks(runs, 8).groups)} == {("finished", True)}
    assert (runs[1].folder / "last.ckpt").stat().st_mtime_ns == written
    assert [state_of(run.folder) for run in runs] == ["finished"] * 4


def test_of_a_stack_that_is_claimed_in_part_the_rest_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr("dgbench.sweep.launcher._SECONDS_TO_DEFER", 0.0)
    runs = plan(sweep(trials=3, flags=SMALL), str(tmp_path)).runs
    with claimed(runs[1].folder):
        states = [outcome.state for outcome in train([run.settings for run in runs])]
    assert states == ["finished", "claimed", "finished"]
    assert launched([tuple(runs)]) == [("finished", True)] * 3


class Undecided(ERM):
    """Asks for a number, which several runs have several of."""

    def objective(self, batch: EnvironmentBatch) -> dict[str, Any]:
        found = super().objective(batch)
        return found if float(found["loss"].detach()) > 0 else {}


def test_what_torch_func_cannot_stack_is_trained_by_itself(tmp_path, capsys):
    name = f"{__name__}.Undecided"
    runs = plan(sweep(algos=name, trials=2, flags=SMALL), str(tmp_path)).runs
    events = launched(stacks(runs, 2).groups)
    assert events == [("alone", False)] * 2 + [("finished", True)] * 2
    assert [records.read_run(run.folder).run["hardware"].get("stacked") for run in runs] == [
        None,
        None,
    ]


def test_a_stack_that_fails_is_tried_again_whole_and_then_one_by_one(monkeypatch):
    runs = plan(sweep(trials=3, flags=SMALL), "runs").runs
    tried: list[int] = []

    class Dying(Groups):
        def submit(self, group: Group) -> None:
            from dgbench.sweep.executors import lost
            from dgbench.sweep.worker import Outcome

            tried.append(len(group))
            finished = Done(group, [Outcome("finished")])
            self.done.append(finished if len(group) == 1 else lost(group, "killed"))

    assert carry_out([tuple(runs)], Dying(), 2, Heard()) == []
    assert tried == [3, 3, 1, 1, 1]


# Kills


def test_a_signal_stops_a_stack_and_the_same_sweep_goes_on_to_the_same_bits(
    whole, tmp_path, monkeypatch
):
    runs = plan(sweep(algos="irm", trials=2, draws=2, flags=DRAWN), str(tmp_path)).runs
    groups = stacks(runs, 8).groups
    objective, calls = IRM.objective, iter(range(100))

    def signalling(algorithm: IRM, batch: EnvironmentBatch) -> dict[str, Tensor]:
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return objective(algorithm, batch)

    stack = next(group for group in groups if len(group) > 1)
    with monkeypatch.context() as patch:
        patch.setattr(IRM, "objective", signalling)
        outcomes = train([run.settings for run in stack])
    assert {outcome.state for outcome in outcomes} == {"interrupted"}
    assert {state_of(run.folder) for run in stack} == {"interrupted"}
    launched(groups)
    for expected, found in zip(whole, runs, strict=True):
        assert same_weights(expected.folder, found.folder)


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_of_a_stack(tmp_path):
    flags = (*SMALL, "--steps", "300", "--check-every", "20")
    whole = plan(sweep(trials=2, flags=flags), str(tmp_path / "whole")).runs
    broken = plan(sweep(trials=2, flags=flags), str(tmp_path / "broken")).runs
    train([run.settings for run in whole])
    executor = LocalExecutor(slots(1, [], 1), tmp_path)
    killed: list[Path] = []

    class Killer(Heard):
        def looked(self) -> None:
            (worker,) = executor._workers
            written = [run.folder for run in broken if (run.folder / "last.ckpt").exists()]
            if not killed and worker is not None and len(written) == 2:
                killed.extend(written)
                os.kill(worker.process.pid or 0, signal.SIGKILL)

    monkey = Killer()
    try:
        failures = carry_out([tuple(broken)], executor, 1, monkey)
    finally:
        executor.close()
    assert failures == []
    assert monkey.events == [("failed", False)] * 2 + [("finished", True)] * 2
    for expected, found in zip(whole, broken, strict=True):
        assert same_weights(expected.folder, found.folder)
        assert records.read_run(found.folder).run["hardware"].get("stacked") == 2
    assert not list(broken[0].folder.parent.glob(".*")), "a claim was left behind"
