"""What a row is marked with, and the footnotes that say why: the same in every format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from leaderboard.board import Row
from leaderboard.departures import NONE, in_words

PRIOR_KNOWLEDGE = "‡"
DEPARTS = "§"
SHARED_DATA = "¶"

MOST_CONCLUSIONS = 3
"""Different outcomes of a method that tests sets which a footnote tells."""


class Mark(NamedTuple):
    """Something that a reader must know of a row.

    Attributes:
        symbol: Stands behind its label.
        short: What it means, in a few words.
        note: What it means, whole sentences that begin with the row's label.
    """

    symbol: str
    short: str
    note: str


def marks(row: Row) -> Iterator[Mark]:
    """What a row is marked with."""
    if row.prior_knowledge:
        yield Mark(PRIOR_KNOWLEDGE, "prior knowledge", _prior_knowledge(row))
    if row.departures != NONE:
        yield Mark(DEPARTS, "; ".join(in_words(row.departures)), _departs(row))
    if row.data_seeds < len(row.trials):
        yield Mark(SHARED_DATA, "trials share data", _shared_data(row))


def _prior_knowledge(row: Row) -> str:
    runs = sum(count for _, count in row.conclusions)
    found = [f"{text} ({count} of {runs} runs)" for text, count in row.conclusions]
    more = [f"and {len(found) - MOST_CONCLUSIONS} more"] * (len(found) > MOST_CONCLUSIONS)
    return (
        f"{row.label} had prior knowledge that other algorithms have not: the variables "
        f"{', '.join(row.prior_knowledge)} of each sample. It found "
        f"{'; '.join([*found[:MOST_CONCLUSIONS], *more])}."
    )


def _departs(row: Row) -> str:
    what = ", ".join(in_words(row.departures))
    if row.is_comparable:
        return f"{row.label} has other hyper-parameters than the protocol's: {what}."
    return f"{row.label} departs from the protocol, so it is compared with no other row: {what}."


def _shared_data(row: Row) -> str:
    some = row.data_seeds > 1
    return (
        f"{row.label} has {len(row.trials)} trials on {row.data_seeds} data seed{'s' * some}: its "
        f"standard errors leave out {'a part of ' * some}the variance of the data."
    )
