"""What a sweep costs before it starts: from earlier records, or from a few measured steps."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.prompt import Confirm
from rich.table import Table

from dgbench.errors import UsageError
from dgbench.sweep.plan import PlannedRun
from dgbench.sweep.state import ENDED, seconds_of, state_of, step_of
from dgbench.sweep.worker import settle
from leaderboard import records
from leaderboard.errors import RecordError

if TYPE_CHECKING:
    from dgbench.settings import Settings
    from dgbench.sweep.measuring import Cost

# A sweep that will take longer asks first.
ASKED_ABOVE = timedelta(hours=1)
# Steps that are taken unasked and unmeasured: in an hour, if each takes almost four seconds.
_SMALL = 1000

Measure = Callable[[Sequence["Settings"]], "list[Cost | str]"]


class _Known(NamedTuple):
    """A run whose cost is known: rows of an environment's batch, seconds a step, bytes."""

    rows: int
    seconds: float
    bytes: float


class _Kind(NamedTuple):
    """Runs whose steps cost the same, but for the rows of their batches; and what is known."""

    runs: Sequence[PlannedRun]
    recorded: Sequence[_Known]

    @property
    def unknown(self) -> list[PlannedRun]:
        """Those to measure: with the smallest and the largest batches, if there are no records."""
        if self.recorded:
            return []
        ordered = sorted(self.runs, key=lambda run: _rows(run.settings.data))
        return list({_rows(run.settings.data): run for run in (ordered[0], ordered[-1])}.values())


@dataclass(frozen=True)
class Line:
    """What the runs of an algorithm on a data set cost.

    Attributes:
        dataset: name of the data set.
        algo: name of the algorithm.
        runs: how many there are.
        pairs: how many of them hold out several environments, as leave-one-out selection needs.
        todo: those that are not finished.
        seconds: that the others take, one after the other; None where it is not known.
        bytes: that they leave on the disk.
        source: what that is known by.
    """

    dataset: str
    algo: str
    runs: int
    pairs: int
    todo: Sequence[PlannedRun]
    seconds: float | None
    bytes: float
    source: str


def is_small(runs: Sequence[PlannedRun]) -> bool:
    """Whether what is left of runs are so few steps that they begin unasked.

    Args:
        runs: all of a sweep.
    """
    return sum(map(_steps_left, runs)) < _SMALL


def estimate(runs: Sequence[PlannedRun], measure: Measure) -> list[Line]:
    """What a sweep costs, by data set and algorithm.

    Args:
        runs: all of it.
        measure: what runs cost of which there are no earlier records; called once.
    """
    named: defaultdict[tuple[str, str], list[PlannedRun]] = defaultdict(list)
    for run in runs:
        named[run.settings.data["name"], run.settings.algo["name"]].append(run)
    kinds = {names: _kinds(found) for names, found in named.items()}
    unknown = [run for found in kinds.values() for kind in found for run in kind.unknown]
    costs = measure([run.settings for run in unknown]) if unknown else []
    measured = {run.folder: cost for run, cost in zip(unknown, costs, strict=True)}
    return [_line(*names, named[names], kinds[names], measured) for names in named]


def _steps_left(run: PlannedRun) -> int:
    ended = state_of(run.folder) in ENDED
    return 0 if ended else run.settings.steps - step_of(run.folder)


def _kinds(runs: Sequence[PlannedRun]) -> list[_Kind]:
    """The kinds of what is left of an algorithm's runs on a data set."""
    alike: defaultdict[str, list[PlannedRun]] = defaultdict(list)
    for run in runs:
        if state_of(run.folder) not in ENDED:
            alike[_kind_of(run.settings.deciding([], []))].append(run)
    recorded = _recorded(runs[0].folder.parent) if alike else {}
    return [_Kind(found, recorded.get(kind, [])) for kind, found in alike.items()]


def _line(
    dataset: str,
    algo: str,
    runs: Sequence[PlannedRun],
    kinds: Sequence[_Kind],
    measured: Mapping[Path, Cost | str],
) -> Line:
    pairs = sum(len(run.settings.test_env) > 1 for run in runs)
    todo = [run for kind in kinds for run in kind.runs]
    seconds, size, sources = 0.0, 0.0, list[str]()
    for kind in kinds:
        known = list(kind.recorded)
        sources.append(f"{len(known)} records" if known else "measuring")
        for run in kind.unknown:
            cost = measured[run.folder]
            if isinstance(cost, str):
                return Line(dataset, algo, len(runs), pairs, todo, None, 0.0, f"not known: {cost}")
            rows = _rows(run.settings.data)
            known.append(_Known(rows, cost.seconds / run.settings.steps, cost.bytes))
        for run in kind.runs:
            seconds += _steps_left(run) * _seconds_a_step(known, _rows(run.settings.data))
            size += fmean(each.bytes for each in known)
    source = ", ".join(dict.fromkeys(sources))
    return Line(dataset, algo, len(runs), pairs, todo, seconds, size, source)


