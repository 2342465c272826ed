"""Reruns one record with its recorded settings and compares: weights, and every number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dgbench import BENCHMARK_VERSION
from dgbench.errors import UsageError
from dgbench.settings import resolve_recorded
from dgbench.source import differences
from dgbench.training import build_data, deciding_settings, run
from leaderboard import records
from leaderboard.frame import METRICS, Record, from_run
from leaderboard.sources import load

_NUMBER = "the run's number"


@dataclass(frozen=True)
class Comparison:
    """A record and its rerun.

    Attributes:
        weights: whether the last weights are the same to the bit; None if the record has no hash.
        largest: of each metric, the largest absolute difference at any check on any split, and of
            the run's number, the held-out accuracy at the selected check; with where it is. None if
            all are equal.
        otherwise: what is different and no number: data, checks, an end in numbers that are not
            finite.
        tolerance: the largest difference of accuracies, 0 to 1, that counts as equal.
    """

    weights: bool | None
    largest: Mapping[str, tuple[float, str] | None]
    otherwise: tuple[str, ...]
    tolerance: float

    @property
    def equal(self) -> bool:
        """Whether nothing at all is different."""
        return not self.otherwise and self.weights is not False and not any(self.largest.values())

    @property
    def reproduced(self) -> bool:
        """Whether nothing is different but numbers, and no accuracy by more than the tolerance."""
        accuracies = (self.largest["accuracy"], self.largest[_NUMBER])
        beyond = [found for found in accuracies if found and not found[0] <= self.tolerance]
        return not self.otherwise and not beyond


def find(name: str, run_id: str | None, runs: str) -> tuple[Record, Path]:
    """The record to rerun, and where it was found.

    Args:
        name: a run folder or a file in it, a packed file, a folder that holds some, or a run id.
        run_id: which one, where there are several.
        runs: folder below which a run id is looked for.

    Raises:
        UsageError: when there is none, or more than one.
        RecordError: when a file holds no record.
    """
    path = Path(name)
    if not path.exists():
        path, run_id = Path(runs), name
    elif path.is_file() and (path.parent / records.RUN_FILE).exists():
        path = path.parent
    if not path.exists():
        raise UsageError(
            f"There is no {name}, and no folder {path} to look for a run of that id in. "
            "Name a run folder, or a packed file."
        )
    loaded, left_out = load([path])
    found = [record for record in loaded if record.origin == "dgbench"]
    chosen = [record for record in found if run_id in (None, record.run_id)]
    ended = [record for record in chosen if record.done is not None]
    if len({record.run_id for record in ended}) == 1:
        return ended[0], path
    if ended:
        ids = ", ".join(sorted(record.run_id for record in ended)[:5])
        raise UsageError(f"{path} holds {len(ended)} records: {ids}, ... Name one with --run-id.")
    which = "finished record" if run_id is None else f"finished record {run_id}"
    unread = "".join(f" {entry.place} cannot be read: {entry.reason}." for entry in left_out[:1])
    raise UsageError(f"{path} holds no {which}.{unread} Name a run folder, or a packed file.")


def rerun(
    original: Record, source: Path, out: str, flags: Sequence[str], console: Console
) -> Record:
    """Trains a recorded run again, or reads or resumes a rerun that is there.

    Args:
        original: the record.
        source: where it was found.
        out: folder of the reruns.
        flags: options of ``fit`` on top, as far as they decide no number.
        console: where to show progress.

    Raises:
        UsageError: for options that decide numbers, and where the rerun would be the record.
    """
    settings = replace(resolve_recorded(original.run, flags), out=out)
    deciding = deciding_settings(settings, build_data(settings))
    _refuse_others(original.run, deciding)
    folder = records.run_folder(
        out,
        settings.data["name"],
        settings.algo["name"],
        records.run_id(BENCHMARK_VERSION, deciding),
    )
    if folder.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{folder} is the record itself; name another folder with --out.")
    return from_run(run(replace(settings, resume=None if settings.force else "auto"), console))


def _refuse_others(run: records.RunJson, deciding: Mapping[str, Any]) -> None:
    changed = list(differences(run, deciding))
    if changed:
        raise UsageError(
            f"The rerun would be another run, since {'; '.join(changed)}. Bring the code back "
            "as it was."
        )
    recorded: Mapping[str, Any] = run["settings"]
    keys = dict.fromkeys([*deciding, *recorded])
    other = [key for key in keys if deciding.get(key) != recorded.get(key)]
    if other:
        raise UsageError(
            f"The rerun would differ from the record in {', '.join(other)}, so it would be another "
            "run. Leave out options that decide numbers, or check out the record's commit."
        )


def warnings(original: Record, again: Record) -> Iterator[str]:
    """What made the two that is not the same: commits, versions, machines.

    Args:
        original: the record.
        again: its rerun.
    """
    pairs = [_made_by(record.run) for record in (original, again)]
    for name in dict.fromkeys([*pairs[0], *pairs[1]]):
        one, two = (pair.get(name) for pair in pairs)
        if one != two:
            yield f"{name}: {one} in the record, {two} here"
    for record, whose in ((original, "record"), (again, "rerun")):
        if any(state["dirty"] for state in records.git_states(record.run)):
            yield f"the {whose}'s commit had changes that were not committed"


def _made_by(run: records.RunJson) -> dict[str, Any]:
    settings: Mapping[str, Any] = run["settings"]
    provenance, hardware = run["provenance"], run["hardware"]
    return {
        "benchmark version": run["benchmark_version"],
        "commit": provenance["git"]["commit"],
        **{
            f"commit of {settings[section]['name']}": state["commit"]
            for section, state in provenance.get("source", {}).items()
        },
        "python": provenance["python"],
        **provenance["packages"],
        **{
            name.replace("_", " "): hardware.get(name)
            for name in ("cpu", "threads", "devices", "accelerator", "float32_products")
        },
    }


def compare(original: Record, again: Record, tolerance: float) -> Comparison:
    """Sets a rerun beside its record.

    Args:
        original: the record.
        again: its rerun.
        tolerance: largest difference of accuracies that counts as equal, 0 to 1.
    """
    return Comparison(
        weights=_same_weights(original, again),
        largest={
            _NUMBER: _largest(_selected(original), _selected(again), "accuracy"),
            **{name: _largest(_all(original), _all(again), name) for name in METRICS},
        },
        otherwise=tuple(_otherwise(original, again)),
        tolerance=tolerance,
    )


def _same_weights(original: Record, again: Record) -> bool | None:
    theirs, ours = (each.done.get("weights", {}) if each.done else {} for each in (original, again))
    name = records.LAST_CHECKPOINT
    return theirs[name] == ours[name] if name in theirs and name in ours else None


def _all(record: Record) -> list[records.CheckLine]:
    return record.checks.lines()


def _selected(record: Record) -> list[records.CheckLine]:
    """The check that the run's rule chose, with what its number is read from."""
    chosen = None if record.done is None else record.done["selected"].get(record.rule)
    held_out = [f"{name}/main" for name in record.test]
    return [
        {**line, "splits": {name: line["splits"][name] for name in held_out}}
        for line in record.checks.lines()
        if line["step"] == chosen
    ]


