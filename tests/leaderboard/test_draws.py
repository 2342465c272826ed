"""Draws are counted inside their trial, and a row says how it was tuned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from dgbench.sweep.design import design
from leaderboard import draws
from leaderboard.board import Cell, Row, Section
from leaderboard.build import load_board
from leaderboard.filling import make_board
from leaderboard.records import SearchRecord, SelectionRule
from leaderboard.sources import load
from leaderboard.tables import legend, title
from tests.leaderboard.make_golden import COLORED, make_check, make_settings, write_run

SPACE: SearchRecord = {"space": "wide", "version": 1, "ranges": {"algo.lr": {"Uniform": [0, 1]}}}
HELD_OUT = ("-90%",)


def write_draw(
    out: Path,
    trial: int,
    draw: int,
    validation: float,
    held_out: float,
    algorithm: str = "erm",
    *,
    test_env: tuple[str, ...] = HELD_OUT,
    rule: SelectionRule = "train_val",
    space: SearchRecord = SPACE,
    status: str = "finished",
) -> Path:
    """A run of a draw with these accuracies in training and in test environments."""
    settings = make_settings(
        algorithm=algorithm, trial=trial, selection=rule, test_env=test_env, lr=draw / 10_000
    )
    settings["hparams_seed"] = draw
    check = {f"{name}/holdout": validation for name in settings["train_env"]}
    check |= {f"{name}/{split}": held_out for name in test_env for split in ("main", "holdout")}
    search = space if draw else None
    return write_run(out, settings, [make_check(100, check)], search=search, status=status)


def write_draws(
    out: Path, trials: Mapping[int, Iterable[int]], best: Mapping[int, int], algorithm: str = "erm"
) -> None:
    """The draws of each trial, of which one has the best validation; a draw has its hundredth."""
    for trial, seeds in trials.items():
        for seed in seeds:
            validation = 0.9 if seed == best.get(trial) else 0.5
            write_draw(out, trial, seed, validation, (seed % 1000) / 100, algorithm)


def table(out: Path, rule: SelectionRule = "train_val", *, tuned_once: bool = False) -> Section:
    (found,) = [
        section
        for section in load_board([out]).sections
        if (section.key.search, section.key.tuned_once, section.key.rule)
        == ("wide 1", tuned_once, rule)
    ]
    return found


def only_cell(section: Section) -> tuple[Row, Cell]:
    (row,) = section.rows
    (cell,) = row.cells
    return row, cell


def lacking(cell: Cell) -> list[tuple[int, str]]:
    return [(missing.trial.trial_seed, missing.reason) for missing in cell.missing]


# Positions


def test_a_sweep_and_a_table_count_draws_alike() -> None:
    sweep = design({"datasets": "colored_mnist", "algos": "erm", "draws": 20})
    for trial in range(5):
        seeds = sweep.hparams_seeds(trial)
        assert [draws.position(trial, seed) for seed in seeds] == list(range(20))
    of_domainbed = [draws.position(trial, seed) for trial in range(3) for seed in range(20)]
    assert of_domainbed == [*range(20)] * 3


def test_each_trial_is_searched_among_draws_of_its_own(tmp_path: Path) -> None:
    write_draws(tmp_path, {0: (0, 1, 2), 1: (0, 1001, 1002)}, best={0: 2, 1: 1001})
    row, cell = only_cell(table(tmp_path))
    assert (row.label, row.draws, lacking(cell)) == ("erm (best of 3 draws)", 3, [])
    assert [(n.draw, n.accuracy) for n in cell.numbers] == [(2, 0.02), (1001, 0.01)]
    assert load_board([tmp_path]).left_out == ()
    assert any(line.startswith("Best of N draws") for line in legend([table(tmp_path)]))


def test_a_draw_that_a_trial_lacks_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    write_draws(tmp_path, {0: (0, 1, 2), 1: (0, 1001), 2: (2001, 2002)}, best={})
    row, cell = only_cell(table(tmp_path))
    assert row.label == "erm (best of 3 draws)"
    assert lacking(cell) == [(1, "draws [1002] not run"), (2, "draws [0] not run")]
    drawn, defaults = [missing.command for missing in cell.missing]
    assert drawn is not None
    assert defaults is not None
    ends = "--test-env=-90% --trial-seed={0} --data-seed={0}"
    assert drawn.endswith("--hparams-seed=1002 " + ends.format(1))
    assert "--search-space=wide" in drawn
    assert "--algo.lr" not in drawn
    assert defaults.endswith("--trainer.deterministic=false " + ends.format(2))


def test_a_search_that_grew_in_one_trial_is_incomplete_in_the_others(tmp_path: Path) -> None:
    write_draws(tmp_path, {0: (0, 1, 2, 3), 1: (0, 1001), 2: (0, 2001)}, best={})
    row, cell = only_cell(table(tmp_path))
    assert row.label == "erm (best of 4 draws)"
    assert lacking(cell) == [
        (1, "draws [1002, 1003] not run"),
        (2, "draws [2002, 2003] not run"),
    ]


def test_a_trial_that_another_environment_lacks_names_all_its_draws(tmp_path: Path) -> None:
    write_draws(tmp_path, {0: (0, 1), 1: (0, 1001)}, best={})
    for draw in (0, 1):
        write_draw(tmp_path, 0, draw, 0.5, 0.5, test_env=("+90%",))
    (row,) = table(tmp_path).rows
    (missing,) = row.cells[0].missing
    assert missing.reason == "not run"
    assert missing.command is not None
    first, second = missing.command.splitlines()
    assert "--hparams-seed" not in first
    assert "--hparams-seed=1001 --test-env=+90%" in second


def test_draws_that_all_trials_share_are_counted_by_their_numbers(tmp_path: Path) -> None:
    write_draws(tmp_path, {t: (0, 1, 2) for t in range(2)} | {2: (0, 2)}, best={0: 1, 1: 2})
    row, cell = only_cell(table(tmp_path))
    assert row.label == "erm (best of 3 draws)"
    assert [number.draw for number in cell.numbers] == [1, 2]
    assert lacking(cell) == [(2, "draws [1] not run")]


def test_each_search_space_counts_its_own_draws(tmp_path: Path) -> None:
    write_draws(tmp_path, {0: (0, 1), 1: (0, 1001)}, best={})
    other: SearchRecord = {**SPACE, "space": "narrow"}
    for trial, draw in ((0, 2), (0, 3), (1, 1002), (1, 1003)):
        write_draw(tmp_path, trial, draw, 0.6, 0.7, space=other)
    labels = {
        (section.key.search, row.label, row.cells[0].n)
        for section in load_board([tmp_path], "train_val").sections
        for row in section.rows
        if section.key.search
    }
    # Positions 0 and 1 of the one, and 0, 2 and 3 of the other.
    assert labels == {
        ("wide 1", "erm (best of 2 draws)", 2),
        ("narrow 1", "erm (best of 3 draws)", 2),
    }


# Tuned once


@pytest.mark.parametrize("preferred", [0, 1, 2])
def test_tuned_once_later_trials_repeat_what_the_first_prefers(
    tmp_path: Path, preferred: int
) -> None:
    repeated = (preferred,)
    write_draws(tmp_path, {0: (0, 1, 2), 1: repeated, 2: repeated}, best={0: preferred})
    found = table(tmp_path, tuned_once=True)
    row, cell = only_cell(found)
    assert (row.label, row.draws, lacking(cell)) == ("erm (best of 3 draws)", 3, [])
    assert [number.draw for number in cell.numbers] == [preferred] * 3
    assert "search space wide 1, tuned once" in title(found)
    assert any(line.startswith("Tuned once") for line in legend([found]))
    assert all(s.key.tuned_once or not s.key.search for s in load_board([tmp_path]).sections)


def test_tuned_once_a_repetition_that_is_missing_is_named(tmp_path: Path) -> None:
    write_draws(tmp_path, {0: (0, 1, 2), 1: (2,)}, best={0: 2})
    write_draws(tmp_path, {0: (0, 1, 2), 1: (1,), 2: (1,)}, best={0: 1}, algorithm="irm")
    for draw, validation in ((0, 0.5), (1, 0.5), (2, 0.9)):
        write_draw(tmp_path, 0, draw, validation, 0.1, test_env=("+90%",))
    erm, irm = table(tmp_path, tuned_once=True).rows
    assert lacking(irm.cells[1]) == []
    assert lacking(erm.cells[1]) == []
    assert lacking(erm.cells[0]) == [(1, "draw 2, which the first trial prefers, not run")]
    command = erm.cells[0].missing[0].command
    assert command is not None
    assert "--hparams-seed=2 --test-env=+90% --trial-seed=1" in command


def test_tuned_once_and_then_among_more_draws_the_new_choice_counts(tmp_path: Path) -> None:
    write_draws(tmp_path, {0: (0, 1, 2, 3), 1: (1, 3), 2: (1, 3)}, best={0: 3})
    row, cell = only_cell(table(tmp_path, tuned_once=True))
    assert row.label == "erm (best of 4 draws)"
    assert [number.draw for number in cell.numbers] == [3, 3, 3]


def test_both_estimands_of_one_row_have_tables_of_their_own(tmp_path: Path) -> None:
    write_draws(tmp_path, {0: (0, 1, 2), 1: (0, 1001, 1002, 2)}, best={0: 2, 1: 1001})
    _, again = only_cell(table(tmp_path))
    _, once = only_cell(table(tmp_path, tuned_once=True))
    assert [number.draw for number in again.numbers] == [2, 1001]
    assert [number.draw for number in once.numbers] == [2, 2]


def test_where_both_were_run_a_row_that_prefers_the_defaults_is_of_both(tmp_path: Path) -> None:
    write_draws(tmp_path, {0: (0, 1, 2), 1: (0, 1001, 1002, 2)}, best={0: 2, 1: 1001})
    write_draws(tmp_path, {0: (0, 1, 2), 1: (0, 1001, 1002)}, best={0: 0, 1: 1002}, algorithm="irm")
    # V-REx was searched again alone: its first trial prefers a draw that no other trial has.
    write_draws(tmp_path, {0: (0, 1, 2), 1: (0, 1001, 1002)}, best={0: 1}, algorithm="vrex")
    found = table(tmp_path, tuned_once=True)
    assert [
        (row.algorithm, [number.draw for number in row.cells[0].numbers]) for row in found.rows
    ] == [("erm", [2, 2]), ("irm", [0, 0])]
    assert [row.algorithm for row in table(tmp_path).rows] == ["erm", "irm", "vrex"]
    assert all(lacking(row.cells[0]) == [] for row in table(tmp_path).rows)


def test_a_search_that_has_only_begun_is_not_taken_for_a_repetition(tmp_path: Path) -> None:
    """The other rows tell: the defaults alone may be the start of a search, or preferred."""
    write_draws(tmp_path, {0: (0, 1), 1: (0, 1001)}, best={})
    write_draws(tmp_path, {0: (0, 1), 1: (0,)}, best={0: 0}, algorithm="irm")
    _, irm = table(tmp_path).rows
    assert lacking(irm.cells[0]) == [(1, "draws [1001] not run")]
    assert not any(section.key.tuned_once for section in load_board([tmp_path]).sections)


def test_only_what_a_rule_can_tune_is_tuned_once(tmp_path: Path) -> None:
    for trial, draw in ((0, 0), (0, 1), (1, 0), (2, 0)):
        write_draw(tmp_path, trial, draw, 0.5, 0.5, rule="last")
    _, cell = only_cell(table(tmp_path))
    assert lacking(cell) == [(1, "draws [1001] not run"), (2, "draws [2001] not run")]


def test_tuned_once_the_defaults_are_fixed_settings_in_the_trials_that_all_rows_have(
    tmp_path: Path,
) -> None:
    write_draws(tmp_path, {0: (0, 1, 2), 1: (0,), 2: (0,)}, best={0: 0})
    write_draws(tmp_path, {0: (0, 1, 2), 1: (1,), 2: (1, 0)}, best={0: 1}, algorithm="irm")
    (section,) = [s for s in load_board([tmp_path], "train_val").sections if not s.key.search]
    assert [[trial.trial_seed for trial in row.trials] for row in section.rows] == [[0, 2]] * 2
    assert [lacking(row.cells[0]) for row in section.rows] == [[], []]


# Draws that diverge


def test_a_draw_that_diverged_is_never_preferred_and_is_told_of(tmp_path: Path) -> None:
    for trial in (0, 1):
        write_draw(tmp_path, trial, 0, 0.5, 0.25)
        folder = write_draw(tmp_path, trial, 1000 * trial + 1, 0.9, 0.75, status="diverged")
    board = load_board([tmp_path])
    _, cell = only_cell(table(tmp_path))
    assert [number.accuracy for number in cell.numbers] == [0.25, 0.25]
    assert [entry.kind for entry in board.left_out] == ["diverged"] * 2
    assert folder.name in {entry.place.rpartition("/")[2] for entry in board.left_out}


def test_a_trial_all_of_whose_draws_diverged_has_no_number(tmp_path: Path) -> None:
    for draw in (0, 1):
        write_draw(tmp_path, 0, draw, 0.5, 0.5, status="diverged")
        write_draw(tmp_path, 1, 1000 * draw + draw, 0.5, 0.5)
    _, cell = only_cell(table(tmp_path))
    assert lacking(cell) == [(0, "diverged")]
    assert cell.missing[0].command is None


# Leave-one-out


def write_pairs(out: Path, trial: int, draw: int, held_out: float, algorithm: str = "erm") -> None:
    for other in COLORED[:2]:
        names = tuple(name for name in COLORED if name in (other, *HELD_OUT))
        write_draw(out, trial, draw, 0.5, held_out, algorithm, test_env=names, rule="leave_one_out")


def test_leave_one_out_reads_the_pairs_of_each_draw_in_each_trial(tmp_path: Path) -> None:
    for trial, best in ((0, 0), (1, 1001)):
        for draw in (0, 1000 * trial + 1):
            write_draw(tmp_path, trial, draw, 0.5, draw % 1000 / 10, rule="leave_one_out")
            write_pairs(tmp_path, trial, draw, 0.9 if draw == best else 0.3)
    board = load_board([tmp_path])
    (section,) = [
        s
        for s in board.sections
        if s.key.search and s.key.rule == "leave_one_out" and s.key.held_out == 1
    ]
    _, cell = only_cell(section)
    assert [number.draw for number in cell.numbers] == [0, 1001]
    records = [r for r in load([tmp_path])[0] if len(r.test) == 1 or r.draw != 1001]
    (section,) = [
        s
        for s in make_board(records).sections
        if s.key.search and s.key.rule == "leave_one_out" and s.key.held_out == 1
    ]
    _, cell = only_cell(section)
    ((trial, reason),) = lacking(cell)
    assert trial == 1
    assert reason.endswith("beside ['-90%'], of draws [1001]")
    command = cell.missing[0].command
    assert command is not None
    first, second = command.splitlines()
    assert "--hparams-seed=1001 --test-env=+90% --test-env=-90% --trial-seed=1" in first
    assert "--test-env=+80% --test-env=-90%" in second
