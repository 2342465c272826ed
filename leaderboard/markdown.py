"""A board as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from leaderboard import tables
from leaderboard.board import Board, Overall, Section
from leaderboard.tables import Entry

MOST_MISSING = 50
"""Missing trials that are listed; leaderboard.json has all."""


def markdown(board: Board) -> str:
    """Write a board as Markdown, the same bytes for the same records."""
    comments = "\n".join(f"<!-- {escape(line)} -->" for line in tables.header(board))
    sections = tables.in_order(board)
    parts = ["# Leaderboard", comments, _list(map(escape, tables.legend(sections)))]
    for section in sections:
        parts += _section(section)
    for overall in tables.overall_tables(board):
        parts += _overall(overall)
    parts += _missing(board)
    left_out = [f"{escape(e.place)}: {e.kind}: {escape(e.reason)}" for e in board.left_out]
    return "\n\n".join([*parts, "## Left out", _list(left_out or ["nothing"])]) + "\n"


def escape(text: str) -> str:
    """Escape what Markdown would read as markup, and join lines."""
    return re.sub(r"([\\`*_\[\]<>|~#&$])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """A code span of any text: its fence is longer than any run of backticks inside."""
    line = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence}{line}{fence}" if len(fence) == 1 else f"{fence} {line} {fence}"


def _section(section: Section) -> list[str]:
    headings = tables.headings(section)
    shown = [place for place, heading in enumerate(headings) if heading.group != "beside"]
    lines = []
    for row in section.rows:
        entries = tables.entries(section, row)
        lines.append([escape(tables.row_title(row)), *(_entry(entries[place]) for place in shown)])
    titles = ["Algorithm", *(escape(headings[place].title) for place in shown)]
    parts = [f"## {escape(tables.title(section))}", *map(escape, tables.notes(section))]
    return [*parts, _table(titles, lines), *_published(section)]


def _entry(entry: Entry) -> str:
    text = f"**{entry.text}**" if entry.bold else escape(entry.text)
    return f"{text} {escape(entry.beside)}".rstrip()


def _published(section: Section) -> list[str]:
    rows = tables.published_rows(section)
    if not rows:
        return []
    lines = [
        [
            escape(label),
            escape(column),
            *map(escape, tables.published_entries(cell, published)),
            escape(f"{published.title}, {published.source}"),
            escape(published.note),
        ]
        for label, column, cell, published in rows
    ]
    titles = ["Algorithm", "Environment", "Published", "Ours", "Difference", "Source", "Note"]
    return ["Published numbers beside ours:", _table(titles, lines)]


def _missing(board: Board) -> list[str]:
    """Each trial that a table lacks, once for all rules, and the command that fills it."""
    lines = list(
        dict.fromkeys(
            escape(f"{where}: {missing.reason}")
            + (f": {code(missing.command)}" if missing.command else "")
            for section in tables.in_order(board)
            for where, missing in tables.missing_trials(section)
        )
    )
    left = len(lines) - MOST_MISSING
    more = [f"and {left} more, in leaderboard.json"] if left > 0 else []
    return ["## Missing", _list([*lines[:MOST_MISSING], *more])] if lines else []


def _overall(overall: Overall) -> list[str]:
    heading = f"## {escape(tables.overall_title(overall))}"
    lines = [[escape(row.label), *map(_entry, tables.overall_entries(row))] for row in overall.rows]
    titles = ["Algorithm", *map(escape, tables.overall_titles(overall))]
    return [heading, *map(escape, tables.overall_notes(overall)), _table(titles, lines)]


def _table(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(titles) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (titles, rule, *lines))


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
