"""What became of runs, read from their folders alone. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Literal

from dgbench.claims import claimed, holder
from dgbench.errors import UsageError
from leaderboard import generations, records

State = Literal["finished", "diverged", "running", "failed", "interrupted", "missing"]
ENDED: tuple[State, ...] = ("finished", "diverged")


def state_of(folder: Path) -> State:
    """What became of a run.

    Args:
        folder: where its record is or would be.

    Returns:
        ``running`` for one that a living process has claimed, whatever its status file says.
    """
    folder = generations.current(folder)
    done = _read(folder / records.DONE_FILE)
    if done is not None:
        return "diverged" if done["status"] == "diverged" else "finished"
    if holder(folder) is not None:
        return "running"
    status = _read(folder / records.STATUS_FILE)
    if status is not None and status["status"] == "failed":
        return "failed"
    return "interrupted" if (folder / records.RUN_FILE).exists() else "missing"


def step_of(folder: Path) -> int:
    """The step of a run's last sign of life, 0 before the first.

    Args:
        folder: of its record.
    """
    status = _read(generations.current(folder) / records.STATUS_FILE)
    return 0 if status is None else int(status["step"])


def seconds_of(folder: Path) -> float | None:
    """How long a finished run took, of stacked ones its share; None for any other.

    Args:
        folder: of its record.
    """
    folder = generations.current(folder)
    done, run = _read(folder / records.DONE_FILE), _read(folder / records.RUN_FILE)
    if done is None or run is None:
        return None
    return float(done["seconds"]) / int(run["hardware"].get("stacked", 1))


def write_failure(folder: Path, message: str) -> None:
    """Notes why a run failed, where it could not do so itself: it was killed, or never began.

    Args:
        folder: where its record is or would be.
        message: the reason.
    """
    status = {"status": "failed", "step": step_of(folder), "error": message}
    # A full disk may be the reason, and another process may train it by now.
    with contextlib.suppress(OSError, UsageError), claimed(folder) as claim:
        if claim is not None and not records.is_finished(folder):
            claim.folder.mkdir(exist_ok=True)
            records.write_json_atomic(claim.folder / records.STATUS_FILE, status)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return content
