"""From runs to one flat table: a row for each run and each of its test environments."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import pandas as pd

from leaderboard.errors import RecordError
from leaderboard.records import (
    EnvironmentRecord,
    Run,
    SelectionRule,
    canonical_json,
    find_runs,
    read_run,
)
from leaderboard.selection import WITHIN_RUN, select

COLUMNS = {
    "dataset": "str",
    "protocol": "str",
    "algorithm": "str",
    "data_options": "str",  # canonical JSON of settings.data without its name
    "settings": "str",  # canonical JSON of what runs must share to be averaged
    "hparams_sha256": "str",  # of settings.algo
    "trial_seed": "int64",
    "data_seed": "int64",
    "environment": "str",
    "environment_index": "int64",
    "held_out_with": "str",  # canonical JSON of the names of the run's other test environments
    "rule": "str",
    "state": "str",
    "step": "Int64",  # of the selected check; missing like the metrics if the run has no number
    "accuracy": "float64",
    "nll": "float64",
    "ece": "float64",
    "run_id": "str",
    "benchmark_version": "str",
    "record_sha256": "str",  # of the canonical JSON of run.json and the checks
}


class Skipped(NamedTuple):
    """A run whose numbers are in no table, and why."""

    path: Path
    reason: str


class _Choice(NamedTuple):
    step: int
    splits: Mapping[str, Mapping[str, float | None]]


def load_runs(paths: Iterable[str | Path]) -> tuple[list[Run], list[Skipped]]:
    """Read all runs among and below `paths`, sorted by run id; unreadable ones are skipped.

    Of folders with one run id and equal numbers one is kept. Where the numbers differ none is: a
    record cannot tell which of them is right.

    Raises:
        RecordError: a path is no folder.
    """
    runs, skipped = [], []
    for folder in find_runs(paths):
        try:
            runs.append(read_run(folder))
        except (RecordError, OSError) as error:
            # The list of skipped runs names the folder: no paths of a machine in a published file.
            skipped.append(Skipped(folder, str(error).replace(f"{folder}{os.sep}", "")))
    kept, duplicates = _drop_duplicates(runs)
    return kept, skipped + duplicates


def run_frame(
    runs: Iterable[Run], rule: SelectionRule | None = None
) -> tuple[pd.DataFrame, list[Skipped]]:
    """Build the flat table of `runs`.

    A run that has no number (unfinished, diverged, or its rule is unavailable) is in the list of
    skipped runs and keeps its rows, with metrics missing: tables must know that a trial was tried.

    Args:
        runs: Runs with different run ids, in any order.
        rule: The selection rule for all runs; None for each run's own.

    Returns:
        The table with the columns `COLUMNS`, sorted; and the runs without numbers.

    Raises:
        RecordError: the runs are of different benchmark versions, or the rule is leave_one_out.
    """
    if rule == "leave_one_out":
        raise RecordError(
            "leave_one_out needs runs that hold out one more environment each, and no table reads "
            f"those together yet: choose one of {', '.join(WITHIN_RUN)}"
        )
    runs = sorted(runs, key=lambda run: run.run["run_id"])
    _refuse_mixed_versions(runs)
    rows: list[dict[str, Any]] = []
    skipped = []
    for run in runs:
        try:
            rows += _rows(run, rule, _choose(run, rule))
        except RecordError as error:
            rows += _rows(run, rule, None)
            skipped.append(Skipped(run.folder, str(error)))
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    order = ["dataset", "protocol", "algorithm", "run_id", "environment_index"]
    return frame.sort_values(order, ignore_index=True), skipped


def _drop_duplicates(runs: Sequence[Run]) -> tuple[list[Run], list[Skipped]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.run["run_id"], []).append(run)
    kept, skipped = [], []
    for _, group in sorted(groups.items()):
        candidates = [run for run in group if run.done is not None] or group
        first = candidates[0]
        differ = len({canonical_json(_numbers(run)) for run in candidates}) > 1
        if not differ:
            kept.append(first)
        reason = (
            "has the run id of other folders here but other numbers: keep one of them"
            if differ
            else "repeats a run that is already here"
        )
        skipped += [Skipped(run.folder, reason) for run in group if differ or run is not first]
    return kept, skipped


def _numbers(run: Run) -> list[Any]:
    return [run.state, *([check["step"], check["splits"]] for check in run.checks)]


def _refuse_mixed_versions(runs: Sequence[Run]) -> None:
    versions = sorted({run.run["benchmark_version"] for run in runs})
    if len(versions) > 1:
        raise RecordError(
            f"runs of the benchmark versions {' and '.join(versions)} cannot stand in one table, "
            "because a version changes with the numbers: build one leaderboard for each"
        )


def _choose(run: Run, rule: SelectionRule | None) -> _Choice:
    """Select a check, and refuse a run that has no number to show."""
    if run.state == "diverged":
        raise RecordError("diverged: counts as a missing trial")
    if run.state != "finished":
        raise RecordError(f"{run.state}: resume it")
    settings = run.run["settings"]
    step = select(
        rule or settings["selection"], run.checks, settings["train_env"], settings["test_env"]
    )
    check = next(check for check in run.checks if check["step"] == step)
    for name in settings["test_env"]:
        if f"{name}/main" not in check["splits"]:
            raise RecordError(f"the selected check at step {step} has no '{name}/main'")
        if check["splits"][f"{name}/main"]["accuracy"] is None:
            raise RecordError(f"the selected check at step {step} is not finite on '{name}/main'")
    return _Choice(step, cast(Mapping[str, Mapping[str, float | None]], check["splits"]))


def _rows(run: Run, rule: SelectionRule | None, choice: _Choice | None) -> list[dict[str, Any]]:
    settings = run.run["settings"]
    common = {
        "dataset": settings["data"]["name"],
        "protocol": settings["protocol"],
        "algorithm": settings["algo"]["name"],
        "data_options": canonical_json({k: v for k, v in settings["data"].items() if k != "name"}),
        "settings": canonical_json(_shared_settings(run)),
        "hparams_sha256": _sha256(canonical_json(settings["algo"])),
        "trial_seed": settings["trial_seed"],
        "data_seed": settings["data_seed"],
        "rule": rule or settings["selection"],
        "state": run.state,
        "step": None if choice is None else choice.step,
        "run_id": run.run["run_id"],
        "benchmark_version": run.run["benchmark_version"],
        "record_sha256": _sha256(canonical_json([run.run, run.checks, run.done])),
    }
    tested = [e for e in run.run["environments"] if e["role"] == "test"]
    return [common | _environment_columns(e, tested, choice) for e in tested]


def _environment_columns(
    environment: EnvironmentRecord, tested: Sequence[EnvironmentRecord], choice: _Choice | None
) -> dict[str, Any]:
    name = environment["name"]
    metrics = {} if choice is None else choice.splits[f"{name}/main"]
    return {
        "environment": name,
        "environment_index": environment["index"],
        "held_out_with": canonical_json([e["name"] for e in tested if e is not environment]),
        **{metric: metrics.get(metric) for metric in ("accuracy", "nll", "ece")},
    }


def _shared_settings(run: Run) -> dict[str, Any]:
    """What runs must share to be averaged: all settings but the seeds of a trial and its test_env.

    The training environments follow from the test environments as long as they are all others. Any
    other choice, of members or of order, is a setting of its own and stays.
    """
    settings = dict(run.run["settings"])
    environments = sorted(run.run["environments"], key=lambda e: e["index"])
    tested = [e["name"] for e in environments if e["role"] == "test"]
    others = [e["name"] for e in environments if e["role"] != "test"]
    implied = {"test_env": tested, "train_env": others}
    free = {"trial_seed", "data_seed", *(k for k, names in implied.items() if settings[k] == names)}
    return {key: value for key, value in settings.items() if key not in free}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
