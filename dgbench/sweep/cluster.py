"""Runs on a Ray cluster: an existing one, or one of this machine's processors and GPUs alone.

A worker is a Ray actor that lives as long as the launcher, so that torch is imported once for each
and not once for each run. Ray finds it a place; groups wait here until a worker has one, so that
none is bound to a place that never comes. When a node dies, its runs are given to others. Whether
anything of theirs is still alive somewhere is left to the claims on the runs.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dgbench import BENCHMARK_VERSION
from dgbench.errors import UsageError
from dgbench.sweep.executors import Done, Group, lost
from dgbench.sweep.worker import ClusterWorker, Hello, Outcome, terminate

# Workers that die one after the other before they can do anything.
_STARTS_THAT_MAY_FAIL = 3


class Places(NamedTuple):
    """What a cluster has room for.

    Attributes:
        number: of runs at a time.
        cpus: of each; a part of one where they share it.
        gpus: of each; a part of one where they share it.
    """

    number: int
    cpus: float
    gpus: float


def places(nodes: Sequence[Mapping[str, float]], jobs: int | None, jobs_per_gpu: int) -> Places:
    """Shares a cluster out.

    Args:
        nodes: resources of each node that is alive, as Ray names them.
        jobs: how many runs at a time; None takes as many as GPUs hold, or one a processor.
        jobs_per_gpu: how many runs share a GPU.
    """
    with_gpus = [node for node in nodes if node.get("GPU")]
    usable = with_gpus or [node for node in nodes if node.get("CPU")]
    cpus = [node.get("CPU", 0.0) for node in usable]
    gpus = int(sum(node.get("GPU", 0.0) for node in usable))
    number = jobs or gpus * jobs_per_gpu or int(sum(cpus))
    if not usable or not number:
        return Places(0, 0.0, 0.0)
    # A run must fit on one node, be it the smallest.
    share = min(sum(cpus) / number, min(cpus))
    return Places(number, float(int(share)) or share, 1 / jobs_per_gpu if gpus else 0.0)


@dataclass(eq=False)
class _Worker:
    """An actor and what it was asked last.

    Attributes:
        actor: its handle.
        answer: that is waited for; None while it is idle.
        group: what it trains; None while it starts or is idle.
        hello: what it said of itself; None while it starts, and once it is asked to stop.
    """

    actor: Any
    answer: Any
    group: Group | None = None
    hello: Hello | None = None


class RayExecutor:
    """Trains on a Ray cluster.

    Attributes:
        slots: how many groups at a time, by the nodes that are alive.
    """

    def __init__(
        self, address: str | None, jobs: int | None, jobs_per_gpu: int, logs: Path
    ) -> None:
        """Connects to a cluster, or starts one.

        Args:
            address: of an existing cluster, as ``ray.init`` takes it; None takes the one that
                ``RAY_ADDRESS`` or this machine knows of, or else starts one.
            jobs: how many runs at a time; None takes as many as the cluster holds.
            jobs_per_gpu: how many runs share a GPU.
            logs: folder for what workers print; every node must see it.

        Raises:
            UsageError: without Ray, without an answer, and without room for a run.
        """
        self._ray = _connected(address)
        self._jobs = jobs
        self._jobs_per_gpu = jobs_per_gpu
        self._logs = logs.resolve()
        self._waiting: deque[Group] = deque()
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._stopping = False
        self._places = self._room()
        self.slots = self._places.number
        if not self.slots:
            self.close()
            raise UsageError("--executor ray: this cluster offers neither processors nor GPUs.")

    def submit(self, group: Group) -> None:
        """Puts a group down for the next worker that has a place."""
        self._waiting.append(group)

    def wait(self, seconds: float) -> list[Done]:
        """Groups that came back, of dead workers and nodes too."""
        if self._stopping and (never_begun := self._stop()):
            return never_begun
        self.slots = self._room().number
        self._give()
        asked = {worker.answer: worker for worker in self._workers if worker.answer is not None}
        if not asked:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(list(asked), timeout=seconds)
        heard = [self._heard(asked[answer]) for answer in ready]
        return [done for done in heard if done is not None]

    def stop(self) -> None:
        """Asks what is under way to stop behind its step."""
        # A signal's handler may call this while Ray waits: the next wait acts on it.
        self._stopping = True

    def close(self) -> None:
        """Ends all workers, and the cluster if it was started here."""
        for worker in self._workers:
            self._ray.kill(worker.actor)
        self._workers.clear()
        self._ray.shutdown()

    def _room(self) -> Places:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return places(nodes, self._jobs, self._jobs_per_gpu)

    def _give(self) -> None:
        """Hands groups to idle workers, and starts workers for those that are left."""
        for worker in self._workers:
            if worker.answer is None and self._waiting:
                worker.group = self._waiting.popleft()
                settings = [run.settings for run in worker.group]
                worker.answer = worker.actor.train.remote(settings)
        starting = sum(worker.hello is None for worker in self._workers)
        for _ in range(min(len(self._waiting) - starting, self.slots - len(self._workers))):
            self._start()

    def _start(self) -> None:
        share = self._places
        kind = self._ray.remote(ClusterWorker).options(num_cpus=share.cpus, num_gpus=share.gpus)
        actor = kind.remote(self._environment(), sys.path, Path.cwd(), self._logs)
        self._workers.append(_Worker(actor, actor.hello.remote()))

    def _environment(self) -> dict[str, str]:
        """Variables for workers; their number of threads decides how sums are rounded."""
        threads = str(max(1, int(self._places.cpus)))
        ours = {name: value for name, value in os.environ.items() if name.startswith("DGBENCH_")}
        none = {} if self._places.gpus else {"CUDA_VISIBLE_DEVICES": ""}
        return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads), **ours, **none}

    def _heard(self, worker: _Worker) -> Done | None:
        answer, group = worker.answer, worker.group
        worker.answer = worker.group = None
        try:
            content = self._ray.get(answer)
        except self._ray.exceptions.RayError as error:
            self._workers.remove(worker)
            # What is only out of reach must not go on unseen.
            self._ray.kill(worker.actor)
            reason = " ".join(str(error).split())
            if group is not None:
                return lost(group, f"the worker or its node died: {reason}")
            self._failed_starts += 1
            if self._failed_starts >= _STARTS_THAT_MAY_FAIL:
                raise UsageError(f"--executor ray: no worker can start: {reason}") from error
            return None
        if group is not None:
            return Done(group, content)
        self._failed_starts = 0
        worker.hello = self._welcome(content)
        return None

    def _welcome(self, hello: Hello) -> Hello:
        if hello.benchmark_version != BENCHMARK_VERSION:
            raise UsageError(
                f"--executor ray: {hello.host} has benchmark version {hello.benchmark_version} and "
                f"this machine has {BENCHMARK_VERSION}. Install the same dgbench on every node."
            )
        if not hello.sees_records:
            raise UsageError(
                f"--out: {hello.host} does not see {self._logs.parent.parent}, or not from "
                f"{Path.cwd()}. Name a folder that every node of the cluster shares."
            )
        return hello

    def _stop(self) -> list[Done]:
        """Sends each busy worker a signal, and returns the groups that have not begun."""
        affinity = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        for worker in self._workers:
            if worker.group is not None and worker.hello is not None:
                # From a task on its own node: Ray's cancel reaches no running step.
                there = affinity(worker.hello.node, soft=False)
                task = self._ray.remote(terminate).options(num_cpus=0, scheduling_strategy=there)
                task.remote(worker.hello.pid)
                worker.hello = None
        never_begun = [
            Done(group, [Outcome("interrupted")] * len(group)) for group in self._waiting
        ]
        self._waiting.clear()
        return never_begun


def _connected(address: str | None) -> Any:
    """The package ``ray``, connected."""
    # Nothing here calls home.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise UsageError(
            "--executor ray needs Ray: pip install 'dgbench[ray]'. Without it, --executor local "
            "trains on this machine, and --executor commands prints commands for others."
        ) from error
    try:
        ray.init(
            address=address,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"--address: no Ray cluster can be used at {address or 'the default address'} "
            f"({' '.join(str(error).split())}). Start one by `ray start --head`, or name `local`."
        ) from error
    return ray
