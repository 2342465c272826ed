"""Named search spaces, as files under ``configs/search_spaces/``. Imports nothing heavy.

A space replaces ranges of the algorithms' signatures and adds options that signatures of other
packages cannot give a range to, such as the batch size. It may extend one of the suite's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dgbench import registry
from dgbench.errors import UsageError
from dgbench.protocols import configs
from dgbench.search_space import SCALES, Choice, Range
from dgbench.yaml_files import read_yaml


@dataclass(frozen=True)
class SearchSpace:
    """What a run's hyper-parameters are drawn from.

    Attributes:
        name: the file's name.
        version: rises with every change of the file.
        ranges: by option, section included, such as ``data.batch_size``.
    """

    name: str
    version: int
    ranges: dict[str, Range | Choice]

    def plain(self) -> dict[str, Any]:
        """As a record keeps it."""
        ranges = {name: found.plain() for name, found in sorted(self.ranges.items())}
        return {"space": self.name, "version": self.version, "ranges": ranges}


def names() -> list[str]:
    """Names of the suite's search spaces."""
    return sorted(file.stem for file in (configs() / "search_spaces").glob("*.yaml"))


def read(name: str) -> SearchSpace:
    """Reads a search space.

    Args:
        name: of the suite, or the path of a YAML file.

    Raises:
        UsageError: when there is none of that name, or the file is none.
    """
    path = configs() / "search_spaces" / f"{name}.yaml"
    if name not in names():
        path = Path(name)
        if path.suffix not in (".yaml", ".yml") or not path.is_file():
            raise UsageError(registry.unknown("search space", name, names()) + " Or name a file.")
    content = read_yaml(path, "The search space")
    try:
        found = SearchSpace(path.stem, int(content["version"]), _ranges(content["ranges"] or {}))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"The search space {path} cannot be read ({reason}). It holds `version: 1` and "
            f"`ranges:` with lines such as `algo.learning_rate: {{LogUniform: [0.001, 0.1]}}`; "
            f"scales are {', '.join([*SCALES, 'Choice'])}."
        ) from error
    extended = content.get("extends")
    if extended is None:
        return found
    if extended not in names():
        raise UsageError(registry.unknown(f"search space to extend in {path}", extended, names()))
    return replace(found, ranges={**read(extended).ranges, **found.ranges})


def _ranges(content: Mapping[str, Mapping[str, list[Any]]]) -> dict[str, Range | Choice]:
    ranges: dict[str, Range | Choice] = {}
    for name, given in content.items():
        ((scale, values),) = given.items()
        if scale == "Choice":
            ranges[name] = Choice(tuple(values))
        else:
            low, high = values
            ranges[name] = SCALES[scale](low, high)
    return ranges
