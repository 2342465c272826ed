"""What rows and cells are marked with, and the footnotes that say why: the same in every format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from leaderboard.board import Row
from leaderboard.departures import NONE, in_words
from leaderboard.statistics import Clusters

PRIOR_KNOWLEDGE = "‡"
DEPARTS = "§"
SHARED_DATA = "¶"
TWO_CLUSTERS = "‖"

MOST_CONCLUSIONS = 3
"""Different outcomes of a method that tests sets which a footnote tells."""

MOST_CLUSTERED = 3
"""Cells of a row whose two clusters of trials a footnote tells."""


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


def cluster_notes(row: Row, titles: Sequence[str]) -> Iterator[str]:
    """Where the trials of a row are two clusters, a sentence that begins with its label.

    Args:
        row: The row.
        titles: Of its cells, its average and its worst.
    """
    cells = [*row.cells, row.average, row.worst]
    found = [
        f"{title}: {clusters_text(cell.clusters)}"
        for title, cell in zip(titles, cells, strict=True)
        if cell is not None and cell.clusters is not None
    ]
    more = [f"and {len(found) - MOST_CLUSTERED} more"] * (len(found) > MOST_CLUSTERED)
    if found:
        told = "; ".join([*found[:MOST_CLUSTERED], *more])
        yield f"{row.label}, two clusters of trials in {told}."


def clusters_text(found: Clusters) -> str:
    """How many trials are around which accuracies, in %."""
    lower, upper = (f"{100 * mean:.1f}" for mean in (found.lower, found.upper))
    return f"{found.below} around {lower} and {found.above} around {upper}"
