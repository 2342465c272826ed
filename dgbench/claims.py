"""Who trains a run: claims on the file system, so that no two processes train the same one.

A claim is a file beside the run's folder, ``.<folder>.claim-<number>``, made by an exclusive
creation. Its owner touches it every few seconds. Where its process is known to be dead, whoever
finds it so creates the next number, and of several only one succeeds; the owner of that number goes
on in the folder. Nobody ever removes a claim that another process may hold.

A claim that nobody has touched for the length of the lease tells less: its owner may be suspended,
and write once more. Whoever finds it so leaves the folder to it, and claims the next one
(:mod:`leaderboard.generations`), with copies of what is there. So claims only spare the work of
training a run twice; that nobody spoils a record rests on none of them.

This holds on NFS from version 3 on, where exclusive creation is atomic, mounted with the default of
close-to-open consistency and with what a client remembers of attributes bounded by the lease
(``acdirmax`` is 60 s unless told otherwise): a claim is opened before its age is looked at, ages
are by the server's clock, and who got a claim makes the client forget which files of the run were
not there. Locks, links and notifications, which NFS keeps for some clients alone, are not used.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import cache
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Literal

from dgbench.errors import Interrupted, UsageError
from leaderboard import generations, records
from leaderboard.reading import open_regular

LEASE_SECONDS = 60.0
_HEARTBEAT_SECONDS = 10.0
_CLOCK, _COPIES = ".now-", ".copies-"
# Of a file that is removed while it is open: over NFS its handle is stale.
_GONE = (errno.ENOENT, errno.ESTALE)
# Bytes of a claim that are read: ours have a few hundred.
_LONGEST = 4096


class ClaimedError(UsageError):
    """Another process trains this run."""


class Claim:
    """A claim that this process holds.

    Attributes:
        path: its file.
        folder: the run's folder, which this process alone writes to.
        lost: whether another process took the run over while this one slept.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        """Begins to touch the file.

        Args:
            path: made by this process.
            folder: what it is a claim on.
        """
        self.path = path
        self.folder = folder
        self.lost = False
        self._renewed = time.time()
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="claim", daemon=True)
        self._heart.start()

    def _beat(self) -> None:
        while not self._released.wait(_HEARTBEAT_SECONDS):
            self.renew()

    def renew(self) -> None:
        """Shows a sign of life, or finds out that it comes too late."""
        # A file system that is away for a moment is no reason to stop; the next beat is near.
        with contextlib.suppress(OSError):
            self.lost = self.lost or generations.current(self.folder) != self.folder
            if not self.lost:
                try:
                    os.utime(self.path)
                    self._renewed = time.time()
                except FileNotFoundError:
                    self.lost = True

    def require(self, *, at_once: bool = False) -> None:
        """Stops a process that slept, by suspension for example, and lost its run meanwhile.

        Args:
            at_once: look at the files, not at the clock alone.

        Raises:
            Interrupted: when it did.
        """
        if at_once or time.time() - self._renewed > LEASE_SECONDS:
            self.renew()
        if self.lost:
            raise Interrupted(
                f"{self.folder} was taken over by another process, since this one gave no sign of "
                f"life for {LEASE_SECONDS:.0f} s, or its claim {self.path.name} was removed"
            )

    def release(self) -> None:
        """Gives the run back; nothing is written to its folder after that."""
        self._released.set()
        self._heart.join()
        # What was there of earlier generations is in this one; who had them may never wake.
        for folder in generations.up_to(self.folder)[:-1]:
            for path in takewhile(Path.exists, _chain(folder)):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                records.empty(folder)
        # The oldest first: `_claim_on` relies on it.
        for path in _chain(self.folder):
            path.unlink(missing_ok=True)
            if path == self.path:
                break


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[Claim | None]:
    """Holds the claim on a run for the length of a block.

    Args:
        folder: the run's folder, which need not exist.

    Yields:
        The claim, which says in which folder the run goes on; None in a process that trains along
        with the one that holds it.

    Raises:
        ClaimedError: when a living process holds it.
        UsageError: when nothing can be written there.
        Interrupted: as the block ends, whatever came of it, when the run was taken over meanwhile.
    """
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        yield None
        return
    try:
        made = _make(folder.parent)
        claim = _acquire(folder)
        # Over NFS a client remembers that a file was not there until its folder changes, and asks
        # for that when it makes a file itself: a run finished elsewhere must be seen as such.
        with contextlib.suppress(OSError):
            _now(claim.folder)
    except OSError as error:
        raise UsageError(
            f"--out: the record's folder {folder} cannot be written ({error.strerror}). "
            "Name a folder that can, with --out."
        ) from error
    try:
        yield claim
    finally:
        try:
            claim.require(at_once=True)
        finally:
            claim.release()
            # A run that could not begin leaves no empty folders behind.
            for empty in made:
                with contextlib.suppress(OSError):
                    empty.rmdir()


def holder(folder: Path) -> str | None:
    """Who trains a run right now, in words; None if nobody does.

    Args:
        folder: the run's folder.
    """
    for path in _chain(generations.current(folder)):
        state = _state(path)
        if state in ("held", "gone"):
            return _in_words(path) if state == "held" else None
    return None


