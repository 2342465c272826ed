"""The record format: names, atomic writing, validation, reading."""

from __future__ import annotations

import copy
import errno
import itertools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from leaderboard import reading, records
from leaderboard.errors import RecordError
from tests.leaderboard.make_golden import (
    colored_run,
    make_check,
    make_run_json,
    make_settings,
    write_run,
)


def run_json(**changes: Any) -> Any:
    return {**make_run_json(make_settings()), **changes}


def with_change(path: str, value: object) -> Any:
    """A run.json in which the value at a dotted path is another one."""
    run = copy.deepcopy(run_json())
    *parents, last = path.split(".")
    target: Any = run
    for key in parents:
        target = target[int(key) if key.isdigit() else key]
    target[last] = value
    return run


def test_import_is_cheap() -> None:
    code = (
        "import sys, leaderboard, leaderboard.records\n"
        "heavy = {'torch', 'pandas', 'scipy', 'numpy', 'jsonschema_rs', 'lightning', "
        "'pytorch_lightning', 'dgbench', 'datamodules'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_imports_nothing_of_the_project_and_no_torch() -> None:
    forbidden = re.compile(
        r"^\s*(import|from)\s+(torch|lightning|pytorch_lightning|dgbench|datamodules)\b", re.M
    )
    files = list(Path(records.__file__).parent.rglob("*.py"))
    assert files
    assert [file.name for file in files if forbidden.search(file.read_text("utf-8"))] == []


# Names and places


def test_canonical_json_is_one_text() -> None:
    assert records.canonical_json({"b": [1, 1.0, 1e-07], "a": "é"}) == (
        '{"a":"\\u00e9","b":[1,1.0,1e-07]}'
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, Path("x")])
def test_canonical_json_refuses_what_json_cannot_hold(value: object) -> None:
    with pytest.raises(RecordError, match=r"cannot be written as JSON.*convert the value first"):
        records.canonical_json({"value": value})


def test_run_id_is_golden_and_ignores_the_order_of_keys() -> None:
    settings = make_settings()
    backwards = dict(reversed(settings.items()))
    assert records.run_id("1", settings) == records.run_id("1", backwards) == "746bc8be653373e0"


def test_run_id_depends_on_version_and_on_each_setting() -> None:
    settings = make_settings()
    ids = {records.run_id("1", settings), records.run_id("2", settings)}
    for key in settings:
        ids.add(records.run_id("1", {**settings, key: "changed"}))
    assert len(ids) == len(settings) + 2


@pytest.mark.parametrize("name", ["erm", "erm_plus_plus", "colored-mnist", "x9"])
def test_folder_name_keeps_plain_names(name: str) -> None:
    assert records.folder_name(name) == name


def test_folder_name_tells_other_names_apart() -> None:
    names = ["a.B", "a.b", "A.b", "a-b", "a/b", "a b", "é", "..", "ERM", "erm", "x" * 300]
    folders = [records.folder_name(name) for name in names]
    assert len(set(folders)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_-]{1,100}", folder) for folder in folders)
    assert records.folder_name("my_package.MyAlgorithm").startswith("my_package-myalgorithm-")


def test_folder_name_refuses_the_empty_name() -> None:
    with pytest.raises(RecordError, match="empty name"):
        records.folder_name("")


def test_run_folder(tmp_path: Path) -> None:
    folder = records.run_folder(tmp_path, "colored_mnist", "irm", "0123456789abcdef")
    assert folder == tmp_path / "colored_mnist" / "irm" / "0123456789abcdef"
    assert not folder.exists()


# Writing


def test_write_json_atomic_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    records.write_json_atomic(path, {"old": 1})
    records.write_json_atomic(path, {"new": 2})
    assert json.loads(path.read_text()) == {"new": 2}
    assert os.listdir(tmp_path) == ["run.json"]


