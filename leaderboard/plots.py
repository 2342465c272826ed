"""Plots as inline SVG, drawn from numbers alone.

Not by matplotlib: these pictures live in the page and as files. They follow its dark mode and its
filter (each mark carries its algorithm), and their bytes change with no library's version, so that
a page can be compared with the one it should be. Colours are Okabe and Ito's
(https://jfly.uni-koeln.de/color/); shapes tell the same to those who see none, along lines too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from markupsafe import Markup

from leaderboard.templating import render

COLOURS = 8  # classes c0 to c7 of the style sheet
WIDTH, PLOT_HEIGHT = 400, 250  # user units
_LABEL, _MARGIN, _FOOT = 7.0, 14, 44  # mean width of a letter; space around; space below an axis
_ROW = 24  # height of a row of an interval plot
_APART = 5.0  # of a mean from the middle of its row, above its trials
_LONGEST = 20  # letters of a label that fit beside a row
_SHAPES_OF_A_LINE = 4
_MOST_BANDS = 8  # lines from whose number on bands hide each other

Limits = tuple[float, float]
UNLIMITED = (-math.inf, math.inf)

# Outlines around the point they follow, 4 to 5 units in each direction. The second half is thin, or
# hollow by an inner outline that runs the other way.
_SHAPES = (
    "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",  # circle
    "m-3.6-3.6h7.2v7.2h-7.2z",  # square
    "m0-5l4.8 8.6h-9.6z",  # triangle
    "m0-5.2l5.2 5.2l-5.2 5.2l-5.2-5.2z",  # diamond
    "m0 5l-4.8-8.6h9.6z",  # triangle upside down
    "m-1.6-5h3.2v3.4h3.4v3.2h-3.4v3.4h-3.2v-3.4h-3.4v-3.2h3.4z",  # plus
    "m0-5.4l1.6 3.6l3.8.4l-2.9 2.6l.8 3.9l-3.3-2l-3.3 2l.8-3.9l-2.9-2.6l3.8-.4z",  # star
    "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0m2 0a2 2 0 1 1 4 0a2 2 0 1 1-4 0",
    "m-3.8-3.8h7.6v7.6h-7.6zm2 2v3.6h3.6v-3.6z",
    "m0-5.6l5.4 9.6h-10.8zm0 3.7l-2.3 4.1h4.6z",
    "m0-5.4l5.4 5.4l-5.4 5.4l-5.4-5.4zm0 2.9l-2.5 2.5l2.5 2.5l2.5-2.5z",
    "m0 5.6l-5.4-9.6h10.8zm0-3.7l2.3-4.1h-4.6z",
    "m-2.4-4.7l2.4 2.4l2.4-2.4l2.3 2.3l-2.4 2.4l2.4 2.4l-2.3 2.3l-2.4-2.4l-2.4 2.4l-2.3-2.3"
    "l2.4-2.4l-2.4-2.4z",
    "m-1.6-5.4h3.2v10.8h-3.2z",
)


class Style(NamedTuple):
    """How one algorithm looks in every plot of a board: its colour and its shape."""

    colour: int
    shape: int

    @property
    def outline(self) -> str:
        """Path data that draws the shape around the point before it."""
        return _SHAPES[self.shape]


class Estimate(NamedTuple):
    """A mean, its interval, and what it is the mean of.

    Attributes:
        mean: The mean.
        low: Lower end of the interval; None without one.
        high: Upper end of the interval; None without one.
        trials: The numbers themselves, where they are to be seen.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    trials: Sequence[float] = ()


class Series(NamedTuple):
    """What one algorithm shows: points, and a band around them if they have intervals."""

    label: str
    style: Style
    points: Sequence[tuple[float, Estimate]]


@dataclass(frozen=True)
class _Mark:
    label: str  # of its algorithm; "" for what the page does not filter
    colour: int
    text: str  # what a pointer over the mark reads
    band: str = ""
    line: str = ""
    shapes: str = ""
    trials: str = ""  # a line of no length for each, which its round ends make a dot


