"""Many records in one file: Parquet, or JSON lines where a reader should need no library.

One row a run, checks as columns, sorted by run id; settings that runs share stand apart from what
is a run's own, so that they are worked out once. Reading gives back exactly the records that were
written. The same records give the same bytes: of JSON lines always, of Parquet with one version of
pyarrow, whose name is in the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from leaderboard.errors import RecordError
from leaderboard.frame import (
    METRICS,
    Checks,
    Record,
    positions,
    record,
    without_duplicates,
)
from leaderboard.records import (
    canonical_json,
    validate_check,
    validate_done,
    validate_run,
    write_text_atomic,
)
from leaderboard.shared_settings import join_run

PACK_SCHEMA = "dgbench.pack/2"
SUFFIXES = (".parquet", ".jsonl")

_TEXTS = ("place", "origin", "state", "rule", "sha256", "settings", "own", "conclusion", "done")
_REPEATED = ("origin", "state", "rule", "settings", "conclusion", "done")
_FLOATS = ("seconds", *METRICS, "train")
_INTEGERS = ("steps", "counts")
_NAMES = ("splits", "train_names")
_ROWS_AT_A_TIME = 500


def pack(records: Iterable[Record], path: str | Path) -> Path:
    """Write records into one file, atomically; copies of a record count once.

    Args:
        records: In any order.
        path: The file, `.parquet` or `.jsonl`; its folder is created if it is not there.

    Raises:
        RecordError: for another suffix, for two different records of one run id, if the file cannot
            be written, or for Parquet without pyarrow.
    """
    path = Path(path)
    _refuse_suffix(path)
    kept, left_out = without_duplicates(records)
    differing = [entry.place for entry in left_out if "other numbers" in entry.reason]
    if differing:
        raise RecordError(
            f"{', '.join(differing)} have one run id and different numbers: keep one of them"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            _write_parquet([_row(each) for each in kept], path)
        else:
            lines = [{"schema": PACK_SCHEMA}, *map(_json_row, kept)]
            write_text_atomic(path, "".join(canonical_json(line) + "\n" for line in lines))
    except OSError as error:
        raise RecordError(f"{path} cannot be written ({error.strerror}): name another") from error
    return path


def read_pack(path: str | Path) -> Iterator[Record]:
    """Read the records of a file that `pack` wrote.

    Raises:
        RecordError: it is no such file, was written by a newer version, a row is not a record, or
            for Parquet without pyarrow.
    """
    path = Path(path)
    _refuse_suffix(path)
    parquet = path.suffix == ".parquet"
    rows = _parquet_rows(path) if parquet else _json_rows(path)
    for number, row in enumerate(rows, start=1):
        try:
            yield _record(row if parquet else _from_json(row))
        except KeyError as error:
            raise RecordError(f"{path.name}, record {number}: it has no {error}") from error
        except (RecordError, TypeError, ValueError) as error:
            raise RecordError(f"{path.name}, record {number}: {error}") from error


def _refuse_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise RecordError(f"{path} is no packed file: its name must end in {' or '.join(SUFFIXES)}")


def _row(each: Record) -> dict[str, Any]:
    checks = each.checks
    return {
        "place": each.place,
        "origin": each.origin,
        "state": each.state,
        "rule": each.rule,
        "sha256": each.sha256,
        "settings": each.settings_text,
        "own": each.own_text,
        "conclusion": each.conclusion_text,
        "done": each.done_text,
        "total_seconds": each.total_seconds,
        "steps": checks.steps,
        "counts": checks.counts.ravel(),
        "seconds": checks.seconds,
        "splits": list(checks.splits),
        "train_names": list(checks.train_names),
        "train": checks.train.ravel(),
        **{name: checks.metrics[:, :, i].ravel() for i, name in enumerate(METRICS)},
    }


def _json_row(each: Record) -> dict[str, Any]:
    row = _row(each)
    for name in _INTEGERS:
        row[name] = row[name].tolist()
    for name in _FLOATS:
        row[name] = [value if math.isfinite(value) else None for value in row[name].tolist()]
    return row


def _record(row: Mapping[str, Any]) -> Record:
    own = orjson.loads(row["own"])
    if row["origin"] == "dgbench":
        validate_run(join_run(orjson.loads(row["settings"]), own))
        if row["done"] is not None:
            validate_done(json.loads(row["done"]))
    return record(
        row["settings"],
        own,
        _checks(row),
        place=row["place"],
        origin=row["origin"],
        state=row["state"],
        rule=row["rule"],
        conclusion_text=_conclusion(row["conclusion"]),
        seconds=row["total_seconds"],
        sha256=row["sha256"],
        done_text=row["done"],
        own_text=row["own"],
    )


def _conclusion(text: str | None) -> str | None:
    if text is not None:
        line = {"step": 0, "seconds": 0, "train": {}, "splits": {}}
        validate_check({**line, "conclusion": json.loads(text)})
    return text


def _checks(row: Mapping[str, Any]) -> Checks:
    steps, metrics = row["steps"], row["metrics"]
    splits, train_names = positions(row["splits"]), row["train_names"]
    if row["impossible"]:
        raise RecordError("its steps do not ascend, or a metric is out of its range")
    found = Checks(
        steps=steps,
        seconds=row["seconds"],
        splits=splits,
        metrics=metrics.reshape(len(steps), len(splits), len(METRICS)),
        counts=row["counts"].reshape(len(steps), len(splits)),
        train_names=train_names,
        train=row["train"].reshape(len(steps), len(train_names)),
    )
    if len(found.seconds) != len(found):
        raise RecordError(f"it has {len(found)} checks, but the seconds of {len(found.seconds)}")
    return found


def _refuse_schema(given: object, path: Path) -> None:
    kind, version = PACK_SCHEMA.split("/")
    name, _, number = str(given).partition("/")
    if name != kind or not number.isdigit():
        raise RecordError(f"{path.name} is no packed file of records: expected {PACK_SCHEMA!r}")
    if int(number) > int(version):
        raise RecordError(
            f"{path.name}: schema {given!r} is newer than {PACK_SCHEMA!r}, the newest that this "
            "version reads: upgrade dgbench"
        )
    if int(number) < int(version):
        raise RecordError(
            f"{path.name}: schema {given!r} is older than {PACK_SCHEMA!r}: pack its runs anew"
        )


def _json_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with open(path, "rb") as file:
        for number, line in enumerate(file):
            try:
                content = json.loads(line)
            except ValueError as error:
                raise RecordError(f"{path.name}, line {number + 1}: not JSON ({error})") from error
            if number:
                yield content
            else:
                given = content.get("schema") if isinstance(content, dict) else None
                _refuse_schema(given, path)


def _from_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line's content with arrays in place of lists, as a row of a Parquet file has them."""
    arrays = {name: np.array(row[name], dtype=np.float64) for name in _FLOATS}
    arrays |= {name: np.array(row[name], dtype=np.int64) for name in _INTEGERS}
    names = {name: tuple(row[name]) for name in _NAMES}
    metrics = np.stack([arrays[m] for m in METRICS], axis=-1)
    ends = {"checks": np.array([0, len(row["steps"])]), "values": np.array([0, len(metrics)])}
    (impossible,) = _impossible(np.array(row["steps"], dtype=np.int64), metrics, **ends)
    return {**row, **arrays, **names, "metrics": metrics, "impossible": impossible}


