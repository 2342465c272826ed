"""From run folders to records, and which of them count."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from leaderboard.errors import RecordError
from leaderboard.filling import make_board
from leaderboard.frame import Trial, columns, from_run, without_duplicates
from leaderboard.records import read_run
from leaderboard.sources import load
from tests.leaderboard.make_golden import (
    COLORED,
    colored_run,
    make_check,
    make_settings,
    rotated_run,
    write_run,
)


def test_a_record_has_what_a_run_folder_says(tmp_path: Path) -> None:
    folder = rotated_run(tmp_path, "vrex", penalty_weight=10.0)
    (record,), left_out = load([tmp_path])
    assert left_out == []
    assert record.place == f"rotated_mnist/vrex/{folder.name}"
    assert (record.dataset, record.protocol, record.algorithm) == (
        "rotated_mnist",
        "digits",
        "vrex",
    )
    assert (record.data, record.source, record.backbone) == ('{"source":"digits"}', "digits", "")
    assert (record.trial, record.draw) == (Trial(0, 0), 0)
    assert (record.test, record.train) == (("75deg",), ("0deg", "15deg"))
    assert record.run == read_run(folder).run


def test_backbone_is_named_with_its_weights(tmp_path: Path) -> None:
    settings = make_settings()
    settings["network"] = {"backbone": "resnet50", "weights": "imagenet", "dropout": 0.1}
    folder = write_run(tmp_path, settings, [], status="interrupted")
    assert from_run(read_run(folder)).backbone == "resnet50, imagenet"


def test_columns_keep_every_number_of_the_checks() -> None:
    lines = [
        make_check(10, {"a/holdout": 0.5, "t/main": None}),
        make_check(20, {"a/holdout": 0.25, "t/main": 0.1, "a/main": 1.0}),
    ]
    lines[0]["diverged"] = True
    lines[1]["train"] = {"loss": 0.125}
    assert columns(lines).lines() == lines
    assert columns([]).lines() == []


def test_training_values_that_change_names_are_refused() -> None:
    lines = [make_check(10, {"t/main": 0.5}), make_check(20, {"t/main": 0.5})]
    lines[1]["train"] = {"penalty": 1.0}
    with pytest.raises(RecordError, match="names of training values differ"):
        columns(lines)


def test_a_corrupt_run_is_listed_without_paths_of_the_machine(tmp_path: Path) -> None:
    bad = colored_run(tmp_path, "erm", "-90%", 0, 0.1)
    good = colored_run(tmp_path, "erm", "-90%", 1, 0.1)
    (bad / "checks.jsonl").write_text("")
    records, left_out = load([tmp_path])
    assert [record.run_id for record in records] == [good.name]
    assert [(entry.place, entry.kind) for entry in left_out] == [
        (f"colored_mnist/erm/{bad.name}", "corrupt")
    ]
    assert left_out[0].reason.startswith("checks.jsonl: sha256 is ")
    assert str(tmp_path) not in left_out[0].reason


def test_a_copy_counts_once(tmp_path: Path) -> None:
    colored_run(tmp_path / "a", "erm", "-90%", 0, 0.1)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    kept, left_out = without_duplicates(load([tmp_path / "b", tmp_path / "a"])[0])
    assert len(kept) == 1
    assert [entry.reason for entry in left_out] == ["repeats a run that is already here"]


def test_one_run_id_with_other_numbers_counts_nowhere(tmp_path: Path) -> None:
    colored_run(tmp_path / "a", "erm", "-90%", 0, 0.1)
    colored_run(tmp_path / "b", "erm", "-90%", 0, 0.2)
    kept, left_out = without_duplicates(load([tmp_path])[0])
    assert kept == []
    assert [(entry.kind, entry.reason) for entry in left_out] == 2 * [
        ("duplicate", "has the run id of other records here but other numbers: keep one of them")
    ]


def test_a_finished_run_wins_over_its_unfinished_copy(tmp_path: Path) -> None:
    colored_run(tmp_path / "a", "erm", "-90%", 0, 0.1, status="interrupted")
    colored_run(tmp_path / "b", "erm", "-90%", 0, 0.1)
    kept, left_out = without_duplicates(load([tmp_path])[0])
    assert [record.state for record in kept] == ["finished"]
    assert len(left_out) == 1


def test_benchmark_versions_are_never_mixed(tmp_path: Path) -> None:
    colored_run(tmp_path, "erm", "-90%", 0, 0.1)
    colored_run(tmp_path, "erm", "-90%", 1, 0.1, benchmark_version="2")
    with pytest.raises(RecordError, match="benchmark versions 1 and 2 cannot stand in one table"):
        make_board(load([tmp_path])[0])


def test_shared_settings_leave_out_only_the_trial_and_what_test_env_implies(
    tmp_path: Path,
) -> None:
    settings = make_settings()
    write_run(tmp_path, settings, [], status="interrupted")
    (record,), _ = load([tmp_path])
    free = {"trial_seed", "data_seed", "test_env", "train_env"}
    assert set(json.loads(record.fixed)) == set(settings) - free


@pytest.mark.parametrize("train_env", [["+80%", "+90%"], ["+90%"]])
def test_chosen_training_environments_are_a_setting_of_their_own(
    tmp_path: Path, train_env: list[str]
) -> None:
    settings = make_settings(names=COLORED)
    settings["train_env"] = train_env
    write_run(tmp_path, settings, [], status="interrupted")
    (record,), _ = load([tmp_path])
    assert json.loads(record.fixed)["train_env"] == train_env
