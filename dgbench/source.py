"""Code that is not the suite's, as a record knows it: by what is in its files.

The benchmark version stands for the suite's own code. A class from elsewhere stands for the files
of its package, a module by itself for its own; what these import from other packages is not seen.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from dgbench import registry
from dgbench.contents import hashed
from dgbench.errors import UsageError
from leaderboard import records
from leaderboard.records import commit_text

_KINDS: Mapping[str, registry.Kind] = {"algo": "algorithm", "data": "data set"}
_SUITE = frozenset({"dgbench", "datamodules", "leaderboard"})
# These mark a folder of installed packages, which may lie beside somebody's own code.
_OF_AN_ENVIRONMENT = frozenset({"pyvenv.cfg", "conda-meta"})

Names = Mapping[str, str]


class Place(NamedTuple):
    """Where the code of a class lies.

    Attributes:
        file: of the class itself.
        folder: of its package, or that of the file.
        pattern: what of the folder is its code, as git names files.
    """

    file: Path
    folder: Path
    pattern: str


def hashes(names: Names) -> dict[str, str]:
    """Hashes of the code behind names, of classes that are not the suite's.

    Args:
        names: of the algorithm as ``algo`` and of the data set as ``data``.

    Returns:
        ``sha256:`` and 16 digits, by the same keys; nothing for classes of the suite.

    Raises:
        UsageError: for classes without a file, and for those whose files are no longer what this
            process imported.
    """
    found = {}
    for section, name in names.items():
        kind = registry.load(_KINDS[section], name)
        if not _modules(kind):
            continue
        found[section] = _when_imported(kind)
        if _now(kind) != found[section]:
            raise UsageError(
                f"The files of {name} have changed since this process imported it, which would "
                "train what they were. Start a new one; in a notebook, restart the kernel."
            )
    return found


def require_planned(names: Names, source: Mapping[str, str]) -> None:
    """Refuses to train with other code than a run was planned with.

    Args:
        names: as of :func:`hashes`.
        source: what that returned when the run was planned, in another process perhaps.

    Raises:
        UsageError: when this process has imported something else.
    """
    for section, planned in source.items():
        if _when_imported(registry.load(_KINDS[section], names[section])) != planned:
            raise UsageError(
                f"The files of {names[section]} have changed since this run was planned. The same "
                "command plans it anew, as they are now."
            )


def differences(recorded: records.RunJson, deciding: Mapping[str, Any]) -> Iterator[str]:
    """What has become of the code of a recorded run, one clause for each class.

    Args:
        recorded: content of its ``run.json``.
        deciding: settings of the run that is to go on with it or to repeat it.
    """
    settings: Mapping[str, Any] = recorded["settings"]
    were, states = settings.get("source", {}), recorded["provenance"].get("source", {})
    for section, now in deciding.get("source", {}).items():
        name, then = settings[section]["name"], were.get(section, "not recorded")
        if name == deciding[section]["name"] and then != now:
            state = states.get(section, {"commit": None, "dirty": None})
            commit = f" (commit {commit_text(state, 12)})" if state["commit"] else ""
            yield f"the code of {name} was {then}{commit} and is {now}"


def places(names: Names) -> dict[str, Place]:
    """Where code that is not the suite's lies.

    Args:
        names: as of :func:`hashes`.

    Returns:
        The places, by the same keys.
    """
    found = {}
    for section, name in names.items():
        kind = registry.load(_KINDS[section], name)
        if not _modules(kind):
            continue
        file = Path(str(sys.modules[kind.__module__].__file__))
        package, folders = _package(kind.__module__)
        inside = [folder for folder in folders if file.is_relative_to(folder)]
        found[section] = (
            Place(file, inside[0], "*.py")
            if package and inside
            else Place(file, file.parent, f":(literal){file.name}")
        )
    return found


@cache
def _when_imported(kind: type) -> str:
    """Hash of a class's files when it was first asked for, which is when it has been imported."""
    return _now(kind)


def _now(kind: type) -> str:
    """Hash of a class's files."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    files: dict[str, Path] = {}
    for module in _modules(kind):
        own = _files(module)
        if not own:
            raise UsageError(
                f"{name} has no file that would tell it from a later version of itself, as a class "
                "of a notebook has none. Put it into one (in a notebook by a cell that begins with "
                f"%%writefile my_package.py), and name it my_package.{kind.__name__}."
            )
        files |= own
    try:
        contents = {place: hashed(file.read_bytes()) for place, file in files.items()}
    except OSError as error:
        raise UsageError(
            f"The code of {name} cannot be read, by which its record is named: {error}. Give "
            "access to it, or move it out of the package."
        ) from error
    return hashed(json.dumps(contents, sort_keys=True).encode())


def _modules(kind: type) -> list[str]:
    """The modules of a class and of those that it is made of, up to what the suite stands on."""
    ours = next(base for base in kind.__mro__ if _top(base) in _SUITE)
    known = {_top(base) for base in ours.__mro__} | _SUITE | sys.stdlib_module_names
    return [base.__module__ for base in kind.__mro__ if _top(base) not in known]


def _top(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _files(module: str) -> dict[str, Path]:
    """Files of source code by their names in the package of a module; its own if it has none."""
    package, folders = _package(module)
    if package:
        return {
            f"{package}/{path.relative_to(folder).as_posix()}": path
            for folder in folders
            for path in _below(folder)
        }
    file = Path(getattr(sys.modules.get(module), "__file__", None) or "")
    return {file.name: file} if file.is_file() else {}


def _package(module: str) -> tuple[str, list[Path]]:
    """Name and folders of the outermost package that a module belongs to; empty if to none."""
    inner = getattr(sys.modules.get(module), "__package__", None) or module
    name = inner.partition(".")[0]
    folders = getattr(sys.modules.get(name), "__path__", None)
    return (name, [Path(folder) for folder in folders]) if folders else ("", [])


def _below(root: Path) -> Iterator[Path]:
    """The files of source code in a folder, those of environments and hidden folders left out."""
    for folder, inner, files in os.walk(root):
        if not _OF_AN_ENVIRONMENT.isdisjoint([*inner, *files]):
            inner.clear()
            continue
        inner[:] = [name for name in inner if not name.startswith(".")]
        yield from (Path(folder, name) for name in files if name.endswith(".py"))
