"""A published table is rerun, resumed and judged by one command."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dgbench import registry, reproduce, reproductions
from dgbench.errors import Interrupted
from dgbench.reproduce import plan
from dgbench.reproductions import Published
from leaderboard import records
from tests.dgbench.tiny import TINY, command

NAME = "irm-colored-mnist"
# The table's rows on the digits that need no download, a few steps each.
SMALL = ("--protocol", "digits", *TINY)


def same_weights(*folders: Path) -> bool:
    ours, theirs = (
        torch.load(folder / "last.ckpt", weights_only=True)["state_dict"] for folder in folders
    )
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in theirs)


def percent(splits: dict[str, records.SplitMetrics], environment: str) -> float:
    accuracy = splits[f"{environment}/main"]["accuracy"]
    assert accuracy is not None
    return 100 * accuracy


def call(out: Path, *arguments: object) -> tuple[int, str, str]:
    return command("reproduce", NAME, "--out", out, *arguments, *SMALL)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, tuple[int, str, str]]:
    out = tmp_path_factory.mktemp("finished")
    return out, call(out, "--trials", 2, "--row", "irm", "--row", "grayscale")


# The files


@pytest.mark.parametrize("name", reproductions.names())
def test_every_row_resolves_and_its_numbers_are_percentages(name):
    table = reproductions.read(name)
    planned = plan(table, table.rows, 1, "runs", [])
    assert len({each.run.folder for each in planned}) == len({row.name for row in table.rows})
    assert len(table.rows) == len(planned)
    for each in planned:
        settings, row = each.run.settings, each.row
        assert (settings.data["name"], settings.protocol) == (table.dataset, table.protocol)
        assert settings.algo["name"] in registry.entries("algorithm")
        assert settings.selection in row.test
        for numbers in (*row.test.values(), *row.train.values()):
            assert 0 <= numbers.spread < numbers.mean < 100
        assert set(row.train) <= set(row.test)
        if row.bound is not None:
            low, high = row.bound
            assert low <= row.test[settings.selection].mean <= high


def test_the_papers_rows_have_the_published_settings():
    """reproduce_paper_results.sh of the IRM paper; the REx paper's main.py."""
    table = reproductions.read(NAME)
    found = {each.row.name: each.run.settings for each in plan(table, table.rows, 1, "runs", [])}
    assert {name: (s.network["width"], s.steps) for name, s in found.items()} == {
        "erm": (256, 501),
        "irm": (390, 501),
        "vrex": (390, 501),
        "mm_rex": (390, 501),
        "ri": (390, 501),
        "mm_rex, code": (256, 501),
        "ri, code": (256, 501),
        "grayscale": (83, 101),
    }
    assert found["grayscale"].data["grayscale"]
    assert found["grayscale"].algo["learning_rate"] == 0.0028171488133821726
    assert found["grayscale"].algo["l2"] == 0.0008602868865288383
    assert found["irm"].algo["penalty_weight"] == 91257.18613115903
    assert found["vrex"].algo["penalty_weight"] == 2 * 91257.18613115903
    assert found["mm_rex"].algo["lambda_min"] == pytest.approx((1 - 91257.18613115903) / 2)
    assert found["ri"].algo["lambda_min"] == 0
    assert table.trials == 10


def test_a_trial_has_a_trial_seed_and_a_data_seed():
    table = reproductions.read(NAME)
    planned = plan(table, table.chosen(["erm", "irm"]), 3, "runs", [])
    settings = [each.run.settings for each in planned]
    names = [each.row.name for each in planned]
    seeds = [(n, s.trial_seed, s.data_seed) for n, s in zip(names, settings, strict=True)]
    assert seeds == [(name, trial, trial) for trial in range(3) for name in ("erm", "irm")]


def test_the_list_names_all_without_training():
    code, shown, _ = command("reproduce", "--list")
    assert code == 0
    for name in reproductions.names():
        assert name in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["irm-mnist"], "Did you mean irm-colored-mnist"),
        ([], "Name what to reproduce. There are: domainbed-colored-mnist"),
        ([NAME, "--row", "imr"], "There is no row of irm-colored-mnist 'imr'. Did you mean irm"),
        ([NAME, "--trial", "3"], "There is no option --trial. Did you mean"),
        ([NAME, "--trials", "0"], ""),
        ([NAME, "--data-seed", "7"], "trial t has t for both its seeds; use --trials"),
    ],
)
def test_misuse_is_refused_with_a_hint(arguments, message):
    code, _, errors = command("reproduce", *arguments)
    assert code == 2
    assert message in errors


