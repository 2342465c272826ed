"""The pictures of a board: which plots belong to a table, and what they are made of."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from leaderboard.board import Board, Cell, Overall, Row, Section
from leaderboard.frame import Record
from leaderboard.plots import (
    UNLIMITED,
    Estimate,
    Series,
    Style,
    interval_plot,
    line_plot,
    rank_plot,
    scatter_plot,
    styles,
)
from leaderboard.statistics import MINIMUM_TRIALS, Summary, summarize
from leaderboard.tables import column_title, whole
from leaderboard.templating import asset, render

MOST_PLOTTED = 6
"""Environments that have plots of their own."""

PENALTY = "penalty"  # what algorithms call it in their training values
WEIGHT = "penalty_weight"  # what algorithms call its weight in their options
LEAST_WEIGHTS = 3
"""Weights from which on a scan is drawn."""

_ACCURACY = "accuracy, %"
_PERCENT = (0.0, 100.0)


class Picture(NamedTuple):
    """A plot.

    Attributes:
        group: What kind of plot it is.
        caption: What it shows beside that.
        svg: The plot.
        algorithm: The only one it is of; "" if there are several.
        legend: Label and look of each line, where they are not the algorithms of a table.
    """

    group: str
    caption: str
    svg: Markup
    algorithm: str = ""
    legend: tuple[tuple[str, Style], ...] = ()


def look_of(board: Board) -> dict[str, Style]:
    """One look for each algorithm in all pictures of a board."""
    labels = {row.label for section in board.sections for row in section.rows}
    return styles(labels | {row.label for overall in board.overall for row in overall.rows})


def section_pictures(board: Board, section: Section, look: Mapping[str, Style]) -> list[Picture]:
    """Accuracy with intervals and over steps, penalty and cost against accuracy, for one table."""
    columns = list(enumerate(map(column_title, section.columns)))[:MOST_PLOTTED]
    pictures = []
    for place, name in columns:
        cells = [(row, row.cells[place]) for row in section.rows]
        pictures += _intervals(f"in {name}", cells, look)
    if len(section.columns) > 1:
        pictures += _intervals("on average", [(row, whole(row)) for row in section.rows], look)
    for place, name in columns:
        pictures += _curves(board, section, place, name, look)
    for place, name in columns:
        pictures += _penalties(board, section, place, name, look)
    for place, name in columns:
        pictures += _scans(board, section, place, name)
    return pictures + _costs(section, look)


def overall_pictures(overall: Overall, look: Mapping[str, Style]) -> list[Picture]:
    """The rank diagram of a table over data sets, where it has ranks."""
    ranks = {r.label: r.average_rank for r in overall.rows if r.average_rank is not None}
    if not ranks:
        return []
    bars = overall.not_different
    critical = None if overall.friedman is None else overall.friedman.critical_difference
    svg = rank_plot("Average ranks", ranks, look, bars, critical)
    return [Picture("Average ranks", f"over {len(overall.datasets)} data sets", svg)]


def standalone(picture: Picture, legend: Sequence[tuple[str, Style]]) -> str:
    """A picture as a page of its own.

    Args:
        picture: The picture.
        legend: Label and look of each algorithm, for a picture without a legend of its own.
    """
    legend = picture.legend or legend
    return render("picture.html", style=asset("page.css"), picture=picture, legend=legend)


def _intervals(
    name: str, cells: Sequence[tuple[Row, Cell]], look: Mapping[str, Style]
) -> list[Picture]:
    rows = [
        (row.label, look[row.label], _percent(cell.accuracy, cell.by_trial))
        for row, cell in cells
        if cell.accuracy is not None
    ]
    svg = interval_plot(f"Accuracy {name}", rows, _ACCURACY, limits=_PERCENT)
    group = "Accuracy: trials, and means with the 95 % interval of each"
    return [Picture(group, name, svg)] if rows else []


def _curves(
    board: Board, section: Section, place: int, name: str, look: Mapping[str, Style]
) -> list[Picture]:
    split = f"{section.columns[place].name}/main"
    series = []
    for row in section.rows:
        records = [board.runs[number.run_id] for number in row.cells[place].numbers]
        points = _mean_curve([_curve(record, split) for record in records])
        if points:
            series.append(Series(row.label, look[row.label], points))
    svg = line_plot(f"Accuracy over steps in {name}", series, "step", _ACCURACY, limits=_PERCENT)
    several = any(len(one.points) > 1 for one in series)
    return [Picture("Accuracy over steps", f"in {name}", svg)] if several else []


def _curve(record: Record, split: str) -> dict[int, float]:
    """Accuracy by step, where it was measured and is finite."""
    checks = record.checks
    if split not in checks.splits:
        return {}
    accuracies = checks.accuracies([split])[:, 0]
    known = np.isfinite(accuracies)
    return dict(zip(checks.steps[known].tolist(), accuracies[known].tolist(), strict=True))


def _mean_curve(curves: Sequence[Mapping[int, float]]) -> list[tuple[float, Estimate]]:
    """Mean over trials at the steps that all have, with intervals from three trials on."""
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    points = []
    for step in steps:
        estimate = _percent(summarize([curve[step] for curve in curves]))
        points.append(
            (float(step), estimate if len(curves) >= MINIMUM_TRIALS else Estimate(estimate.mean))
        )
    return points


def _penalties(
    board: Board, section: Section, place: int, name: str, look: Mapping[str, Style]
) -> list[Picture]:
    series = []
    for row in section.rows:
        points = []
        for number in row.cells[place].numbers:
            penalty = _at(board.runs[number.run_id], number.step, PENALTY)
            if penalty is not None and penalty > 0:
                points.append((penalty, Estimate(100 * number.accuracy)))
        if points:
            series.append(Series(row.label, look[row.label], points))
    title = f"Penalty against accuracy in {name}"
    svg = scatter_plot(title, series, "penalty at the selected check", _ACCURACY, limits=_PERCENT)
    return [Picture("Penalty against accuracy", f"in {name}", svg)] if series else []


def _scans(board: Board, section: Section, place: int, name: str) -> list[Picture]:
    """Accuracy in each environment and the penalty against the penalty's weight, by algorithm."""
    runs: dict[str, dict[float, list[tuple[Record, int]]]] = defaultdict(lambda: defaultdict(list))
    for row in section.rows:
        for number in row.cells[place].numbers:
            record = board.runs[number.run_id]
            weight = json.loads(record.settings_text)["algo"].get(WEIGHT)
            if weight:
                runs[record.algorithm][float(weight)].append((record, number.step))
    pictures = []
    look = styles([*section.environments, PENALTY])
    for algorithm, by_weight in runs.items():
        if len(by_weight) < LEAST_WEIGHTS:
            continue
        of_environments = [
            Series(environment, look[environment], points)
            for environment in section.environments
            if (points := _over_weights(by_weight, partial(_accuracy, environment)))
        ]
        penalties = _over_weights(by_weight, _logarithm_of_penalty)
        of_penalty = [Series(PENALTY, look[PENALTY], penalties)] if penalties else []
        for series, title, y_label, limits in (
            (of_environments, "Accuracy in each environment", _ACCURACY, _PERCENT),
            (of_penalty, "Penalty", "logarithm to base 10 of the penalty", UNLIMITED),
        ):
            if series:
                caption = f"{title}: {algorithm}, {name} held out"
                svg = line_plot(
                    caption, series, "weight of the penalty", y_label,
                    logarithmic=True, of_algorithms=False, limits=limits,
                )  # fmt: skip
                legend = tuple(look.items())
                pictures.append(Picture("Weight of the penalty", caption, svg, algorithm, legend))
    return pictures


