"""Protocols: named, complete settings of a data set, as files under ``configs/``.

A protocol's folder, ``configs/<data set>/<protocol>``, holds ``protocol.yaml`` and a file for each
algorithm that has settings of its own there. What protocols of several data sets have in common
stands once, in a folder that their ``protocol.yaml`` names by ``extends``, as this one may another.

What is needed here is names and text, read without importing anything heavy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgbench import registry
from dgbench.errors import UsageError
from dgbench.yaml_files import read_yaml

DEFAULT_DATASET = "colored_mnist"
# Of a data set that has several, the first of these is used: both need no weights and minutes.
DEFAULT_PROTOCOLS = ("digits", "small")
CUSTOM_PROTOCOL = "custom"


def configs() -> Path:
    """The folder of protocols: inside an installed package, beside it in a checkout."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.exists() else Path(__file__).parent.parent / "configs"


def protocols(dataset: str) -> list[str]:
    """Names of a data set's protocols; none for a data set from elsewhere.

    Args:
        dataset: the data set's name.
    """
    return sorted(file.parent.name for file in (configs() / dataset).glob("*/protocol.yaml"))


def default_protocol(dataset: str) -> str:
    """The protocol of a run that names none.

    Args:
        dataset: the data set's name.
    """
    known = protocols(dataset)
    return next((name for name in DEFAULT_PROTOCOLS if name in known), CUSTOM_PROTOCOL)


@dataclass(frozen=True)
class Names:
    """What the first phase reads: which algorithm, data set and protocol."""

    algo: str | None
    dataset: str
    protocol: str

    def require(self) -> None:
        """Refuses unknown names, importing nothing.

        Raises:
            UsageError: with the names there are.
        """
        if self.algo is None:
            known = ", ".join(registry.entries("algorithm"))
            raise UsageError(f"Name an algorithm with --algo. There are: {known}.")
        if "." not in self.algo:
            registry.require("algorithm", self.algo)
        self.require_data()

    def require_data(self) -> None:
        """Refuses unknown names of data set and protocol, importing nothing.

        Raises:
            UsageError: with the names there are.
        """
        if "." not in self.dataset:
            registry.require("data set", self.dataset)
        known_protocols = protocols(self.dataset)
        if known_protocols and self.protocol not in known_protocols:
            raise UsageError(
                registry.unknown(f"protocol of {self.dataset}", self.protocol, known_protocols)
            )

    def layers(self) -> dict[Path, dict[str, Any]]:
        """The suite's configurations for these names, by file, in order of application.

        First those of the protocol, then those of the algorithm; of each the common ones before
        the data set's own.
        """
        file = configs() / self.dataset / self.protocol / "protocol.yaml"
        protocol = _with_common(file) if file.exists() else {}
        beside = [file.with_name(f"{self.algo}.yaml") for file in protocol]
        return {**protocol, **{file: read_yaml(file) for file in beside if file.exists()}}


def _with_common(file: Path) -> dict[Path, dict[str, Any]]:
    """A protocol's file and those that it extends, which come first, with their contents."""
    content = read_yaml(file)
    extended = content.pop("extends", None)
    common = {} if extended is None else _with_common(configs() / extended / file.name)
    return {**common, file: content}


def names_of(files: Sequence[Mapping[str, Any]], arguments: Sequence[str]) -> Names:
    """Finds which algorithm, data set and protocol a run names.

    Args:
        files: contents of configuration files, later ones winning.
        arguments: flags in their long forms, which win over files.
    """
    found: dict[str, str] = {}
    for content in files:
        for key, flag in (("algo", "--algo.name"), ("data", "--data.name")):
            section = content.get(key)
            if isinstance(section, Mapping) and "name" in section:
                found[flag] = str(section["name"])
        if "protocol" in content:
            found["--protocol"] = str(content["protocol"])
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if equals and flag in ("--algo.name", "--data.name", "--protocol"):
            found[flag] = value
    dataset = found.get("--data.name", DEFAULT_DATASET)
    protocol = found.get("--protocol", default_protocol(dataset))
    return Names(found.get("--algo.name"), dataset, protocol)
