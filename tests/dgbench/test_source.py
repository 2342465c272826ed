"""Code of a user's own is a part of what a run is: an edited class is another run."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dgbench import registry, source
from dgbench.algorithms.erm import ERM
from dgbench.errors import UsageError
from dgbench.settings import Settings, resolve
from dgbench.stacked.training import run_stacked
from dgbench.sweep.design import design
from dgbench.sweep.plan import plan
from dgbench.sweep.worker import train
from dgbench.training import run
from leaderboard import records
from tests.dgbench.tiny import TINY, command, fit

ALGO, DATA = "own_algorithms.ideas.Mine", "own_data.Stripes"
ALGORITHM = """
from dgbench.algorithms.erm import ERM
from own_algorithms.weights import WEIGHT

class Mine(ERM):
    '''Not published.'''

    def objective(self, batch):
        risks = self.risks(batch)
        return {"loss": WEIGHT * risks.mean(), "risks": risks}
"""
DATA_SET = """
import torch
from datamodules.base import EnvironmentDataModule
from datamodules.environments import EnvironmentData, split_main_holdout
from datamodules.preprocessing import Preprocessing

SIGNAL = 1.0

class Stripes(EnvironmentDataModule):
    '''Noise with a bright row or a bright column (not published).'''

    environment_names = ("weak", "medium", "strong")
    class_names = ("row", "column")
    input_shape = (1, 8, 8)
    generator_version = 1
    preprocessing = Preprocessing("L", (8, 8), "bilinear", mean=(0.0,), std=(1.0,))

    def load_environment(self, index):
        generator = torch.Generator().manual_seed(3 * self.data_seed + index)
        targets = torch.arange(200) % 2
        inputs = torch.randn(200, 1, 8, 8, generator=generator)
        inputs[targets == 0, :, 4, :] += SIGNAL * (index + 1)
        inputs[targets == 1, :, :, 4] += SIGNAL * (index + 1)
        main, holdout = split_main_holdout(200, 0.2, self.data_seed, index)
        return EnvironmentData(inputs, targets, torch.arange(200) + 200 * index, main, holdout)
"""
OWN_DATA = ("--dataset", DATA, "--test-env", "weak", "--steps", 4, "--check-every", 2)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a package and a module of a user's own, which can be imported."""
    folder = tmp_path / "elsewhere"
    package = folder / "own_algorithms"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "ideas.py").write_text(ALGORITHM)
    (package / "weights.py").write_text("WEIGHT = 1.0\n")
    (folder / "own_data.py").write_text(DATA_SET)
    monkeypatch.syspath_prepend(folder)
    # What is compiled is told from an edited file by whole seconds and its size.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    forget()
    return folder


def forget() -> None:
    """Lets the next import read files anew, as another process does."""
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]
    importlib.invalidate_caches()


def edit(file: Path, old: str, new: str, *, imported_anew: bool = True) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    if imported_anew:
        forget()


def hash_of(name: str = ALGO, section: str = "algo") -> str:
    forget()
    usual = {"algo": "erm", "data": "colored_mnist"}
    return source.hashes({**usual, section: name})[section]


def settings(out: Path, **options: Any) -> Settings:
    config = {
        "algo": ALGO, "test_env": 2, "steps": 4, "check_every": 2, "network": {"width": 8},
        "data": {"draws": 200, "holdout_draws": 50}, "out": str(out),
    }  # fmt: skip
    return resolve(config | options)


# What is hashed


def test_classes_of_the_suite_have_no_source_and_their_run_ids_do_not_know_of_it(tmp_path):
    for algo in (*registry.entries("algorithm"), "dgbench.algorithms.erm.ERM"):
        for data in (*registry.entries("data set"), "datamodules.colored_mnist.ColoredMNIST"):
            assert source.hashes({"algo": algo, "data": data}) == {}
    assert "source" not in settings(tmp_path, algo="erm").deciding(["a"], ["b"])


