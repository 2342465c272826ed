"""Of the folders of one run the newest one counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaderboard import generations, records
from leaderboard.sources import load
from tests.leaderboard.make_golden import make_check, make_run_json, make_settings


@pytest.mark.parametrize(
    ("name", "following"),
    [
        ("abc", "abc-generation-2"),
        ("abc-generation-2", "abc-generation-3"),
        ("abc-generation-9", "abc-generation-10"),
        ("abc-generation-", "abc-generation--generation-2"),
        ("-generation-2", "-generation-2-generation-2"),
        ("abc-generation-²", "abc-generation-²-generation-2"),
    ],
)
def test_generations_are_counted(name, following, tmp_path):
    assert generations.following(tmp_path / name) == tmp_path / following


def test_the_newest_is_found_from_each(tmp_path):
    names = ["abc", "abc-generation-2", "abc-generation-3"]
    folders = [tmp_path / name for name in names]
    assert generations.current(folders[0]) == folders[0]
    for folder in folders[1:]:
        folder.mkdir()
    assert [generations.current(folder) for folder in folders] == [folders[2]] * 3
    assert generations.up_to(folders[2]) == folders
    assert generations.newest_of([*names, "def", ".hidden"]) == [names[2], "def"]


def test_the_folder_of_now_has_generations_too(tmp_path, monkeypatch):
    (tmp_path / "abc").mkdir()
    monkeypatch.chdir(tmp_path / "abc")
    assert generations.current(Path()) == Path()
    (tmp_path / "abc-generation-2").mkdir()
    assert generations.current(Path()) == tmp_path / "abc-generation-2"


def finished(folder: Path, seconds: float) -> Path:
    settings = make_settings(algorithm="erm")
    folder.mkdir(parents=True)
    records.write_json_atomic(folder / records.RUN_FILE, make_run_json(settings))
    accuracies = {f"{name}/main": 0.5 for name in settings["test_env"]}
    records.append_check(folder / records.CHECKS_FILE, make_check(100, accuracies))
    records.write_done(folder, status="finished", last_step=100, selected={}, seconds=seconds)
    return folder


@pytest.mark.parametrize("late", [False, True], ids=["unfinished", "finished late"])
def test_readers_see_the_newest_alone(late, tmp_path):
    first = finished(tmp_path / "data" / "erm" / "abc", seconds=1.0)
    newest = finished(generations.following(first), seconds=2.0)
    made = finished(first.with_name(".abc.copies-x") / newest.name, seconds=3.0)
    if not late:
        (first / records.DONE_FILE).unlink()
    assert records.read_run(first).folder == newest
    assert records.is_finished(first)
    assert made.exists()
    for path in (tmp_path, first, newest):
        assert records.find_runs([path]) == [newest]
        (record,), left_out = load([path])
        assert (record.place, record.total_seconds, left_out) == (
            "data/erm/abc-generation-2",
            2.0,
            [],
        )
