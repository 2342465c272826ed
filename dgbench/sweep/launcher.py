"""Carries a plan out: what is missing is trained, what fails is retried, and nothing twice."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple, Protocol

from dgbench.errors import Interrupted, UsageError
from dgbench.signals import hangup
from dgbench.sweep.executors import Executor, Group
from dgbench.sweep.plan import PlannedRun
from dgbench.sweep.state import write_failure
from dgbench.sweep.worker import Outcome

_SECONDS_BETWEEN_LOOKS = 0.5
# Until a run that another launcher trains is asked for again.
_SECONDS_TO_DEFER = 5.0


class Failure(NamedTuple):
    """A run that failed as often as it was allowed to."""

    run: PlannedRun
    message: str


class Watcher(Protocol):
    """Hears what happens."""

    def started(self, group: Group) -> None:
        """A group was given to a worker."""

    def ended(self, run: PlannedRun, outcome: Outcome, *, final: bool) -> None:
        """A run came back, for good or to be tried again."""

    def looked(self) -> None:
        """Some time passed."""


def carry_out(
    groups: Iterable[Group], executor: Executor, retries: int, watcher: Watcher
) -> list[Failure]:
    """Trains groups of runs until each run is finished or has failed for good.

    Args:
        groups: what to train; finished runs among them are found finished.
        executor: where.
        retries: how often a run that failed is tried again.
        watcher: who wants to know.

    Returns:
        The runs that failed.

    Raises:
        Interrupted: when a signal asked to stop and everything under way did.
        UsageError: when the disk is full.
    """
    with _asked_to_stop(executor) as stop:
        return _Launch(executor, retries, watcher, stop).carry_out(groups)


class _Launch:
    """One launcher's view of what is waiting, under way and done."""

    def __init__(
        self, executor: Executor, retries: int, watcher: Watcher, stop: threading.Event
    ) -> None:
        self.executor = executor
        self.retries = retries
        self.watcher = watcher
        self.stop = stop
        self.waiting: deque[Group] = deque()
        self.deferred: deque[tuple[float, Group]] = deque()
        self.under_way = 0
        self.failed: Counter[Path] = Counter()
        self.failures: list[Failure] = []
        self.full = ""

    def carry_out(self, groups: Iterable[Group]) -> list[Failure]:
        self.waiting.extend(groups)
        while self.under_way or (not self.stopping and (self.waiting or self.deferred)):
            self._submit()
            for group, outcomes in self.executor.wait(_SECONDS_BETWEEN_LOOKS):
                self.under_way -= 1
                self._came_back(group, outcomes)
            self.watcher.looked()
        if self.full:
            raise UsageError(
                f"{self.full}. What was written before is whole; make room, and the same command "
                "goes on from there."
            )
        if self.stop.is_set():
            raise Interrupted("stopped; the same command goes on from there")
        return self.failures

    @property
    def stopping(self) -> bool:
        return self.stop.is_set() or bool(self.full)

    def _submit(self) -> None:
        while self.deferred and self.deferred[0][0] <= time.monotonic():
            self.waiting.append(self.deferred.popleft()[1])
        while self.waiting and self.under_way < self.executor.slots and not self.stopping:
            group = self.waiting.popleft()
            self.under_way += 1
            self.watcher.started(group)
            self.executor.submit(group)
        if not self.under_way and self.deferred:
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _came_back(self, group: Group, outcomes: Sequence[Outcome]) -> None:
        again: list[PlannedRun] = []
        later: list[PlannedRun] = []
        for run, outcome in zip(group, outcomes, strict=True):
            if self._is_final(run, outcome):
                continue
            if outcome.state == "alone":
                self.waiting.append((run,))
            else:
                (later if outcome.state == "claimed" else again).append(run)
        if later:
            self.deferred.append((time.monotonic() + _SECONDS_TO_DEFER, tuple(later)))
        # Whole once more, should the reason lie outside; then each by itself.
        whole = all(self.failed[run.folder] == 1 for run in again)
        self.waiting += [tuple(again)] if again and whole else [(run,) for run in again]

    def _is_final(self, run: PlannedRun, outcome: Outcome) -> bool:
        final = outcome.state in ("finished", "refused", "full")
        if outcome.state == "full":
            self.full = outcome.message
            self.executor.stop()
        elif outcome.state in ("failed", "interrupted") and not self.stop.is_set():
            self.failed[run.folder] += 1
            final = self.failed[run.folder] > self.retries
        if final and outcome.state not in ("finished", "full"):
            self.failures.append(Failure(run, outcome.message))
            write_failure(run.folder, outcome.message)
        self.watcher.ended(run, outcome, final=final)
        return final


@contextlib.contextmanager
def _asked_to_stop(executor: Executor) -> Iterator[threading.Event]:
    """Lets Ctrl-C, SIGTERM or SIGHUP stop runs behind their steps; the second acts as ever."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    asking = [signal.SIGINT, signal.SIGTERM, *hangup()]
    before = {number: signal.getsignal(number) for number in asking}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        executor.stop()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
