r"""A board as LaTeX with booktabs: a file for each table, and a document that shows them all.

`\input` a table into a paper with `\usepackage{booktabs,graphicx}` and
`\usepackage[T1]{fontenc}`. Every value is escaped, so it compiles whatever is in the records.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from leaderboard import tables
from leaderboard.board import Board, Section
from leaderboard.tables import Entry

FOLDER = "tables"
DOCUMENT = "leaderboard.tex"

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    # Alone, a letter of these starts a ligature or, at the start of a row, an argument.
    **{letter: f"{{{letter}}}" for letter in "'`-[]*,?!"},
    "±": r"$\pm$",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "§": r"\S{}",
    "‖": r"$\Vert$",
    "¶": r"\P{}",
    tables.MINUS: "$-$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{DIVISION SIGN}": r"$\div$",
    "—": "---",
}


def documents(board: Board) -> dict[str, str]:
    """Write a board as LaTeX.

    Returns:
        The content of each file by its name; the document is the first one.
    """
    sections = tables.in_order(board)
    names = tables.short_names(sections)
    files = {
        f"{FOLDER}/{name}.tex": _table(board, section, name)
        for name, section in zip(names, sections, strict=True)
    }
    document = [
        r"\documentclass{article}",
        r"\usepackage[T1]{fontenc}",
        r"\usepackage{booktabs,graphicx}",
        r"\usepackage[margin=2cm]{geometry}",
        r"\begin{document}",
        *(rf"\input{{{name}}}" for name in files),
        *([] if files else ["No tables."]),
        r"\end{document}",
    ]
    return {DOCUMENT: _lines(document), **files}


def escape(text: str) -> str:
    """Write any text so that pdfLaTeX compiles it and it reads as it is.

    Latin letters stay; what the usual fonts lack is named by its code point.
    """
    return "".join(map(_letter, " ".join(unicodedata.normalize("NFC", text).split())))


def _letter(letter: str) -> str:
    plain = (letter.isascii() and letter.isprintable()) or "À" <= letter <= "ÿ"
    return _SPECIAL.get(letter, letter if plain else f"U+{ord(letter):04X}")


def _table(board: Board, section: Section, name: str) -> str:
    headings = tables.headings(section)
    shown = [place for place, heading in enumerate(headings) if heading.group != "beside"]
    environments = sum(heading.group == "environment" for heading in headings)
    titles = ["Algorithm", *(escape(headings[place].title) for place in shown)]
    rows = []
    for row in section.rows:
        entries = tables.entries(section, row)
        rows.append(
            _row([escape(tables.row_title(row)), *(_entry(entries[place]) for place in shown)])
        )
    legend = [f"{tables.title(section)}.", *tables.notes(section), *tables.legend([section])]
    return _lines(
        [
            *(f"% {escape(line)}" for line in tables.header(board)),
            r"\begin{table}[ht]",
            r"\centering\small",
            rf"\caption{{{escape(' '.join(legend))}}}",
            rf"\label{{tab:{name}}}",
            r"\setlength{\tabcolsep}{4pt}",
            # As wide as the page if the table is wider.
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * len(shown)}}}",
            r"\toprule",
            rf" & \multicolumn{{{environments}}}{{c}}{{Held out}} \\",
            rf"\cmidrule(lr){{2-{environments + 1}}}",
            _row(titles),
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
        ]
    )


def _row(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _entry(entry: Entry) -> str:
    text = rf"\textbf{{{escape(entry.text)}}}" if entry.bold else escape(entry.text)
    return f"{text} {escape(entry.beside)}".rstrip()


def _lines(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"
