"""From records to a board: which runs share a cell, and what a cell says."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from leaderboard.board import Board, Section
from leaderboard.build import load_board
from leaderboard.filling import make_board
from leaderboard.records import SelectionRule
from leaderboard.sources import load
from tests.leaderboard.make_golden import (
    colored_run,
    make_check,
    make_settings,
    rotated_run,
    write_golden_runs,
    write_run,
)


def section(board: Board, rule: SelectionRule) -> Section:
    (found,) = [section for section in board.sections if section.key.rule == rule]
    return found


def write_colored(out: Path, trial: int = 0, accuracy: float = 0.5, **options: Any) -> None:
    """A run whose settings take any change, held out on -90%."""
    settings = make_settings(trial=trial)
    settings.update(options)  # type: ignore[typeddict-item]
    write_run(out, settings, [make_check(100, {"-90%/main": accuracy})])


def test_numbers_are_those_of_the_selected_check(tmp_path: Path) -> None:
    folder = rotated_run(tmp_path, "vrex", penalty_weight=10.0)
    board = load_board([tmp_path])
    (row,) = section(board, "train_val").rows
    (number,) = row.cells[0].numbers
    assert (number.run_id, number.step, number.accuracy) == (folder.name, 50, 0.4)
    assert (number.nll, number.brier, number.ece) == (0.5, 0.25, 0.125)
    assert number.gap == pytest.approx((0.9 + 0.7) / 2 - 0.4)
    (row,) = section(board, "last").rows
    assert row.cells[0].numbers[0].accuracy == 0.6


def test_the_average_is_taken_inside_each_trial(tmp_path: Path) -> None:
    for trial, (first, second) in enumerate([(0.1, 0.9), (0.3, 0.7), (0.5, 0.5)]):
        colored_run(tmp_path, "erm", "+90%", trial, first)
        colored_run(tmp_path, "erm", "-90%", trial, second)
    (row,) = section(load_board([tmp_path]), "last").rows
    # Standard deviation of 10, 30, 50 is 20 (ddof=1), over sqrt(3) it is 11.5; each trial averages
    # to 50 exactly, where averaged standard errors would say 11.5.
    for cell, mean in zip(row.cells, (0.3, 0.7), strict=True):
        assert cell.accuracy is not None
        assert cell.accuracy.mean == pytest.approx(mean)
        assert cell.accuracy.standard_error == pytest.approx(0.2 / 3**0.5)
    assert row.average is not None
    assert row.worst is not None
    assert row.average.accuracy is not None
    assert row.worst.accuracy is not None
    assert row.average.accuracy.mean == 0.5
    assert row.average.accuracy.standard_error == pytest.approx(0, abs=1e-15)
    assert row.worst.accuracy.mean == pytest.approx(0.3)


def test_an_incomplete_cell_has_no_mean_and_names_the_command(tmp_path: Path) -> None:
    colored_run(tmp_path, "erm", "+90%", 0, 0.5)
    colored_run(tmp_path, "erm", "+90%", 1, 0.5)
    colored_run(tmp_path, "erm", "-90%", 0, 0.5)
    (row,) = section(load_board([tmp_path]), "last").rows
    whole, partial = row.cells
    assert whole.complete
    assert partial.accuracy is None
    assert (partial.n, partial.expected) == (1, 2)
    (missing,) = partial.missing
    assert missing.reason == "not run"
    assert missing.command is not None
    assert "--test-env=-90% --trial-seed=1 --data-seed=1" in missing.command
    for aggregate in (row.average, row.worst):
        assert aggregate is not None
        assert aggregate.accuracy is None
        assert (aggregate.n, aggregate.expected) == (1, 2)


@pytest.mark.parametrize("status", ["diverged", "interrupted", "running", "failed"])
def test_a_run_without_number_is_a_missing_trial_and_is_listed(tmp_path: Path, status: str) -> None:
    colored_run(tmp_path, "erm", "-90%", 0, 0.5)
    folder = colored_run(tmp_path, "erm", "-90%", 1, 0.5, status=status)
    board = load_board([tmp_path])
    (row,) = section(board, "last").rows
    (missing,) = row.cells[0].missing
    assert missing.reason == status
    assert (missing.command is None) == (status == "diverged")
    (entry,) = board.left_out
    assert entry.place == f"colored_mnist/erm/{folder.name}"
    assert entry.kind == ("diverged" if status == "diverged" else "partial")


@pytest.mark.parametrize(
    ("change", "first", "second"),
    [
        ({"steps": 200}, "steps=100", "steps=200"),
        ({"precision": "bf16-mixed"}, 'precision="32-true"', 'precision="bf16-mixed"'),
        ({"train_env": ["+90%"]}, "train_env=unset", 'train_env=["+90%"]'),
        (
            {"data": {"name": "colored_mnist", "source": "digits", "batch_size": 5}},
            "data.batch_size=5",
            "data.batch_size=unset",
        ),
    ],
)
def test_other_settings_are_other_rows(
    tmp_path: Path, change: dict[str, Any], first: str, second: str
) -> None:
    write_colored(tmp_path, trial=0)
    write_colored(tmp_path, trial=1, **change)
    rows = section(load_board([tmp_path]), "last").rows
    assert {row.label for row in rows} == {f"erm ({first})", f"erm ({second})"}


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"name": "colored_mnist", "source": "mnist"}},
        {"data": {"name": "colored_mnist", "source": "digits", "grayscale": True}},
        {"data": {"name": "colored_mnist", "source": "digits", "task": "adaptation"}},
        {"network": {"backbone": "resnet50"}},
        {"network": {"backbone": "resnet18", "weights": "imagenet"}},
        {"protocol": "domainbed"},
    ],
)
def test_other_data_backbones_protocols_and_tasks_are_other_tables(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    write_colored(tmp_path, network={"backbone": "resnet18"})
    write_colored(tmp_path, **{"network": {"backbone": "resnet18", "weights": "none"}, **change})
    board = load_board([tmp_path], "last")
    assert [len(section.rows) for section in board.sections] == [1, 1]
    assert board.overall == ()


def test_held_out_pairs_have_a_table_of_their_own(tmp_path: Path) -> None:
    colored_run(tmp_path, "erm", "-90%", 0, 0.1)
    pair = make_settings(test_env=("+90%", "-90%"))
    write_run(tmp_path, pair, [make_check(100, {"+90%/main": 0.7, "-90%/main": 0.3})])
    single, double = load_board([tmp_path], "last").sections
    assert (single.key.held_out, double.key.held_out) == (1, 2)
    assert [(c.name, c.held_out_with) for c in double.columns] == [
        ("+90%", ("-90%",)),
        ("-90%", ("+90%",)),
    ]
    (row,) = double.rows
    assert [cell.numbers[0].accuracy for cell in row.cells] == [0.7, 0.3]


def test_order_and_repetition_of_records_change_nothing(tmp_path: Path) -> None:
    write_golden_runs(tmp_path)
    records, _ = load([tmp_path])
    expected = make_board(records)
    for seed in range(5):
        shuffled = random.Random(seed).sample([*records, *records[:3]], len(records) + 3)
        board = make_board(shuffled)
        assert (board.sections, board.overall) == (expected.sections, expected.overall)
        assert board.sha256 == expected.sha256
