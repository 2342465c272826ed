"""Names of algorithms and data sets, read from the source without importing any of it.

A file of ``dgbench/algorithms`` or ``datamodules`` that defines a public subclass of the package's
base class is an entry, and its file name is its name. Reading signatures as text keeps ``list``,
help and did-you-mean free of torch, whose import takes seconds.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from dgbench.errors import UsageError

Kind = Literal["algorithm", "data set"]
_HOMES: dict[Kind, tuple[str, str]] = {
    "algorithm": ("dgbench.algorithms", "Algorithm"),
    "data set": ("datamodules", "EnvironmentDataModule"),
}
_FLAGS: dict[Kind, str] = {"algorithm": "--algo", "data set": "--dataset"}


@dataclass(frozen=True)
class Parameter:
    """One option of an entry, as its signature states it."""

    name: str
    annotation: str
    default: str


@dataclass(frozen=True)
class Entry:
    """An algorithm or a data set, as its source file states it.

    Attributes:
        name: the file's name, and the name on the command line.
        module: the module to import.
        class_name: the class in it.
        docstring: the class's.
        parameters: its own keyword options.
        constants: its class attributes that are literals.
    """

    name: str
    module: str
    class_name: str
    docstring: str
    parameters: tuple[Parameter, ...]
    constants: dict[str, Any] = field(hash=False)

    @property
    def summary(self) -> str:
        """The docstring's first sentence, on one line."""
        return " ".join(self.docstring.split("\n\n")[0].split())

    @property
    def title(self) -> str:
        """What it is called, from the docstring: the words before the first parenthesis."""
        return self.summary.split("(")[0].strip(" .:")

    @property
    def year(self) -> str:
        """Year of the first publication that the docstring names, or nothing."""
        found = re.search(r"\b(?:19|20)\d\d\b", self.summary)
        return found.group() if found else ""

    @property
    def link(self) -> str:
        """The first address in the docstring, or nothing."""
        found = re.search(r"https?://[^\s,)]+", self.docstring)
        return found.group() if found else ""


@cache
def entries(kind: Kind) -> dict[str, Entry]:
    """All algorithms or data sets of the suite, by name, in alphabetical order.

    Args:
        kind: which of the two.
    """
    package, base = _HOMES[kind]
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (folder,) = spec.submodule_search_locations
    trees = {path.stem: ast.parse(path.read_bytes()) for path in sorted(Path(folder).glob("*.py"))}
    known = {base}
    found: dict[str, Entry] = {}
    while fresh := {
        name: entry
        for name, tree in trees.items()
        if name not in found and (entry := _entry(f"{package}.{name}", tree, known))
    }:
        found |= fresh
        known |= {entry.class_name for entry in fresh.values()}
    return dict(sorted(found.items()))


def load(kind: Kind, name: str) -> type:
    """Imports the class behind a name.

    Args:
        kind: algorithm or data set.
        name: a name of the suite, or ``package.module.Class`` for one from elsewhere.

    Raises:
        UsageError: when there is no such thing, with the names that come close and all others, or
            when its numbers would not be its own.
    """
    if "." in name:
        return _load_dotted(kind, name)
    known = require(kind, name)
    loaded: type = getattr(importlib.import_module(known.module), known.class_name)
    return loaded


def require(kind: Kind, name: str) -> Entry:
    """The entry of a name of the suite; importing nothing.

    Raises:
        UsageError: when there is none, with the names that come close and all others.
    """
    known = entries(kind)
    if name not in known:
        dotted = f"{_FLAGS[kind]} my_package.MyClass takes one from elsewhere."
        raise UsageError(unknown(kind, name, list(known)) + f" {dotted}")
    return known[name]


def unknown(kind: str, name: str, known: list[str]) -> str:
    """One sentence or two: there is no such thing; what was probably meant; what there is.

    >>> unknown("algorithm", "imr", ["erm", "irm"])
    "There is no algorithm 'imr'. Did you mean irm? There are: erm, irm."
    """
    close = get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f" Did you mean {' or '.join(close[:1] if len(close) == 1 else close)}?" if close else ""
    return f"There is no {kind} '{name}'.{hint} There are: {', '.join(known)}."


def _load_dotted(kind: Kind, name: str) -> type:
    module, _, class_name = name.rpartition(".")
    here = os.getcwd()
    if not {"", here} & set(sys.path):
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(
            f"{_FLAGS[kind]} {name} could not be imported: {error}. It names a class as "
            "package.module.Class, and its package must be installed or in the current folder."
        ) from error
    package, base = _HOMES[kind]
    expected = getattr(importlib.import_module(f"{package}.base"), base)
    if not (isinstance(found, type) and issubclass(found, expected)):
        raise UsageError(f"{_FLAGS[kind]} {name} is not a subclass of {package}.base.{base}.")
    if kind == "algorithm":
        _refuse_forward(name, found, expected)
    return found


def _refuse_forward(name: str, found: Any, base: Any) -> None:
    """Refuses an algorithm that predicts with more than its network."""
    if found.forward is not base.forward:
        raise UsageError(
            f"--algo {name} has a forward of its own, but what is measured, saved and loaded is an "
            "algorithm's network alone: its numbers would be those of another method. Compute in "
            "objective what training needs, and put what predicts into self.network, a "
            "dgbench.networks.Network."
        )


def _entry(module: str, tree: ast.Module, known: set[str]) -> Entry | None:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
            if bases & known:
                return Entry(
                    name=module.rpartition(".")[2],
                    module=module,
                    class_name=node.name,
                    docstring=ast.get_docstring(node) or "",
                    parameters=tuple(_parameters(node)),
                    constants=dict(_constants(node)),
                )
    return None


def _parameters(node: ast.ClassDef) -> Iterator[Parameter]:
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            for argument, default in zip(
                method.args.kwonlyargs, method.args.kw_defaults, strict=True
            ):
                annotation = ast.unparse(argument.annotation) if argument.annotation else ""
                yield Parameter(argument.arg, annotation, ast.unparse(default) if default else "")


def _constants(node: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    for statement in node.body:
        target = getattr(statement, "target", None) or next(
            iter(getattr(statement, "targets", [])), None
        )
        value = getattr(statement, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.expr):
            try:
                yield target.id, ast.literal_eval(value)
            except ValueError:
                continue
