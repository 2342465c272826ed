"""What a launcher asks of the place where runs are trained."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from dgbench.sweep.plan import PlannedRun
from dgbench.sweep.worker import Outcome

Group = tuple[PlannedRun, ...]


class Done(NamedTuple):
    """A group that came back, and what became of each of its runs."""

    group: Group
    outcomes: list[Outcome]


class Executor(Protocol):
    """Trains groups of runs somewhere.

    Attributes:
        slots: how many groups at a time.
    """

    slots: int

    def submit(self, group: Group) -> None:
        """Starts a group; at most ``slots`` are under way."""

    def wait(self, seconds: float) -> list[Done]:
        """Groups that came back, after at most so many seconds.

        Args:
            seconds: to wait for the first.
        """

    def stop(self) -> None:
        """Asks what is under way to stop behind its step; it still comes back."""

    def close(self) -> None:
        """Ends everything at once."""


def lost(group: Group, message: str) -> Done:
    """A group whose worker is gone; what it had finished is found finished by the next one.

    Args:
        group: what it had.
        message: what is known of the reason.
    """
    return Done(group, [Outcome("failed", message)] * len(group))
