"""From records to a leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leaderboard.board import Board
from leaderboard.errors import RecordError
from leaderboard.filling import make_board
from leaderboard.outputs import write
from leaderboard.parity import domainbed_tables
from leaderboard.records import SelectionRule, write_text_atomic
from leaderboard.sources import load, without_collector


def load_board(paths: Sequence[str | Path], rule: SelectionRule | None = None) -> Board:
    """Fill the board of all records among and below `paths`.

    Args:
        paths: As of `leaderboard.sources.load`.
        rule: The only selection rule; None gives a table for each that the records can answer.

    Raises:
        RecordError: as `leaderboard.sources.load`, or benchmark versions are mixed.
    """
    with without_collector():
        return make_board(*load(paths), rule)


def build(
    paths: Sequence[str | Path], out: str | Path, rule: SelectionRule | None = None
) -> list[Path]:
    """Write the tables, the page and the data files of all records among and below `paths`.

    Args:
        paths: As of `leaderboard.sources.load`.
        out: Folder of the files; created if it is not there.
        rule: As of `load_board`.

    Returns:
        The paths of the files (`leaderboard.outputs`), `LEADERBOARD.md` first.

    Raises:
        RecordError: as `load_board`, or a file cannot be written.
    """
    return write(load_board(paths, rule), out)


def build_parity(paths: Sequence[str | Path], out: str | Path) -> str:
    """Write to `results.txt` what DomainBed's `collect_results` prints of its sweeps.

    Args:
        paths: As of `leaderboard.sources.load`.
        out: Folder of the file; created if it is not there.

    Returns:
        What was written.

    Raises:
        RecordError: there is no job of DomainBed, or the file cannot be written.
    """
    jobs = [record for record in load(paths)[0] if record.origin == "DomainBed"]
    if not jobs:
        raise RecordError("no job of DomainBed here: --parity domainbed reads its results.jsonl")
    text, path = domainbed_tables(jobs), Path(out) / "results.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, text)
    except OSError as error:
        raise RecordError(
            f"{path} cannot be written ({error.strerror}): name a folder that can, with --out"
        ) from error
    return text
