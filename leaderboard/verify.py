"""Rechecks a submission: a folder of records and the tables made of them.

Whatever follows from something else is computed again: run ids, selected checks, counts, metrics
from saved predictions, tables to the byte. The rest is held by the sha256 in `done.json`, and that
file by the sha256 in the tables. A sha256 shows what was changed by accident, not what was forged:
who rewrites a number can rewrite its hash. Only a rerun (`dgbench reproduce`) tells.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from leaderboard import canonical, exports, outputs
from leaderboard.board import Board, Row, Section
from leaderboard.departures import NONE, is_known
from leaderboard.derived import contradictions, unlike_predictions
from leaderboard.details import unpack
from leaderboard.errors import RecordError
from leaderboard.filling import make_board
from leaderboard.frame import LeftOut, Record, content_sha256, place_of
from leaderboard.marks import marks
from leaderboard.page import page
from leaderboard.records import (
    CHECKS_FILE,
    DONE_FILE,
    LAST_CHECKPOINT,
    PREDICTIONS_FILE,
    RUN_FILE,
    SELECTED_CHECKPOINT,
    STATUS_FILE,
    file_sha256,
    find_runs,
    git_states,
    json_text,
)
from leaderboard.sources import load
from leaderboard.tables import column_title, title

HASH_NOTE = (
    "A sha256 shows what was changed by accident, not what was forged: rerun records that matter "
    "(`dgbench reproduce FOLDER`)."
)

_HASHED = (RUN_FILE, CHECKS_FILE, LAST_CHECKPOINT, SELECTED_CHECKPOINT, PREDICTIONS_FILE)
_OF_A_RUN = {*_HASHED, DONE_FILE, STATUS_FILE}
_PACK = re.compile(r'(<script type="application/gzip;base64" id="pack-\d+">)([^<]*)(</script>)')


class Finding(NamedTuple):
    """Something that is not as it must be, and where."""

    place: str
    what: str

    def __str__(self) -> str:
        """Both, as a line."""
        return f"{self.place}: {self.what}"


@dataclass(frozen=True)
class Report:
    """What became of a check.

    Attributes:
        violations: What is not as it must be.
        checked: What was checked, with counts.
        remarks: What is as it is allowed to be, but a reader must know.
        unchecked: What could not be, and why.
    """

    violations: tuple[Finding, ...]
    checked: tuple[str, ...]
    remarks: tuple[str, ...]
    unchecked: tuple[str, ...]


def verify(folder: str | Path) -> Report:
    """Recheck a submission.

    Args:
        folder: Holds the files of `leaderboard build`, and records at any depth below it: run
            folders or packed files.

    Raises:
        RecordError: it is no folder.
    """
    submission = _Submission(Path(folder))
    found = tuple(dict.fromkeys(_findings(submission)))
    if submission.board is None:
        return Report(found, (), (), ())
    return Report(
        found,
        tuple(_checked(submission)),
        tuple(_remarks(submission.board)),
        tuple(_unchecked(submission)),
    )


def findings(folder: str | Path) -> Iterator[Finding]:
    """What is not as it must be in a submission, as it is found.

    Args:
        folder: As of `verify`.

    Raises:
        RecordError: it is no folder.
    """
    return _findings(_Submission(Path(folder)))


class _Submission:
    """What lies in the folder.

    Attributes:
        folder: The folder.
        records: Its records.
        left_out: What could not be read as one.
        paths: Where each run folder is, by the place that names it.
        board: What the records give; None, with the reason, if they give nothing.
        reason: Why.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise RecordError(f"{folder} is no folder: name one with records and their tables")
        self.folder = folder
        self.records: list[Record] = []
        self.left_out: list[LeftOut] = []
        self.board: Board | None = None
        self.reason = ""
        runs = find_runs([folder])
        self.paths = {place_of(path.absolute(), 3): path for path in runs}
        try:
            self.records, self.left_out = load([folder])
            self.board = make_board(self.records, self.left_out)
        except RecordError as error:
            self.reason = str(error)

    @property
    def ours(self) -> list[Record]:
        """The records that dgbench made."""
        return [record for record in self.records if record.origin == "dgbench"]

    @property
    def ended(self) -> list[Record]:
        """Those of runs that have ended."""
        return [record for record in self.ours if record.done is not None]

    def file(self, record: Record, name: str) -> Path | None:
        """A file of a run folder, None if it is not there."""
        folder = self.paths.get(record.place)
        return None if folder is None or not (folder / name).exists() else folder / name

    def absent(self, record: Record) -> int:
        """How many files that a record's `done.json` names were left at home."""
        if record.done is None or record.place not in self.paths:
            return 0
        return sum(self.file(record, name) is None for name in record.done["sha256"])


