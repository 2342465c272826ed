"""Packed files give back what was packed, byte for byte the same each time."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from leaderboard.errors import RecordError
from leaderboard.filling import make_board
from leaderboard.pack import pack, read_pack
from leaderboard.sources import load
from tests.leaderboard.make_golden import GOLDEN, colored_run
from tests.leaderboard.make_sweep import write_sweep

SUFFIXES = pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])


@SUFFIXES
def test_a_pack_makes_the_board_of_its_runs(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    write_sweep(tmp_path / "sweep")
    records, _ = load([GOLDEN / "records", tmp_path / "sweep"])
    packed = list(read_pack(pack(records, tmp_path / f"records{suffix}")))
    first, second = make_board(records), make_board(packed)
    assert (first.sections, first.overall) == (second.sections, second.overall)
    assert (first.sha256, first.left_out) == (second.sha256, second.left_out)
    for run_id, record in first.runs.items():
        # As text, because seconds that a source does not tell are NaN.
        assert repr(second.runs[run_id].checks.lines()) == repr(record.checks.lines())
        assert second.runs[run_id].run == record.run


@SUFFIXES
def test_packs_are_byte_stable(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    records, _ = load([GOLDEN / "records"])
    first = pack(records, tmp_path / f"a{suffix}").read_bytes()
    shuffled = random.Random(1).sample([*records, records[0]], len(records) + 1)
    assert pack(shuffled, tmp_path / f"b{suffix}").read_bytes() == first
    again = list(read_pack(tmp_path / f"a{suffix}"))
    assert pack(again, tmp_path / f"c{suffix}").read_bytes() == first


def test_a_pack_is_found_in_a_folder(tmp_path: Path) -> None:
    records, _ = load([GOLDEN / "records"])
    pack(records, tmp_path / "below" / "records.jsonl")
    assert len(load([tmp_path])[0]) == len(records)


def test_two_truths_are_not_packed(tmp_path: Path) -> None:
    colored_run(tmp_path / "a", "erm", "-90%", 0, 0.1)
    colored_run(tmp_path / "b", "erm", "-90%", 0, 0.2)
    with pytest.raises(RecordError, match="one run id and different numbers"):
        pack(load([tmp_path])[0], tmp_path / "records.jsonl")


def changed(tmp_path: Path, **changes: object) -> Path:
    colored_run(tmp_path / "runs", "erm", "-90%", 0, 0.1)
    path = pack(load([tmp_path / "runs"])[0], tmp_path / "records.jsonl")
    header, line = map(json.loads, path.read_text().splitlines())
    (header if "schema" in changes else line).update(changes)
    path.write_text(json.dumps(header) + "\n" + json.dumps(line) + "\n")
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "dgbench.pack/3"}, "newer than 'dgbench.pack/2'.*upgrade dgbench"),
        ({"schema": "dgbench.pack/1"}, "older than 'dgbench.pack/2'.*anew"),
        ({"schema": "other"}, "no packed file of records"),
        ({"accuracy": [2.0] * 6}, "record 1: .*out of its range"),
        ({"steps": [100, 50]}, "record 1: its steps do not ascend"),
        ({"steps": [1]}, "record 1: cannot reshape"),
        ({"own": "{}"}, "record 1: it has no 'settings'"),
        ({"settings": "{}"}, "record 1: .*settings"),
    ],
)
def test_a_broken_pack_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        list(read_pack(changed(tmp_path, **changes)))


def test_other_files_are_no_packs(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(RecordError, match=r"must end in \.parquet or \.jsonl"):
        load([tmp_path / "a.csv"])
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    (tmp_path / "a.parquet").write_text("x")
    with pytest.raises(RecordError, match="is not Parquet"):
        load([tmp_path / "a.parquet"])
