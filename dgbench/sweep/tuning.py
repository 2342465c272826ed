"""Which draw a searched trial prefers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from leaderboard import records
from leaderboard.records import SelectionRule
from leaderboard.selection import UnavailableError, select


def preferred(runs: Mapping[int, Path], rule: SelectionRule) -> int | None:
    """The draw with the best validation accuracy, of equal ones the first.

    Args:
        runs: folders of one trial's runs, by draw.
        rule: ``train_val`` or ``oracle``.

    Returns:
        None as long as a run is not finished. A diverged run is never preferred, so draw 0 is
        returned where all are.
    """
    if not all((folder / records.DONE_FILE).exists() for folder in runs.values()):
        return None
    accuracies = {seed: _validation(records.read_run(runs[seed]), rule) for seed in runs}
    return max(accuracies, key=accuracies.__getitem__)


def _validation(run: records.Run, rule: SelectionRule) -> float:
    """Mean holdout accuracy at the check that the rule picks: what the rule compares runs by."""
    settings = run.run["settings"]
    train_env, test_env = settings["train_env"], settings["test_env"]
    try:
        step = select(rule, run.checks, train_env, test_env)
    except UnavailableError:
        return -1.0
    splits = next(check["splits"] for check in run.checks if check["step"] == step)
    names = test_env if rule == "oracle" else train_env
    accuracies = [splits[f"{name}/holdout"]["accuracy"] for name in names]
    finite = [accuracy for accuracy in accuracies if accuracy is not None]
    diverged = run.state == "diverged" or len(finite) < len(accuracies)
    return -1.0 if diverged else sum(finite) / len(finite)
