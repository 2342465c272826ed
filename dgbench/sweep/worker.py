"""Trains runs for a launcher and says what became of them; imports torch with the first one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, NamedTuple

from dgbench.disk import FULL, complaint
from dgbench.settings import Settings

State = Literal["finished", "claimed", "interrupted", "refused", "failed", "full", "alone"]


class Outcome(NamedTuple):
    """What became of a run.

    Attributes:
        state: ``finished`` includes runs that diverged, whose record says so; ``claimed`` is
            trained by another process; ``refused`` cannot succeed as it is; ``full`` found no room
            on the disk; ``alone`` cannot be trained with the others of its group.
        message: why, for all but the first.
    """

    state: State
    message: str = ""


def train(group: Sequence[Settings]) -> list[Outcome]:
    """Trains runs, or finds that they are finished.

    Args:
        group: one run, or several that are trained as one model.
    """
    from dgbench.stacked.training import run_stacked
    from dgbench.training import build_data, folder_of, run
    from leaderboard import records

    out = group[0].out
    if len(group) == 1:
        return [_outcome(lambda: run(group[0]), out)]
    outcome = _outcome(lambda: run_stacked(group), out)
    if outcome.state in ("failed", "refused"):
        # By one of them perhaps, or by what no model of several can do.
        outcome = Outcome("alone", outcome.message)
    folders = [folder_of(settings, build_data(settings)) for settings in group]
    finished = Outcome("finished")
    return [finished if records.is_finished(f) else outcome for f in folders]


def _outcome(training: Callable[[], object], out: str) -> Outcome:
    from datamodules.errors import DataError
    from dgbench.claims import ClaimedError
    from dgbench.errors import Interrupted, UsageError
    from leaderboard.errors import RecordError

    try:
        training()
    except ClaimedError as error:
        return Outcome("claimed", str(error))
    except Interrupted as error:
        return Outcome("interrupted", str(error))
    except Exception as error:
        # Whatever an algorithm of a user's own raises: it must not end the others' runs.
        full = _full_disk(error)
        if full is not None:
            return Outcome("full", complaint(full, out))
        if isinstance(error, UsageError | DataError | RecordError):
            return Outcome("refused", str(error))
        # The disk that it is printed to may have filled up by now.
        with contextlib.suppress(OSError):
            traceback.print_exc()
        return Outcome("failed", f"{type(error).__name__}: {error}")
    return Outcome("finished")


def _full_disk(error: BaseException | None) -> OSError | None:
    """What a full disk raised, if that is behind an error: torch and our own messages wrap it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return error
        error = error.__cause__ or error.__context__
    return None


def serve(
    connection: Connection,
    lifeline: Connection,
    environment: Mapping[str, str],
    cores: Sequence[int] | None,
    log: Path,
) -> None:
    """The life of a worker process: groups of runs in, their outcomes out.

    Args:
        connection: to the launcher.
        lifeline: from the launcher; it breaks when that dies, which asks this worker to stop.
        environment: variables to set before torch is imported.
        cores: to run on; None for any.
        log: file for whatever is printed.
    """
    settle(environment, cores, log)
    # Ctrl-C and a terminal's end reach all of its processes; the launcher decides what follows.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(lifeline,), daemon=True).start()
    while (group := _next(connection)) is not None:
        outcomes = train(group)
        try:
            connection.send(outcomes)
        except OSError:
            return
        if any(outcome.state == "interrupted" for outcome in outcomes):
            return


class Hello(NamedTuple):
    """What a worker of a cluster says of itself.

    Attributes:
        host: name of its machine.
        node: that machine, as the cluster names it.
        pid: number of its process there.
        benchmark_version: of the suite that is installed there.
        sees_records: whether the launcher's folders are there.
    """

    host: str
    node: str
    pid: int
    benchmark_version: str
    sees_records: bool


class ClusterWorker:
    """The life of a worker on a Ray cluster.

    Ray calls it in the main thread of a process of its own, where signals reach a run.
    """

    def __init__(
        self, environment: Mapping[str, str], path: Sequence[str], here: Path, logs: Path
    ) -> None:
        """Makes the process like the launcher's.

        Args:
            environment: variables to set before torch is imported.
            path: where the launcher looks for modules.
            here: the launcher's working folder.
            logs: folder for whatever is printed.
        """
        os.environ.update(environment)
        sys.path.extend(folder for folder in path if folder not in sys.path)
        self.sees_records = here.is_dir() and logs.is_dir()
        if self.sees_records:
            os.chdir(here)
            _print_to(logs / f"worker-{socket.gethostname()}-{os.getpid()}.log")

    def hello(self) -> Hello:
        """Says who it is, as soon as it has a place."""
        import ray

        from dgbench import BENCHMARK_VERSION

        node = ray.get_runtime_context().get_node_id()
        host = socket.gethostname()
        return Hello(host, node, os.getpid(), BENCHMARK_VERSION, self.sees_records)

    def train(self, group: Sequence[Settings]) -> list[Outcome]:
        """Trains runs, see :func:`train`.

        Args:
            group: the runs.
        """
        return train(group)


def terminate(pid: int) -> None:
    """Asks a worker on the same machine to stop behind its step.

    Args:
        pid: number of its process.
    """
    os.kill(pid, signal.SIGTERM)


def settle(environment: Mapping[str, str], cores: Sequence[int] | None, log: Path) -> None:
    """Gives this process its place, before it imports torch.

    Args:
        environment: variables.
        cores: to run on; None for any.
        log: file for whatever is printed.
    """
    os.environ.update(environment)
    if cores is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    _print_to(log)


def _next(connection: Connection) -> Sequence[Settings] | None:
    try:
        group: Sequence[Settings] | None = connection.recv()
    except EOFError:
        return None
    return group


def _follow(lifeline: Connection) -> None:
    try:
        lifeline.recv()
    except EOFError:
        # A run stops behind its step, with a checkpoint; an idle worker at once.
        os.kill(os.getpid(), signal.SIGTERM)


def _print_to(log: Path) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
