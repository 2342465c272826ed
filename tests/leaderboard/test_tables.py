"""Markdown tables of a board."""

from __future__ import annotations

from pathlib import Path

from leaderboard.build import load_board
from leaderboard.records import SelectionRule
from leaderboard.tables import INCOMPLETE_LEGEND, escape, markdown
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
    assert header[:2] == ["<!-- benchmark version: 1 -->", "<!-- runs: 11 -->"]
    assert header[2].startswith("<!-- sha256 of the records: ")


def test_the_hash_changes_with_any_record(tmp_path: Path) -> None:
    colored_run(tmp_path / "a", "erm", "-90%", 0, 0.5)
    colored_run(tmp_path / "b", "erm", "-90%", 0, 0.5001)
    first, second = table(tmp_path / "a"), table(tmp_path / "b")
    assert lines(first) == lines(second)
    assert first.splitlines()[4] != second.splitlines()[4]


def test_one_environment_has_no_average_column(tmp_path: Path) -> None:
    colored_run(tmp_path, "erm", "-90%", 0, 0.5)
    assert lines(table(tmp_path)) == [
        "| Algorithm | -90% | Minus ERM |",
        "| --- | ---: | ---: |",
        "| erm | 50.0 (1) | — |",
    ]
    assert INCOMPLETE_LEGEND not in table(tmp_path)


def test_an_incomplete_cell_shows_its_trials_and_no_mean(tmp_path: Path) -> None:
    colored_run(tmp_path, "erm", "+90%", 0, 0.5)
    colored_run(tmp_path, "irm", "-90%", 0, 0.5)
    assert lines(table(tmp_path))[2:] == [
        "| erm | 50.0 (1) | 0 of 1 † | 0 of 1 † | 0 of 1 † | — |",
        "| irm | 0 of 1 † | 50.0 (1) | 0 of 1 † | 0 of 1 † | — |",
    ]
    assert INCOMPLETE_LEGEND in table(tmp_path)


def test_held_out_pairs_are_named(tmp_path: Path) -> None:
    pair = make_settings(test_env=("+90%", "-90%"))
    write_run(tmp_path, pair, [make_check(100, {"+90%/main": 0.7, "-90%/main": 0.3})])
    assert "2 environments held out together" in table(tmp_path)
    titles = "+90% (with -90%) | -90% (with +90%) | Average | Worst | Minus ERM"
    assert lines(table(tmp_path))[0] == f"| Algorithm | {titles} |"


def test_names_are_escaped(tmp_path: Path) -> None:
    settings = make_settings(algorithm="a|b*c", names=("x", "<y>"), test_env=("<y>",))
    write_run(tmp_path, settings, [make_check(100, {"<y>/main": 0.5})], names=("x", "<y>"))
    assert lines(table(tmp_path))[0] == r"| Algorithm | \<y\> | Minus ERM |"
    assert lines(table(tmp_path))[2] == r"| a\|b\*c | 50.0 (1) | — |"
    assert escape("a\nb_c`[d]") == r"a b\_c\`\[d\]"
