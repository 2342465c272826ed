"""Which draw a searched trial prefers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from leaderboard import choices, records
from leaderboard.frame import from_run
from leaderboard.records import SelectionRule
from leaderboard.selection import UnavailableError


def preferred(runs: Mapping[int, Path], rule: SelectionRule) -> int | None:
    """The draw that the rule chooses, as the table of these runs does.

    Args:
        runs: folders of one trial's runs, by draw.
        rule: ``train_val`` or ``oracle``.

    Returns:
        None as long as a run is not finished. A diverged run is never preferred, so draw 0 is
        returned where all are.
    """
    if not all(map(records.is_finished, runs.values())):
        return None
    ended = [from_run(records.read_run(folder)) for folder in runs.values()]
    try:
        return choices.preferred(rule, ended).record.draw
    except UnavailableError:
        return 0
