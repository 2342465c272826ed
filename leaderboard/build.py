"""From run folders to a leaderboard file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leaderboard.errors import RecordError
from leaderboard.frame import load_runs, run_frame
from leaderboard.records import SelectionRule, write_text_atomic
from leaderboard.tables import markdown_table, skipped_list

LEADERBOARD_FILE = "LEADERBOARD.md"


def build(paths: Sequence[str | Path], out: str | Path, rule: SelectionRule | None = None) -> Path:
    """Write `LEADERBOARD.md` with the tables of all runs among and below `paths`.

    Args:
        paths: Run folders, or folders that hold some at any depth.
        out: Folder of the file; created if it is not there.
        rule: The selection rule for all runs; None takes each run's own, with tables for each rule.

    Returns:
        The path of the file, which is the same bytes for the same runs.

    Raises:
        RecordError: there is no run, a path is no folder, the rule needs several runs, or the runs
            are of different benchmark versions, or the file cannot be written.
    """
    runs, unreadable = load_runs(paths)
    if not runs and not unreadable:
        raise RecordError(
            f"no runs in {', '.join(map(str, paths))}: name run folders (they hold a run.json), or "
            "folders above them"
        )
    frame, unnumbered = run_frame(runs, rule)
    rules: list[SelectionRule] = sorted(set(frame["rule"]))
    parts = ["# Leaderboard\n", *(markdown_table(frame, r) for r in rules)]
    path = Path(out) / LEADERBOARD_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, "\n".join([*parts, skipped_list(unreadable + unnumbered)]))
    except OSError as error:
        raise RecordError(
            f"{path} cannot be written ({error.strerror}): name a folder that can, with --out"
        ) from error
    return path
