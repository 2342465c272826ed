"""Published tables to rerun, as files under ``configs/reproductions/``. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import yaml

from dgbench import registry
from dgbench.errors import UsageError
from dgbench.protocols import configs
from leaderboard.records import SelectionRule

Spread = Literal["deviation", "error"]


@dataclass(frozen=True)
class Published:
    """A printed number, in percent, and what it is printed with after the ±."""

    mean: float
    spread: float


@dataclass(frozen=True)
class Row:
    """One setting of a table.

    Attributes:
        name: what the table's reader calls it; ``--row`` takes it.
        config: options of its runs, as a configuration file has them.
        test: published accuracy on the held-out environment, by selection rule.
        train: published mean accuracy on the training environments, by selection rule.
        bound: least and largest mean held-out accuracy that count as reproduced; None where the
            publication leaves settings open or searched for them.
    """

    name: str
    config: dict[str, Any]
    test: dict[SelectionRule, Published]
    train: dict[SelectionRule, Published]
    bound: tuple[float, float] | None


@dataclass(frozen=True)
class Reproduction:
    """A published table.

    Attributes:
        name: the file's name.
        title: what it is.
        sources: addresses of the publication.
        dataset: the data set.
        protocol: the protocol.
        trials: runs of each row.
        spread: what stands after the ±: the runs' standard deviation, or the mean's standard error.
        rows: the settings.
    """

    name: str
    title: str
    sources: tuple[str, ...]
    dataset: str
    protocol: str
    trials: int
    spread: Spread
    rows: tuple[Row, ...]

    def chosen(self, names: list[str]) -> tuple[Row, ...]:
        """The rows of these names, all without any.

        Args:
            names: names of rows.

        Raises:
            UsageError: for a name that no row has.
        """
        known = [row.name for row in self.rows]
        for name in names:
            if name not in known:
                raise UsageError(registry.unknown(f"row of {self.name}", name, known))
        return tuple(row for row in self.rows if not names or row.name in names)


def names() -> list[str]:
    """Names of all published tables there are."""
    return sorted(file.stem for file in (configs() / "reproductions").glob("*.yaml"))


def read(name: str) -> Reproduction:
    """Reads one of them.

    Args:
        name: its name.

    Raises:
        UsageError: when there is none of that name.
    """
    if name not in names():
        raise UsageError(registry.unknown("reproduction", name, names()))
    content = yaml.safe_load((configs() / "reproductions" / f"{name}.yaml").read_text())
    # The leaderboard shows the same figures beside its own: they are written down there.
    from leaderboard import published

    publication = published.read(content["publication"])
    assert publication.trials is not None
    return Reproduction(
        name=name,
        title=content["title"],
        sources=publication.sources,
        dataset=content["dataset"],
        protocol=content["protocol"],
        trials=publication.trials,
        spread=publication.spread,
        rows=tuple(
            Row(
                name=row["name"],
                config=row["config"],
                test=_figures(content, row, "test"),
                train=_figures(content, row, "train"),
                bound=tuple(row["bound"]) if "bound" in row else None,
            )
            for row in content["rows"]
        ),
    )


def _figures(
    content: dict[str, Any], row: dict[str, Any], kind: Literal["test", "train"]
) -> dict[SelectionRule, Published]:
    from leaderboard import published

    found = {}
    for rule in content["selections"]:
        figure = published.figure(
            content["publication"],
            row["published"],
            kind,
            dataset=content["dataset"],
            protocol=content["protocol"],
            rule=rule,
            column=content["environments"].index(row["config"]["test_env"]),
        )
        if figure is not None:
            assert figure.spread is not None
            found[rule] = Published(figure.mean, figure.spread)
    return found