# Running


def test_it_prints_theirs_beside_ours_and_judges(finished):
    out, (code, shown, errors) = finished
    assert code == 1, errors
    table = (out / f"{NAME}.md").read_text()
    assert shown.endswith(table)
    assert "| irm | -90% | last | 70.8 ± 0.9 |" in table
    assert "OUTSIDE 62 to 72" in table
    assert "With --protocol digits" in table
    content = json.loads((out / f"{NAME}.json").read_text())
    assert [line["row"] for line in content["lines"]] == ["irm", "grayscale"]


def test_its_numbers_are_those_of_the_records(finished):
    out, _ = finished
    (line, _) = json.loads((out / f"{NAME}.json").read_text())["lines"]
    last = [records.read_run(folder).checks[-1]["splits"] for folder in line["runs"]]
    test = [percent(splits, "-90%") for splits in last]
    train = [(percent(splits, "+90%") + percent(splits, "+80%")) / 2 for splits in last]
    assert len(test) == line["trials"] == 2
    assert line["test"]["mean"] == pytest.approx(np.mean(test))
    assert line["test"]["spread"] == pytest.approx(np.std(test, ddof=1))
    assert line["train"]["mean"] == pytest.approx(np.mean(train))
    assert line["difference"] == pytest.approx((np.mean(test) - 66.9) / 2.5)
    seeds = [records.read_run(folder).run["settings"]["data_seed"] for folder in line["runs"]]
    assert seeds == [0, 1]


def test_what_is_finished_is_not_trained_again_and_more_trials_are(finished):
    out, (_, before, _) = finished
    written = {path: path.stat().st_mtime_ns for path in out.rglob("last.ckpt")}
    code, shown, _ = call(out, "--trials", 2, "--row", "irm", "--row", "grayscale")
    assert code == 1
    assert "Runs: 4, of which finished: 4" in shown
    assert shown.splitlines()[-4:] == before.splitlines()[-4:]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("last.ckpt")} == written


def test_an_interrupted_run_is_resumed(finished, tmp_path):
    out, _ = finished
    (whole,) = [
        folder
        for folder in records.find_runs([out])
        if (s := records.read_run(folder).run["settings"])["algo"]["name"] == "irm"
        and s["trial_seed"] == 0
    ]
    arguments = ("--trials", 1, "--row", "irm")
    call(tmp_path, *arguments)
    (folder,) = records.find_runs([tmp_path])
    assert folder.name == whole.name
    (folder / "done.json").unlink()
    begun = (folder / "run.json").stat().st_mtime_ns
    _, shown, errors = call(tmp_path, *arguments)
    assert "Runs: 1, of which finished: 0" in shown, errors
    assert (folder / "run.json").stat().st_mtime_ns == begun
    assert records.read_run(folder, verify_checkpoints=True).state == "finished"
    assert same_weights(folder, whole)


