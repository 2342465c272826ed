"""Invariant causal prediction of a table: what the command reads, shows and writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dgbench import registry
from dgbench.errors import UsageError
from dgbench.icp import ICPResult
from dgbench.icp.result import Interval, write_set

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

_SHOWN = 10
_DRAWN_SETS = 30
_SMALLEST_DRAWN = 1e-16


class Columns(NamedTuple):
    """The columns of a table that one analysis reads.

    Attributes:
        inputs: ``(n, p)``.
        target: ``(n,)``.
        environment: ``(n,)``.
        variables: ``p`` names.
        groups: columns that are one variable together, by its name; None where each is one.
        causes: the target's direct causes, where the data are made so that they are known.
    """

    inputs: npt.NDArray[np.float64]
    target: npt.NDArray[Any]
    environment: npt.NDArray[Any]
    variables: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]] | None = None
    causes: tuple[str, ...] | None = None


def read(
    path: Path, target: str, environment_column: str, variables: Sequence[str] | None
) -> Columns:
    """Reads a CSV file with a header line.

    Args:
        path: the file.
        target: the column to explain.
        environment_column: the column that names each row's environment.
        variables: the columns that may be causes; None for all others.

    Raises:
        UsageError: for files and columns that cannot be used.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"The table {path} cannot be read: {reason}.") from None
    if table.empty:
        raise UsageError(f"The table {path} has a header line and no rows below it.")
    names = [str(name) for name in table.columns]
    chosen = [name for name in names if name not in (target, environment_column)]
    chosen = chosen if variables is None else list(variables)
    for name in (target, environment_column, *chosen):
        if name not in names:
            raise UsageError(registry.unknown("column", name, names))
    if len({target, environment_column, *chosen}) < len(chosen) + 2:
        raise UsageError("Target, environment column and variables must be different columns.")
    written = [name for name in chosen if table[name].dtype.kind not in "iufb"]
    if written:
        raise UsageError(
            f"These columns are not numbers: {', '.join(written)}. Encode them as 0/1 columns, or "
            "name the variables to use with --variables."
        )
    _refuse_holes(table[[target, environment_column, *chosen]])
    return Columns(
        table[chosen].to_numpy(dtype=np.float64),
        table[target].to_numpy(),
        table[environment_column].to_numpy(),
        tuple(chosen),
    )


def _refuse_holes(table: DataFrame) -> None:
    holes = table.isna() | table.isin([np.inf, -np.inf])
    found = [
        f"{name} ({count} rows, the first is row {holes[name].argmax() + 1} below the header)"
        for name, count in holes.sum().items()
        if count
    ]
    if found:
        raise UsageError(
            f"Columns with empty or infinite cells: {', '.join(found)}. Drop those rows or impute "
            "them: both can break invariance, so the choice is yours."
        )


def show(console: Console, result: ICPResult, target: str, columns: Columns) -> None:
    """Prints the outcome in words, the variables, the accepted sets and the notes.

    Args:
        console: where to print.
        result: what was found.
        target: name of the target.
        columns: what it was found in.
    """
    names, counts = np.unique(columns.environment.astype(str), return_counts=True)
    sizes = ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))
    for line in (
        f"Invariant causal prediction of {target}: {len(columns.target)} rows in {len(names)} "
        f"environments ({sizes}); {len(result.set_p_values)} sets of variables by the test "
        f"{result.test}, level {result.alpha:g}.",
        "",
        result.describe(),
        "",
    ):
        console.print(escape(line), highlight=False)
    console.print(_variables(result))
    if result.intervals is None and result.accepted_sets:
        console.print("No intervals: the test fits no coefficient of its own to each variable.")
    console.print(escape(_accepted(result)), highlight=False)
    if result.screened_out:
        console.print(escape(f"Screened out: {_listed(result.screened_out)}."), highlight=False)
    if columns.causes is not None:
        truth = write_set(columns.causes) if columns.causes else "none of the variables"
        console.print(escape(f"Direct causes by construction: {truth}."), highlight=False)
    for note in result.notes:
        console.print(escape(f"Note: {note}"), highlight=False)


