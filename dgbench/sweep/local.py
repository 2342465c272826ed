"""Runs on this machine: a process for each slot, pinned to cores of its own or to a GPU.

A process lives as long as the launcher, so that torch is imported once for each and not once for
each run. One that dies takes its run's last steps with it and is replaced.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from dgbench.sweep.executors import Done, Group, lost
from dgbench.sweep.worker import serve

_SECONDS_TO_END = 10.0


@dataclass(frozen=True)
class Slot:
    """What a worker may use.

    Attributes:
        cores: of the processor; None for any.
        gpu: the device's name for CUDA; empty for none, None for whatever there is.
        threads: of arithmetic on the processor.
    """

    cores: tuple[int, ...] | None
    gpu: str | None
    threads: int

    def environment(self) -> dict[str, str]:
        """Variables that say so to torch; a number of threads that the user set is kept."""
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(self.threads))}
        gpu = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}
        return {**threads, **gpu}


def slots(jobs: int | None, gpus: Sequence[str], jobs_per_gpu: int) -> list[Slot]:
    """Shares this machine's cores and GPUs out.

    Args:
        jobs: how many runs at a time; None takes as many as GPUs hold, or one a core.
        gpus: names of the devices; none trains on the processor.
        jobs_per_gpu: how many runs share one.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    count = len(cores) or os.cpu_count() or 1
    places = [gpu for _ in range(jobs_per_gpu) for gpu in gpus]
    number = jobs or len(places) or count
    share = max(1, count // number)
    return [
        Slot(
            cores=tuple(cores[(k * share + i) % count] for i in range(share)) if cores else None,
            gpu=places[k % len(places)] if places else "",
            threads=share,
        )
        for k in range(number)
    ]


def places(jobs: int | None, jobs_per_gpu: int) -> list[Slot]:
    """Shares out what this machine has.

    Args:
        jobs: how many runs at a time, see :func:`slots`.
        jobs_per_gpu: how many runs share a GPU.
    """
    import torch

    gpus = [str(number) for number in range(torch.cuda.device_count())]
    return slots(jobs, gpus, jobs_per_gpu)


class _Worker:
    """One process and its connections."""

    def __init__(self, slot: Slot, log: Path) -> None:
        spawning = multiprocessing.get_context("spawn")
        self.connection, theirs = spawning.Pipe()
        followed, self._lifeline = spawning.Pipe(duplex=False)
        self.process: BaseProcess = spawning.Process(
            target=serve,
            args=(theirs, followed, slot.environment(), slot.cores, log),
            name="dgbench-worker",
            daemon=False,
        )
        self.process.start()
        theirs.close()
        followed.close()
        self.group: Group | None = None

    def end(self) -> None:
        """Lets an idle process end by itself, and a busy one behind its step."""
        self.connection.close()
        self._lifeline.close()

    def why(self) -> str:
        """What is known of its death."""
        self.process.join()
        code = self.process.exitcode or 0
        if code >= 0:
            return f"the worker ended with exit code {code}"
        name = signal.Signals(-code).name
        reason = ", for want of memory perhaps" if -code == signal.SIGKILL else ""
        return f"the worker was ended by {name}{reason}"


class LocalExecutor:
    """Trains on this machine.

    Attributes:
        slots: how many groups at a time.
    """

    def __init__(self, places: Sequence[Slot], logs: Path) -> None:
        """Prepares; processes start with the first run.

        Args:
            places: what each worker may use.
            logs: folder for what workers print.
        """
        self.slots = len(places)
        self._places = places
        self._logs = logs
        self._workers: list[_Worker | None] = [None] * len(places)

    def submit(self, group: Group) -> None:
        """Gives a group to an idle worker, which is started where there is none."""
        number, worker = next(
            (number, worker)
            for number, worker in enumerate(self._workers)
            if worker is None or worker.group is None
        )
        if worker is None or not worker.process.is_alive():
            log = self._logs / f"worker-{number}.log"
            worker = self._workers[number] = _Worker(self._places[number], log)
        worker.group = group
        # A worker that dies this very moment is found dead by the next look at it.
        with contextlib.suppress(OSError):
            worker.connection.send([run.settings for run in group])

    def wait(self, seconds: float) -> list[Done]:
        """Groups that came back, of dead workers too."""
        busy: dict[Connection, _Worker] = {
            worker.connection: worker
            for worker in self._workers
            if worker is not None and worker.group is not None
        }
        done = []
        for ready in wait(list(busy), seconds):
            assert isinstance(ready, Connection)
            worker = busy[ready]
            assert worker.group is not None
            try:
                done.append(Done(worker.group, ready.recv()))
            except (EOFError, OSError):
                done.append(lost(worker.group, worker.why()))
            worker.group = None
        return done

    def stop(self) -> None:
        """Asks what is under way to stop behind its step."""
        for worker in self._workers:
            if worker is not None and worker.group is not None:
                worker.process.terminate()

    def close(self) -> None:
        """Ends all workers."""
        started = [worker for worker in self._workers if worker is not None]
        for worker in started:
            worker.end()
        for worker in started:
            worker.process.join(_SECONDS_TO_END)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