def test_kill_before_the_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    records.write_json_atomic(path, {"old": 1})

    def killed(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        records.write_json_atomic(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["run.json"]


def test_write_json_atomic_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    records.write_json_atomic(path, {"old": 1})
    with pytest.raises(RecordError, match="cannot be written as JSON"):
        records.write_json_atomic(path, {"new": math.nan})
    assert json.loads(path.read_text()) == {"old": 1}


def test_checks_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "checks.jsonl"
    checks = [make_check(0, {"a/main": 0.5}), make_check(50, {"a/main": 0.1 + 0.2})]
    for check in checks:
        records.append_check(path, check)
    assert records.read_checks(path) == checks
    assert path.read_bytes().count(b"\n") == 2


def test_append_check_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real_open, writes = open, []

    def counting_open(*args: Any, **kwargs: Any) -> Any:
        file = real_open(*args, **kwargs)
        if str(args[0]).endswith("checks.jsonl"):

            class Counting:
                def __enter__(self) -> Counting:
                    return self

                def __exit__(self, *_: object) -> None:
                    file.close()

                def write(self, data: bytes) -> int:
                    writes.append(data)
                    return int(file.write(data))

                def fileno(self) -> int:
                    return int(file.fileno())

            return Counting()
        return file

    monkeypatch.setattr(builtins, "open", counting_open)
    records.append_check(tmp_path / "checks.jsonl", make_check(50, {"a/main": 0.5}))
    assert len(writes) == 1
    assert writes[0].endswith(b"\n")


def test_numbers_that_are_not_finite_become_null_and_the_line_says_diverged(
    tmp_path: Path,
) -> None:
    path = tmp_path / "checks.jsonl"
    check = make_check(50, {"a/main": math.nan})
    check["train"]["loss"] = math.inf
    records.append_check(path, check)
    (read,) = records.read_checks(path)
    assert read["splits"]["a/main"]["accuracy"] is None
    assert read["train"]["loss"] is None
    assert read["diverged"] is True
    assert "NaN" not in path.read_text()
    assert "Infinity" not in path.read_text()
    assert "diverged" not in check


def test_append_check_refuses_an_unknown_key(tmp_path: Path) -> None:
    check: Any = {**make_check(50, {}), "epoch": 3}
    with pytest.raises(RecordError, match="'epoch' was unexpected"):
        records.append_check(tmp_path / "checks.jsonl", check)
    assert not (tmp_path / "checks.jsonl").exists()


def test_a_torn_last_line_is_left_out_at_every_cut(tmp_path: Path) -> None:
    path = tmp_path / "checks.jsonl"
    checks = [make_check(step, {"a/main": 0.5}) for step in (50, 100)]
    for check in checks:
        records.append_check(path, check)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        assert records.read_checks(path) == checks[:1]


def test_truncate_checks_makes_a_torn_file_ready_for_appending(tmp_path: Path) -> None:
    path = tmp_path / "checks.jsonl"
    checks = [make_check(step, {"a/main": 0.5}) for step in (50, 100, 150)]
    for check in checks:
        records.append_check(path, check)
    path.write_bytes(path.read_bytes()[:-20])
    records.truncate_checks(path, last_step=50)
    assert records.read_checks(path) == checks[:1]
    records.append_check(path, checks[1])
    assert records.read_checks(path) == checks[:2]


def test_truncate_checks_keeps_the_bytes_of_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "checks.jsonl"
    records.append_check(path, make_check(50, {"a/main": 1 / 3}))
    before = path.read_bytes()
    records.truncate_checks(path, last_step=50)
    assert path.read_bytes() == before


def test_truncate_checks_of_a_missing_file_does_nothing(tmp_path: Path) -> None:
    records.truncate_checks(tmp_path / "checks.jsonl", last_step=50)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("{}\n", r'line 1: .*"step" is a required property'),
        ("not json\n", r"line 1: not JSON"),
        ('{"step": NaN}\n', r"line 1: holds NaN, which JSON does not have"),
    ],
)
def test_read_checks_names_the_bad_line(tmp_path: Path, lines: str, message: str) -> None:
    path = tmp_path / "checks.jsonl"
    path.write_text(lines)
    with pytest.raises(RecordError, match=message):
        records.read_checks(path)


def test_read_checks_refuses_steps_that_do_not_ascend(tmp_path: Path) -> None:
    path = tmp_path / "checks.jsonl"
    for step in (50, 50):
        records.append_check(path, make_check(step, {}))
    with pytest.raises(RecordError, match="line 2: step 50 follows step 50, but steps ascend"):
        records.read_checks(path)


def test_checks_that_two_processes_wrote_are_repaired_for_a_run_that_goes_on(
    tmp_path: Path,
) -> None:
    path = tmp_path / "checks.jsonl"
    lines = [make_check(step, {"a/main": number / 10}) for number, step in enumerate((5, 10, 10))]
    for line in lines:
        records.append_check(path, line)
    assert records.read_checks(path, repaired=True) == lines[:2]
    records.truncate_checks(path, 10)
    assert records.read_checks(path) == lines[:2]


def test_a_copy_takes_its_place_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, path = tmp_path / "source", tmp_path / "copy"
    source.write_text("new")
    path.write_text("old")

    def half(source: Path, copy: Path) -> None:
        copy.write_text("n")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("shutil.copyfile", half)
        with pytest.raises(OSError, match="No space"):
            records.copy(source, path)
    assert path.read_text() == "old"
    records.remove_temporaries(tmp_path)
    assert sorted(tmp_path.iterdir()) == [path, source]
    records.copy(source, path)
    assert path.read_text() == "new"


