"""Nothing that a checkpoint, a run folder or a pack names is imported unasked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
import typing
from pathlib import Path

import pytest
import torch

import dgbench
from dgbench import registry
from dgbench.errors import UsageError
from dgbench.settings import resolve_arguments
from leaderboard import records
from tests.dgbench.tiny import TINY, command, fit

ROOT = Path(__file__).parents[2]
# They leave a trace where they are imported.
IDEAS = """
from collections.abc import Callable
from pathlib import Path
import torch
from dgbench.algorithms.erm import ERM
from dgbench.networks import Network

Path("imported").touch()

class Mine(ERM):
    '''Trains a network of its own.'''

    def __init__(self, *, activation: Callable | None = None, **base):
        super().__init__(**base)
        head = torch.nn.Sequential(self.network.classifier)
        self.network = Network(self.network.featurizer, head)
"""
DATA = """
from pathlib import Path
from datamodules.colored_mnist import ColoredMNIST

Path("imported").touch()

class Digits(ColoredMNIST):
    '''The suite's, by another name.'''
"""
ALGO = "foreign_ideas.Mine"
DATASET = "foreign_data.Digits"


def write_packages(folder: Path) -> None:
    (folder / "foreign_ideas.py").write_text(IDEAS)
    (folder / "foreign_data.py").write_text(DATA)


def forget(patch: pytest.MonkeyPatch) -> None:
    """Makes this process one that has imported neither, in which nothing that it does will last."""
    patch.setattr(sys, "path", [*sys.path])
    for name in ("foreign_ideas", "foreign_data"):
        patch.setitem(sys.modules, name, types.ModuleType(name))
        del sys.modules[name]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A run of an algorithm on a data set from elsewhere."""
    folder = tmp_path_factory.mktemp("written")
    write_packages(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        forget(patch)
        fit(folder / "runs", "--dataset", DATASET, "--protocol", "custom", algo=ALGO)
    (run,) = records.find_runs([folder / "runs"])
    return run


@pytest.fixture
def foreign(written, tmp_path, monkeypatch) -> Path:
    """The run, received by somebody in whose folder the packages lie."""
    write_packages(tmp_path)
    run = tmp_path.joinpath("runs", *written.parts[-3:])
    shutil.copytree(written, run)
    monkeypatch.chdir(tmp_path)
    forget(monkeypatch)
    return run


def imported() -> bool:
    return Path("imported").exists()


def commands(run: Path) -> dict[str, list[object]]:
    packed = run.parent / "packed.jsonl"
    command("leaderboard", "pack", run, "--out", packed)
    return {
        "test": ["test", "--checkpoint", run / "last.ckpt"],
        "predict": ["predict", "--checkpoint", run / "last.ckpt", "x.png", "--out", "x.csv"],
        "resume": ["fit", "--resume", run],
        "resume last": ["fit", "--resume", "last", "--out", run.parents[2]],
        "reproduce": ["reproduce", run],
        "reproduce a pack": ["reproduce", packed],
    }


NAMES = ["test", "predict", "resume", "resume last", "reproduce", "reproduce a pack"]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_imported_and_the_message_says_what_to_repeat(name, foreign):
    arguments = commands(foreign)[name]
    if "resume" in name:
        (foreign / "done.json").unlink()
    code, _, errors = command(*arguments)
    assert code == 2
    assert f"--algo {ALGO}" in errors
    if name not in ("test", "predict"):  # these build the network first, or nothing else
        assert f"--dataset {DATASET}" in errors
    assert errors.count("\n") == 1
    assert not imported()


@pytest.mark.parametrize("name", NAMES)
def test_what_the_message_says_is_what_works(name, foreign):
    arguments = commands(foreign)[name]
    if "resume" in name:
        (foreign / "done.json").unlink()
    code, errors = 2, "repeating the name: "
    while "repeating the name: " in errors:
        arguments += errors.rpartition("repeating the name: ")[2].split()
        code, _, errors = command(*arguments)
    if name == "predict":  # there is no such image: the checkpoint was read
        assert "x.png (No such file or directory)" in errors
    else:
        assert (code, errors) == (0, "")
    assert imported()


def test_one_of_two_names_is_not_enough(foreign):
    code, _, errors = command("test", "--checkpoint", foreign / "last.ckpt", "--algo", ALGO)
    assert code == 2
    assert f"repeating the name: --dataset {DATASET}" in errors
    assert "foreign_data" not in sys.modules


def test_python_imports_what_its_caller_names_or_has_imported(foreign, monkeypatch):
    with pytest.raises(UsageError, match=f"--algo {ALGO}"):
        dgbench.load(foreign / "last.ckpt")
    assert not imported()
    network = dgbench.load(foreign / "last.ckpt", algo=ALGO)
    assert network(torch.zeros(3, 2, 14, 14)).shape == (3, 2)
    # Now it is imported: it need not be named again.
    assert dgbench.load(foreign / "last.ckpt")


def change(run: Path, **locations: str) -> None:
    """Makes an unfinished run of the suite's own say something else."""
    (run / "done.json").unlink()
    content = json.loads((run / "run.json").read_text())
    content["provenance"]["locations"] = locations
    (run / "run.json").write_text(json.dumps(content))


def test_a_location_cannot_name_a_class(foreign, tmp_path):
    run = fit(tmp_path / "ours")
    change(run, name=DATASET)
    code, _, errors = command("fit", "--resume", run)
    assert not imported()
    assert (code, errors) == (0, "")


@pytest.mark.parametrize(
    ("activation", "names_code"),
    [
        ("foreign_ideas.Mine", True),
        ({"class_path": "Mine"}, True),
        ([{"of": "os.system"}], True),
        ("0.5", False),
        ("a sentence.", False),
    ],
)
def test_an_option_of_a_foreign_class_cannot_name_code_either(foreign, activation, names_code):
    (foreign / "done.json").unlink()
    content = json.loads((foreign / "run.json").read_text())
    content["settings"]["algo"]["activation"] = activation
    content["run_id"] = records.run_id(content["benchmark_version"], content["settings"])
    (foreign / "run.json").write_text(json.dumps(content))
    named = ("--algo", ALGO, "--dataset", DATASET)
    _, _, errors = command("fit", "--resume", foreign, *named)
    assert ("repeating the name: " in errors) == names_code
    if names_code:
        assert not imported()
        text = activation if isinstance(activation, str) else json.dumps(activation)
        _, _, errors = command("fit", "--resume", foreign, *named, f"--algo.activation={text}")
        assert "repeating the name" not in errors


def plain(annotation: object) -> bool:
    """Whether a value of such a type is text, a number or a list of them."""
    if typing.get_origin(annotation) in (typing.Literal, typing.Annotated):
        return typing.get_origin(annotation) is typing.Literal or plain(annotation.__origin__)  # type: ignore[attr-defined]
    if typing.get_args(annotation):
        return all(map(plain, typing.get_args(annotation)))
    return annotation in (str, int, float, bool, type(None))


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in ("algorithm", "data set") for name in registry.entries(kind)],
)
def test_no_option_of_the_suites_classes_can_name_code(kind, name):
    """Of these a record's options are not looked at."""
    known = registry.load(kind, name)
    for owner in known.__mro__:
        if owner.__module__.startswith(("dgbench", "datamodules")) and "__init__" in vars(owner):
            hints = typing.get_type_hints(vars(owner)["__init__"])
            own = {n: h for n, h in hints.items() if n not in ("return", "base", "run", "folder")}
            own.pop("network", None)
            assert all(map(plain, own.values())), own


