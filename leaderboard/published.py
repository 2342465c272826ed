"""What publications print, to stand beside ours.

Each file of `published_tables/` is a publication: title, sources, number of trials, what stands
after its ± (`spread`: the trials' standard deviation, or the mean's standard error) with its
`ddof`, and tables of percentages. A row is named by its algorithm, or names it beside; `when` says
which settings of ours a table or a row belongs to.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Literal, NamedTuple

import yaml

from leaderboard.board import Published, SectionKey
from leaderboard.records import SelectionRule
from leaderboard.statistics import Summary, beyond_two_errors


class Figure(NamedTuple):
    """A printed number.

    Attributes:
        mean: Percent.
        spread: What stands after its ±, percent; None if nothing does.
    """

    mean: float
    spread: float | None


class Publication(NamedTuple):
    """Tables of one publication.

    Attributes:
        title: What it is.
        sources: Its addresses.
        trials: Trials of a number; None where it does not tell.
        spread: What stands after its ±.
        ddof: What it subtracts from the number of trials in the standard deviation.
        note: How its runs differ from ours.
        tables: As the file has them.
    """

    title: str
    sources: tuple[str, ...]
    trials: int | None
    spread: Literal["deviation", "error"]
    ddof: int
    note: str
    tables: Sequence[Mapping[str, Any]]

    def standard_error(self, figure: Figure) -> float | None:
        """The standard error of a mean with ddof 1, percent, whatever is printed."""
        if figure.spread is None or self.trials is None:
            return None
        scale = math.sqrt(self.trials / (self.trials - 1)) if self.ddof == 0 else 1.0
        return (
            figure.spread * scale / (math.sqrt(self.trials) if self.spread == "deviation" else 1.0)
        )


@functools.cache
def names() -> tuple[str, ...]:
    """The publications there are."""
    folder = resources.files("leaderboard").joinpath("published_tables")
    return tuple(sorted(file.name.removesuffix(".yaml") for file in folder.iterdir()))


@functools.cache
def read(name: str) -> Publication:
    """Read a publication."""
    file = resources.files("leaderboard").joinpath("published_tables", f"{name}.yaml")
    # The parser in C, where PyYAML has it: all tables take a quarter of a second without.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content = yaml.load(file.read_text(encoding="utf-8"), loader)
    return Publication(**{**content, "sources": tuple(content["sources"])})


def figure(
    publication: str,
    row: str,
    kind: Literal["test", "train"],
    *,
    dataset: str,
    protocol: str,
    rule: SelectionRule,
    column: int,
) -> Figure | None:
    """What a publication prints in a row of its own name; None if it does not.

    Args:
        publication: Its name.
        row: The name of the row.
        kind: Accuracy on the test environment, or mean accuracy on the training environments.
        dataset: The data set.
        protocol: The protocol.
        rule: The selection rule.
        column: Index of the test environment.
    """
    for table in read(publication).tables:
        if _is_of(table, dataset, protocol, rule) and row in table["rows"]:
            return _printed(table, table["rows"][row], column, kind)
    return None


def beside(
    key: SectionKey, algorithm: str, settings: str, column: int | None, ours: Summary | None
) -> tuple[Published, ...]:
    """What publications print for a cell.

    Args:
        key: The table of the cell.
        algorithm: The algorithm of its row.
        settings: What the runs of its row share, JSON.
        column: Index of its test environment; None for the average over all of them.
        ours: Our number, 0..1; None if the cell is incomplete.
    """
    found = []
    for publication in map(read, names()) if key.held_out == 1 else ():
        for table in publication.tables:
            if _is_of(table, key.dataset, key.protocol, key.rule):
                row = _row(table, algorithm, settings)
                printed = None if row is None else _printed(table, row, column, "test")
                if printed is not None:
                    found.append(_compared(publication, printed, ours))
    return tuple(found)


def _is_of(table: Mapping[str, Any], dataset: str, protocol: str, rule: SelectionRule) -> bool:
    known = dataset in table["datasets"] and protocol in table["protocols"]
    return known and table["selection"] == rule


def _row(table: Mapping[str, Any], algorithm: str, settings: str) -> Mapping[str, Any] | None:
    """The row of these settings; of several the one that asks most of them."""
    content = json.loads(settings)
    if not _holds(table.get("when", {}), content):
        return None
    rows: list[Mapping[str, Any]] = [
        row
        for name, row in table["rows"].items()
        if _plain(row.get("algorithm", name)) == _plain(algorithm)
        and _holds(row.get("when", {}), content)
    ]
    return max(rows, key=lambda row: len(row.get("when", {})), default=None)


def _holds(when: Mapping[str, Any], settings: Any) -> bool:
    for path, expected in when.items():
        found = settings
        for name in path.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        if found != expected:
            return False
    return True


def _printed(
    table: Mapping[str, Any],
    row: Mapping[str, Any],
    column: int | None,
    kind: Literal["test", "train"],
) -> Figure | None:
    if column is None:
        printed = row.get("average")
    elif "environments" in row and kind == "test" and column < len(row["environments"]):
        printed = row["environments"][column]
    else:
        printed = row.get(kind) if table.get("index") == column else None
    return None if printed is None else Figure(printed[0], printed[1] if printed[1:] else None)


def _plain(algorithm: str) -> str:
    """DomainBed writes GroupDRO where we write group_dro."""
    return algorithm.lower().replace("_", "").replace("-", "")


def _compared(publication: Publication, figure: Figure, ours: Summary | None) -> Published:
    error = publication.standard_error(figure)
    theirs = None if error is None else error / 100
    difference = None if ours is None else ours.mean - figure.mean / 100
    flagged = None
    if ours is not None and difference is not None:
        flagged = beyond_two_errors(difference, ours.standard_error, theirs)
    return Published(
        mean=figure.mean / 100,
        printed=_text(figure.mean)
        + ("" if figure.spread is None else f" ± {_text(figure.spread)}"),
        standard_error=theirs,
        trials=publication.trials,
        title=publication.title,
        source=publication.sources[0],
        note=publication.note,
        difference=difference,
        flagged=flagged,
    )


def _text(percent: float) -> str:
    """One decimal, as most publications print, or two where there are two."""
    return f"{percent:.1f}" if percent == round(percent, 1) else f"{percent:.2f}"
