"""A board as one page that needs no other file: it opens from a disk, offline.

Tables and plots are in it as they are; the runs behind the cells are packed
(`leaderboard.details`) and unpacked by the page's script when a cell is pressed. Its content
security policy allows its own style and script alone, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from leaderboard import tables
from leaderboard.board import Board, Overall, Row, Section
from leaderboard.details import WHOLE, pack, shared_key
from leaderboard.marks import marks
from leaderboard.pictures import Picture, look_of, overall_pictures, section_pictures
from leaderboard.plots import Style
from leaderboard.tables import Entry, Heading
from leaderboard.templating import asset, render

TITLE = "Domain generalization leaderboard"
FILTERS = {
    "dataset": "Data set",
    "protocol": "Protocol",
    "backbone": "Backbone",
    "rule": "Selected by",
}


class _Cell(NamedTuple):
    entry: Entry
    classes: str
    opens: str  # key of the cell in the pack; "" for a cell without runs
    of: str  # what the cell is of, for the title of its runs


def page(board: Board) -> str:
    """Write a board as a page; the same for the same records, up to zlib's version."""
    sections = tables.in_order(board)
    look = look_of(board)
    views, packs = [], []
    for _, group in groupby(enumerate(sections), lambda item: shared_key(item[1])):
        members = list(group)
        packs.append(pack(board, members))
        views += [_section(board, s, place, len(packs) - 1, look) for place, s in members]
    style, script = asset("page.css"), asset("page.js")
    return render(
        "page.html",
        title=TITLE,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        facts=tables.header(board),
        legend=[*tables.legend(sections), "Press a number for the runs behind it."],
        filters=[(name, label, _values(sections, name)) for name, label in FILTERS.items()],
        sections=views,
        overall=[_overall(overall, look) for overall in tables.overall_tables(board)],
        left_out=board.left_out,
        packs=packs,
    )


def _values(sections: Iterable[Section], name: str) -> list[str]:
    return sorted({getattr(section.key, name) for section in sections})


def _section(
    board: Board, section: Section, place: int, pack_place: int, look: Mapping[str, Style]
) -> dict[str, Any]:
    headings = tables.headings(section)
    starts = {
        0,
        *(i for i in range(1, len(headings)) if headings[i].group != headings[i - 1].group),
    }
    classes = [_classes(heading, starts=i in starts) for i, heading in enumerate(headings)]
    groups = [(kind, len(list(members))) for kind, members in groupby(h.group for h in headings)]
    published = tables.published_rows(section)
    return {
        "place": place,
        "pack": pack_place,
        "key": section.key,
        "reported": section.reported,
        "title": tables.title(section),
        "protocol": tables.protocol(section.key),
        "facts": [
            f"selected by {section.key.rule}: {tables.RULES[section.key.rule]}",
            *tables.facts(section.key),
            *tables.options(section.key),
        ],
        "groups": groups,
        "headings": list(zip(headings, classes, strict=True)),
        "rows": [_row(section, row, r, classes, look) for r, row in enumerate(section.rows)],
        "notes": tables.notes(section),
        "published": [
            (label, column, tables.published_entries(cell, found), found)
            for label, column, cell, found in published
        ],
        "publications": sorted({(f.title, f.source, f.note) for _, _, _, f in published}),
        "pictures": _grouped(section_pictures(board, section, look)),
    }


def _classes(heading: Heading, *, starts: bool) -> str:
    return " ".join([*["first"] * starts, *["more"] * (heading.group == "beside")])


def _row(
    section: Section, row: Row, r: int, classes: Sequence[str], look: Mapping[str, Style]
) -> dict[str, Any]:
    columns = tables.shown_columns(section)
    cells = []
    for place, entry in enumerate(tables.entries(section, row)):
        if place < len(columns):
            opens, of = f"{r}:{place}", tables.column_title(columns[place])
        elif place < len(columns) + 2 and len(section.columns) > 1:
            opens, of = f"{r}:{WHOLE}", "all environments"
        else:
            opens, of = "", ""
        kinds = [*["tied"] * entry.bold, *["partial"] * entry.partial]
        cells.append(_Cell(entry, " ".join([classes[place], *kinds]).strip(), opens, of))
    draws = [f"best of {row.draws} draws"] * (row.draws > 1 and "draws" not in row.label)
    marked = [*draws, *(f"{mark.symbol} {mark.short}" for mark in marks(row))]
    return {"label": row.label, "style": look[row.label], "marks": marked, "cells": cells}


def _overall(overall: Overall, look: Mapping[str, Style]) -> dict[str, Any]:
    return {
        "title": tables.overall_title(overall),
        "titles": tables.overall_titles(overall),
        "rows": [(row.label, look[row.label], tables.overall_entries(row)) for row in overall.rows],
        "notes": tables.overall_notes(overall),
        "pictures": _grouped(overall_pictures(overall, look)),
    }


def _grouped(pictures: Sequence[Picture]) -> list[tuple[str, list[Picture]]]:
    return [(name, list(group)) for name, group in groupby(pictures, lambda p: p.group)]


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
