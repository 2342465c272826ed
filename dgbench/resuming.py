"""Which checkpoint a run goes on from, and what may differ when it does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from dgbench.errors import UsageError
from dgbench.intact import damage
from dgbench.settings import Settings
from dgbench.source import differences
from leaderboard import generations, records
from leaderboard.schedule import check_steps


def require_same_code(resume: str | None, deciding: Mapping[str, Any]) -> None:
    """Refuses to go on with a run by other code, even where that has a finished run by now.

    Args:
        resume: which folder to go on with, if any; ``auto`` is the run's own.
        deciding: all that decides the numbers.

    Raises:
        UsageError: when the code has changed.
    """
    resumed = generations.current(Path(str(resume)))
    if resume in (None, "auto") or not (resumed / records.RUN_FILE).exists():
        return
    changed = "; ".join(differences(records.read_run(resumed, repaired=True).run, deciding))
    if changed:
        raise UsageError(
            f"--resume {resume} goes on with a run as it was, but {changed}. Bring the code back "
            "as it was, or leave --resume out: as it is now it has a run of its own, from the "
            "first step on. --force trains a finished run again, which is needed only where code "
            "of another package has changed, since no hash sees that."
        )


def checkpoint_to_resume(
    settings: Settings,
    folder: Path,
    deciding: Mapping[str, Any],
    *,
    writes: bool,
    say: Callable[[str], None],
) -> Path | None:
    """The checkpoint to go on from; None starts from the first step.

    Args:
        settings: the resolved run: which folder to go on with, if any (``auto`` is this one), and
            whether what is there may be replaced.
        folder: where the run of these settings is written.
        deciding: all that decides its numbers.
        writes: whether this process is the one that writes there.
        say: told of a damaged checkpoint, and what is gone on from instead.

    Raises:
        UsageError: when there is an interrupted run and no word about it, or when the run to go on
            with had other settings, of which only ``steps`` may grow.
    """
    checkpoint = folder / records.LAST_CHECKPOINT
    if settings.resume is not None:
        resumed = (
            folder if settings.resume == "auto" else generations.current(Path(settings.resume))
        )
        if resumed.resolve() != folder.resolve():
            _require_more_steps_only(resumed, folder, deciding)
            if writes:
                _copy_what_a_longer_run_would_have(resumed, folder, deciding)
            elif not checkpoint.exists():
                folder = resumed  # of which the process that writes makes copies
        return intact_checkpoint(folder, say)
    if checkpoint.exists() and not settings.force:
        raise UsageError(
            f"These settings have an interrupted run in {folder}. Go on with it by "
            f"`dgbench fit --resume {folder}`, or start anew with --force."
        )
    return None


def intact_checkpoint(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint in a folder that a run can go on from, None if there is none.

    A run needs its selected weights as well, to measure them at its end: without them it begins
    anew. Both checkpoints hold all that it takes to go on to the same bits.

    Args:
        folder: the run's.
        say: told of a damaged one.
    """
    last, selected = (
        folder / name for name in (records.LAST_CHECKPOINT, records.SELECTED_CHECKPOINT)
    )
    damaged = {path: damage(path) for path in (last, selected) if path.exists()}
    whole = [path for path, reason in damaged.items() if reason is None]
    chosen = None if damaged.get(selected) else next(iter(whole), None)
    for path, reason in damaged.items():
        if reason is not None:
            way = "begins anew" if chosen is None else f"goes on from {chosen.name}"
            say(f"Warning: {path} is damaged: {reason}. The run {way}, to the same numbers.")
    return chosen


def _require_more_steps_only(resumed: Path, folder: Path, deciding: Mapping[str, Any]) -> None:
    recorded: dict[str, Any] = dict(records.read_run(resumed, repaired=True).run["settings"])
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
    run = records.read_run(resumed, repaired=True)
    last = records.LAST_CHECKPOINT
    if (folder / last).exists() or not (resumed / last).exists():
        return
    if reason := damage(resumed / last):
        raise UsageError(
            f"{resumed / last} is damaged: {reason}. Restore it, or train the longer run without "
            "--resume."
        )
    usual = set.intersection(*(set(check["splits"]) for check in run.checks))
    due = check_steps(deciding["steps"], deciding["check_every"], deciding.get("first_check"))
    kept = [check for check in run.checks if check["step"] in due]
    if (resumed / records.SELECTED_CHECKPOINT).exists():
        _require_kept_weights(run, due)
    for check in kept:
        check["splits"] = {name: check["splits"][name] for name in check["splits"] if name in usual}
    folder.mkdir(parents=True, exist_ok=True)
    records.rewrite_checks(folder / records.CHECKS_FILE, kept)
    # The last one last: whoever finds it there finds all of them.
    for name in (records.SELECTED_CHECKPOINT, last):
        if (resumed / name).exists():
            records.copy(resumed / name, folder / name)


def _require_kept_weights(run: records.Run, due: Collection[int]) -> None:
    """Refuses a run that chose a check which the longer one has not: it replaced the others'."""
    chosen = None if run.done is None else run.done["selected"]["train_val"]
    if chosen is not None and chosen not in due:
        raise UsageError(
            f"--resume {run.folder} goes on with a run whose train_val chose its last check, at "
            f"step {chosen}, which a longer run does not have; the weights of the check that it "
            "would choose instead are gone. Start the longer run without --resume."
        )