def _kind_of(settings: Mapping[str, Any]) -> str:
    """What runs have in common whose steps cost the same, but for the rows of their batches."""
    size = settings["data"].get("batch_size")
    named = {name: settings[name] for name in ("protocol", "network", "precision")}
    data = {name: value for name, value in settings["data"].items() if name != "batch_size"}
    return records.canonical_json({**named, "data": data, "full": size == "full"})


def _rows(data: Mapping[str, Any]) -> int:
    """Rows of an environment's batch; 0 for full ones."""
    size = data.get("batch_size")
    return size if isinstance(size, int) else 0


def _recorded(folder: Path) -> dict[str, list[_Known]]:
    """What the finished runs in a folder cost, by kind."""
    found: defaultdict[str, list[_Known]] = defaultdict(list)
    for path in records.find_runs([folder]) if folder.exists() else []:
        try:
            run, seconds = records.read_run(path), seconds_of(path)
        except RecordError:
            continue
        if seconds is None or run.done is None or not run.done["last_step"]:
            continue
        settings: Mapping[str, Any] = run.run["settings"]
        found[_kind_of(settings)].append(
            _Known(
                _rows(settings["data"]),
                seconds / run.done["last_step"],
                sum(file.stat().st_size for file in path.iterdir() if file.is_file()),
            )
        )
    return found


def _seconds_a_step(known: Sequence[_Known], rows: int) -> float:
    """By the known batch sizes, between two of them in proportion."""
    by_rows: defaultdict[int, list[float]] = defaultdict(list)
    for each in known:
        by_rows[each.rows].append(each.seconds)
    sizes = sorted(by_rows)
    return float(np.interp(rows, sizes, [median(by_rows[size]) for size in sizes]))


def measured_here(environment: Mapping[str, str], cores: Sequence[int] | None) -> Measure:
    """Measures runs as a worker of this machine would train them, all in one process of its own.

    Args:
        environment: the worker's variables.
        cores: that it may use.
    """

    def measure(settings: Sequence[Settings]) -> list[Cost | str]:
        found: list[Cost | str] = []
        while len(found) < len(settings):
            with ProcessPoolExecutor(
                1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=settle,
                initargs=(environment, cores, Path(os.devnull)),
            ) as pool:
                for future in [pool.submit(_measure, each) for each in settings[len(found) :]]:
                    error = future.exception()
                    found.append(future.result() if error is None else _first_line(error))
                    if isinstance(error, BrokenProcessPool):
                        # This run killed the process; another one measures those behind it.
                        break
        return found

    return measure


def _measure(settings: Settings) -> Cost:
    from dgbench.sweep.measuring import measure

    return measure(settings)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def show(lines: Sequence[Line], workers: int, out: str, console: Console) -> None:
    """Prints what a sweep costs.

    Args:
        lines: by data set and algorithm.
        workers: how many runs at a time.
        out: folder of the records.
        console: where to print.
    """
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("data set", "algorithm"):
        table.add_column(name)
    pairs = any(line.pairs for line in lines)
    for name in ("runs", *(("pairs",) if pairs else ()), "finished", "left", "disk"):
        table.add_column(name, justify="right")
    table.add_column("by")
    for line in lines:
        table.add_row(
            escape(line.dataset),
            escape(line.algo),
            str(line.runs),
            *((str(line.pairs),) if pairs else ()),
            str(line.runs - len(line.todo)),
            "?" if line.seconds is None else _time(line.seconds),
            _size(line.bytes),
            escape(line.source),
        )
    console.print(table)
    if pairs:
        extra = sum(line.pairs for line in lines)
        console.print(
            f"{extra} of the runs hold out a pair, for leave-one-out selection alone.",
            highlight=False,
        )
    size = sum(line.bytes for line in lines)
    folders = (Path(out).absolute(), *Path(out).absolute().parents)
    free = shutil.disk_usage(next(folder for folder in folders if folder.exists())).free
    unknown = " and what is not known" if any(line.seconds is None for line in lines) else ""
    console.print(
        f"Left: {sum(len(line.todo) for line in lines)} runs in {total(lines, workers)}{unknown}, "
        f"{workers} at a time; {_size(size)} on the disk, which has {_size(free)} free.",
        highlight=False,
        soft_wrap=True,
    )


def total(lines: Iterable[Line], workers: int) -> timedelta:
    """How long all of it takes.

    Args:
        lines: by data set and algorithm; unknown ones count for nothing.
        workers: how many runs at a time.
    """
    return timedelta(seconds=round(sum(line.seconds or 0.0 for line in lines) / workers))


def ask(takes: timedelta, console: Console) -> None:
    """Asks before a long sweep begins.

    Args:
        takes: how long.
        console: where to ask.

    Raises:
        UsageError: when nobody can be asked, or the answer is no.
    """
    if not (console.is_terminal and sys.stdin.isatty()):
        raise UsageError(
            f"This sweep takes about {takes}, more than {ASKED_ABOVE}. Add --yes to begin, or see "
            "what it is made of with --dry-run."
        )
    if not Confirm.ask(f"This takes about {takes}. Begin?", console=console, default=False):
        raise UsageError("Nothing was begun.")


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _size(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
