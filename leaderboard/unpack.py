"""Reads packed files, which anybody may have written: what is damaged is named, the rest stands."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from leaderboard.errors import DamagedError, NewerSchemaError, RecordError
from leaderboard.frame import (
    LARGEST,
    METRICS,
    MOST_SECONDS,
    Checks,
    LeftOut,
    Origin,
    Record,
    positions,
    record,
)
from leaderboard.pack import (
    FLOATS,
    INTEGERS,
    NAMES,
    PACK_SCHEMA,
    PARQUET_TAIL,
    SEAL,
    TEXTS,
    line_digest,
    parquet_kinds,
    pyarrow_parquet,
    refuse_suffix,
)
from leaderboard.reading import open_regular, parse_json
from leaderboard.records import (
    Ended,
    SelectionRule,
    State,
    validate_check,
    validate_done,
    validate_run,
)
from leaderboard.shared_settings import join_run

# Of a group of rows, which has 500: what a few bytes of a file can stand for.
_MOST_VALUES = 2**27
_LARGEST, _LONGEST_LINE = 2**34, 2**28  # bytes
_KNOWN: Mapping[str, tuple[str, ...]] = {
    "origin": get_args(Origin),
    "state": get_args(State),
    "rule": get_args(SelectionRule),
}
_REQUIRED = tuple(name for name in TEXTS if name not in ("conclusion", "done"))
# What reading a damaged row leads to.
DAMAGE = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, BufferError)
_DIGEST_BYTES, _PART = 32, 2**20
_SHOWN = 300  # characters of what a message repeats


def read_pack(path: str | Path) -> Iterator[Record | LeftOut]:
    """Read the records of a file that `pack` wrote.

    Yields:
        The records, and in the place of one that is damaged what is wrong with it.

    Raises:
        RecordError: its name has another suffix, a newer version wrote it, or it is Parquet and
            there is no pyarrow.
        DamagedError: it is no such file as a whole, or cut short.
    """
    path = Path(path)
    refuse_suffix(path)
    read = _read_parquet if path.suffix == ".parquet" else _read_lines
    try:
        yield from read(path)
    except OSError as error:
        raise DamagedError(f"{path.name} cannot be read ({error.strerror or error})") from error


def _record(row: Mapping[str, Any]) -> Record:
    seconds = row["total_seconds"]
    if seconds is not None and not 0 <= seconds <= MOST_SECONDS:
        raise RecordError(f"its total_seconds are {seconds!r}, not between 0 and {MOST_SECONDS:g}")
    for name, known in _KNOWN.items():
        if row[name] not in known:
            raise RecordError(f"its {name} is {row[name]!r}: expected one of {known}")
    own, settings = _parsed(row["own"]), _settings(row["settings"])
    if row["origin"] == "dgbench":
        validate_run(join_run(settings, own))
        _refuse_another_end(row["state"], row["done"])
    return record(
        row["settings"],
        own,
        _checks(row),
        place=row["place"],
        origin=row["origin"],
        state=row["state"],
        rule=row["rule"],
        conclusion_text=_conclusion(row["conclusion"]),
        seconds=seconds,
        sha256=row["sha256"],
        done_text=row["done"],
        own_text=row["own"],
    )


def _refuse_another_end(state: str, done: str | None) -> None:
    """Refuse a state that the run's `done.json` does not give, on which tables and checks rest."""
    ended = None if done is None else validate_done(_parsed(done))["status"]
    if (state if state in get_args(Ended) else None) != ended:
        has = "no done.json" if ended is None else f"a done.json that says {ended!r}"
        raise RecordError(f"its state is {state!r}, but it has {has}")


def _parsed(text: str) -> Any:
    return parse_json(text.encode())


@lru_cache(maxsize=10_000)
def _settings(text: str) -> Any:
    """Settings that many runs share; nobody changes them."""
    return _parsed(text)


def _conclusion(text: str | None) -> str | None:
    if text is not None:
        line = {"step": 0, "seconds": 0, "train": {}, "splits": {}}
        validate_check({**line, "conclusion": _parsed(text)})
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


def _of(row: Mapping[str, Any], place: str) -> Record | LeftOut:
    """A row as a record, or what is wrong with it."""
    try:
        return _record(row)
    except NewerSchemaError:
        raise
    except DAMAGE as error:
        return _left_out(place, error)


def _left_out(place: str, error: Exception) -> LeftOut:
    said = " ".join(str(error).split())[:_SHOWN] or type(error).__name__
    return LeftOut(place, "corrupt", f"it has no {said}" if isinstance(error, KeyError) else said)


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


# JSON lines


def _read_lines(path: Path) -> Iterator[Record | LeftOut]:
    with open_regular(path, _LARGEST) as file:
        expected = _digests(path, file.readline(_LONGEST_LINE))
        number = 0
        for number, line in enumerate(iter(partial(file.readline, _LONGEST_LINE), b""), start=1):
            place = f"{path.name}, record {number}"
            if number > len(expected) or line_digest(line) != expected[number - 1]:
                reason = "it was changed after it was packed: pack its run anew"
                yield LeftOut(place, "corrupt", reason)
            else:
                yield _of_line(line, place)
    if number < len(expected):
        raise DamagedError(f"{path.name} ends after {number} of {len(expected)} records")


def _digests(path: Path, line: bytes) -> list[str]:
    """What the first line says of the others."""
    try:
        header = parse_json(line)
    except RecordError as error:
        raise DamagedError(f"{path.name}, line 1: {error}") from error
    header = header if isinstance(header, dict) else {}
    _refuse_schema(header.get("schema"), path)
    digests = header.get("lines")
    if not isinstance(digests, list):
        raise DamagedError(f"{path.name}, line 1: has no digests of the other lines")
    return digests


