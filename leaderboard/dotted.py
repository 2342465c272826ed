"""Nested settings by dotted names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested settings; an empty mapping is one.

    Args:
        settings: Nested mappings.
        prefix: Of every name.

    >>> dotted({"algo": {"name": "irm", "l2": 0.0}, "steps": 501})
    {'algo.name': 'irm', 'algo.l2': 0.0, 'steps': 501}
    """
    leaves: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            leaves |= dotted(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves
