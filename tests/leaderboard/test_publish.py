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
    # A name longer than wandb takes for a table.
    name = "colored_mnist_" + "and_on_" * 20
    board = synthetic_board(data_sets={name: ("+90%", "-90%")}, algorithms=("erm", "irm"), checks=2)
    folder = to_wandb(board, tmp_path, "dgbench")
    assert folder.name.startswith("offline-run-")
    assert list(folder.glob("run-*.wandb"))
    logged = [path.read_text("utf-8") for path in folder.rglob("*.table.json")]
    assert len(logged) == len(board.sections)
    assert all('["irm","' in table for table in logged)
    pages = [path.read_text("utf-8") for path in folder.rglob("*.html")]
    assert len(pages) >= 3 * len(board.sections)
    # They are looked at one by one, so each brings colours and names along.
    assert all("--c0:" in text and text.count('class="swatch') == 2 for text in pages)
