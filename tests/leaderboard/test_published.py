"""Published numbers: where they stand, and what is flagged."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from dgbench import reproductions
from leaderboard import published
from leaderboard.board import SectionKey
from leaderboard.records import SelectionRule
from leaderboard.statistics import summarize

INDEX = {
    "colored_mnist": ("+90%", "+80%", "-90%"),
    "rotated_mnist": ("0deg", "15deg", "30deg", "45deg", "60deg", "75deg"),
}


def key(dataset: str, protocol: str, rule: SelectionRule, data: str = "{}") -> SectionKey:
    return SectionKey(dataset, protocol, "", "", "generalization", data, "", 1, "dgbench", rule)


@pytest.mark.parametrize("name", published.names())
def test_every_publication_has_a_source_and_percentages(name: str) -> None:
    publication = published.read(name)
    assert publication.sources
    for table in publication.tables:
        for row in table["rows"].values():
            printed = [*row.get("environments", []), *(row[k] for k in row if k != "environments")]
            assert printed
            assert all(0 <= number <= 100 for each in printed for number in each)


def test_averages_are_those_of_their_environments() -> None:
    compared = 0
    for table in published.read("domainbed").tables:
        for row in table["rows"].values():
            if "environments" in row:
                mean = np.mean([each[0] for each in row["environments"]])
                assert row["average"][0] == pytest.approx(mean, abs=0.11)
                compared += 1
    assert compared == 3 * 3 * 14


@pytest.mark.parametrize("name", reproductions.names())
def test_what_reproduce_compares_with_is_what_stands_here(name: str) -> None:
    table = reproductions.read(name)
    compared = 0
    for row in table.rows:
        algorithm = row.name.split()[0].rstrip(",")
        for rule, theirs in row.test.items():
            column = INDEX[table.dataset].index(row.config["test_env"])
            found = published.beside(
                key(table.dataset, table.protocol, rule), algorithm, column, None
            )
            assert f"{theirs.mean:.1f} ± {theirs.spread:.1f}" in {each.printed for each in found}
            compared += 1
    assert compared >= len(table.rows)


def test_a_difference_is_flagged_beyond_two_standard_errors() -> None:
    # Theirs: 66.9 ± 2.5 over ten runs with ddof 0, so the error is 2.5 / sqrt(9) points.
    section = key("colored_mnist", "irm-paper", "last")
    for ours, flagged in (([0.66, 0.67, 0.68], False), ([0.60, 0.61, 0.62], True)):
        summary = summarize(ours)
        (found,) = published.beside(section, "irm", 2, summary)
        assert found.standard_error == pytest.approx(0.025 / 3)
        assert found.difference == pytest.approx(summary.mean - 0.669)
        assert summary.standard_error is not None
        bound = 2 * math.hypot(summary.standard_error, 0.025 / 3)
        assert found.flagged is (abs(summary.mean - 0.669) > bound) is flagged
    (single,) = published.beside(section, "irm", 2, summarize([0.5]))
    assert single.flagged is None


def test_other_settings_have_nothing_beside_them() -> None:
    section = key("colored_mnist", "irm-paper", "last")
    assert published.beside(section, "irm", 2, None)
    for other in (
        replace(section, rule="train_val"),
        replace(section, protocol="digits"),
        replace(section, held_out=2),
        replace(section, data='{"grayscale":true}'),
    ):
        assert published.beside(other, "irm", 2, None) == ()
    assert published.beside(section, "irm", 0, None) == ()
