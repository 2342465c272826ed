"""Who trains a run: claims on the file system, so that no two processes train the same one.

A claim is a file beside the run's folder, ``.<run_id>.claim-<generation>``, made by an exclusive
creation. Its owner touches it every few seconds. A claim is stale when its process is known to be
dead, or has not been touched for the length of the lease; whoever finds it so creates the next
generation, and of several only one succeeds. Nobody ever removes a claim that another process may
hold.

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
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

from dgbench.errors import Interrupted, UsageError

LEASE_SECONDS = 60.0
_HEARTBEAT_SECONDS = 10.0


class ClaimedError(UsageError):
    """Another process trains this run."""


class Claim:
    """A claim that this process holds.

    Attributes:
        path: its file.
        lost: whether another process took the run over while this one slept.
    """

    def __init__(self, path: Path) -> None:
        """Begins to touch the file.

        Args:
            path: made by this process.
        """
        self.path = path
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
        if time.time() - self._renewed > LEASE_SECONDS and _generation(self.path, +1).exists():
            self.lost = True
        if not self.lost:
            # A file system that is away for a moment is no reason to stop; the next beat is near.
            with contextlib.suppress(OSError):
                os.utime(self.path)
                self._renewed = time.time()

    def require(self) -> None:
        """Stops a process that slept, by suspension for example, and lost its run meanwhile.

        Raises:
            Interrupted: when it did.
        """
        if time.time() - self._renewed > LEASE_SECONDS:
            self.renew()
        if self.lost:
            raise Interrupted(
                f"{self.path.parent / _run_of(self.path)} was taken over by another process, since "
                f"this one gave no sign of life for {LEASE_SECONDS:.0f} s"
            )

    def release(self) -> None:
        """Gives the run back; nothing is written to its folder after that."""
        self._released.set()
        self._heart.join()
        if not self.lost:
            # The oldest first: `_acquire` relies on it.
            path = _generation(self.path, 1 - _number(self.path))
            while path != self.path:
                path.unlink(missing_ok=True)
                path = _generation(path, +1)
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[Claim | None]:
    """Holds the claim on a run for the length of a block.

    Args:
        folder: the run's folder, which need not exist.

    Yields:
        The claim; None in a process that trains along with the one that holds it.

    Raises:
        ClaimedError: when a living process holds it.
        UsageError: when nothing can be written there.
    """
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        yield None
        return
    try:
        made = _make(folder.parent)
        claim = Claim(_acquire(folder))
        # Over NFS a client remembers that a file was not there until its folder changes, and asks
        # for that when it makes a file itself: a run finished elsewhere must be seen as such.
        with contextlib.suppress(OSError):
            _now(folder)
    except OSError as error:
        raise UsageError(
            f"--out: the record's folder {folder} cannot be written ({error.strerror}). "
            "Name a folder that can, with --out."
        ) from error
    try:
        yield claim
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
    path = _first(folder)
    while (state := _state(path)) != "gone":
        if state == "held":
            return _in_words(path)
        path = _generation(path, +1)
    return None


def _make(folder: Path) -> list[Path]:
    """Makes a folder; returns those that were not there, innermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _acquire(folder: Path) -> Path:
    while True:
        path = _first(folder)
        while not _create(path):
            if _state(path) == "held":
                raise ClaimedError(
                    "These settings are being trained right now by "
                    f"{_in_words(path)}, in {folder}. Wait for it, or stop it and go on by "
                    "--resume."
                )
            path = _generation(path, +1)
        # A later generation holds as long as the one before it lies there, dead. Where that was
        # given back meanwhile, another process may claim the run by the first: it is begun anew.
        if _number(path) == 1 or _state(_generation(path, -1)) == "stale":
            return path
        path.unlink(missing_ok=True)


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


def _first(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.claim-1")


def _number(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _generation(path: Path, further: int) -> Path:
    return path.with_name(f"{path.name.rpartition('-')[0]}-{_number(path) + further}")


def _run_of(path: Path) -> str:
    return path.name.removeprefix(".").partition(".claim-")[0]


def _state(path: Path) -> Literal["held", "stale", "gone"]:
    try:
        text = path.read_text()
        age = _now(path.parent) - path.stat().st_mtime
    except OSError as error:
        # A file that is removed while it is open: over NFS its handle is stale.
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return "gone"
        raise
    try:
        owner = json.loads(text)
    except ValueError:  # it is being written
        owner = {}
    dead = owner.get("machine") == _machine() and owner != _identity(owner["pid"])
    return "stale" if dead or age > LEASE_SECONDS else "held"


def _now(folder: Path) -> float:
    """The time by the clock of the file system, which may be another machine's."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".now-") as file:
        return os.stat(file.name).st_mtime


def _in_words(path: Path) -> str:
    try:
        owner = json.loads(path.read_text())
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError):
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
