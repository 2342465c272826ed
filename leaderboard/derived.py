"""What of a record follows from the rest of it, and where it does not."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from leaderboard.errors import RecordError
from leaderboard.frame import Record
from leaderboard.metrics import all_metrics
from leaderboard.predictions import Predictions, read_predictions
from leaderboard.records import (
    CheckLine,
    DoneJson,
    RunJson,
    SplitMetrics,
    SplitRecord,
    canonical_json,
)
from leaderboard.schedule import check_steps
from leaderboard.selection import diverged, selected_steps

TOLERANCES: Mapping[str, float] = {"accuracy": 0.0, "nll": 1e-6, "brier": 1e-6, "ece": 1e-4}
"""How far a metric may be from that of the saved predictions, whose logits are float32."""


def contradictions(record: Record) -> Iterator[str]:
    """Say where a finished run contradicts itself, in sentences that begin with a file's name.

    Args:
        record: A run of dgbench's that has ended.
    """
    run, lines, done = record.run, record.checks.lines(), record.done
    assert done is not None
    yield from _of_environments(run)
    yield from _of_steps(run, lines, done)
    for line in lines:
        yield from (f"checks.jsonl, step {line['step']}: {what}" for what in _of_check(run, line))
    if lines:
        yield from _of_done(record, lines, done)


def _of_environments(run: RunJson) -> Iterator[str]:
    environments = run["environments"]
    names = [each["name"] for each in environments]
    if [each["index"] for each in environments] != list(range(len(names))):
        yield "run.json: environments are not numbered from 0 on, in order"
    if len(set(names)) < len(names):
        yield f"run.json: environments {names} share a name"
    both = sorted(set(run["settings"]["train_env"]) & set(run["settings"]["test_env"]))
    if both:
        yield f"run.json: {both} are trained on and held out"
    # As datamodules.base hashes the fingerprints of all splits.
    splits = {name: split["sha256"] for name, split in _splits(run).items()}
    expected = hashlib.sha256(canonical_json(splits).encode()).hexdigest()
    if run["data_fingerprint"] != expected:
        yield "run.json: data_fingerprint is not the hash of its splits' fingerprints"


def _splits(run: RunJson) -> dict[str, SplitRecord]:
    return {
        f"{e['name']}/{name}": e["splits"][name]
        for e in run["environments"]
        for name in e["splits"]
    }


def _sizes(run: RunJson) -> dict[str, int]:
    return {name: split["n"] for name, split in _splits(run).items()}


def _of_steps(run: RunJson, lines: Sequence[CheckLine], done: DoneJson) -> Iterator[str]:
    steps, settings = [line["step"] for line in lines], run["settings"]
    last = settings["steps"] if done["status"] == "finished" else (steps[-1] if steps else 0)
    every, first = settings["check_every"], settings.get("first_check")
    expected = sorted(s for s in check_steps(settings["steps"], every, first) if s <= last)
    if steps != expected:
        begun = "" if first is None else f" from {first} on"
        yield (
            f"checks.jsonl: checks after steps {_shortened(steps)}, but settings that check every "
            f"{every} of {last} steps{begun} ask for {_shortened(expected)}"
        )
    seconds = [*(line["seconds"] for line in lines), done["seconds"]]
    if any(later < earlier for earlier, later in pairwise(seconds)):
        yield "checks.jsonl, done.json: seconds go backwards"


def _shortened(steps: Sequence[int]) -> str:
    shown = [str(step) for step in steps]
    return ", ".join(shown if len(shown) < 8 else [*shown[:3], "...", *shown[-3:]]) or "none"


def _of_check(run: RunJson, line: CheckLine) -> Iterator[str]:
    sizes = _sizes(run)
    for split, metrics in line["splits"].items():
        if metrics["n"] != sizes.get(split):
            yield f"{split} has {metrics['n']} samples, in run.json {sizes.get(split)}"
        right = (metrics["accuracy"] or 0) * metrics["n"]
        if abs(right - round(right)) > 1e-6:
            yield f"{split} is right on {right} samples, which is no whole number"
    if missing := sorted(_needed(run) - line["splits"].keys()):
        yield f"{', '.join(missing)} not measured, which selection rules read"
    risks = {name.partition("/")[2] for name in line["train"] if name.startswith("risk/")}
    if others := sorted(risks - set(run["settings"]["train_env"])):
        yield f"a training risk of {', '.join(others)}, which is not trained on"


def _needed(run: RunJson) -> set[str]:
    """The splits that every check measures: both of held-out environments, one of the others."""
    read = {"test": ("main", "holdout"), "train": ("holdout",), "unused": ()}
    return {
        f"{each['name']}/{name}"
        for each in run["environments"]
        for name in read[each["role"]]
        if name in each["splits"] and each["splits"][name]["n"]
    }


def _of_done(record: Record, lines: Sequence[CheckLine], done: DoneJson) -> Iterator[str]:
    status = "diverged" if diverged(lines[-1], record.train) else "finished"
    expected = {
        "status": status,
        "last_step": lines[-1]["step"],
        "selected": selected_steps(lines, record.train, record.test),
    }
    found: Mapping[str, Any] = {**done}
    for name, value in expected.items():
        if found[name] != value:
            yield f"done.json: {name} is {found[name]}, but the checks give {value}"


def unlike_predictions(record: Record, path: Path) -> Iterator[str]:
    """Say where a record and its saved predictions contradict each other.

    Args:
        record: A run that has ended.
        path: Its predictions.
    """
    lines = {line["step"]: line["splits"] for line in record.checks.lines()}
    sizes = _sizes(record.run)
    samples: dict[str, set[int]] = {}
    saved: set[tuple[int, str]] = set()
    try:
        for found in read_predictions(path):
            where = f"{path.name}, {found.split} at step {found.step}"
            saved.add((found.step, found.split))
            samples[found.split] = set(found.indices.tolist())
            yield from _of_samples(found, sizes.get(found.split), where)
            written = lines.get(found.step, {}).get(found.split)
            yield from _unlike(written, found, where) if written else ()
    except RecordError as error:
        yield str(error)
        return
    yield from (f"{path.name}: {what}" for what in _shared(samples))
    expected = {(step, split) for step in _kept_steps(record) for split in sizes if sizes[split]}
    if saved != expected:
        odd = ", ".join(f"{split} at step {step}" for step, split in sorted(saved ^ expected))
        yield f"{path.name}: it must have the last and the selected check, but not so {odd}"


def _of_samples(found: Predictions, size: int | None, where: str) -> Iterator[str]:
    if len(found.indices) != size:
        yield f"{where}: {len(found.indices)} samples, in run.json {size}"
    if (found.indices[1:] <= found.indices[:-1]).any():
        yield f"{where}: the samples' indices do not ascend"


def _shared(samples: Mapping[str, set[int]]) -> Iterator[str]:
    for split in samples:
        other = f"{split.rpartition('/')[0]}/holdout"
        if split != other and not samples[split].isdisjoint(samples.get(other, ())):
            yield f"{split} and {other} share samples"


def _kept_steps(record: Record) -> list[int]:
    """The checks whose predictions a run saves: the last one, and the one that its rule chose."""
    assert record.done is not None
    done, chosen = record.done, record.done["selected"].get(record.rule)
    return sorted({done["last_step"], *([] if chosen is None else [chosen])})


def _unlike(written: SplitMetrics, found: Predictions, where: str) -> Iterator[str]:
    measured: Mapping[str, Any] = {**all_metrics(found.logits, found.targets)}
    theirs: Mapping[str, Any] = {**written}
    for name, tolerance in TOLERANCES.items():
        # What is not finite is NaN here and null in a record.
        recorded = math.nan if theirs[name] is None else theirs[name]
        if not math.isclose(measured[name], recorded, rel_tol=0, abs_tol=tolerance) and not (
            math.isnan(measured[name]) and math.isnan(recorded)
        ):
            yield f"{where}: {name} is {theirs[name]} in the record, {measured[name]} by them"
