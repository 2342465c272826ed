"""The scan over a penalty's weight: what of which runs is drawn where."""

from __future__ import annotations

import re

import numpy as np

from leaderboard.filling import make_board
from leaderboard.pictures import look_of, section_pictures
from tests.leaderboard.make_board import synthetic_records

NAMES = ("+90%", "+80%", "-90%")
WEIGHTS = (1.0, 100.0, 10_000.0)


def scan(weights: tuple[float, ...], trials: int = 3) -> tuple[list[str], list[str], list]:
    """Captions and drawings of a scan's pictures, and the runs behind them."""
    runs = []
    for weight in weights:
        runs += synthetic_records(
            data_sets={"colored_mnist": NAMES}, algorithms=["irm"], trials=trials,
            penalty_weight=weight,
        )  # fmt: skip
    board = make_board(runs)
    (section,) = (one for one in board.sections if one.reported)
    found = section_pictures(board, section, look_of(board))
    scans = [picture for picture in found if picture.group == "Weight of the penalty"]
    return [one.caption for one in scans], [str(one.svg) for one in scans], runs


def test_a_scan_shows_every_environment_and_the_penalty_at_each_weight():
    captions, drawings, runs = scan(WEIGHTS)
    assert captions[::2] == [
        f"Accuracy in each environment: irm, {name} held out" for name in NAMES
    ]
    assert captions[1::2] == [f"Penalty: irm, {name} held out" for name in NAMES]
    accuracies, penalties = drawings[4:6]
    for name in NAMES:
        own = [
            run.checks.accuracies([f"{name}/{'main' if name == '-90%' else 'holdout'}"])[-1, 0]
            for run in runs
            if run.test == ("-90%",) and f"{WEIGHTS[-1]}" in run.fixed
        ]
        # The last point of a line is what a pointer over it reads.
        assert f"{name}: {100 * np.mean(own):.1f}, 95% interval" in accuracies
        assert re.search(r"at 10000\b", accuracies)
    place = runs[0].checks.train_names.index("penalty")
    last = [
        np.log10(run.checks.train[-1, place])
        for run in runs
        if run.test == ("-90%",) and f"{WEIGHTS[-1]}" in run.fixed
    ]
    assert f"penalty: {np.mean(last):.1f}" in penalties


def test_two_weights_are_no_scan():
    assert scan(WEIGHTS[:2])[0] == []
