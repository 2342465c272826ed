"""A board's tables and pictures as one run of Weights & Biases."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from leaderboard import tables
from leaderboard.board import Board, Section
from leaderboard.pictures import look_of, section_pictures, standalone

_LONGEST_KEY = 80  # wandb allows a table's name 128 letters, with the run's beside it


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
    sections = tables.in_order(board)
    names = [_key(name) for name in tables.short_names(sections)]
    run = wandb.init(
        project=project,
        job_type="leaderboard",
        dir=folder,
        mode=None if "WANDB_MODE" in os.environ else "offline",
        config={
            "benchmark_version": board.benchmark_version,
            "records_sha256": board.sha256,
            "tables": dict(zip(names, map(tables.title, sections), strict=True)),
        },
    )
    with run:
        for name, section in zip(names, sections, strict=True):
            run.log({name: wandb.Table(columns=_columns(section), data=_rows(section))})
            legend = [(row.label, look[row.label]) for row in section.rows]
            for picture in section_pictures(board, section, look):
                key = f"{name}/{_key(f'{picture.group} {picture.caption}')}"
                run.log({key: wandb.Html(standalone(picture, legend), inject=False)})
        return Path(run.dir).parent


def _key(name: str) -> str:
    """A name that wandb takes, which refuses long ones."""
    if len(name) <= _LONGEST_KEY:
        return name
    return f"{name[: _LONGEST_KEY - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


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
