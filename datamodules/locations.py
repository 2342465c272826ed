"""Where files of data sets are looked for, and where what is made of them is kept."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return the folder in which the suite keeps files between runs."""
    return Path.home() / ".cache" / "dgbench"


def places(root: str | None) -> list[Path]:
    """Say where to look for a data set, in order.

    Args:
        root: The folder that was named; None looks in that of the environment variable
            DGBENCH_DATA, then in ``~/.cache/dgbench``.
    """
    if root is not None:
        return [Path(root).expanduser()]
    named = os.environ.get("DGBENCH_DATA")
    return [*([Path(named)] if named else []), home()]
