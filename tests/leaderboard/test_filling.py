"""From records to a board: which runs share a cell, and what a cell says."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leaderboard import latex
from leaderboard.board import Board, Section
from leaderboard.build import load_board
from leaderboard.filling import make_board
from leaderboard.markdown import markdown
from leaderboard.pack import pack
from leaderboard.page import page
from leaderboard.records import Conclusion, SearchRecord, SelectionRule
from leaderboard.sources import load
from leaderboard.tables import entries, headings, notes, title
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


TRAINED = {  # trial, held out: main accuracies of the two training environments, seconds of the run
    (0, "+90%"): ((0.8, 0.6), 10.0),
    (0, "-90%"): ((0.9, 0.9), 20.0),
    (1, "+90%"): ((0.5, 0.7), 30.0),
    (1, "-90%"): ((0.6, 0.6), 60.0),
}


def write_trained(out: Path, without: tuple[int, str] | None = None) -> None:
    """The runs of `TRAINED`; one may lack the main split of a training environment."""
    for (trial, name), (accuracies, seconds) in TRAINED.items():
        settings = make_settings(test_env=(name,), trial=trial)
        splits = [f"{other}/main" for other in settings["train_env"]]
        trained = dict(zip(splits, accuracies, strict=True))
        if (trial, name) == without:
            del trained[splits[0]]
        first = make_check(50, {**dict.fromkeys(trained, 0.1), f"{name}/main": 0.1})
        last = make_check(100, {**trained, f"{name}/main": 0.5})
        write_run(out, settings, [first, last], seconds=seconds)


def test_training_and_seconds_are_as_calculated_by_hand(tmp_path: Path) -> None:
    write_trained(tmp_path)
    found = section(load_board([tmp_path]), "last")
    (row,) = found.rows
    # Inside the trials 70 and 90 average to 80, and 60 and 60 to 60: 70 +- 10 of two trials.
    assert row.training is not None
    assert row.training.mean == pytest.approx(0.7)
    assert row.training.standard_error == pytest.approx(0.1)
    assert row.training.n == 2
    # Squares of -20, -10, 0, 30 are 1400: over 3, over 4 runs, its root is 10.8.
    assert row.seconds is not None
    assert row.seconds.mean == 30
    assert row.seconds.standard_error == pytest.approx((1400 / 3 / 4) ** 0.5)
    shown = dict(zip((h.title for h in headings(found)), entries(found, row), strict=True))
    assert (shown["Training"].text, shown["Training"].beside) == ("70.0", "± 10.0")
    assert (shown["Seconds"].text, shown["Seconds"].beside) == ("30", "± 11")


def test_training_and_seconds_that_not_all_runs_tell_are_not_averaged(tmp_path: Path) -> None:
    write_trained(tmp_path, without=(1, "-90%"))
    (row,) = section(load_board([tmp_path]), "last").rows
    assert row.training is None
    records = [
        replace(r, total_seconds=r.total_seconds if r.trial[0] else None)
        for r in load([tmp_path])[0]
    ]
    (row,) = section(make_board(records), "last").rows
    assert row.seconds is None


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


def write_draw(
    out: Path, draw: int, accuracy: float, search: SearchRecord | None = None, trial: int = 0
) -> None:
    """A draw of hyper-parameters, whose holdout accuracy is its held-out one."""
    settings = make_settings(trial=trial, selection="train_val", penalty_weight=float(draw))
    settings["hparams_seed"] = draw
    check = {"+90%/holdout": accuracy, "+80%/holdout": accuracy, "-90%/main": accuracy}
    write_run(out, settings, [make_check(100, check)], search=search)


def drawn_from(space: str, version: int = 1, high: float = 10.0) -> SearchRecord:
    ranges: dict[str, dict[str, list[Any]]] = {"algo.penalty_weight": {"uniform": [0.0, high]}}
    return {"space": space, "version": version, "ranges": ranges}


def test_search_spaces_never_share_a_table_and_are_named(tmp_path: Path) -> None:
    write_draw(tmp_path, 0, 0.3)
    write_draw(tmp_path, 1, 0.5, drawn_from("wide"))
    write_draw(tmp_path, 2, 0.4, drawn_from("wide", version=2))
    board = load_board([tmp_path])
    found = {
        (s.key.search, s.key.rule): [
            (row.label, row.cells[0].numbers[0].accuracy) for row in s.rows
        ]
        for s in board.sections
    }
    # Draw 0 is what fit uses: it belongs to every space, and to the fixed settings.
    assert found == {
        ("", "last"): [("erm", 0.3)],
        ("", "oracle"): [("erm", 0.3)],
        ("", "train_val"): [("erm", 0.3)],
        ("wide 1", "train_val"): [("erm (best of 2 draws)", 0.5)],
        ("wide 2", "train_val"): [("erm (best of 2 draws)", 0.4)],
    }
    titles = [title(s) for s in board.sections]
    assert sum("search space wide 1" in text for text in titles) == 1
    assert sum("search space wide 2" in text for text in titles) == 1
    assert board.left_out == ()


def test_other_ranges_under_one_name_are_other_rows(tmp_path: Path) -> None:
    write_draw(tmp_path, 1, 0.5, drawn_from("wide"))
    write_draw(tmp_path, 2, 0.4, drawn_from("wide", high=99.0))
    tables = load_board([tmp_path]).sections
    (rows,) = [s.rows for s in tables if s.key.search and s.key.rule == "train_val"]
    assert [row.label for row in rows] == [
        f"erm (best of 1 draws, search.ranges.algo.penalty_weight.uniform=[0.0,{high}])"
        for high in (10.0, 99.0)
    ]


def test_runs_that_lost_a_search_are_not_left_out(tmp_path: Path) -> None:
    for trial in range(2):
        for draw in range(3):
            write_draw(tmp_path, draw, 0.1 * (1 + draw), trial=trial)
    write_draw(tmp_path, 1, 0.5, trial=2)
    board = load_board([tmp_path])
    (row,) = section(board, "train_val").rows
    assert [number.draw for number in row.cells[0].numbers] == [2, 2]
    # A trial that lacks draws has no number, so its run is told of.
    (entry,) = board.left_out
    assert entry.kind == "unavailable"


def test_prior_knowledge_is_marked_with_what_was_found(tmp_path: Path) -> None:
    conclusion: Conclusion = {
        "outcome": "empty_set_accepted",
        "text": "The empty set is accepted.",
        "alpha": 0.05,
        "rule": "intersection",
        "predictor": [],
        "variables": ["shape", "colour"],
        "sets": [
            {"variables": [], "p_value": 0.5, "loss": 0.7},
            {"variables": ["colour"], "p_value": 1e-12, "loss": 0.4},
            {"variables": ["shape"], "p_value": 0.9, "loss": 0.6},
            {"variables": ["colour", "shape"], "p_value": 0.05, "loss": 0.4},
        ],
        "moved": {"shape": 0.9, "colour": 0.0},
    }
    for trial in range(2):
        check = make_check(100, {"-90%/main": 0.5})
        check["conclusion"] = conclusion
        write_run(tmp_path, make_settings(algorithm="icp", trial=trial), [check])
        write_colored(tmp_path, trial=trial)
    records, _ = load([tmp_path])
    for board in (make_board(records), make_board(load([pack(records, tmp_path / "a.jsonl")])[0])):
        erm, icp = section(board, "last").rows
        assert (erm.prior_knowledge, erm.conclusions) == ((), ())
        assert icp.prior_knowledge == ("colour", "shape")
        found = "empty set accepted: {}, {shape} accepted, 2 rejected"
        assert icp.conclusions == ((found, 2),)
        note = (
            "‡ icp had prior knowledge that other algorithms have not: the variables colour, shape "
            f"of each sample. It found {found} (2 of 2 runs)."
        )
        assert note in notes(section(board, "last"))
        text = markdown(board)
        assert "| icp ‡ |" in text
        assert "| erm |" in text
        assert (
            r"icp \textdaggerdbl{}"
            in latex.documents(board)["tables/colored_mnist-digits-last.tex"]
        )
        assert "‡ prior knowledge" in page(board)


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
