"""The committed tables and the committed page are those of the committed records."""

from __future__ import annotations

from pathlib import Path

import pytest

import leaderboard
from leaderboard import page
from leaderboard.build import build, load_board
from leaderboard.outputs import LEADERBOARD_FILE, PAGE_FILE
from leaderboard.templating import asset
from leaderboard.verify import unlike_tables
from tests.leaderboard.make_golden import write_golden_runs

RESULTS = Path(leaderboard.__file__).parent / "results"


def stale(folder: Path) -> list[str]:
    """Files in `folder` that are not what its records give: write them by `leaderboard build`."""
    return [finding.place for finding in unlike_tables(folder, load_board([folder / "records"]))]


def test_committed_results_are_fresh() -> None:
    if not (RESULTS / "records").exists():
        pytest.skip("leaderboard/results holds no records yet")
    assert (RESULTS / PAGE_FILE).exists()
    assert stale(RESULTS) == []


def test_what_is_stale_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_golden_runs(tmp_path / "records")
    build([tmp_path / "records"], tmp_path)
    assert stale(tmp_path) == []
    table = tmp_path / LEADERBOARD_FILE
    table.write_text(table.read_text("utf-8").replace("75.0", "76.0"), encoding="utf-8")
    assert stale(tmp_path) == [LEADERBOARD_FILE]
    # The page is that of its templates, style and script as they are now.
    of_now = asset
    monkeypatch.setattr(page, "asset", lambda name: of_now(name) + "\n" * (name == "page.css"))
    assert stale(tmp_path) == [LEADERBOARD_FILE, PAGE_FILE]