def test_a_class_stands_for_all_source_files_of_its_package(elsewhere):
    package = elsewhere / "own_algorithms"
    before = hash_of()
    assert re.fullmatch("sha256:[0-9a-f]{16}", before)
    assert hash_of() == before
    (package / "notes.txt").write_text("no code")
    (elsewhere / "beside.py").write_text("of no package")
    for folder in (package / ".hidden", package / "environment" / "lib"):
        folder.mkdir(parents=True)
        (folder / "installed.py").write_text("of somebody else")
    (package / "environment" / "pyvenv.cfg").write_text("")
    assert hash_of() == before
    (package / "inner").mkdir()
    (package / "inner" / "more.py").write_text("")
    added = hash_of()
    (package / "inner" / "more.py").rename(package / "inner" / "moved.py")
    moved = hash_of()
    edit(package / "weights.py", "1.0", "2.0")
    assert len({before, added, moved, hash_of()}) == 4


def test_a_module_by_itself_stands_for_itself(elsewhere):
    before = hash_of(DATA, "data")
    edit(elsewhere / "own_algorithms" / "weights.py", "1.0", "2.0")
    (elsewhere / "beside.py").write_text("")
    assert hash_of(DATA, "data") == before
    edit(elsewhere / "own_data.py", "SIGNAL = 1.0", "SIGNAL = 0.0")
    assert hash_of(DATA, "data") != before


def test_what_a_class_is_made_of_counts_wherever_it_lies_but_pythons_own(elsewhere):
    (elsewhere / "own_last.py").write_text(
        "from typing import Generic, TypeVar\n"
        "from own_algorithms.ideas import Mine\n"
        'class Last(Mine, Generic[TypeVar("T")]):\n    pass\n'
    )
    before = hash_of("own_last.Last")
    edit(elsewhere / "own_algorithms" / "weights.py", "1.0", "2.0")
    changed = hash_of("own_last.Last")
    assert changed != before
    edit(elsewhere / "own_last.py", "from typing", "import abc\nfrom typing")
    assert hash_of("own_last.Last") != changed
    kind = registry.load("algorithm", "own_last.Last")
    assert set(source._modules(kind)) == {"own_last", "own_algorithms.ideas"}


def test_a_name_that_another_module_gives_the_class_stands_for_where_it_is_written(elsewhere):
    (elsewhere / "own_names.py").write_text("from own_algorithms.ideas import Mine\n")
    assert hash_of("own_names.Mine") == hash_of()


def main_module(monkeypatch: pytest.MonkeyPatch, file: str | None) -> None:
    """Puts a module in the place of the program, as a notebook or a script has it."""
    main = types.ModuleType("__main__")
    mine = type("Mine", (ERM,), {"__module__": "__main__"})
    vars(main).update({"Mine": mine} | ({} if file is None else {"__file__": file}))
    monkeypatch.setitem(sys.modules, "__main__", main)


def test_a_class_of_a_notebook_is_refused_with_a_way_out(monkeypatch, tmp_path):
    main_module(monkeypatch, None)
    with pytest.raises(UsageError, match=r"__main__\.Mine has no file .*%%writefile my_package\.p"):
        settings(tmp_path, algo="__main__.Mine")


