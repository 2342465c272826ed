"""Reruns a published table and sets it beside ours.

Its runs are ordinary records: finished ones are read, interrupted ones resumed, so a table that was
stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from dgbench import BENCHMARK_VERSION
from dgbench.arguments import as_flags
from dgbench.errors import UsageError
from dgbench.reproductions import Published, Reproduction, Row, Spread
from dgbench.settings import resolve_arguments
from dgbench.sweep.launcher import carry_out
from dgbench.sweep.local import LocalExecutor, places
from dgbench.sweep.manifest import logs
from dgbench.sweep.plan import PlannedRun, planned_run, refuse_several_devices
from dgbench.sweep.view import Progress
from dgbench.training import run
from leaderboard import records
from leaderboard.records import SelectionRule
from leaderboard.selection import selected_steps
from leaderboard.statistics import summarize

_SPREADS: dict[Spread, str] = {"deviation": "standard deviation", "error": "standard error"}


class Planned(NamedTuple):
    """One run of a table."""

    row: Row
    run: PlannedRun

    @property
    def title(self) -> str:
        """What tells it from the others, in the table's words."""
        return f"{self.row.name}, trial {self.run.settings.trial_seed}"


@dataclass(frozen=True)
class Line:
    """One line of the comparison: a row under one selection rule, in percent.

    Attributes:
        row: the row's name.
        test_env: what is held out.
        selection: the rule.
        trials: runs that ours is the mean of.
        diverged: runs whose numbers are not finite, which are left out of it.
        test: ours on the held-out environment; None without a finite run.
        train: ours on the training environments, the mean over them.
        published_test: theirs.
        published_train: theirs, if published.
        difference: of the held-out accuracies, in units of their spread; None if that is 0.
        bound: what counts as reproduced, if anything is said.
        inside: whether ours is; None without a bound.
        runs: folders of the records.
    """

    row: str
    test_env: str
    selection: SelectionRule
    trials: int
    diverged: int
    test: Published | None
    train: Published | None
    published_test: Published
    published_train: Published | None
    difference: float | None
    bound: tuple[float, float] | None
    inside: bool | None
    runs: list[str]


def plan(
    reproduction: Reproduction, rows: Sequence[Row], trials: int, out: str, flags: Sequence[str]
) -> list[Planned]:
    """The runs of a table, trial by trial, so that a stopped table has all rows alike.

    Args:
        reproduction: the table.
        rows: which of its rows.
        trials: how many runs of each; trial t has t for its trial seed and its data seed.
        out: folder of the records.
        flags: options of ``fit`` that every run gets on top.

    Raises:
        UsageError: for options that are not allowed.
    """
    for flag in flags:
        if flag.partition("=")[0] in ("--trial-seed", "--data-seed"):
            raise UsageError(
                f"{flag} is decided by the table: trial t has t for both its seeds; use --trials."
            )
    named = {"data": {"name": reproduction.dataset}, "protocol": reproduction.protocol, "out": out}
    resolved = []
    for row in rows:
        typed = [*as_flags(named), *as_flags(row.config), *flags]
        resolved.append((row, typed, resolve_arguments(typed)))
    return [
        Planned(row, planned_run(replace(settings, trial_seed=trial, data_seed=trial), typed))
        for trial in range(trials)
        for row, typed, settings in resolved
    ]


def train(name: str, planned: Sequence[Planned], jobs: int, console: Console) -> None:
    """Trains what is not finished.

    Args:
        name: of the table.
        planned: the runs.
        jobs: how many at a time; more than one in processes of their own, which share the cores.
        console: where to show progress.

    Raises:
        Interrupted: when a signal stopped it; the same command goes on from there.
        UsageError: when a run could not be trained.
    """
    todo = [each for each in planned if not records.is_finished(each.run.folder)]
    console.print(
        f"Runs: {len(planned)}, of which finished: {len(planned) - len(todo)}", highlight=False
    )
    if jobs == 1:
        for each in todo:
            console.print(each.title, highlight=False)
            done = run(each.run.settings, console)
            (accuracy,) = _accuracies([done], done.run["settings"]["selection"], "test")
            console.print(f"{each.title}: {accuracy:.1f} % held out", highlight=False)
    elif todo:
        _side_by_side(name, todo, jobs, console)


def _side_by_side(name: str, todo: Sequence[Planned], jobs: int, console: Console) -> None:
    """Trains as a sweep does, and names what failed."""
    refuse_several_devices((each.run for each in todo), "use --jobs 1")
    executor = LocalExecutor(places(jobs, 1), logs(todo[0].run.settings.out, name))
    try:
        runs = [each.run for each in todo]
        with Progress(console, runs, 0, executor.slots) as progress:
            failures = carry_out([(each,) for each in runs], executor, 0, progress)
    finally:
        executor.close()
    titles = {each.run.folder: each.title for each in todo}
    if failures:
        raise UsageError("\n".join(f"{titles[f.run.folder]}: {f.message}" for f in failures))


def compare(reproduction: Reproduction, planned: Sequence[Planned]) -> list[Line]:
    """Theirs beside ours, one line a row and rule.

    Args:
        reproduction: the table.
        planned: its runs, all finished.
    """
    lines = []
    for row in dict.fromkeys(each.row.name for each in planned):
        own = [each for each in planned if each.row.name == row]
        runs = [records.read_run(each.run.folder) for each in own]
        for rule, theirs in own[0].row.test.items():
            lines.append(_line(own[0].row, rule, theirs, runs, reproduction.spread))
    return lines


