"""Which code a file from elsewhere may name: none that the user does not name as well.

A configuration that the user wrote (``--config``, a sweep's file, the arguments of ``dgbench.fit``)
may name classes of any package. A checkpoint, a run folder and a packed file may come from anybody,
and to import what one names is to run it. So their names are looked at here, before any import.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dgbench.arguments import as_flags, paired
from dgbench.errors import UsageError

_DOTTED = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")
# What a configuration calls the classes that are imported by its names, and their flags.
_CLASSES = {"algo": "--algo", "data": "--dataset"}


def refuse_unnamed_code(config: Mapping[str, Any], flags: Sequence[str], source: str) -> None:
    """Refuses a configuration from elsewhere that names code which the user has not named.

    Args:
        config: nested options in their long forms, as a record gives them, or a part of it.
        flags: what the user typed, in long forms: one that says the same as the configuration
            allows it. A class that is imported already needs none.
        source: where the configuration comes from, for the message.

    Raises:
        UsageError: with the flags to add; nothing has been imported.
    """
    given = paired(flags)
    lacking = [
        (section, name, flag)
        for section in _CLASSES
        if section in config
        for name in _naming_code(config[section])
        for flag in as_flags({section: {name: config[section][name]}})
        if flag not in given
    ]
    if lacking:
        repeated = (
            [_CLASSES[section], config[section][name]] if name == "name" else [flag]
            for section, name, flag in lacking
        )
        raise UsageError(
            f"{source} names code that is no part of dgbench, and importing it would run it. If "
            "you know this code and trust it, say so by repeating the name: "
            f"{shlex.join(part for flag in repeated for part in flag)}"
        )


def _naming_code(options: Mapping[str, Any]) -> Iterator[str]:
    """The options of a class that name code, its own name among them; the suite's have none."""
    if "." in options["name"]:
        for name, value in options.items():
            if not _is_loaded(value) if name == "name" else _holds_code(value):
                yield name


def _is_loaded(name: str) -> bool:
    module, _, class_name = name.rpartition(".")
    return class_name in getattr(sys.modules.get(module), "__dict__", {})


def _holds_code(value: Any) -> bool:
    """Whether jsonargparse would import something, were the option a class or a function."""
    if isinstance(value, Mapping):
        return "class_path" in value or any(map(_holds_code, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_code, value))
    return isinstance(value, str) and _DOTTED.fullmatch(value) is not None
