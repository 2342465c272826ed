"""A board as Markdown."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaderboard.build import load_board
from leaderboard.markdown import MOST_MISSING, code, escape, markdown
from leaderboard.records import SelectionRule
from tests.leaderboard.make_board import synthetic_board
from tests.leaderboard.make_golden import (
    colored_run,
    make_check,
    make_settings,
    write_golden_runs,
    write_run,
)


def table(folder: Path, rule: SelectionRule = "last") -> str:
    return markdown(load_board([folder], rule))


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


def test_header_names_version_runs_and_hash(tmp_path: Path) -> None:
    write_golden_runs(tmp_path)
    header = table(tmp_path).splitlines()[2:5]
    assert header[:2] == ["<!-- benchmark version 1 -->", "<!-- 11 runs -->"]
    assert header[2].startswith("<!-- sha256 of the records ")


def test_the_hash_changes_with_any_record(tmp_path: Path) -> None:
    colored_run(tmp_path / "a", "erm", "-90%", 0, 0.5)
    colored_run(tmp_path / "b", "erm", "-90%", 0, 0.5001)
    first, second = table(tmp_path / "a"), table(tmp_path / "b")
    assert lines(first) == lines(second)
    assert first.splitlines()[4] != second.splitlines()[4]


def test_one_environment_has_no_average_column(tmp_path: Path) -> None:
    colored_run(tmp_path, "erm", "-90%", 0, 0.5)
    assert lines(table(tmp_path)) == [
        "| Algorithm | -90% | Minus ERM | Trials |",
        "| --- | ---: | ---: | ---: |",
        "| erm | 50.0 | — | 1 |",
    ]
    assert "†" not in table(tmp_path)
    assert "## Missing" not in table(tmp_path)


def test_an_incomplete_cell_shows_its_trials_and_no_mean(tmp_path: Path) -> None:
    colored_run(tmp_path, "erm", "+90%", 0, 0.5)
    colored_run(tmp_path, "irm", "-90%", 0, 0.5)
    assert lines(table(tmp_path))[2:] == [
        "| erm | 50.0 | 0 of 1 † | 0 of 1 † | 0 of 1 † | — | 1 |",
        "| irm | 0 of 1 † | 50.0 | 0 of 1 † | 0 of 1 † | — | 1 |",
    ]


def test_what_is_missing_is_listed_once_with_its_command(tmp_path: Path) -> None:
    colored_run(tmp_path, "erm", "+90%", 0, 0.5)
    colored_run(tmp_path, "irm", "-90%", 0, 0.5)
    text = markdown(load_board([tmp_path]))
    assert text.count("selected by") == 3
    (line,) = [line for line in text.splitlines() if ", erm, " in line]
    assert line.startswith(
        "- colored\\_mnist, digits, erm, -90%, trial 0: not run: `dgbench fit --algo"
    )
    assert line.endswith("--test-env=-90% --trial-seed=0 --data-seed=0`")


def test_a_long_list_of_missing_trials_is_cut() -> None:
    one = [("irm", "+90%", 0)]
    most = [("irm", "+90%", trial) for trial in range(1, MOST_MISSING + 3)]
    options = {"data_sets": {"colored_mnist": ("+90%", "-90%")}, "checks": 1, "trials": 60}
    assert "more, in leaderboard.json" not in markdown(synthetic_board(leave_out=one, **options))
    assert "- and 2 more, in leaderboard.json" in markdown(
        synthetic_board(leave_out=most, **options)
    )


def test_held_out_pairs_are_named(tmp_path: Path) -> None:
    pair = make_settings(test_env=("+90%", "-90%"))
    write_run(tmp_path, pair, [make_check(100, {"+90%/main": 0.7, "-90%/main": 0.3})])
    assert "2 environments held out together" in table(tmp_path)
    titles = "+90% (with -90%) | -90% (with +90%) | Average | Worst | Minus ERM | Trials"
    assert lines(table(tmp_path))[0] == f"| Algorithm | {titles} |"


def test_names_are_escaped(tmp_path: Path) -> None:
    settings = make_settings(algorithm="a|b*c", names=("x", "<y>"), test_env=("<y>",))
    write_run(tmp_path, settings, [make_check(100, {"<y>/main": 0.5})], names=("x", "<y>"))
    assert lines(table(tmp_path))[0] == r"| Algorithm | \<y\> | Minus ERM | Trials |"
    assert lines(table(tmp_path))[2] == r"| a\|b\*c | 50.0 | — | 1 |"
    assert escape("a\nb_c`[d]") == r"a b\_c\`\[d\]"


@pytest.mark.parametrize(
    ("text", "span"),
    [("dgbench fit", "`dgbench fit`"), ("a`b``c", "``` a`b``c ```"), ("a\nb", "`a b`")],
)
def test_code_spans_hold_backticks(text: str, span: str) -> None:
    assert code(text) == span