def test_a_folder_is_emptied_of_what_could_go_on_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[str] = []
    for name in ("checks.jsonl", "run.json", "done.json", "selected.ckpt", "last.ckpt"):
        (tmp_path / name).touch()
    (tmp_path / "logs").mkdir()
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok: gone.append(self.name))
    records.empty(tmp_path)
    assert gone == ["done.json", "last.ckpt", "selected.ckpt"]
    assert list(tmp_path.iterdir()) == []


def test_write_done_hashes_the_record_and_its_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(b"abc")
    (tmp_path / "checks.jsonl").write_bytes(b"")
    (tmp_path / "last.ckpt").write_bytes(b"abc")
    done = records.write_done(
        tmp_path, status="finished", last_step=5, selected={"train_val": None}, seconds=1.0
    )
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert done["sha256"] == {"run.json": abc, "checks.jsonl": empty, "last.ckpt": abc}
    assert json.loads((tmp_path / "done.json").read_text()) == done


def test_write_done_refuses_a_folder_without_record(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no run\.json, so the run cannot be closed"):
        records.write_done(tmp_path, status="finished", last_step=5, selected={}, seconds=1.0)


# Validating


def test_validate_run_accepts_a_full_record() -> None:
    assert records.validate_run(run_json()) == run_json()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("colour", 1, "'colour' was unexpected"),
        ("settings.colour", 1, "settings: .*'colour' was unexpected"),
        ("settings.steps", "many", r'settings\.steps: "many" is not of type "integer"'),
        ("settings.steps", 0, r"settings\.steps: 0 is less than the minimum of 1"),
        ("settings.selection", "best", r'settings\.selection: "best" is not one of'),
        ("settings.algo", {}, r'settings\.algo: "name" is a required property'),
        ("settings.test_env", [], r"settings\.test_env"),
        ("environments.0.role", "held out", r'environments\.0\.role: "held out" is not one of'),
        ("provenance.created", "yesterday", r"provenance\.created"),
        ("hardware.threads", 0, r"hardware\.threads"),
        ("benchmark_version", "1 | 2", "benchmark_version"),
        ("schema", "dgbench.run/2", "'dgbench.run/2' is newer than .*: upgrade dgbench"),
        ("schema", "dgbench.done/1", "'dgbench.done/1' is not a 'dgbench.run' record"),
        ("schema", 1, "schema 1 is not a 'dgbench.run' record"),
        ("run_id", "0" * 16, "does not belong to these settings"),
        ("environments.0.role", "unused", r"role 'train' are \['\+80%'\], but settings\.train_env"),
    ],
)
def test_validate_run_refuses(path: str, value: object, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        records.validate_run(with_change(path, value))


@pytest.mark.parametrize("obj", [None, [], "run", {}])
def test_validate_run_refuses_what_is_no_record(obj: object) -> None:
    with pytest.raises(RecordError, match=r"is not a 'dgbench.run' record"):
        records.validate_run(obj)


@pytest.mark.parametrize("key", sorted(make_settings()))
def test_every_setting_is_required(key: str) -> None:
    run = run_json()
    run["settings"] = {k: v for k, v in run["settings"].items() if k != key}
    with pytest.raises(RecordError, match=f'"{key}" is a required property'):
        records.validate_run(run)


@pytest.mark.parametrize(
    ("metric", "value", "message"),
    [("accuracy", 64.5, "greater than the maximum"), ("n", 0, "minimum"), ("f1", 1, "unexpected")],
)
def test_validate_check_refuses(metric: str, value: float, message: str) -> None:
    check: Any = make_check(50, {"a/main": 0.5})
    check["splits"]["a/main"][metric] = value
    with pytest.raises(RecordError, match=message):
        records.validate_check(check)


def test_validate_done_refuses_a_newer_schema_and_an_unknown_rule() -> None:
    done = {
        "schema": "dgbench.done/1",
        "status": "finished",
        "last_step": 1,
        "selected": {"last": 1},
        "seconds": 1.0,
        "sha256": {"run.json": "0" * 64, "checks.jsonl": "0" * 64},
    }
    assert records.validate_done(done) == done
    with pytest.raises(RecordError, match="upgrade dgbench"):
        records.validate_done({**done, "schema": "dgbench.done/12"})
    with pytest.raises(RecordError, match='"best" is not one of'):
        records.validate_done({**done, "selected": {"best": 1}})


def test_validate_status_refuses_an_unknown_status() -> None:
    with pytest.raises(RecordError, match=r'status\.json: status: "lost" is not one of'):
        records.validate_status({"status": "lost", "step": 1, "error": None})


# Reading


def test_read_run_round_trip(tmp_path: Path) -> None:
    folder = colored_run(tmp_path, "erm", "-90%", 0, 0.1)
    run = records.read_run(folder)
    assert run.folder == folder
    assert run.run == make_run_json(make_settings())
    assert [check["step"] for check in run.checks] == [50, 100]
    assert run.done is not None
    assert run.done["selected"] == {"train_val": 50, "oracle": 100, "last": 100}


@pytest.mark.parametrize("name", ["run.json", "checks.jsonl"])
def test_read_run_refuses_a_file_changed_after_the_end(tmp_path: Path, name: str) -> None:
    folder = colored_run(tmp_path, "erm", "-90%", 0, 0.1)
    file = folder / name
    file.write_text(file.read_text().replace("0.1", "0.9").replace("16.0", "17.0"))
    with pytest.raises(RecordError, match=f"{name}: sha256 is .* changed after the run ended"):
        records.read_run(folder)


def test_checkpoints_are_verified_only_on_request(tmp_path: Path) -> None:
    folder = colored_run(tmp_path, "erm", "-90%", 0, 0.1)
    records.read_run(folder)
    with pytest.raises(RecordError, match=r"last\.ckpt: sha256 is missing"):
        records.read_run(folder, verify_checkpoints=True)
    (folder / "last.ckpt").write_bytes(b"weights")
    records.read_run(folder, verify_checkpoints=True)


def test_read_run_refuses_a_folder_without_run_json(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no run\.json, so this is no run folder"):
        records.read_run(tmp_path)


def test_read_run_names_a_file_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(b"\xff{")
    with pytest.raises(RecordError, match=r"run\.json: not JSON .*run these settings again"):
        records.read_run(tmp_path)


@pytest.mark.parametrize("state", ["finished", "diverged", "interrupted", "running", "failed"])
def test_state(tmp_path: Path, state: str) -> None:
    folder = write_run(tmp_path, make_settings(), [make_check(50, {})], status=state)
    assert records.read_run(folder).state == state


def test_a_run_killed_without_status_or_just_before_the_end_is_interrupted(
    tmp_path: Path,
) -> None:
    folder = write_run(tmp_path, make_settings(), [], status="finished-but-not-done")
    (folder / "status.json").unlink()
    assert records.read_run(folder).state == "interrupted"
    records.write_json_atomic(
        folder / "status.json", {"status": "finished", "step": 100, "error": None}
    )
    assert records.read_run(folder).state == "interrupted"


def test_find_runs_takes_run_folders_and_parents_and_lists_each_once(tmp_path: Path) -> None:
    first = colored_run(tmp_path, "erm", "-90%", 0, 0.1)
    second = colored_run(tmp_path, "irm", "-90%", 0, 0.6)
    (tmp_path / "notes").mkdir()
    found = records.find_runs([tmp_path, first, str(second.parent)])
    assert found == sorted([first, second])
    assert records.find_runs([first]) == [first]
    assert records.find_runs([tmp_path / "notes"]) == []


def test_find_runs_refuses_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is no folder: name run folders"):
        records.find_runs([tmp_path / "nowhere"])


# Network file systems


def test_a_rename_whose_reply_was_lost_has_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.replace

    def twice(source: Path, target: Path) -> None:
        rename(source, target)
        rename(source, target)  # the client asks again, and the file has moved

    monkeypatch.setattr(os, "replace", twice)
    path = tmp_path / "file.json"
    for number in range(2):
        records.write_json_atomic(path, {"number": number})
        assert json.loads(path.read_text()) == {"number": number}
    monkeypatch.setattr(os, "replace", lambda source, target: os.stat(tmp_path / "not there"))
    with pytest.raises(FileNotFoundError):
        records.write_json_atomic(path, {"number": 2})


def test_a_file_that_is_replaced_while_it_is_read_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = colored_run(tmp_path, "erm", "-90%", 0, 0.5, status="running")
    usual = reading.open_regular

    def going_stale(*times: bool) -> None:
        stale = itertools.cycle(times)

        def open_regular(path: Path, most: int) -> BinaryIO:
            if next(stale):
                raise OSError(errno.ESTALE, "Stale file handle")
            return usual(path, most)

        monkeypatch.setattr(reading, "open_regular", open_regular)

    going_stale(True, True, False)
    assert records.read_run(folder).state == "running"
    going_stale(True)
    with pytest.raises(OSError, match="Stale file handle"):
        records.read_run(folder)
