"""A table worked out by hand, and changes of the records that may not change a result."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leaderboard.board import Board, Cell, Row
from leaderboard.build import load_board
from leaderboard.filling import make_board
from leaderboard.frame import Record, Trial
from leaderboard.markdown import markdown
from leaderboard.tables import MINUS
from tests.leaderboard.make_board import synthetic_records
from tests.leaderboard.make_golden import make_check, make_settings, write_run

# Accuracies in % of three trials, by algorithm and environment held out.
TRIALS: Mapping[str, Mapping[str, Sequence[int]]] = {
    "erm": {"+90%": (50, 60, 70), "-90%": (10, 20, 30)},
    "irm": {"+90%": (58, 70, 82), "-90%": (30, 20, 40)},
    "vrex": {"+90%": (57, 71, 79), "-90%": (11, 19, 33)},
}

# Standard errors are sd / sqrt(3) with ddof 1. Of three rows each of the two tests has 2.5 %. One
# takes the pooled standard error of a difference, sqrt(2 MSE / 3) with the mean square of the error
# of blocks and 4 degrees of freedom, or the pair's own if that is larger: the values are 6.244 /
# sqrt(2) = 4.415 (studentized range of 3 rows) and 4.114 (Dunnett, 2 rows to a control); never less
# than 4.303 own errors, the 95 % of two degrees of freedom. The other takes own errors alone, by
# Bonferroni: 10.886 (6 comparisons of one row with another) and 8.860 (2 with ERM, both sides).
#
# +90%: erm 60, deviations -10 0 10, sd 10, error 5.8; irm 70, -12 0 12, sd 12, error 6.9; vrex 69,
#   -12 2 10, variance 248 / 2, error 6.4. The best is irm. erm - irm: -8 -10 -12, mean -10, sd 2,
#   error 1.155, as the pooled one (MSE 2): -10 is beyond 4.415 * 1.155 = 5.1, so it is worse.
#   vrex - irm: -1 1 -3, mean -1: not.
# -90%: erm 20, error 5.8; irm 30, 0 -10 10, error 5.8; vrex 21, -10 -2 12, variance 248 / 2, error
#   6.4. The best is irm. erm - irm: -20 0 -10, mean -10, sd 10, error 5.8, of which 4.303 are 25;
#   vrex - irm: -19 -1 -7, mean -9, variance 168 / 2, error 5.3: neither is shown to be worse.
# Average inside trials: erm 30 40 50: 40, error 5.8; irm 44 45 61: 50, -6 -5 11, variance 182 / 2,
#   error 5.5; vrex 34 45 56: 45, sd 11, error 6.4. MSE 7.833, pooled error 2.285. erm - irm: -14 -5
#   -11, mean -10, variance 42 / 2, error 2.646, of which 4.415 are 11.7: not shown to be worse, nor
#   is vrex.
# Worst inside trials: that of -90% in every trial.
# Minus ERM, of the averages: irm 14 5 11: 10, error 2.646. 4.303 of it, 11.385, are more than 4.114
#   and less than Bonferroni's: -1.4 to 21.4. vrex 4 5 6: 5, error 0.577. 8.860 of it, 5.115, are
#   less than 4.114 of the pooled one: -0.1 to 10.1.
TABLE = [
    "| erm | 60.0 ± 5.8 | **20.0** ± 5.8 | **40.0** ± 5.8 | **20.0** ± 5.8 | — | 3 | 3 |",
    "| irm | **70.0** ± 6.9 | **30.0** ± 5.8 | **50.0** ± 5.5 | **30.0** ± 5.8 "
    rf"| +10.0 \[{MINUS}1.4, +21.4\] | 1 | 3 |",
    "| vrex | **69.0** ± 6.4 | **21.0** ± 6.4 | **45.0** ± 6.4 | **21.0** ± 6.4 "
    rf"| +5.0 \[{MINUS}0.1, +10.1\] | 2 | 3 |",
]


def test_the_table_is_the_one_worked_out_by_hand(tmp_path: Path) -> None:
    for algorithm, environments in TRIALS.items():
        for name, accuracies in environments.items():
            for trial, accuracy in enumerate(accuracies):
                settings = make_settings(
                    algorithm=algorithm, test_env=(name,), trial=trial, selection="train_val"
                )
                # The first check has the better holdouts, the last one another accuracy.
                holdouts = [f"{other}/holdout" for other in settings["train_env"]]
                better, worse = dict.fromkeys(holdouts, 0.9), dict.fromkeys(holdouts, 0.8)
                checks = [
                    make_check(50, {**better, f"{name}/main": accuracy / 100}),
                    make_check(100, {**worse, f"{name}/main": 0.99}),
                ]
                write_run(tmp_path, settings, checks)
    text = markdown(load_board([tmp_path], "train_val"))
    assert re.findall(r"^\| [a-z].*$", text, flags=re.M) == TABLE


# Changes that change nothing

NAMES = ("one", "two", "three")
ALGORITHMS = ("erm", "irm", "vrex")


def records(names: Sequence[str] = NAMES, algorithms: Sequence[str] = ALGORITHMS) -> list[Record]:
    return synthetic_records(
        data_sets={"data": names},
        algorithms=algorithms,
        trials=4,
        checks=3,
        selection="train_val",
        leave_out=[(algorithms[2], names[1], 0)],
    )


def numbers(board: Board, back: Mapping[str, str] | None = None) -> dict[Any, Any]:
    """All that tables say in numbers, with names turned back."""
    found = {}
    for section in board.sections:
        for row in section.rows:
            label = (back or {}).get(row.label, row.label)
            found[section.key.rule, label] = _row(row)
    return found


def _row(row: Row) -> list[Any]:
    cells = [*row.cells, row.average, row.worst]
    return [len(row.trials), row.rank, row.training, *map(_cell, cells)]


def _cell(cell: Cell | None) -> list[Any]:
    assert cell is not None
    chosen = sorted((n.step, n.draw, n.accuracy, n.gap) for n in cell.numbers)
    return [cell.accuracy, cell.n, cell.measure, cell.to_erm, cell.bold, chosen]


def _renamed_runs(found: list[Record]) -> list[Record]:
    return [
        replace(record, run_id=f"{7919 * place % 100_003:016x}", place=f"elsewhere/{place}")
        for place, record in enumerate(found)
    ]


def _other_trials(found: list[Record]) -> list[Record]:
    return [replace(r, trial=Trial(90 - 7 * r.trial[0], 5 * r.trial[1])) for r in found]


@pytest.mark.parametrize("seed", range(5))
def test_order_and_repetition_change_nothing(seed: int) -> None:
    found = records()
    generator = random.Random(seed)
    more = [*found, *map(replace, generator.choices(found, k=20))]
    generator.shuffle(more)
    board = make_board(more)
    assert numbers(board) == numbers(make_board(found))
    assert len(board.left_out) == 20


@pytest.mark.parametrize("rename", [_renamed_runs, _other_trials])
def test_names_of_runs_and_seeds_of_trials_change_nothing(
    rename: Callable[[list[Record]], list[Record]],
) -> None:
    assert numbers(make_board(rename(records()))) == numbers(make_board(records()))


@pytest.mark.parametrize(
    "others", [("erm", "zzz", "aaa"), ("erm", "vrex", "irm"), ("erm", "my_package.Mine", "x y")]
)
def test_names_of_algorithms_change_nothing_but_their_order(others: Sequence[str]) -> None:
    back = dict(zip(others, ALGORITHMS, strict=True))
    assert numbers(make_board(records(algorithms=others)), back) == numbers(make_board(records()))


@pytest.mark.parametrize("others", [("three", "two", "one"), ("+90%", "-90%", "</td>")])
def test_names_of_environments_change_nothing(others: Sequence[str]) -> None:
    assert numbers(make_board(records(names=others))) == numbers(make_board(records()))
