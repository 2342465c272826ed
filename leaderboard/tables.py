"""Markdown tables of a board."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from leaderboard.board import Board, Cell, Column, Row, Section
from leaderboard.frame import LeftOut
from leaderboard.statistics import LEVEL, Difference

LEGEND = (
    "Accuracy in % on the main split of the test environment: mean ± standard error (ddof 1) over "
    "trials (number of trials). Average and worst are taken over environments inside each trial "
    "first. Bold: the best, and what a t-test over trials cannot tell from it "
    f"({100 * LEVEL:.0f} %, Holm). Minus ERM: mean difference over trials [95 % interval]."
)
INCOMPLETE_LEGEND = (
    "† has fewer trials than the row (not run, unfinished or diverged), so there is no mean."
)


def markdown(board: Board) -> str:
    """Write a board as Markdown, the same bytes for the same records."""
    parts = ["# Leaderboard", _header(board), LEGEND]
    parts += [_section(section) for section in board.sections]
    if any("†" in part for part in parts):
        parts.append(INCOMPLETE_LEGEND)
    return "\n\n".join([*parts, _left_out(board.left_out)]) + "\n"


def escape(text: str) -> str:
    """Escape what Markdown would read as markup, and join lines."""
    return re.sub(r"([\\`*_\[\]<>|~#&$])", r"\\\1", " ".join(text.split()))


def title(section: Section) -> str:
    """Name a table by all that its runs share."""
    key = section.key
    data = json.loads(key.data)
    parts = [key.dataset, key.protocol]
    if key.held_out > 1:
        parts.append(f"{key.held_out} environments held out together")
    parts += [key.backbone] * bool(key.backbone) + [key.source] * bool(key.source)
    parts += [key.task] * (key.task != "generalization")
    parts += [f"{name}={json.dumps(data[name])}" for name in data if name != "source"]
    return ", ".join([*parts, f"selected by {key.rule}"])


def _header(board: Board) -> str:
    return "\n".join(
        (
            f"<!-- benchmark version: {board.benchmark_version} -->",
            f"<!-- runs: {len(board.runs)} -->",
            f"<!-- sha256 of the records: {board.sha256} -->",
        )
    )


def _section(section: Section) -> str:
    many = len(section.columns) > 1
    titles = ["Algorithm", *(escape(column_title(column)) for column in section.columns)]
    titles += ["Average", "Worst"] * many + ["Minus ERM"] + ["Rank"] * section.ranked
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    lines += [_row(row, many=many, ranked=section.ranked) for row in section.rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([f"## {escape(title(section))}", *map(escape, section.notes), table])


def _row(row: Row, *, many: bool, ranked: bool) -> list[str]:
    aggregates = [cell for cell in (row.average, row.worst) if cell is not None]
    cells = [_cell(cell) for cell in (*row.cells, *aggregates)]
    compared = row.average if many and row.average is not None else row.cells[0]
    rank = ["—" if row.rank is None else f"{row.rank:g}"] if ranked else []
    return [escape(row.label), *cells, _difference(compared.to_erm), *rank]


def column_title(column: Column) -> str:
    """Name a test environment, and those held out with it."""
    if not column.held_out_with:
        return column.name
    return f"{column.name} (with {', '.join(column.held_out_with)})"


def _cell(cell: Cell) -> str:
    if cell.accuracy is None:
        return f"{cell.n} of {cell.expected} †"
    summary = cell.accuracy
    error = "" if summary.standard_error is None else f" ± {100 * summary.standard_error:.1f}"
    mean = f"{100 * summary.mean:.1f}"
    return f"{f'**{mean}**' if cell.bold else mean}{error} ({summary.n})"


def _difference(found: Difference | None) -> str:
    if found is None:
        return "—"
    if found.interval is None:
        return f"{100 * found.mean:+.1f}"
    low, high = found.interval
    return f"{100 * found.mean:+.1f} \\[{100 * low:+.1f}, {100 * high:+.1f}\\]"


def _left_out(entries: Sequence[LeftOut]) -> str:
    return "\n".join(["## Left out", "", *(_counted(entries) or ["Nothing."])])


def _counted(entries: Iterable[LeftOut]) -> list[str]:
    return [f"- {escape(e.place)}: {e.kind}: {escape(e.reason)}" for e in entries]
