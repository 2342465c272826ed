"""Tables and pictures as a run of Weights & Biases, without an account or a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaderboard.publish import to_wandb
from tests.leaderboard.make_board import synthetic_board


@pytest.mark.slow  # wandb's service takes some ten seconds to start and to end
def test_a_board_is_logged_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    board = synthetic_board(
        data_sets={"colored_mnist": ("+90%", "-90%")}, algorithms=("erm", "irm"), checks=2
    )
    folder = to_wandb(board, tmp_path, "dgbench")
    assert folder.name.startswith("offline-run-")
    assert list(folder.glob("run-*.wandb"))
    (table, *_) = [path.read_text("utf-8") for path in folder.rglob("*last*.table.json")]
    assert '["irm","' in table
    assert len(list(folder.rglob("*.html"))) >= 3 * len(board.sections)
