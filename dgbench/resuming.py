"""Which checkpoint a run goes on from, and what may differ when it does."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dgbench.errors import UsageError
from dgbench.source import differences
from leaderboard import records
from leaderboard.schedule import check_steps


def require_same_code(resume: str | None, deciding: Mapping[str, Any]) -> None:
    """Refuses to go on with a run by other code, even where that has a finished run by now.

    Args:
        resume: as of :func:`checkpoint_to_resume`.
        deciding: all that decides the numbers.

    Raises:
        UsageError: when the code has changed.
    """
    if resume in (None, "auto") or not Path(str(resume), records.RUN_FILE).exists():
        return
    changed = "; ".join(differences(records.read_run(resume).run, deciding))
    if changed:
        raise UsageError(
            f"--resume {resume} goes on with a run as it was, but {changed}. Bring the code back "
            "as it was, or leave --resume out: as it is now it has a run of its own, from the "
            "first step on. --force trains a finished run again, which is needed only where code "
            "of another package has changed, since no hash sees that."
        )


def checkpoint_to_resume(
    resume: str | None, force: bool, folder: Path, deciding: Mapping[str, Any]
) -> Path | None:
    """The checkpoint to go on from; None starts from the first step.

    Args:
        resume: the run folder that the user wants to go on with, if any; ``auto`` is this one.
        force: whether what is there may be replaced.
        folder: where the run of these settings belongs.
        deciding: all that decides its numbers.

    Raises:
        UsageError: when there is an interrupted run and no word about it, or when the run to go on
            with had other settings, of which only ``steps`` may grow.
    """
    checkpoint = folder / records.LAST_CHECKPOINT
    if resume is not None:
        resumed = folder if resume == "auto" else Path(resume)
        if resumed.resolve() != folder.resolve():
            _require_more_steps_only(resumed, folder, deciding)
            _copy_what_a_longer_run_would_have(resumed, folder, deciding)
        return checkpoint if checkpoint.exists() else None
    if checkpoint.exists() and not force:
        raise UsageError(
            f"These settings have an interrupted run in {folder}. Go on with it by "
            f"`dgbench fit --resume {folder}`, or start anew with --force."
        )
    return None


def _require_more_steps_only(resumed: Path, folder: Path, deciding: Mapping[str, Any]) -> None:
    recorded: dict[str, Any] = dict(records.read_run(resumed).run["settings"])
    different = {
        key: f"{key} was {recorded.get(key)!r} and is {deciding.get(key)!r}"
        for key in dict.fromkeys([*deciding, *recorded])
        if recorded.get(key) != deciding.get(key)
    }
    same_place = folder.parent.resolve() == resumed.resolve().parent
    if same_place and set(different) == {"steps"} and deciding["steps"] > recorded["steps"]:
        return
    listed = "; ".join(different.values())
    raise UsageError(
        f"--resume {resumed} goes on with a run as it was, but "
        f"{listed or f'its record would be {folder}, by --out or another benchmark version'}. "
        "Leave these options out, or start another run without --resume; only --steps may grow."
    )


def _copy_what_a_longer_run_would_have(
    resumed: Path, folder: Path, deciding: Mapping[str, Any]
) -> None:
    """Starts the longer run's folder with the shorter one's checkpoint and checks.

    The shorter run measured everything at its last check and at the selected one; the longer one
    would have measured there what it measures at every check.

    Raises:
        UsageError: when the weights of the check that the longer run would choose are gone.
    """
    run = records.read_run(resumed)
    if folder.exists() or not (resumed / records.LAST_CHECKPOINT).exists():
        return
    usual = set.intersection(*(set(check["splits"]) for check in run.checks))
    due = check_steps(deciding["steps"], deciding["check_every"], deciding.get("first_check"))
    kept = [check for check in run.checks if check["step"] in due]
    if (resumed / records.SELECTED_CHECKPOINT).exists():
        _require_kept_weights(run, due)
    for check in kept:
        check["splits"] = {name: check["splits"][name] for name in check["splits"] if name in usual}
    folder.mkdir(parents=True)
    records.rewrite_checks(folder / records.CHECKS_FILE, kept)
    for name in (records.SELECTED_CHECKPOINT, records.LAST_CHECKPOINT):
        if (resumed / name).exists():
            shutil.copy2(resumed / name, folder / name)


def _require_kept_weights(run: records.Run, due: Collection[int]) -> None:
    """Refuses a run that chose a check which the longer one has not: it replaced the others'."""
    chosen = None if run.done is None else run.done["selected"]["train_val"]
    if chosen is not None and chosen not in due:
        raise UsageError(
            f"--resume {run.folder} goes on with a run whose train_val chose its last check, at "
            f"step {chosen}, which a longer run does not have; the weights of the check that it "
            "would choose instead are gone. Start the longer run without --resume."
        )
