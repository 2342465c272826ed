"""From run folders to the flat frame."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pandas.testing import assert_frame_equal

from leaderboard.errors import RecordError
from leaderboard.frame import COLUMNS, load_runs, run_frame
from tests.leaderboard.make_golden import (
    COLORED,
    colored_run,
    make_check,
    make_settings,
    rotated_run,
    write_golden_runs,
    write_run,
)


def test_one_row_with_the_numbers_of_the_selected_check(tmp_path: Path) -> None:
    folder = rotated_run(tmp_path, "vrex", penalty_weight=10.0)
    runs, skipped = load_runs([tmp_path])
    frame, unnumbered = run_frame(runs)
    assert skipped == unnumbered == []
    assert list(frame.columns) == list(COLUMNS)
    (row,) = frame.to_dict("records")
    expected = {
        "dataset": "rotated_mnist",
        "protocol": "digits",
        "algorithm": "vrex",
        "data_options": '{"source":"digits"}',
        "trial_seed": 0,
        "data_seed": 0,
        "environment": "75deg",
        "environment_index": 2,
        "held_out_with": "[]",
        "rule": "train_val",
        "state": "finished",
        "step": 50,
        "accuracy": 0.4,
        "nll": 0.5,
        "ece": 0.125,
        "run_id": folder.name,
        "benchmark_version": "1",
    }
    assert {key: row[key] for key in expected} == expected


def test_a_rule_for_all_runs_replaces_their_own(tmp_path: Path) -> None:
    rotated_run(tmp_path, "vrex")
    frame, _ = run_frame(load_runs([tmp_path])[0], "last")
    assert frame[["rule", "step", "accuracy"]].to_dict("records") == [
        {"rule": "last", "step": 100, "accuracy": 0.6}
    ]


def test_a_row_for_each_test_environment(tmp_path: Path) -> None:
    settings = make_settings(test_env=("+90%", "-90%"))
    write_run(tmp_path, settings, [make_check(100, {"+90%/main": 0.7, "-90%/main": 0.2})])
    frame, _ = run_frame(load_runs([tmp_path])[0])
    assert frame[["environment", "held_out_with", "accuracy"]].to_numpy().tolist() == [
        ["+90%", '["-90%"]', 0.7],
        ["-90%", '["+90%"]', 0.2],
    ]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("diverged", "diverged: counts as a missing trial"),
        ("interrupted", "interrupted: resume it"),
        ("running", "running: resume it"),
        ("failed", "failed: resume it"),
    ],
)
def test_a_run_without_number_is_listed_and_keeps_an_empty_row(
    tmp_path: Path, status: str, reason: str
) -> None:
    folder = colored_run(tmp_path, "erm", "-90%", 0, 0.1, status=status)
    runs, _ = load_runs([tmp_path])
    frame, skipped = run_frame(runs)
    assert skipped == [(folder, reason)]
    assert frame["accuracy"].isna().tolist() == [True]
    assert frame["step"].isna().tolist() == [True]
    assert frame["state"].tolist() == [status]


@pytest.mark.parametrize(
    ("splits", "reason"),
    [
        ({}, "the selected check at step 100 has no '-90%/main'"),
        ({"-90%/main": None}, "the selected check at step 100 is not finite on '-90%/main'"),
    ],
)
def test_a_finished_run_without_its_number_is_listed(
    tmp_path: Path, splits: dict[str, float | None], reason: str
) -> None:
    write_run(tmp_path, make_settings(), [make_check(100, splits)])
    frame, skipped = run_frame(load_runs([tmp_path])[0])
    assert [entry.reason for entry in skipped] == [reason]
    assert len(frame) == 1


def test_an_unavailable_rule_is_the_reason(tmp_path: Path) -> None:
    write_run(tmp_path, make_settings(), [make_check(100, {"-90%/main": 0.5})])
    _, skipped = run_frame(load_runs([tmp_path])[0], "train_val")
    assert "no '+90%/holdout'" in skipped[0].reason


def test_leave_one_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="leave_one_out needs runs that hold out one more"):
        run_frame([], "leave_one_out")


def test_a_corrupt_run_is_listed_without_paths_of_the_machine(tmp_path: Path) -> None:
    bad = colored_run(tmp_path, "erm", "-90%", 0, 0.1)
    good = colored_run(tmp_path, "erm", "-90%", 1, 0.1)
    (bad / "checks.jsonl").write_text("")
    runs, skipped = load_runs([tmp_path])
    assert [run.folder for run in runs] == [good]
    assert [entry.path for entry in skipped] == [bad]
    assert skipped[0].reason.startswith("checks.jsonl: sha256 is ")
    assert str(tmp_path) not in skipped[0].reason


def test_a_copy_counts_once(tmp_path: Path) -> None:
    folder = colored_run(tmp_path / "a", "erm", "-90%", 0, 0.1)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    runs, skipped = load_runs([tmp_path / "b", tmp_path / "a"])
    assert [run.folder for run in runs] == [folder]
    assert [entry.reason for entry in skipped] == ["repeats a run that is already here"]
    assert skipped[0].path.is_relative_to(tmp_path / "b")


def test_one_run_id_with_other_numbers_counts_nowhere(tmp_path: Path) -> None:
    colored_run(tmp_path / "a", "erm", "-90%", 0, 0.1)
    colored_run(tmp_path / "b", "erm", "-90%", 0, 0.2)
    runs, skipped = load_runs([tmp_path])
    assert runs == []
    assert {entry.reason for entry in skipped} == {
        "has the run id of other folders here but other numbers: keep one of them"
    }
    assert len(skipped) == 2


def test_a_finished_run_wins_over_its_unfinished_copy(tmp_path: Path) -> None:
    colored_run(tmp_path / "a", "erm", "-90%", 0, 0.1, status="interrupted")
    finished = colored_run(tmp_path / "b", "erm", "-90%", 0, 0.1)
    runs, skipped = load_runs([tmp_path])
    assert [run.folder for run in runs] == [finished]
    assert len(skipped) == 1


def test_benchmark_versions_are_never_mixed(tmp_path: Path) -> None:
    colored_run(tmp_path, "erm", "-90%", 0, 0.1)
    colored_run(tmp_path, "erm", "-90%", 1, 0.1, benchmark_version="2")
    with pytest.raises(RecordError, match="benchmark versions 1 and 2 cannot stand in one table"):
        run_frame(load_runs([tmp_path])[0])


def test_shared_settings_leave_out_only_the_trial_and_what_test_env_implies(
    tmp_path: Path,
) -> None:
    settings = make_settings()
    write_run(tmp_path, settings, [], status="interrupted")
    (row,) = run_frame(load_runs([tmp_path])[0])[0].to_dict("records")
    free = {"trial_seed", "data_seed", "test_env", "train_env"}
    assert set(json.loads(row["settings"])) == set(settings) - free


@pytest.mark.parametrize("train_env", [["+80%", "+90%"], ["+90%"]])
def test_chosen_training_environments_are_a_setting_of_their_own(
    tmp_path: Path, train_env: list[str]
) -> None:
    settings = make_settings(names=COLORED)
    settings["train_env"] = train_env
    write_run(tmp_path, settings, [], status="interrupted")
    (row,) = run_frame(load_runs([tmp_path])[0])[0].to_dict("records")
    assert json.loads(row["settings"])["train_env"] == train_env


def test_order_of_runs_changes_nothing(tmp_path: Path) -> None:
    write_golden_runs(tmp_path)
    runs, _ = load_runs([tmp_path])
    frame, skipped = run_frame(runs)
    backwards, skipped_backwards = run_frame(runs[::-1])
    assert_frame_equal(frame, backwards)
    assert skipped == skipped_backwards
