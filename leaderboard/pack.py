"""Many records in one file: Parquet, or JSON lines where a reader should need no library.

One row a run, checks as columns, sorted by run id; settings that runs share stand apart from what
is a run's own, so that they are worked out once. Reading (`unpack`) gives back exactly the records
that were written. The same records give the same bytes: of JSON lines always, of Parquet with one
version of pyarrow, whose name is in the file. What changes later by accident is noticed: the first
of the JSON lines has a digest of each other one, and Parquet has one of the whole file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from leaderboard.errors import RecordError
from leaderboard.frame import METRICS, Record, without_duplicates
from leaderboard.records import write_text_atomic

PACK_SCHEMA = "dgbench.pack/3"
SUFFIXES = (".parquet", ".jsonl")

# The columns, by what is in them.
TEXTS = ("place", "origin", "state", "rule", "sha256", "settings", "own", "conclusion", "done")
_REPEATED = ("origin", "state", "rule", "settings", "conclusion", "done")
FLOATS = ("seconds", *METRICS, "train")
INTEGERS = ("steps", "counts")
NAMES = ("splits", "train_names")
_ROWS_AT_A_TIME = 500
_DIGITS = 16
SEAL = b"dgbench.pack"
"""What stands before the footer of Parquet, with the sha256 of the file without both."""
PARQUET_TAIL = 8  # bytes: the length of the footer, and "PAR1"


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
    refuse_suffix(path)
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
            lines = [_json_line(_row(each)) for each in kept]
            header = {"schema": PACK_SCHEMA, "lines": [line_digest(line) for line in lines]}
            write_text_atomic(path, b"".join([_json_line(header), *lines]).decode())
    except OSError as error:
        raise RecordError(f"{path} cannot be written ({error.strerror}): name another") from error
    return path


def refuse_suffix(path: Path) -> None:
    """Raise RecordError for a file whose name is not that of a pack."""
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


def _json_line(content: Mapping[str, Any]) -> bytes:
    """A line of JSON; numbers that are not finite are null."""
    options = orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(content, None, options)


def line_digest(line: bytes) -> str:
    """What the first of a file's JSON lines says of another one: hexadecimal digits of a hash.

    Args:
        line: With its line feed.
    """
    return hashlib.sha256(line).hexdigest()[:_DIGITS]


def _write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    parquet = pyarrow_parquet()
    import pyarrow

    kinds = parquet_kinds()
    schema = pyarrow.schema(list(kinds.items()), metadata={"schema": PACK_SCHEMA})
    temporary = path.with_name(f".{path.name}.tmp")
    columns = {name: [row[name] for row in rows] for name in kinds}
    table = pyarrow.table(columns, schema=schema)
    unknown = [n for n in METRICS if all(np.isnan(values).all() for values in columns[n])]
    table = table.drop_columns(unknown)  # a sweep of DomainBed has but accuracies
    # Numbers seldom repeat: dictionaries of them, or a denser compression, cost a third more time.
    repeated = [*_REPEATED, *(f"{name}.list.element" for name in NAMES)]
    parquet.write_table(
        table,
        temporary,
        compression="lz4",
        use_dictionary=repeated,
        row_group_size=_ROWS_AT_A_TIME,
    )
    _seal(temporary)
    temporary.replace(path)


def _seal(path: Path) -> None:
    """Put a hash of all of a Parquet file before its footer, where no reader of Parquet looks."""
    content = path.read_bytes()
    footer = content[-(PARQUET_TAIL + int.from_bytes(content[-PARQUET_TAIL:-4], "little")) :]
    digest = hashlib.sha256(content).digest()
    path.write_bytes(b"".join([content.removesuffix(footer), SEAL, digest, footer]))


def parquet_kinds() -> dict[str, Any]:
    """The columns of a Parquet file and their kinds; a metric that no run has is left out."""
    import pyarrow

    kinds = dict.fromkeys(TEXTS, pyarrow.string()) | {"total_seconds": pyarrow.float64()}
    kinds |= dict.fromkeys(NAMES, pyarrow.list_(pyarrow.string()))
    kinds |= dict.fromkeys(INTEGERS, pyarrow.list_(pyarrow.int64()))
    return kinds | dict.fromkeys(FLOATS, pyarrow.list_(pyarrow.float64()))


def pyarrow_parquet() -> Any:
    """The module `pyarrow.parquet`; raise RecordError where it is not installed."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise RecordError(
            "Parquet needs pyarrow: pip install 'dgbench[parquet]', or use a .jsonl file"
        ) from error
    return parquet