@dataclass(frozen=True)
class _Plot:
    title: str
    height: float
    frame: tuple[float, float, float, float]  # left, top, right, bottom
    x_label: str = ""
    y_label: str = ""
    x_ticks: Sequence[tuple[float, str]] = ()
    y_ticks: Sequence[tuple[float, str]] = ()
    names: Sequence[tuple[float, str, str]] = ()  # at the left of rows: height, label, its text
    marks: Sequence[_Mark] = ()
    rules: Sequence[str] = field(default_factory=tuple)  # path data of neutral lines

    @property
    def crowded(self) -> bool:
        """Whether a band is shown only of the mark that is looked at."""
        return sum(bool(mark.band) for mark in self.marks) > _MOST_BANDS


class _Axis:
    """Maps values to user units, on a linear or a logarithmic scale, with round ticks."""

    def __init__(
        self, values: Iterable[float], start: float, end: float, *, logarithmic: bool = False
    ) -> None:
        found = [value for value in values if math.isfinite(value)]
        if logarithmic:
            found = [math.log10(value) for value in found if value > 0]
        low, high = (min(found), max(found)) if found else (0.0, 1.0)
        if high - low < 1e-9 * max(1.0, abs(high)):
            low, high = low - 0.5, high + 0.5
        room = 0.04 * (high - low)
        self.low, self.high = low - room, high + room
        self.start, self.end = start, end
        self.logarithmic = logarithmic

    def __call__(self, value: float) -> float:
        place = math.log10(value) if self.logarithmic else value
        share = (place - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Positions and texts of three to seven ticks."""
        step = _round_step((self.high - self.low) / 6)
        if self.logarithmic:
            step = max(1.0, round(step))
        first = math.ceil(self.low / step)
        numbers = [step * i for i in range(first, math.floor(self.high / step) + 1)]
        if self.logarithmic and len(numbers) < 2:
            ends = (10**self.low * 1.05, 10**self.high / 1.05)
            return [(self(value), _short(float(f"{value:.2g}"))) for value in ends]
        values = [10**number for number in numbers] if self.logarithmic else numbers
        return [(self(value), _short(value)) for value in values]


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """Give every label a colour and a shape by sorted name.

    Shapes differ among 14 labels, pairs of both among 56.
    """
    return {
        label: Style(place % COLOURS, place % len(_SHAPES))
        for place, label in enumerate(sorted(set(labels)))
    }


def interval_plot(
    title: str,
    rows: Sequence[tuple[str, Style, Estimate]],
    x_label: str,
    *,
    limits: Limits = UNLIMITED,
) -> Markup:
    """Draw one row an algorithm: its mean, its interval if it has one, and its trials below them.

    Args:
        title: Names the plot for those who hear it.
        rows: Label, style and estimate of each row, from the top down.
        x_label: What the estimates are.
        limits: Between which estimates can lie; intervals are cut there.
    """
    texts = _beside_rows([label for label, *_ in rows])
    left = _left(texts)
    bottom = _MARGIN + _ROW * len(rows)
    axis = _Axis(_extent((e for _, _, e in rows), limits), left, WIDTH - _MARGIN)
    marks, names = [], []
    for place, (label, style, estimate) in enumerate(rows):
        middle = _MARGIN + _ROW * (place + 0.5)
        names.append((middle, label, texts[label]))
        apart = _APART if estimate.trials else 0.0
        y, low, high = middle - apart, estimate.low, estimate.high
        interval = low is not None and high is not None
        line = f"M{axis(low):.1f} {y:.1f}H{axis(high):.1f}" if interval else ""  # type: ignore[arg-type]
        marks.append(
            _Mark(
                label,
                style.colour,
                f"{label}: {_with_interval(estimate)}",
                line=line,
                shapes=f"M{axis(estimate.mean):.1f} {y:.1f}{style.outline}",
                trials=_dots((axis(value), middle + apart) for value in estimate.trials),
            )
        )
    frame = (left, _MARGIN, WIDTH - _MARGIN, bottom)
    return _draw(_Plot(title, bottom + _FOOT, frame, x_label, "", axis.ticks(), (), names, marks))


def line_plot(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    logarithmic: bool = False,
    of_algorithms: bool = True,
    limits: Limits = UNLIMITED,
) -> Markup:
    """Draw one line a series, with a band where its points have intervals.

    Args:
        title: Names the plot for those who hear it.
        series: Points in ascending order of x.
        x_label: What x is.
        y_label: What y is.
        logarithmic: Whether the x axis is; every x is then above 0.
        of_algorithms: Whether lines carry their labels, by which the page filters algorithms.
        limits: Between which y can lie; bands are cut there.
    """
    x, y, frame = _axes(series, limits, logarithmic=logarithmic)
    marks = []
    for label, style, points in series:
        if not points:
            continue
        places = [(x(at), y(estimate.mean)) for at, estimate in points]
        apart = math.ceil(len(places) / _SHAPES_OF_A_LINE)
        ends = [(x(at), e) for at, e in points if e.low is not None and e.high is not None]
        upper = [(at, y(e.high)) for at, e in ends]  # type: ignore[arg-type]
        lower = [(at, y(e.low)) for at, e in reversed(ends)]  # type: ignore[arg-type]
        marks.append(
            _Mark(
                label if of_algorithms else "",
                style.colour,
                f"{label}: {_with_interval(points[-1][1])} at {points[-1][0]:g}",
                band=_path([*upper, *lower]) + "z" if ends else "",
                line=_path(places),
                trials=_dots_of(points, x, y),
                shapes="".join(f"M{a:.1f} {b:.1f}{style.outline}" for a, b in places[::-apart]),
            )
        )
    return _draw(
        _Plot(title, PLOT_HEIGHT, frame, x_label, y_label, x.ticks(), y.ticks(), (), marks)
    )


def scatter_plot(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    limits: Limits = UNLIMITED,
) -> Markup:
    """Draw the points of each algorithm over a logarithmic x axis; x of 0 or below is left out.

    Args:
        title: Names the plot for those who hear it.
        series: Points in any order, with vertical intervals where they have some.
        x_label: What x is.
        y_label: What y is.
        limits: Between which y can lie; intervals are cut there.
    """
    shown = [Series(s.label, s.style, [p for p in s.points if p[0] > 0]) for s in series]
    x, y, frame = _axes(shown, limits, logarithmic=True)
    marks = []
    for label, style, points in shown:
        if not points:
            continue
        places = [(x(at), y(estimate.mean)) for at, estimate in points]
        intervals = [
            f"M{x(at):.1f} {y(e.low):.1f}V{y(e.high):.1f}"
            for at, e in points
            if e.low is not None and e.high is not None
        ]
        many = f"{label}: {len(points)} runs"
        one = f"{label}: {_with_interval(points[0][1])} at {_short(points[0][0])}"
        marks.append(
            _Mark(
                label,
                style.colour,
                one if len(points) == 1 else many,
                line="".join(intervals),
                trials=_dots_of(points, x, y),
                shapes="".join(f"M{a:.1f} {b:.1f}{style.outline}" for a, b in places),
            )
        )
    return _draw(
        _Plot(title, PLOT_HEIGHT, frame, x_label, y_label, x.ticks(), y.ticks(), (), marks)
    )


def rank_plot(
    title: str,
    ranks: Mapping[str, float],
    look: Mapping[str, Style],
    not_different: Sequence[Sequence[str]] = (),
    critical_difference: float | None = None,
) -> Markup:
    """Draw the average rank of each algorithm, best first (Demsar, 2006, JMLR 7, figure 1).

    Deviations: one row an algorithm in place of labels around a line; above them a bar for each
    group that is not told apart.

    Args:
        title: Names the plot for those who hear it.
        ranks: Average rank of each label, 1 the best.
        look: Style of each label.
        not_different: Groups of labels to draw a bar for.
        critical_difference: Of average ranks; None with too few data sets to test.
    """
    ordered = sorted(ranks.items(), key=lambda item: (item[1], item[0]))
    top = _MARGIN + 9.0 * len(not_different)
    texts = _beside_rows(list(ranks))
    left, bottom = _left(texts), top + _ROW * len(ordered)
    axis = _Axis([1.0, float(max(2, len(ordered)))], left, WIDTH - _MARGIN)
    marks, names = [], []
    for place, (label, rank) in enumerate(ordered):
        y = top + _ROW * (place + 0.5)
        shape = f"M{axis(rank):.1f} {y:.1f}{look[label].outline}"
        names.append((y, label, texts[label]))
        marks.append(_Mark(label, look[label].colour, f"{label}: {rank:.2f}", shapes=shape))
    bars = []
    for place, group in enumerate(not_different):
        ends = sorted(axis(ranks[label]) for label in group)
        bars.append(f"M{ends[0] - 3:.1f} {_MARGIN + 9.0 * place:.1f}H{ends[-1] + 3:.1f}")
    said = "" if critical_difference is None else f", critical difference {critical_difference:.2f}"
    x_label = f"average rank (1 is best){said}"
    frame = (left, _MARGIN, WIDTH - _MARGIN, bottom)
    return _draw(
        _Plot(title, bottom + _FOOT, frame, x_label, "", axis.ticks(), (), names, marks, bars)
    )


def _beside_rows(labels: Sequence[str]) -> dict[str, str]:
    """What stands for each label beside its row, at most `_LONGEST` letters.

    What all have in parentheses is left out; of a long one both ends stay, since settings that
    differ come last.
    """
    parts = [label.partition(" (") for label in labels]
    alike = len({rest for _, _, rest in parts}) == 1
    texts = [name for name, _, _ in parts] if alike else labels
    half = _LONGEST // 2
    return {
        label: text if len(text) <= _LONGEST else f"{text[: half - 1]}…{text[-half:]}"
        for label, text in zip(labels, texts, strict=True)
    }


def _left(texts: Mapping[str, str]) -> float:
    """Where the axis starts, right of the texts of rows."""
    return _MARGIN + _LABEL * max(map(len, texts.values()), default=0) + 8


def _axes(
    series: Sequence[Series], limits: Limits, *, logarithmic: bool
) -> tuple[_Axis, _Axis, tuple[float, float, float, float]]:
    frame = (52.0, float(_MARGIN), float(WIDTH - _MARGIN), float(PLOT_HEIGHT - _FOOT))
    points = [point for s in series for point in s.points]
    x = _Axis([at for at, _ in points], frame[0], frame[2], logarithmic=logarithmic)
    return x, _Axis(_extent((e for _, e in points), limits), frame[3], frame[1]), frame


def _extent(estimates: Iterable[Estimate], limits: Limits) -> list[float]:
    """All means, trials and ends of intervals, without the intervals that dwarf what they surround.

    With two trials a t interval is 12.7 standard errors to each side: one such row would press all
    others into a line. An interval beyond three times the spread of means and trials, or beyond
    what can be, is cut at the frame.
    """
    listed = list(estimates)
    means = [value for e in listed for value in (e.mean, *e.trials)]
    ends = [end for e in listed for end in (e.low, e.high) if end is not None]
    if not means:
        return []
    spread = max(max(means) - min(means), 5.0)
    low = max(min(means) - 1.5 * spread, limits[0])
    high = min(max(means) + 1.5 * spread, limits[1])
    return [*means, *(min(max(end, low), high) for end in ends)]


def _draw(plot: _Plot) -> Markup:
    return Markup(render("plot.svg", plot=plot, width=WIDTH))


def _dots_of(points: Sequence[tuple[float, Estimate]], x: _Axis, y: _Axis) -> str:
    return _dots((x(at), y(value)) for at, estimate in points for value in estimate.trials)


def _dots(places: Iterable[tuple[float, float]]) -> str:
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _with_interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:.1f}"
    trials = f"; trials {', '.join(f'{value:.1f}' for value in sorted(estimate.trials))}"
    interval = f"{estimate.mean:.1f}, 95% interval {estimate.low:.1f} to {estimate.high:.1f}"
    return interval + trials * bool(estimate.trials)


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= step * 0.999)


def _short(value: float) -> str:
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.6g}"
    power = math.floor(math.log10(abs(value)))
    digits = f"{value / 10**power:.3g}"
    return f"1e{power}" if digits == "1" else f"{digits}e{power}"