def _line(
    row: Row, rule: SelectionRule, theirs: Published, runs: list[records.Run], spread: Spread
) -> Line:
    held_out = _accuracies(runs, rule, "test")
    test = _summary(held_out, spread)
    diverged = sum(not isfinite(value) for value in held_out)
    difference = (
        None if test is None or not theirs.spread else (test.mean - theirs.mean) / theirs.spread
    )
    inside = None
    if row.bound is not None:
        low, high = row.bound
        inside = test is not None and not diverged and low <= test.mean <= high
    return Line(
        row=row.name,
        test_env=" ".join(runs[0].run["settings"]["test_env"]),
        selection=rule,
        trials=len(runs) - diverged,
        diverged=diverged,
        test=test,
        train=_summary(_accuracies(runs, rule, "train"), spread),
        published_test=theirs,
        published_train=row.train.get(rule),
        difference=difference,
        bound=row.bound,
        inside=inside,
        runs=[str(each.folder) for each in runs],
    )


def _accuracies(runs: Sequence[records.Run], rule: SelectionRule, role: str) -> list[float]:
    """Each run's accuracy in percent, the mean over its environments of a role; NaN if it has none.

    A check that was not selected by the run's own rule may lack the training environments.
    """
    found = []
    for each in runs:
        settings = each.run["settings"]
        step = selected_steps(each.checks, settings["train_env"], settings["test_env"])[rule]
        splits = next((line["splits"] for line in each.checks if line["step"] == step), {})
        names: list[str] = settings["test_env"] if role == "test" else settings["train_env"]
        measured = [splits[f"{name}/main"] for name in names if f"{name}/main" in splits]
        values = [metrics["accuracy"] for metrics in measured]
        numbers = [float("nan") if value is None else 100 * value for value in values]
        found.append(sum(numbers) / len(numbers) if numbers else float("nan"))
    return found


def _summary(values: Sequence[float], spread: Spread) -> Published | None:
    finite = [value for value in values if isfinite(value)]
    if not finite:
        return None
    summary = summarize(finite)
    error = 0.0 if summary.standard_error is None else summary.standard_error
    scale = summary.n**0.5 if spread == "deviation" else 1.0
    return Published(summary.mean, error * scale)


def markdown(reproduction: Reproduction, lines: Sequence[Line], flags: Sequence[str]) -> str:
    """The comparison as Markdown.

    Args:
        reproduction: the table.
        lines: its lines.
        flags: options that its runs had on top.
    """
    unit = _SPREADS[reproduction.spread]
    header = (
        "row", "held out", "selected by", "train, theirs", "train, ours", "test, theirs",
        "test, ours", "runs", f"difference in their {unit}s", "bound",
    )  # fmt: skip
    table = [header, ("---",) * len(header), *(_cells(line) for line in lines)]
    options = [f"With {' '.join(flags)}."] if flags else []
    return "\n".join(
        [
            f"# {reproduction.name}",
            "",
            f"{reproduction.title}: {', '.join(reproduction.sources)}.",
            f"Accuracy in percent, mean ± {unit} (ours with ddof 1), over trials that each have "
            "a trial and a data seed of their own; train is the mean over training environments.",
            *options,
            "",
            *(f"| {' | '.join(cells)} |" for cells in table),
            "",
        ]
    )


def _cells(line: Line) -> tuple[str, ...]:
    verdict = {None: "not judged", True: "inside", False: "OUTSIDE"}[line.inside]
    bound = "" if line.bound is None else f" {line.bound[0]:g} to {line.bound[1]:g}"
    diverged = f" ({line.diverged} diverged)" if line.diverged else ""
    return (
        line.row,
        line.test_env,
        line.selection,
        _written(line.published_train),
        _written(line.train, single=line.trials == 1),
        _written(line.published_test),
        _written(line.test, single=line.trials == 1),
        f"{line.trials}{diverged}",
        "-" if line.difference is None else f"{line.difference:+.1f}",
        verdict + bound,
    )


def _written(number: Published | None, *, single: bool = False) -> str:
    if number is None:
        return "-"
    return f"{number.mean:.1f}" if single else f"{number.mean:.1f} ± {number.spread:.1f}"


def write(reproduction: Reproduction, lines: Sequence[Line], flags: Sequence[str], out: str) -> str:
    """Writes the comparison as Markdown and JSON beside the records.

    Args:
        reproduction: the table.
        lines: its lines.
        flags: options that its runs had on top.
        out: folder of the records.

    Returns:
        The Markdown.
    """
    text = markdown(reproduction, lines, flags)
    content: dict[str, Any] = {
        "name": reproduction.name,
        "title": reproduction.title,
        "sources": list(reproduction.sources),
        "benchmark_version": BENCHMARK_VERSION,
        "spread": reproduction.spread,
        "flags": list(flags),
        "lines": [asdict(line) for line in lines],
    }
    folder = Path(out)
    records.write_text_atomic(folder / f"{reproduction.name}.md", text)
    records.write_json_atomic(folder / f"{reproduction.name}.json", content)
    return text