def _over_weights(
    runs: Mapping[float, Sequence[tuple[Record, int]]],
    measure: Callable[[Record, int], float | None],
) -> list[tuple[float, Estimate]]:
    """Mean over runs of what is measured of each, by weight in ascending order."""
    points = []
    for weight in sorted(runs):
        values = [value for run in runs[weight] if (value := measure(*run)) is not None]
        if values:
            summary = summarize(values)
            low, high = summary.interval or (None, None)
            if len(values) < MINIMUM_TRIALS:
                low = high = None
            points.append((weight, Estimate(summary.mean, low, high, values)))
    return points


def _accuracy(environment: str, record: Record, step: int) -> float | None:
    """In percent, on the main split; of a training environment perhaps only on the holdout."""
    for split in ("main", "holdout"):
        measured = _curve(record, f"{environment}/{split}").get(step)
        if measured is not None:
            return 100 * measured
    return None


def _logarithm_of_penalty(record: Record, step: int) -> float | None:
    penalty = _at(record, step, PENALTY)
    return math.log10(penalty) if penalty is not None and penalty > 0 else None


def _at(record: Record, step: int, name: str) -> float | None:
    """A training value at a check."""
    checks = record.checks
    if name not in checks.train_names:
        return None
    position: npt.NDArray[np.int64] = np.flatnonzero(checks.steps == step)
    return float(checks.train[position[0], checks.train_names.index(name)])


def _costs(section: Section, look: Mapping[str, Style]) -> list[Picture]:
    series = [
        Series(row.label, look[row.label], [(row.seconds.mean, _percent(accuracy, cell.by_trial))])
        for row in section.rows
        if row.seconds is not None and (accuracy := (cell := whole(row)).accuracy) is not None
    ]
    name = "on average" if len(section.columns) > 1 else f"in {column_title(section.columns[0])}"
    title = f"Cost against accuracy {name}"
    svg = scatter_plot(title, series, "seconds a run", _ACCURACY, limits=_PERCENT)
    return [Picture("Cost against accuracy", name, svg)] if series else []


def _percent(summary: Summary, trials: Sequence[float] = ()) -> Estimate:
    shown = [100 * value for value in trials]
    if summary.interval is None:
        return Estimate(100 * summary.mean, trials=shown)
    low, high = summary.interval
    return Estimate(100 * summary.mean, 100 * low, 100 * high, shown)
