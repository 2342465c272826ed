"""The committed tables are those of the committed records."""

from __future__ import annotations

from pathlib import Path

import pytest

import leaderboard
from leaderboard.build import load_board
from leaderboard.outputs import texts
from tests.leaderboard.make_golden import write_golden_runs

RESULTS = Path(leaderboard.__file__).parent / "results"


def stale(folder: Path) -> list[str]:
    """Files in `folder` that are not what its records give: write them by `leaderboard build`."""
    expected = texts(load_board([folder / "records"]))
    return [
        name
        for name, text in expected.items()
        if not (folder / name).exists() or (folder / name).read_text("utf-8") != text
    ]


def test_committed_results_are_fresh() -> None:
    if not (RESULTS / "records").exists():
        pytest.skip("leaderboard/results holds no records yet")
    assert stale(RESULTS) == []


def test_a_changed_table_is_found(tmp_path: Path) -> None:
    write_golden_runs(tmp_path / "records")
    for name, text in texts(load_board([tmp_path / "records"])).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert stale(tmp_path) == []
    table = tmp_path / "LEADERBOARD.md"
    table.write_text(table.read_text("utf-8").replace("75.0", "76.0"), encoding="utf-8")
    assert stale(tmp_path) == ["LEADERBOARD.md"]
