"""A run as the leaderboard reads it, whatever left it: its checks as columns, not as objects.

A run folder, a packed file and a DomainBed sweep all become the same `Record`.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from leaderboard.errors import RecordError
from leaderboard.reading import in_text
from leaderboard.records import (
    CheckLine,
    Conclusion,
    DoneJson,
    Run,
    RunJson,
    SelectionRule,
    SplitMetrics,
    State,
    canonical_json,
)
from leaderboard.shared_settings import (
    canonical,
    content_of,
    identity,
    join_run,
    refuse_numbers,
    roles_of,
    shared,
    split_run,
)

METRICS = ("accuracy", "nll", "brier", "ece")
LARGEST = (1.0, 1e100, 2.0, 1.0)
"""What each metric can be at the most; of the loss, what its squares can be added up of."""
MOST_SECONDS = 1e12
UNKNOWN_COUNT = -1

Origin = Literal["dgbench", "DomainBed"]


class LeftOut(NamedTuple):
    """Something found among the records whose numbers are in no table, and why.

    Attributes:
        place: Where it was, without folders of the machine: `<dataset>/<algorithm>/<run_id>`.
        kind: What is wrong with it, to count by.
        reason: One sentence for a reader.
    """

    place: str
    kind: Literal["corrupt", "partial", "duplicate", "foreign", "diverged", "unavailable"]
    reason: str


def place_of(folder: Path, depth: int) -> str:
    """Where a record is, without folders of the machine.

    Args:
        folder: Its folder.
        depth: How many names tell it from others.
    """
    return in_text("/".join(folder.parts[-depth:]))


class Trial(NamedTuple):
    """What is repeated: a seed of the training and one of the data."""

    trial_seed: int
    data_seed: int


# Not frozen, though nothing changes one: that would take as long as all else of making a record.
@dataclass(slots=True, eq=False)
class Checks:
    """The C checks of a run over its S splits, in ascending order of steps.

    Attributes:
        steps: `(C,)` int64.
        seconds: `(C,)` float64, wall time since the run began.
        splits: The S names `<environment>/<main or holdout>`, each with its column.
        metrics: `(C, S, 4)` float64 in the order of `METRICS`; NaN where not measured or not
            finite.
        counts: `(C, S)` int64, samples; 0 where a check does not measure a split, `UNKNOWN_COUNT`
            where the source does not tell.
        train_names: The T names of training values.
        train: `(C, T)` float64, means since the check before; NaN where not finite.
    """

    steps: npt.NDArray[np.int64]
    seconds: npt.NDArray[np.float64]
    splits: Mapping[str, int]
    metrics: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    train_names: tuple[str, ...]
    train: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.steps)

    def accuracies(self, splits: Sequence[str]) -> npt.NDArray[np.float64]:
        """`(C, len(splits))`, NaN where not finite or, by a single check, not measured.

        Raises:
            KeyError: no check measured one of the splits.
        """
        found: npt.NDArray[np.float64] = self.metrics[:, [self.splits[s] for s in splits], 0]
        return found

    def at(self, position: int, split: str) -> SplitMetrics | None:
        """What the check at a position measured on a split; None if it did not."""
        column = self.splits.get(split)
        if column is None or not self.counts[position, column]:
            return None
        count = int(self.counts[position, column])
        return _split_metrics(self.metrics[position, column].tolist(), count)

    def lines(self) -> list[CheckLine]:
        """The checks as `checks.jsonl` has them."""
        return [self._line(position) for position in range(len(self))]

    def _line(self, position: int) -> CheckLine:
        counts = self.counts[position].tolist()
        metrics = self.metrics[position].tolist()
        train = map(_or_none, self.train[position].tolist())
        line: CheckLine = {
            "step": int(self.steps[position]),
            "seconds": float(self.seconds[position]),
            "train": dict(zip(self.train_names, train, strict=True)),
            "splits": {
                name: _split_metrics(values, count)
                for name, values, count in zip(self.splits, metrics, counts, strict=True)
                if count
            },
        }
        values = [*line["train"].values()]
        for split in line["splits"].values():
            values += [split["accuracy"], split["nll"], split["brier"], split["ece"]]
        if None in values:
            line["diverged"] = True
        return line


def _or_none(value: float) -> float | None:
    return None if value != value else value


def _split_metrics(values: Sequence[float], count: int) -> SplitMetrics:
    accuracy, nll, brier, ece = map(_or_none, values)
    return {"accuracy": accuracy, "nll": nll, "brier": brier, "ece": ece, "n": count}


def columns(lines: Sequence[CheckLine]) -> Checks:
    """Turn the checks of one run into columns.

    Raises:
        RecordError: the names of training values differ between checks.
    """
    names = dict.fromkeys(split for line in lines for split in line["splits"])
    splits = positions(tuple(names))
    train_names = tuple(lines[0]["train"]) if lines else ()
    if any(set(line["train"]) != set(train_names) for line in lines):
        raise RecordError("checks.jsonl: the names of training values differ between checks")
    metrics = np.full((len(lines), len(splits), len(METRICS)), np.nan)
    counts = np.zeros((len(lines), len(splits)), dtype=np.int64)
    for row, line in enumerate(lines):
        for split, found in line["splits"].items():
            column = splits[split]
            metrics[row, column] = [found["accuracy"], found["nll"], found["brier"], found["ece"]]
            counts[row, column] = found["n"]
    train = [[line["train"][name] for name in train_names] for line in lines]
    return Checks(
        steps=np.array([line["step"] for line in lines], dtype=np.int64),
        seconds=np.array([line["seconds"] for line in lines], dtype=np.float64),
        splits=splits,
        metrics=metrics,
        counts=counts,
        train_names=train_names,
        train=np.array(train, dtype=np.float64).reshape(len(lines), len(train_names)),
    )


@functools.lru_cache(maxsize=10_000)
def positions(splits: tuple[str, ...]) -> Mapping[str, int]:
    """The column of each split, one object for all runs that measure the same ones."""
    return {split: column for column, split in enumerate(splits)}


@dataclass(slots=True, eq=False)
class Record:
    """One run.

    Attributes:
        place: Where it was, without folders of the machine: `<dataset>/<algorithm>/<run_id>`.
        origin: What made it.
        run_id: Its identity.
        benchmark_version: Of the suite that made it; `DomainBed` for its sweeps.
        dataset: Name of the data set.
        data: What the data set was, canonical JSON: `settings.data` without its name and without
            how batches are drawn.
        source: Where its samples came from (`settings.data.source`), "" if there is one only.
        protocol: Name of the protocol.
        backbone: The network's backbone and, if it has any, its pre-trained weights.
        task: `generalization`, or `adaptation` if the run saw unlabelled samples of its test
            environments.
        algorithm: Name of the algorithm.
        fixed: What runs must share to be averaged, canonical JSON: all settings but seeds of the
            trial and the test environments.
        searched: The same without what a draw of hyper-parameters decides.
        departures: What of it is not its protocol's (`leaderboard.departures`).
        search: What the hyper-parameters were drawn from, canonical JSON; "" for draw 0, which has
            the defaults, and where the source does not tell.
        draw: The draw of hyper-parameters; 0 has the defaults.
        trial: The repetition.
        environments: Names of all environments, by index.
        test: Names of the test environments, in the order of their indices.
        train: Names of the training environments.
        rule: The selection rule that its protocol reports.
        state: What became of it.
        checks: Its checks.
        conclusion_text: What the last check concluded of sets of variables, JSON; None of a method
            that concludes nothing.
        total_seconds: Wall time, None if it has not ended.
        sha256: Of its files.
        settings_text: The settings of `run.json` that many runs share (`split_run`), canonical
            JSON.
        own_text: The rest of `run.json`, canonical JSON.
        done_text: The content of `done.json`, JSON; None if the run has not ended.
    """

    place: str
    origin: Origin
    run_id: str
    benchmark_version: str
    dataset: str
    data: str
    source: str
    protocol: str
    backbone: str
    task: str
    algorithm: str
    fixed: str
    searched: str
    departures: str
    search: str
    draw: int
    trial: Trial
    environments: tuple[str, ...]
    test: tuple[str, ...]
    train: tuple[str, ...]
    rule: SelectionRule
    state: State
    checks: Checks
    conclusion_text: str | None
    total_seconds: float | None
    sha256: str
    settings_text: str
    own_text: str
    done_text: str | None

    @property
    def run(self) -> RunJson:
        """The content of `run.json`; of a DomainBed sweep what its records tell of it."""
        return join_run(json.loads(self.settings_text), json.loads(self.own_text))

    @property
    def done(self) -> DoneJson | None:
        """The content of `done.json`; None if the run has not ended, or is of DomainBed."""
        content: DoneJson | None = None if self.done_text is None else json.loads(self.done_text)
        return content

    @property
    def space(self) -> str:
        """Name and version of the search space of its draw; "" without one."""
        return space(self.search)

    @property
    def conclusion(self) -> Conclusion | None:
        """What the last check concluded of sets of variables."""
        content: Conclusion | None = json.loads(self.conclusion_text or "null")
        return content


@functools.lru_cache(maxsize=1_000)
def space(search: str) -> str:
    """Name and version of what `Record.search` describes; "" for ""."""
    found = json.loads(search or "null")
    return f"{found['space']} {found['version']}" if found else ""


def from_run(run: Run) -> Record:
    """Read a run folder's content as a record.

    Raises:
        RecordError: its checks contradict each other.
    """
    place = place_of(run.folder, 3)
    checks = columns(run.checks)
    found = run.checks[-1].get("conclusion") if run.checks else None
    conclusion = None if found is None else canonical_json(found)
    return record(
        *split_run(run.run),
        checks,
        place=place,
        origin="dgbench",
        state=run.state,
        rule=run.run["settings"]["selection"],
        conclusion_text=conclusion,
        seconds=None if run.done is None else float(run.done["seconds"]),
        sha256=content_sha256(run.run, checks, run.done, conclusion),
        done_text=None if run.done is None else canonical_json(run.done),
    )


def content_sha256(
    run: RunJson, checks: Checks, done: DoneJson | None, conclusion_text: str | None
) -> str:
    """The hash of what a run's files say, which its folder and its place in a pack share."""
    content = [run, checks.lines(), done]
    files = canonical_json(content if conclusion_text is None else [*content, conclusion_text])
    return hashlib.sha256(files.encode()).hexdigest()