def _findings(submission: _Submission) -> Iterator[Finding]:
    for entry in submission.left_out:
        yield Finding(entry.place, entry.reason)
    if submission.board is None:
        yield Finding("records", submission.reason)
        return
    for record in submission.ended:
        for what in _of_record(submission, record):
            yield Finding(record.place, what)
    yield from _of_data(submission.ours)
    yield from _of_grid(submission.board, submission.left_out)
    yield from unlike_tables(submission.folder, submission.board)


# Records


def _of_record(submission: _Submission, record: Record) -> Iterator[str]:
    yield from contradictions(record)
    folder = submission.paths.get(record.place)
    yield from _of_packed(record) if folder is None else _of_files(record, folder)
    predictions = submission.file(record, PREDICTIONS_FILE)
    if predictions is not None:
        yield from unlike_predictions(record, predictions)


def _of_files(record: Record, folder: Path) -> Iterator[str]:
    done = record.done
    assert done is not None
    status = {"status": "finished", "step": done["last_step"], "error": None}
    for name, content in ((DONE_FILE, done), (STATUS_FILE, status)):
        if (folder / name).exists() and (folder / name).read_bytes() != json_text(content).encode():
            yield f"{name}: is not what a run that ended after step {done['last_step']} writes"
    for name in _HASHED:
        known, there = done["sha256"].get(name), (folder / name).exists()
        if there and known is None:
            yield f"{name}: {DONE_FILE} has no sha256 of it"
        elif there and file_sha256(folder / name) != known:
            yield f"{name}: its sha256 is not the one in {DONE_FILE}"


def _of_packed(record: Record) -> Iterator[str]:
    """A packed record says again what follows from its run, checks and end."""
    done = record.done
    assert done is not None
    sha256 = content_sha256(record.run, record.checks, done, record.conclusion_text)
    if sha256 != record.sha256:
        yield "packed file: its sha256 is not that of its content"
    settings = record.run["settings"]
    found = (record.state, record.rule, record.total_seconds)
    if found != (done["status"], settings["selection"], done["seconds"]):
        yield "packed file: state, rule or seconds are not those of its content"


# Data


def _of_data(records: Iterable[Record]) -> Iterator[Finding]:
    """Fingerprints that are not the suite's, and runs of the same data that differ in them."""
    first: dict[tuple[str, str, tuple[str, ...], int], str] = {}
    for record in records:
        found = record.run["data_fingerprint"]
        known = canonical.fingerprint(record)
        data = (record.dataset, record.data, record.environments, record.trial.data_seed)
        same = first.setdefault(data, found)
        if known is not None and found != known:
            what = (
                f"data_fingerprint {found[:12]}... is not {known[:12]}..., which this data set has"
            )
            yield Finding(record.place, what)
        elif found != same:
            what = f"data_fingerprint {found[:12]}... but {same[:12]}... in other runs of this data"
            yield Finding(record.place, what)


# The grid


def _of_grid(board: Board, left_out: Sequence[LeftOut]) -> Iterator[Finding]:
    """Runs that are there twice or are not finished, and those that tables lack."""
    known = set(left_out)
    for entry in board.left_out:
        if entry not in known and entry.kind in ("duplicate", "partial"):
            yield Finding(entry.place, entry.reason)
    for section in board.sections:
        if section.reported:
            for row in section.rows:
                yield from (Finding(title(section), what) for what in _lacking(section, row))


def _lacking(section: Section, row: Row) -> Iterator[str]:
    """The runs that a row lacks; one that diverged is a result."""
    seeds = {trial.trial_seed for trial in row.trials}
    if seeds != set(range(len(seeds))):
        found = ", ".join(map(str, sorted(seeds)))
        yield f"{row.label}: trials {found}, but they count from 0 without a gap"
    for column, cell in zip(section.columns, row.cells, strict=True):
        for lack in cell.missing:
            if lack.reason != "diverged" and "finite" not in lack.reason:
                trial = f"trial {lack.trial.trial_seed}"
                yield f"{row.label}, {column_title(column)}, {trial}: {lack.reason}"


# Tables


def expected_files(board: Board) -> dict[str, str]:
    """What `leaderboard build` writes of a board, but Parquet."""
    return outputs.texts(board) | {outputs.PAGE_FILE: page(board)}


def unlike_tables(folder: Path, board: Board) -> Iterator[Finding]:
    """The files of a leaderboard that are not those of its records.

    Args:
        folder: Holds the files.
        board: What the records give.
    """
    expected = expected_files(board)
    for name, text in expected.items():
        if not (folder / name).exists():
            yield Finding(name, "is not there: `leaderboard build` writes it")
        elif not _same(name, (folder / name).read_bytes(), text):
            yield Finding(name, "is not what these records give: `leaderboard build` writes it")
    there = {str(path.relative_to(folder)) for path in folder.glob("tables/*")}
    for name in sorted(there - expected.keys()):
        yield Finding(name, "does not come from these records")
    if (folder / outputs.PARQUET_FILE).exists() and not _parquet_matches(folder, board):
        yield Finding(outputs.PARQUET_FILE, "is not what these records give")


