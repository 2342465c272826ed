"""What there is: tables of algorithms, data sets and protocols, read without importing them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dgbench import registry
from dgbench.protocols import configs, protocols

Rows = Iterator[tuple[str, ...]]

ALGORITHM_COLUMNS = ("algorithm", "what", "year", "paper", "hyper-parameters (defaults)")
DATASET_COLUMNS = (
    "data set",
    "what",
    "environments",
    "classes",
    "contents",
    "options (defaults)",
    "protocols",
)
PROTOCOL_COLUMNS = ("data set", "protocol", "what")


def algorithm_rows() -> Rows:
    """One row an algorithm: name, what it is, year, paper, options with their defaults."""
    for entry in registry.entries("algorithm").values():
        yield entry.name, entry.title, entry.year, entry.link, _options(entry)


def dataset_rows() -> Rows:
    """One row a data set: name, what it is, environments, classes, contents, options, protocols."""
    for entry in registry.entries("data set").values():
        environments = entry.constants.get("environment_names", ())
        classes = entry.constants.get("class_names", ())
        yield (
            entry.name,
            f"{entry.title} ({entry.link})" if entry.link else entry.title,
            ", ".join(environments),
            str(len(classes) or entry.constants.get("class_count") or ""),
            entry.constants.get("contents", ""),
            _options(entry),
            ", ".join(protocols(entry.name)),
        )


def protocol_rows() -> Rows:
    """One row a protocol: data set, name, what its file says it is."""
    for name in registry.entries("data set"):
        for protocol in protocols(name):
            lines = (configs() / name / protocol / "protocol.yaml").read_text().splitlines()
            comments = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
            yield name, protocol, " ".join(comments)


def show(console: Console) -> None:
    """Prints all three tables.

    Args:
        console: where to print.
    """
    for columns, rows in (
        (ALGORITHM_COLUMNS, algorithm_rows()),
        (DATASET_COLUMNS, dataset_rows()),
        (PROTOCOL_COLUMNS, protocol_rows()),
    ):
        table = Table(*columns)
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        console.print(table)


def markdown(columns: Sequence[str], rows: Rows) -> str:
    """Writes one of the tables as the README shows it.

    Args:
        columns: headings.
        rows: cells.
    """
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines
    )


def _options(entry: registry.Entry) -> str:
    return ", ".join(f"{option.name}={option.default}" for option in entry.parameters)
