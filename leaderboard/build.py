"""From records to a leaderboard."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from leaderboard.board import Board
from leaderboard.errors import RecordError
from leaderboard.filling import make_board
from leaderboard.frame import LeftOut, Record, from_run
from leaderboard.outputs import write
from leaderboard.records import SelectionRule, find_runs, read_run


def load(paths: Sequence[str | Path]) -> tuple[list[Record], list[LeftOut]]:
    """Read all records among and below `paths`.

    Args:
        paths: Run folders, or folders that hold some at any depth.

    Returns:
        The records, and what could not be read as one.

    Raises:
        RecordError: a path is not there, or holds no record.
    """
    records, left_out = [], []
    for folder in find_runs(paths):
        try:
            records.append(from_run(read_run(folder)))
        except (RecordError, OSError) as error:
            # A published list names the record: no paths of a machine in it.
            reason = str(error).replace(f"{folder}{os.sep}", "")
            left_out.append(LeftOut("/".join(folder.parts[-3:]), "corrupt", reason))
    if not records and not left_out:
        raise RecordError(
            f"no runs in {', '.join(map(str, paths))}: name run folders (they hold a run.json), or "
            "folders above them"
        )
    return records, left_out


def load_board(paths: Sequence[str | Path], rule: SelectionRule | None = None) -> Board:
    """Fill the board of all records among and below `paths`.

    Args:
        paths: As of `load`.
        rule: The only selection rule; None gives a table for each that the records can answer.

    Raises:
        RecordError: as `load`, or the records are of different benchmark versions.
    """
    return make_board(*load(paths), rule)


def build(
    paths: Sequence[str | Path], out: str | Path, rule: SelectionRule | None = None
) -> list[Path]:
    """Write the tables, the page and the data files of all records among and below `paths`.

    Args:
        paths: As of `load`.
        out: Folder of the files; created if it is not there.
        rule: As of `load_board`.

    Returns:
        The paths of the files (`leaderboard.outputs`), `LEADERBOARD.md` first.

    Raises:
        RecordError: as `load_board`, or a file cannot be written.
    """
    return write(load_board(paths, rule), out)
