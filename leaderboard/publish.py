"""A board's tables and pictures as one run of Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from leaderboard import tables
from leaderboard.board import Board, Section
from leaderboard.pictures import look_of, section_pictures


def to_wandb(board: Board, folder: str | Path, project: str) -> Path:
    """Log every table and every picture of a board; offline unless `WANDB_MODE` says otherwise.

    Args:
        board: The board.
        folder: Where wandb keeps the run; created if it is not there.
        project: The project to log to.

    Returns:
        The run's folder, for `wandb sync`.
    """
    import wandb

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    look = look_of(board)
    run = wandb.init(
        project=project,
        job_type="leaderboard",
        dir=folder,
        mode=None if "WANDB_MODE" in os.environ else "offline",
        config={"benchmark_version": board.benchmark_version, "records_sha256": board.sha256},
    )
    with run:
        for section in tables.in_order(board):
            name = tables.title(section)
            run.log({name: wandb.Table(columns=_columns(section), data=_rows(section))})
            for picture in section_pictures(board, section, look):
                key = f"{name}/{picture.group} {picture.caption}"
                run.log({key: wandb.Html(str(picture.svg), inject=False)})
        return Path(run.dir).parent


def _columns(section: Section) -> list[str | int]:
    return ["Algorithm", *(heading.title for heading in tables.headings(section))]


def _rows(section: Section) -> list[Iterable[Any]]:
    return [
        [
            tables.row_title(row),
            *(f"{e.text} {e.beside}".strip() for e in tables.entries(section, row)),
        ]
        for row in section.rows
    ]
