"""Packed files give back what was packed, byte for byte the same each time."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path

import pytest

from leaderboard.errors import RecordError
from leaderboard.filling import make_board
from leaderboard.pack import PACK_SCHEMA, _seal, line_digest, pack
from leaderboard.sources import load
from leaderboard.verify import verify
from tests.leaderboard.make_golden import GOLDEN, colored_run
from tests.leaderboard.make_sweep import write_sweep

SUFFIXES = pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])


@SUFFIXES
def test_a_pack_makes_the_board_of_its_runs(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    write_sweep(tmp_path / "sweep")
    records, _ = load([GOLDEN / "records", tmp_path / "sweep"])
    packed = load([pack(records, tmp_path / f"records{suffix}")])[0]
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
    again, _ = load([tmp_path / f"a{suffix}"])
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
    """A pack of two runs, the first of which says something else, with a digest of its own."""
    for trial in range(2):
        colored_run(tmp_path / "runs", "erm", "-90%", trial, 0.1)
    path = pack(load([tmp_path / "runs"])[0], tmp_path / "records.jsonl")
    header, line, other = map(json.loads, path.read_text().splitlines())
    (header if "schema" in changes else line).update(changes)
    lines = [json.dumps(line) + "\n", json.dumps(other) + "\n"]
    header["lines"] = [line_digest(each.encode()) for each in lines]
    path.write_text("".join([json.dumps(header), "\n", *lines]))
    return path


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("dgbench.pack/4", "newer than 'dgbench.pack/3'.*upgrade dgbench"),
        ("dgbench.pack/2", "older than 'dgbench.pack/3'.*anew"),
        ("other", "no packed file of records"),
    ],
)
def test_a_pack_of_another_kind_is_refused(tmp_path: Path, schema: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        load([changed(tmp_path, schema=schema)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accuracy": [2.0] * 6}, "out of its range"),
        ({"steps": [100, 50]}, "its steps do not ascend"),
        ({"steps": [1]}, "cannot reshape"),
        ({"steps": [2**63]}, "int too large|too big"),
        ({"counts": [10**30] * 6}, "int too large|too big"),
        ({"counts": "many"}, "invalid literal"),
        ({"own": "{}"}, "it has no 'settings'"),
        ({"own": "[" * 5000}, "nested deeper than 100 levels"),
        ({"own": '{"run_id": 1, "run_id": 2}'}, "names 'run_id' twice"),
        ({"own": None}, "its own is no text"),
        ({"place": {}}, "its place is no text"),
        ({"brier": [2.5] * 6}, "out of its range"),
        ({"settings": "{}"}, "settings"),
        ({"done": '{"status": "finished", "status": "diverged"}'}, "names 'status' twice"),
        ({"state": "won"}, "its state is 'won'"),
        ({"splits": ["+90%/main"] * 6}, "cannot reshape"),
        ({"seconds": []}, "the seconds of 0"),
        ({"total_seconds": 1e308}, "total_seconds are 1e[+]308"),
        ({"total_seconds": "1"}, "not supported between"),
    ],
)
def test_a_bad_record_is_named_and_the_others_stand(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    records, (bad,) = load([changed(tmp_path, **changes)])
    assert len(records) == 1
    assert (bad.place, bad.kind) == ("records.jsonl, record 1", "corrupt")
    assert re.search(message, bad.reason)


def test_a_line_that_is_no_json_is_named_and_the_others_stand(tmp_path: Path) -> None:
    path = changed(tmp_path)
    header, _, other = path.read_bytes().splitlines(keepends=True)
    for text in (b"{\n", b"[1]\n", b'{"own": 1e400}\n', b'{"place": "\\ud800"}\n', b"\xff\n"):
        first = json.loads(header)
        first["lines"] = [line_digest(text), line_digest(other)]
        path.write_bytes(json.dumps(first).encode() + b"\n" + text + other)
        records, (bad,) = load([path])
        assert len(records) == 1
        assert bad.place == "records.jsonl, record 1"


def test_what_changed_after_packing_is_noticed(tmp_path: Path) -> None:
    path = changed(tmp_path)
    text = path.read_bytes()
    path.write_bytes(text.replace(b"0.1", b"0.9", 1))
    records, (bad,) = load([path])
    assert len(records) == 1
    assert "was changed after it was packed" in bad.reason
    # Whole lines that are missing.
    path.write_bytes(b"".join(text.splitlines(keepends=True)[:-1]))
    records, (bad,) = load([path])
    assert len(records) == 1
    assert "ends after 1 of 2 records" in bad.reason


@pytest.mark.parametrize("place", [0.01, 0.3, 0.6, 0.9, 0.99])
def test_parquet_that_changed_after_packing_is_noticed(tmp_path: Path, place: float) -> None:
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    write_sweep(tmp_path / "sweep")
    path = pack(load([tmp_path / "sweep"])[0], tmp_path / "records.parquet")
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"was changed after it was packed|of this version"):
        load([path])


def test_a_packed_file_of_parquet_is_one_to_other_programs(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    records, _ = load([GOLDEN / "records"])
    table = parquet.read_table(pack(records, tmp_path / "records.parquet"))
    assert sorted(table.column("place").to_pylist()) == sorted(each.place for each in records)


def test_a_damaged_pack_is_left_out_beside_others_and_refused_alone(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    colored_run(tmp_path / "runs", "erm", "-90%", 0, 0.1)
    path = pack(load([tmp_path / "runs"])[0], tmp_path / "records.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RecordError, match=r"records\.parquet is not Parquet"):
        load([path])
    records, (bad,) = load([tmp_path / "runs", path])
    assert len(records) == 1
    assert bad.place == "records.parquet"
    # Found in a folder, it is left out like any other record there.
    assert load([tmp_path])[1] == [bad]


def test_a_table_of_other_columns_is_no_pack(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    schema = pyarrow.schema([("own", pyarrow.int64())], metadata={"schema": PACK_SCHEMA})
    parquet.write_table(pyarrow.table({"own": [1]}, schema=schema), tmp_path / "a.parquet")
    with pytest.raises(RecordError, match="no packed file of this version"):
        load([tmp_path / "a.parquet"])
    _seal(tmp_path / "a.parquet")
    with pytest.raises(RecordError, match="has other columns than a packed file"):
        load([tmp_path / "a.parquet"])


@SUFFIXES
def test_a_pipe_is_no_pack(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"a{suffix}")
    with pytest.raises(RecordError, match="is no regular file"):
        load([tmp_path / f"a{suffix}"])


def test_other_files_are_no_packs(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(RecordError, match=r"must end in \.parquet or \.jsonl"):
        load([tmp_path / "a.csv"])
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    (tmp_path / "a.parquet").write_text("x")
    with pytest.raises(RecordError, match="is not Parquet"):
        load([tmp_path / "a.parquet"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"done": None}, "its state is 'finished', but it has no done.json"),
        ({"state": "interrupted"}, "'interrupted', but it has a done.json that says 'finished'"),
        ({"state": "diverged"}, "'diverged', but it has a done.json that says 'finished'"),
    ],
)
def test_a_run_that_only_says_that_it_has_ended_counts_nowhere(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = changed(tmp_path, accuracy=[0.988] * 6, **changes)
    records, (bad,) = load([path])
    assert len(records) == 1
    assert message in bad.reason
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    assert [finding.place for finding in verify(tmp_path).violations][:1] == [bad.place]
