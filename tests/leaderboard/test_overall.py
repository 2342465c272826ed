"""Tables over data sets: each data set counts once, and rows that are compared with none do not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from scipy import stats

from leaderboard.board import Overall
from leaderboard.filling import make_board
from leaderboard.frame import Record
from leaderboard.markdown import escape, markdown
from leaderboard.records import canonical_json
from leaderboard.tables import overall_notes
from tests.leaderboard.make_board import synthetic_records

ENVIRONMENTS = ("one", "two")
ALGORITHMS = ("erm", "irm", "vrex")


# Each with numbers of its own; those of the variants of one data set differ, too.
KNOWN = synthetic_records(
    data_sets=dict.fromkeys(["a", "a 7", "a 14", "a 21", "b", "c", "d", "e"], ENVIRONMENTS),
    algorithms=ALGORITHMS,
    trials=3,
    checks=2,
    selection="train_val",
)


def runs_on(dataset: str) -> list[Record]:
    return [record for record in KNOWN if record.dataset == dataset]


def variant(size: int, **steps: object) -> list[Record]:
    """Runs on the data set `a` with an option that its protocol has otherwise."""
    departures = canonical_json({"data.size": [28, size], **steps})
    data = canonical_json({"size": size, "source": "digits"})
    return [
        replace(record, dataset="a", data=data, departures=departures)
        for record in runs_on(f"a {size}")
    ]


def overall(records: Iterable[Record]) -> Overall:
    (found,) = make_board(records, rule="train_val").overall
    return found


def numbers(found: Overall) -> list[object]:
    return [found.rows, found.friedman, found.not_different]


FIVE = [record for name in "abcde" for record in runs_on(name)]


def test_variants_of_one_data_set_count_once() -> None:
    plain = overall(FIVE)
    found = overall([*FIVE, *variant(14)])
    # The one that is as the protocol has it.
    assert numbers(found) == numbers(plain)
    assert found.datasets == ("a (size=unset)", "b", "c", "d", "e")
    assert found.not_counted == ("a (size=14)",)
    assert plain.not_counted == ()
    assert any(note.endswith("not counted: a (size=14).") for note in overall_notes(found))
    text = markdown(make_board([*FIVE, *variant(14)], rule="train_val"))
    assert escape("not counted: a (size=14).") in text


def test_friedmans_test_counts_data_sets_and_not_their_variants() -> None:
    four = [record for record in FIVE if record.dataset != "e"]
    assert overall(four).friedman is None
    assert overall([*four, *variant(14)]).friedman is None
    found = overall(FIVE)
    assert found.friedman is not None
    columns = [[cell.mean for cell in row.cells if cell is not None] for row in found.rows]
    chi_square = stats.friedmanchisquare(*columns).statistic
    n, k = 5, len(ALGORITHMS)
    expected = (n - 1) * chi_square / (n * (k - 1) - chi_square)
    assert found.friedman.statistic == pytest.approx(expected)


def test_of_variants_without_the_protocols_own_the_nearest_and_then_the_most_complete_counts() -> (
    None
):
    others = [record for record in FIVE if record.dataset != "a"]
    near = variant(14)
    far = variant(7, steps=[501, 20])
    found = overall([*others, *near, *far])
    assert numbers(found) == numbers(overall([*others, *near]))
    assert found.not_counted == ("a (20 of 501 steps, size=7)",)
    # Of equal departures that with more complete rows: here irm has not run everywhere.
    partial = [r for r in near if (r.algorithm, r.test) != ("irm", ("one",))]
    whole = variant(21)
    assert numbers(overall([*others, *partial, *whole])) == numbers(overall([*others, *whole]))


def test_a_row_that_is_compared_with_none_stands_in_no_table_over_data_sets() -> None:
    departed = [
        replace(record, departures='{"steps":[501,5000]}')
        if (record.dataset, record.algorithm) == ("b", "irm")
        else record
        for record in FIVE
    ]
    (irm,) = [row for row in overall(departed).rows if row.label == "irm"]
    assert (irm.mean, irm.average_rank) == (None, None)
    assert [cell is None for cell in irm.cells] == [False, True, False, False, False]
    others = [row for row in overall(departed).rows if row.label != "irm"]
    without = overall([record for record in FIVE if record.algorithm != "irm"])
    assert others == list(without.rows)


def test_a_table_over_data_sets_names_what_each_changes() -> None:
    short = [replace(record, departures='{"steps":[501,20]}') for record in runs_on("a")]
    others = [record for record in FIVE if record.dataset != "a"]
    assert overall([*short, *others]).datasets[:2] == ("a (20 of 501 steps)", "b")
