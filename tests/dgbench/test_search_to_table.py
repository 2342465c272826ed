"""A search from its command to a verified table, every cell beside a plain restatement."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.dgbench.test_sweep import Groups
from tests.dgbench.tiny import DATA, checks, command

SPACE = """
version: 1
ranges:
  algo.learning_rate: {LogUniform: [0.0008, 0.003]}
  data.batch_size: {LogInt: [16, 64]}
"""
BUDGET = ("--steps", 4, "--check-every", 2, "--network.backbone", "mlp", "--network.width", 8)
BOTH = ("--datasets", "colored_mnist,rotated_mnist", "--data.image_size", 14, "--test-envs", "0,2")
PAIRS = ("--datasets", "colored_mnist", "--test-envs", "pairs", *DATA)
GRID = ("--algos", "erm,irm", "--trials", 2, "--draws", 2, *BUDGET)


@dataclass(frozen=True)
class Search:
    """A sweep that was carried out, and what it is to say of itself.

    Attributes:
        out: folder of its records, and of its tables.
        rule: the selection rule.
        tuned_once: its estimand.
        runs: how many there are.
    """

    out: Path
    rule: str
    tuned_once: bool
    runs: int


def run(*arguments: object) -> str:
    """What a command shows that must succeed."""
    code, shown, errors = command(*arguments)
    assert code == 0, shown + errors
    return shown


def swept(out: Path, *flags: object, rule: str, runs: int, tuned_once: bool = False) -> Search:
    estimand = ("--estimand", "tune-once") if tuned_once else ()
    space = out.parent / "quick.yaml"
    space.write_text(SPACE)
    flags = (*flags, *GRID, *estimand, "--search-space", space)
    run("sweep", *flags, "--selection", rule, "--out", out, "--yes")
    return Search(out, rule, tuned_once, runs)


@pytest.fixture(scope="module")
def searches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Search]]:
    """The searches by name, trained in this process."""
    root = tmp_path_factory.mktemp("searches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dgbench.sweep.command._executor", lambda options, name: Groups())
        again = swept(root / "again", *BOTH, rule="train_val", runs=32)
        # What is tuned once begins with the first trial of a search, which is not trained again.
        shutil.copytree(again.out, root / "once", ignore=of_later_trials)
        found = {
            "train_val": again,
            "train_val tuned once": swept(
                root / "once", *BOTH, rule="train_val", runs=24, tuned_once=True
            ),
            "oracle tuned once": swept(
                root / "oracle", *BOTH, rule="oracle", runs=24, tuned_once=True
            ),
            "leave_one_out": swept(root / "pairs", *PAIRS, rule="leave_one_out", runs=48),
        }
        yield found


def of_later_trials(folder: str, names: list[str]) -> list[str]:
    """Names of the run folders that are of no first trial, and of what no record is."""
    if "sweeps" in names:
        return ["sweeps"]
    files = {name: Path(folder, name, "run.json") for name in names}
    return [
        name
        for name, file in files.items()
        if file.exists() and json.loads(file.read_text())["settings"]["trial_seed"] > 0
    ]


# The restatement: nothing but two files a run, and arithmetic

Run = Mapping[str, Any]


def runs_of(out: Path) -> list[Run]:
    return [
        json.loads(file.read_text())["settings"] | {"checks": checks(file.parent)}
        for file in out.rglob("run.json")
    ]


def score(rule: str, run: Run, check: Mapping[str, Any], runs: Sequence[Run]) -> float:
    """What a rule goes by, at one check of a run."""
    if rule == "train_val":
        read = [check["splits"][f"{name}/holdout"] for name in run["train_env"]]
    elif rule == "oracle":
        read = [check["splits"][f"{name}/holdout"] for name in run["test_env"]]
    else:
        read = [left_out(run, check["step"], name, runs) for name in run["train_env"]]
    return sum(split["accuracy"] for split in read) / len(read)


def left_out(run: Run, step: int, name: str, runs: Sequence[Run]) -> Mapping[str, Any]:
    """On a training environment, the run that holds it out as well and is like this in all else."""
    pairs = [
        other
        for other in runs
        if set(other["test_env"]) == {*run["test_env"], name}
        and all(other[key] == run[key] for key in run.keys() - {"test_env", "train_env", "checks"})
    ]
    (pair,) = pairs
    (check,) = [check for check in pair["checks"] if check["step"] == step]
    found: Mapping[str, Any] = check["splits"][f"{name}/main"]
    return found


def best(rule: str, draws: Sequence[Run], runs: Sequence[Run]) -> tuple[Run, Mapping[str, Any]]:
    """The run and check with the highest score, of equal ones the first."""
    top, chosen = -math.inf, None
    for run in sorted(draws, key=lambda run: run["hparams_seed"]):
        for check in run["checks"][-1:] if rule == "oracle" else run["checks"]:
            found = score(rule, run, check, runs)
            if found > top:
                top, chosen = found, (run, check)
    assert chosen is not None
    return chosen


def restated(rule: str, runs: Sequence[Run], tuned_once: bool, draws: int) -> dict[tuple, tuple]:
    """Mean, standard error, n, and draw and step of each trial, by data set, algorithm, column."""
    cells = {}
    single = [run for run in runs if len(run["test_env"]) == 1]
    names = {(r["data"]["name"], r["algo"]["name"], *r["test_env"]) for r in single}
    for dataset, algorithm, name in names:
        own = [
            run
            for run in single
            if (run["data"]["name"], run["algo"]["name"], *run["test_env"])
            == (dataset, algorithm, name)
            and (draws > 1 or run["hparams_seed"] == 0)
        ]
        chosen: list[tuple[Run, Mapping[str, Any]]] = []
        for trial in range(2):
            found = [run for run in own if run["trial_seed"] == trial]
            if tuned_once and trial:
                found = [r for r in found if r["hparams_seed"] == chosen[0][0]["hparams_seed"]]
            assert len(found) == (1 if tuned_once and trial else draws)
            chosen.append(best(rule, found, runs))
        values = [check["splits"][f"{name}/main"]["accuracy"] for _, check in chosen]
        cells[dataset, algorithm, name] = (
            statistics.mean(values),
            statistics.stdev(values) / len(values) ** 0.5,
            len(values),
            [(run["hparams_seed"], check["step"]) for run, check in chosen],
        )
    return cells


# What the command wrote


def written(
    folder: Path, rule: str, search: str, tuned_once: bool, label: str
) -> dict[tuple, tuple]:
    """The same of `leaderboard.json`."""
    cells = {}
    for section in json.loads((folder / "leaderboard.json").read_text())["sections"]:
        key = section["key"]
        if (key["rule"], key["search"], key["tuned_once"]) != (rule, search, tuned_once):
            continue
        for row in section["rows"] if key["held_out"] == 1 else ():
            assert row["label"] == f"{row['algorithm']}{label}"
            for column, cell in zip(section["columns"], row["cells"], strict=True):
                assert cell["missing"] == []
                found = cell["accuracy"]
                cells[key["dataset"], row["algorithm"], column["name"]] = (
                    found["mean"],
                    found["standard_error"],
                    found["n"],
                    [(number["draw"], number["step"]) for number in cell["numbers"]],
                )
    return cells


def assert_same(found: Mapping[tuple, tuple], expected: Mapping[tuple, tuple]) -> None:
    assert found.keys() == expected.keys()
    for place, (mean, error, *chosen) in expected.items():
        assert found[place][:2] == pytest.approx((mean, error), rel=1e-12, abs=1e-15), place
        assert [*found[place][2:]] == chosen, place


@pytest.mark.parametrize(
    "name", ["train_val", "train_val tuned once", "oracle tuned once", "leave_one_out"]
)
def test_each_cell_is_what_a_plain_restatement_gives(name, searches):
    search = searches[name]
    shown = run("sweep", "status", "--out", search.out)
    assert f"{search.runs} of {search.runs} runs finished" in shown
    folder, runs = search.out, runs_of(search.out)
    run("leaderboard", "build", folder, "--out", folder)
    assert len(runs) == search.runs
    rules = {search.rule} if search.tuned_once else {search.rule, "train_val", "oracle"}
    for rule in rules:
        expected = restated(rule, runs, search.tuned_once, draws=2)
        label = " (best of 2 draws)"
        assert_same(written(folder, rule, "quick 1", search.tuned_once, label), expected)
        draws = {draw for *_, chosen in expected.values() for draw, _ in chosen}
        assert len(draws) > 1, "one draw is preferred everywhere, so the search is not tested"
        if not search.tuned_once:
            # Draw 0 alone has the fixed settings.
            fixed = restated(rule, runs, tuned_once=False, draws=1)
            assert_same(written(folder, rule, "", False, ""), fixed)
    assert "No violations" in run("leaderboard", "verify", folder)
    packed = folder.with_name(folder.name + "-packed")
    run("leaderboard", "pack", folder, "--out", packed / "records.jsonl")
    run("leaderboard", "build", packed / "records.jsonl", "--out", packed)
    files = sorted(p.relative_to(packed) for p in packed.rglob("*") if p.is_file())
    assert {file.suffix for file in files} >= {".md", ".json", ".csv", ".tex", ".html"}
    for file in files:
        if file.name != "records.jsonl":
            assert (packed / file).read_bytes() == (folder / file).read_bytes(), file
    assert "No violations" in run("leaderboard", "verify", packed)


@pytest.mark.parametrize(
    ("name", "held_out", "message"),
    [
        ("train_val", 1, "draws [1001] not run"),
        ("train_val tuned once", 1, ", which the first trial prefers, not run"),
        ("leave_one_out", 2, "of draws [1001]"),
    ],
)
def test_a_run_that_is_missing_is_named_and_its_command_makes_it(
    name, held_out, message, searches, tmp_path
):
    search = searches[name]
    out = tmp_path / "search"
    shutil.copytree(search.out, out)
    lost = max(
        (r["hparams_seed"], file.parent)
        for file in out.rglob("run.json")
        if (r := json.loads(file.read_text())["settings"])["trial_seed"] == 1
        and len(r["test_env"]) == held_out
    )[1]
    shutil.rmtree(lost)
    shown = run("sweep", "status", "--out", out)
    assert f"{search.runs - 1} of {search.runs} runs finished" in shown
    run("leaderboard", "build", out, "--out", out)
    code, shown, _ = command("leaderboard", "verify", out)
    assert code == 1
    assert any("Violation:" in line and message in line for line in shown.splitlines()), shown

    sections = json.loads((out / "leaderboard.json").read_text())["sections"]
    commands = {
        missing["command"]
        for section in sections
        if section["key"]["search"] and section["reported"]
        for row in section["rows"]
        for cell in row["cells"]
        for missing in cell["missing"]
    }
    space = f"--search-space={search.out.parent / 'quick.yaml'}"
    for line in commands:
        assert line.count("\n") == 0
        run(*shlex.split(line.replace("--search-space=quick", space))[1:], "--out", out)
    assert (lost / "done.json").exists()
    run("leaderboard", "build", out, "--out", out)
    assert "No violations" in run("leaderboard", "verify", out)