def record(
    settings_text: str,
    own: Mapping[str, Any],
    checks: Checks,
    *,
    place: str,
    origin: Origin,
    state: State,
    rule: SelectionRule,
    conclusion_text: str | None,
    seconds: float | None,
    sha256: str,
    done_text: str | None,
    own_text: str | None = None,
) -> Record:
    """Read what tables need out of the settings of a run, cut in two by `split_run`.

    `own_text` is `own` as canonical JSON, where it is at hand; all else is as of `Record`.

    Raises:
        RecordError: a name is no text, or a seed no number.
    """
    of_trial = own["settings"]
    trial = Trial(of_trial["trial_seed"], of_trial["data_seed"])
    refuse_numbers(trial)
    if not isinstance(own["run_id"], str) or not isinstance(own["benchmark_version"], str):
        raise RecordError("its run id or benchmark version is no text")
    roles = roles_of(content_of([own["environments"], of_trial["test_env"], of_trial["train_env"]]))
    # A known data set of other size is another data set: its runs have a table of their own.
    counts = [p["message"] for p in own.get("data_problems", ()) if p["kind"] == "count"]
    search = canonical(content_of(own["search"])) if "search" in own else ""
    return Record(
        place=place,
        origin=origin,
        run_id=own["run_id"],
        benchmark_version=shared(own["benchmark_version"]),
        **identity(settings_text, roles.fixed, " ".join(counts), search),
        search=search,
        trial=trial,
        environments=roles.environments,
        test=roles.test,
        train=roles.train,
        rule=rule,
        state=state,
        checks=checks,
        conclusion_text=conclusion_text,
        total_seconds=seconds,
        sha256=sha256,
        own_text=canonical_json(own) if own_text is None else own_text,
        done_text=done_text,
    )


def without_duplicates(records: Iterable[Record]) -> tuple[list[Record], list[LeftOut]]:
    """Keep one of the records with one run id and equal numbers; where they differ keep none.

    A record cannot tell which of two different ones is right. A finished one counts before others.

    Returns:
        Records sorted by run id, and what was left out.
    """
    groups: dict[str, list[Record]] = {}
    for each in records:
        groups.setdefault(each.run_id, []).append(each)
    kept, left_out = [], []
    for _, group in sorted(groups.items()):
        if len(group) == 1:
            kept += group
            continue
        group.sort(key=lambda each: each.place)
        candidates = [each for each in group if each.done_text is not None] or group
        first = candidates[0]
        differ = any(_numbers(each) != _numbers(first) for each in candidates[1:])
        if not differ:
            kept.append(first)
        reason = (
            "has the run id of other records here but other numbers: keep one of them"
            if differ
            else "repeats a run that is already here"
        )
        left_out += [
            LeftOut(each.place, "duplicate", reason)
            for each in group
            if differ or each is not first
        ]
    return kept, left_out


def _numbers(each: Record) -> list[Any]:
    return [
        each.state,
        each.conclusion_text,
        *([line["step"], line["splits"]] for line in each.checks.lines()),
    ]
