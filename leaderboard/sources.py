"""Finds records and reads them: run folders, packed files, DomainBed's sweeps."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from leaderboard import domainbed, generations
from leaderboard.errors import DamagedError, NewerSchemaError, RecordError
from leaderboard.frame import LeftOut, Record, from_run, place_of
from leaderboard.pack import SUFFIXES
from leaderboard.reading import in_text
from leaderboard.records import CHECKS_FILE, DONE_FILE, RUN_FILE, read_run
from leaderboard.unpack import read_pack

PACKED = tuple(f"records{suffix}" for suffix in SUFFIXES)
"""Names by which a packed file is found in a folder; named itself, it may have any."""


def load(paths: Sequence[str | Path]) -> tuple[list[Record], list[LeftOut]]:
    """Read all records among and below `paths`.

    Args:
        paths: Packed files, run folders, jobs of DomainBed, and folders that hold some at any
            depth.

    Returns:
        The records, and what could not be read as one.

    Raises:
        RecordError: a path is not there, holds no record, or a record was written by a newer
            version; a packed file is broken, and there is nothing else.
    """
    with without_collector():
        return _load(paths)


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Records hold no cycles, and looking for some takes a fifth of the time of reading them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _load(paths: Sequence[str | Path]) -> tuple[list[Record], list[LeftOut]]:
    records: list[Record] = []
    left_out: list[LeftOut] = []
    found: dict[str, frozenset[str]] = {}
    damaged: list[DamagedError] = []
    for path in map(Path, paths):
        if not path.exists():
            raise RecordError(f"{path} is not there: name packed files, or folders of runs")
        if path.is_dir():
            found |= {os.path.abspath(folder): names for folder, names in _walk(path)}
        else:
            damaged += _read_pack(path, records, left_out)
    for folder in sorted(found):
        _read_folder(Path(folder), found[folder], records, left_out)
    if damaged and not records:
        raise damaged[0]
    if not records and not left_out:
        raise RecordError(
            f"no runs in {', '.join(map(str, paths))}: name run folders (they hold a run.json), "
            "folders above them, packed files, or sweeps of DomainBed"
        )
    return records, left_out


def _walk(root: Path) -> Iterator[tuple[str, frozenset[str]]]:
    """The folders that hold something of a record, and the names of their files.

    What is below such a folder is its own affair. Of a run only the newest generation counts.
    """
    known = {RUN_FILE, CHECKS_FILE, DONE_FILE, domainbed.RESULTS_FILE, *PACKED}
    for folder, children, files in os.walk(generations.current(root)):
        children[:] = generations.newest_of(children)
        if not known.isdisjoint(files) or {"out.txt", "err.txt"} <= set(files):
            yield folder, frozenset(files)
            if RUN_FILE in files or domainbed.RESULTS_FILE in files:
                children.clear()


def _read_folder(
    folder: Path, names: frozenset[str], records: list[Record], left_out: list[LeftOut]
) -> None:
    packs = [name for name in PACKED if name in names]
    for name in packs:
        _read_pack(folder / name, records, left_out)
    reader: Callable[[Path], Record]
    depth = 3
    if RUN_FILE in names:
        reader = _read_run
    elif domainbed.RESULTS_FILE in names:
        reader, depth = domainbed.read_job, 2
    elif packs:
        return
    else:
        reason = f"neither {RUN_FILE} nor {domainbed.RESULTS_FILE}: it had hardly begun"
        left_out.append(LeftOut(place_of(folder, 2), "partial", reason))
        return
    try:
        records.append(reader(folder))
    except NewerSchemaError:
        raise
    except (RecordError, OSError) as error:
        # A published list names the record: no paths of a machine in it.
        reason = in_text(str(error).replace(f"{folder}{os.sep}", ""))
        foreign = "is not a 'dgbench" in reason or "no result of DomainBed" in reason
        kind: LeftOut = LeftOut(
            place_of(folder, depth), "foreign" if foreign else "corrupt", reason
        )
        left_out.append(kind)


def _read_pack(path: Path, records: list[Record], left_out: list[LeftOut]) -> list[DamagedError]:
    """Read a packed file; returns the error that ended it, if one did."""
    try:
        for found in read_pack(path):
            if isinstance(found, LeftOut):
                left_out.append(found)
            else:
                records.append(found)
    except DamagedError as error:
        left_out.append(LeftOut(in_text(path.name), "corrupt", in_text(str(error))))
        return [error]
    return []


def _read_run(folder: Path) -> Record:
    return from_run(read_run(folder))