def _of_line(line: bytes, place: str) -> Record | LeftOut:
    try:
        row = _from_json(parse_json(line))
    except DAMAGE as error:
        return _left_out(place, error)
    return _of(row, place)


def _from_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line's content with arrays in place of lists, as a row of a Parquet file has them."""
    for name in TEXTS:
        if not isinstance(row[name], str) and (row[name] is not None or name in _REQUIRED):
            raise RecordError(f"its {name} is no text")
    arrays = {name: np.array(row[name], dtype=np.float64) for name in FLOATS}
    arrays |= {name: np.array(row[name], dtype=np.int64) for name in INTEGERS}
    names = {name: tuple(row[name]) for name in NAMES}
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
    outside = np.zeros(len(metrics), np.bool)
    for metric, largest in zip(metrics.T, LARGEST, strict=True):
        outside |= (metric < 0) | (metric > largest)
    return [
        any(counts)
        for counts in zip(_counted(descends, checks), _counted(outside, values), strict=True)
    ]


def _counted(wrong: npt.NDArray[np.bool], ends: npt.NDArray[np.integer]) -> list[int]:
    """How many are wrong between each two neighbouring ends."""
    return [end - start for start, end in pairwise(np.append(0, np.cumsum(wrong))[ends].tolist())]


# Parquet


def _read_parquet(path: Path) -> Iterator[Record | LeftOut]:
    file = _opened(path)
    metadata = file.schema_arrow.metadata or {}
    _refuse_schema(metadata.get(b"schema", b"").decode(errors="replace"), path)
    _refuse_columns(file.schema_arrow, path)
    number = 0
    for group in range(file.num_row_groups):
        first, number = number + 1, number + file.metadata.row_group(group).num_rows
        place = f"{path.name}, records {first} to {number}"
        yield from _of_group(file, group, place, f"{path.name}, record", first)


def _opened(path: Path) -> Any:
    """A Parquet file that is as it was written: pyarrow ends the process over some damage."""
    parquet = pyarrow_parquet()
    import pyarrow

    _refuse_broken_seal(path)
    # The usual pool keeps what was freed, which is as much as the records themselves.
    pool = pyarrow.default_memory_pool()
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    try:
        return parquet.ParquetFile(path, read_dictionary=[f"{n}.list.element" for n in NAMES])
    except KeyError as error:
        raise DamagedError(
            f"{path.name} has other columns than a packed file: no {error}"
        ) from error
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:_SHOWN]
        raise DamagedError(f"{path.name} is not Parquet ({reason})") from error
    finally:
        pyarrow.set_memory_pool(pool)


def _refuse_broken_seal(path: Path) -> None:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - PARQUET_TAIL))
        tail = file.read(PARQUET_TAIL)
        footer = size - PARQUET_TAIL - int.from_bytes(tail[:-4], "little")
        seal = footer - len(SEAL) - _DIGEST_BYTES
        if tail[-4:] != b"PAR1" or seal < 0:
            raise DamagedError(f"{path.name} is not Parquet: its end is not that of such a file")
        file.seek(seal)
        found = file.read(len(SEAL) + _DIGEST_BYTES)
        end = file.read()
        digest = hashlib.sha256()
        file.seek(0)
        while left := seal - file.tell():
            digest.update(file.read(min(left, _PART)))
        digest.update(end)
    if not found.startswith(SEAL):
        raise DamagedError(f"{path.name} is no packed file of this version: pack its runs anew")
    if found != SEAL + digest.digest():
        raise DamagedError(f"{path.name} was changed after it was packed: pack its runs anew")


def _of_group(
    file: Any, group: int, whole: str, single: str, first: int
) -> Iterator[Record | LeftOut]:
    """The rows of a group, which is left out as a whole where its columns cannot be read."""
    import pyarrow

    try:
        _refuse_size(file.metadata.row_group(group))
        batches = file.read_row_group(group, use_threads=False).to_batches()
        rows = [row for batch in batches for row in _batch_rows(batch)]
    except (pyarrow.ArrowException, OSError, *DAMAGE) as error:
        yield _left_out(whole, error)
        return
    for number, row in enumerate(rows, start=first):
        yield _of(row, f"{single} {number}")


def _refuse_columns(schema: Any, path: Path) -> None:
    """Refuse a file of other columns, or of the same names with other kinds."""
    expected = parquet_kinds()
    found = {field.name: field.type for field in schema}
    for name in NAMES:  # read by way of a dictionary
        if name in found and str(found[name]).startswith("list<element: dictionary<values=string"):
            found[name] = expected[name]
    unlike = [name for name in {*found, *expected} if found.get(name) != expected.get(name)]
    if lacking := sorted(set(unlike) - set(METRICS) | (set(unlike) & found.keys())):
        raise DamagedError(f"{path.name} has other columns than a packed file: {lacking}")


def _refuse_size(group: Any) -> None:
    """Refuse a group that stands for far more values than it can hold of runs."""
    values = sum(group.column(number).num_values for number in range(group.num_columns))
    if not 0 <= values <= _MOST_VALUES:
        raise RecordError(f"it says that it has {values:,} values, more than {_MOST_VALUES:,}")


def _batch_rows(batch: Any) -> Iterator[Mapping[str, Any]]:
    """The rows of a batch; the numbers of a row are views of its columns."""
    for name in _REQUIRED:
        if batch.column(name).null_count:
            raise RecordError(f"its {name} is missing")
    columns: dict[str, Iterable[Any]] = {
        name: batch.column(name).to_pylist() for name in (*TEXTS, "total_seconds")
    }
    columns |= {name: _names(batch.column(name)) for name in NAMES}
    for name in (*INTEGERS, "seconds", "train"):
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