def _same(name: str, found: bytes, expected: str) -> bool:
    """Whether a file is as expected: to the byte, but for how the page's packs are compressed."""
    if found == expected.encode() or name != outputs.PAGE_FILE:
        return found == expected.encode()
    return _unpacked(found.decode("utf-8", "replace")) == _unpacked(expected)


def _unpacked(text: str) -> str:
    """A file with its packs as what they hold: zlib's versions write other bytes for the same."""

    def content(found: re.Match[str]) -> str:
        try:
            return found[1] + json.dumps(unpack(found[2])) + found[3]
        except (ValueError, OSError, EOFError):
            return found[0]

    return _PACK.sub(content, text)


def _parquet_matches(folder: Path, board: Board) -> bool:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError:
        return True
    try:
        found: list[dict[str, Any]] = parquet.read_table(folder / outputs.PARQUET_FILE).to_pylist()
    except (ArrowException, OSError):
        return False
    return found == list(exports.flat_rows(board))


# The summary


def _checked(submission: _Submission) -> Iterator[str]:
    ended, board = submission.ended, submission.board
    assert board is not None
    yield f"{len(ended)} records: schema, run id, checks, selected checks, sha256"
    if known := sum(canonical.fingerprint(record) is not None for record in ended):
        yield f"{known} records: data and splits are those of the suite"
    if alike := sum(_is_as_its_protocol(record) for record in ended):
        yield f"{alike} records: all settings are those of their protocol"
    if saved := sum(submission.file(r, PREDICTIONS_FILE) is not None for r in ended):
        yield f"{saved} records: metrics computed again from their predictions"
    reported = [section for section in board.sections if section.reported]
    yield f"{len(reported)} tables: no run is missing; all files as these records give them"
    yield from map(_extent, reported)


def _extent(section: Section) -> str:
    held_out = ", ".join(column_title(column) for column in section.columns)
    trials = sorted({len(row.trials) for row in section.rows})
    counts = " to ".join(map(str, dict.fromkeys([trials[0], trials[-1]])))
    return (
        f"{title(section)}: {len(section.rows)} rows of {counts} trials; held out: {held_out}, of "
        f"{len(section.environments)} environments"
    )


def _remarks(board: Board) -> Iterator[str]:
    """Of the tables that are reported what they change of the protocol, and the rows' footnotes."""
    for section in board.sections:
        if section.reported:
            if section.key.departures != NONE:
                yield f"{title(section)}: not as the protocol has it, in all rows alike"
            found = [mark.note for row in section.rows for mark in marks(row)]
            yield from (f"{title(section)}: {note}" for note in found)


def _unchecked(submission: _Submission) -> Iterator[str]:
    ours, board = submission.ours, submission.board
    assert board is not None
    if others := len(submission.records) - len(ours):
        yield f"{others} jobs of DomainBed: they have neither fingerprints nor hashes"
    yield from _not_the_suites(ours)
    if without := sum(submission.file(record, PREDICTIONS_FILE) is None for record in ours):
        yield f"metrics of {without} records: no predictions (`fit --save-predictions`)"
    if absent := sum(map(submission.absent, ours)):
        yield f"{absent} checkpoints or predictions that records name: not in the folder"
    if diverged := sum(entry.kind == "diverged" for entry in board.left_out):
        yield f"{diverged} runs diverged: no search prefers them, and others' cells have no mean"
    if strange := sum(map(_without_commit, ours)):
        yield f"the code of {strange} records: no commit, or changes that were not committed"
    if foreign := _foreign(submission):
        yield f"{len(foreign)} files that are no part of a run, such as {foreign[0]}"


def _not_the_suites(ours: Sequence[Record]) -> Iterator[str]:
    """Data and protocols that the suite does not know."""
    if unknown := sorted({r.dataset for r in ours if canonical.fingerprint(r) is None}):
        yield (
            f"data of {', '.join(unknown)}: the suite has no fingerprint of these options and "
            "seeds; runs of the same data were compared with each other"
        )
    if strangers := sorted({_protocol(r) for r in ours if not is_known(r.run["settings"])}):
        yield f"settings of {', '.join(strangers)}: no protocol of the suite's to compare with"


def _is_as_its_protocol(record: Record) -> bool:
    return record.departures == NONE and is_known(record.run["settings"])


def _protocol(record: Record) -> str:
    return f"{record.dataset}, {record.protocol}"


def _without_commit(record: Record) -> bool:
    return any(s["commit"] is None or s["dirty"] for s in git_states(record.run))


def _foreign(submission: _Submission) -> list[str]:
    return [
        str(path.relative_to(submission.folder))
        for run in submission.paths.values()
        for path in sorted(run.rglob("*"))
        if path.is_file() and (path.parent != run or path.name not in _OF_A_RUN)
    ]
