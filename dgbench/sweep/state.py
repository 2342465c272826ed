"""What became of runs, read from their folders alone. Imports nothing heavy."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

from dgbench.claims import claimed, holder
from dgbench.errors import Interrupted, UsageError
from leaderboard import generations, records
from leaderboard.errors import RecordError

State = Literal["finished", "diverged", "running", "failed", "interrupted", "missing", "unreadable"]
ENDED: tuple[State, ...] = ("finished", "diverged")


def state_of(folder: Path) -> State:
    """What became of a run.

    Args:
        folder: where its record is or would be.

    Returns:
        ``running`` for one that a living process has claimed, whatever its status file says.
    """
    folder = generations.current(folder)
    try:
        done = records.read_done(folder)
        if done is not None:
            return done["status"]
        if holder(folder) is not None:
            return "running"
        status = records.read_status(folder)
    except (RecordError, OSError):
        return "unreadable"
    if status is not None and status["status"] == "failed":
        return "failed"
    return "interrupted" if (folder / records.RUN_FILE).exists() else "missing"


def problem_of(folder: Path) -> str:
    """Why a run is unreadable, in a sentence; empty for one that is not.

    Args:
        folder: of its record.
    """
    folder = generations.current(folder)
    try:
        records.read_done(folder)
        records.read_status(folder)
    except (RecordError, OSError) as error:
        return str(error)
    return ""


def step_of(folder: Path) -> int:
    """The step of a run's last sign of life, 0 before the first.

    Args:
        folder: of its record.
    """
    with contextlib.suppress(RecordError, OSError):
        status = records.read_status(generations.current(folder))
        return 0 if status is None else status["step"]
    return 0


def seconds_of(folder: Path) -> float | None:
    """How long a finished run took, of stacked ones its share; None for any other.

    Args:
        folder: of its record.
    """
    folder = generations.current(folder)
    with contextlib.suppress(RecordError, OSError):
        done, run = records.read_done(folder), records.read_run_json(folder)
        if done is not None and run is not None:
            return done["seconds"] / run["hardware"].get("stacked", 1)
    return None


def write_failure(folder: Path, message: str) -> None:
    """Notes why a run failed, where it could not do so itself: it was killed, or never began.

    Args:
        folder: where its record is or would be.
        message: the reason.
    """
    status = {"status": "failed", "step": step_of(folder), "error": message}
    # A full disk may be the reason, and another process may train it by now.
    with contextlib.suppress(OSError, UsageError, Interrupted), claimed(folder) as claim:
        if claim is not None and not records.is_finished(folder):
            claim.folder.mkdir(exist_ok=True)
            records.write_json_atomic(claim.folder / records.STATUS_FILE, status)
