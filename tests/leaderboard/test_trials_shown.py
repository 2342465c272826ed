"""The trials themselves are shown beside their mean, and two clusters of them are told."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

from leaderboard.board import Board
from leaderboard.build import load_board
from leaderboard.outputs import CSV_FILE, JSON_FILE, LEADERBOARD_FILE, texts
from leaderboard.page import page
from leaderboard.pictures import look_of, section_pictures
from tests.leaderboard.make_golden import make_check, make_settings, write_run

TRIALS = 12
NAMES = ("+90%", "-90%")


def accuracy(algorithm: str, name: str, trial: int) -> float:
    """ERM is at 20 %, IRM at 64 % but for three trials in one environment."""
    fails = algorithm == "erm" or (name == "-90%" and trial in (2, 5, 11))
    return (0.20 if fails else 0.64) + 0.001 * (trial * 7 % TRIALS)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    folder = tmp_path_factory.mktemp("records")
    for algorithm in ("erm", "irm"):
        for name in NAMES:
            for trial in range(TRIALS):
                settings = make_settings(algorithm=algorithm, test_env=(name,), trial=trial)
                found = {f"{name}/main": accuracy(algorithm, name, trial)}
                write_run(folder, settings, [make_check(100, found)])
    return load_board([folder], "last")


FOOTNOTE = "irm, two clusters of trials in -90%: 3 around 20.6 and 9 around 64.5; average: 3 around"


def test_two_clusters_are_marked_and_told_in_every_format(board: Board) -> None:
    files = texts(board)
    shown = files[LEADERBOARD_FILE].replace("\\", "")
    assert f"‖ {FOOTNOTE}" in shown
    (row,) = re.findall(r"^\| irm .*$", shown, flags=re.M)
    assert re.match(r"\| irm \| \S+ ± 0\.1 \| \S+ ± 5\.7 ‖ \| \S+ ± 2\.9 ‖ \| \S+ ± 5\.7 ‖ \|", row)
    assert "\n- ‖: 10 trials or more in two clusters" in shown
    (table,) = (text for name, text in files.items() if name.startswith("tables/"))
    assert r"$\Vert$ irm{,} two clusters of trials in {-}90\%: 3 around 20.6" in table
    assert r"$\pm$ 5.7 $\Vert$ &" in table
    html = page(board)
    assert f'<p class="note">‖ {FOOTNOTE}' in html
    assert re.search(r'title="95 % interval [^"]*, 12 trials; two clusters: 3 around 20.6', html)
    lines = list(csv.DictReader(io.StringIO(files[CSV_FILE])))
    assert [
        (line["algorithm"], line["environment"] or line["over"])
        for line in lines
        if line["two_clusters"] == "True"
    ] == [("irm", "-90%"), ("irm", "average"), ("irm", "worst")]
    rows = json.loads(files[JSON_FILE])["sections"][0]["rows"]
    assert [cell["clusters"] and cell["clusters"]["below"] for cell in rows[1]["cells"]] == [
        None,
        3,
    ]


def test_without_clusters_nothing_is_said_of_them(board: Board) -> None:
    erm = board.sections[0].rows[0]
    assert erm.average is not None
    assert [cell.clusters for cell in (*erm.cells, erm.average)] == [None] * 3


def test_every_trial_is_a_point_beside_mean_and_interval(board: Board) -> None:
    (section,) = board.sections
    pictures = section_pictures(board, section, look_of(board))
    first = [picture for picture in pictures if picture.group == pictures[0].group]
    assert [picture.caption for picture in first] == ["in +90%", "in -90%", "on average"]
    for place, picture in enumerate(first):
        found = re.findall(r'class="trials" d="([^"]*)"', picture.svg)
        lines = re.findall(r'class="line" d="M([\d.]+) ([\d.]+)H([\d.]+)"', picture.svg)
        assert len(found) == len(lines) == 2
        for dots, (_, height, _) in zip(found, lines, strict=True):
            points = re.findall(r"M([\d.]+) ([\d.]+)h0", dots)
            assert len(points) == TRIALS
            # Below the interval, not on it.
            assert {float(y) - float(height) for _, y in points} == {10.0}
        irm = [[*row.cells, row.average][place] for row in section.rows][1]
        assert irm is not None
        places = [float(x) for x, _ in re.findall(r"M([\d.]+) ([\d.]+)h0", found[1])]
        order = sorted(range(TRIALS), key=places.__getitem__)
        assert order == sorted(range(TRIALS), key=irm.by_trial.__getitem__)
        assert "; trials " in picture.svg
    costs = [str(picture.svg) for picture in pictures if picture.group == "Cost against accuracy"]
    assert all(len(re.findall("h0", svg)) == 2 * TRIALS for svg in costs)


def test_the_average_of_a_trial_is_that_of_its_environments(board: Board) -> None:
    irm = board.sections[0].rows[1]
    assert irm.average is not None
    expected = [sum(accuracy("irm", name, trial) for name in NAMES) / 2 for trial in range(TRIALS)]
    assert irm.average.by_trial == pytest.approx(expected)
