"""One bad record stops no table: it is named, and the rest stands."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
from pathlib import Path

import pytest

from leaderboard import records
from leaderboard.board import Board
from leaderboard.build import build, build_parity, load_board
from leaderboard.errors import RecordError
from leaderboard.outputs import texts
from leaderboard.page import page
from leaderboard.reading import parse_json
from tests.hostile import CONTENTS, KINDS, VALUES, places, with_value, within
from tests.leaderboard.make_golden import colored_run
from tests.leaderboard.make_sweep import write_job, write_sweep

FILES = ("run.json", "checks.jsonl", "done.json", "status.json")
STATUS = {"status": "finished", "step": 100, "error": None}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs of one row, and one of another."""
    folder = tmp_path_factory.mktemp("good")
    for trial in range(3):
        run = colored_run(folder / "runs", "erm", "-90%", trial, 0.5 + trial / 10)
        records.write_json_atomic(run / "status.json", STATUS)
    records.write_json_atomic(
        colored_run(folder / "runs", "irm", "-90%", 0, 0.6) / "status.json", STATUS
    )
    return folder / "runs"


@pytest.fixture
def bad(good: Path, tmp_path: Path) -> Path:
    """The run of the other row, in a copy."""
    shutil.copytree(good, tmp_path / "runs")
    (run,) = records.find_runs([tmp_path / "runs" / "colored_mnist" / "irm"])
    return run


def shown(board: Board) -> str:
    return "".join([*texts(board).values(), page(board)])


def board_without(bad: Path) -> Board:
    """The board, on which the three other runs are as they were and the bad one is named."""
    with within(20):
        board = load_board([bad.parents[2]], "last")
        text = shown(board)
    (left_out,) = board.left_out
    assert left_out.place.endswith(bad.name)
    assert left_out.place in text
    ((row,),) = (section.rows for section in board.sections)
    (cell,) = row.cells
    assert cell.n == 3
    assert cell.accuracy is not None
    assert cell.accuracy.mean == pytest.approx(0.6)
    return board


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_of_another_content_is_named(name: str, file: str, bad: Path) -> None:
    (bad / file).write_bytes(CONTENTS[name])
    board_without(bad)


@pytest.mark.parametrize("file", FILES[1:])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_named(kind: str, file: str, bad: Path) -> None:
    (bad / file).unlink()
    KINDS[kind](bad / file)
    board_without(bad)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a folder"])
def test_a_run_json_that_is_no_file_is_named(kind: str, bad: Path) -> None:
    (bad / "run.json").unlink()
    KINDS[kind](bad / "run.json")
    board_without(bad)


def rehash(run: Path) -> None:
    """Makes a changed record consistent, as somebody who means it would."""
    with contextlib.suppress(ValueError, TypeError, LookupError, RecursionError, RecordError):
        content = json.loads((run / "run.json").read_text())
        content["run_id"] = records.run_id(content["benchmark_version"], content["settings"])
        (run / "run.json").write_text(json.dumps(content))
    done = json.loads((run / "done.json").read_text())
    for name in ("run.json", "checks.jsonl"):
        done["sha256"][name] = hashlib.sha256((run / name).read_bytes()).hexdigest()
    (run / "done.json").write_text(json.dumps(done))


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("file", ["run.json", "checks.jsonl", "done.json"])
def test_no_value_anywhere_stops_a_table(file: str, name: str, bad: Path) -> None:
    """Whether it is allowed there or not: hashes are right, so that it is read."""
    before = (bad / file).read_text()
    lines = before.splitlines() if file == "checks.jsonl" else [before]
    content = json.loads(lines[0])
    for place in random.Random(f"{file} {name}").sample(places(content), 4):
        (bad / file).write_text("\n".join([with_value(content, place, VALUES[name]), *lines[1:]]))
        if file != "done.json":
            rehash(bad)
        with within(20):
            board = load_board([bad.parents[2]], "last")
            text = shown(board)
        (row,) = (r for section in board.sections for r in section.rows if r.label == "erm")
        assert [cell.n for cell in row.cells] == [3]
        assert all(entry.place in text for entry in board.left_out)


@pytest.mark.parametrize("seconds", ["1e308", str(10**30), "1e13"])
@pytest.mark.parametrize("file", ["done.json", "checks.jsonl"])
def test_no_run_takes_longer_than_anything(file: str, seconds: str, bad: Path) -> None:
    """Squares of such numbers overflow, and no pack can hold them."""
    before = (bad / file).read_text()
    after = re.sub(r'"seconds": ?[0-9.]+', f'"seconds": {seconds}', before)
    assert after != before
    (bad / file).write_text(after)
    if file == "checks.jsonl":
        rehash(bad)
    (left_out,) = board_without(bad).left_out
    assert "seconds" in left_out.reason