def test_a_file_that_the_user_names_is_trusted(foreign, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"algo: {ALGO}\ntest_env: 2\n")
    assert resolve_arguments(["--config", str(tmp_path / "mine.yaml")]).algo["name"] == ALGO


def test_a_sweep_of_ones_own_algorithm_trains_and_resumes(tmp_path, monkeypatch):
    write_packages(tmp_path)
    monkeypatch.chdir(tmp_path)
    forget(monkeypatch)
    begun = fit(tmp_path / "runs", algo=ALGO)
    (begun / "done.json").unlink()
    code, shown, errors = command(
        *("sweep", "--algos", ALGO, "--datasets", "colored_mnist", "--test-envs", "2"),
        *("--trials", "2", "--jobs", "1", "--yes", "--out", tmp_path / "runs", *TINY),
    )
    assert (code, errors) == (0, ""), shown
    found = records.find_runs([tmp_path / "runs"])
    assert begun in found
    assert [records.read_run(folder).state for folder in found] == ["finished", "finished"]


def test_the_current_folder_is_no_place_for_packages_until_code_is_named(tmp_path):
    """A `timm.py` beside a checkpoint would be imported where the package is not installed."""
    code = (
        "import os, sys; sys.path.insert(0, ''); sys.argv = ['dgbench', 'list']; "
        "from dgbench.__main__ import main; main(); print(sys.path.count('') + "
        "sys.path.count(os.getcwd()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert shown.stdout.splitlines()[-1] == "0", shown.stderr
