"""Finds records and reads them: run folders, packed files, DomainBed's sweeps."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from leaderboard import domainbed, generations
from leaderboard.errors import NewerSchemaError, RecordError
from leaderboard.frame import LeftOut, Record, from_run
from leaderboard.pack import SUFFIXES, read_pack
from leaderboard.records import CHECKS_FILE, DONE_FILE, RUN_FILE, read_run

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
        RecordError: a path is not there, holds no record, a packed file is broken, or a record was
            written by a newer version.
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
    for path in map(Path, paths):
        if not path.exists():
            raise RecordError(f"{path} is not there: name packed files, or folders of runs")
        if path.is_file():
            records += read_pack(path)
        else:
            found |= {os.path.abspath(folder): names for folder, names in _walk(path)}
    for folder in sorted(found):
        _read_folder(Path(folder), found[folder], records, left_out)
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
        records.extend(read_pack(folder / name))
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
        left_out.append(LeftOut("/".join(folder.parts[-2:]), "partial", reason))
        return
    try:
        records.append(reader(folder))
    except NewerSchemaError:
        raise
    except (RecordError, OSError) as error:
        # A published list names the record: no paths of a machine in it.
        reason = str(error).replace(f"{folder}{os.sep}", "")
        foreign = "is not a 'dgbench" in reason or "no result of DomainBed" in reason
        kind: LeftOut = LeftOut(
            "/".join(folder.parts[-depth:]), "foreign" if foreign else "corrupt", reason
        )
        left_out.append(kind)


def _read_run(folder: Path) -> Record:
    return from_run(read_run(folder))