def test_a_class_of_a_script_stands_for_the_script(monkeypatch, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("print(1)")
    main_module(monkeypatch, str(script))
    names = {"algo": "__main__.Mine", "data": "colored_mnist"}
    before = source.hashes(names)
    script.write_text("print(2)")
    main_module(monkeypatch, str(script))
    assert before["algo"] != source.hashes(names)["algo"]


def test_source_is_no_option(elsewhere, tmp_path):
    flags = ("fit", "--algo", ALGO, "--test-env", 2, "--source.algo", "sha256:0", "--out", tmp_path)
    code, _, errors = command(*flags)
    assert code == 2
    assert "There is no option --source.algo" in errors


# Runs


def test_an_edited_algorithm_is_another_run_and_an_edit_taken_back_the_first(elsewhere, tmp_path):
    out = tmp_path / "runs"
    first = fit(out, algo=ALGO)
    edit(elsewhere / "own_algorithms" / "weights.py", "1.0", "0.5")
    second = fit(out, algo=ALGO)
    assert second.name != first.name
    recorded = [records.read_run(folder).run["settings"] for folder in (first, second)]
    assert recorded[0]["source"] != recorded[1]["source"]
    assert recorded[0] == {**recorded[1], "source": recorded[0]["source"]}
    edit(elsewhere / "own_algorithms" / "weights.py", "0.5", "1.0")
    assert fit(out, algo=ALGO) == first


def test_an_edited_data_set_is_another_run(elsewhere, tmp_path):
    flags = ("fit", "--algo", "erm", *OWN_DATA, "--out", tmp_path)
    assert command(*flags)[0] == 0
    edit(elsewhere / "own_data.py", "SIGNAL = 1.0", "SIGNAL = 0.0")
    code, shown, errors = command(*flags)
    assert code == 0, errors
    assert "Finished earlier" not in shown
    both = [records.read_run(folder).run for folder in records.find_runs([tmp_path])]
    assert len({run["settings"]["source"]["data"] for run in both}) == 2
    assert "algo" not in both[0]["settings"]["source"]


def test_a_table_shown_again_says_when_it_was_made_and_by_what(elsewhere, tmp_path):
    flags = ("fit", "--algo", "erm", "--test-env", 2, *TINY, "--out", tmp_path)
    code, shown, errors = command(*flags)
    assert (code, "Finished earlier" in shown) == (0, False), errors
    code, shown, errors = command(*flags)
    made = records.read_run(records.find_runs([tmp_path])[0]).run["provenance"]
    when = made["created"].replace("T", " ")[:16]
    assert code == 0, errors
    assert f"Finished earlier ({when} UTC" in shown
    assert "--force trains it again." in shown
    if made["git"]["commit"] is not None:
        assert f"dgbench at commit {made['git']['commit'][:12]}" in shown
    assert "Finished earlier" not in command(*flags, "--force")[1]


def test_a_run_is_not_resumed_with_edited_code(elsewhere, tmp_path):
    folder = fit(tmp_path, algo=ALGO)
    (folder / "done.json").unlink()
    before = records.read_run(folder).run["settings"]["source"]["algo"]
    edit(elsewhere / "own_algorithms" / "ideas.py", "risks.mean()", "risks.max()")
    # Named once more, since a record from elsewhere imports nothing that its reader does not name.
    code, _, errors = command("fit", "--resume", folder, "--algo", ALGO)
    assert code == 2
    assert f"the code of {ALGO} was {before} and is {hash_of()}. Bring the code back" in errors
    assert "--force" in errors
    # Nor is what it has made of its own by now shown for it.
    assert fit(tmp_path, algo=ALGO) != folder
    assert command("fit", "--resume", folder, "--algo", ALGO)[0] == 2
    edit(elsewhere / "own_algorithms" / "ideas.py", "risks.max()", "risks.mean()")
    code, _, errors = command("fit", "--resume", folder, "--algo", ALGO)
    assert code == 0, errors


def test_a_record_is_not_reproduced_with_edited_code_but_told_what_differs(elsewhere, tmp_path):
    folder = fit(tmp_path / "runs", algo=ALGO)
    reproduce = ("reproduce", folder, "--out", tmp_path / "again", "--algo", ALGO)
    code, shown, errors = command(*reproduce)
    assert code == 0, errors
    assert "Equal: every number" in shown
    edit(elsewhere / "own_algorithms" / "weights.py", "1.0", "0.5")
    code, _, errors = command(*reproduce)
    assert code == 2
    assert f"would be another run, since the code of {ALGO} was sha256:" in errors


def test_a_record_from_before_sources_were_recorded_is_another_run(elsewhere, tmp_path):
    own = settings(tmp_path)
    old: Any = {"settings": own.deciding(["a"], ["b"]), "provenance": {}}
    del old["settings"]["source"]
    now = own.deciding(["a"], ["b"])
    (found,) = source.differences(old, now)
    assert found == f"the code of {ALGO} was not recorded and is {hash_of()}"
    assert list(source.differences(old, {**now, "algo": {"name": "own.Other"}})) == []


# Processes that live longer than a file stays as it is


def test_a_process_does_not_pass_old_code_off_as_what_the_files_say_now(elsewhere, tmp_path):
    fit(tmp_path, algo=ALGO)
    edit(elsewhere / "own_algorithms" / "weights.py", "1.0", "0.5", imported_anew=False)
    with pytest.raises(UsageError, match="have changed since this process imported it"):
        settings(tmp_path)


@pytest.mark.parametrize(
    "start", [lambda each: run(each), lambda each: run_stacked([each, replace(each, trial_seed=1)])]
)
def test_a_run_is_not_trained_by_other_code_than_it_was_planned_with(
    start: Callable[[Settings], object], elsewhere, tmp_path
):
    planned = settings(tmp_path, data_seed=0)
    edit(elsewhere / "own_algorithms" / "weights.py", "1.0", "0.5")
    with pytest.raises(UsageError, match=rf"files of {ALGO} have changed since this run was plan"):
        start(planned)
    assert records.find_runs([tmp_path]) == []


def test_a_sweep_plans_with_the_code_and_its_workers_refuse_another(elsewhere, tmp_path):
    content = {"datasets": "colored_mnist", "algos": f"{ALGO},erm".split(","), "test_envs": [2]}
    sweep = design({**content, "trials": 1}, TINY)
    first = plan(sweep, str(tmp_path)).runs
    edit(elsewhere / "own_algorithms" / "weights.py", "1.0", "0.5")
    second = plan(sweep, str(tmp_path)).runs
    assert [one.folder == two.folder for one, two in zip(first, second, strict=True)] == [
        False,
        True,
    ]
    (outcome,) = train([first[0].settings])
    assert outcome.state == "refused"
    assert "since this run was planned" in outcome.message
    assert train([second[0].settings])[0].state == "finished"
    assert (second[0].folder / records.DONE_FILE).exists()


# The repository of the code


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org")
    call = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()


def committed(folder: Path) -> str:
    git(folder, "init", "-q")
    git(folder, "add", "own_algorithms")
    git(folder, "commit", "-qm", "Begin")
    return git(folder, "rev-parse", "HEAD")


def recorded_state(out: Path, section: str = "algo") -> records.GitState:
    forget()
    flags = () if section == "algo" else OWN_DATA
    folder = fit(out, *flags, algo=ALGO) if section == "algo" else None
    if folder is None:
        code, _, errors = command("fit", "--algo", "erm", *flags, "--out", out)
        assert code == 0, errors
        (folder,) = records.find_runs([out])
    return records.read_run(folder).run["provenance"]["source"][section]


def test_the_users_own_commit_is_recorded_without_touching_the_repository(elsewhere, tmp_path):
    commit = committed(elsewhere)
    for file in elsewhere.rglob("*.py"):  # so that `status` would want to refresh the index
        os.utime(file, (1, 1))
    index = (elsewhere / ".git" / "index").read_bytes()
    (elsewhere / "results.csv").write_text("no code")
    assert recorded_state(tmp_path / "clean") == {"commit": commit, "dirty": False}
    assert (elsewhere / ".git" / "index").read_bytes() == index
    (elsewhere / "own_algorithms" / "new.py").write_text("")
    assert recorded_state(tmp_path / "dirty") == {"commit": commit, "dirty": True}
    code, shown, _ = command(
        "fit", "--algo", ALGO, "--test-env", 2, *TINY, "--out", tmp_path / "dirty"
    )
    assert code == 0
    assert f"{ALGO} at commit {commit[:12]} with uncommitted changes)" in shown


def test_a_module_that_is_not_committed_is_a_change_and_an_ignored_one_of_no_repository(
    elsewhere, tmp_path
):
    commit = committed(elsewhere)
    assert recorded_state(tmp_path / "new", "data") == {"commit": commit, "dirty": True}
    (elsewhere / ".gitignore").write_text("own_data.py\n")
    nowhere = {"commit": None, "dirty": None}
    assert recorded_state(tmp_path / "ignored", "data") == nowhere


def test_code_outside_any_repository_has_no_commit(elsewhere, tmp_path):
    assert recorded_state(tmp_path / "runs") == {"commit": None, "dirty": None}