def test_a_signal_ends_it_with_a_way_on(tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise Interrupted("stopped by SIGINT")

    monkeypatch.setattr(reproduce, "run", interrupted)
    code, _, errors = call(tmp_path, "--trials", 1, "--row", "irm")
    assert code == 130
    assert "the same command goes on from there" in errors


def test_several_at_a_time_are_the_same_runs(finished, tmp_path):
    out, (_, shown, _) = finished
    arguments = ("--trials", 2, "--row", "irm", "--row", "grayscale", "--jobs", 2)
    code, parallel, errors = call(tmp_path, *arguments)
    assert code == 1, errors
    assert parallel.splitlines()[-4:] == shown.splitlines()[-4:]
    names = [{folder.name for folder in records.find_runs([root])} for root in (out, tmp_path)]
    assert names[0] == names[1]


def test_sigterm_stops_what_it_started_and_the_same_command_goes_on(tmp_path):
    budget = ("--steps", "400", "--check-every", "10", "--data.batch_size", "64")
    arguments = ["reproduce", NAME, "--trials", "1", "--row", "irm", "--row", "erm", "--jobs", "2"]
    arguments += ["--out", str(tmp_path), *SMALL, *budget]
    started = subprocess.Popen(
        [sys.executable, "-m", "dgbench", *arguments], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.rglob("last.ckpt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    started.terminate()
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 130
    assert "the same command goes on from there" in errors
    folders = records.find_runs([tmp_path])
    states = {records.read_run(folder).state for folder in folders}
    assert "interrupted" in states
    assert states <= {"interrupted", "finished"}

    code, shown, _ = command(*arguments, "--jobs", "1")
    assert code == 1
    assert "Runs: 2" in shown
    assert all(records.read_run(folder).state == "finished" for folder in folders)


def test_a_run_that_fails_elsewhere_is_one_error(tmp_path):
    options = ("--row", "irm", "--jobs", 2, "--trials", 1, "--trainer.accelerator", "abacus")
    code, _, errors = call(tmp_path, *options)
    assert code == 2
    assert errors.startswith("dgbench: irm, trial 0: Lightning refuses")


def test_several_devices_a_run_are_for_one_run_at_a_time(tmp_path):
    options = ("--row", "irm", "--jobs", 2, "--trials", 1, "--trainer.devices", 2)
    code, _, errors = call(tmp_path, *options)
    assert code == 2
    assert "trains each run on one device" in errors
    assert "use --jobs 1" in errors


def test_runs_that_diverge_are_left_out_and_not_inside(tmp_path):
    code, shown, _ = call(
        tmp_path, "--trials", 1, "--row", "irm", "--algo.learning_rate", "1e38", "--steps", 1
    )
    assert code == 1
    assert "| - | 0 (1 diverged) | - | OUTSIDE 62 to 72 |" in shown


@pytest.mark.parametrize(
    ("bound", "inside", "expected"), [((0.0, 100.0), True, 0), (None, None, 0)]
)
def test_a_row_inside_its_bound_or_without_one_is_no_failure(
    bound, inside, expected, finished, monkeypatch
):
    out, _ = finished
    table = reproductions.read(NAME)
    rows = tuple(replace(row, bound=bound) for row in table.rows)
    monkeypatch.setattr(reproductions, "read", lambda name: replace(table, rows=rows))
    code, shown, _ = call(out, "--trials", 1, "--row", "irm")
    assert code == expected
    assert ("inside 0 to 100" if inside else "not judged") in shown
    (line,) = json.loads((out / f"{NAME}.json").read_text())["lines"]
    assert line["inside"] is inside
    assert line["test"]["spread"] == 0


def test_one_set_of_runs_answers_several_rules(tmp_path, monkeypatch):
    table = reproductions.read(NAME)
    both: dict[records.SelectionRule, Published]
    both = {"train_val": Published(10.0, 0.0), "oracle": Published(28.7, 0.5)}
    row = replace(table.rows[0], name="erm -90%", test=both, train={}, bound=None)
    changed = replace(table, rows=(row,), spread="error")
    monkeypatch.setattr(reproductions, "read", lambda name: changed)
    options = ("--trials", 2, "--selection", "train_val", "--steps", 8)
    code, shown, errors = call(tmp_path, *options)
    assert code == 0, errors
    first, second = json.loads((tmp_path / f"{NAME}.json").read_text())["lines"]
    assert (first["selection"], second["selection"]) == ("train_val", "oracle")
    assert first["runs"] == second["runs"]
    assert first["difference"] is None
    for line in (first, second):
        runs = [records.read_run(folder) for folder in line["runs"]]
        steps = [run.done["selected"][line["selection"]] for run in runs if run.done]
        accuracies = [
            percent(check["splits"], "-90%")
            for run, step in zip(runs, steps, strict=True)
            for check in run.checks
            if check["step"] == step
        ]
        assert line["test"]["mean"] == pytest.approx(np.mean(accuracies))
        assert line["test"]["spread"] == pytest.approx(np.std(accuracies, ddof=1) / 2**0.5)
    assert "standard error" in shown
