"""What a row is marked with stands in every format, and in what `leaderboard verify` says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from leaderboard import latex
from leaderboard.board import Board
from leaderboard.exports import flat_rows
from leaderboard.filling import make_board
from leaderboard.frame import Trial
from leaderboard.markdown import markdown
from leaderboard.marks import SHARED_DATA
from leaderboard.page import page
from leaderboard.verify import verify
from tests.leaderboard.make_board import synthetic_records
from tests.leaderboard.make_golden import make_check, make_settings, write_run


def board_of(data_seeds: list[int]) -> Board:
    """ERM with a data seed for each of its trials, and IRM with these."""
    found = synthetic_records(
        data_sets={"colored_mnist": ("+90%", "+80%", "-90%")},
        algorithms=("erm", "irm"),
        trials=len(data_seeds),
        checks=1,
    )
    return make_board(
        replace(record, trial=Trial(record.trial.trial_seed, data_seeds[record.trial.trial_seed]))
        if record.algorithm == "irm"
        else record
        for record in found
    )


@pytest.mark.parametrize(
    ("data_seeds", "said"),
    [
        ([0, 0, 0], "irm has 3 trials on 1 data seed: its standard errors leave out the variance"),
        ([0, 0, 1], "irm has 3 trials on 2 data seeds: its standard errors leave out a part of"),
    ],
)
def test_trials_that_share_data_are_marked_in_every_format(
    data_seeds: list[int], said: str
) -> None:
    board = board_of(data_seeds)
    text = markdown(board)
    assert f"{SHARED_DATA} {said}" in text
    assert f"| irm {SHARED_DATA} |" in text
    assert "| erm |" in text
    tex = "".join(latex.documents(board).values())
    assert r"irm \P{} &" in tex
    assert rf"\P{{}} {said}" in tex.replace("{-}", "-")
    shown = page(board)
    assert f"{SHARED_DATA} {said}" in shown
    assert f"<small>{SHARED_DATA} trials share data</small>" in shown
    counted = {(row["algorithm"], row["trials"], row["data_seeds"]) for row in flat_rows(board)}
    assert counted == {("erm", 3, 3), ("irm", 3, len(set(data_seeds)))}


def test_trials_on_data_of_their_own_are_not_marked() -> None:
    for board in (board_of([0, 1, 2]), board_of([5])):
        assert SHARED_DATA not in markdown(board)


def test_verify_says_which_rows_share_data(tmp_path: Path) -> None:
    for trial in range(2):
        for algorithm, seed in (("erm", trial), ("irm", 7)):
            settings = make_settings(algorithm=algorithm, trial=trial)
            settings["data_seed"] = seed
            write_run(tmp_path, settings, [make_check(100, {"-90%/main": 0.5})])
    (remark,) = [each for each in verify(tmp_path).remarks if "irm" in each]
    assert "irm has 2 trials on 1 data seed" in remark
    assert remark.startswith("colored_mnist, digits, ")