def write(result: ICPResult, target: str, folder: Path) -> list[Path]:
    """Writes ``icp.json``, and ``icp.png`` where matplotlib is installed.

    Args:
        result: what was found.
        target: name of the target.
        folder: where to; made where it is missing.

    Returns:
        The files that were written.

    Raises:
        UsageError: where the folder cannot be written.
    """
    document = {"target": target, **result.to_dict()}
    path, picture = folder / "icp.json", folder / "icp.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
        return [path, picture] if _draw(result, target, picture) else [path]
    except OSError as error:
        raise UsageError(f"The folder {folder} cannot be written: {error}.") from None


def _variables(result: ICPResult) -> Table:
    table = Table("variable")
    level = "" if result.interval_level is None else f"\n{100 * result.interval_level:g} %"
    table.add_column("p-value", justify="right")
    table.add_column(f"interval{level}", justify="right")
    table.add_column("direct cause")
    for name in result.variables:
        identified = name in (result.estimate or ())
        table.add_row(
            escape(name),
            "-" if result.p_values is None else _p_value(result.p_values[name]),
            "-" if result.intervals is None else _interval(result.intervals[name]),
            "yes" if identified else "cannot tell",
            style="bold" if identified else None,
        )
    return table


def _accepted(result: ICPResult) -> str:
    shown = {s: f"{write_set(s)} (p = {_p_value(p)})" for s, p in result.set_p_values.items()}
    if not result.accepted_sets:
        closest = max(shown, key=result.set_p_values.__getitem__)
        return f"No set is accepted; the closest is {shown[closest]}."
    return f"Accepted sets: {_listed([shown[s] for s in result.accepted_sets])}."


def _listed(parts: Sequence[str]) -> str:
    more = f", and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return ", ".join(parts[:_SHOWN]) + more


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}" if value else "0"


def _interval(bounds: Interval) -> str:
    return "0" if bounds == (0, 0) else f"{bounds[0]:#.3g} to {bounds[1]:#.3g}"


def _draw(result: ICPResult, target: str, path: Path) -> bool:
    """Draws intervals and p-values; whether it could."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    drawn = sorted(result.set_p_values, key=lambda s: -result.set_p_values[s])[:_DRAWN_SETS]
    rows = max(len(drawn), len(result.variables), 4)
    figure = Figure(figsize=(10, 1.3 + 0.24 * rows), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_intervals(left, result, target)
    _draw_sets(right, result, drawn)
    figure.suptitle(f"{target}: {result.outcome.replace('_', ' ')}")
    figure.savefig(path, dpi=110)
    return True


def _draw_intervals(axes: Axes, result: ICPResult, target: str) -> None:
    if result.intervals is None:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no intervals", ha="center", va="center", transform=axes.transAxes)
        return
    finite = [b for bounds in result.intervals.values() for b in bounds if np.isfinite(b)]
    edge = 1.2 * max((abs(bound) for bound in finite), default=1.0) or 1.0
    for height, (name, bounds) in enumerate(result.intervals.items()):
        low, high = np.clip(bounds, -edge, edge)
        colour = "C0" if name in (result.estimate or ()) else "0.6"
        axes.plot([low, high], [height, height], color=colour, linewidth=4, solid_capstyle="butt")
        if low == high:
            axes.plot(low, height, color=colour, marker="o", zorder=3)
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set_yticks(range(len(result.variables)), result.variables)
    axes.invert_yaxis()
    axes.set_xlabel(f"coefficient for {target}, {100 * (result.interval_level or 0):g} %")


def _draw_sets(axes: Axes, result: ICPResult, drawn: Sequence[tuple[str, ...]]) -> None:
    p_values = [max(result.set_p_values[names], _SMALLEST_DRAWN) for names in drawn]
    colours = ["C0" if p_value > result.alpha else "0.75" for p_value in p_values]
    axes.barh(range(len(drawn)), p_values, color=colours)
    axes.set_xscale("log")
    axes.set_xlim(_SMALLEST_DRAWN, 1.5)
    axes.axvline(result.alpha, color="C3", linewidth=1)
    axes.set_yticks(range(len(drawn)), [write_set(names) for names in drawn], fontsize=8)
    axes.invert_yaxis()
    more = f", the {len(drawn)} largest" if len(drawn) < len(result.set_p_values) else ""
    axes.set_xlabel(f"p-value of each set{more};\naccepted right of {result.alpha:g}")
