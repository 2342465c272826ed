"""How a survey is shown in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datamodules.environments import SPLITS
from dgbench.inspect.survey import Problem, Survey

# Of more classes the table shows the smallest, median and largest of each environment.
_LISTED_CLASSES = 100
_SHOWN_EXAMPLES = 5


def show(console: Console, title: str, found: Survey) -> None:
    """Prints counts, sizes, fingerprints and problems.

    Args:
        console: where to print.
        title: name of the data set and of its protocol.
        found: what it holds.
    """
    shape = " x ".join(map(str, found.input_shape))
    if found.fingerprint:
        console.print(_counts(title, found))
        console.print(f"Inputs: {shape}. Fingerprint: {found.fingerprint}", highlight=False)
    else:
        console.print(f"{title} cannot be loaded as it is.", highlight=False, markup=False)
    if found.files:
        console.print(_files(found), highlight=False, markup=False)
    if found.terms:
        licence, origin = found.terms.values()
        console.print(f"Licence: {licence}. {origin}", highlight=False, markup=False)
    for problem in found.problems:
        console.print(_problem(problem), highlight=False)
    console.print(_verdict(found), highlight=False)


def _counts(title: str, found: Survey) -> Table:
    """Samples by environment and class; the longer of the two goes down."""
    header = ["environment", *found.environments, "all"]
    lines = [header, *_numbers(SPLITS, found.counts.sum(axis=2).T)]
    if len(found.classes) <= _LISTED_CLASSES:
        lines += _numbers(found.classes, found.counts.sum(axis=1).T)
    else:
        quantiles = np.quantile(found.counts.sum(axis=1), [0, 0.5, 1], axis=1).astype(int)
        names = [f"{size} class" for size in ("smallest", "median", "largest")]
        lines += _numbers(names, quantiles)
    section = len(SPLITS)
    if len(found.environments) >= len(found.classes):
        lines = [list(line) for line in zip(*lines, strict=True)]
        section = len(found.environments)
    table = Table(title=escape(title), title_justify="left")
    for number, cell in enumerate(lines[0]):
        table.add_column(escape(cell), justify="right" if number else "left")
    for number, line in enumerate(lines[1:], start=1):
        cells = (escape(cell) if cell != "0" else "[red]0[/]" for cell in line)
        table.add_row(*cells, end_section=number == section)
    return table


def _numbers(names: Sequence[str], counts: npt.NDArray[np.int64]) -> list[list[str]]:
    """A line of cells for each row of counts, and its sum."""
    return [
        [name, *(f"{count:,}" for count in row), f"{row.sum():,}"]
        for name, row in zip(names, counts, strict=True)
    ]


def _files(found: Survey) -> str:
    shown = [f"{kind} ({count:,})" for kind, count in found.files.items()]
    more = len(shown) - _SHOWN_EXAMPLES
    listed = ", ".join(shown[:_SHOWN_EXAMPLES])
    return f"Files: {listed}{f' and {more:,} more kinds' if more > 0 else ''}."


def _problem(problem: Problem) -> str:
    mark = "[red]Problem[/]" if problem.spoils else "[yellow]Note[/]"
    shown = problem.examples[:_SHOWN_EXAMPLES]
    more = f"\n  and {problem.count - len(shown):,} more" if problem.count > len(shown) else ""
    listed = "".join(f"\n  {escape(example)}" for example in shown)
    times = f", {problem.count:,}" if problem.count else ""
    return f"{mark}: {problem.kind}{times}. {escape(problem.message)}{listed}{more}"


def _verdict(found: Survey) -> str:
    spoiling = [problem.kind for problem in found.problems if problem.spoils]
    if spoiling:
        return f"This would spoil a benchmark: {', '.join(spoiling)}."
    return "Nothing found that would spoil a benchmark."
