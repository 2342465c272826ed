"""From records to a leaderboard."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from leaderboard.board import Board
from leaderboard.errors import RecordError
from leaderboard.filling import make_board
from leaderboard.frame import LeftOut, Record, from_run
from leaderboard.records import SelectionRule, find_runs, read_run, write_text_atomic
from leaderboard.tables import markdown

LEADERBOARD_FILE = "LEADERBOARD.md"


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


def build(paths: Sequence[str | Path], out: str | Path, rule: SelectionRule | None = None) -> Path:
    """Write `LEADERBOARD.md` with the tables of all records among and below `paths`.

    Args:
        paths: As of `load`.
        out: Folder of the file; created if it is not there.
        rule: As of `load_board`.

    Returns:
        The path of the file, which is the same bytes for the same records.

    Raises:
        RecordError: as `load_board`, or the file cannot be written.
    """
    text = markdown(load_board(paths, rule))
    path = Path(out) / LEADERBOARD_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, text)
    except OSError as error:
        raise RecordError(
            f"{path} cannot be written ({error.strerror}): name a folder that can, with --out"
        ) from error
    return path
