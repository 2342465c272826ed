"""Plots: what of which runs is drawn where, and that it can be told apart."""

from __future__ import annotations

import re

import numpy as np

from leaderboard.filling import make_board
from leaderboard.pictures import Picture, look_of, section_pictures
from leaderboard.plots import (
    Estimate,
    Series,
    Style,
    interval_plot,
    line_plot,
    scatter_plot,
    styles,
)
from tests.leaderboard.make_board import synthetic_records

NAMES = ("+90%", "+80%", "-90%")
WEIGHTS = (1.0, 100.0, 10_000.0)


def scan(weights: tuple[float, ...], trials: int = 3) -> tuple[list[Picture], list]:
    """A scan's pictures, and the runs behind them."""
    runs = []
    for weight in weights:
        runs += synthetic_records(
            data_sets={"colored_mnist": NAMES}, algorithms=["irm"], trials=trials,
            penalty_weight=weight,
        )  # fmt: skip
    board = make_board(runs)
    (section,) = (one for one in board.sections if one.reported)
    found = section_pictures(board, section, look_of(board))
    return [picture for picture in found if picture.group == "Weight of the penalty"], runs


def test_a_scan_shows_every_environment_and_the_penalty_at_each_weight():
    scans, runs = scan(WEIGHTS)
    captions, drawings = [one.caption for one in scans], [str(one.svg) for one in scans]
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


def test_a_scan_has_a_legend_of_environments_that_no_filter_of_algorithms_hides():
    for picture in scan(WEIGHTS)[0]:
        assert [label for label, _ in picture.legend] == sorted([*NAMES, "penalty"])
        assert picture.algorithm == "irm"
        assert "data-label" not in picture.svg


# What any plot keeps to


def test_fourteen_algorithms_differ_without_colours_and_fifty_six_with():
    look = styles([f"method {place:02}" for place in range(56)])
    assert len({style.outline for style in list(look.values())[:14]}) == 14
    assert len({(style.colour, style.outline) for style in look.values()}) == 56


def test_accuracies_are_drawn_between_0_and_100():
    wide = [("a", Style(0, 0), Estimate(90.0, -40.0, 220.0)), ("b", Style(1, 1), Estimate(10.0))]
    series = [Series(label, style, [(1.0, e), (2.0, e)]) for label, style, e in wide]
    for drawn in (
        interval_plot("t", wide, "%", limits=(0.0, 100.0)),
        line_plot("t", series, "step", "%", limits=(0.0, 100.0)),
        scatter_plot("t", series, "cost", "%", limits=(0.0, 100.0)),
    ):
        ticks = re.findall(r'<text class="tick"[^>]*>([^<]*)<', str(drawn))
        assert {"20", "80"} < set(ticks)
        assert all(0 <= float(tick) <= 100 for tick in ticks)


def test_labels_beside_rows_are_told_apart_and_have_room():
    weights = [f"a_long_name (algo.penalty_weight={weight})" for weight in (1.0, 100.0)]
    for labels, shown in (
        (weights, ["a_long_na…eight=1.0)", "a_long_na…ght=100.0)"]),
        (["erm (best of 20 draws)", "irm (best of 20 draws)"], ["erm", "irm"]),
    ):
        rows = [(label, Style(0, 0), Estimate(50.0)) for label in labels]
        drawn = str(interval_plot("t", rows, "%"))
        found = re.findall(r'class="name" data-label="([^"]*)" x="([^"]*)"[^>]*>([^<]*)<', drawn)
        assert [label for label, _, _ in found] == labels
        assert [text for _, _, text in found] == shown
        # Anchored at their ends: a letter is about 6 units wide, a wide one 10.
        assert all(float(end) >= 6.5 * len(text) for _, end, text in found)
