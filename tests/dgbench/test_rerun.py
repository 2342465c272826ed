"""Reruns of single records: equal to the last bit, or different and by how much."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from dgbench import rerun
from leaderboard import records
from leaderboard.frame import from_run
from leaderboard.pack import pack
from leaderboard.sources import load
from tests.dgbench.tiny import command, fit


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return fit(tmp_path_factory.mktemp("original") / "runs", "--selection", "train_val", algo="irm")


@pytest.fixture(scope="module")
def again(original, tmp_path_factory) -> Path:
    """The folder of a rerun, which later commands find finished."""
    out = tmp_path_factory.mktemp("reproduced")
    code, shown, errors = command("reproduce", original, "--out", out)
    assert (code, errors) == (0, "")
    assert "Weights: equal, to the bit." in shown
    assert "Equal: every number of every check." in shown
    return out


def change(folder: Path, accuracy: float) -> None:
    """Writes another accuracy into a record, with new hashes."""
    lines = records.read_checks(folder / "checks.jsonl")
    for line in lines:
        found = line["splits"]["-90%/main"]
        assert found["accuracy"] is not None
        found["accuracy"] += accuracy
    records.rewrite_checks(folder / "checks.jsonl", lines)
    done = json.loads((folder / "done.json").read_text())
    kept = {name: done[name] for name in ("status", "last_step", "selected", "seconds", "weights")}
    records.write_done(folder, **kept)


@pytest.mark.parametrize(
    ("accuracy", "tolerance", "code", "verdict"),
    [
        (0.005, 0.01, 0, "Different, within the tolerance 0.01"),
        (0.005, 0.001, 1, "DIFFERENT, beyond the tolerance 0.001"),
        (0.02, 0.01, 1, "DIFFERENT, beyond the tolerance 0.01"),
    ],
)
def test_a_difference_is_measured_and_judged(
    accuracy, tolerance, code, verdict, original, again, tmp_path
):
    folder = Path(shutil.copytree(original, tmp_path / "runs" / original.name))
    change(folder, accuracy)
    found, shown, _ = command("reproduce", folder, "--out", again, "--tolerance", tolerance)
    assert found == code
    assert verdict in shown
    assert f"{accuracy:.2g}" in shown
    assert "-90%/main" in shown


def test_a_record_is_found_by_file_by_run_id_and_in_a_pack(original, again, tmp_path, monkeypatch):
    monkeypatch.chdir(original.parents[3])
    packed = pack(load([original])[0], tmp_path / "records.jsonl")
    for name in (original / "run.json", original.name, packed):
        code, shown, errors = command("reproduce", name, "--out", again)
        assert code == 0, errors
        assert "Equal: every number" in shown


def test_what_changed_between_them_is_warned_of(original, again):
    first = from_run(records.read_run(original))
    run = first.run
    run["provenance"]["packages"]["torch"] = "1.0"
    run["provenance"]["git"] = {"commit": "abc", "dirty": True}
    changed = SimpleNamespace(run=run)
    found = list(rerun.warnings(changed, first))  # type: ignore[arg-type]
    assert any(line.startswith("torch: 1.0 in the record") for line in found)
    assert any(line.startswith("commit: abc in the record") for line in found)
    assert any("changes that were not committed" in line for line in found)


def test_other_data_and_other_ends_are_different_whatever_the_numbers(original):
    record = from_run(records.read_run(original))
    assert rerun.compare(record, record, 0).equal
    run = record.run
    run["data_fingerprint"] = "0" * 64
    other = SimpleNamespace(
        run=run, state="diverged", checks=record.checks, done=record.done, rule=record.rule,
        test=record.test,
    )  # fmt: skip
    comparison = rerun.compare(record, other, 1)  # type: ignore[arg-type]
    assert not comparison.reproduced
    assert [line.partition(":")[0] for line in comparison.otherwise] == ["the data", "the end"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "9"], "The rerun would differ from the record in steps"),
        (["--run-id", "0" * 16], "holds no finished record 0000"),
    ],
)
def test_misuse_is_refused_with_a_hint(arguments, message, original, tmp_path):
    code, _, errors = command("reproduce", original, "--out", tmp_path, *arguments)
    assert code == 2
    assert message in errors


def test_a_rerun_does_not_take_its_own_record_for_one(original):
    code, _, errors = command("reproduce", original, "--out", original.parents[2])
    assert code == 2
    assert "is the record itself" in errors
