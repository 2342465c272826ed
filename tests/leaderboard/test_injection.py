"""Whatever is in the records, tables and page show it as text."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from leaderboard import csv_files, latex
from leaderboard.board import Board
from leaderboard.details import unpack
from leaderboard.exports import csv_text, json_text
from leaderboard.filling import make_board
from leaderboard.frame import LeftOut
from leaderboard.markdown import markdown
from leaderboard.page import page
from leaderboard.tables import MOST_ENVIRONMENTS
from tests.leaderboard.browser import chromium, errors, opened
from tests.leaderboard.make_board import synthetic_board, synthetic_records

HTML = "</script><img src=x onerror=\"document.title='owned'\"><b a='"
LATEX = r"\input{x} $a_1^2$ & 100% #1 ~ {b} \\ [2] \end{tabular} --- `` '' ?` <<"
# All but the control characters of ASCII, which no name can have.
LETTERS = "".join(chr(code) for code in range(32, 256) if code != 127) + "\u4e2d\U0001f600\u202e"


@pytest.fixture(scope="module")
def board() -> Board:
    """Markup as names of all that is named, in conclusions, and as the reason of a left-out run."""
    plain = synthetic_records(
        data_sets={HTML: (LATEX, HTML), LATEX: (LETTERS, "[x] *")},
        algorithms=("erm", HTML, LATEX, LETTERS),
        trials=2,
        checks=2,
    )
    drawn, concluding = (
        synthetic_records(
            data_sets={name: ("a", "b")}, algorithms=("erm",), trials=1, selection="train_val"
        )
        for name in ("drawn", "concluding")
    )
    search = json.dumps({"space": f"space {HTML}{LATEX}", "version": 1, "ranges": {}})
    conclusion = {
        "outcome": "identified",
        "alpha": 0.05,
        "variables": [f"variable {HTML}", f"variable {LATEX}"],
        "sets": [{"variables": [f"variable {HTML}", f"variable {LATEX}"], "p_value": 0.5}],
    }
    records = [
        *plain,
        *(replace(record, search=search, draw=1) for record in drawn),
        *(replace(record, conclusion_text=json.dumps(conclusion)) for record in concluding),
    ]
    return make_board(records, [LeftOut(f"place {HTML}", "corrupt", f"reason {HTML}{LATEX}")])


def test_markdown_shows_all_of_it_as_text(board: Board) -> None:
    """CommonMark, which lets HTML through as GitHub's pages do, by a parser of its own."""
    shown = MarkdownIt("commonmark").enable("table").render(markdown(board))
    assert "<img" not in shown
    assert "<b " not in shown
    assert "<a " not in shown
    for name in ("space", "variable", "place", "reason"):
        assert f"{name} {html.escape(HTML, quote=False)}" in shown.replace("&quot;", '"')
    for text in (f"variable {LATEX}", f"space {HTML}{LATEX}", f"reason {HTML}{LATEX}"):
        assert text in html.unescape(shown)


def test_latex_shows_all_of_it_as_text(board: Board) -> None:
    written = "".join(latex.documents(board).values())
    for text in (HTML, LATEX):
        assert text not in written
        assert f"variable {latex.escape(text)}" in written
    assert f"space {latex.escape(HTML + LATEX)}" in written


def test_names_reach_the_page_as_text(board: Board, tmp_path: Path) -> None:
    text = page(board)
    assert HTML not in text
    assert "<img" not in text
    for name in ("space", "variable", "place", "reason"):
        assert f"{name} {HTML}" in html.unescape(text)
    (tmp_path / "index.html").write_text(text, encoding="utf-8")
    with chromium() as browser:
        opened(browser, tmp_path / "index.html")
        labels = browser.execute_script(
            "return [...document.querySelectorAll('#table-0 tbody tr')]"
            ".map((row) => row.dataset.label)"
        )
        browser.execute_script("document.querySelectorAll('#table-0 td button')[5].click()")
        browser.execute_script("return new Promise((done) => setTimeout(done, 500))")
        browser.execute_script("document.querySelector('.run summary').click()")
        assert browser.execute_script("return document.querySelectorAll('img').length") == 0
        assert browser.title != "owned"
        assert errors(browser) == []
    assert {HTML, LATEX} <= set(labels)


def test_a_policy_lets_the_pages_own_script_run_alone(board: Board) -> None:
    text = page(board)
    assert text.count("<script>") == 1
    assert "default-src 'none'; script-src 'sha256-" in html.unescape(text)


def test_a_pack_holds_names_as_they_are(board: Board) -> None:
    packed = page(board).partition('id="pack-0">')[2].partition("<")[0]
    assert HTML in {
        run["id"] and name for run in unpack(packed)["runs"] for name in run["held_out"]
    }


@pytest.mark.parametrize("text", [LATEX, LETTERS, "a_b", "100%", "x & y", "#1"])
def test_no_special_character_is_left_alone_in_latex(text: str) -> None:
    left = latex.escape(text)
    for known in sorted(latex._SPECIAL.values(), key=len, reverse=True):
        left = left.replace(known, "")
    assert not set(left) & set("\\{}$&#%_~^<>|\"'`-[]*")


def test_the_tables_compile(board: Board, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex: apt-get install texlive-latex-recommended")
    for name, text in latex.documents(board).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", latex.DOCUMENT]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "leaderboard.pdf").exists()


def test_many_environments_are_cut_for_readers_and_all_in_files() -> None:
    names = tuple(f"environment {index}" for index in range(MOST_ENVIRONMENTS + 5))
    many = synthetic_board(data_sets={"wide": names}, algorithms=("erm",), trials=1, checks=1)
    assert "5 more environments are in leaderboard.csv" in page(many)
    assert f"environment {MOST_ENVIRONMENTS}<" not in page(many).partition("<details")[0]
    assert names[-1] in csv_text(many)
    assert names[-1] in json_text(many)


FORMULAS = (
    "=1+1",
    "@SUM(A1)",
    "-1+cmd|' /C calc'!A0",
    "+x",
    " =1",
    "\uff1d1",
    "'quoted",
)


@pytest.mark.parametrize("text", ["\t=1", "\r=1", "\n=1", *FORMULAS])
def test_a_text_that_would_be_a_formula_is_none(text: str) -> None:
    """No name has a tab, but other tables may."""
    ((first,), (cell,)) = csv.reader(io.StringIO(csv_files.csv_text(("a",), [(text,)]), newline=""))
    assert (first, cell) == ("a", f"'{text}")


def test_no_cell_of_the_csv_is_a_formula_and_each_text_reads_back() -> None:
    names = (*FORMULAS, "+90%", "-90%", "-1.5", "plain")
    board = synthetic_board(
        data_sets={"=data": names[:6], "more": names[6:]}, algorithms=names, trials=1, checks=1
    )
    text = csv_text(board)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    found = {row["algorithm"] for row in rows} | {row["environment"] for row in rows}
    # A reader drops one leading apostrophe.
    assert {cell.removeprefix("'") for cell in found} == {*names, ""}
    assert {cell for cell in found if cell.startswith("'")} == {f"'{text}" for text in FORMULAS}
    assert {row["dataset"] for row in rows} == {"'=data", "more"}
    number = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?|[+-]90%|-1\.5")
    for cell in (cell for row in rows for cell in row.values()):
        assert not cell.startswith(("=", "@", "\t", "\r", " ", "\uff1d"))
        assert not cell.startswith(("+", "-")) or number.fullmatch(cell)
