"""The golden leaderboard, and what building refuses."""

from __future__ import annotations

import filecmp
import math
import re
from pathlib import Path

import pytest

from leaderboard.build import build
from leaderboard.errors import RecordError
from tests.leaderboard.make_golden import GOLDEN, colored_run, write_golden_runs


def test_golden_records_are_those_of_the_script(tmp_path: Path) -> None:
    write_golden_runs(tmp_path)
    ours = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    golden = GOLDEN / "records"
    assert ours == sorted(p.relative_to(golden) for p in golden.rglob("*") if p.is_file())
    assert filecmp.cmpfiles(tmp_path, golden, map(str, ours), shallow=False)[0] == [*map(str, ours)]


def test_golden_leaderboard(tmp_path: Path) -> None:
    path, *_ = build([GOLDEN / "records"], tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "LEADERBOARD.md"
    assert path.read_text("utf-8") == (GOLDEN / "LEADERBOARD.md").read_text("utf-8")


def test_golden_numbers_by_hand() -> None:
    def cell(*percents: float) -> str:
        mean = sum(percents) / len(percents)
        if len(percents) == 1:
            return f"{mean:.1f}"
        variance = sum((value - mean) ** 2 for value in percents) / (len(percents) - 1)
        return f"{mean:.1f} ± {math.sqrt(variance / len(percents)):.1f}"

    average = cell((80 + 10) / 2, (70 + 20) / 2)
    expected = [
        f"| erm | {cell(80, 70)} | {cell(10, 20)} | {average} | {cell(10, 20)} | — | 2 |",
        f"| irm | {cell(65, 75)} | 1 of 2 † | 1 of 2 † | 1 of 2 † | — | 2 |",
    ]
    text = (GOLDEN / "LEADERBOARD.md").read_text("utf-8")
    colored = text[text.index("## colored") :].split("## ")[1]
    assert re.findall(r"^\| [a-z].*$", colored, flags=re.M) == expected
    rotated = next(part for part in text.split("## ") if part.startswith("rotated"))
    assert re.findall(r"^\| [a-z].*$", rotated, flags=re.M) == [
        r"| group\_dro | 0 of 1 † | — | — | 1 |",
        rf"| vrex (algo.penalty\_weight=1.0) § | {cell(40)} | — | 1.5 | 1 |",
        rf"| vrex (algo.penalty\_weight=10.0) | {cell(40)} | — | 1.5 | 1 |",
    ]


def test_one_rule_for_all(tmp_path: Path) -> None:
    text = build([GOLDEN / "records"], tmp_path, rule="last")[0].read_text("utf-8")
    assert re.findall("selected by (.*)", text) == ["last", "last"]
    assert r"| vrex (algo.penalty\_weight=1.0) § | 60.0 | — | 1 |" in text


def test_order_of_paths_changes_nothing(tmp_path: Path) -> None:
    records = GOLDEN / "records"
    folders = [folder for folder in records.glob("*/*/*")]
    first = [path.read_bytes() for path in build(folders, tmp_path)]
    again = build([*folders[::-1], records], tmp_path)
    assert [path.read_bytes() for path in again] == first


def test_two_builds_leave_the_files_of_one(tmp_path: Path) -> None:
    build([GOLDEN / "records"], tmp_path)
    written = build([GOLDEN / "records"], tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(written)
    names = {str(path.relative_to(tmp_path)) for path in written}
    assert {"LEADERBOARD.md", "leaderboard.json", "leaderboard.csv", "leaderboard.parquet"} < names
    assert {"index.html", "leaderboard.tex", "tables/colored_mnist-digits-last.tex"} < names


def test_only_unreadable_runs_still_make_a_list(tmp_path: Path) -> None:
    folder = colored_run(tmp_path, "erm", "-90%", 0, 0.1)
    (folder / "run.json").write_text("{}")
    text = build([tmp_path], tmp_path / "out")[0].read_text("utf-8")
    assert f"erm/{folder.name}: corrupt: run.json: sha256 is" in text


def test_no_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no runs in .*: name run folders"):
        build([tmp_path], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_mixed_versions_write_nothing(tmp_path: Path) -> None:
    colored_run(tmp_path / "runs", "erm", "-90%", 0, 0.1)
    colored_run(tmp_path / "runs", "erm", "-90%", 1, 0.1, benchmark_version="2")
    with pytest.raises(RecordError, match="1 and 2"):
        build([tmp_path / "runs"], tmp_path)
    assert not (tmp_path / "LEADERBOARD.md").exists()
