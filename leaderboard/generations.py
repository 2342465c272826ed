"""The folders of one run: who takes a run over writes to a folder of its own.

A process that has given no sign of life may be suspended, by a laptop that was closed or storage
that was away, and write once more as it wakes. No look before the writing prevents that: it may be
suspended between the two. So its folder is left to it. Its successor has the next generation,
`<run_id>-generation-2`, and the newest generation is the run's record, whatever becomes of others.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_SUFFIX = "-generation-"


def current(folder: Path) -> Path:
    """The newest generation of a run, which alone counts.

    Args:
        folder: Any of its generations; none needs to be there.
    """
    newest = folder
    while (later := following(newest)).is_dir():
        newest = later
    return newest


def following(folder: Path) -> Path:
    """The generation after this one, whether it is there or not."""
    # `.` has no name to put a number behind.
    folder = folder if folder.name else folder.absolute()
    return folder.with_name(_name_after(folder.name))


def up_to(folder: Path) -> list[Path]:
    """The generations of a run as far as this one, the first one first."""
    run, number = _parts(folder.name)
    later = [folder.with_name(f"{run}{_SUFFIX}{each}") for each in range(2, number + 1)]
    return [folder.with_name(run), *later]


def newest_of(names: Iterable[str]) -> list[str]:
    """Of folders that lie side by side those that count, in their order.

    These are the ones that no later generation follows. Hidden ones are being made.
    """
    names = list(names)
    there = set(names)
    return [n for n in names if not n.startswith(".") and _name_after(n) not in there]


def _name_after(name: str) -> str:
    run, number = _parts(name)
    return f"{run}{_SUFFIX}{number + 1}"


def _parts(name: str) -> tuple[str, int]:
    run, _, number = name.rpartition(_SUFFIX)
    return (run, int(number)) if run and number.isdecimal() else (name, 1)