def test_a_value_that_is_named_twice_is_not_guessed(bad: Path) -> None:
    text = (bad / "checks.jsonl").read_text()
    (bad / "checks.jsonl").write_text(text.replace('"accuracy":', '"accuracy":0.99,"accuracy":', 1))
    rehash(bad)
    (left_out,) = board_without(bad).left_out
    assert "names 'accuracy' twice" in left_out.reason


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "\x07", "\x7f"])
@pytest.mark.parametrize("place", ["algo", "data", "environment", "class", "job"])
def test_a_name_that_acts_in_a_terminal_is_none(place: str, name: str, bad: Path) -> None:
    content = json.loads((bad / "run.json").read_text())
    if place == "job":
        job = write_job(bad.parents[2], "PACS", name, (0,), 0, 0, 4, random.Random(0))
        (left_out,) = load_board([bad.parents[2]], "last").left_out
        assert left_out.place.endswith(job.name)
        return
    if place == "environment":
        content["environments"][2]["name"] = content["settings"]["test_env"][0] = name
    elif place == "class":
        content["class_names"][0] = name
    else:
        content["settings"][place]["name"] = name
    (bad / "run.json").write_text(json.dumps(content))
    rehash(bad)
    (left_out,) = board_without(bad).left_out
    assert left_out.reason.isprintable()


def test_a_folder_whose_name_is_no_text_has_a_place(bad: Path, tmp_path: Path) -> None:
    named = Path(os.fsdecode(os.fsencode(bad.parent) + b"\xff"))
    bad.parent.rename(named)
    board = load_board([tmp_path / "runs"], "last")
    assert board.left_out == ()
    assert "irm\\udcff" in shown(board) or board.runs
    (named / bad.name / "checks.jsonl").write_text("{")
    (left_out,) = load_board([tmp_path / "runs"], "last").left_out
    assert left_out.place == f"colored_mnist/irm\\udcff/{bad.name}"
    build([tmp_path / "runs"], tmp_path / "out", "last")


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ("args.algorithm", {"name": "ERM"}, "is no name"),
        ("args.algorithm", "\ud800", "surrogates"),
        ("args.dataset", ["PACS"], "no result of DomainBed"),
        ("args.trial_seed", "0", "no seed"),
        ("args.hparams_seed", 2**70, "no seed"),
        ("args.test_envs", [-1], "no environment -1"),
        ("args.test_envs", [9], "no result of DomainBed"),
        ("hparams", [[[]]], "no result of DomainBed"),
        ("step", 2**63, "a step is no number"),
        ("step", 1e300, "a step is no number"),
        ("env0_out_acc", "high", "no result of DomainBed"),
        ("env999999999_in_acc", 0.5, "accuracies are not both of 1000000000 environments"),
        ("deep", json.loads("[" * 200 + "]" * 200), "nested deeper"),
    ],
)
def test_a_job_of_another_shape_is_named(
    place: str, value: object, reason: str, bad: Path, tmp_path: Path
) -> None:
    job = write_job(tmp_path / "runs", "PACS", "ERM", (0,), 0, 0, 4, random.Random(0))
    lines = [json.loads(line) for line in (job / "results.jsonl").read_text().splitlines()]
    for line in lines:
        *sections, name = place.split(".")
        target = line
        for section in sections:
            target = target[section]
        target[name] = value
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (job / "results.jsonl").write_text(text)
    with within(5):
        board = load_board([tmp_path / "runs"])
        shown(board)
    (left_out,) = board.left_out
    assert left_out.place.endswith(job.name)
    assert reason in left_out.reason


def test_a_job_that_lacks_a_split_does_not_stop_the_others_parity(tmp_path: Path) -> None:
    write_sweep(tmp_path / "jobs")
    job = min((tmp_path / "jobs").iterdir())
    lines = [json.loads(line) for line in (job / "results.jsonl").read_text().splitlines()]
    for line in lines:
        del line["env1_out_acc"]
    (job / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "Averages" in build_parity([tmp_path / "jobs"], tmp_path / "out")


# The reader itself


@pytest.mark.parametrize("value", [{}, {"a": [1, 2.5, None, True, "\u00e9\U0001f600"]}, [[]], 3])
def test_json_is_parsed_as_python_does(value: object) -> None:
    for text in (
        json.dumps(value),
        json.dumps(value, indent=2, sort_keys=True) + "\n",
        json.dumps(value, ensure_ascii=False),
        json.dumps(value, separators=(",", ":")) + "\n",
    ):
        assert parse_json(text.encode()) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 1}', "names 'a' twice"),
        ('{"a":1,"a":1}', "names 'a' twice"),
        ('{"a":1,"\\u0061":1}', "names 'a' twice"),
        ("[1e999]", "holds 1e999"),
        ("[NaN]", "holds NaN"),
        ('["\\udc00"]', "surrogates"),
        ("9" * 5000, "4300"),
        ("[" * 101 + "]" * 101, "nested deeper"),
        ("[" * 10**6, "nested deeper"),
        ("", "not JSON"),
        ("\ufeff{}", "not JSON"),
        ("{} {}", "not JSON"),
    ],
)
def test_json_that_could_mean_two_things_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        parse_json(text.encode())
