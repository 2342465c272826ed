"""What became of a sweep is shown whatever became of its files."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from dgbench.sweep.state import seconds_of, step_of
from leaderboard import records
from tests.dgbench.tiny import TINY, command
from tests.hostile import KINDS, within


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory) -> Path:
    """The folder of a sweep of two runs that is carried out."""
    out = tmp_path_factory.mktemp("runs")
    call = ["sweep", "--datasets", "colored_mnist", "--algos", "erm,irm", "--test-envs", "2"]
    call += ["--trials", "1", "--executor", "commands", "--out", str(out), *TINY]
    code, shown, errors = command(*call)
    assert code == 0, errors
    for line in shown.splitlines():
        assert command(*shlex.split(line)[3:])[0] == 0
    return out


@pytest.fixture
def swept(carried_out, tmp_path) -> tuple[Path, Path]:
    """The folders of one of the runs and of the sweep, in a copy."""
    out = Path(shutil.copytree(carried_out, tmp_path / "runs"))
    return records.find_runs([out])[0], out


@pytest.mark.parametrize(
    "content", [b'{"schema": "dgbench.d', b"[" * 5000, b'{"a": 1, "a": 2}', b""]
)
@pytest.mark.parametrize("name", ["done.json", "status.json"])
def test_a_torn_record_is_named_and_the_others_are_shown(name, content, swept):
    first, out = swept
    (first / name).write_bytes(content)
    if name == "status.json":  # of a finished run, nobody reads it
        (first / "done.json").unlink()
    code, shown, errors = command("sweep", "status", "--out", out)
    assert (code, errors) == (0, "")
    assert "1 of 2 runs finished" in shown
    assert "1 unreadable" in shown
    assert f"Unreadable: {first / name}: " in shown
    assert step_of(first) == (4 if name == "done.json" else 0)
    assert seconds_of(first) is None


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_ends_no_status(kind, swept):
    first, out = swept
    (first / "done.json").unlink()
    KINDS[kind](first / "done.json")
    with within(20):
        code, shown, _ = command("sweep", "status", "--out", out)
    assert code == 0
    assert f"Unreadable: {first / 'done.json'}" in shown.replace("[Errno 40] ", "") or (
        "Unreadable: [Errno" in shown
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda content: "{",
        lambda content: "[" * 5000,
        lambda content: "{}",
        lambda content: json.dumps({**content, "runs": [3]}),
        lambda content: json.dumps({**content, "runs": [{}]}),
        lambda content: json.dumps({**content, "runs": [{**content["runs"][0], "more": 1}]}),
        lambda content: json.dumps({**content, "runs": [{**content["runs"][0], "algo": 1}]}),
        lambda content: json.dumps({**content, "runs": [{**content["runs"][0], "trial": "x"}]}),
    ],
)
def test_a_damaged_list_of_runs_is_one_message(change, swept):
    _, out = swept
    (path,) = (out / "sweeps").glob("*.json")
    path.write_text(change(json.loads(path.read_text())))
    code, _, errors = command("sweep", "status", "--out", out)
    assert code == 2
    assert f"{path} cannot be read as the list of a sweep's runs" in errors
    assert errors.count("\n") == 1
