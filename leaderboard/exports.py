"""A board as data for other programs: JSON, CSV and Parquet."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from leaderboard import csv_files
from leaderboard.board import Board, Cell, Row, Section
from leaderboard.tables import column_title

if TYPE_CHECKING:
    from pathlib import Path

BOARD_SCHEMA = "dgbench.board/1"


def json_text(board: Board) -> str:
    """Write all of a board but its runs, whose ids it names: the same bytes for the same records.

    Numbers that are not finite are null.
    """
    content = {
        "schema": BOARD_SCHEMA,
        "benchmark_version": board.benchmark_version,
        "sha256": board.sha256,
        "runs": len(board.runs),
        "sections": board.sections,
        "overall": board.overall,
        "left_out": board.left_out,
    }
    text = orjson.dumps(content, _named, orjson.OPT_APPEND_NEWLINE)
    return text.decode()


def csv_text(board: Board) -> str:
    """Write one line for each algorithm and environment, and for its average and worst.

    A text that a spreadsheet would take for a formula has an apostrophe before it (`csv_files`).
    """
    return csv_files.csv_text(
        tuple(COLUMNS), ([row[name] for name in COLUMNS] for row in flat_rows(board))
    )


def write_parquet(board: Board, path: Path) -> None:
    """Write what `csv_text` does, with types.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
    """
    import pyarrow as pa
    from pyarrow import parquet

    fields = [pa.field(name, getattr(pa, kind)()) for name, kind in COLUMNS.items()]
    parquet.write_table(pa.Table.from_pylist(list(flat_rows(board)), pa.schema(fields)), path)


_KEY = (
    *("dataset", "protocol", "backbone", "source", "task", "data", "departures", "search"),
    *("tuned_once", "held_out", "origin", "rule"),
)
_SUMMARY = ("mean", "standard_error", "low", "high")
COLUMNS: Mapping[str, str] = {
    **dict.fromkeys(_KEY, "string"),
    "tuned_once": "bool_",
    "held_out": "int64",
    **dict.fromkeys(("algorithm", "label", "settings", "row_departures"), "string"),
    **dict.fromkeys(("draws", "trials", "data_seeds"), "int64"),
    "over": "string",  # environment, average or worst
    "environment": "string",  # null for average and worst
    "n": "int64",
    **dict.fromkeys(_SUMMARY, "float64"),
    "bold": "bool_",
    "two_clusters": "bool_",
    **{
        f"{metric}_{name}": "float64"
        for metric in ("nll", "brier", "ece", "gap")
        for name in _SUMMARY[:2]
    },
    **{f"minus_erm_{name}": "float64" for name in (*_SUMMARY, "p_value")},
    "rank": "float64",
    "prior_knowledge": "string",
}
"""The columns of the flat table with their Arrow types; numbers are fractions, 0..1."""


def flat_rows(board: Board) -> Iterator[dict[str, Any]]:
    """One mapping of `COLUMNS` for each algorithm and environment, and for average and worst."""
    for section in board.sections:
        key = dataclasses.asdict(section.key)
        for row in section.rows:
            common = key | {
                "algorithm": row.algorithm,
                "label": row.label,
                "settings": row.settings,
                "row_departures": row.departures,
                "draws": row.draws,
                "trials": len(row.trials),
                "data_seeds": row.data_seeds,
                "rank": row.rank,
                "prior_knowledge": ", ".join(row.prior_knowledge),
            }
            for over, environment, cell in _cells(section, row):
                yield common | {"over": over, "environment": environment} | _numbers(cell)


def _cells(section: Section, row: Row) -> Iterator[tuple[str, str | None, Cell]]:
    for column, cell in zip(section.columns, row.cells, strict=True):
        yield "environment", column_title(column), cell
    for over, aggregate in (("average", row.average), ("worst", row.worst)):
        if aggregate is not None:
            yield over, None, aggregate


def _numbers(cell: Cell) -> dict[str, Any]:
    found: dict[str, Any] = {"n": cell.n, "bold": cell.bold, **_summary("", cell.accuracy)}
    found["two_clusters"] = None if cell.accuracy is None else cell.clusters is not None
    for metric in ("nll", "brier", "ece", "gap"):
        summary = _summary(f"{metric}_", getattr(cell.measure, metric))
        found |= {name: summary[name] for name in (f"{metric}_mean", f"{metric}_standard_error")}
    difference = cell.to_erm
    found |= _summary("minus_erm_", difference)
    return found | {"minus_erm_p_value": None if difference is None else difference.p_value}


def _summary(prefix: str, summary: Any) -> dict[str, float | None]:
    low, high = (None, None) if summary is None else summary.interval or (None, None)
    mean, error = (None, None) if summary is None else (summary.mean, summary.standard_error)
    return dict(zip((prefix + name for name in _SUMMARY), (mean, error, low, high), strict=True))


def _named(value: Any) -> dict[str, Any]:
    """A named tuple as JSON holds it: orjson writes all else that a board is made of."""
    named: dict[str, Any] = value._asdict()
    return named