def _impossible(
    steps: npt.NDArray[np.int64],
    metrics: npt.NDArray[np.float64],
    *,
    checks: npt.NDArray[np.integer],
    values: npt.NDArray[np.integer],
) -> list[bool]:
    """Of each row whether its steps do not ascend, or a metric is out of its range.

    Args:
        steps: `(n,)`, of R rows one after another.
        metrics: `(m, 4)`, of R rows one after another; no comparison holds of an unknown one.
        checks: `(R + 1,)`, where the steps of each row begin and end.
        values: `(R + 1,)`, where the metrics of each row begin and end.
    """
    descends = np.diff(steps, prepend=-1) <= 0
    descends[checks[:-1][np.diff(checks) > 0]] = False  # the first step of a row follows none
    outside = metrics[:, 0] > 1
    for metric in metrics.T:
        outside |= metric < 0
    return [
        any(counts)
        for counts in zip(_counted(descends, checks), _counted(outside, values), strict=True)
    ]


def _counted(wrong: npt.NDArray[np.bool], ends: npt.NDArray[np.integer]) -> list[int]:
    """How many are wrong between each two neighbouring ends."""
    return [end - start for start, end in pairwise(np.append(0, np.cumsum(wrong))[ends].tolist())]


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    parquet = _pyarrow_parquet()
    import pyarrow

    # The usual pool keeps what was freed, which is as much as the records themselves.
    pool = pyarrow.default_memory_pool()
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    try:
        file = parquet.ParquetFile(path, read_dictionary=[f"{n}.list.element" for n in _NAMES])
    except pyarrow.ArrowException as error:
        raise RecordError(f"{path.name} is not Parquet ({error})") from error
    finally:
        pyarrow.set_memory_pool(pool)
    metadata = file.schema_arrow.metadata or {}
    _refuse_schema(metadata.get(b"schema", b"").decode(), path)
    for group in range(file.num_row_groups):
        for batch in file.read_row_group(group, use_threads=False).to_batches():
            yield from _batch_rows(batch)


