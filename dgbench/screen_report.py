"""What a screen shows and writes: one table, one JSON file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dgbench.errors import UsageError
from dgbench.screen import ICP, Line, Plan, Published, Result

FLAG = "(!)"


def show(console: Console, plan: Plan, lines: Sequence[Line]) -> None:
    """Prints one row an example; under ours what is published, and how far ours is from it.

    Args:
        console: where to print.
        plan: what was done.
        lines: what came out.
    """
    names = [name for name in lines[0].results if name != ICP]
    table = Table("example", "error", *names, ICP, title=f"{plan.algo} where the answer is known")
    for line in lines:
        cells = [_cell(line, name) for name in names]
        outcomes = Counter(line.icp).most_common()
        said = "\n".join(
            f"{outcome.replace('_', ' ')} {n}/{len(line.icp)}" for outcome, n in outcomes
        )
        if ICP in line.results:
            said = f"{_cell(line, ICP)}\n{said}"
        table.add_row(line.example, line.error, *cells, said)
    console.print(table)
    published = {printed.how for line in lines for printed in line.published.values()}
    console.print(
        f"Mean ± deviation over {plan.data_seeds} data seeds, {plan.environments} environments, "
        f"{plan.samples} rows each, {plan.steps} steps, the best of {plan.draws} settings by "
        f"validation error; (published: {'; or '.join(sorted(published)) or 'nothing'}) and the "
        f"difference, {FLAG} beyond two of its standard errors.",
        highlight=False,
    )


def write(plan: Plan, lines: Sequence[Line], folder: Path) -> Path:
    """Writes ``screen.json``: every error, chosen setting and outcome.

    Args:
        plan: what was done.
        lines: what came out.
        folder: where to; made where it is missing.

    Raises:
        UsageError: where the folder cannot be written.
    """
    document = {
        "plan": asdict(plan),
        "examples": {
            line.example: {
                "results": {
                    name: {
                        "mean": result.mean,
                        "deviation": result.deviation,
                        "draw": result.draw,
                        "options": dict(result.options),
                        "errors": result.errors.tolist(),
                    }
                    for name, result in line.results.items()
                },
                "icp": list(line.icp),
                "published": {
                    name: _compared(printed, line.results.get(name))
                    for name, printed in line.published.items()
                },
            }
            for line in lines
        },
    }
    path = folder / "screen.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"The folder {folder} cannot be written: {error}.") from None
    return path


def _cell(line: Line, name: str) -> str:
    result = line.results[name]
    digits = {"squared": 2, "share": 3, "weights": 4}[line.error]
    ours = f"{result.mean:.{digits}f} ± {result.deviation:.{digits}f}"
    if name not in line.published:
        return ours
    printed = line.published[name]
    difference, flagged = printed.difference(result)
    return (
        f"{ours}\n({printed.mean:.{digits}f} ± {printed.deviation:.{digits}f})\n"
        f"{difference:+.{digits}f}{f' {FLAG}' if flagged else ''}"
    )


def _compared(printed: Published, result: Result | None) -> dict[str, Any]:
    """What is published, and where we trained the same how far ours is from it."""
    difference, flagged = (None, None) if result is None else printed.difference(result)
    return {**asdict(printed), "difference": difference, "flagged": flagged}
