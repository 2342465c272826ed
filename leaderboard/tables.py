"""Markdown tables of a flat frame of runs."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import pandas as pd

from leaderboard.errors import RecordError
from leaderboard.frame import Skipped
from leaderboard.records import SelectionRule, canonical_json
from leaderboard.statistics import summarize

Row = Mapping[Hashable, Any]  # one row of the frame
Column = tuple[int, str, str]  # index and name of a test environment, names held out with it
Trial = tuple[int, int]  # trial seed, data seed
Key = TypeVar("Key", bound=Any)

LEGEND = (
    "Accuracy in % on the main split of the test environment: mean ± standard error over trials "
    "(number of trials). The average is taken over the environments inside each trial first."
)
DAGGER_LEGEND = (
    "† Some of the row's trials have no number here (not run, unfinished or diverged), so the row "
    "has no average."
)


def markdown_table(frame: pd.DataFrame, rule: SelectionRule) -> str:
    """Write the tables of one selection rule: one for each data set, protocol and held-out count.

    Rows are algorithms, columns test environments. Runs of an algorithm whose settings differ in
    more than the seeds of a trial and the test environments are separate rows, labelled by what
    differs. A cell that lacks trials of its row has a dagger, and its row has no average.

    Args:
        frame: The table of `leaderboard.frame.run_frame`; rows of other rules are left out.
        rule: The selection rule.

    Returns:
        Markdown that ends with a line feed, the same for any order of the frame's rows.

    Raises:
        RecordError: the frame has no row of this rule.
    """
    rows: Sequence[Row] = frame[frame["rule"] == rule].to_dict("records")
    if not rows:
        there = sorted(set(frame["rule"]))
        raise RecordError(f"no run is selected by {rule!r} in this frame, which has {there}")
    parts = [_header(rows, rule), LEGEND]
    for (dataset, protocol, held_out), group in _grouped(rows, _table_key).items():
        together = f", {held_out} environments held out together" if held_out > 1 else ""
        parts.append(f"## {escape(f'{dataset}, {protocol}{together}, selected by {rule}')}")
        parts.append(_table(group))
    if any("†" in part for part in parts):
        parts.append(DAGGER_LEGEND)
    return "\n\n".join(parts) + "\n"


def skipped_list(skipped: Iterable[Skipped]) -> str:
    """Write the list of skipped runs, sorted; folders as `<dataset>/<algorithm>/<run_id>`."""
    lines = sorted(
        f"- {escape('/'.join(path.parts[-3:]))}: {escape(reason)}" for path, reason in skipped
    )
    return "\n".join(["## Skipped runs", "", *(lines or ["None."])]) + "\n"


def escape(text: str) -> str:
    """Escape what Markdown would read as markup, and join lines."""
    return re.sub(r"([\\`*_\[\]<>|~#&$])", r"\\\1", " ".join(text.split()))


def _header(rows: Sequence[Row], rule: SelectionRule) -> str:
    records = sorted({row["record_sha256"] for row in rows})
    sha256 = hashlib.sha256("".join(records).encode()).hexdigest()
    numbered = {row["record_sha256"] for row in rows if not math.isnan(row["accuracy"])}
    return "\n".join(
        (
            f"<!-- selection rule: {rule} -->",
            f"<!-- runs: {len(records)}, of them with a number: {len(numbered)} -->",
            f"<!-- benchmark version: {rows[0]['benchmark_version']} -->",
            f"<!-- sha256 of the records: {sha256} -->",
        )
    )


def _table_key(row: Row) -> tuple[str, str, int]:
    return row["dataset"], row["protocol"], 1 + len(json.loads(row["held_out_with"]))


def _column_key(row: Row) -> Column:
    return row["environment_index"], row["environment"], row["held_out_with"]


def _row_key(row: Row) -> tuple[str, str]:
    return row["algorithm"], row["settings"]


def _table(rows: Sequence[Row]) -> str:
    columns = sorted({_column_key(row) for row in rows})
    titles = ["Algorithm", *(escape(_title(column)) for column in columns)]
    lines = [titles, ["---", *["---:"] * len(columns)]]
    for label, group in _labelled(rows):
        accuracies = _accuracies(group, columns)
        trials = {(row["trial_seed"], row["data_seed"]) for row in group}
        lines.append([escape(label), *(_cell(cell, trials) for cell in accuracies)])
        if len(columns) > 1:
            lines[-1].append(_average(accuracies, trials))
    if len(columns) > 1:
        lines[0].append("Average")
        lines[1].append("---:")
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _title(column: Column) -> str:
    _, name, held_out_with = column
    others = json.loads(held_out_with)
    return f"{name} (with {', '.join(others)})" if others else name


def _labelled(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Group rows by algorithm and settings; a label names the settings that tell rows apart."""
    groups = _grouped(rows, _row_key)
    labelled = []
    for (algorithm, settings), group in groups.items():
        siblings = [_flat(json.loads(other)) for name, other in groups if name == algorithm]
        own = _flat(json.loads(settings))
        differing = [
            f"{key}={own.get(key, 'unset')}"
            for key in sorted(set().union(*siblings))
            if len({sibling.get(key) for sibling in siblings}) > 1
        ]
        label = f"{algorithm} ({', '.join(differing)})" if differing else algorithm
        labelled.append((label, group))
    return labelled


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Turn nested settings into dotted keys with values as JSON."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = canonical_json(value)
    return flat


def _accuracies(rows: Sequence[Row], columns: Sequence[Column]) -> list[dict[Trial, float]]:
    """For each column the accuracy in % of each trial that has one."""
    cells: dict[Column, dict[Trial, float]] = {column: {} for column in columns}
    for row in rows:
        if not math.isnan(row["accuracy"]):
            cells[_column_key(row)][row["trial_seed"], row["data_seed"]] = 100 * row["accuracy"]
    return list(cells.values())


def _cell(accuracies: Mapping[Trial, float], trials: set[Trial]) -> str:
    dagger = "" if set(accuracies) == trials else " †"
    return (_show(list(accuracies.values())) if accuracies else "— (0)") + dagger


def _average(cells: Sequence[Mapping[Trial, float]], trials: set[Trial]) -> str:
    """Average the environments inside each trial, then the trials: never standard errors."""
    if any(set(cell) != trials for cell in cells):
        return "—"
    return _show([math.fsum(cell[trial] for cell in cells) / len(cells) for trial in trials])


def _show(values: Sequence[float]) -> str:
    summary = summarize(values)
    error = "" if summary.standard_error is None else f" ± {summary.standard_error:.1f}"
    return f"{summary.mean:.1f}{error} ({summary.n})"


def _grouped(rows: Iterable[Row], key: Callable[[Row], Key]) -> dict[Key, list[Row]]:
    """Group rows by key, in ascending order of keys."""
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return dict(sorted(groups.items()))
