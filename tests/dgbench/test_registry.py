from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import datamodules
import dgbench.algorithms
from datamodules.base import EnvironmentDataModule
from dgbench import registry
from dgbench.algorithms.base import Algorithm
from dgbench.algorithms.erm import ERM
from dgbench.errors import UsageError
from dgbench.registry import Kind
from dgbench.screen import algorithm_options
from dgbench.settings import resolve
from dgbench.stacked.model import StackedAlgorithm
from dgbench.stacked.plan import own_obstacle
from tests.synthetic import small_network

HOMES: dict[Kind, tuple[Any, type]] = {
    "algorithm": (dgbench.algorithms, Algorithm),
    "data set": (datamodules, EnvironmentDataModule),
}
ENTRIES = [(kind, name) for kind in HOMES for name in registry.entries(kind)]


def imported_classes(kind: Kind) -> dict[str, type]:
    """Public concrete subclasses by the name of their file, found by importing everything."""
    package, base = HOMES[kind]
    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for value in vars(module).values():
            if not inspect.isclass(value) or value.__module__ != module.__name__:
                continue
            if issubclass(value, base) and value is not base and value.__name__[0] != "_":
                found[info.name] = value
    return found


@pytest.mark.parametrize("kind", HOMES)
def test_names_are_those_of_all_files_with_a_subclass(kind):
    assert list(registry.entries(kind)) == sorted(imported_classes(kind))
    assert registry.entries(kind)


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_load_gives_the_files_class(kind, name):
    assert registry.load(kind, name) is imported_classes(kind)[name]


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_what_is_read_from_the_source_is_what_importing_gives(kind, name):
    entry = registry.entries(kind)[name]
    imported = registry.load(kind, name)
    assert (entry.name, entry.module, entry.class_name) == (
        name,
        imported.__module__,
        imported.__name__,
    )
    assert entry.docstring == inspect.getdoc(imported)
    for constant, value in entry.constants.items():
        assert getattr(imported, constant) == value


def own_options(imported: type) -> list[inspect.Parameter]:
    if "__init__" not in vars(imported):
        return []
    parameters = inspect.signature(vars(imported)["__init__"]).parameters.values()
    return [option for option in parameters if option.kind is option.KEYWORD_ONLY]


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_signatures_and_defaults_are_the_imported_ones(kind, name):
    read = registry.entries(kind)[name].parameters
    expected = own_options(registry.load(kind, name))
    assert [option.name for option in read] == [option.name for option in expected]
    for ours, theirs in zip(read, expected, strict=True):
        assert ours.annotation == ast.unparse(ast.parse(theirs.annotation, mode="eval"))
        if theirs.default is inspect.Parameter.empty:
            assert ours.default == ""
        else:
            assert ast.literal_eval(ours.default) == theirs.default


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_every_entry_says_what_it_is_and_when_it_was_published(kind, name):
    entry = registry.entries(kind)[name]
    assert entry.title
    assert "of your own" in entry.title or 1900 < int(entry.year) < 2100
    assert "\n" not in entry.summary


def test_a_link_ends_before_the_punctuation():
    assert registry.entries("algorithm")["irm"].link == "https://arxiv.org/abs/1907.02893"


def test_reading_names_imports_nothing_heavy():
    code = (
        "import sys; from dgbench import registry; "
        "registry.entries('algorithm'); registry.entries('data set'); "
        "print([m for m in ('torch', 'numpy', 'pytorch_lightning') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


# Names that do not exist


@pytest.mark.parametrize("function", [registry.require, registry.load])
def test_a_slip_is_met_with_what_was_meant_and_what_there_is(function):
    with pytest.raises(UsageError) as caught:
        function("algorithm", "imr")
    message = str(caught.value)
    assert message.startswith("There is no algorithm 'imr'. Did you mean irm")
    assert all(name in message for name in registry.entries("algorithm"))
    assert "--algo my_package.MyClass" in message


def test_a_data_set_is_asked_for_by_its_own_flag():
    with pytest.raises(UsageError, match=r"Did you mean colored_mnist.*--dataset my_package"):
        registry.require("data set", "coloured_mnist")


def test_something_else_altogether_gets_no_suggestion():
    with pytest.raises(UsageError, match=r"no algorithm 'zzzzzz'\. There are: ") as caught:
        registry.require("algorithm", "zzzzzz")
    assert "Did you mean" not in str(caught.value)


# Classes from elsewhere

SOURCE = '''
from dgbench.algorithms.erm import ERM

class Mine(ERM):
    """Not published."""

class Doubting(ERM):
    def forward(self, inputs):
        return 0.5 * self.network(inputs)

class Mixin:
    def forward(self, inputs):
        return self.network(inputs)

class Mixed(Mixin, ERM):
    pass

class Other:
    pass

def function():
    pass
'''


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    package = tmp_path / "my_algorithms"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "ideas.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("my_algorithms", "my_algorithms.ideas"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return "my_algorithms.ideas"


def test_a_class_of_another_package_is_loaded(elsewhere):
    loaded = registry.load("algorithm", f"{elsewhere}.Mine")
    assert loaded.__module__ == elsewhere
    assert issubclass(loaded, Algorithm)


@pytest.mark.parametrize("name", ["Other", "function"])
def test_what_is_no_subclass_is_refused(elsewhere, name):
    expected = rf"--algo {elsewhere}\.{name} is not a subclass of dgbench\.algorithms\.base\.Algo"
    with pytest.raises(UsageError, match=expected):
        registry.load("algorithm", f"{elsewhere}.{name}")


def test_an_algorithm_is_no_data_set(elsewhere):
    with pytest.raises(UsageError, match=r"--dataset .* is not a subclass of datamodules\.base\."):
        registry.load("data set", f"{elsewhere}.Mine")


@pytest.mark.parametrize("name", ["my_algorithms.ideas.Missing", "no_such_package.Mine"])
def test_what_cannot_be_imported_is_refused_with_the_reason(elsewhere, name):
    with pytest.raises(
        UsageError, match=rf"--algo {name} could not be imported: .*Missing|no_such"
    ):
        registry.load("algorithm", name)


@pytest.mark.parametrize("name", ["Doubting", "Mixed"])
def test_an_algorithm_that_would_be_scored_with_anothers_numbers_is_refused(elsewhere, name):
    name = f"{elsewhere}.{name}"
    config = {"algo": name, "test_env": 2}
    loaders: list[Callable[[], object]] = [
        lambda: registry.load("algorithm", name),
        lambda: resolve(config),
        lambda: algorithm_options(name, []),
        lambda: own_obstacle(replace(resolve({**config, "algo": "erm"}), algo={"name": name})),
    ]
    for load in loaders:
        with pytest.raises(UsageError, match=rf"--algo {name} has a forward of its own, but"):
            load()


def test_algorithms_with_a_forward_of_their_own_are_not_stacked():
    class Doubting(ERM):
        def forward(self, inputs: Tensor) -> Tensor:
            return 0.5 * super().forward(inputs)

    algorithms = [Doubting(network=small_network(), n_environments=2) for _ in range(2)]
    with pytest.raises(UsageError, match="Doubting has a forward of its own"):
        StackedAlgorithm(algorithms)