def _largest(
    original: Sequence[records.CheckLine], again: Sequence[records.CheckLine], name: str
) -> tuple[float, str] | None:
    """The largest difference of a metric, counted as infinite where only one has a number."""
    found = [
        (_difference(line["splits"][split], other["splits"][split], name), line["step"], split)
        for line, other in zip(original, again, strict=False)
        for split in line["splits"].keys() & other["splits"].keys()
    ]
    difference, step, split = max(found, default=(0.0, 0, ""))
    return (difference, f"{split}, step {step}") if difference else None


def _difference(one: records.SplitMetrics, two: records.SplitMetrics, name: str) -> float:
    theirs, ours = one[name], two[name]  # type: ignore[literal-required]
    if theirs is None or ours is None:
        return 0.0 if theirs is ours else float("inf")
    return abs(float(theirs) - float(ours))


def _otherwise(original: Record, again: Record) -> Iterator[str]:
    if original.run["data_fingerprint"] != again.run["data_fingerprint"]:
        yield "the data: their fingerprints differ, so every number may"
    if original.state != again.state:
        yield f"the end: {original.state} in the record, {again.state} here"
    steps = [record.checks.steps.tolist() for record in (original, again)]
    if steps[0] != steps[1]:
        yield f"the checks: {len(steps[0])} in the record, {len(steps[1])} here, or at other steps"


def show(console: Console, original: Record, again: Record, comparison: Comparison) -> None:
    """Prints what is equal, what is different and by how much.

    Args:
        console: where to print.
        original: the record.
        again: its rerun.
        comparison: of the two.
    """
    for line in warnings(original, again):
        console.print(f"Warning: {line}", highlight=False, markup=False, soft_wrap=True)
    table = Table("metric", "largest difference", "where")
    for name, largest in comparison.largest.items():
        table.add_row(name, *(("0", "") if largest is None else (f"{largest[0]:.2g}", largest[1])))
    console.print(table)
    said = {None: "the record has no hash of them", True: "equal, to the bit", False: "different"}
    for line in (f"Weights: {said[comparison.weights]}.", *map(_sentence, comparison.otherwise)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    bound = f"tolerance {comparison.tolerance:g} of accuracy"
    if comparison.equal:
        verdict = "Equal: every number of every check."
    elif comparison.reproduced:
        verdict = f"Different, within the {bound}."
    else:
        verdict = f"DIFFERENT, beyond the {bound}."
    console.print(verdict, highlight=False)


def _sentence(what: str) -> str:
    return f"Different: {what}."
