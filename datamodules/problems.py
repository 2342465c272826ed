"""What is wrong with a data set, found while reading it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal[
    "unreadable image",
    "truncated image",
    "missing class",
    "lone image",
    "count",
    "duplicate",
]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or not as expected.

    Attributes:
        kind: What kind of thing.
        message: What it is and, where something can be done, what to do.
        files: The files concerned, if it is about files.
        spoils: Whether numbers of a benchmark on these data mean something else than they say.
    """

    kind: Kind
    message: str
    files: tuple[Path, ...] = ()
    spoils: bool = False
