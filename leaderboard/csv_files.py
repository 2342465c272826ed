"""CSV files that a spreadsheet shows and does not execute.

A cell that begins with `=` is a formula to a spreadsheet, whoever wrote it. Such a text is written
with an apostrophe before it, and so is one that begins with an apostrophe: a reader who drops one
leading apostrophe has every text as it was. Numbers and percentages, such as `-1.5` and `+90%`,
stay as they are.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

_BEGINS_A_FORMULA = tuple("=+-@\t\r\n'＝＋－＠")  # noqa: RUF001 - some read the wide ones alike
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?%?", re.ASCII)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a table, with line feeds between its lines.

    Args:
        header: Names of the columns.
        rows: Their values; None is an empty cell.
    """
    return "".join(map(_line, (header, *rows)))


def _line(row: Sequence[Any]) -> str:
    line = io.StringIO(newline="")
    # Before Python 3.13 cells are quoted for the characters of this very terminator alone.
    writer = csv.writer(line, lineterminator="\r\n")
    writer.writerow([harmless(cell) if isinstance(cell, str) else cell for cell in row])
    return line.getvalue().removesuffix("\r\n") + "\n"


def harmless(cell: str) -> str:
    """A text as a cell that is no formula.

    >>> [harmless(text) for text in ("=1+1", "-x", "'tis", "+90%", "-1e-3", "a-b")]
    ["'=1+1", "'-x", "''tis", '+90%', '-1e-3', 'a-b']
    """
    begins = cell.lstrip(" ").startswith(_BEGINS_A_FORMULA)
    return f"'{cell}" if begins and not _NUMBER.fullmatch(cell) else cell