def _batch_rows(batch: Any) -> Iterator[Mapping[str, Any]]:
    """The rows of a batch; the numbers of a row are views of its columns."""
    columns: dict[str, Iterable[Any]] = {
        name: batch.column(name).to_pylist() for name in (*_TEXTS, "total_seconds")
    }
    columns |= {name: _names(batch.column(name)) for name in _NAMES}
    for name in (*_INTEGERS, "seconds", "train"):
        column = batch.column(name)
        columns[name] = _cut(_array(column.values), column)
    counts = batch.column("counts")
    # Each metric on its own in memory: what reads one of them does not touch the others.
    together = np.full((len(METRICS), len(counts.values)), np.nan).T
    for position, name in enumerate(METRICS):
        if name in batch.schema.names:
            metric = batch.column(name)
            if not metric.offsets.equals(counts.offsets):
                raise RecordError(f"its {name} is of another number of splits than its counts")
            together[:, position] = _array(metric.values)
    columns["metrics"] = _cut(together, counts)
    steps = batch.column("steps")
    columns["impossible"] = _impossible(
        _array(steps.values),
        together,
        checks=_array(steps.offsets),
        values=_array(counts.offsets),
    )
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _cut(values: npt.NDArray[Any], column: Any) -> list[npt.NDArray[Any]]:
    """The part of each row in the values of a column of lists."""
    return [values[start:end] for start, end in pairwise(_array(column.offsets).tolist())]


def _array(values: Any) -> npt.NDArray[Any]:
    """Numbers of Arrow where they are; `to_numpy` would import pandas, at the cost of the rest."""
    return np.from_dlpack(values)


def _names(column: Any) -> list[tuple[str, ...]]:
    """The names in each row, one object for all rows that have the same."""
    names, known = column.values.dictionary.to_pylist(), dict[bytes, tuple[str, ...]]()
    found = []
    for codes in _cut(_array(column.values.indices), column):
        key = codes.tobytes()
        if key not in known:
            known[key] = tuple(names[code] for code in codes)
        found.append(known[key])
    return found


def _write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    parquet = _pyarrow_parquet()
    import pyarrow

    kinds = dict.fromkeys(_TEXTS, pyarrow.string()) | {"total_seconds": pyarrow.float64()}
    kinds |= dict.fromkeys(_NAMES, pyarrow.list_(pyarrow.string()))
    kinds |= dict.fromkeys(_INTEGERS, pyarrow.list_(pyarrow.int64()))
    kinds |= dict.fromkeys(_FLOATS, pyarrow.list_(pyarrow.float64()))
    schema = pyarrow.schema(list(kinds.items()), metadata={"schema": PACK_SCHEMA})
    temporary = path.with_name(f".{path.name}.tmp")
    columns = {name: [row[name] for row in rows] for name in kinds}
    table = pyarrow.table(columns, schema=schema)
    unknown = [n for n in METRICS if all(np.isnan(values).all() for values in columns[n])]
    table = table.drop_columns(unknown)  # a sweep of DomainBed has but accuracies
    # Numbers seldom repeat: dictionaries of them, or a denser compression, cost a third more time.
    repeated = [*_REPEATED, *(f"{name}.list.element" for name in _NAMES)]
    parquet.write_table(
        table,
        temporary,
        compression="lz4",
        use_dictionary=repeated,
        row_group_size=_ROWS_AT_A_TIME,
    )
    temporary.replace(path)


def _pyarrow_parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise RecordError(
            "Parquet needs pyarrow: pip install 'dgbench[parquet]', or use a .jsonl file"
        ) from error
    return parquet
