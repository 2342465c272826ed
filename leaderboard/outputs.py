"""The files of a leaderboard."""

from __future__ import annotations

from pathlib import Path

from leaderboard import exports, latex
from leaderboard.board import Board
from leaderboard.errors import RecordError
from leaderboard.markdown import markdown
from leaderboard.page import page
from leaderboard.records import write_text_atomic

LEADERBOARD_FILE = "LEADERBOARD.md"
PAGE_FILE = "index.html"
JSON_FILE = "leaderboard.json"
CSV_FILE = "leaderboard.csv"
PARQUET_FILE = "leaderboard.parquet"


def texts(board: Board) -> dict[str, str]:
    """The content of each file that is the same bytes for the same records, by its name."""
    return {
        LEADERBOARD_FILE: markdown(board),
        JSON_FILE: exports.json_text(board),
        CSV_FILE: exports.csv_text(board),
        **latex.documents(board),
    }


def write(board: Board, out: str | Path) -> list[Path]:
    """Write a board in all formats; Parquet only where pyarrow is installed.

    Args:
        board: The board.
        out: The folder; created if it is not there. Files of other names in it stay.

    Returns:
        The paths of the files.

    Raises:
        RecordError: a file cannot be written.
    """
    out = Path(out)
    files = texts(board) | {PAGE_FILE: page(board)}
    try:
        for name, text in files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            write_text_atomic(out / name, text)
        written = [out / name for name in files]
        try:
            exports.write_parquet(board, out / PARQUET_FILE)
        except ModuleNotFoundError:
            return written
    except OSError as error:
        raise RecordError(
            f"{out} cannot be written to ({error.strerror}): name a folder that can, with --out"
        ) from error
    return [*written, out / PARQUET_FILE]
