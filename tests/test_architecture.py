"""Which way imports go, and what no file says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from dgbench import registry

ROOT = Path(__file__).parent.parent
PACKAGES = ("dgbench", "datamodules", "leaderboard")

# From the ground up: a module imports from its own floor and from those below.
FLOORS: tuple[tuple[str, ...], ...] = (
    (
        "backbones",
        "collectives",
        "contents",
        "decision",
        "devices",
        "disk",
        "errors",
        "icp",
        "losses",
        "networks",
        "penalties",
        "registry",
        "runtime",
        "search_space",
        "signals",
        "subset_network",
        "yaml_files",
    ),
    (
        "arguments",
        "claims",
        "intact",
        "protocols",
        "reproductions",
        "search_spaces",
        "source",
        "trust",
    ),
    ("algorithms", "evaluation", "provenance", "parser", "settings"),
    (
        "record",
        "recorder",
        "resuming",
        "claim_guard",
        "progress",
        "loggers",
        "catalogue",
        "report",
        "icp_datasets",
        "icp_report",
        "linear_forms",
        "inspect",
    ),
    ("training",),
    ("stacked",),
    ("sweep",),
    ("checkpoints", "reproduce", "rerun", "screen", "screen_report"),
    ("cli",),
    ("__main__",),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# The front door: `from dgbench import fit, load` import what they call when they are called.
FRONT_DOOR = "dgbench"


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for package in PACKAGES for path in files(package)}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_bytes())


def statements(node: ast.AST, *, type_checking: bool) -> Iterator[ast.stmt]:
    """Import statements anywhere in a file, at its top or inside functions."""
    for child in ast.iter_child_nodes(node):
        for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if for_types and not type_checking:
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        yield from statements(child, type_checking=type_checking)


def imports(module: str, *, type_checking: bool = True) -> set[str]:
    """Full names of all modules that a module imports; of ours, the files themselves."""
    found = set()
    for statement in statements(tree(module), type_checking=type_checking):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"{module} imports relatively; name the package"
            assert statement.module is not None
            names = {f"{statement.module}.{alias.name}" for alias in statement.names}
            found |= {name if name in FILES else statement.module for name in names}
    return found


def packages(module: str) -> set[str]:
    return {name.partition(".")[0] for name in imports(module)}


def modules(package: str) -> list[str]:
    return [module for module in FILES if module.partition(".")[0] == package]


def room(module: str) -> str:
    """The part of dgbench that a module of it belongs to."""
    return module.split(".")[1]


INSIDE = [module for module in modules("dgbench") if module != FRONT_DOOR]


def test_the_files_are_found():
    assert {"dgbench.cli", "dgbench.algorithms.erm", "leaderboard.records"} <= set(FILES)
    assert "datamodules.streams" in imports("dgbench.algorithms.erm")
    assert "dgbench.registry" in imports("dgbench.training")


# Import directions


@pytest.mark.parametrize("module", modules("datamodules"))
def test_data_modules_import_nothing_of_the_project(module):
    assert not packages(module) & {"dgbench", "leaderboard", "tests"}


@pytest.mark.parametrize("module", modules("leaderboard"))
def test_the_leaderboard_imports_nothing_of_the_project_and_no_torch(module):
    assert not packages(module) & {"dgbench", "datamodules", "tests"}
    heavy = {"torch", "torchvision", "torchmetrics", "pytorch_lightning", "lightning"}
    assert not packages(module) & heavy


@pytest.mark.parametrize("module", INSIDE)
def test_every_module_stands_on_a_floor_and_imports_from_there_down(module):
    assert room(module) in FLOOR_OF, f"say in FLOORS on which floor {module} stands"
    above = {
        name
        for name in imports(module)
        if name.startswith("dgbench.") and FLOOR_OF[room(name)] > FLOOR_OF[room(module)]
    }
    assert not above


@pytest.mark.parametrize("room_name", [name for rooms in FLOORS for name in rooms])
def test_no_floor_lists_a_room_that_is_gone(room_name):
    assert any(room(module) == room_name for module in INSIDE)


def test_the_ground_floor_knows_neither_data_modules_nor_records():
    ground = [module for module in INSIDE if FLOOR_OF[room(module)] == 0]
    known = {name for module in ground for name in imports(module) if name in FILES}
    # Networks are initialised from seeds derived as all others are, and see inputs as views.
    allowed = {"datamodules.seeds", "datamodules.views"}
    assert {name for name in known if not name.startswith("dgbench.")} <= allowed


@pytest.mark.parametrize("module", [m for m in INSIDE if m.startswith("dgbench.algorithms.")])
def test_an_algorithm_knows_batches_and_mathematics_and_does_not_measure(module):
    ours = {name for name in imports(module) if name.partition(".")[0] in PACKAGES}
    others = {name for name in ours if not name.startswith("dgbench.algorithms.")}
    ground = {f"dgbench.{name}" for name in FLOORS[0]}
    assert others <= ground | {"datamodules.streams", "datamodules.views"}
    assert "torchmetrics" not in packages(module)


def test_modules_import_each_other_in_no_circle():
    # The front door stands outside: it is imported for its constants alone.
    graph = {
        module: imports(module, type_checking=False) & set(FILES) - {FRONT_DOOR}
        for module in FILES
        if module != FRONT_DOOR
    }
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("dgbench.penalties") < order.index("dgbench.cli")


# Names


def docstrings(module: str) -> set[int]:
    """Identities of the nodes that are docstrings: they explain, and decide nothing."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        id(node.body[0].value)
        for node in ast.walk(tree(module))
        if isinstance(node, owners) and node.body and isinstance(node.body[0], ast.Expr)
    }


def words(module: str) -> set[str]:
    """Identifiers, imported names and the words of strings of a module's code."""
    found: set[str] = set()
    explained = docstrings(module)
    for node in ast.walk(tree(module)):
        text = getattr(node, "value", None)
        if isinstance(text, str) and id(node) not in explained:
            found |= set(re.findall(r"\w+", text))
        for attribute in ("id", "attr", "name", "arg", "module"):
            value = getattr(node, attribute, None)
            if isinstance(value, str):
                found |= set(value.split("."))
    return found


def named(module: str, kind: registry.Kind) -> set[str]:
    entries = registry.entries(kind)
    names = set(entries) | {entry.class_name for entry in entries.values()}
    return names & words(module)


@pytest.mark.parametrize("module", [m for m in FILES if m.partition(".")[0] != "leaderboard"])
def test_no_file_names_both_an_algorithm_and_a_data_set(module):
    algorithms, data_sets = named(module, "algorithm"), named(module, "data set")
    assert not (algorithms and data_sets), f"{algorithms} and {data_sets}: that belongs in configs/"


@pytest.mark.parametrize("module", modules("datamodules"))
def test_no_data_module_names_an_algorithm(module):
    assert not named(module, "algorithm")


@pytest.mark.parametrize("module", [m for m in INSIDE if m.startswith("dgbench.algorithms.")])
def test_no_algorithm_names_a_data_set(module):
    assert not named(module, "data set")


def test_names_are_recognised_in_code_and_not_in_docstrings():
    assert named("datamodules.colored_mnist", "data set") == {"ColoredMNIST", "colored_mnist"}
    assert "VREx" in named("dgbench.algorithms.vrex", "algorithm")
    assert not named("dgbench.penalties", "algorithm")


# Output


@pytest.mark.parametrize("module", FILES)
def test_nothing_is_printed_but_through_a_console(module):
    calls = [node.func for node in ast.walk(tree(module)) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id in ("print", "pp")]
    assert "pprint" not in packages(module)