def _make(folder: Path) -> list[Path]:
    """Makes a folder; returns those that were not there, innermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _acquire(folder: Path) -> Claim:
    newest = generations.current(folder)
    while True:
        path = _claim_on(newest)
        if path is None:
            newest = _succeed(newest)
        elif newest == (later := generations.current(folder)):
            if path != next(_chain(folder)):
                _remove_litter(folder)
            return Claim(path, newest)
        else:
            path.unlink(missing_ok=True)
            newest = later


def _claim_on(folder: Path) -> Path | None:
    """Makes a claim on a folder; None if somebody who gives no sign of life may still write there.

    Raises:
        ClaimedError: when a living process holds it.
    """
    silent, before = False, None
    for path in _chain(folder):
        if not silent and _create(path):
            # It holds as long as the one before it lies there, dead. Where that was given back
            # meanwhile, another process may claim the run by the first: it is begun anew.
            if before is None or _state(before) == "dead":
                return path
            path.unlink(missing_ok=True)
            return _claim_on(folder)
        state = _state(path)
        if state == "held":
            raise ClaimedError(
                f"These settings are being trained right now by {_in_words(path)}, in {folder}. "
                "Wait for it, or stop it and go on by --resume."
            )
        if silent and state == "gone":
            break
        silent, before = silent or state == "silent", path
    return None


def _succeed(folder: Path) -> Path:
    """Makes the next generation of a run, of what is in this one.

    Several processes may do so at once: the first one's is taken by all.
    """
    run, successor = generations.up_to(folder)[0], generations.following(folder)
    with tempfile.TemporaryDirectory(dir=run.parent, prefix=f".{run.name}{_COPIES}") as temporary:
        copies = Path(temporary) / successor.name
        copies.mkdir()
        # The owner may write on while they are made. Checks are written before their checkpoint.
        for name in (
            records.LAST_CHECKPOINT,
            records.SELECTED_CHECKPOINT,
            records.CHECKS_FILE,
            records.RUN_FILE,
        ):
            with contextlib.suppress(FileNotFoundError):
                records.copy(folder / name, copies / name)
        try:
            copies.rename(successor)
        except OSError:
            if not successor.is_dir():
                raise
    return successor


def _remove_litter(folder: Path) -> None:
    """Removes what processes that were killed may have left half made beside a run's folder."""
    names, now = (_CLOCK, f".{folder.name}{_COPIES}"), _now(folder.parent)
    for entry in os.scandir(folder.parent):
        with contextlib.suppress(OSError):
            if entry.name.startswith(names) and now - entry.stat().st_mtime > LEASE_SECONDS:
                shutil.rmtree(entry) if entry.is_dir() else os.unlink(entry)


def _create(path: Path) -> bool:
    while True:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        except FileNotFoundError:
            # Another process removed the folder it had made, for a run that it could not begin.
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        try:
            with open(descriptor, "w") as file:
                json.dump(_identity(os.getpid()), file)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return True


def _chain(folder: Path) -> Iterator[Path]:
    """The places of claims on a folder, in the order in which they are made."""
    return (folder.with_name(f".{folder.name}.claim-{number}") for number in count(1))


def _state(path: Path) -> Literal["held", "silent", "dead", "gone"]:
    try:
        owner = _owner(path)
        age = _now(path.parent) - path.stat().st_mtime
    except OSError as error:
        if error.errno in _GONE:
            return "gone"
        raise
    if owner is not None and owner["machine"] == _machine() and owner != _identity(owner["pid"]):
        return "dead"
    # A time to come was written by a clock that has been put right since.
    return "held" if abs(age) <= LEASE_SECONDS else "silent"


def _owner(path: Path) -> dict[str, Any] | None:
    """Who made a claim; None if it does not say so: it is being written, or no claim of ours."""
    try:
        with open_regular(path) as file:
            owner = json.loads(file.read(_LONGEST))
    except (ValueError, RecursionError):
        return None
    except OSError as error:
        if error.errno in _GONE:
            raise
        return None
    known = isinstance(owner, dict) and owner.keys() == _identity(os.getpid()).keys()
    if not known or type(owner["pid"]) is not int or not 0 < owner["pid"] < 2**31:
        return None
    return owner if str(owner["host"]).isprintable() else None


def _now(folder: Path) -> float:
    """The time by the clock of the file system, which may be another machine's."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=_CLOCK, suffix=".tmp") as file:
        return os.stat(file.name).st_mtime


def _in_words(path: Path) -> str:
    with contextlib.suppress(OSError):
        owner = _owner(path)
        if owner is not None:
            return f"process {owner['pid']} on {owner['host']}"
    return "another process"


def _identity(pid: int) -> dict[str, Any]:
    return {
        "pid": pid,
        "host": socket.gethostname(),
        "machine": _machine(),
        "started": _started(pid),
    }


@cache
def _machine() -> str:
    """What two processes share that see each other's process numbers."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When a living process began, in the kernel's ticks: numbers of processes are used again.

    None for one that is dead, or a zombie; and "alive" where there is no /proc.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        # The name of the program, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "alive"
    return None if fields[0] in "ZX" else fields[19]
